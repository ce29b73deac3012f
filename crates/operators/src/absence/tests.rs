//! Tests of the operator in `absence.rs`: scripts, and a simple model where there is one.

use std::collections::{BTreeMap, BTreeSet};

use expect_test::{Expect, expect};
use proptest::prelude::*;
use weir_core::{Batch, EventTime, OutputTag};
use weir_graph::descriptor::Absence;
use weir_graph::row_schema;
use weir_testkit::{Runner, context, read_rows, schema};

use crate::cut_runs::{Keyed, Row as RandomRow, runs, word};

const INPUT: &str = "k STRING, v BIGINT, t TIMESTAMP*";

fn runner(timeout_us: i64, batch_rows: usize) -> Runner {
    let input = schema(INPUT);
    let output = row_schema::absence(&input).expect("the input only inserts");
    let (mut context, clock) = context(vec![input], output);
    context.batch_rows = batch_rows;
    let absence = Absence { key: vec!["k".to_owned()], timeout: timeout_us };
    Runner::new(super::create(&absence, &context).expect("the key exists"), &context, clock)
}

fn check(batch_rows: usize, script: &str, expected: Expect) {
    expected.assert_eq(&runner(10_000_000, batch_rows).run(script));
}

#[test]
fn silence_is_reported_once_and_the_key_starts_anew() {
    check(
        100,
        "rows a 1 10 | b 2 15\nwm 19.9\nwm 20\nwm 30\nrows a 3 31\nwm 41\nwm 60",
        expect![[r#"
        > rows a 1 10 | b 2 15
        > wm 19.9
          wm 19.9
        > wm 20
          main (k v t silent_until*)
          main a 1 10 20
          wm 20
        > wm 30
          main b 2 15 25
          wm 30
        > rows a 3 31
        > wm 41
          main a 3 31 41
          wm 41
        > wm 60
          wm 60
    "#]],
    );
}

#[test]
fn row_within_the_timeout_breaks_the_silence_even_at_its_last_moment() {
    check(
        100,
        "rows a 1 10\nrows a 2 20\nwm 29\nwm 30",
        expect![[r#"
        > rows a 1 10
        > rows a 2 20
        > wm 29
          wm 29
        > wm 30
          main (k v t silent_until*)
          main a 2 20 30
          wm 30
    "#]],
    );
}

#[test]
fn silence_between_two_rows_is_found_though_no_watermark_came_between() {
    check(
        100,
        "rows a 1 10 | a 2 50\nwm 49\nrows a 3 45\nwm 70",
        expect![[r#"
        > rows a 1 10 | a 2 50
        > wm 49
          main (k v t silent_until*)
          main a 1 10 20
          wm 49
        > rows a 3 45
        > wm 70
          main a 2 50 60
          wm 70
    "#]],
    );
}

#[test]
fn older_row_fills_a_gap_and_changes_nothing_else() {
    check(
        100,
        "rows a 1 10 | a 3 30\nrows a 2 20\nrows a 4 25\nwm 39\nwm 40",
        expect![[r#"
        > rows a 1 10 | a 3 30
        > rows a 2 20
        > rows a 4 25
        > wm 39
          wm 39
        > wm 40
          main (k v t silent_until*)
          main a 3 30 40
          wm 40
    "#]],
    );
}

#[test]
fn row_older_than_a_reported_silence_is_late() {
    check(
        100,
        "rows a 1 10\nwm 25\nrows a 2 8 | b 3 15 | c 4 16\nwm 26",
        expect![[r#"
        > rows a 1 10
        > wm 25
          main (k v t silent_until*)
          main a 1 10 20
          wm 25
        > rows a 2 8 | b 3 15 | c 4 16
          late (k v t*)
          late a 2 8
          late b 3 15
        > wm 26
          main c 4 16 26
          wm 26
    "#]],
    );
}

#[test]
fn end_of_input_is_no_silence() {
    check(
        100,
        "rows a 1 10 | b 2 11\nwm 20\nwm max\nend",
        expect![[r#"
        > rows a 1 10 | b 2 11
        > wm 20
          main (k v t silent_until*)
          main a 1 10 20
          wm 20
        > wm max
          wm max
        > end
    "#]],
    );
}

#[test]
fn results_leave_in_pieces() {
    check(
        2,
        "rows a 1 1 | b 1 2 | c 1 3 | d 1 4 | e 1 50\nwm 40",
        expect![[r#"
        > rows a 1 1 | b 1 2 | c 1 3 | d 1 4 | e 1 50
        > wm 40
          main (k v t silent_until*)
          main a 1 1 11
          main b 1 2 12
          (more)
          main c 1 3 13
          main d 1 4 14
          wm 40
    "#]],
    );
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(96))]
    /// Rows in any order and batches, watermarks that keep their promise: a row is followed by a silence exactly when
    /// no row of its key comes within the timeout after it, and its end is known.
    #[test]
    fn silences_do_not_depend_on_arrival(
        mut rows in prop::collection::vec((0i64..120, 0u8..4), 1..60),
        timeout in 1i64..20,
        disorder in 0i64..30,
        batch_rows in 1usize..10,
    ) {
        let mut times: BTreeMap<u8, BTreeSet<i64>> = BTreeMap::new();
        rows.iter().for_each(|(time, key)| { times.entry(*key).or_default().insert(*time); });
        rows.sort_by_key(|(time, key)| time + (i64::from(*key) * 7 + time * 13) % (disorder + 1));
        let (mut runner, mut newest) = (runner(timeout, 3), i64::MIN);
        for batch in rows.chunks(batch_rows) {
            let text: Vec<String> = batch.iter().map(|(time, key)| format!("k{key} 0 {time}us")).collect();
            runner.batch(0, Batch::new(read_rows(&schema(INPUT), &text.join("\n")), 0));
            newest = batch.iter().map(|row| row.0).max().unwrap_or(newest).max(newest);
            runner.watermark(EventTime(newest - disorder - 1));
        }
        let end = newest - disorder - 1;
        runner.watermark(EventTime::MAX);
        let mut expected = BTreeSet::new();
        for (key, times) in &times {
            for time in times {
                let is_followed = times.range(time + 1..=time + timeout).next().is_some();
                if !is_followed && time + timeout <= end {
                    let (time, until) = (weir_testkit::seconds(*time), weir_testkit::seconds(time + timeout));
                    expected.insert(format!("k{key} 0 {time} {until}"));
                }
            }
        }
        let found = runner.recorder.rows(OutputTag::Main);
        prop_assert!(runner.recorder.rows(OutputTag::Late).is_empty());
        prop_assert_eq!(found.len(), expected.len());
        prop_assert_eq!(found.into_iter().collect::<BTreeSet<_>>(), expected);
    }
}

fn with_keyed(timeout: i64, check: impl FnOnce(&Keyed<'_>)) {
    let input = schema(INPUT);
    let absence = Absence { key: vec!["k".to_owned()], timeout };
    check(&Keyed {
        output: row_schema::absence(&input).expect("the input only inserts"),
        inputs: vec![input],
        keys: vec![vec![0]],
        make: &|context| super::create(&absence, context),
    });
}

/// Carries c6: a silence is reported once, also when the run is cut before or after it.
#[test]
fn c6_silences_are_reported_once_wherever_they_are_cut() {
    with_keyed(10_000_000, |keyed| {
        keyed.check_everywhere(
            "rows a 1 10 | b 2 15 | - - 12 | a 3 50 | c 1 1\nwm 19.9\nrows c 2 10 | a 4 22\nwm 20\nrows a 5 31 | b 6 16\n\
             wm 30\nrows a 7 41 | d 1 5 | d 1 35 | c 9 21\nwm 45\nwm 60\nrows b 1 51 | b 2 51\nwm 60.9\nwm max\nend",
        );
    });
}

proptest! {
    #[test]
    fn c6_random_runs_go_on_wherever_they_are_cut(run in runs(1, print), timeout in 1i64..30) {
        with_keyed(timeout, |keyed| keyed.check_at(&run));
    }
}

fn print(_input: usize, (key, value, time): RandomRow) -> String {
    format!("{} {} {time}us", word("k", key), word("", value))
}

#[test]
fn keys_that_are_heard_of_no_more_cost_no_memory() {
    let mut runner = runner(1000, 8192);
    let mut sizes = Vec::new();
    for round in 0..200i64 {
        let rows = |row: i64| format!("key-{}-with-a-name {row} {}us", round * 100 + row, round * 1000 + row);
        let text: Vec<String> = (0..100).map(rows).collect();
        runner.batch(0, Batch::new(read_rows(&schema(INPUT), &text.join("\n")), 0));
        runner.watermark(EventTime(round * 1000 + 100));
        runner.recorder.take();
        sizes.push(runner.operator().state_bytes());
    }
    let most = |sizes: &[usize]| sizes.iter().max().copied().unwrap_or(0);
    assert!(most(&sizes[100..]) <= most(&sizes[..100]) * 5 / 4, "{sizes:?}");
    // Nor do late rows of keys that are not known.
    let held = runner.operator().state_bytes();
    for round in 0..100 {
        let text: Vec<String> = (0..300).map(|row| format!("late-{round}-{row} 1 0us")).collect();
        runner.batch(0, Batch::new(read_rows(&schema(INPUT), &text.join("\n")), 0));
        assert_eq!(runner.recorder.rows(OutputTag::Late).len(), 300);
        runner.recorder.take();
    }
    let bytes = runner.operator().state_bytes();
    assert!(bytes < held + 300_000, "{held} bytes, then {bytes}");
    // A burst leaves nothing behind either.
    let burst: Vec<String> = (0..20_000).map(|row| format!("burst-{row} 1 {}us", 300_000 + row % 7)).collect();
    runner.batch(0, Batch::new(read_rows(&schema(INPUT), &burst.join("\n")), 0));
    let full = runner.operator().state_bytes();
    runner.watermark(EventTime(400_000));
    let empty = runner.operator().state_bytes();
    assert!(empty < full / 20, "{full} bytes, then {empty}");
}
