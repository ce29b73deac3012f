//! Tests of the operator in `top_n.rs`: scripts, and a simple model where there is one.

use std::collections::BTreeMap;

use expect_test::{Expect, expect};
use proptest::prelude::*;
use weir_core::{Batch, EventTime, OutputTag};
use weir_graph::descriptor::WindowTopN;
use weir_graph::row_schema;
use weir_testkit::{Runner, context, read_rows, schema};

use crate::cut_runs::{Keyed, Row as RandomRow, runs, word};

const INPUT: &str = "window_start TIMESTAMP NOT NULL, window_end TIMESTAMP NOT NULL, window_time TIMESTAMP* NOT NULL, \
                     region STRING, k STRING, n BIGINT";

fn top(partition: &[&str], order_by: &[&str], limit: i64, ties: bool) -> WindowTopN {
    let texts = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect();
    WindowTopN {
        partition: texts(partition),
        order_by: texts(order_by),
        limit,
        ties,
        rank_column: Some("rank".to_owned()),
    }
}

fn runner(top: &WindowTopN, batch_rows: usize) -> Runner {
    let input = schema(INPUT);
    let output = row_schema::top_n(&input, top.rank_column.as_deref()).expect("the input has windows");
    let (mut context, clock) = context(vec![input], output);
    context.batch_rows = batch_rows;
    Runner::new(super::create(top, &context).expect("the columns exist"), &context, clock)
}

fn check(top: &WindowTopN, script: &str, expected: Expect) {
    expected.assert_eq(&runner(top, 3).run(script));
}

const SCRIPT: &str = "
    rows 0 10 9 x a 5 | 0 10 9 x b 7 | 10 20 19 x c 1 | 0 10 9 y d 7
    rows 0 10 9 x e 7 | 0 10 9 y f - | 10 20 19 x g 1
    wm 9
    wm 9.999999
    rows 0 10 9 x late 99
    wm max
    end";

#[test]
fn best_row_of_each_window_leaves_when_the_window_closes() {
    check(
        &top(&[], &["n DESC"], 1, false),
        SCRIPT,
        expect![[r#"
        > rows 0 10 9 x a 5 | 0 10 9 x b 7 | 10 20 19 x c 1 | 0 10 9 y d 7
        > rows 0 10 9 x e 7 | 0 10 9 y f - | 10 20 19 x g 1
        > wm 9
          wm 9
        > wm 9.999999
          main (window_start window_end window_time* region k n rank)
          main 0 10 9 x b 7 1
          wm 9.999999
        > rows 0 10 9 x late 99
          late (window_start window_end window_time* region k n)
          late 0 10 9 x late 99
        > wm max
          main 10 20 19 x c 1 1
          wm max
        > end
    "#]],
    );
}

#[test]
fn ties_with_the_last_kept_row_are_kept_and_share_a_rank() {
    check(
        &top(&[], &["n DESC"], 1, true),
        SCRIPT,
        expect![[r#"
        > rows 0 10 9 x a 5 | 0 10 9 x b 7 | 10 20 19 x c 1 | 0 10 9 y d 7
        > rows 0 10 9 x e 7 | 0 10 9 y f - | 10 20 19 x g 1
        > wm 9
          wm 9
        > wm 9.999999
          main (window_start window_end window_time* region k n rank)
          main 0 10 9 x b 7 1
          main 0 10 9 x e 7 1
          main 0 10 9 y d 7 1
          wm 9.999999
        > rows 0 10 9 x late 99
          late (window_start window_end window_time* region k n)
          late 0 10 9 x late 99
        > wm max
          main 10 20 19 x c 1 1
          main 10 20 19 x g 1 1
          wm max
        > end
    "#]],
    );
    check(
        &top(&[], &["n"], 2, true),
        "rows 0 1 1 x a 3 | 0 1 1 x b 1 | 0 1 1 x c 3 | 0 1 1 x d 4\nwm 1",
        expect![[r#"
        > rows 0 1 1 x a 3 | 0 1 1 x b 1 | 0 1 1 x c 3 | 0 1 1 x d 4
        > wm 1
          main (window_start window_end window_time* region k n rank)
          main 0 1 1 x b 1 1
          main 0 1 1 x a 3 2
          main 0 1 1 x c 3 2
          wm 1
    "#]],
    );
}

#[test]
fn rows_compete_within_their_partition() {
    check(
        &top(&["region"], &["n DESC", "k"], 2, false),
        SCRIPT,
        expect![[r#"
        > rows 0 10 9 x a 5 | 0 10 9 x b 7 | 10 20 19 x c 1 | 0 10 9 y d 7
        > rows 0 10 9 x e 7 | 0 10 9 y f - | 10 20 19 x g 1
        > wm 9
          wm 9
        > wm 9.999999
          main (window_start window_end window_time* region k n rank)
          main 0 10 9 x b 7 1
          main 0 10 9 x e 7 2
          main 0 10 9 y d 7 1
          (more)
          main 0 10 9 y f - 2
          wm 9.999999
        > rows 0 10 9 x late 99
          late (window_start window_end window_time* region k n)
          late 0 10 9 x late 99
        > wm max
          main 10 20 19 x c 1 1
          main 10 20 19 x g 1 2
          wm max
        > end
    "#]],
    );
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]
    /// Sorting all rows of a window gives the same, however they were cut into batches and wherever thresholds stood.
    #[test]
    fn result_is_that_of_sorting_everything(
        rows in prop::collection::vec((0i64..3, 0u8..3, 0u8..20, prop::option::weighted(0.9, 0i64..30)), 1..400),
        limit in 1i64..5,
        ties in any::<bool>(),
        has_partition in any::<bool>(),
        descending in any::<bool>(),
        batch_rows in 1usize..400,
    ) {
        // A limit far below the rows of a batch puts the threshold to work; see `add_to_one`.
        let rows: Vec<_> = rows.iter().cycle().take(rows.len() * 6).collect();
        let partition: &[&str] = if has_partition { &["region"] } else { &[] };
        let mut runner = runner(&top(partition, &[if descending { "n DESC" } else { "n" }], limit, ties), 7);
        let print = |(window, region, key, n): &(i64, u8, u8, Option<i64>)| {
            let n = n.map_or("-".to_owned(), |n| n.to_string());
            format!("{} {} {} r{region} k{key:02} {n}", window * 10, window * 10 + 10, window * 10 + 9)
        };
        for batch in rows.chunks(batch_rows * 6) {
            let text: Vec<String> = batch.iter().map(|row| print(row)).collect();
            runner.batch(0, Batch::new(read_rows(&schema(INPUT), &text.join("\n")), 0));
        }
        runner.watermark(EventTime::MAX);

        let mut groups: BTreeMap<(i64, u8), Vec<_>> = BTreeMap::new();
        for row in &rows {
            groups.entry((row.0, if has_partition { row.1 } else { 0 })).or_default().push(**row);
        }
        let order = |n: Option<i64>| (n.is_none(), n.map(|n| if descending { -n } else { n }));
        let mut expected = Vec::new();
        for group in groups.values_mut() {
            group.sort_by_key(|(_, region, key, n)| (order(*n), *region, *key));
            for (place, row) in group.iter().enumerate() {
                let first = group.iter().position(|other| other.3 == row.3).expect("the row itself");
                let rank = if ties { first } else { place } + 1;
                if rank as i64 <= limit {
                    expected.push(format!("{} {rank}", print(row)));
                }
            }
        }
        let mut found = runner.recorder.rows(OutputTag::Main);
        found.sort();
        expected.sort();
        prop_assert_eq!(found, expected);
    }
}

fn with_keyed(top: &WindowTopN, check: impl FnOnce(&Keyed<'_>)) {
    let input = schema(INPUT);
    let partition = top.partition.iter().map(|name| input.index_of(name).expect("the column exists"));
    check(&Keyed {
        output: row_schema::top_n(&input, top.rank_column.as_deref()).expect("the input has windows"),
        keys: vec![[0, 1].into_iter().chain(partition).collect()],
        inputs: vec![input],
        make: &|context| super::create(top, context),
    });
}

#[test]
fn c6_best_rows_leave_once_wherever_they_are_cut() {
    for partition in [&[][..], &["region"]] {
        for (limit, ties) in [(1, false), (2, true)] {
            with_keyed(&top(partition, &["n DESC", "k"], limit, ties), |keyed| keyed.check_everywhere(SCRIPT));
        }
    }
}

proptest! {
    #[test]
    fn c6_random_runs_go_on_wherever_they_are_cut(
        run in runs(1, print),
        is_partitioned in any::<bool>(),
        limit in 1i64..4,
        ties in any::<bool>(),
    ) {
        let partition: &[&str] = if is_partitioned { &["region"] } else { &[] };
        with_keyed(&top(partition, &["n DESC"], limit, ties), |keyed| keyed.check_at(&run));
    }
}

/// Windows of 10 microseconds; values tie often, and so may whole rows.
fn print(_input: usize, (key, value, time): RandomRow) -> String {
    let start = time / 10 * 10;
    let (region, key) = (key.map(|key| key % 2), key.map(|key| key / 2));
    format!("{start}us {}us {}us {} {} {}", start + 10, start + 9, word("r", region), word("k", key), word("", value))
}
