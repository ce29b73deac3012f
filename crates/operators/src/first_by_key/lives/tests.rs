//! Tests of `first_by_key` with a time to live: scripts, a simple model, cuts at every place, and memory.

use std::collections::{BTreeMap, BTreeSet};

use expect_test::expect;
use proptest::prelude::*;
use weir_core::{Batch, EventTime, OutputTag};
use weir_graph::descriptor::FirstByKey;
use weir_operator_api::{Operator, OperatorContext, Result};
use weir_testkit::{Runner, context, read_rows, schema};

use crate::cut_runs::{Keyed, Row as RandomRow, feed_keys_to_forget, runs, word};
use crate::first_by_key::create;

const INPUT: &str = "k STRING, v BIGINT, t TIMESTAMP*";

fn make(state_ttl: Option<i64>, context: &OperatorContext) -> Result<Box<dyn Operator>> {
    create(&FirstByKey { key: vec!["k".to_owned()], state_ttl }, context)
}

fn runner(state_ttl: Option<i64>, batch_rows: usize) -> Runner {
    let (mut context, clock) = context(vec![schema(INPUT)], schema(INPUT));
    context.batch_rows = batch_rows;
    Runner::new(make(state_ttl, &context).expect("the key exists"), &context, clock)
}

const TEN: Option<i64> = Some(10_000_000);

#[test]
fn key_has_a_first_row_after_every_silence() {
    expect![[r#"
        > rows a 1 10 | b 2 5
        > wm 10
          main (k v t*)
          main b 2 5
          main a 1 10
          wm 10
        > rows a 3 20 | a 4 31 | b 5 16
        > wm 31
          main b 5 16
          main a 4 31
          wm 31
        > wm max
          wm max
    "#]]
    .assert_eq(&runner(TEN, 100).run("rows a 1 10 | b 2 5\nwm 10\nrows a 3 20 | a 4 31 | b 5 16\nwm 31\nwm max"));
}

#[test]
fn row_between_two_lives_makes_them_one() {
    expect![[r#"
        > rows a 1 0 | a 2 11
        > rows a 3 5
        > wm 30
          main (k v t*)
          main a 1 0
          wm 30
        > rows a 4 40 | a 5 52 | a 6 51
        > rows a 7 51 | a 8 46
        > wm max
          main a 4 40
          wm max
    "#]]
    .assert_eq(
        &runner(TEN, 100)
            .run("rows a 1 0 | a 2 11\nrows a 3 5\nwm 30\nrows a 4 40 | a 5 52 | a 6 51\nrows a 7 51 | a 8 46\nwm max"),
    );
}

#[test]
fn late_row_is_late_once_its_key_is_forgotten() {
    expect![[r#"
        > rows a 1 10
        > wm 19.9
          main (k v t*)
          main a 1 10
          wm 19.9
        > rows a 2 12
        > wm 20
          wm 20
        > rows a 3 12 | b 4 20
          late (k v t*)
          late a 3 12
          late b 4 20
        > rows a 5 20.1
        > wm max
          main a 5 20.1
          wm max
    "#]]
    .assert_eq(
        &runner(TEN, 100).run("rows a 1 10\nwm 19.9\nrows a 2 12\nwm 20\nrows a 3 12 | b 4 20\nrows a 5 20.1\nwm max"),
    );
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(96))]
    /// Rows in any order and batches, watermarks that keep their promise: a row is first exactly when its key had none in
    /// the time to live before it.
    #[test]
    fn first_rows_of_lives_do_not_depend_on_arrival(
        mut rows in prop::collection::vec((0i64..200, 0u8..6, 0i64..3), 1..80),
        ttl in 1i64..30,
        disorder in 0i64..30,
        batch_rows in 1usize..10,
    ) {
        let mut times: BTreeMap<u8, BTreeMap<i64, i64>> = BTreeMap::new();
        for (time, key, value) in &rows {
            let least = times.entry(*key).or_default().entry(*time).or_insert(*value);
            *least = (*least).min(*value);
        }
        let mut expected = BTreeSet::new();
        for (key, times) in &times {
            for (time, value) in times {
                if times.range(time - ttl..*time).next().is_none() {
                    expected.insert(format!("k{key} {value} {}", weir_testkit::seconds(*time)));
                }
            }
        }
        rows.sort_by_key(|(time, key, value)| time + (i64::from(*key) * 7 + value * 5 + time * 13) % (disorder + 1));
        let (mut runner, mut newest) = (runner(Some(ttl), 3), i64::MIN);
        for batch in rows.chunks(batch_rows) {
            let text: Vec<String> = batch.iter().map(|(time, key, value)| format!("k{key} {value} {time}us")).collect();
            runner.batch(0, Batch::new(read_rows(&schema(INPUT), &text.join("\n")), 0));
            newest = batch.iter().map(|row| row.0).max().unwrap_or(newest).max(newest);
            runner.watermark(EventTime(newest - disorder - 1));
        }
        runner.watermark(EventTime::MAX);
        prop_assert!(runner.recorder.rows(OutputTag::Late).is_empty());
        let found = runner.recorder.rows(OutputTag::Main);
        prop_assert_eq!(found.len(), expected.len());
        prop_assert_eq!(found.into_iter().collect::<BTreeSet<_>>(), expected);
    }
}

fn with_keyed(ttl: i64, check: impl FnOnce(&Keyed<'_>)) {
    check(&Keyed {
        inputs: vec![schema(INPUT)],
        output: schema(INPUT),
        keys: vec![vec![0]],
        make: &|context| make(Some(ttl), context),
    });
}

/// Carries c6: a first row is given once in each life, also when the run is cut anywhere.
#[test]
fn c6_first_rows_of_lives_leave_once_wherever_they_are_cut() {
    with_keyed(10_000_000, |keyed| {
        keyed.check_everywhere(
            "rows a 1 10 | b 2 5 | a 3 7 | - - 4 | c 1 20 | a 1 33\nwm 6\nrows a 4 8 | b 5 17 | d 1 2 | d 2 9\nwm 7\n\
             rows a 6 29 | e 3 8 | e 2 8 | - 1 15\nrows e 1 8 | a 2 22\nwm 15\nrows c 0 19 | f 1 3 | c 2 27\nwm 18\nwm 29\n\
             rows b 1 30 | d 1 31 | - 2 40 | e 1 50 | d 0 12\nwm 45\nrows e 2 46 | g 1 47\nwm 100\nrows a 1 101\nwm max\nend",
        );
    });
}

proptest! {
    #[test]
    fn c6_random_runs_go_on_wherever_they_are_cut(run in runs(1, print), ttl in 1i64..60) {
        with_keyed(ttl, |keyed| keyed.check_at(&run));
    }
}

fn print(_input: usize, (key, value, time): RandomRow) -> String {
    format!("{} {} {time}us", word("k", key), word("", value))
}

#[test]
fn keys_that_are_heard_of_no_more_cost_no_memory() {
    let mut runner = runner(Some(1000), 8192);
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
    assert_eq!(runner.recorder.rows(OutputTag::Main).len(), 20_000);
    let empty = runner.operator().state_bytes();
    assert!(empty < full / 20, "{full} bytes, then {empty}");
}

#[test]
fn time_to_live_may_come_and_go_with_a_savepoint() {
    let script = "rows a 1 10 | b 2 5 | c 3 30\nwm 12";
    let snapshot = |state_ttl: Option<i64>| {
        let mut runner = runner(state_ttl, 100);
        runner.run(script);
        runner.snapshot()
    };
    let mut gains = runner(TEN, 100);
    gains.restore(snapshot(None), EventTime(12_000_000)).expect("the state fits");
    expect![[r#"
        > rows a 4 22 | b 5 22.1 | c 6 25
        > wm 50
          main (k v t*)
          main b 5 22.1
          main c 6 25
          (more)
          wm 50
    "#]]
    .assert_eq(&gains.run("rows a 4 22 | b 5 22.1 | c 6 25\nwm 50"));
    let mut loses = runner(None, 100);
    loses.restore(snapshot(TEN), EventTime(12_000_000)).expect("the state fits");
    expect![[r#"
        > rows a 4 22 | b 5 22.1 | c 6 25
        > wm 50
          main (k v t*)
          main c 6 25
          wm 50
    "#]]
    .assert_eq(&loses.run("rows a 4 22 | b 5 22.1 | c 6 25\nwm 50"));
}

/// Keys of ever new names, put on disk again and again: what is forgotten leaves the disk, and may be first again.
#[test]
fn forgotten_keys_leave_the_disk() {
    let (context, clock) = context(vec![schema(INPUT)], schema(INPUT));
    let stores = context.stores.clone();
    let mut runner = Runner::new(make(Some(1000), &context).expect("the key exists"), &context, clock);
    feed_keys_to_forget(&mut runner, &stores, &schema(INPUT), (1, 100));
    let rows = runner.recorder.rows(OutputTag::Main);
    let count = |word: &str| rows.iter().filter(|row| row.starts_with(word)).count();
    assert_eq!((count("again"), count("often"), count("seldom")), (1, 1, 13));
}
