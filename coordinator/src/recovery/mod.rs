//! What happens when something is lost: who is dead, whether the job starts again, and from what.

pub mod detector;
pub mod plan;
pub mod poison;
pub mod strategy;
