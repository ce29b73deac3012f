//! Tests of the operator in `project.rs`: scripts, and a simple model where there is one.

use std::sync::Arc;

use expect_test::{Expect, expect};
use weir_core::{Batch, OutputTag};
use weir_graph::descriptor::Project;
use weir_testkit::{Runner, context, read_rows, schema};

fn runner(columns: &[&str], input: &str, output: &str) -> Runner {
    let (context, clock) = context(vec![schema(input)], schema(output));
    let project = Project { columns: columns.iter().map(|column| (*column).to_owned()).collect() };
    Runner::new(super::create(&project, &context).expect("the columns compile"), &context, clock)
}

fn check(columns: &[&str], output: &str, script: &str, expected: Expect) {
    expected.assert_eq(&runner(columns, "a BIGINT, b STRING, t TIMESTAMP*", output).run(script));
}

#[test]
fn columns_are_computed_and_event_time_keeps_its_mark() {
    let columns = ["b", "a * 2 AS double", "t AS at"];
    check(
        &columns,
        "b STRING, double BIGINT, at TIMESTAMP*",
        "rows 5 x 1 | - y 2\nwm 7\nend",
        expect![[r#"
            > rows 5 x 1 | - y 2
              main (b double at*)
              main x 10 1
              main y - 2
            > wm 7
              wm 7
            > end
        "#]],
    );
}

#[test]
fn row_on_which_any_column_fails_is_a_bad_record_once() {
    let columns = ["a", "10 / a AS first", "20 / (a - 1) AS second"];
    let output = "a BIGINT, first BIGINT, second BIGINT";
    check(
        &columns,
        output,
        "rows 5 x 1 | 0 y 2 | 1 z 3 | 2 w 4\nrows 0 v 5",
        expect![[r#"
        > rows 5 x 1 | 0 y 2 | 1 z 3 | 2 w 4
          bad bad-record-expression: division by zero <- {"a":0,"b":"y","t":"1970-01-01T00:00:02Z"}
          bad bad-record-expression: division by zero <- {"a":1,"b":"z","t":"1970-01-01T00:00:03Z"}
          main (a first second)
          main 5 2 5
          main 2 5 20
        > rows 0 v 5
          bad bad-record-expression: division by zero <- {"a":0,"b":"v","t":"1970-01-01T00:00:05Z"}
    "#]],
    );
}

#[test]
fn picked_column_is_shared_and_not_copied() {
    let input = "a BIGINT, b STRING, t TIMESTAMP*";
    let mut runner = runner(&["b AS c", "t"], input, "c STRING, t TIMESTAMP*");
    let records = read_rows(&schema(input), "1 x 1 | 2 y 2");
    runner.batch(0, Batch::new(records.clone(), 0));
    let emitted = runner.recorder.batches(OutputTag::Main);
    assert!(Arc::ptr_eq(records.column(1), emitted[0].column(0)));
}

#[test]
fn updates_keep_their_kind() {
    let input = "a BIGINT, b STRING, __weir_change TINYINT NOT NULL";
    let mut runner = runner(&["b", "a"], input, "b STRING, a BIGINT, __weir_change TINYINT NOT NULL");
    expect![[r#"
        > rows 1 x 0 | 2 x 2
          main (b a)
          main +I x 1
          main +U x 2
    "#]]
    .assert_eq(&runner.run("rows 1 x 0 | 2 x 2"));
}
