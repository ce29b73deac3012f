//! Tests of the operator in `watermark.rs`: scripts, and a simple model where there is one.

use expect_test::{Expect, expect};
use proptest::prelude::*;
use weir_graph::descriptor::WatermarkStrategy;
use weir_operator_api::OperatorContext;
use weir_testkit::{Cuts, Deal, Event, Runner, context, events, schema};

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
    check(
        &strategy(),
        PLAIN,
        "rows a 10 | b 12\nrows c 8\nrows d 20\nwm max\nend",
        expect![[r#"
        > rows a 10 | b 12
          main (k t*)
          main a 10
          main b 12
          wm 6.999999
        > rows c 8
          main c 8
        > rows d 20
          main d 20
          wm 14.999999
        > wm max
          wm max
        > end
    "#]],
    );
}

#[test]
fn row_without_a_usable_time_is_a_bad_record() {
    let script = "rows a 10 | b - | c 253402300800 | d -62135596801 | e 11\nrows f -";
    check(
        &strategy(),
        PLAIN,
        script,
        expect![[r#"
        > rows a 10 | b - | c 253402300800 | d -62135596801 | e 11
          bad bad-record-time: the event time is null <- {"k":"b","t":null}
          bad bad-record-time: the event time, 253402300800000000 us since 1970, is outside the years 1 to 9999 <- {"k":"c","t":"+10000-01-01T00:00:00Z"}
          bad bad-record-time: the event time, -62135596801000000 us since 1970, is outside the years 1 to 9999 <- {"k":"d","t":"0000-12-31T23:59:59Z"}
          main (k t*)
          main a 10
          main e 11
          wm 5.999999
        > rows f -
          bad bad-record-time: the event time is null <- {"k":"f","t":null}
    "#]],
    );
}

/// Carries d4: one record from the far future must not close everyone's windows.
#[test]
fn d4_row_too_far_ahead_of_the_clock_is_a_bad_record() {
    let strategy = WatermarkStrategy { max_future_skew: Some(60_000_000), ..strategy() };
    // The fake clock stands at 1704067200.
    check(
        &strategy,
        PLAIN,
        "rows a 1704067260 | b 1704067261\nclock 1\nrows b 1704067261",
        expect![[r#"
        > rows a 1704067260 | b 1704067261
          bad bad-record-future: the event time lies 61000 ms ahead of the clock; 60000 ms are allowed <- {"k":"b","t":"2024-01-01T00:01:01Z"}
          main (k t*)
          main a 1704067260
          wm 1704067254.999999
        > clock 1
        > rows b 1704067261
          main b 1704067261
          wm 1704067255.999999
    "#]],
    );
}

#[test]
fn splits_hold_the_watermark_until_they_finish_or_are_idle() {
    let script = "split add 0\nsplit add 1\nrows#0 a 100\nrows#1 b 50\nsplit finish 1\nsplit wait 9\nsplit wait 10\nrows#0 c 90\nsplit finish 0\nwm max";
    check(
        &strategy(),
        PLAIN,
        script,
        expect![[r#"
        > split add 0
          Added(0)
        > split add 1
          Added(1)
        > rows#0 a 100
          main (k t*)
          main a 100
        > rows#1 b 50
          main b 50
          wm 44.999999
        > split finish 1
          wm 94.999999
          Finished(1)
        > split wait 9
          Waited { waited_us: 9000000 }
        > split wait 10
          idle
          Waited { waited_us: 10000000 }
        > rows#0 c 90
          active
          main c 90
        > split finish 0
          Finished(0)
        > wm max
          wm max
    "#]],
    );
}

#[test]
fn expression_makes_a_new_event_time_column() {
    let strategy = WatermarkStrategy { time: Some("to_timestamp(ms / (ms - 7))".to_owned()), ..strategy() };
    let schemas = ("k STRING, ms BIGINT", "k STRING, ms BIGINT, t TIMESTAMP* NOT NULL");
    check(
        &strategy,
        schemas,
        "rows a 8 | b 7 | c 14 | d -",
        expect![[r#"
        > rows a 8 | b 7 | c 14 | d -
          bad bad-record-expression: division by zero <- {"k":"b","ms":7}
          bad bad-record-time: the event time is null <- {"k":"d","ms":null}
          main (k ms t*)
          main a 8 8
          main c 14 2
          wm 2.999999
    "#]],
    );
}

fn with_cuts(strategy: &WatermarkStrategy, check: impl FnOnce(&Cuts<'_>)) {
    let (context, _) = context(vec![schema(PLAIN.0)], schema(PLAIN.1));
    let make = |context: &OperatorContext| super::create(strategy, context).expect("the strategy was planned");
    check(&Cuts { context, deal: Deal::BySplit, make: &make });
}

fn split_events(script: &str) -> Vec<Event> {
    events(script, &[schema(PLAIN.0)])
}

/// A restored source says no less than it said, holds for every split it goes on with, and ends at the same time.
#[test]
fn splits_go_on_wherever_they_are_cut() {
    let script = "split add 0\nsplit add 1\nsplit add 2\nrows#0 a 100\nrows#1 b 50\nrows#0 a 90 | a -\nrows#2 c 70\n\
                  rows#1 b 80\nsplit finish 1\nrows#2 c 85\nsplit wait 9\nsplit wait 9\nrows#0 a 110\nsplit finish 0\n\
                  split finish 2\nwm max\nend";
    with_cuts(&strategy(), |cuts| cuts.check_everywhere(&split_events(script), &[1, 2, 3], &[1, 2, 3]));
}

/// Carries d1: idle splits stay idle over a restart, and those that wake up do not pull the watermark back.
#[test]
fn d1_idle_splits_go_on_wherever_they_are_cut() {
    let script = "split add 0\nsplit add 1\nrows#0 a 100\nrows#1 b 50\nsplit wait 6\nrows#0 a 110\nsplit wait 6\nrows#0 a 120\n\
                  split wait 6\nsplit wait 9\nsplit wait 9\nrows#1 b 60\nrows#0 a 130\nrows#1 b 125\nsplit finish 1\nwm max";
    with_cuts(&strategy(), |cuts| cuts.check_everywhere(&split_events(script), &[1], &[1]));
}

/// Rows of splits that the watermark may be held by; a finished split gives no more.
fn split_runs(events: Vec<(u8, u32, i64)>, with_idleness: bool) -> String {
    // With idleness, one split is found when its first rows come.
    let late_split = if with_idleness { "clock 0" } else { "split add 3" };
    let (mut script, mut finished) = (format!("split add 0\nsplit add 1\nsplit add 2\n{late_split}\n"), Vec::new());
    for (kind, split, time) in events {
        match kind {
            0 if !finished.contains(&split) => {
                finished.push(split);
                script.push_str(&format!("split finish {split}\n"));
            }
            1 | 2 if with_idleness => script.push_str(&format!("split wait {}\n", time / 10)),
            _ if finished.contains(&split) => {}
            3 => script.push_str(&format!("rows#{split} k -\n")),
            _ => script.push_str(&format!("rows#{split} k {time}\n")),
        }
    }
    script + "wm max\nend"
}

proptest! {
    /// Carries d1. With idle splits the watermark depends on who reads which, so only one subtask follows one.
    #[test]
    fn d1_random_splits_go_on_wherever_they_are_cut(
        events in prop::collection::vec((0u8..12, 0u32..4, 0i64..100), 1..40),
        place in any::<prop::sample::Index>(),
        parallelism in (1u32..4, 1u32..4),
        with_idleness in any::<bool>(),
    ) {
        let events = split_events(&split_runs(events, with_idleness));
        // The splits are added before anything else.
        let place = 4 + place.index(events.len() - 3);
        let parallelism = if with_idleness { (1, 1) } else { parallelism };
        with_cuts(&strategy(), |cuts| cuts.check_at(&events, place, parallelism));
    }
}
