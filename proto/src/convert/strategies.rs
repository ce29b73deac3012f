//! Random values, jobs and options for the round-trip tests of this module.

use std::collections::BTreeMap;
use std::time::Duration;

use proptest::collection::{btree_map, vec};
use proptest::option;
use proptest::prelude::*;
use weir_core::Value;
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

/// Options within their bounds.
pub(super) fn options() -> impl Strategy<Value = JobOptions> {
    let duration = |least: u64| (least..3_155_760_000_000_000u64).prop_map(Duration::from_micros);
    (1u32..=1024, 1u32..=32_768, duration(1_000), duration(0), 1usize..=65_536, 1usize..=1 << 30, duration(0)).prop_map(
        |(parallelism, key_group_count, watermark_interval, flush_interval, batch_rows, credit_bytes, slot_timeout)| {
            JobOptions {
                parallelism,
                key_group_count,
                watermark_interval,
                flush_interval,
                batch_rows,
                credit_bytes,
                slot_timeout,
            }
        },
    )
}
