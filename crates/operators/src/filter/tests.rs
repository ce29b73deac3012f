//! Tests of the operator in `filter.rs`: scripts, and a simple model where there is one.

use expect_test::{Expect, expect};
use weir_graph::descriptor::Filter;
use weir_testkit::{Runner, context, schema};

fn check(predicate: &str, script: &str, expected: Expect) {
    let schema = schema("a BIGINT, b STRING, t TIMESTAMP*");
    let (context, clock) = context(vec![schema.clone()], schema);
    let operator =
        super::create(&Filter { predicate: predicate.to_owned() }, &context).expect("the predicate compiles");
    expected.assert_eq(&Runner::new(operator, &context, clock).run(script));
}

#[test]
fn rows_pass_only_when_the_predicate_is_true() {
    let script = "rows 5 x 1 | 2 y 2 | - z 3\nrows 9 all 1\nrows 1 none 1\nwm 7\nend";
    check(
        "a > 3",
        script,
        expect![[r#"
        > rows 5 x 1 | 2 y 2 | - z 3
          main (a b t*)
          main 5 x 1
        > rows 9 all 1
          main 9 all 1
        > rows 1 none 1
        > wm 7
          wm 7
        > end
    "#]],
    );
}

#[test]
fn failing_row_is_a_bad_record_and_the_others_go_on() {
    check(
        "10 / a > 1",
        "rows 5 x 1 | 0 \"y z\" 2 | - z 3 | 9 w 4\nrows 0 only 1",
        expect![[r#"
        > rows 5 x 1 | 0 "y z" 2 | - z 3 | 9 w 4
          bad bad-record-expression: division by zero <- {"a":0,"b":"y z","t":"1970-01-01T00:00:02Z"}
          main (a b t*)
          main 5 x 1
        > rows 0 only 1
          bad bad-record-expression: division by zero <- {"a":0,"b":"only","t":"1970-01-01T00:00:01Z"}
    "#]],
    );
}
