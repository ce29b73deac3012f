//! Source `nexmark`: the NEXMark event stream as a pure function of the event number.
//!
//! A job names one of the three tables; subtask i of P produces its rows of the blocks of 50 events i, i + P, ... in
//! order. The registry hands the factory out; nothing here knows jobs or tasks.
//!
//! **Source**: `testdata/nexmark/README.md` holds the rules of the stream and results to compare with.

mod factory;
mod generate;
mod reader;
mod rules;
mod tables;

pub use factory::NexmarkSource;

#[cfg(test)]
mod resume_tests;
