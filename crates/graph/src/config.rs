//! Configuration keys of a job: names (Flink's where Flink has one), defaults, bounds. The planner reads them from the
//! submitted job; the client asks [`is_key`] to tell a key from a parameter.

use std::collections::BTreeMap;
use std::time::Duration;

use weir_core::key_group::{KEY_GROUP_COUNT_DEFAULT, KEY_GROUP_COUNT_MAX};
use weir_core::settings::nearest;
use weir_core::{Problem, Settings, Value};

use crate::limits::PARALLELISM_MAX;

/// A configuration key with its documentation.
pub struct Key {
    /// Dotted name.
    pub name: &'static str,
    /// Default, as a user would write it.
    pub default: &'static str,
    /// What it does, one line.
    pub doc: &'static str,
}

/// Every key a job may set.
pub const KEYS: &[Key] = &[
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
    fn unknown_keys_are_named_with_their_neighbour() {
        let config = BTreeMap::from([("paralelism.default".to_owned(), Value::Integer(2))]);
        let mut problems = Vec::new();
        JobOptions::read(&config, &mut problems);
        assert_eq!(problems.len(), 1);
        assert_eq!(problems[0].nearest.as_deref(), Some("parallelism.default"));
    }
}
