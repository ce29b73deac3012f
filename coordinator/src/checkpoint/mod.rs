//! Checkpoints of one job: when one begins, who still owes an answer, what makes it complete, what may be deleted, and
//! what is shown of all that. The decisions are pure; the job's master carries them out.

pub mod complete;
pub mod failure;
pub(crate) mod history;
pub mod pending;
pub(crate) mod retention;
pub(crate) mod stores;
pub mod trigger;
