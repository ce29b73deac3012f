//! Seeds for names that nobody else may draw: of objects, of unfinished files, of the worker itself. Two workers can start in
//! the same microsecond, under the same process id, on machines that share a directory; the operating system's randomness
//! tells them apart.

use std::io::Read;
use std::sync::atomic::{AtomicU64, Ordering};

use weir_core::Clock;
use weir_core::key_hash::mix;

/// A seed that no other process and no other call draws.
#[allow(clippy::disallowed_methods, reason = "what makes names unique comes from the operating system")]
pub fn seed(clock: &dyn Clock) -> u64 {
    static DRAWN: AtomicU64 = AtomicU64::new(0);
    let mut random = [0; 8];
    // Without it, time, process and count are still a good guess.
    if let Err(error) = std::fs::File::open("/dev/urandom").and_then(|mut file| file.read_exact(&mut random)) {
        tracing::warn!("the system gives no random numbers, names are made of time and process: {error}");
    }
    let count = DRAWN.fetch_add(1, Ordering::Relaxed);
    let process = u64::from(std::process::id()) << 32 | count;
    mix(u64::from_le_bytes(random)) ^ mix(clock.wall_unix_us() as u64) ^ mix(process)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use weir_testkit::FakeClock;

    use super::*;

    #[test]
    fn seeds_of_the_same_moment_differ() {
        let clock = FakeClock::default();
        assert_eq!((0..1000).map(|_| seed(&clock)).collect::<BTreeSet<_>>().len(), 1000);
    }
}
