//! What may change in a job that goes on from its state: each change is judged by the planner, then done. What the planner
//! takes, the operator takes too; what it refuses names the operator, the setting or column, and the cause.

use std::collections::BTreeMap;

use arrow_schema::Schema;
use weir_core::{OrderItem, Settings, TypedAggregate, TypedExpression, TypedItem};
use weir_expr::Expression;
use weir_graph::catalog::Role;
use weir_graph::state_change::state_changes;
use weir_graph::{Catalog, JobPlan, PlannedOperator, SinkDescription, SourceDescription};
use weir_testkit::{Runner, context, schema};

/// SQL as the engine has it; a source whose settings say its columns, and a sink.
struct TestCatalog;

impl Catalog for TestCatalog {
    fn expression(&self, sql: &str, schema: &Schema) -> Result<TypedExpression, String> {
        let compiled = Expression::compile(sql, &schema.clone().into());
        compiled.map(|expression| expression.typed().clone()).map_err(|error| error.to_string())
    }

    fn select_item(&self, sql: &str, schema: &Schema) -> Result<Vec<TypedItem>, String> {
        let items = weir_expr::select_item(sql, &schema.clone().into()).map_err(|error| error.to_string())?;
        Ok(items.iter().map(|item| item.typed()).collect())
    }

    fn aggregate(&self, sql: &str, schema: &Schema) -> Result<TypedAggregate, String> {
        let call = weir_expr::aggregate_call(sql, &schema.clone().into()).map_err(|error| error.to_string())?;
        Ok(call.typed())
    }

    fn order_item(&self, sql: &str, schema: &Schema) -> Result<OrderItem, String> {
        weir_expr::order_item(sql, &schema.clone().into()).map_err(|error| error.to_string())
    }

    fn connectors(&self) -> Vec<(&'static str, Role)> {
        vec![("rows", Role::Source), ("out", Role::Sink)]
    }

    fn source(&self, _: &str, settings: &Settings<'_>) -> Option<SourceDescription> {
        let schema = schema(&settings.required_text("columns"));
        Some(SourceDescription { schema, is_bounded: true, can_project: false, parallelism_max: None })
    }

    fn sink(&self, _: &str, _: &Settings<'_>, _: &Schema) -> Option<SinkDescription> {
        Some(SinkDescription { takes_changes: true, ..SinkDescription::default() })
    }
}

/// A job whose operator `op` has these settings, over these columns and the event time `t`.
fn plan(columns: &str, settings: &str) -> JobPlan {
    let text = format!(
        "name: j\nconfig: {{parallelism.default: 1}}\noperators:\n\
         - {{uid: in, kind: rows, columns: \"{columns}, t TIMESTAMP\"}}\n\
         - {{uid: wm, kind: watermark, input: in, column: t}}\n\
         - {{uid: other, kind: watermark, input: in, column: t}}\n\
         - {{uid: op, {settings}}}\n\
         - {{uid: out, kind: out, input: op}}\n\
         - {{uid: rest, kind: out, input: other}}\n"
    );
    let listed = |problems: Vec<weir_core::Problem>| -> String {
        problems.iter().map(|problem| format!("{problem}\n")).collect()
    };
    let document = weir_graph::document::read(&text, &BTreeMap::new(), "job.yaml");
    let document = document.unwrap_or_else(|problems| panic!("{text}\n{}", listed(problems)));
    weir_graph::plan::plan(&document.job, &TestCatalog)
        .unwrap_or_else(|problems| panic!("{text}\n{}", listed(problems)))
}

fn operator(plan: &JobPlan) -> &PlannedOperator {
    let mut operators = plan.vertices.iter().flat_map(|vertex| &vertex.operators);
    operators.find(|operator| operator.uid.as_str() == "op").expect("it is planned")
}

fn runner(plan: &JobPlan) -> Runner {
    let planned = operator(plan);
    let (context, clock) = context(planned.inputs.clone(), planned.output.clone());
    let operator = weir_operators::create(planned, context.clone()).expect("it was planned");
    Runner::new(operator, &context, clock)
}

/// What the planner says, one line for each problem, and what the operator says when it is made to restore all the same.
fn change(old: (&str, &str, &str), new: (&str, &str)) -> (Vec<String>, weir_operator_api::Result<()>) {
    let (columns, settings, script) = old;
    let (before, after) = (plan(columns, settings), plan(new.0, new.1));
    let problems = state_changes(&before, &after, &TestCatalog).iter().map(ToString::to_string).collect();
    let mut runner_before = runner(&before);
    runner_before.run(script);
    let tables = runner_before.snapshot();
    assert!(tables.iter().any(|table| table.batches.iter().any(|batch| batch.num_rows() > 0)), "there is state");
    let restored = runner(&after).restore(tables, weir_core::EventTime(5_000_000));
    (problems, restored)
}

fn taken(old: (&str, &str, &str), new: (&str, &str)) {
    let (problems, restored) = change(old, new);
    assert_eq!(problems, Vec::<String>::new(), "{old:?} -> {new:?}");
    restored.unwrap_or_else(|error| panic!("{old:?} -> {new:?}: {}", error.message));
}

fn refused(old: (&str, &str, &str), new: (&str, &str), expected: &[&str]) {
    let (problems, _) = change(old, new);
    assert_eq!(problems, expected, "{old:?} -> {new:?}");
}

const WINDOW: &str = "kind: window, input: wm, window: {type: tumble, size: 10 s}, ";
const ROWS: &str = "rows 1 2 11 | 2 3 12 | - - 13\nwm 5";

fn window(rest: &str) -> String {
    format!("{WINDOW}{rest}")
}

#[test]
fn window_takes_new_aggregates_and_wider_numbers() {
    let call = window("key: [k], aggregates: [max(v) AS m, sum(v) AS s, avg(v) AS a, count(distinct v) AS d]");
    for (narrow, wide) in [("INT", "BIGINT"), ("FLOAT", "DOUBLE"), ("DECIMAL(5,2)", "DECIMAL(9,2)")] {
        let old = format!("k {narrow}, v {narrow}");
        let new = format!("k {wide}, v {wide}");
        taken((&old, &call, ROWS), (&new, &call));
        let (problems, restored) = change((&new, &call, ROWS), (&old, &call));
        assert_eq!(problems.len(), 3, "{problems:?}");
        assert!(restored.is_err(), "{wide} to {narrow}");
    }
    let more = window("key: [k], aggregates: [min(v) AS least, MAX( v ) AS m]");
    taken(("k INT, v INT", &window("key: [k], aggregates: [max(v) AS m]"), ROWS), ("k INT, v INT", &more));
}

#[test]
fn window_refuses_other_meanings() {
    let old = ("k INT, v INT", window("key: [k], aggregates: [max(v) AS m, sum(v) AS s]"));
    let old = (old.0, old.1.as_str(), ROWS);
    let to = |columns: &str, rest: &str, expected: &[&str]| refused(old, (columns, &window(rest)), expected);
    to(
        "k INT, v INT",
        "key: [v], aggregates: [max(v) AS m]",
        &[
            "operator 'op', key: the state was kept with [k], the job has [v]; give the operator a new uid",
            "operator 'op', aggregates: state has the aggregate 's' (sum(v) AS s), which the job no longer has",
        ],
    );
    to(
        "k INT, v INT",
        "key: [k], aggregates: [min(v) AS m, sum(v + 1) AS s]",
        &[
            "operator 'op', aggregates: the aggregate 'm' was 'max(v) AS m' and is 'min(v) AS m'; give the new one another \
             name beside it",
            "operator 'op', aggregates: the aggregate 's' was 'sum(v) AS s' and is 'sum(v + 1) AS s'; give the new one \
             another name beside it",
        ],
    );
    to(
        "k STRING, v DOUBLE",
        "key: [k], aggregates: [max(v) AS m, sum(v) AS s]",
        &[
            "operator 'op', key: the column 'k' is INT in state and STRING in the job, which is neither the same nor wider",
            "operator 'op', aggregates: the aggregate 'm' is INT in state and DOUBLE in the job, which is neither the same \
             nor wider",
            "operator 'op', aggregates: the aggregate 's' is kept another way over INT than over DOUBLE",
        ],
    );
    let hop = "kind: window, input: wm, window: {type: hop, size: 10 s, slide: 5 s}, allowed_lateness: 1 s, key: [k], \
               aggregates: [max(v) AS m, sum(v) AS s]";
    let (problems, restored) = change(old, ("k INT, v INT", hop));
    assert_eq!(problems.len(), 2, "{problems:?}");
    assert!(problems[0].starts_with("operator 'op', window: ") && problems[1].contains("allowed_lateness"));
    assert!(restored.is_err());
}

#[test]
fn rows_take_new_columns_that_may_be_null() {
    let kinds = [
        "kind: first_by_key, input: wm, key: [k]",
        "kind: absence, input: wm, key: [k], timeout: 10 s",
        "kind: last_by_key, input: wm, key: [k]",
        "kind: last_by_key, input: wm, key: [k], order_by: [v]",
    ];
    for settings in kinds {
        let old = ("k INT, v INT", settings, ROWS);
        taken(old, ("k BIGINT, v BIGINT, w STRING", settings));
        let (problems, restored) = change(old, ("k STRING, v STRING", settings));
        assert!(!problems.is_empty() && restored.is_err(), "{settings}: {problems:?}");
        let keyed = settings.replace("key: [k]", "key: [v]");
        let wanted = "operator 'op', key: the state was kept with [k], the job has [v]; give the operator a new uid";
        assert_eq!(change(old, ("k INT, v INT", &keyed)).0, [wanted]);
    }
    let first = kinds[0];
    refused(
        ("k INT, v INT", first, ROWS),
        ("k INT, w INT NOT NULL", first),
        &[
            "operator 'op', v: rows in state have the column 'v' (INT), which the job no longer has",
            "operator 'op', w: rows in state lack the column 'w', which may not be null in the job",
        ],
    );
    refused(
        ("k INT, v INT", kinds[1], ROWS),
        ("k INT, v INT", "kind: absence, input: wm, key: [k], timeout: 20 s"),
        &[
            "operator 'op', timeout: the state was kept with 10000000 us, the job has 20000000 us; give the operator a new uid",
        ],
    );
    refused(
        ("k INT, v INT", kinds[3], ROWS),
        ("k INT, v INT", "kind: last_by_key, input: wm, key: [k], order_by: [v DESC]"),
        &["operator 'op', order_by: the state was kept with [v], the job has [v DESC]; give the operator a new uid"],
    );
}

#[test]
fn joins_take_wider_rows_on_both_sides() {
    let join =
        "kind: window_join, inputs: [wm, shifted], left_key: [k], right_key: [k2], window: {type: tumble, size: 10 s}";
    let both = |join: &str| {
        format!("{join}}}\n- {{uid: shifted, kind: project, input: other, columns: [k AS k2, v AS v2, t AS t2]")
    };
    let old = ("k INT, v INT", both(join));
    let rows = "rows 1 2 11 | 2 3 12\nrows@1 1 5 12\nwm 5";
    let old = (old.0, old.1.as_str(), rows);
    taken(old, ("k BIGINT, v BIGINT", &both(join)));
    let left = format!("{join}, join: left");
    refused(
        old,
        ("k INT, v STRING", &both(&left)),
        &[
            "operator 'op', join: the state was kept with inner, the job has left; give the operator a new uid",
            "operator 'op', v: the column 'v' of rows in state is INT and STRING in the job, which is neither the same nor \
             wider",
            "operator 'op', v2: the column 'v2' of rows in state is INT and STRING in the job, which is neither the same \
             nor wider",
        ],
    );
}

#[test]
fn top_n_keeps_its_rule() {
    let top = |rule: &str, call: &str| {
        format!(
            "kind: window_top_n, input: counts, {rule}}}\n- {{uid: counts, kind: window, input: wm, key: [k], \
             window: {{type: tumble, size: 10 s}}, aggregates: [{call}]"
        )
    };
    let script = "rows 1 10 20 19.999999 7 | 2 10 20 19.999999 8\nwm 5";
    let rule = "partition: [k], order_by: [m DESC], limit: 2";
    let old = top(rule, "max(v) AS m");
    let old = ("k INT, v INT", old.as_str(), script);
    taken(old, ("k BIGINT, v BIGINT", &top(&format!("{rule}, rank_column: place"), "max(v) AS m, min(v) AS least")));
    let other = "partition: [], order_by: [m ASC], limit: 3, ties: true";
    refused(
        old,
        ("k INT, v INT", &top(other, "max(v) AS m")),
        &[
            "operator 'op', partition: the state was kept with [k], the job has []; give the operator a new uid",
            "operator 'op', limit: the state was kept with 2, the job has 3; give the operator a new uid",
            "operator 'op', ties: the state was kept with false, the job has true; give the operator a new uid",
            "operator 'op', order_by: the state was kept with [m DESC], the job has [m]; give the operator a new uid",
        ],
    );
}
