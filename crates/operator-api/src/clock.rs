//! The production clock: the one place, besides tests, that asks the operating system for the time.

use std::future::Future;
use std::pin::Pin;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use weir_core::Clock;

/// The operating system's clocks and tokio's timer.
#[derive(Debug)]
pub struct SystemClock {
    started: Instant,
}

impl Default for SystemClock {
    #[allow(clippy::disallowed_methods, reason = "this file is the clock seam")]
    fn default() -> Self {
        SystemClock { started: Instant::now() }
    }
}

#[allow(clippy::disallowed_methods, reason = "this file is the clock seam")]
impl Clock for SystemClock {
    fn wall_unix_us(&self) -> i64 {
        SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_micros() as i64)
    }

    fn monotonic(&self) -> Duration {
        self.started.elapsed()
    }

    fn sleep(&self, duration: Duration) -> Pin<Box<dyn Future<Output = ()> + Send>> {
        Box::pin(tokio::time::sleep(duration))
    }
}
