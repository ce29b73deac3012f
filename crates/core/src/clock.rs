//! The clock seam: production code asks this trait for the time, tests and simulation give their own.

use std::future::Future;
use std::pin::Pin;
use std::time::Duration;

/// Tells the time and sleeps. One instance is handed down from the wiring of each process.
pub trait Clock: Send + Sync + std::fmt::Debug {
    /// Wall time, microseconds since 1970-01-01 UTC; may jump.
    fn wall_unix_us(&self) -> i64;

    /// Time since some fixed moment of this process; never goes back.
    fn monotonic(&self) -> Duration;

    /// Completes after `duration`. Cancel safe: dropping the future forgets it.
    fn sleep(&self, duration: Duration) -> Pin<Box<dyn Future<Output = ()> + Send>>;
}
