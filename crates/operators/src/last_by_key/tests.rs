//! Tests of the operator in `last_by_key.rs`: scripts, and a simple model where there is one.

use std::collections::BTreeMap;

use expect_test::{Expect, expect};
use proptest::prelude::*;
use weir_core::{Batch, EventTime, OutputTag};
use weir_graph::descriptor::LastByKey;
use weir_graph::row_schema;
use weir_testkit::{Runner, context, read_rows, schema};

use crate::cut_runs::{Keyed, Row as RandomRow, runs, word};

const INPUT: &str = "k STRING, v BIGINT, t TIMESTAMP*";

fn runner(order_by: &[&str]) -> Runner {
    let input = schema(INPUT);
    let output = row_schema::last_by_key(&input).expect("the input only inserts");
    let (context, clock) = context(vec![input], output);
    let last = LastByKey {
        key: vec!["k".to_owned()],
        order_by: order_by.iter().map(|column| (*column).to_owned()).collect(),
        state_ttl: None,
    };
    Runner::new(super::create(&last, &context).expect("the columns exist"), &context, clock)
}

fn check(order_by: &[&str], script: &str, expected: Expect) {
    expected.assert_eq(&runner(order_by).run(script));
}

#[test]
fn newest_row_of_each_key_leaves_once_per_batch() {
    let script =
        "rows a 1 10 | b 2 10 | a 3 12 | a 4 11\nrows a 5 11\nrows b 6 10 | c 7 1 | - 8 1\nrows - 9 2\nwm 20\nend";
    check(
        &[],
        script,
        expect![[r#"
        > rows a 1 10 | b 2 10 | a 3 12 | a 4 11
          main (k v t*)
          main +I b 2 10
          main +I a 3 12
        > rows a 5 11
        > rows b 6 10 | c 7 1 | - 8 1
          main +U b 6 10
          main +I c 7 1
          main +I - 8 1
        > rows - 9 2
          main +U - 9 2
        > wm 20
          wm 20
        > end
    "#]],
    );
}

#[test]
fn order_can_be_any_columns_and_nulls_are_oldest() {
    check(
        &["v", "t"],
        "rows a 1 10 | a - 99\nrows a 1 9\nrows a 1 10\nrows a 2 1 | b - -\nrows b - 1",
        expect![[r#"
        > rows a 1 10 | a - 99
          main (k v t*)
          main +I a 1 10
        > rows a 1 9
        > rows a 1 10
          main +U a 1 10
        > rows a 2 1 | b - -
          main +U a 2 1
          main +I b - -
        > rows b - 1
          main +U b - 1
    "#]],
    );
    check(
        &["v DESC"],
        "rows a 5 1 | a 6 2\nrows a 4 3\nrows a - 4",
        expect![[r#"
        > rows a 5 1 | a 6 2
          main (k v t*)
          main +I a 5 1
        > rows a 4 3
          main +U a 4 3
        > rows a - 4
    "#]],
    );
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]
    /// After every batch, what the upserts add up to is the newest row of each key, the later one on a tie.
    #[test]
    fn upserts_add_up_to_the_newest_rows(
        batches in prop::collection::vec(prop::collection::vec((0u8..5, 0i64..10), 1..20), 1..8),
        by_bytes in any::<bool>(),
    ) {
        let mut runner = runner(if by_bytes { &["t", "t"] } else { &[] });
        let (mut number, mut newest, mut table) = (0, BTreeMap::new(), BTreeMap::new());
        for batch in &batches {
            let mut text = Vec::new();
            for (key, time) in batch {
                number += 1;
                text.push(format!("k{key} {number} {time}"));
                let entry = newest.entry(*key).or_insert((*time, number));
                if *time >= entry.0 {
                    *entry = (*time, number);
                }
            }
            runner.batch(0, Batch::new(read_rows(&schema(INPUT), &text.join("\n")), 0));
            for row in runner.recorder.rows(OutputTag::Main) {
                let words: Vec<&str> = row.split(' ').collect();
                let before = table.insert(words[1].to_owned(), format!("{} {}", words[2], words[3]));
                prop_assert_eq!(words[0], if before.is_some() { "+U" } else { "+I" });
            }
            runner.recorder.take();
            let expected: BTreeMap<_, _> = newest.iter().map(|(k, (t, n))| (format!("k{k}"), format!("{n} {t}"))).collect();
            prop_assert_eq!(&table, &expected);
        }
    }
}

fn with_keyed(order_by: &[&str], check: impl FnOnce(&Keyed<'_>)) {
    let input = schema(INPUT);
    let last = LastByKey {
        key: vec!["k".to_owned()],
        order_by: order_by.iter().map(|column| (*column).to_owned()).collect(),
        state_ttl: None,
    };
    check(&Keyed {
        output: row_schema::last_by_key(&input).expect("the input only inserts"),
        inputs: vec![input],
        keys: vec![vec![0]],
        make: &|context| super::create(&last, context),
    });
}

const ORDERS: [&[&str]; 4] = [&[], &["t"], &["v", "t DESC"], &["v DESC"]];

#[test]
fn newest_rows_go_on_wherever_they_are_cut() {
    let script = "rows a 1 10 | b - 2 | - 3 - | c - - | a 4 11\nrows a 5 11 | b 1 -\nrows b 6 10 | c - 1 | - 8 1\n\
                  rows - 9 2 | a 0 12 | d 1 1\nrows a 9 1 | b 1 1 | c 1 1 | d 1 1 | - 9 9\nend";
    for order_by in ORDERS {
        with_keyed(order_by, |keyed| keyed.check_everywhere(script));
    }
}

proptest! {
    #[test]
    fn random_runs_go_on_wherever_they_are_cut(run in runs(1, print), order in 0..ORDERS.len()) {
        with_keyed(ORDERS[order], |keyed| keyed.check_at(&run));
    }
}

fn print(_input: usize, (key, value, time): RandomRow) -> String {
    format!("{} {} {time}us", word("k", key), word("", value))
}

/// Keys go to disk and come back changed, again and again: neither memory nor a checkpoint grows beyond the keys.
#[test]
fn keys_on_disk_cost_next_to_no_memory_and_come_back() {
    for order_by in ORDERS {
        let mut runner = runner(order_by);
        let (mut sizes, mut rows) = (Vec::new(), Vec::new());
        for round in 0..60 {
            // Half of the keys of the round before, and as many others.
            let from = round % 20 * 250;
            let row = |key: i64| format!("key-{key} {} {round}", -round);
            let text: Vec<String> = (from..from + 500).map(row).collect();
            runner.batch(0, Batch::new(read_rows(&schema(INPUT), &text.join("\n")), 0));
            rows.push(runner.recorder.rows(OutputTag::Main).len());
            runner.recorder.take();
            runner.operator().spill().expect("the store is there");
            sizes.push(runner.operator().state_bytes());
        }
        // Where a smaller value is newer, nothing that came later is.
        let is_newest_last = order_by.first() != Some(&"v");
        assert_eq!(rows.iter().all(|rows| *rows == 500), is_newest_last, "{order_by:?}: {rows:?}");
        assert!(sizes[59] < sizes[19] * 3 / 2, "{sizes:?}");
        let tables = runner.snapshot();
        assert!(tables[0].num_rows() <= 2 * 5250, "{} rows of 5250 keys", tables[0].num_rows());
        let mut restored = self::runner(order_by);
        restored.restore(tables, EventTime::MIN).expect("the state fits");
        assert_eq!(restored.snapshot()[0].num_rows(), 5250);
        // The rows of a checkpoint come in any order.
        let mut turned = runner.snapshot();
        turned[0].batches.reverse();
        let mut restored_turned = self::runner(order_by);
        restored_turned.restore(turned, EventTime::MIN).expect("the state fits");
        let rows = |runner: &mut Runner| {
            let rows = runner.snapshot()[0].batches.iter().flat_map(weir_testkit::print_rows).collect::<Vec<_>>();
            rows.into_iter().collect::<std::collections::BTreeSet<_>>()
        };
        assert_eq!(rows(&mut restored_turned), rows(&mut restored));
    }
}
