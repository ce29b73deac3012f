//! One row per element of an array; the element takes the array's place. Built by `create`.
//!
//! Rows are put together by two lists of indexes, one into the rows and one into the elements of all arrays, so nothing
//! is done row by row but writing those. A batch with long arrays leaves in pieces.

use arrow_array::cast::AsArray;
use arrow_array::{Array, ArrayRef, RecordBatch, UInt32Array};
use arrow_schema::SchemaRef;
use arrow_select::take::take;
use weir_core::Batch;
use weir_graph::descriptor;
use weir_operator_api::{Operator, OperatorContext, OperatorError, Output, Progress, Result};

/// Builds the operator of one subtask.
pub fn create(flat_map: &descriptor::FlatMap, context: &OperatorContext) -> Result<Box<dyn Operator>> {
    let array = context.inputs[0].index_of(&flat_map.array)?;
    if !matches!(context.inputs[0].field(array).data_type(), arrow_schema::DataType::List(_)) {
        return Err(OperatorError::internal(format!("flat_map was planned over '{}', no array", flat_map.array)));
    }
    Ok(Box::new(FlatMap {
        array,
        keep_empty: flat_map.keep_empty,
        output: context.output.clone(),
        batch_rows: context.batch_rows.max(1),
        pending: None,
    }))
}

struct FlatMap {
    array: usize,
    keep_empty: bool,
    output: SchemaRef,
    batch_rows: usize,
    /// The batch being taken apart.
    pending: Option<Pending>,
}

struct Pending {
    batch: Batch,
    row: usize,
    /// Elements of `row` that have left already.
    element: usize,
}

impl FlatMap {
    /// Emits up to `batch_rows` rows of the pending batch.
    fn step(&mut self, out: &mut dyn Output) -> Result<Progress> {
        let Some(mut pending) = self.pending.take() else { return Ok(Progress::Done) };
        let (rows, elements) = self.next_indexes(&mut pending);
        if !rows.is_empty() {
            let rows = UInt32Array::from(rows);
            let elements = UInt32Array::from(elements);
            let records = &pending.batch.records;
            let lists = records.column(self.array).as_list::<i32>();
            let columns = (0..records.num_columns()).map(|index| {
                if index == self.array {
                    take(lists.values(), &elements, None)
                } else {
                    take(records.column(index), &rows, None)
                }
            });
            let columns: Vec<ArrayRef> = columns.collect::<Result<_, _>>()?;
            out.emit(pending.batch.with_records(RecordBatch::try_new(self.output.clone(), columns)?));
        }
        if pending.row == pending.batch.num_rows() {
            return Ok(Progress::Done);
        }
        self.pending = Some(pending);
        Ok(Progress::More)
    }

    /// Moves on by up to `batch_rows` elements: the row and the element (null for a row kept empty) of each.
    fn next_indexes(&self, pending: &mut Pending) -> (Vec<u32>, Vec<Option<u32>>) {
        let lists = pending.batch.records.column(self.array).as_list::<i32>();
        let (mut rows, mut elements) = (Vec::new(), Vec::new());
        while pending.row < pending.batch.num_rows() && rows.len() < self.batch_rows {
            let row = pending.row;
            let offsets = lists.value_offsets();
            // A null list may still span elements.
            let (start, length) = match lists.is_null(row) {
                true => (0, 0),
                false => (offsets[row] as usize, (offsets[row + 1] - offsets[row]) as usize),
            };
            if length == 0 {
                if self.keep_empty {
                    rows.push(row as u32);
                    elements.push(None);
                }
                pending.row += 1;
                continue;
            }
            let taken = (length - pending.element).min(self.batch_rows - rows.len());
            rows.resize(rows.len() + taken, row as u32);
            let first = start + pending.element;
            elements.extend((first..first + taken).map(|element| Some(element as u32)));
            pending.element += taken;
            if pending.element == length {
                pending.row += 1;
                pending.element = 0;
            }
        }
        (rows, elements)
    }
}

impl Operator for FlatMap {
    fn process(&mut self, _input: usize, batch: Batch, out: &mut dyn Output) -> Result<Progress> {
        self.pending = Some(Pending { batch, row: 0, element: 0 });
        self.step(out)
    }

    fn resume(&mut self, out: &mut dyn Output) -> Result<Progress> {
        self.step(out)
    }
}

#[cfg(test)]
mod tests;
