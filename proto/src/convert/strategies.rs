//! Random values, jobs and options for the round-trip tests of this module.

use std::collections::BTreeMap;
use std::time::Duration;

use proptest::collection::{btree_map, vec};
use proptest::option;
use proptest::prelude::*;
use weir_core::Value;
use weir_graph::config::{CheckpointOptions, CheckpointRetention, RestartStrategy};
use weir_graph::{JobOptions, SubmittedJob, SubmittedOperator};

/// Values that have one spelling on the wire: no integers beyond 2^53, no floats that are whole.
pub(super) fn value() -> impl Strategy<Value = Value> {
    let plain = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::Bool),
        (-(1i64 << 53)..=1 << 53).prop_map(Value::Integer),
        any::<f64>()
            .prop_filter("whole numbers arrive as integers", |number| number.is_normal())
            .prop_map(Value::from_f64),
        ".{0,12}".prop_map(Value::Text),
    ];
    plain.prop_recursive(4, 32, 6, |inner| {
        prop_oneof![
            vec(inner.clone(), 0..6).prop_map(Value::List),
            btree_map("[a-z_.]{1,8}", inner, 0..6).prop_map(Value::Map),
        ]
    })
}

fn settings() -> impl Strategy<Value = BTreeMap<String, Value>> {
    btree_map("[a-z_]{1,8}", value(), 0..4)
}

fn operator() -> impl Strategy<Value = SubmittedOperator> {
    ("[a-z]{1,8}", "[a-z_]{1,8}", option::of(any::<u32>()), vec("[a-z.]{1,8}", 0..3), settings()).prop_map(
        |(uid, kind, parallelism, inputs, settings)| SubmittedOperator { uid, kind, parallelism, inputs, settings },
    )
}

/// Jobs, right or wrong, with their configuration as text.
pub(super) fn job() -> impl Strategy<Value = SubmittedJob> {
    let config = btree_map("[a-z.-]{1,12}", ".{0,8}".prop_map(Value::Text), 0..4);
    (".{0,12}", config, vec(operator(), 0..4)).prop_map(|(name, config, operators)| SubmittedJob {
        name,
        config,
        operators,
    })
}

fn any_duration(least_us: u64) -> impl Strategy<Value = Duration> {
    (least_us..3_155_760_000_000_000u64).prop_map(Duration::from_micros)
}

fn checkpoints() -> impl Strategy<Value = CheckpointOptions> {
    let place = || option::of("[a-z:/]{1,8}");
    let retention = prop_oneof![
        Just(CheckpointRetention::RetainOnCancellation),
        Just(CheckpointRetention::DeleteOnCancellation),
        Just(CheckpointRetention::NoExternalizedCheckpoints)
    ];
    let times = (option::of(any_duration(1)), any_duration(1_000), any_duration(0), any_duration(0));
    let counts = (option::of(0u32..=i32::MAX as u32), 1usize..=1000);
    (times, counts, place(), place(), retention, any::<(bool, bool)>()).prop_map(
        |(
            (interval, timeout, min_pause, aligned_timeout),
            counts,
            dir,
            savepoint_dir,
            retention,
            (path_style, keeps_local_copies),
        )| {
            let path_style = path_style.then(|| ("s3.path-style-access".to_owned(), "true".to_owned()));
            CheckpointOptions {
                interval,
                timeout,
                min_pause,
                tolerable_failures: counts.0,
                dir,
                savepoint_dir,
                retained_count: counts.1,
                retention,
                aligned_timeout,
                keeps_local_copies,
                store: path_style.into_iter().collect(),
            }
        },
    )
}

fn restart() -> impl Strategy<Value = RestartStrategy> {
    let count = 0u32..=i32::MAX as u32;
    let exponential = (any_duration(0), any_duration(0), 1.0..1000.0f64, any_duration(0), 0.0..=1.0f64);
    prop_oneof![
        Just(RestartStrategy::None),
        (count.clone(), any_duration(0)).prop_map(|(attempts, delay)| RestartStrategy::FixedDelay { attempts, delay }),
        (count.clone(), any_duration(0), any_duration(0)).prop_map(|(failures_max, interval, delay)| {
            RestartStrategy::FailureRate { failures_max, interval, delay }
        }),
        (exponential, option::of(count)).prop_map(|((initial, more, multiplier, reset, jitter), attempts)| {
            RestartStrategy::ExponentialDelay { initial, max: initial.max(more), multiplier, reset, jitter, attempts }
        }),
    ]
}

/// Options within their bounds.
pub(super) fn options() -> impl Strategy<Value = JobOptions> {
    let counts = (1u32..=1024, 1u32..=32_768, 1usize..=65_536, 1usize..=1 << 30);
    let times = (any_duration(1_000), any_duration(0), any_duration(0));
    (counts, times, checkpoints(), restart()).prop_map(
        |((parallelism, key_group_count, batch_rows, credit_bytes), times, checkpoints, restart)| JobOptions {
            parallelism,
            key_group_count,
            watermark_interval: times.0,
            flush_interval: times.1,
            batch_rows,
            credit_bytes,
            slot_timeout: times.2,
            checkpoints,
            restart,
        },
    )
}
