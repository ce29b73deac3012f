//! Tests of `last_by_key` with a time to live: scripts, a simple model, cuts at every place, and memory.

use std::collections::BTreeMap;

use expect_test::{Expect, expect};
use proptest::prelude::*;
use weir_core::{Batch, EventTime, OutputTag};
use weir_graph::descriptor::LastByKey;
use weir_graph::row_schema;
use weir_testkit::{Runner, context, read_rows, schema};

use crate::cut_runs::{Keyed, Row as RandomRow, feed_keys_to_forget, runs, word};
use crate::last_by_key::create;

const INPUT: &str = "k STRING, v BIGINT, t TIMESTAMP*";
const TEN: Option<i64> = Some(10_000_000);

fn last(order_by: &[&str], state_ttl: Option<i64>) -> LastByKey {
    let order_by = order_by.iter().map(|column| (*column).to_owned()).collect();
    LastByKey { key: vec!["k".to_owned()], order_by, state_ttl }
}

fn runner(order_by: &[&str], state_ttl: Option<i64>) -> Runner {
    runner_over(INPUT, order_by, state_ttl)
}

fn runner_over(input: &str, order_by: &[&str], state_ttl: Option<i64>) -> Runner {
    let input = schema(input);
    let output = row_schema::last_by_key(&input).expect("the input only inserts");
    let (context, clock) = context(vec![input], output);
    Runner::new(create(&last(order_by, state_ttl), &context).expect("the columns exist"), &context, clock)
}

fn check(order_by: &[&str], script: &str, expected: Expect) {
    expected.assert_eq(&runner(order_by, TEN).run(script));
}

#[test]
fn key_begins_anew_after_a_silence() {
    check(
        &[],
        "rows a 1 10\nrows a 2 20 | b 3 15\nrows a 4 30.1\nwm 25\nrows a 5 31 | b 6 25.1 | b 7 15\nwm 60\nrows a 8 50 | c 9 61",
        expect![[r#"
            > rows a 1 10
              main (k v t*)
              main +I a 1 10
            > rows a 2 20 | b 3 15
              main +U a 2 20
              main +I b 3 15
            > rows a 4 30.1
              main +I a 4 30.1
            > wm 25
              wm 25
            > rows a 5 31 | b 6 25.1 | b 7 15
              late (k v t*)
              late b 7 15
              main +U a 5 31
              main +I b 6 25.1
            > wm 60
              wm 60
            > rows a 8 50 | c 9 61
              late a 8 50
              main +I c 9 61
        "#]],
    );
}

#[test]
fn best_row_of_a_key_is_forgotten_with_its_key() {
    check(
        &["v"],
        "rows a 9 10\nrows a 5 20\nrows a 1 30\nrows a 2 41 | a 3 30.9\nrows a 4 42",
        expect![[r#"
            > rows a 9 10
              main (k v t*)
              main +I a 9 10
            > rows a 5 20
            > rows a 1 30
            > rows a 2 41 | a 3 30.9
              main +I a 2 41
            > rows a 4 42
              main +U a 4 42
        "#]],
    );
}

#[test]
fn another_time_may_be_what_rows_are_ordered_by() {
    let mut runner = runner_over("k STRING, u TIMESTAMP, t TIMESTAMP*", &["u"], TEN);
    expect![[r#"
        > rows a 50 10 | a 40 11
          main (k u t*)
          main +I a 50 10
        > rows a 30 21
        > rows a 20 31.1
          main +I a 20 31.1
    "#]]
    .assert_eq(&runner.run("rows a 50 10 | a 40 11\nrows a 30 21\nrows a 20 31.1"));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(256))]
    /// Against a map that forgets nothing: what a row meets depends on the rows of its key alone, not on watermarks.
    #[test]
    fn watermarks_only_free_memory(
        rows in prop::collection::vec((0i64..4, 0u8..4, 0i64..9), 1..80),
        ttl in 1i64..8,
        disorder in 0i64..4,
        by_value in any::<bool>(),
        batch_rows in 1usize..4,
    ) {
        let mut runner = runner(if by_value { &["v", "v"] } else { &[] }, Some(ttl + disorder));
        let (mut model, mut expected, mut now) = (BTreeMap::<u8, (i64, i64)>::new(), BTreeMap::new(), 0);
        let mut table: BTreeMap<String, String> = BTreeMap::new();
        let ttl = ttl + disorder;
        for batch in rows.chunks(batch_rows) {
            let (mut text, mut begins) = (Vec::new(), false);
            for (advance, key, value) in batch {
                now += advance;
                let time = now - (value * 7) % (disorder + 1);
                text.push(format!("k{key} {value} {time}us"));
                let order = if by_value { *value } else { time };
                let (touched, best) = model.entry(*key).or_insert((i64::MIN, i64::MIN));
                begins = *touched == i64::MIN || time > *touched + ttl;
                if begins {
                    (*touched, *best) = (time, order);
                } else if time + ttl < *touched || order < *best {
                    *touched = time.max(*touched);
                    continue;
                } else {
                    (*touched, *best) = (time.max(*touched), order);
                }
                expected.insert(format!("k{key}"), format!("{value} {}", weir_testkit::seconds(time)));
            }
            runner.batch(0, Batch::new(read_rows(&schema(INPUT), &text.join("\n")), 0));
            for row in runner.recorder.rows(OutputTag::Main) {
                let words: Vec<&str> = row.split(' ').collect();
                table.insert(words[1].to_owned(), format!("{} {}", words[2], words[3]));
                prop_assert!(batch.len() > 1 || words[0] == if begins { "+I" } else { "+U" }, "{}", row);
            }
            prop_assert!(runner.recorder.rows(OutputTag::Late).is_empty());
            runner.recorder.take();
            prop_assert_eq!(&table, &expected);
            runner.watermark(EventTime(now - disorder - 1));
        }
    }
}

fn with_keyed(order_by: &[&str], ttl: i64, check: impl FnOnce(&Keyed<'_>)) {
    let input = schema(INPUT);
    let last = last(order_by, Some(ttl));
    check(&Keyed {
        output: row_schema::last_by_key(&input).expect("the input only inserts"),
        inputs: vec![input],
        keys: vec![vec![0]],
        make: &|context| create(&last, context),
    });
}

const ORDERS: [&[&str]; 3] = [&[], &["v", "t DESC"], &["v DESC"]];

#[test]
fn newest_rows_go_on_wherever_they_are_cut() {
    let script = "rows a 1 10 | b - 2 | - 3 4 | c - 9 | a 4 11\nwm 11\nrows a 5 21 | b 1 13 | e 1 1\nwm 14\nrows b 6 10 | c - 20 \
                  | - 8 1\nrows - 9 20 | a 0 32 | d 1 5\nwm 24\nrows a 9 33 | b 1 34 | c 1 30 | d 1 31 | - 9 29\nwm 44\n\
                  rows a 1 44 | b 2 45 | e 1 50\nwm 100\nrows a 1 99 | b 1 120\nwm max\nend";
    for order_by in ORDERS {
        with_keyed(order_by, 10_000_000, |keyed| keyed.check_everywhere(script));
    }
}

proptest! {
    #[test]
    fn random_runs_go_on_wherever_they_are_cut(run in runs(1, print), order in 0..ORDERS.len(), ttl in 1i64..60) {
        with_keyed(ORDERS[order], ttl, |keyed| keyed.check_at(&run));
    }
}

fn print(_input: usize, (key, value, time): RandomRow) -> String {
    format!("{} {} {time}us", word("k", key), word("", value))
}

#[test]
fn keys_that_are_heard_of_no_more_cost_no_memory() {
    for order_by in ORDERS {
        let mut runner = runner(order_by, Some(1000));
        let mut sizes = Vec::new();
        for round in 0..200i64 {
            let rows = |row: i64| format!("key-{}-with-a-name {row} {}us", round * 100 + row, round * 1000 + row);
            let text: Vec<String> = (0..100).map(rows).collect();
            runner.batch(0, Batch::new(read_rows(&schema(INPUT), &text.join("\n")), 0));
            runner.watermark(EventTime(round * 1000 + 100));
            assert_eq!(runner.recorder.rows(OutputTag::Main).len(), 100);
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
}

#[test]
fn time_to_live_may_come_and_go_with_a_savepoint() {
    for (before, after) in [(None, TEN), (TEN, None)] {
        let mut old = runner(&[], before);
        old.run("rows a 1 10 | b 2 15\nwm 12");
        let mut new = runner(&[], after);
        new.restore(old.snapshot(), EventTime(12_000_000)).expect("the state fits");
        let kind = if after.is_some() { "+I" } else { "+U" };
        let expected = format!("  main (k v t*)\n  main +U b 4 16\n  main {kind} a 5 22.1\n");
        let found = new.run("rows a 3 9 | b 4 16 | a 5 22.1 | b 6 14");
        assert!(found.ends_with(&expected), "{found}");
    }
}

/// Keys of ever new names, put on disk again and again: what is forgotten leaves the disk, and a row begins anew.
#[test]
fn forgotten_keys_leave_the_disk() {
    for order_by in ORDERS {
        let input = schema(INPUT);
        let output = row_schema::last_by_key(&input).expect("the input only inserts");
        let (context, clock) = context(vec![input], output);
        let stores = context.stores.clone();
        let operator = create(&last(order_by, Some(1000)), &context).expect("the columns exist");
        let mut runner = Runner::new(operator, &context, clock);
        feed_keys_to_forget(&mut runner, &stores, &schema(INPUT), (0, 0));
        let rows = runner.recorder.rows(OutputTag::Main);
        let count = |word: &str| rows.iter().filter(|row| row.starts_with(word)).count();
        assert_eq!((count("+I key-"), count("+I again"), count("+I seldom")), (10_000, 1, 13), "{order_by:?}");
    }
}
