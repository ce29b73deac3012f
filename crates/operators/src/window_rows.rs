//! Cuts batches by the window (or slice) that each row belongs to. Joins and top-N use it; it keeps no state.

use arrow_array::cast::AsArray;
use arrow_array::types::TimestampMicrosecondType;
use arrow_array::{Array, BooleanArray, RecordBatch, UInt32Array};
use arrow_buffer::BooleanBuffer;
use arrow_schema::Schema;
use arrow_select::filter::filter_record_batch;
use arrow_select::take::take_record_batch;
use weir_core::Batch;
use weir_graph::window_schema::{WINDOW_END, WINDOW_START};
use weir_operator_api::{Output, Result};

use crate::bad_rows::bad_rows;
use crate::watermark::BAD_TIME;

/// First microsecond, and first microsecond after. Ordered by the end first, so that windows close in order.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(crate) struct Bounds {
    pub(crate) end: i64,
    pub(crate) start: i64,
}

impl Bounds {
    /// Whether no row can belong to it any more.
    pub(crate) fn is_closed(&self, watermark: i64) -> bool {
        self.end.saturating_sub(1) <= watermark
    }
}

/// More runs than this are brought together by sorting before a batch is cut.
const RUNS_MAX: usize = 16;

/// The window columns of a stream of window results.
#[derive(Clone, Copy, Debug)]
pub(crate) struct WindowColumns {
    start: usize,
    end: usize,
}

impl WindowColumns {
    /// Finds them in a schema.
    pub(crate) fn find(schema: &Schema) -> Result<Self> {
        Ok(WindowColumns { start: schema.index_of(WINDOW_START)?, end: schema.index_of(WINDOW_END)? })
    }

    /// The bounds of each row. Rows without are bad records and are left out of the batch.
    pub(crate) fn read(&self, batch: Batch, out: &mut dyn Output) -> Result<(Batch, Vec<Bounds>)> {
        let columns = [self.start, self.end];
        let has_nulls = columns.iter().any(|column| batch.records.column(*column).null_count() > 0);
        let batch = if has_nulls { self.without_nulls(&batch, out)? } else { batch };
        let bounds = self.bounds(&batch.records);
        Ok((batch, bounds))
    }

    /// The bounds of each row, none of which is null.
    pub(crate) fn bounds(&self, records: &RecordBatch) -> Vec<Bounds> {
        let [starts, ends] =
            [self.start, self.end].map(|column| records.column(column).as_primitive::<TimestampMicrosecondType>());
        starts.values().iter().zip(ends.values()).map(|(start, end)| Bounds { start: *start, end: *end }).collect()
    }

    /// Where the bounds stand in a row: start and end.
    pub(crate) fn indexes(&self) -> [usize; 2] {
        [self.start, self.end]
    }

    fn without_nulls(&self, batch: &Batch, out: &mut dyn Output) -> Result<Batch> {
        let [starts, ends] = [self.start, self.end].map(|column| batch.records.column(column));
        let is_good = BooleanBuffer::collect_bool(batch.num_rows(), |row| starts.is_valid(row) && ends.is_valid(row));
        let bad = (0..batch.num_rows()).filter(|row| !is_good.value(*row));
        let bad = bad.map(|row| (row as u32, "a bound of the row's window is null".to_owned())).collect();
        out.bad(bad_rows(BAD_TIME, &batch.records, bad)?);
        Ok(batch.with_records(filter_record_batch(&batch.records, &BooleanArray::new(is_good, None))?))
    }
}

/// Cuts rows by their bounds: few runs are sliced without copying, many are sorted together first.
pub(crate) fn cut(records: &RecordBatch, bounds: &[Bounds]) -> Result<Vec<(Bounds, RecordBatch)>> {
    let run_count = bounds.windows(2).filter(|pair| pair[0] != pair[1]).count() + 1;
    if run_count <= RUNS_MAX {
        return Ok(slices(records, bounds));
    }
    let mut order: Vec<u32> = (0..bounds.len() as u32).collect();
    // Stable, so that rows of one window stay in the order in which they came.
    order.sort_by_key(|row| bounds[*row as usize]);
    let sorted_bounds: Vec<Bounds> = order.iter().map(|row| bounds[*row as usize]).collect();
    let sorted = take_record_batch(records, &UInt32Array::from(order))?;
    Ok(slices(&sorted, &sorted_bounds))
}

fn slices(records: &RecordBatch, bounds: &[Bounds]) -> Vec<(Bounds, RecordBatch)> {
    let mut slices = Vec::new();
    let mut start = 0;
    while start < bounds.len() {
        let length = bounds[start..].iter().take_while(|other| **other == bounds[start]).count();
        slices.push((bounds[start], records.slice(start, length)));
        start += length;
    }
    slices
}

/// Splits off the rows whose bounds are closed: what is left, its bounds, and the late rows if there are any.
pub(crate) fn split_late(
    batch: Batch,
    mut bounds: Vec<Bounds>,
    is_late: impl Fn(&Bounds) -> bool,
) -> Result<(Batch, Vec<Bounds>, Option<Batch>)> {
    if !bounds.iter().any(&is_late) {
        return Ok((batch, bounds, None));
    }
    let late = BooleanBuffer::collect_bool(bounds.len(), |row| is_late(&bounds[row]));
    let on_time = filter_record_batch(&batch.records, &BooleanArray::new(!&late, None))?;
    let late = filter_record_batch(&batch.records, &BooleanArray::new(late, None))?;
    bounds.retain(|bounds| !is_late(bounds));
    Ok((batch.with_records(on_time), bounds, Some(batch.with_records(late))))
}
