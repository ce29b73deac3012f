//! Tests of the operator in `watermark.rs`: scripts, and a simple model where there is one.

use expect_test::{Expect, expect};
use weir_graph::descriptor::WatermarkStrategy;
use weir_testkit::{Runner, context, schema};

fn strategy() -> WatermarkStrategy {
    WatermarkStrategy {
        column: "t".to_owned(),
        time: None,
        max_out_of_orderness: 5_000_000,
        idle_timeout: Some(10_000_000),
        max_future_skew: None,
    }
}

fn check(strategy: &WatermarkStrategy, (input, output): (&str, &str), script: &str, expected: Expect) {
    let (context, clock) = context(vec![schema(input)], schema(output));
    let operator = super::create(strategy, &context).expect("the strategy was planned");
    expected.assert_eq(&Runner::new(operator, &context, clock).run(script));
}

const PLAIN: (&str, &str) = ("k STRING, t TIMESTAMP", "k STRING, t TIMESTAMP* NOT NULL");

#[test]
fn watermark_follows_the_newest_row_and_the_end_passes_through() {
    check(&strategy(), PLAIN, "rows a 10 | b 12\nrows c 8\nrows d 20\nwm max\nend", expect![""]);
}

#[test]
fn row_without_a_usable_time_is_a_bad_record() {
    let script = "rows a 10 | b - | c 253402300800 | d -62135596801 | e 11\nrows f -";
    check(&strategy(), PLAIN, script, expect![""]);
}

/// Carries d4: one record from the far future must not close everyone's windows.
#[test]
fn d4_row_too_far_ahead_of_the_clock_is_a_bad_record() {
    let strategy = WatermarkStrategy { max_future_skew: Some(60_000_000), ..strategy() };
    // The fake clock stands at 1704067200.
    check(&strategy, PLAIN, "rows a 1704067260 | b 1704067261\nclock 1\nrows b 1704067261", expect![""]);
}

#[test]
fn splits_hold_the_watermark_until_they_finish_or_are_idle() {
    let script = "split add 0\nsplit add 1\nrows#0 a 100\nrows#1 b 50\nsplit finish 1\nsplit wait 9\nsplit wait 10\nrows#0 c 90\nsplit finish 0\nwm max";
    check(&strategy(), PLAIN, script, expect![""]);
}

#[test]
fn expression_makes_a_new_event_time_column() {
    let strategy = WatermarkStrategy { time: Some("to_timestamp(ms / (ms - 7))".to_owned()), ..strategy() };
    let schemas = ("k STRING, ms BIGINT", "k STRING, ms BIGINT, t TIMESTAMP* NOT NULL");
    check(&strategy, schemas, "rows a 8 | b 7 | c 14 | d -", expect![""]);
}
