//! Names the event-time column and makes watermarks. Built by `create`; runs in a source's chain, where it hears of
//! splits. What it decides is decided in [`tracker`].
//!
//! Rows without a usable time are bad records, so that behind this operator every row has a sane event time.

use std::sync::Arc;

use arrow_array::builder::BooleanBufferBuilder;
use arrow_array::cast::AsArray;
use arrow_array::types::{Int64Type, TimestampMicrosecondType, UInt32Type};
use arrow_array::{Array, ArrayRef, BooleanArray, Int64Array, RecordBatch, UInt32Array};
use arrow_cast::{CastOptions, cast_with_options};
use arrow_schema::{DataType, SchemaRef};
use arrow_select::filter::{filter, filter_record_batch};
use weir_core::batch::{EventTimeArray, event_time_type};
use weir_core::{Batch, Clock, EventTime, SplitIndex};
use weir_expr::Expression;
use weir_graph::descriptor::WatermarkStrategy;
use weir_operator_api::{Operator, OperatorContext, OperatorError, Output, Progress, Result, SplitEvent};
use weir_state::StateTable;

use crate::bad_rows::{bad_rows, isolate};
use crate::state_rows::{Column, Layout, Restored, StateRows};

pub mod tracker;

use tracker::{Idleness, SplitState, WatermarkTracker};

/// The event time is missing or outside the years 1 to 9999.
pub const BAD_TIME: &str = "bad-record-time";
/// The event time lies further ahead of the wall clock than `max_future_skew`.
pub const BAD_FUTURE: &str = "bad-record-future";

/// Builds the operator of one subtask.
pub fn create(strategy: &WatermarkStrategy, context: &OperatorContext) -> Result<Box<dyn Operator>> {
    let input = &context.inputs[0];
    let time =
        match &strategy.time {
            Some(sql) => Time::Expression(Expression::compile(sql, input).map_err(|error| {
                OperatorError::internal("a planned time expression does not compile").because(error)
            })?),
            None => Time::Column(input.index_of(&strategy.column)?),
        };
    let place = context.output.index_of(&strategy.column)?;
    let is_new = input.index_of(&strategy.column).is_err();
    let width = input.fields().len() + usize::from(is_new);
    if context.output.fields().len() != width || (is_new && place + 1 != width) {
        return Err(OperatorError::internal("the output of a watermark operator is not its input with an event time"));
    }
    Ok(Box::new(Watermark {
        time,
        place,
        is_new,
        output: context.output.clone(),
        max_future_skew_us: strategy.max_future_skew,
        clock: context.clock.clone(),
        tracker: WatermarkTracker::new(strategy.max_out_of_orderness, strategy.idle_timeout),
        splits: Layout::shared("splits", split_columns()),
        ended: Layout::shared("ended", vec![Column::new("watermark_unix_us", DataType::Int64)]),
    }))
}

/// Where the event time comes from.
enum Time {
    Column(usize),
    Expression(Expression),
}

struct Watermark {
    time: Time,
    /// Index of the event-time column in the output.
    place: usize,
    /// Whether that column is appended to the input's (else it replaces one).
    is_new: bool,
    output: SchemaRef,
    max_future_skew_us: Option<i64>,
    clock: Arc<dyn Clock>,
    tracker: WatermarkTracker,
    /// The tables of a checkpoint: splits that are not finished, and the greatest watermark of those that are.
    splits: Layout,
    ended: Layout,
}

impl Watermark {
    /// The time column of a batch, and the batch without the rows on which the expression fails; `None` when that is
    /// all of them.
    fn evaluate(&self, batch: Batch, out: &mut dyn Output) -> Result<Option<(Batch, ArrayRef)>> {
        let expression = match &self.time {
            Time::Column(index) => {
                let time = batch.records.column(*index).clone();
                return Ok(Some((batch, time)));
            }
            Time::Expression(expression) => expression,
        };
        if let Ok(time) = expression.evaluate(&batch.records) {
            return Ok(Some((batch, time)));
        }
        let Some(good) = isolate(std::iter::once(expression), &batch, out)? else { return Ok(None) };
        let time = expression.evaluate(&good.records).map_err(|error| {
            OperatorError::internal("a time expression failed on rows it had accepted").because(error)
        })?;
        Ok(Some((good, time)))
    }

    fn latest(&self) -> i64 {
        let skewed = self.max_future_skew_us.map(|skew_us| self.clock.wall_unix_us().saturating_add(skew_us));
        skewed.unwrap_or(i64::MAX).min(EventTime::SANE_MAX.0)
    }

    /// Removes rows without a usable time and reports them. Gives the rows left, their times and the greatest of them.
    fn check(
        &self,
        records: RecordBatch,
        raw: &ArrayRef,
        out: &mut dyn Output,
    ) -> Result<Option<(RecordBatch, ArrayRef, i64)>> {
        let times = to_event_time(raw)?;
        let values = times.as_primitive::<TimestampMicrosecondType>();
        let latest = self.latest();
        if values.is_empty() {
            return Ok(None);
        }
        if values.null_count() == 0 {
            let (least, greatest) = bounds(values.values());
            if least >= EventTime::SANE_MIN.0 && greatest <= latest {
                return Ok(Some((records, times, greatest)));
            }
        }
        let (is_good, bad_time, bad_future) = self.sort_out(values, raw, latest);
        for (code, bad) in [(BAD_TIME, bad_time), (BAD_FUTURE, bad_future)] {
            if !bad.is_empty() {
                out.bad(bad_rows(code, &records, bad)?);
            }
        }
        if is_good.true_count() == 0 {
            return Ok(None);
        }
        let times = filter(&times, &is_good)?;
        let (_, greatest) = bounds(times.as_primitive::<TimestampMicrosecondType>().values());
        Ok(Some((filter_record_batch(&records, &is_good)?, times, greatest)))
    }

    fn sort_out(&self, times: &EventTimeArray, raw: &ArrayRef, latest: i64) -> (BooleanArray, BadRows, BadRows) {
        let mut is_good = BooleanBufferBuilder::new(times.len());
        let (mut bad_time, mut bad_future) = (Vec::new(), Vec::new());
        for row in 0..times.len() {
            let time = times.is_valid(row).then(|| times.value(row));
            let problem = match time {
                None if raw.is_null(row) => Some("the event time is null".to_owned()),
                None => Some("the event time does not fit into microseconds".to_owned()),
                Some(time) if !EventTime(time).is_sane() => {
                    Some(format!("the event time, {time} us since 1970, is outside the years 1 to 9999"))
                }
                Some(_) => None,
            };
            let is_future = problem.is_none() && time.is_some_and(|time| time > latest);
            is_good.append(problem.is_none() && !is_future);
            if is_future {
                let ahead_ms = times.value(row).saturating_sub(self.clock.wall_unix_us()) / 1000;
                let allowed_ms = self.max_future_skew_us.unwrap_or(0) / 1000;
                let message =
                    format!("the event time lies {ahead_ms} ms ahead of the clock; {allowed_ms} ms are allowed");
                bad_future.push((row as u32, message));
            }
            bad_time.extend(problem.map(|problem| (row as u32, problem)));
        }
        (BooleanArray::new(is_good.finish(), None), bad_time, bad_future)
    }

    fn output(&self, records: &RecordBatch, times: ArrayRef) -> Result<RecordBatch> {
        let mut columns = records.columns().to_vec();
        if self.is_new {
            columns.push(times);
        } else {
            columns[self.place] = times;
        }
        Ok(RecordBatch::try_new(self.output.clone(), columns)?)
    }

    /// Says again what was said before the checkpoint that the job goes on from.
    fn settle(&mut self, out: &mut dyn Output) {
        if let Some(said) = self.tracker.settle() {
            out.watermark(said);
        }
    }

    fn advance(&mut self, out: &mut dyn Output) {
        if let Some(watermark) = self.tracker.advance() {
            out.watermark(watermark);
        }
    }
}

fn split_columns() -> Vec<Column> {
    vec![
        // Null for rows without a split.
        Column::new("split", DataType::UInt32),
        Column::new("watermark_unix_us", DataType::Int64),
        Column::new("said_unix_us", DataType::Int64),
        Column::new("waited_us", DataType::Int64),
        Column::new("gave_rows", DataType::Boolean),
        Column::new("is_idle", DataType::Boolean),
    ]
}

fn read_splits(rows: &StateRows) -> impl Iterator<Item = SplitState> {
    let splits = rows.columns[0].as_primitive::<UInt32Type>();
    let [watermarks, said, waited] = [1, 2, 3].map(|column: usize| rows.columns[column].as_primitive::<Int64Type>());
    let [gave_rows, is_idle] = [4, 5].map(|column: usize| rows.columns[column].as_boolean());
    (0..rows.row_count).map(move |row| SplitState {
        index: splits.is_valid(row).then(|| SplitIndex(splits.value(row))),
        watermark: EventTime(watermarks.value(row)),
        said: EventTime(said.value(row)),
        waited_us: waited.value(row),
        gave_rows: gave_rows.value(row),
        is_idle: is_idle.value(row),
    })
}

type BadRows = Vec<(u32, String)>;

/// Casts any timestamp to event time; what does not fit becomes null.
fn to_event_time(raw: &ArrayRef) -> Result<ArrayRef> {
    match raw.data_type() {
        exact if *exact == event_time_type() => Ok(raw.clone()),
        DataType::Timestamp(_, _) => {
            let options = CastOptions { safe: true, ..CastOptions::default() };
            Ok(cast_with_options(raw, &event_time_type(), &options)?)
        }
        other => Err(OperatorError::internal(format!("event time was planned over {other}, which is no timestamp"))),
    }
}

fn bounds(values: &[i64]) -> (i64, i64) {
    values.iter().fold((i64::MAX, i64::MIN), |(least, greatest), value| (least.min(*value), greatest.max(*value)))
}

impl Operator for Watermark {
    fn process(&mut self, _input: usize, batch: Batch, out: &mut dyn Output) -> Result<Progress> {
        self.settle(out);
        let (split, origin_us) = (batch.split, batch.origin_us);
        let good = match self.evaluate(batch, out)? {
            Some((batch, time)) => self.check(batch.records, &time, out)?,
            None => None,
        };
        // Activity is told before the rows, so that nobody downstream gets rows on an idle input.
        let time_max = good.as_ref().map(|(_, _, greatest)| *greatest);
        if self.tracker.on_rows(split, time_max) == Idleness::BecameActive {
            out.idle(false);
        }
        if let Some((records, times, _)) = good {
            out.emit(Batch { records: self.output(&records, times)?, split, origin_us });
            self.advance(out);
        }
        Ok(Progress::Done)
    }

    fn on_watermark(&mut self, watermark: EventTime, out: &mut dyn Output) -> Result<Progress> {
        self.settle(out);
        // Watermarks begin here; only the end of the input passes through.
        if watermark == EventTime::MAX {
            if let Some(last) = self.tracker.at_end() {
                out.watermark(last);
            }
            out.watermark(watermark);
        }
        Ok(Progress::Done)
    }

    fn on_split(&mut self, event: SplitEvent, out: &mut dyn Output) -> Result<Progress> {
        if let SplitEvent::Added(split) = event {
            // An added split never moves the watermark, and one of a checkpoint must not before the others are here.
            if self.tracker.on_added(split) == Idleness::BecameActive {
                out.idle(false);
            }
            out.split(event);
            return Ok(Progress::Done);
        }
        self.settle(out);
        let idleness = match event {
            SplitEvent::Added(_) => Idleness::Unchanged,
            SplitEvent::Finished(split) => self.tracker.on_finished(split),
            SplitEvent::Waited { waited_us } => self.tracker.on_waited(waited_us),
        };
        if idleness == Idleness::BecameActive {
            out.idle(false);
        }
        self.advance(out);
        if idleness == Idleness::BecameIdle {
            out.idle(true);
        }
        out.split(event);
        Ok(Progress::Done)
    }

    /// Six numbers per split.
    fn snapshot(&mut self) -> Result<Vec<StateTable>> {
        let (splits, ended) = self.tracker.snapshot();
        let numbers = |number: fn(&SplitState) -> i64| -> ArrayRef {
            Arc::new(Int64Array::from_iter_values(splits.iter().map(number)))
        };
        let flags = |flag: fn(&SplitState) -> bool| -> ArrayRef {
            Arc::new(splits.iter().map(|split| Some(flag(split))).collect::<BooleanArray>())
        };
        let indexes = splits.iter().map(|split| split.index.map(|index| index.0)).collect::<UInt32Array>();
        let columns = vec![
            Arc::new(indexes) as ArrayRef,
            numbers(|split| split.watermark.0),
            numbers(|split| split.said.0),
            numbers(|split| split.waited_us),
            flags(|split| split.gave_rows),
            flags(|split| split.is_idle),
        ];
        let ended = self.ended.shared_table(vec![Arc::new(Int64Array::from(vec![ended.0]))])?;
        Ok(vec![self.splits.shared_table(columns)?, ended])
    }

    fn restore(&mut self, tables: Vec<StateTable>, _watermark: EventTime) -> Result<()> {
        let mut restored = Restored::new(tables);
        let splits = restored.take(&self.splits)?.iter().flat_map(read_splits).collect();
        let ended = restored.take(&self.ended)?;
        let ended = ended.iter().flat_map(|rows| rows.columns[0].as_primitive::<Int64Type>().values().iter()).max();
        self.tracker.restore(splits, EventTime(ended.copied().unwrap_or(i64::MIN)));
        restored.finish()
    }
}

#[cfg(test)]
mod tests;
