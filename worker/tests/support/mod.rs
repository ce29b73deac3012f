//! A coordinator that does what a test says, and a source and a sink that tests can look into.

#![allow(dead_code, unreachable_pub, missing_docs, reason = "each test file uses its part")]

pub mod checkpoints;
pub mod cluster;
pub mod connectors;
pub mod operators;
pub mod plans;
