//! Who is dead? Pure: told of signs of life and broken connections with the time of each, answers for a moment.
//!
//! A worker is dead when its connection broke and did not come back within a grace (at once, when its machine says that
//! nobody listens at its address any more), or when it gave no sign of life for the lease, connected or not. Dead is final: a process that comes back has to register anew.

use std::time::Duration;

/// Why a worker is given up.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum Death {
    /// The connection broke, and nobody listens where the worker did: its process is gone.
    #[error("its process is gone")]
    Gone,
    /// The connection broke and did not come back.
    #[error("its connection broke and did not come back within {} ms", .0.as_millis())]
    Disconnected(Duration),
    /// It was silent for too long.
    #[error("it gave no sign of life for {} ms", .0.as_millis())]
    Silent(Duration),
}

/// Watches one worker.
#[derive(Clone, Debug)]
pub struct Detector {
    lease: Duration,
    grace: Duration,
    heard_at: Duration,
    broken_at: Option<Duration>,
    is_gone: bool,
}

impl Detector {
    /// A worker that was heard of at `now`.
    pub fn new(lease: Duration, grace: Duration, now: Duration) -> Self {
        Detector { lease, grace, heard_at: now, broken_at: None, is_gone: false }
    }

    /// A sign of life.
    pub fn heard(&mut self, now: Duration) {
        self.heard_at = self.heard_at.max(now);
    }

    /// The connection broke; only the first break counts.
    pub fn disconnected(&mut self, now: Duration) {
        self.broken_at.get_or_insert(now);
    }

    /// Its machine answers that nobody listens at its address. Before its connection broke that says nothing.
    pub fn nobody_listens(&mut self) {
        self.is_gone = self.broken_at.is_some();
    }

    /// The one who watches was asleep for `pause` itself: it cannot tell silence from its own deafness, so that time
    /// does not count.
    pub fn watcher_paused(&mut self, pause: Duration) {
        self.heard_at += pause;
        self.broken_at = self.broken_at.map(|broken| broken + pause);
    }

    /// Whether, and of what, the worker is dead.
    pub fn death(&self, now: Duration) -> Option<Death> {
        if self.is_gone {
            return Some(Death::Gone);
        }
        if self.broken_at.is_some_and(|broken| now >= broken + self.grace) {
            return Some(Death::Disconnected(self.grace));
        }
        (now >= self.heard_at + self.lease).then_some(Death::Silent(self.lease))
    }

    /// Whether the connection stands, as far as is known.
    pub fn is_connected(&self) -> bool {
        self.broken_at.is_none()
    }

    /// Time since the last sign of life.
    pub fn silence(&self, now: Duration) -> Duration {
        now.saturating_sub(self.heard_at)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const LEASE: Duration = Duration::from_millis(3000);
    const GRACE: Duration = Duration::from_millis(1000);

    fn at(ms: u64) -> Duration {
        Duration::from_millis(ms)
    }

    #[test]
    fn broken_connection_kills_after_the_grace() {
        let mut detector = Detector::new(LEASE, GRACE, at(0));
        detector.heard(at(400));
        detector.disconnected(at(500));
        assert_eq!(detector.death(at(1499)), None);
        assert_eq!(detector.death(at(1500)), Some(Death::Disconnected(GRACE)));
    }

    #[test]
    fn silence_kills_after_the_lease_though_the_connection_stands() {
        let mut detector = Detector::new(LEASE, GRACE, at(0));
        detector.heard(at(500));
        assert_eq!(detector.death(at(3499)), None);
        assert_eq!(detector.death(at(3500)), Some(Death::Silent(LEASE)));
    }

    #[test]
    fn time_the_watcher_slept_does_not_count() {
        let mut detector = Detector::new(LEASE, GRACE, at(0));
        detector.watcher_paused(at(10_000));
        assert_eq!(detector.death(at(12_999)), None);
        assert_eq!(detector.death(at(13_000)), Some(Death::Silent(LEASE)));
    }

    #[test]
    fn process_that_is_gone_is_not_waited_for() {
        let mut detector = Detector::new(LEASE, GRACE, at(0));
        detector.nobody_listens();
        assert_eq!(detector.death(at(10)), None, "its connection stands");
        detector.disconnected(at(20));
        assert_eq!(detector.death(at(20)), None);
        detector.nobody_listens();
        assert_eq!(detector.death(at(20)), Some(Death::Gone));
    }

    proptest! {
        #[test]
        fn worker_that_beats_within_the_lease_never_dies(gaps in prop::collection::vec(0..3000u64, 0..50)) {
            let mut detector = Detector::new(LEASE, GRACE, at(0));
            let mut now = 0;
            for gap in gaps {
                now += gap;
                prop_assert_eq!(detector.death(at(now)), None);
                detector.heard(at(now));
            }
        }

        #[test]
        fn dead_stays_dead_without_a_sign_of_life(beat in 0..5000u64, broken in prop::option::of(0..5000u64)) {
            let mut detector = Detector::new(LEASE, GRACE, at(0));
            detector.heard(at(beat));
            if let Some(broken) = broken {
                detector.disconnected(at(broken));
            }
            let died_at = (0..20_000).step_by(50).find(|now| detector.death(at(*now)).is_some());
            let last = (beat + 3000).min(broken.map_or(u64::MAX, |broken| broken + 1000));
            let died_at = died_at.expect("everyone dies in the end");
            prop_assert!(died_at >= last && died_at < last + 50);
            prop_assert!((died_at..20_000).step_by(50).all(|now| detector.death(at(now)).is_some()));
        }
    }
}
