//! The keys of restart strategies, Flink's names and defaults. Part of `config.rs`; what a strategy decides stands with
//! the coordinator.

use std::time::Duration;

use weir_core::Settings;

use super::checkpointing::{count, spelled_count};
use super::{Key, spelled};

const TYPE: &str = "restart-strategy.type";
const FIXED_ATTEMPTS: &str = "restart-strategy.fixed-delay.attempts";
const FIXED_DELAY: &str = "restart-strategy.fixed-delay.delay";
const RATE_MAX: &str = "restart-strategy.failure-rate.max-failures-per-interval";
const RATE_INTERVAL: &str = "restart-strategy.failure-rate.failure-rate-interval";
const RATE_DELAY: &str = "restart-strategy.failure-rate.delay";
const EXP_INITIAL: &str = "restart-strategy.exponential-delay.initial-backoff";
const EXP_MAX: &str = "restart-strategy.exponential-delay.max-backoff";
const EXP_MULTIPLIER: &str = "restart-strategy.exponential-delay.backoff-multiplier";
const EXP_RESET: &str = "restart-strategy.exponential-delay.reset-backoff-threshold";
const EXP_JITTER: &str = "restart-strategy.exponential-delay.jitter-factor";
const EXP_ATTEMPTS: &str = "restart-strategy.exponential-delay.attempts-before-reset-backoff";

const NONE: &str = "none";
const FIXED: &str = "fixed-delay";
const RATE: &str = "failure-rate";
const EXPONENTIAL: &str = "exponential-delay";

/// Keys of restart strategies.
pub(super) const KEYS: &[Key] = &[
    Key { name: TYPE, default: EXPONENTIAL, doc: "none, fixed-delay, failure-rate or exponential-delay." },
    Key { name: FIXED_ATTEMPTS, default: "1", doc: "Restarts before the job fails." },
    Key { name: FIXED_DELAY, default: "1 s", doc: "Pause before a restart." },
    Key { name: RATE_MAX, default: "1", doc: "Failures within the interval that the job outlives." },
    Key { name: RATE_INTERVAL, default: "1 min", doc: "The interval in which failures are counted." },
    Key { name: RATE_DELAY, default: "1 s", doc: "Pause before a restart." },
    Key { name: EXP_INITIAL, default: "1 s", doc: "Pause before the first restart." },
    Key { name: EXP_MAX, default: "1 min", doc: "Longest pause." },
    Key { name: EXP_MULTIPLIER, default: "1.5", doc: "By how much the pause grows with each failure (from 1)." },
    Key { name: EXP_RESET, default: "1 h", doc: "After so long without a failure the pause is the first again." },
    Key { name: EXP_JITTER, default: "0.1", doc: "By which share a pause is made longer or shorter (0 to 1)." },
    Key { name: EXP_ATTEMPTS, default: "unlimited", doc: "Restarts without such a time before the job fails." },
];

/// What happens after a failure.
#[derive(Clone, PartialEq, Debug)]
pub enum RestartStrategy {
    /// The job fails.
    None,
    /// A number of restarts, each after the same pause.
    FixedDelay {
        /// Restarts before the job fails.
        attempts: u32,
        /// Pause before each.
        delay: Duration,
    },
    /// Restarts as long as failures are rare.
    FailureRate {
        /// Failures within `interval` that the job outlives.
        failures_max: u32,
        /// Where they are counted.
        interval: Duration,
        /// Pause before each restart.
        delay: Duration,
    },
    /// Restarts after pauses that grow.
    ExponentialDelay {
        /// The first pause.
        initial: Duration,
        /// The longest.
        max: Duration,
        /// Growth with each failure.
        multiplier: f64,
        /// Time without failure after which the pause is the first again.
        reset: Duration,
        /// Share by which a pause varies.
        jitter: f64,
        /// Restarts without such a time before the job fails; `None` for any number.
        attempts: Option<u32>,
    },
}

impl RestartStrategy {
    /// Reads the keys; problems stay with `settings`, and defaults stand in. The keys of the other strategies are read
    /// too, so that a wrong one is found whatever is chosen.
    pub(super) fn read(settings: &Settings<'_>) -> Self {
        let duration = |name: &str, default: Duration| settings.duration(name).unwrap_or(default);
        let integer = |name: &str| settings.integer(name, 0..=i64::from(i32::MAX)).map_or(1, |number| number as u32);
        let second = Duration::from_secs(1);
        let fixed =
            RestartStrategy::FixedDelay { attempts: integer(FIXED_ATTEMPTS), delay: duration(FIXED_DELAY, second) };
        let rate = RestartStrategy::FailureRate {
            failures_max: integer(RATE_MAX),
            interval: duration(RATE_INTERVAL, 60 * second),
            delay: duration(RATE_DELAY, second),
        };
        let initial = duration(EXP_INITIAL, second);
        let exponential = RestartStrategy::ExponentialDelay {
            initial,
            max: duration(EXP_MAX, 60 * second).max(initial),
            multiplier: settings.number(EXP_MULTIPLIER, 1.0..=1000.0).unwrap_or(1.5),
            reset: duration(EXP_RESET, 3600 * second),
            jitter: settings.number(EXP_JITTER, 0.0..=1.0).unwrap_or(0.1),
            attempts: count(settings, EXP_ATTEMPTS).flatten(),
        };
        match settings.choice(TYPE, &[NONE, FIXED, RATE, EXPONENTIAL]) {
            Some(NONE) => RestartStrategy::None,
            Some(FIXED) => fixed,
            Some(RATE) => rate,
            _ => exponential,
        }
    }

    /// Spells the strategy; keys of the others are left out.
    pub(super) fn to_config(&self) -> Vec<(&'static str, String)> {
        match self {
            RestartStrategy::None => vec![(TYPE, NONE.to_owned())],
            RestartStrategy::FixedDelay { attempts, delay } => {
                vec![(TYPE, FIXED.to_owned()), (FIXED_ATTEMPTS, attempts.to_string()), (FIXED_DELAY, spelled(*delay))]
            }
            RestartStrategy::FailureRate { failures_max, interval, delay } => vec![
                (TYPE, RATE.to_owned()),
                (RATE_MAX, failures_max.to_string()),
                (RATE_INTERVAL, spelled(*interval)),
                (RATE_DELAY, spelled(*delay)),
            ],
            RestartStrategy::ExponentialDelay { initial, max, multiplier, reset, jitter, attempts } => vec![
                (TYPE, EXPONENTIAL.to_owned()),
                (EXP_INITIAL, spelled(*initial)),
                (EXP_MAX, spelled(*max)),
                (EXP_MULTIPLIER, multiplier.to_string()),
                (EXP_RESET, spelled(*reset)),
                (EXP_JITTER, jitter.to_string()),
                (EXP_ATTEMPTS, spelled_count(*attempts)),
            ],
        }
    }
}
