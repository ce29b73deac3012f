//! Configuration keys of a job: names (Flink's where Flink has one), defaults, bounds. The planner reads them from the
//! submitted job; the client asks [`is_key`] to tell a key from a parameter.

use std::collections::BTreeMap;
use std::time::Duration;

use weir_core::key_group::{KEY_GROUP_COUNT_DEFAULT, KEY_GROUP_COUNT_MAX};
use weir_core::settings::nearest;
use weir_core::{Problem, Settings, Value};

use crate::limits::PARALLELISM_MAX;

mod checkpointing;
mod restart;

pub use checkpointing::{CheckpointOptions, CheckpointRetention};
pub use restart::RestartStrategy;

/// A configuration key with its documentation.
#[derive(Clone, Copy, Debug)]
pub struct Key {
    /// Dotted name.
    pub name: &'static str,
    /// Default, as a user would write it.
    pub default: &'static str,
    /// What it does, one line.
    pub doc: &'static str,
}

/// Every key a job may set.
pub const KEYS: &[Key] = &concat_keys();

const KEY_COUNT: usize = GENERAL.len() + checkpointing::KEYS.len() + restart::KEYS.len();

/// One table out of the tables of the parts.
const fn concat_keys() -> [Key; KEY_COUNT] {
    let mut all = [Key { name: "", default: "", doc: "" }; KEY_COUNT];
    let parts = [GENERAL, checkpointing::KEYS, restart::KEYS];
    let (mut part, mut count) = (0, 0);
    while part < parts.len() {
        let mut index = 0;
        while index < parts[part].len() {
            all[count] = parts[part][index];
            count += 1;
            index += 1;
        }
        part += 1;
    }
    all
}

const GENERAL: &[Key] = &[
    Key {
        name: "parallelism.default",
        default: "1",
        doc: "Subtasks of each operator that sets no parallelism (1 to 1024).",
    },
    Key {
        name: "pipeline.max-parallelism",
        default: "128",
        doc: "Key groups: the most subtasks a keyed operator can ever have (1 to 32768). Fixed for the life of the job.",
    },
    Key {
        name: "pipeline.auto-watermark-interval",
        default: "200 ms",
        doc: "How often idleness of splits is looked at.",
    },
    Key {
        name: "execution.buffer-timeout.interval",
        default: "5 ms",
        doc: "Longest time rows wait for their batch to fill; 0 sends every piece at once.",
    },
    Key {
        name: "execution.batch.target-rows",
        default: "8192",
        doc: "Rows per batch that sources and exchanges aim at (1 to 65536).",
    },
    Key {
        name: "execution.exchange.credit-bytes",
        default: "1048576",
        doc: "Bytes in flight per channel before the sender waits (1 to 1 GiB). One batch always passes.",
    },
    Key { name: "slot.request.timeout", default: "5 min", doc: "How long a job waits for free slots before it fails." },
];

/// Whether `name` is a configuration key.
pub fn is_key(name: &str) -> bool {
    KEYS.iter().any(|key| key.name == name)
}

/// The options of a job, read and bounded.
#[derive(Clone, Debug, PartialEq)]
pub struct JobOptions {
    /// `parallelism.default`.
    pub parallelism: u32,
    /// `pipeline.max-parallelism`.
    pub key_group_count: u32,
    /// `pipeline.auto-watermark-interval`.
    pub watermark_interval: Duration,
    /// `execution.buffer-timeout.interval`.
    pub flush_interval: Duration,
    /// `execution.batch.target-rows`.
    pub batch_rows: usize,
    /// `execution.exchange.credit-bytes`.
    pub credit_bytes: usize,
    /// `slot.request.timeout`.
    pub slot_timeout: Duration,
    /// `execution.checkpointing.*` and `s3.*`.
    pub checkpoints: CheckpointOptions,
    /// `restart-strategy.*`.
    pub restart: RestartStrategy,
}

impl JobOptions {
    /// Reads the configuration of a job; problems are added to `problems` and defaults stand in.
    pub fn read(config: &BTreeMap<String, Value>, problems: &mut Vec<Problem>) -> JobOptions {
        let settings = Settings::new("", config);
        let integer = |name: &str, max: u32, default: u32| {
            settings.integer(name, 1..=i64::from(max)).map_or(default, |number| number as u32)
        };
        let duration = |name: &str, default: Duration| settings.duration(name).unwrap_or(default);
        let options = JobOptions {
            parallelism: integer("parallelism.default", PARALLELISM_MAX, 1),
            key_group_count: integer("pipeline.max-parallelism", KEY_GROUP_COUNT_MAX, KEY_GROUP_COUNT_DEFAULT),
            watermark_interval: duration("pipeline.auto-watermark-interval", Duration::from_millis(200))
                .max(Duration::from_millis(1)),
            flush_interval: duration("execution.buffer-timeout.interval", Duration::from_millis(5)),
            batch_rows: integer("execution.batch.target-rows", 65_536, 8192) as usize,
            credit_bytes: integer("execution.exchange.credit-bytes", 1 << 30, 1 << 20) as usize,
            slot_timeout: duration("slot.request.timeout", Duration::from_secs(300)),
            checkpoints: CheckpointOptions::read(&settings),
            restart: RestartStrategy::read(&settings),
        };
        let unknown = |problem: &Problem| problem.reason.starts_with("unknown field");
        let (unknown, wrong): (Vec<_>, Vec<_>) = settings.finish().into_iter().partition(unknown);
        problems.extend(wrong);
        problems.extend(unknown.into_iter().map(|problem| Problem {
            nearest: nearest(&problem.field, KEYS.iter().map(|key| key.name)),
            reason: "unknown configuration key; docs/operating/configuration.md lists them".to_owned(),
            ..problem
        }));
        options
    }

    /// Spells the options as configuration; reading it again gives the same options.
    pub fn to_config(&self) -> BTreeMap<String, String> {
        let general = [
            ("parallelism.default", self.parallelism.to_string()),
            ("pipeline.max-parallelism", self.key_group_count.to_string()),
            ("pipeline.auto-watermark-interval", spelled(self.watermark_interval)),
            ("execution.buffer-timeout.interval", spelled(self.flush_interval)),
            ("execution.batch.target-rows", self.batch_rows.to_string()),
            ("execution.exchange.credit-bytes", self.credit_bytes.to_string()),
            ("slot.request.timeout", spelled(self.slot_timeout)),
        ];
        let all = general.into_iter().chain(self.checkpoints.to_config()).chain(self.restart.to_config());
        all.map(|(name, text)| (name.to_owned(), text)).collect()
    }
}

/// A duration as [`Settings::duration`] reads it.
fn spelled(duration: Duration) -> String {
    format!("{} us", duration.as_micros())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn defaults_in_the_table_are_the_defaults_in_force() {
        let empty = JobOptions::read(&BTreeMap::new(), &mut Vec::new());
        let spelled = KEYS.iter().map(|key| (key.name.to_owned(), Value::from(key.default))).collect();
        let mut problems = Vec::new();
        assert_eq!(JobOptions::read(&spelled, &mut problems), empty);
        assert_eq!(problems, []);
    }

    #[test]
    fn options_survive_their_spelling() {
        let config = [
            ("execution.checkpointing.interval", "250 ms"),
            ("execution.checkpointing.timeout", "5 s"),
            ("execution.checkpointing.min-pause", "7 ms"),
            ("execution.checkpointing.tolerable-failed-checkpoints", "3"),
            ("execution.checkpointing.dir", "s3://bucket/x"),
            ("execution.checkpointing.savepoint-dir", "/savepoints"),
            ("execution.checkpointing.num-retained", "4"),
            ("execution.checkpointing.aligned-checkpoint-timeout", "100 ms"),
            ("execution.checkpointing.local-backup.enabled", "false"),
            ("execution.checkpointing.externalized-checkpoint-retention", "DELETE_ON_CANCELLATION"),
            ("s3.endpoint", "http://127.0.0.1:9000"),
            ("s3.path-style-access", "true"),
        ];
        let strategies: [&[(&str, &str)]; 4] = [
            &[("restart-strategy.type", "none")],
            &[("restart-strategy.type", "fixed-delay"), ("restart-strategy.fixed-delay.attempts", "7")],
            &[("restart-strategy.type", "failure-rate"), ("restart-strategy.failure-rate.delay", "2 s")],
            &[("restart-strategy.exponential-delay.jitter-factor", "0.25")],
        ];
        for strategy in strategies {
            let given = config.iter().chain(strategy).map(|(key, text)| (key.to_string(), Value::from(*text)));
            let mut problems = Vec::new();
            let options = JobOptions::read(&given.collect(), &mut problems);
            let spelled = options.to_config().into_iter().map(|(key, text)| (key, Value::Text(text))).collect();
            assert_eq!(JobOptions::read(&spelled, &mut problems), options);
            assert_eq!(problems, []);
            assert_eq!(options.checkpoints.interval, Some(Duration::from_millis(250)));
        }
    }

    #[test]
    fn values_out_of_bounds_are_problems() {
        for (key, text) in [
            ("execution.checkpointing.num-retained", "0"),
            ("execution.checkpointing.timeout", "0 s"),
            ("execution.checkpointing.tolerable-failed-checkpoints", "-1"),
            ("restart-strategy.type", "sometimes"),
            ("restart-strategy.exponential-delay.jitter-factor", "1.5"),
            ("restart-strategy.exponential-delay.backoff-multiplier", "0.5"),
            ("restart-strategy.fixed-delay.attempts", "many"),
        ] {
            let mut problems = Vec::new();
            JobOptions::read(&BTreeMap::from([(key.to_owned(), Value::from(text))]), &mut problems);
            assert_eq!(problems.len(), 1, "{key}: {problems:?}");
            assert_eq!(problems[0].field, key);
        }
    }

    #[test]
    fn unknown_keys_are_named_with_their_neighbour() {
        let config = BTreeMap::from([("paralelism.default".to_owned(), Value::Integer(2))]);
        let mut problems = Vec::new();
        JobOptions::read(&config, &mut problems);
        assert_eq!(problems.len(), 1);
        assert_eq!(problems[0].nearest.as_deref(), Some("parallelism.default"));
    }
}
