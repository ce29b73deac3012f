//! What a user sees of a window operator, written down.

use expect_test::{Expect, expect};

use super::*;

fn check(descriptor: WindowAggregate, script: &str, expected: Expect) {
    let mut runner = operator_of(&descriptor, schema("truck STRING, speed DOUBLE, t TIMESTAMP*"), Phase::Whole, 8192);
    expected.assert_eq(&runner.run(script));
}

fn window(window: WindowSpec, aggregates: &[&str], allowed_lateness: i64) -> WindowAggregate {
    WindowAggregate {
        key: vec!["truck".to_owned()],
        window,
        aggregates: aggregates.iter().map(|sql| (*sql).to_owned()).collect(),
        allowed_lateness,
        two_phase: true,
    }
}

const S: i64 = 1_000_000;

#[test]
fn late_record_goes_to_side_output() {
    let tumble = WindowSpec::Tumble { size: 10 * S, offset: 0 };
    check(
        window(tumble, &["count(*) AS reports", "avg(speed) AS mean"], 0),
        "rows a 10 1 | b 20 2 | a 30 11\nwm 9.999998\nwm 9.999999\nrows a 99 3 | a 50 12\nwm max\nend",
        expect![[r#"
            > rows a 10 1 | b 20 2 | a 30 11
            > wm 9.999998
              wm 9.999998
            > wm 9.999999
              main (truck window_start window_end window_time* reports mean)
              main a 0 10 9.999999 1 10.0
              main b 0 10 9.999999 1 20.0
              (more)
              wm 9.999999
            > rows a 99 3 | a 50 12
              late (truck speed t*)
              late a 99.0 3
            > wm max
              main a 10 20 19.999999 2 40.0
              (more)
              wm max
            > end
        "#]],
    );
}

#[test]
fn late_record_updates_its_window_within_allowed_lateness() {
    let tumble = WindowSpec::Tumble { size: 10 * S, offset: 0 };
    check(
        window(tumble, &["count(*) AS reports"], 5 * S),
        "rows a 10 1\nwm 12\nrows a 1 2 | b 1 3\nrows b 1 4\nwm 14.999999\nrows a 1 5\nwm max",
        expect![[r#"
            > rows a 10 1
            > wm 12
              main (truck window_start window_end window_time* reports)
              main +I a 0 10 9.999999 1
              (more)
              wm 12
            > rows a 1 2 | b 1 3
              main +I b 0 10 9.999999 1
              main +U a 0 10 9.999999 2
            > rows b 1 4
              main +U b 0 10 9.999999 2
            > wm 14.999999
              wm 14.999999
            > rows a 1 5
              late (truck speed t*)
              late a 1.0 5
            > wm max
              wm max
        "#]],
    );
}

#[test]
fn session_that_grows_after_it_was_emitted_is_taken_back() {
    check(
        window(WindowSpec::Session { gap: 10 * S }, &["count(*) AS reports", "last(speed) AS speed"], 60 * S),
        "rows a 10 1 | a 20 5\nwm 20\nrows a 30 3\nrows a 40 14\nwm max",
        expect![[r#"
            > rows a 10 1 | a 20 5
            > wm 20
              main (truck window_start window_end window_time* reports speed)
              main +I a 1 15 14.999999 2 20.0
              wm 20
            > rows a 30 3
              main +U a 1 15 14.999999 3 20.0
            > rows a 40 14
              main -D a 1 15 14.999999 3 20.0
            > wm max
              main +I a 1 24 23.999999 4 40.0
              wm max
        "#]],
    );
}

#[test]
fn record_without_sane_time_is_bad() {
    let tumble = WindowSpec::Tumble { size: 10 * S, offset: 0 };
    let descriptor = window(tumble, &["count(DISTINCT speed) AS speeds"], 0);
    let mut runner = operator_of(&descriptor, schema("truck STRING, speed DOUBLE, t TIMESTAMP*"), Phase::Whole, 8192);
    let rows = "a 10 - | - 20 2 | a 30 9223372036854775807us | - 20 3";
    let records = weir_testkit::rows::read_rows(&schema("truck STRING, speed DOUBLE, t TIMESTAMP*"), rows);
    runner.batch(0, Batch::new(records, 0));
    let bad: Vec<(&str, String)> =
        runner.recorder.bad_records().into_iter().map(|bad| (bad.code, bad.message)).collect();
    let far = "event time 't' is 9223372036854775807 microseconds since 1970, outside the years 1 to 9999";
    let code = "bad-record-time";
    assert_eq!(bad, [(code, "event time 't' is null".to_owned()), (code, far.to_owned())]);
    runner.watermark(EventTime::MAX);
    assert_eq!(runner.recorder.rows(OutputTag::Main), ["- 0 10 9.999999 1"], "null is a key like any other");
}

#[test]
fn windows_without_key_give_one_row() {
    let mut descriptor =
        window(WindowSpec::Cumulate { size: 4 * S, step: 2 * S, offset: 0 }, &["sum(speed) AS way"], 0);
    descriptor.key.clear();
    check(
        descriptor,
        "rows a 10 1 | b 20 3\nwm 1.999999\nrows a 5 1\nwm max",
        expect![[r#"
        > rows a 10 1 | b 20 3
        > wm 1.999999
          main (window_start window_end window_time* way)
          main 0 2 1.999999 10.0
          (more)
          wm 1.999999
        > rows a 5 1
        > wm max
          main 0 4 3.999999 35.0
          (more)
          wm max
    "#]],
    );
}

#[test]
fn windows_without_aggregates_give_the_distinct_keys() {
    let hop = WindowSpec::Hop { size: 4 * S, slide: 2 * S, offset: 0 };
    check(
        window(hop, &[], 0),
        "rows a 1 1 | a 2 1 | b 3 3\nwm max",
        expect![[r#"
        > rows a 1 1 | a 2 1 | b 3 3
        > wm max
          main (truck window_start window_end window_time*)
          main a -2 2 1.999999
          (more)
          main a 0 4 3.999999
          main b 0 4 3.999999
          (more)
          main b 2 6 5.999999
          (more)
          wm max
    "#]],
    );
}
