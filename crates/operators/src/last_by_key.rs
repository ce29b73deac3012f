//! The newest row of each key, as upserts. Built by `create`.
//!
//! The state of a key is what its newest row is ordered by, not the row: a batch emits, once per key, the newest of its
//! rows if that is at least as new as all before. On a tie the row that came later wins.

use std::sync::Arc;

use arrow_array::cast::AsArray;
use arrow_array::types::TimestampMicrosecondType;
use arrow_array::{Array, ArrayRef, Int8Array, RecordBatch, UInt32Array};
use arrow_row::{RowConverter, SortField};
use arrow_schema::{DataType, Schema, SchemaRef, SortOptions, TimeUnit};
use arrow_select::take::take_arrays;
use weir_core::batch::event_time_index;
use weir_core::{Batch, ChangeKind};
use weir_expr::order_item;
use weir_graph::descriptor;
use weir_operator_api::{Operator, OperatorContext, OperatorError, Output, Progress, Result};

use crate::key_ids::KeyIds;

/// Builds the operator of one subtask.
pub fn create(last: &descriptor::LastByKey, context: &OperatorContext) -> Result<Box<dyn Operator>> {
    let input = &context.inputs[0];
    Ok(Box::new(LastByKey {
        keys: KeyIds::new(&last.key, input)?,
        order: Order::new(&last.order_by, input)?,
        output: context.output.clone(),
        winners: Vec::new(),
        touched: Vec::new(),
    }))
}

struct LastByKey {
    keys: KeyIds,
    order: Order,
    output: SchemaRef,
    /// Per key, the newest row of the batch at hand; [`NONE`] between batches.
    winners: Vec<u32>,
    /// Keys with a winner in the batch at hand, and whether they are new.
    touched: Vec<(u32, bool)>,
}

/// No row.
const NONE: u32 = u32::MAX;

/// What the newest row of each key is ordered by.
enum Order {
    /// One timestamp, ascending; `i64::MIN` for null, `None` in `known` before the first row.
    Time { column: usize, newest: Vec<i64>, known: usize },
    /// Any columns, as bytes that compare like them.
    Bytes { columns: Vec<usize>, converter: RowConverter, newest: Vec<Vec<u8>>, known: usize, size: usize },
}

impl Order {
    fn new(order_by: &[String], input: &SchemaRef) -> Result<Self> {
        let missing = || OperatorError::internal("last_by_key was planned without an order and without event time");
        let items: Vec<(usize, bool)> = if order_by.is_empty() {
            vec![(event_time_index(input).ok_or_else(missing)?, false)]
        } else {
            let item = |sql: &String| -> Result<(usize, bool)> {
                let item = order_item(sql, input)
                    .map_err(|error| OperatorError::internal("a planned ordering does not compile").because(error))?;
                Ok((input.index_of(&item.column)?, item.is_descending))
            };
            order_by.iter().map(item).collect::<Result<_>>()?
        };
        match items.as_slice() {
            [(column, false)] if is_time(input, *column) => {
                Ok(Order::Time { column: *column, newest: Vec::new(), known: 0 })
            }
            _ => {
                // Greater bytes are newer, so nulls are the oldest.
                let field = |(column, descending): &(usize, bool)| {
                    let options = SortOptions { descending: *descending, nulls_first: true };
                    SortField::new_with_options(input.field(*column).data_type().clone(), options)
                };
                let converter = RowConverter::new(items.iter().map(field).collect())?;
                let columns = items.iter().map(|(column, _)| *column).collect();
                Ok(Order::Bytes { columns, converter, newest: Vec::new(), known: 0, size: 0 })
            }
        }
    }
}

fn is_time(input: &Schema, column: usize) -> bool {
    matches!(input.field(column).data_type(), DataType::Timestamp(TimeUnit::Microsecond, _))
}

impl LastByKey {
    /// Finds the newest row per key of this batch among those that are as new as what was known.
    fn choose(&mut self, records: &RecordBatch) -> Result<()> {
        let ids = self.keys.intern(records)?;
        let count = ids.iter().map(|id| *id as usize + 1).max().unwrap_or(0).max(self.winners.len());
        self.winners.resize(count, NONE);
        let (winners, touched) = (&mut self.winners, &mut self.touched);
        match &mut self.order {
            Order::Time { column, newest, known } => {
                newest.resize(count, i64::MIN);
                let times = records.column(*column).as_primitive::<TimestampMicrosecondType>();
                for (row, id) in ids.iter().enumerate() {
                    let slot = *id as usize;
                    let time = if times.is_null(row) { i64::MIN } else { times.value(row) };
                    if time < newest[slot] {
                        continue;
                    }
                    newest[slot] = time;
                    if winners[slot] == NONE {
                        touched.push((*id, slot >= *known));
                    }
                    winners[slot] = row as u32;
                }
                *known = count;
            }
            Order::Bytes { columns, converter, newest, known, size } => {
                newest.resize_with(count, Vec::new);
                let columns: Vec<ArrayRef> = columns.iter().map(|column| records.column(*column).clone()).collect();
                let rows = converter.convert_columns(&columns)?;
                for (row, id) in ids.iter().enumerate() {
                    let slot = *id as usize;
                    let bytes = rows.row(row).data();
                    // A new key holds no bytes, which are older than any.
                    if bytes < newest[slot].as_slice() {
                        continue;
                    }
                    *size = *size + bytes.len() - newest[slot].len();
                    newest[slot].clear();
                    newest[slot].extend_from_slice(bytes);
                    if winners[slot] == NONE {
                        touched.push((*id, slot >= *known));
                    }
                    winners[slot] = row as u32;
                }
                *known = count;
            }
        }
        Ok(())
    }
}

impl Operator for LastByKey {
    fn process(&mut self, _input: usize, batch: Batch, out: &mut dyn Output) -> Result<Progress> {
        self.choose(&batch.records)?;
        if self.touched.is_empty() {
            return Ok(Progress::Done);
        }
        let mut changed: Vec<(u32, bool)> = Vec::with_capacity(self.touched.len());
        for (id, is_new) in self.touched.drain(..) {
            changed.push((std::mem::replace(&mut self.winners[id as usize], NONE), is_new));
        }
        // In the order in which the rows came.
        changed.sort_unstable();
        let kind = |is_new: bool| if is_new { ChangeKind::Insert } else { ChangeKind::UpdateAfter };
        let kinds: Int8Array = changed.iter().map(|(_, is_new)| Some(kind(*is_new) as i8)).collect();
        let mut columns = if changed.len() == batch.num_rows() {
            batch.records.columns().to_vec()
        } else {
            let rows = UInt32Array::from_iter_values(changed.iter().map(|(row, _)| *row));
            take_arrays(batch.records.columns(), &rows, None)?
        };
        columns.push(Arc::new(kinds));
        out.emit(batch.with_records(RecordBatch::try_new(self.output.clone(), columns)?));
        Ok(Progress::Done)
    }

    fn state_bytes(&self) -> usize {
        let order = match &self.order {
            Order::Time { newest, .. } => newest.capacity() * 8,
            Order::Bytes { newest, size, .. } => newest.capacity() * size_of::<Vec<u8>>() + size,
        };
        self.keys.size_bytes() + order + self.winners.capacity() * 4
    }
}

#[cfg(test)]
mod tests;
