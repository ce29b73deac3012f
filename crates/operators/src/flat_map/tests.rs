//! Tests of the operator in `flat_map.rs`: scripts, and a simple model where there is one.

use expect_test::{Expect, expect};
use proptest::prelude::*;
use weir_core::{Batch, OutputTag};
use weir_graph::descriptor::FlatMap;
use weir_testkit::{Runner, context, read_rows, schema};

const INPUT: &str = "id BIGINT, items ARRAY<STRING>, t TIMESTAMP*";
const OUTPUT: &str = "id BIGINT, item STRING, t TIMESTAMP*";

fn runner(keep_empty: bool, batch_rows: usize) -> Runner {
    let (mut context, clock) = context(vec![schema(INPUT)], schema(OUTPUT));
    context.batch_rows = batch_rows;
    let flat_map = FlatMap { array: "items".to_owned(), name: "item".to_owned(), keep_empty };
    Runner::new(super::create(&flat_map, &context).expect("the column is an array"), &context, clock)
}

fn check(keep_empty: bool, batch_rows: usize, script: &str, expected: Expect) {
    expected.assert_eq(&runner(keep_empty, batch_rows).run(script));
}

const SCRIPT: &str = r#"rows 1 ["a", "b", "c"] 1 | 2 [] 2 | 3 - 3 | 4 ["d", null] 4"#;

#[test]
fn each_element_becomes_a_row() {
    check(
        false,
        100,
        SCRIPT,
        expect![[r#"
        > rows 1 ["a", "b", "c"] 1 | 2 [] 2 | 3 - 3 | 4 ["d", null] 4
          main (id item t*)
          main 1 a 1
          main 1 b 1
          main 1 c 1
          main 4 d 4
          main 4 - 4
    "#]],
    );
}

#[test]
fn empty_arrays_can_be_kept() {
    check(
        true,
        100,
        SCRIPT,
        expect![[r#"
        > rows 1 ["a", "b", "c"] 1 | 2 [] 2 | 3 - 3 | 4 ["d", null] 4
          main (id item t*)
          main 1 a 1
          main 1 b 1
          main 1 c 1
          main 2 - 2
          main 3 - 3
          main 4 d 4
          main 4 - 4
    "#]],
    );
}

#[test]
fn long_arrays_leave_in_pieces() {
    check(
        true,
        2,
        SCRIPT,
        expect![[r#"
        > rows 1 ["a", "b", "c"] 1 | 2 [] 2 | 3 - 3 | 4 ["d", null] 4
          main (id item t*)
          main 1 a 1
          main 1 b 1
          (more)
          main 1 c 1
          main 2 - 2
          (more)
          main 3 - 3
          main 4 d 4
          (more)
          main 4 - 4
    "#]],
    );
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]
    #[test]
    fn elements_are_those_of_the_arrays(
        arrays in prop::collection::vec(prop::option::of(prop::collection::vec(0u8..9, 0..6)), 1..12),
        keep_empty in any::<bool>(),
        batch_rows in 1usize..8,
        skip in 0usize..3,
    ) {
        let print = |(id, array): (usize, &Option<Vec<u8>>)| match array {
            None => format!("{id} - 0"),
            Some(items) => format!("{id} [{}] 0", items.iter().map(|n| format!("\"{n}\"")).collect::<Vec<_>>().join(",")),
        };
        let text: Vec<String> = arrays.iter().enumerate().map(print).collect();
        let records = read_rows(&schema(INPUT), &text.join("\n"));
        // A slice, so that offsets do not begin at 0.
        let skip = skip.min(arrays.len() - 1);
        let mut runner = runner(keep_empty, batch_rows);
        runner.batch(0, Batch::new(records.slice(skip, arrays.len() - skip), 0));
        let mut expected = Vec::new();
        for (id, array) in arrays.iter().enumerate().skip(skip) {
            let items = array.clone().unwrap_or_default();
            if items.is_empty() && keep_empty {
                expected.push(format!("{id} - 0"));
            }
            expected.extend(items.iter().map(|item| format!("{id} {item} 0")));
        }
        prop_assert_eq!(runner.recorder.rows(OutputTag::Main), expected);
    }
}
