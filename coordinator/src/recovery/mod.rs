//! What happens when something is lost. So far: who is dead.

pub mod detector;
