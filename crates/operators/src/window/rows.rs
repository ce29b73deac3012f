//! The rows of a batch as window operators see them: keys, event times, and the values of each aggregate call, with
//! bad rows already taken out. Both engines read their input through it; only `compile` knows SQL.

use arrow_array::cast::AsArray;
use arrow_array::types::TimestampMicrosecondType;
use arrow_array::{Array, ArrayRef, BooleanArray, RecordBatch, UInt32Array};
use arrow_buffer::ScalarBuffer;
use arrow_select::take::{take, take_record_batch};
use weir_core::key_hash::hash_columns;
use weir_core::{Batch, EventTime};
use weir_operator_api::{OperatorError, Output, Result};

use super::accumulator::{Call, Input};
use crate::bad_rows::{BAD_EXPRESSION, bad_rows};

/// The event time of a record is missing or outside the years 1 to 9999.
pub(crate) const BAD_TIME: &str = "bad-record-time";

/// A compiled expression: a column per batch, or a message.
pub(crate) type Column<A> = Box<dyn Fn(&RecordBatch) -> Result<A, String> + Send>;

/// One aggregate call, compiled.
pub(crate) struct CompiledCall {
    pub(crate) call: Call,
    pub(crate) argument: Option<Column<ArrayRef>>,
    pub(crate) filter: Option<Column<BooleanArray>>,
}

impl CompiledCall {
    fn evaluate(&self, records: &RecordBatch) -> Result<Input, String> {
        let values = self.argument.as_ref().map(|argument| argument(records)).transpose()?;
        let filter = self.filter.as_ref().map(|filter| filter(records)).transpose()?;
        Ok(Input::new(values, filter.as_ref()))
    }
}

/// What the rows carry for the accumulators.
#[derive(Clone, Debug)]
pub(crate) enum Values {
    /// One input per call.
    Inputs(Vec<Input>),
    /// The partial columns of all calls, one after the other.
    Partials(Vec<ArrayRef>),
}

/// Rows, column by column.
#[derive(Clone, Debug)]
pub(crate) struct Rows {
    pub(crate) keys: Vec<ArrayRef>,
    pub(crate) hashes: ScalarBuffer<u64>,
    /// Event time of a row; start of the slice of a partial; start of the session of a partial session.
    pub(crate) times: ScalarBuffer<i64>,
    pub(crate) values: Values,
}

impl Rows {
    /// Rows with the hashes of their keys.
    pub(crate) fn new(keys: Vec<ArrayRef>, times: ScalarBuffer<i64>, values: Values) -> Result<Rows> {
        let mut hashes = Vec::new();
        hash_columns(&keys, &mut hashes)?;
        hashes.resize(times.len(), 0);
        Ok(Rows { keys, hashes: hashes.into(), times, values })
    }

    pub(crate) fn len(&self) -> usize {
        self.times.len()
    }

    /// Some rows in a row, without copying.
    pub(crate) fn slice(&self, offset: usize, len: usize) -> Rows {
        if offset == 0 && len == self.len() {
            return self.clone();
        }
        let slice = |columns: &[ArrayRef]| columns.iter().map(|column| column.slice(offset, len)).collect();
        Rows {
            keys: slice(&self.keys),
            hashes: self.hashes.slice(offset, len),
            times: self.times.slice(offset, len),
            values: match &self.values {
                Values::Inputs(inputs) => Values::Inputs(inputs.iter().map(|input| input.slice(offset, len)).collect()),
                Values::Partials(columns) => Values::Partials(slice(columns)),
            },
        }
    }

    /// The rows at `indices`.
    pub(crate) fn take(&self, indices: &UInt32Array) -> Result<Rows> {
        let take_all = |columns: &[ArrayRef]| -> Result<Vec<ArrayRef>> {
            columns.iter().map(|column| Ok(take(column, indices, None)?)).collect()
        };
        let rows = indices.values();
        Ok(Rows {
            keys: take_all(&self.keys)?,
            hashes: rows.iter().map(|row| self.hashes[*row as usize]).collect(),
            times: rows.iter().map(|row| self.times[*row as usize]).collect(),
            values: match &self.values {
                Values::Inputs(inputs) => {
                    Values::Inputs(inputs.iter().map(|input| input.take(indices)).collect::<Result<_>>()?)
                }
                Values::Partials(columns) => Values::Partials(take_all(columns)?),
            },
        })
    }
}

/// Good rows with the batch they came in, row by row the same.
pub(crate) struct ReadBatch {
    pub(crate) batch: Batch,
    pub(crate) rows: Rows,
}

impl ReadBatch {
    /// Some of the rows as they came, for the late and raw outputs.
    pub(crate) fn as_they_came(&self, rows: Vec<u32>) -> Result<Batch> {
        if rows.len() == self.batch.num_rows() {
            return Ok(self.batch.clone());
        }
        Ok(self.batch.with_records(take_record_batch(&self.batch.records, &UInt32Array::from(rows))?))
    }
}

/// Reads batches of rows.
pub(crate) struct RowReader {
    pub(crate) key_columns: Vec<usize>,
    pub(crate) calls: Vec<CompiledCall>,
}

impl RowReader {
    /// Evaluates everything on a batch and reports the rows on which that fails. Mostly one piece comes back; a batch
    /// with failing expressions is halved until they are found.
    pub(crate) fn read(&self, batch: Batch, out: &mut dyn Output) -> Result<Vec<ReadBatch>> {
        let mut pieces = Vec::new();
        let mut bad = Vec::new();
        if let Some(batch) = self.with_good_times(batch, out)? {
            self.read_piece(batch, &mut pieces, &mut bad)?;
        }
        if !bad.is_empty() {
            out.bad(bad);
        }
        Ok(pieces)
    }

    fn read_piece(
        &self,
        batch: Batch,
        pieces: &mut Vec<ReadBatch>,
        bad: &mut Vec<weir_operator_api::BadRecord>,
    ) -> Result<()> {
        let inputs: Result<Vec<Input>, String> = self.calls.iter().map(|call| call.evaluate(&batch.records)).collect();
        match inputs {
            Ok(inputs) => {
                let keys = self.key_columns.iter().map(|column| batch.records.column(*column).clone()).collect();
                let times = event_times(&batch)?.clone();
                pieces.push(ReadBatch { rows: Rows::new(keys, times, Values::Inputs(inputs))?, batch });
            }
            Err(message) if batch.num_rows() == 1 => {
                bad.extend(bad_rows(BAD_EXPRESSION, &batch.records, vec![(0, message)])?);
            }
            Err(_) => {
                let half = batch.num_rows() / 2;
                for (offset, len) in [(0, half), (half, batch.num_rows() - half)] {
                    self.read_piece(batch.with_records(batch.records.slice(offset, len)), pieces, bad)?;
                }
            }
        }
        Ok(())
    }

    fn with_good_times(&self, batch: Batch, out: &mut dyn Output) -> Result<Option<Batch>> {
        let column = batch.event_times().ok_or_else(no_event_time)?;
        let (least, greatest) = (EventTime::SANE_MIN.0, EventTime::SANE_MAX.0);
        let is_sane = column.values().iter().fold(true, |all, time| all & (least <= *time) & (*time <= greatest));
        if column.null_count() == 0 && is_sane {
            return Ok(Some(batch));
        }
        let (mut good, mut bad) = (Vec::new(), Vec::new());
        for row in 0..column.len() {
            let name = || batch.records.schema_ref().metadata().get(weir_core::batch::EVENT_TIME_KEY).cloned();
            if column.is_null(row) {
                bad.push((row as u32, format!("event time '{}' is null", name().unwrap_or_default())));
            } else if !EventTime(column.value(row)).is_sane() {
                let micros = column.value(row);
                let message = format!(
                    "event time '{}' is {micros} microseconds since 1970, outside the years 1 to 9999",
                    name().unwrap_or_default()
                );
                bad.push((row as u32, message));
            } else {
                good.push(row as u32);
            }
        }
        out.bad(bad_rows(BAD_TIME, &batch.records, bad)?);
        if good.is_empty() {
            return Ok(None);
        }
        Ok(Some(batch.with_records(take_record_batch(&batch.records, &UInt32Array::from(good))?)))
    }
}

fn no_event_time() -> OperatorError {
    OperatorError::internal("the input of a window has no event-time column")
}

fn event_times(batch: &Batch) -> Result<&ScalarBuffer<i64>> {
    Ok(batch.event_times().ok_or_else(no_event_time)?.values())
}

/// Reads a batch of partials: keys, `time_columns` times, partial columns. Gives the rows, whose times are the first
/// time column, and the last time column.
pub(crate) fn read_partials(
    records: &RecordBatch,
    key_count: usize,
    time_columns: usize,
) -> Result<(Rows, ScalarBuffer<i64>)> {
    let columns = records.columns();
    let times = |index: usize| columns[key_count + index].as_primitive::<TimestampMicrosecondType>().values().clone();
    let partials = Values::Partials(columns[key_count + time_columns..].to_vec());
    Ok((Rows::new(columns[..key_count].to_vec(), times(0), partials)?, times(time_columns - 1)))
}
