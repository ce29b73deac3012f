//! The newest row of each key, as upserts. Built by `create`.
//!
//! The state of a key is what its newest row is ordered by, not the row: a batch emits, once per key, the newest of its
//! rows if that is at least as new as all before. On a tie the row that came later wins.

use std::sync::Arc;

use arrow_array::cast::AsArray;
use arrow_array::types::TimestampMicrosecondType;
use arrow_array::{Array, ArrayRef, Int8Array, PrimitiveArray, RecordBatch, UInt32Array};
use arrow_row::{RowConverter, SortField};
use arrow_schema::{DataType, Schema, SchemaRef, SortOptions, TimeUnit};
use arrow_select::take::take_arrays;
use weir_core::batch::event_time_index;
use weir_core::{Batch, ChangeKind, EventTime};
use weir_expr::order_item;
use weir_graph::descriptor;
use weir_operator_api::{Operator, OperatorContext, OperatorError, Output, Progress, Result};
use weir_state::StateTable;

use crate::key_ids::KeyIds;
use crate::state_rows::{BATCH_ROWS, Column, Layout, Restored};

/// Builds the operator of one subtask.
pub fn create(last: &descriptor::LastByKey, context: &OperatorContext) -> Result<Box<dyn Operator>> {
    let input = &context.inputs[0];
    let (keys, order) = (KeyIds::new(&last.key, input)?, Order::new(&last.order_by, input)?);
    Ok(Box::new(LastByKey {
        layout: Layout::keyed("newest", keys.state_columns(input).chain(order.state_columns(input)).collect()),
        key_group_count: context.key_group_count,
        keys,
        order,
        output: context.output.clone(),
        winners: Vec::new(),
        touched: Vec::new(),
    }))
}

struct LastByKey {
    keys: KeyIds,
    order: Order,
    /// The table of a checkpoint: the keys, and what their newest rows are ordered by.
    layout: Layout,
    key_group_count: u32,
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

impl Order {
    fn state_columns(&self, input: &Schema) -> Vec<Column> {
        let columns = match self {
            Order::Time { column, .. } => std::slice::from_ref(column),
            Order::Bytes { columns, .. } => columns.as_slice(),
        };
        // A column may be named twice in an order.
        let column = |(place, column): (usize, &usize)| {
            let field = input.field(*column);
            Column::new(format!("order.{place}.{}", field.name()), field.data_type().clone())
        };
        columns.iter().enumerate().map(column).collect()
    }

    /// What the newest rows of these keys are ordered by, as columns.
    fn state(&self, ids: &[u32], types: &Layout) -> Result<Vec<ArrayRef>> {
        match self {
            Order::Time { newest, .. } => {
                let times = ids.iter().map(|id| Some(newest[*id as usize]).filter(|time| *time != i64::MIN));
                let times = times.collect::<PrimitiveArray<TimestampMicrosecondType>>();
                let data_type = types.last_type().clone();
                Ok(vec![Arc::new(times.with_data_type(data_type))])
            }
            Order::Bytes { converter, newest, .. } => {
                let parser = converter.parser();
                Ok(converter.convert_rows(ids.iter().map(|id| parser.parse(&newest[*id as usize])))?)
            }
        }
    }

    /// Takes back what the newest rows of these keys are ordered by; all keys below `key_count` are known then.
    fn restore(&mut self, ids: &[u32], key_count: usize, columns: &[ArrayRef]) -> Result<()> {
        match self {
            Order::Time { newest, known, .. } => {
                newest.resize(key_count, i64::MIN);
                let times = columns[0].as_primitive::<TimestampMicrosecondType>();
                for (row, id) in ids.iter().enumerate().filter(|(row, _)| times.is_valid(*row)) {
                    newest[*id as usize] = times.value(row);
                }
                *known = key_count;
            }
            Order::Bytes { converter, newest, known, size, .. } => {
                newest.resize_with(key_count, Vec::new);
                let rows = converter.convert_columns(columns)?;
                for (row, id) in rows.iter().zip(ids) {
                    *size += row.data().len();
                    newest[*id as usize] = row.data().to_vec();
                }
                *known = key_count;
            }
        }
        Ok(())
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

    /// Per key: the key and what its newest row is ordered by, each copied once (decoded where it is not one time).
    fn snapshot(&mut self) -> Result<Vec<StateTable>> {
        let all: Vec<u32> = (0..self.keys.id_bound() as u32).collect();
        let batch = |ids: &[u32]| {
            let (key_groups, mut columns) = self.keys.keys(ids, self.key_group_count)?;
            columns.extend(self.order.state(ids, &self.layout)?);
            self.layout.keyed_batch(key_groups, columns)
        };
        Ok(vec![self.layout.table(all.chunks(BATCH_ROWS).map(batch).collect::<Result<_>>()?)])
    }

    fn restore(&mut self, tables: Vec<StateTable>, _watermark: EventTime) -> Result<()> {
        let mut restored = Restored::new(tables);
        for rows in restored.take(&self.layout)? {
            let (keys, order) = rows.columns.split_at(self.keys.columns().len());
            let ids = self.keys.intern_keys(keys, rows.row_count)?.to_vec();
            self.order.restore(&ids, self.keys.id_bound(), order)?;
            self.winners.resize(self.keys.id_bound(), NONE);
        }
        restored.finish()
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
