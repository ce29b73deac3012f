//! Tests of the window engines against the definition of windows: random rows, batches, watermarks and disorder.
//! Here is what the tests share; times are a few microseconds, so that everything meets everything.

use std::sync::Arc;

use arrow_array::cast::AsArray;
use arrow_array::types::{Int8Type, Int64Type, TimestampMicrosecondType};
use arrow_array::{Array, Int64Array, RecordBatch};
use arrow_schema::{Field, SchemaRef};
use proptest::prelude::*;
use weir_core::batch::{CHANGE_COLUMN, EventTimeArray};
use weir_core::{Batch, ChangeKind, EventTime, OutputTag, TypedAggregate};
use weir_graph::descriptor::WindowAggregate;
use weir_graph::window_schema::{output_schema, partial_schema};
use weir_graph::{Phase, WindowSpec};
use weir_testkit::{recorder::Recorded, rows::schema, script, script::Runner};

mod cuts;
mod scripts;
mod session;
mod sliced;
mod two_phase;

/// A row: key, value, event time.
type Row = (Option<i64>, Option<i64>, i64);

/// A result: change, key, window, count, sum, least value.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Found {
    end: i64,
    start: i64,
    key: Option<i64>,
    change: i8,
    values: (i64, Option<i64>, Option<i64>),
}

const INSERT: i8 = ChangeKind::Insert as i8;
const UPDATE: i8 = ChangeKind::UpdateAfter as i8;
const DELETE: i8 = ChangeKind::Delete as i8;

/// What happens to an operator.
#[derive(Clone, Debug)]
enum Step {
    Rows(Vec<Row>),
    Watermark(i64),
}

fn rows() -> impl Strategy<Value = Vec<Row>> {
    let row = (prop::option::weighted(0.9, 0i64..4), prop::option::weighted(0.9, -9i64..10), 0i64..100);
    prop::collection::vec(row, 1..12)
}

/// Batches and growing watermarks, the last one `MAX`.
fn steps() -> impl Strategy<Value = Vec<Step>> {
    let step = prop_oneof![
        3 => rows().prop_map(Step::Rows),
        2 => (0i64..25).prop_map(Step::Watermark),
    ];
    prop::collection::vec(step, 1..14).prop_map(|mut steps| {
        let mut now = -10;
        for step in &mut steps {
            if let Step::Watermark(time) = step {
                now += *time;
                *time = now;
            }
        }
        steps.push(Step::Watermark(i64::MAX));
        steps
    })
}

fn input() -> SchemaRef {
    schema("k BIGINT, v BIGINT, t TIMESTAMP*")
}

fn batch(rows: &[Row]) -> Batch {
    let columns: Vec<Arc<dyn Array>> = vec![
        Arc::new(rows.iter().map(|row| row.0).collect::<Int64Array>()),
        Arc::new(rows.iter().map(|row| row.1).collect::<Int64Array>()),
        Arc::new(EventTimeArray::from_iter_values(rows.iter().map(|row| row.2)).with_timezone("UTC")),
    ];
    Batch::new(RecordBatch::try_new(input(), columns).expect("columns fit"), 0)
}

fn descriptor(window: WindowSpec, allowed_lateness: i64) -> WindowAggregate {
    WindowAggregate {
        key: vec!["k".to_owned()],
        window,
        aggregates: ["count(*) AS n", "sum(v) AS total", "min(v) AS least"].map(str::to_owned).to_vec(),
        allowed_lateness,
        two_phase: true,
    }
}

/// Input schemas and output schema of one phase.
fn schemas(descriptor: &WindowAggregate, input: SchemaRef, phase: Phase) -> (Vec<SchemaRef>, SchemaRef) {
    let fields: Vec<Field> =
        descriptor.key.iter().map(|key| input.field_with_name(key).expect("key exists").clone()).collect();
    let aggregates: Vec<TypedAggregate> = descriptor
        .aggregates
        .iter()
        .map(|sql| weir_expr::aggregate_call(sql, &input).expect("aggregate compiles").typed())
        .collect();
    let results = output_schema(&fields, &aggregates, descriptor.allowed_lateness);
    let partials = partial_schema(&fields, descriptor.window, &aggregates);
    match (phase, partials) {
        (Phase::Whole, _) => (vec![input], results),
        (Phase::Local, Some(partials)) => (vec![input], partials),
        (Phase::Final, Some(partials)) => (vec![input, partials], results),
        (_, None) => panic!("these aggregates have no partial form"),
    }
}

fn operator_of(descriptor: &WindowAggregate, input: SchemaRef, phase: Phase, batch_rows: usize) -> Runner {
    let (inputs, output) = schemas(descriptor, input, phase);
    let (mut context, clock) = script::context(inputs, output);
    context.batch_rows = batch_rows;
    let operator = super::create(descriptor, phase, &context).expect("the descriptor is right");
    Runner::new(operator, &context, clock)
}

fn operator(window: WindowSpec, allowed_lateness: i64, phase: Phase, batch_rows: usize) -> Runner {
    operator_of(&descriptor(window, allowed_lateness), input(), phase, batch_rows)
}

/// Results in the order they came.
fn results(records: &RecordBatch) -> Vec<Found> {
    let long = |column: usize| records.column(column).as_primitive::<Int64Type>();
    let time = |column: usize| records.column(column).as_primitive::<TimestampMicrosecondType>();
    let maybe = |column: usize, row: usize| long(column).is_valid(row).then(|| long(column).value(row));
    let changes = records.column_by_name(CHANGE_COLUMN).map(|column| column.as_primitive::<Int8Type>().clone());
    (0..records.num_rows())
        .map(|row| {
            assert_eq!(time(2).value(row), time(3).value(row) + 1, "window_time is the last microsecond");
            Found {
                end: time(2).value(row),
                start: time(1).value(row),
                key: maybe(0, row),
                change: changes.as_ref().map_or(INSERT, |changes| changes.value(row)),
                values: (long(4).value(row), maybe(5, row), maybe(6, row)),
            }
        })
        .collect()
}

fn input_rows(records: &RecordBatch) -> Vec<Row> {
    let long = |column: usize| records.column(column).as_primitive::<Int64Type>();
    let maybe = |column: usize, row: usize| long(column).is_valid(row).then(|| long(column).value(row));
    let times = records.column(2).as_primitive::<TimestampMicrosecondType>();
    (0..records.num_rows()).map(|row| (maybe(0, row), maybe(1, row), times.value(row))).collect()
}

/// What came out of one step: results and late rows, in order.
#[derive(Debug, Default, PartialEq)]
struct Outcome {
    results: Vec<Found>,
    late: Vec<Row>,
}

impl Outcome {
    fn sorted(mut self) -> Outcome {
        self.results.sort();
        self.late.sort();
        self
    }
}

fn outcome(runner: &mut Runner) -> Outcome {
    let mut outcome = Outcome::default();
    for element in runner.recorder.take() {
        match element {
            Recorded::Batch(OutputTag::Main, batch) => outcome.results.extend(results(&batch.records)),
            Recorded::Batch(OutputTag::Late, batch) => outcome.late.extend(input_rows(&batch.records)),
            Recorded::Batch(tag, _) => panic!("rows for {tag:?}"),
            Recorded::Bad(bad) => panic!("{bad:?}"),
            Recorded::Watermark(_) | Recorded::Idle(_) | Recorded::Split(_) | Recorded::More => {}
        }
    }
    outcome
}

fn apply(runner: &mut Runner, step: &Step) -> Outcome {
    match step {
        Step::Rows(rows) => runner.batch(0, batch(rows)),
        Step::Watermark(time) => {
            runner.watermark(EventTime(*time));
            assert_eq!(runner.recorder.last_watermark(), Some(EventTime(*time)));
        }
    }
    outcome(runner)
}

/// The aggregates by definition.
fn values(rows: &[Row]) -> (i64, Option<i64>, Option<i64>) {
    let known: Vec<i64> = rows.iter().filter_map(|row| row.1).collect();
    (rows.len() as i64, (!known.is_empty()).then(|| known.iter().sum()), known.iter().min().copied())
}
