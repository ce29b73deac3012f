//! Planning of whole jobs against a small catalog: what is refused and how, what is chained, what is exchanged.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::sync::Arc;

use arrow_schema::{DataType, Field, Schema};
use weir_core::batch::event_time_type;
use weir_core::{AggregateFunction, OrderItem, Settings, TypedAggregate, TypedExpression, TypedItem, Value};
use weir_graph::catalog::Role;
use weir_graph::plan::{Target, plan};
use weir_graph::{Catalog, JobPlan, SinkDescription, SourceDescription, SubmittedJob, SubmittedOperator};

/// Knows columns, `true`, `count(*) AS n` and one source and sink; expressions are column names or `a = b`.
struct Fake;

impl Catalog for Fake {
    fn expression(&self, sql: &str, schema: &Schema) -> Result<TypedExpression, String> {
        if let Some((left, _)) = sql.split_once(" = ") {
            return Ok(TypedExpression { data_type: DataType::Boolean, ..self.expression(left, schema)? });
        }
        let field = schema.field_with_name(sql).map_err(|_| format!("there is no column '{sql}'"))?;
        Ok(TypedExpression {
            data_type: field.data_type().clone(),
            nullable: field.is_nullable(),
            columns: vec![sql.into()],
        })
    }

    fn select_item(&self, sql: &str, schema: &Schema) -> Result<Vec<TypedItem>, String> {
        let (sql, name) = sql.split_once(" AS ").unwrap_or((sql, sql));
        Ok(vec![TypedItem { name: name.into(), expression: self.expression(sql, schema)? }])
    }

    fn aggregate(&self, sql: &str, _: &Schema) -> Result<TypedAggregate, String> {
        let name = sql.strip_prefix("count(*) AS ").ok_or("only counts here")?.to_owned();
        let function = AggregateFunction::Count;
        Ok(TypedAggregate { name, function, argument: None, filter: None, data_type: DataType::Int64 })
    }

    fn order_item(&self, sql: &str, schema: &Schema) -> Result<OrderItem, String> {
        self.expression(sql, schema)?;
        Ok(OrderItem { column: sql.into(), is_descending: false })
    }

    fn connectors(&self) -> Vec<(&'static str, Role)> {
        vec![("numbers", Role::Source), ("out", Role::Sink)]
    }

    fn source(&self, _: &str, settings: &Settings<'_>) -> Option<SourceDescription> {
        settings.integer("rows", 1..=100)?;
        let columns = [("a", DataType::Int64), ("b", DataType::Utf8), ("c", DataType::Utf8), ("t", event_time_type())];
        let schema = Arc::new(Schema::new(columns.map(|(name, kind)| Field::new(name, kind, true)).to_vec()));
        Some(SourceDescription { schema, is_bounded: true, can_project: true, parallelism_max: None })
    }

    fn sink(&self, _: &str, settings: &Settings<'_>, _: &Schema) -> Option<SinkDescription> {
        let parallelism_max = settings.has("single").then_some(1);
        Some(SinkDescription {
            parallelism_max,
            partition_by: settings.has("key").then(|| settings.required_texts("key")),
            takes_store_keys: settings.has("stored") && settings.text("s3.region").is_some(),
            ..SinkDescription::default()
        })
    }
}

fn operator(uid: &str, kind: &str, inputs: &[&str], settings: &[(&str, Value)]) -> SubmittedOperator {
    SubmittedOperator {
        uid: uid.into(),
        kind: kind.into(),
        parallelism: None,
        inputs: inputs.iter().map(ToString::to_string).collect(),
        settings: settings.iter().map(|(name, value)| (name.to_string(), value.clone())).collect(),
    }
}

fn job(parallelism: i64, operators: Vec<SubmittedOperator>) -> SubmittedJob {
    let config = BTreeMap::from([("parallelism.default".to_owned(), Value::Integer(parallelism))]);
    SubmittedJob { name: "test".into(), config, operators }
}

fn source() -> SubmittedOperator {
    operator("src", "numbers", &[], &[("rows", Value::Integer(5))])
}

fn watermark() -> SubmittedOperator {
    operator("wm", "watermark", &["src"], &[("column", "t".into()), ("max_out_of_orderness", "1 s".into())])
}

fn window(uid: &str, input: &str, key: &str) -> SubmittedOperator {
    let window = Value::from([("type", "tumble".into()), ("size", "10 s".into())]);
    operator(
        uid,
        "window",
        &[input],
        &[("key", key.into()), ("window", window), ("aggregates", "count(*) AS n".into())],
    )
}

fn describe(plan: &JobPlan) -> String {
    let mut text = String::new();
    for vertex in &plan.vertices {
        writeln!(text, "{} x{}", vertex.name, vertex.parallelism).expect("write to text");
        for operator in &vertex.operators {
            let columns: Vec<_> = operator.output.fields().iter().map(|field| field.name().as_str()).collect();
            let routes: Vec<_> = operator
                .routes
                .iter()
                .map(|route| match route.target {
                    Target::Operator { index, input } => format!("{:?}->[{index}].{input}", route.output),
                    Target::Edge(edge) => {
                        let edge = &plan.edges[edge.index()];
                        format!("{:?}->v{}.{} {:?}", route.output, edge.target, edge.input, edge.partitioning)
                    }
                })
                .collect();
            writeln!(text, "  {} {:?} ({}) {}", operator.uid, operator.phase, columns.join(", "), routes.join("; "))
                .expect("write to text");
        }
    }
    text
}

fn check(job: &SubmittedJob, expected: expect_test::Expect) {
    match plan(job, &Fake) {
        Ok(plan) => expected.assert_eq(&describe(&plan)),
        Err(problems) => {
            let lines: Vec<String> = problems.iter().map(|problem| format!("{problem}\n")).collect();
            expected.assert_eq(&lines.concat());
        }
    }
}

#[test]
fn windowed_job_is_cut_into_two_phases_and_reads_only_its_columns() {
    let sink = operator("sink", "out", &["win"], &[("single", true.into())]);
    check(
        &job(2, vec![sink, source(), watermark(), window("win", "wm", "a")]),
        expect_test::expect![[r#"
        src -> wm -> win x2
          src Whole (a, t) Main->[1].0
          wm Whole (a, t) Main->[2].0
          win Local (a, slice_start, n) Raw->v1.0 Hash { columns: [0] }; Main->v1.1 Hash { columns: [0] }
        win x2
          win Final (a, window_start, window_end, window_time, n) Main->v2.0 Rescale
        sink x1
          sink Whole (a, window_start, window_end, window_time, n) 
    "#]],
    );
}

#[test]
fn at_parallelism_one_everything_is_one_chain() {
    let sink = operator("sink", "out", &["win"], &[]);
    check(
        &job(1, vec![source(), watermark(), window("win", "wm", "a"), sink]),
        expect_test::expect![[r#"
        src -> wm -> win -> sink x1
          src Whole (a, t) Main->[1].0
          wm Whole (a, t) Main->[2].0
          win Whole (a, window_start, window_end, window_time, n) Main->[3].0
          sink Whole (a, window_start, window_end, window_time, n) 
    "#]],
    );
}

#[test]
fn side_outputs_and_global_windows_are_routed() {
    let late = operator("late", "out", &["win.late"], &[]);
    let bad = operator("bad", "out", &["win.dead_letter"], &[]);
    let sink = operator("sink", "out", &["win"], &[]);
    let mut global = window("win", "wm", "a");
    global.settings.remove("key");
    check(
        &job(2, vec![source(), watermark(), global, sink, late, bad]),
        expect_test::expect![[r#"
        src -> wm -> win x2
          src Whole (a, b, c, t) Main->[1].0
          wm Whole (a, b, c, t) Main->[2].0
          win Local (slice_start, n) Raw->v1.0 Rescale; Main->v1.1 Rescale; DeadLetter->v4.0 Forward
        win x1
          win Final (window_start, window_end, window_time, n) Main->v2.0 Rebalance; Late->v3.0 Rebalance; DeadLetter->v4.0 Rebalance
        sink x2
          sink Whole (window_start, window_end, window_time, n) 
        late x2
          late Whole (a, b, c, t) 
        bad x2
          bad Whole (code, operator, message, source, position, original) 
    "#]],
    );
}

#[test]
fn equal_keys_in_a_row_need_one_exchange() {
    let key_by = operator("spread", "key_by", &["wm"], &[("key", "b".into())]);
    let sink = operator("sink", "out", &["win"], &[]);
    check(
        &job(3, vec![source(), watermark(), key_by, window("win", "spread", "b"), sink]),
        expect_test::expect![[r#"
        src -> wm x3
          src Whole (b, t) Main->[1].0
          wm Whole (b, t) Main->v1.0 Hash { columns: [0] }
        spread -> win -> sink x3
          spread Whole (b, t) Main->[1].0
          win Whole (b, window_start, window_end, window_time, n) Main->[2].0
          sink Whole (b, window_start, window_end, window_time, n) 
    "#]],
    );
}

#[test]
fn sinks_that_want_it_get_equal_keys_in_one_subtask() {
    let by_other = operator("out_c", "out", &["win"], &[("key", "n".into())]);
    let by_same = operator("out_b", "out", &["win"], &[("key", "a".into())]);
    let single = operator("single", "out", &["win"], &[("key", "a".into()), ("single", true.into())]);
    check(
        &job(2, vec![source(), watermark(), window("win", "wm", "a"), by_other, by_same, single]),
        expect_test::expect![[r#"
            src -> wm -> win x2
              src Whole (a, t) Main->[1].0
              wm Whole (a, t) Main->[2].0
              win Local (a, slice_start, n) Raw->v1.0 Hash { columns: [0] }; Main->v1.1 Hash { columns: [0] }
            win -> out_b x2
              win Final (a, window_start, window_end, window_time, n) Main->v2.0 Hash { columns: [4] }; Main->[1].0; Main->v3.0 Rescale
              out_b Whole (a, window_start, window_end, window_time, n) 
            out_c x2
              out_c Whole (a, window_start, window_end, window_time, n) 
            single x1
              single Whole (a, window_start, window_end, window_time, n) 
        "#]],
    );
}

#[test]
fn sinks_of_object_stores_take_the_keys_of_the_job_unless_they_have_their_own() {
    let own = operator("own", "out", &["src"], &[("stored", true.into()), ("s3.region", "north".into())]);
    let other = operator("other", "out", &["src"], &[]);
    let mut job = job(1, vec![source(), own, other]);
    for (key, value) in [("s3.region", "south"), ("s3.endpoint", "http://localhost:1")] {
        job.config.insert(key.to_owned(), value.into());
    }
    let plan = plan(&job, &Fake).expect("it can be planned");
    let settings = |uid: &str| {
        let mut operators = plan.vertices.iter().flat_map(|vertex| &vertex.operators);
        operators.find(|operator| operator.uid.as_str() == uid).expect("it is planned").settings.clone()
    };
    assert_eq!(settings("own").get("s3.region"), Some(&"north".into()));
    assert_eq!(settings("own").get("s3.endpoint"), Some(&"http://localhost:1".into()));
    assert_eq!(settings("other"), BTreeMap::new());
}

#[test]
fn all_problems_come_at_once() {
    let mut bad_window = window("win", "src", "aa");
    bad_window.settings.insert("sise".into(), "1 s".into());
    let operators = vec![
        operator("src", "numbers", &[], &[("rows", Value::Integer(5)), ("row", Value::Integer(1))]),
        operator("src2", "numbrs", &[], &[]),
        bad_window,
        operator("f", "filter", &["src"], &[("predicate", "a".into())]),
        operator("g", "filter", &["nowhere", "src"], &[("predicate", "x = y".into())]),
        operator("loop1", "union", &["loop2", "src"], &[]),
        operator("loop2", "filter", &["loop1"], &[("predicate", "a = a".into())]),
        operator("s", "out", &["f.late"], &[]),
        operator("s", "out", &["s.main"], &[]),
    ];
    check(
        &job(0, operators),
        expect_test::expect![[r#"
            parallelism.default: expected a whole number from 1 to 1024, found a whole number: 0
            operator 's', uid: is used by more than one operator; uids must be unique
            operator 'src2', kind: 'numbrs' is not a kind of operator; known are filter, project, flat_map, union, key_by, watermark, window, window_join, window_top_n, last_by_key, first_by_key, absence, numbers, out; did you mean 'numbers'?
            operator 'win', sise: unknown field; known here: aggregates, allowed_lateness, key, two_phase, window
            operator 'g', inputs: 'nowhere': there is no operator 'nowhere'
            operator 'g', inputs: needs 1 input, 2 given
            operator 's', inputs: 'f' (filter) has no late output
            operator 's', inputs: 's.main': there is no output 'main'; outputs are late and dead_letter
            operator 'loop2', inputs: the inputs form a cycle: loop2 -> loop1 -> loop2
            operator 'win': nobody reads its output; connect a sink, or remove it
            operator 'f': nobody reads its output; connect a sink, or remove it
            operator 'g': nobody reads its output; connect a sink, or remove it
            operator 'src', row: unknown field; known here: rows; did you mean 'rows'?
            operator 'win', inputs: needs event time: put a watermark operator before it
            operator 'win', key: there is no column 'aa'; the input has a, b, c, t; did you mean 'a'?
            operator 'f', predicate: must be Boolean, but 'a' is Int64
        "#]],
    );
}

#[test]
fn time_to_live_is_longer_than_zero_and_needs_event_time() {
    let first =
        |ttl: &str| operator("first", "first_by_key", &["wm"], &[("key", "a".into()), ("state_ttl", ttl.into())]);
    let by_value = [("key", "a".into()), ("order_by", "b".into()), ("state_ttl", "1 h".into())];
    let last = operator("last", "last_by_key", &["src"], &by_value);
    let sinks = [operator("out", "out", &["first"], &[]), operator("late", "out", &["last.late"], &[])];
    let mut operators = vec![source(), watermark(), first("0 s"), last];
    operators.extend(sinks);
    check(
        &job(1, operators),
        expect_test::expect![[r#"
            operator 'first', state_ttl: must be longer than zero; leave it out to remember keys for ever
            operator 'last': nobody reads its output; connect a sink, or remove it
            operator 'last', inputs: needs event time: put a watermark operator before it
        "#]],
    );
}

#[test]
fn empty_job_is_refused() {
    check(
        &SubmittedJob::default(),
        expect_test::expect![[r#"
        name: a job needs a name of 1 to 200 bytes
        operators: is empty: a job needs at least a source and a sink
    "#]],
    );
}
