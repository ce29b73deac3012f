//! Tasks: one subtask's chain of operators, the loop that drives it, and its counters.

pub mod bad_log;
pub mod build;
pub mod chain;
pub mod counters;
pub mod operator_task;
pub mod orders;
pub mod runner;
pub mod source_task;
pub mod supervise;
pub mod suspects;

pub use build::{Environment, SourcePart, TaskParts};
pub use counters::{TaskCounters, TaskKey};
pub use orders::{AfterBarrier, TaskOrder};
pub use supervise::{Outcome, StopMode};
pub use suspects::Careful;
