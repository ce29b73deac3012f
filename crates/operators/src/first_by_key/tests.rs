//! Tests of the operator in `first_by_key.rs`: scripts, and a simple model where there is one.

use std::collections::{BTreeMap, BTreeSet};

use expect_test::{Expect, expect};
use proptest::prelude::*;
use weir_core::{Batch, EventTime, OutputTag};
use weir_graph::descriptor::FirstByKey;
use weir_testkit::{Runner, context, read_rows, schema};

use crate::cut_runs::{Keyed, Row as RandomRow, runs, word};

const INPUT: &str = "k STRING, v BIGINT, t TIMESTAMP*";

fn runner(batch_rows: usize) -> Runner {
    let (mut context, clock) = context(vec![schema(INPUT)], schema(INPUT));
    context.batch_rows = batch_rows;
    let operator =
        super::create(&FirstByKey { key: vec!["k".to_owned()], state_ttl: None }, &context).expect("the key exists");
    Runner::new(operator, &context, clock)
}

fn check(batch_rows: usize, script: &str, expected: Expect) {
    expected.assert_eq(&runner(batch_rows).run(script));
}

#[test]
fn first_row_leaves_once_when_no_earlier_one_can_come() {
    check(
        100,
        "rows a 1 10 | b 2 5 | a 3 7\nwm 6\nrows a 4 8 | b 5 7\nwm 7\nrows a 6 9\nwm max\nend",
        expect![[r#"
        > rows a 1 10 | b 2 5 | a 3 7
        > wm 6
          main (k v t*)
          main b 2 5
          wm 6
        > rows a 4 8 | b 5 7
        > wm 7
          main a 3 7
          wm 7
        > rows a 6 9
        > wm max
          wm max
        > end
    "#]],
    );
}

#[test]
fn late_row_goes_to_the_late_output_unless_its_key_has_left() {
    check(
        100,
        "rows a 1 10\nwm 10\nrows a 2 3 | b 3 10 | c 4 11\nwm max",
        expect![[r#"
        > rows a 1 10
        > wm 10
          main (k v t*)
          main a 1 10
          wm 10
        > rows a 2 3 | b 3 10 | c 4 11
          late (k v t*)
          late b 3 10
        > wm max
          main c 4 11
          wm max
    "#]],
    );
}

#[test]
fn results_leave_in_pieces() {
    check(
        2,
        "rows a 1 1 | b 1 2 | c 1 3 | d 1 4 | e 1 5\nwm 4\nwm max",
        expect![[r#"
        > rows a 1 1 | b 1 2 | c 1 3 | d 1 4 | e 1 5
        > wm 4
          main (k v t*)
          main a 1 1
          main b 1 2
          (more)
          main c 1 3
          main d 1 4
          wm 4
        > wm max
          main e 1 5
          wm max
    "#]],
    );
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]
    /// Rows in any order and batches, watermarks that keep their promise: always the same first rows.
    #[test]
    fn first_rows_do_not_depend_on_arrival(
        mut rows in prop::collection::vec((0i64..60, 0u8..6, 0i64..3), 1..60),
        disorder in 0i64..20,
        batch_rows in 1usize..10,
    ) {
        let mut expected: BTreeMap<u8, (i64, i64)> = BTreeMap::new();
        for (time, key, value) in &rows {
            let first = expected.entry(*key).or_insert((*time, *value));
            *first = (*first).min((*time, *value));
        }
        // Rows come at most `disorder` behind the newest.
        rows.sort_by_key(|(time, key, value)| time + (i64::from(*key) * 7 + value * 5) % (disorder + 1));
        let (mut runner, mut newest) = (runner(3), i64::MIN);
        for batch in rows.chunks(batch_rows) {
            let text: Vec<String> = batch.iter().map(|(time, key, value)| format!("k{key} {value} {time}us")).collect();
            runner.batch(0, Batch::new(read_rows(&schema(INPUT), &text.join("\n")), 0));
            newest = batch.iter().map(|row| row.0).max().unwrap_or(newest).max(newest);
            runner.watermark(EventTime(newest - disorder - 1));
        }
        runner.watermark(EventTime::MAX);
        prop_assert!(runner.recorder.rows(OutputTag::Late).is_empty());
        let found = runner.recorder.rows(OutputTag::Main);
        let expected: BTreeSet<String> =
            expected.iter().map(|(key, (time, value))| format!("k{key} {value} {}", weir_testkit::seconds(*time))).collect();
        prop_assert_eq!(found.len(), expected.len());
        prop_assert_eq!(found.into_iter().collect::<BTreeSet<_>>(), expected);
    }
}

fn with_keyed(check: impl FnOnce(&Keyed<'_>)) {
    let first = FirstByKey { key: vec!["k".to_owned()], state_ttl: None };
    check(&Keyed {
        inputs: vec![schema(INPUT)],
        output: schema(INPUT),
        keys: vec![vec![0]],
        make: &|context| super::create(&first, context),
    });
}

/// Carries c6: a first row is given once, also when the run is cut before or after it.
#[test]
fn c6_first_rows_leave_once_wherever_they_are_cut() {
    with_keyed(|keyed| {
        keyed.check_everywhere(
            "rows a 1 10 | b 2 5 | a 3 7 | - - 4 | c 1 20\nwm 6\nrows a 4 8 | b 5 7 | d 1 2 | d 2 9\nwm 7\n\
             rows a 6 9 | e 3 8 | e 2 8 | - 1 8\nrows e 1 8\nwm 15\nrows c 0 19 | f 1 3\nwm max\nend",
        );
    });
}

proptest! {
    #[test]
    fn c6_random_runs_go_on_wherever_they_are_cut(run in runs(1, print)) {
        with_keyed(|keyed| keyed.check_at(&run));
    }
}

fn print(_input: usize, (key, value, time): RandomRow) -> String {
    format!("{} {} {time}us", word("k", key), word("", value))
}

#[test]
fn column_that_may_be_null_can_be_added_to_rows() {
    let mut narrow = {
        let input = schema("k STRING, t TIMESTAMP*");
        let (context, clock) = context(vec![input.clone()], input);
        let operator = super::create(&FirstByKey { key: vec!["k".to_owned()], state_ttl: None }, &context)
            .expect("the key exists");
        Runner::new(operator, &context, clock)
    };
    narrow.run("rows a 10 | b 5\nwm 6");
    let tables = narrow.snapshot();
    let mut wide = runner(100);
    wide.restore(tables.clone(), EventTime(6_000_000)).expect("the state fits");
    expect![[r#"
        > rows a 1 11 | b 1 12 | c 1 7
        > wm max
          main (k v t*)
          main c 1 7
          main a - 10
          wm max
    "#]]
    .assert_eq(&wide.run("rows a 1 11 | b 1 12 | c 1 7\nwm max"));
    let strict = schema("k STRING, v BIGINT NOT NULL, t TIMESTAMP*");
    let (context, _) = context(vec![strict.clone()], strict);
    let mut operator =
        super::create(&FirstByKey { key: vec!["k".to_owned()], state_ttl: None }, &context).expect("the key exists");
    let error = operator.restore(tables, EventTime(6_000_000)).expect_err("a column is missing");
    let message = "table 'first-rows' of the checkpoint cannot be taken over: it lacks the column 'row.v' (Int64), which \
                   may not be null";
    assert_eq!((error.code, error.message.as_str()), ("state-incompatible", message));
}

/// Emits the first rows of `keys`, each at a time of its own.
fn pass(runner: &mut Runner, keys: std::ops::Range<i64>) {
    let text: Vec<String> = keys.clone().map(|key| format!("k{key} 1 {key}us")).collect();
    runner.batch(0, Batch::new(read_rows(&schema(INPUT), &text.join("\n")), 0));
    runner.watermark(EventTime(keys.end - 1));
}

#[test]
fn keys_on_disk_cost_next_to_no_memory_and_stay_known() {
    let mut runner = runner(10_000);
    let mut sizes = Vec::new();
    for round in 0..50 {
        pass(&mut runner, 1000 * round..1000 * (round + 1));
        assert_eq!(runner.recorder.rows(OutputTag::Main).len(), 1000);
        runner.recorder.take();
        runner.operator().spill().expect("the store is there");
        sizes.push(runner.operator().state_bytes());
    }
    assert!(sizes[49] < sizes[0] + 50 * 1000 * 24, "{sizes:?}");
    // Known keys come back by any batch, once a checkpoint was restored, too.
    let tables = runner.snapshot();
    let mut restored = self::runner(10_000);
    restored.restore(tables, EventTime(49_999)).expect("the state fits");
    for mut runner in [runner, restored] {
        let rows = (0..60_000).step_by(100).map(|key| format!("k{key} 2 {}us", 50_000 + key));
        let text: Vec<String> = rows.collect();
        runner.batch(0, Batch::new(read_rows(&schema(INPUT), &text.join("\n")), 0));
        runner.watermark(EventTime::MAX);
        assert_eq!(runner.recorder.rows(OutputTag::Main).len(), 100);
    }
}

#[test]
fn full_disk_leaves_keys_in_memory() {
    let (mut context, clock) = context(vec![schema(INPUT)], schema(INPUT));
    let full = || weir_state::StateStoreError { place: "d".to_owned(), doing: "write", reason: "full".to_owned() };
    context.stores = weir_state::StateStores::new(move || Err(full()));
    let first = FirstByKey { key: vec!["k".to_owned()], state_ttl: None };
    let mut runner = Runner::new(super::create(&first, &context).expect("the key exists"), &context, clock);
    pass(&mut runner, 0..10);
    let before = runner.snapshot();
    runner.operator().spill().expect_err("the disk is full");
    assert_eq!(runner.snapshot()[0].num_rows(), before[0].num_rows());
    runner.recorder.take();
    pass(&mut runner, 5..15);
    assert_eq!(runner.recorder.rows(OutputTag::Main).len(), 5);
}
