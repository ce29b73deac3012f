//! What a task sends out: rows cut by target, small pieces put together, in order with watermarks.

pub mod partition;
pub mod writer;

pub use partition::Partitioner;
pub use writer::{EdgeWriter, WriterOptions};
