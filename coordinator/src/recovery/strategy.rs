//! Whether, and after which pause, a job that failed is started again. Pure: told of failures with the time of each and a
//! random number for the jitter.
//!
//! **Source**: as Flink's restart strategies, names and defaults.

use std::collections::VecDeque;
use std::time::Duration;

pub use weir_graph::config::RestartStrategy;

/// What follows a failure.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Verdict {
    /// The job is started again after this pause.
    Restart(Duration),
    /// The job has failed.
    GiveUp,
}

/// The memory of a strategy.
#[derive(Clone, Debug)]
pub struct Restarts {
    strategy: RestartStrategy,
    /// Failures since the job was started, or since the last reset.
    failures: u32,
    /// Times of the failures that still count.
    recent: VecDeque<Duration>,
    /// The pause that the next failure leads to, jitter aside.
    backoff: Duration,
    /// Time of the last failure.
    last: Option<Duration>,
}

/// Time without a failure after which the loss of a worker is taken for an accident.
const ACCIDENT_AFTER: Duration = Duration::from_secs(60);

impl Restarts {
    /// A job that has not failed.
    pub fn new(strategy: RestartStrategy) -> Self {
        let backoff = match &strategy {
            RestartStrategy::ExponentialDelay { initial, .. } => *initial,
            _ => Duration::ZERO,
        };
        Restarts { strategy, failures: 0, recent: VecDeque::new(), backoff, last: None }
    }

    /// A worker of the job was lost at `now`. A pause spares what has failed; what is lost needs none, and its work goes
    /// elsewhere. So with exponential delay the first loss restarts the job at once; one that follows soon does not.
    pub fn lost(&mut self, now: Duration, draw: f64) -> Verdict {
        let is_accident = self.last.is_none_or(|last| now.saturating_sub(last) >= ACCIDENT_AFTER);
        let is_free = is_accident && matches!(self.strategy, RestartStrategy::ExponentialDelay { .. });
        match self.failed(now, draw) {
            Verdict::Restart(_) if is_free => Verdict::Restart(Duration::ZERO),
            verdict => verdict,
        }
    }

    /// The job failed at `now`; `draw` is uniform in `[0, 1)`.
    pub fn failed(&mut self, now: Duration, draw: f64) -> Verdict {
        self.last = Some(now);
        match self.strategy.clone() {
            RestartStrategy::None => Verdict::GiveUp,
            RestartStrategy::FixedDelay { attempts, delay } => {
                self.failures = self.failures.saturating_add(1);
                if self.failures <= attempts { Verdict::Restart(delay) } else { Verdict::GiveUp }
            }
            RestartStrategy::FailureRate { failures_max, interval, delay } => {
                self.recent.retain(|at| now.saturating_sub(*at) < interval);
                if self.recent.len() >= failures_max as usize {
                    return Verdict::GiveUp;
                }
                self.recent.push_back(now);
                Verdict::Restart(delay)
            }
            RestartStrategy::ExponentialDelay { initial, max, multiplier, reset, jitter, attempts } => {
                // The time the job ran counts, not the pause before it.
                let quiet = self.recent.back().map(|at| now.saturating_sub(*at));
                if quiet.is_some_and(|quiet| quiet >= reset.saturating_add(self.backoff)) {
                    self.failures = 0;
                    self.backoff = initial;
                }
                self.failures = self.failures.saturating_add(1);
                if attempts.is_some_and(|attempts| self.failures > attempts) {
                    return Verdict::GiveUp;
                }
                if self.failures > 1 {
                    self.backoff = grown(self.backoff, multiplier).min(max);
                }
                self.recent = VecDeque::from([now]);
                let factor = 1.0 + jitter * (2.0 * draw - 1.0);
                Verdict::Restart(grown(self.backoff, factor.max(0.0)).min(max))
            }
        }
    }
}

/// A hundred years: what is longer is cut.
const PAUSE_MAX: Duration = Duration::from_secs(3_155_760_000);

fn grown(pause: Duration, factor: f64) -> Duration {
    Duration::try_from_secs_f64(pause.as_secs_f64() * factor).unwrap_or(PAUSE_MAX).min(PAUSE_MAX)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn s(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    fn exponential(jitter: f64, attempts: Option<u32>) -> RestartStrategy {
        RestartStrategy::ExponentialDelay {
            initial: s(1),
            max: s(60),
            multiplier: 1.5,
            reset: s(3600),
            jitter,
            attempts,
        }
    }

    #[test]
    fn pauses_grow_to_the_longest_and_start_anew_after_a_quiet_time() {
        let mut restarts = Restarts::new(exponential(0.0, None));
        let mut now = s(0);
        let mut pauses = Vec::new();
        for _ in 0..14 {
            now += s(10);
            if let Verdict::Restart(pause) = restarts.failed(now, 0.5) {
                pauses.push(pause.as_millis());
            }
        }
        assert_eq!(pauses[..5], [1000, 1500, 2250, 3375, 5062]);
        assert_eq!(pauses[13], 60_000);
        assert_eq!(restarts.failed(now + s(3600), 0.5), Verdict::Restart(s(60)), "the pause before it is not quiet");
        assert_eq!(restarts.failed(now + s(3600 + 3660), 0.5), Verdict::Restart(s(1)));
    }

    #[test]
    fn fixed_delay_counts_and_failure_rate_forgets() {
        let mut fixed = Restarts::new(RestartStrategy::FixedDelay { attempts: 2, delay: s(3) });
        let verdicts: Vec<Verdict> = (0..3).map(|at| fixed.failed(s(at), 0.0)).collect();
        assert_eq!(verdicts, [Verdict::Restart(s(3)), Verdict::Restart(s(3)), Verdict::GiveUp]);
        let mut rate = Restarts::new(RestartStrategy::FailureRate { failures_max: 2, interval: s(60), delay: s(1) });
        let verdicts: Vec<Verdict> = [0, 59, 61, 62].into_iter().map(|at| rate.failed(s(at), 0.0)).collect();
        let restart = Verdict::Restart(s(1));
        assert_eq!(verdicts, [restart, restart, restart, Verdict::GiveUp]);
        assert_eq!(Restarts::new(RestartStrategy::None).failed(s(0), 0.0), Verdict::GiveUp);
    }

    #[test]
    fn attempts_before_a_reset_end_the_job() {
        let mut restarts = Restarts::new(exponential(0.0, Some(1)));
        assert_eq!(restarts.failed(s(0), 0.5), Verdict::Restart(s(1)));
        assert_eq!(restarts.failed(s(5), 0.5), Verdict::GiveUp);
    }

    #[test]
    fn first_loss_of_a_worker_restarts_at_once_and_one_that_follows_soon_does_not() {
        let mut restarts = Restarts::new(exponential(0.0, Some(3)));
        assert_eq!(restarts.lost(s(0), 0.5), Verdict::Restart(s(0)));
        assert_eq!(restarts.lost(s(59), 0.5), Verdict::Restart(Duration::from_millis(1500)));
        assert_eq!(restarts.lost(s(119), 0.5), Verdict::Restart(s(0)));
        assert_eq!(restarts.lost(s(300), 0.5), Verdict::GiveUp, "it counts as an attempt");
        let mut restarts = Restarts::new(RestartStrategy::FixedDelay { attempts: 2, delay: s(3) });
        assert_eq!(restarts.lost(s(0), 0.5), Verdict::Restart(s(3)), "a pause that the user set is kept");
        let mut restarts = Restarts::new(exponential(0.0, None));
        assert_eq!(restarts.failed(s(0), 0.5), Verdict::Restart(s(1)));
        assert_eq!(restarts.lost(s(10), 0.5), Verdict::Restart(Duration::from_millis(1500)));
    }

    proptest! {
        #[test]
        fn pauses_stay_within_jitter_and_bounds(
            gaps in prop::collection::vec(0..10_000u64, 1..60), draws in prop::collection::vec(0.0..1.0f64, 60), jitter in 0.0..=1.0f64,
        ) {
            let (mut plain, mut varied) = (Restarts::new(exponential(0.0, None)), Restarts::new(exponential(jitter, None)));
            let mut now = s(0);
            for (gap, draw) in gaps.into_iter().zip(draws) {
                now += s(gap);
                let (Verdict::Restart(middle), Verdict::Restart(pause)) = (plain.failed(now, 0.5), varied.failed(now, draw))
                else { return Err(TestCaseError::fail("exponential delay never gives up by itself")) };
                prop_assert!(middle >= s(1) && middle <= s(60) && pause <= s(60));
                let spread = middle.as_secs_f64() * jitter + 1e-6;
                prop_assert!(pause.as_secs_f64() >= middle.as_secs_f64() - spread);
                prop_assert!(pause.as_secs_f64() <= middle.as_secs_f64() + spread);
            }
        }
    }
}
