//! The newest row of each key, as upserts. Built by `create`.
//!
//! The state of a key is what its newest row is ordered by, not the row: a batch emits, once per key, the newest of its
//! rows if that is at least as new as all before. On a tie the row that came later wins. With `state_ttl` keys are
//! forgotten: [`forgetting`].
//!
//! State that memory does not hold goes to disk. What a batch needs of it is taken back all at once, and put away again with
//! all the rest.

use std::sync::Arc;

use arrow_array::cast::AsArray;
use arrow_array::types::TimestampMicrosecondType;
use arrow_array::{Array, ArrayRef, Int8Array, PrimitiveArray, RecordBatch, UInt32Array};
use arrow_row::{RowConverter, SortField};
use arrow_schema::{DataType, Schema, SchemaRef, SortOptions, TimeUnit};
use arrow_select::take::{take_arrays, take_record_batch};
use weir_core::batch::{event_time_index, event_time_type};
use weir_core::{Batch, ChangeKind, EventTime, OutputTag};
use weir_expr::order_item;
use weir_graph::descriptor;
use weir_operator_api::{Operator, OperatorContext, OperatorError, Output, Progress, Result};
use weir_state::{FrozenPiece, FrozenTable, StateTable};

use crate::disk_rows::{DiskRows, FOREVER};
use crate::expiry::TOUCHED;
use crate::key_ids::KeyIds;
use crate::state_rows::{BATCH_ROWS, Column, Layout, Restored, StateRows, resolved};

mod forgetting;

use forgetting::{Forgetting, Verdict};

/// Builds the operator of one subtask.
pub fn create(last: &descriptor::LastByKey, context: &OperatorContext) -> Result<Box<dyn Operator>> {
    let input = &context.inputs[0];
    let (keys, order) = (KeyIds::new(&last.key, input)?, Order::new(&last.order_by, input)?);
    let no_time = || OperatorError::internal("last_by_key was planned with a time to live and without event time");
    let forgetting = match last.state_ttl {
        Some(ttl_us) => Some(Forgetting::new(ttl_us, event_time_index(input).ok_or_else(no_time)?)),
        None => None,
    };
    let touched = forgetting.iter().map(|_| Column::added(TOUCHED, event_time_type()));
    let columns = keys.state_columns(input).chain(touched).chain(order.state_columns(input)).collect();
    let layout = Layout::keyed("newest", columns);
    Ok(Box::new(LastByKey {
        // A table of a job with a time to live says when keys were heard of.
        disk: DiskRows::new(context, &layout, keys.columns().len())?,
        layout: if forgetting.is_some() { layout } else { layout.passing_over(TOUCHED) },
        forgetting,
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
    /// Which keys are still remembered; all of them without.
    forgetting: Option<Forgetting>,
    /// Keys that are not in memory, or were there before.
    disk: DiskRows,
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

    /// Takes back what the newest rows of these keys are ordered by; `verdict` says of each row how it meets what is known of
    /// its key. All keys are below `key_count`.
    fn restore(
        &mut self,
        ids: &[u32],
        key_count: usize,
        columns: &[ArrayRef],
        verdict: impl Fn(usize) -> Verdict,
    ) -> Result<()> {
        match self {
            Order::Time { newest, .. } => {
                newest.resize(key_count, i64::MIN);
                let times = columns[0].as_primitive::<TimestampMicrosecondType>();
                for (row, id) in ids.iter().enumerate() {
                    let time = if times.is_null(row) { i64::MIN } else { times.value(row) };
                    let known = &mut newest[*id as usize];
                    match verdict(row) {
                        Verdict::Compared => *known = time.max(*known),
                        Verdict::Begins => *known = time,
                        Verdict::PassedOver | Verdict::Late => {}
                    }
                }
            }
            Order::Bytes { converter, newest, size, .. } => {
                newest.resize_with(key_count, Vec::new);
                let rows = converter.convert_columns(columns)?;
                for (row, id) in ids.iter().enumerate() {
                    let (bytes, known) = (rows.row(row).data(), &mut newest[*id as usize]);
                    let is_taken = match verdict(row) {
                        Verdict::Compared => bytes > known.as_slice(),
                        Verdict::Begins => true,
                        Verdict::PassedOver | Verdict::Late => false,
                    };
                    if is_taken {
                        *size = *size + bytes.len() - known.len();
                        *known = bytes.to_vec();
                    }
                }
            }
        }
        Ok(())
    }

    /// Of all keys below this something is known.
    fn know(&mut self, key_count: usize) {
        match self {
            Order::Time { known, .. } | Order::Bytes { known, .. } => *known = key_count,
        }
    }
}

fn is_time(input: &Schema, column: usize) -> bool {
    matches!(input.field(column).data_type(), DataType::Timestamp(TimeUnit::Microsecond, _))
}

impl Order {
    /// Notes the newest row per key of a batch among those that are as new as what was known; `verdict` says of each row
    /// whether something of its key is known, or that it takes no part. All keys below `count` are known then.
    #[inline]
    fn choose(
        &mut self,
        (records, ids): (&RecordBatch, &[u32]),
        (winners, touched): (&mut [u32], &mut Vec<(u32, bool)>),
        verdict: impl Fn(usize) -> Verdict,
    ) -> Result<()> {
        let count = winners.len();
        match self {
            Order::Time { column, newest, known } => {
                newest.resize(count, i64::MIN);
                let times = records.column(*column).as_primitive::<TimestampMicrosecondType>();
                for (row, id) in ids.iter().enumerate() {
                    let slot = *id as usize;
                    let time = if times.is_null(row) { i64::MIN } else { times.value(row) };
                    let begins = match verdict(row) {
                        Verdict::Compared => false,
                        Verdict::Begins => true,
                        Verdict::PassedOver | Verdict::Late => continue,
                    };
                    if !begins && time < newest[slot] {
                        continue;
                    }
                    newest[slot] = time;
                    if winners[slot] == NONE {
                        touched.push((*id, begins || slot >= *known));
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
                    let begins = match verdict(row) {
                        Verdict::Compared => false,
                        Verdict::Begins => true,
                        Verdict::PassedOver | Verdict::Late => continue,
                    };
                    // A new key holds no bytes, which are older than any.
                    if !begins && bytes < newest[slot].as_slice() {
                        continue;
                    }
                    *size = *size + bytes.len() - newest[slot].len();
                    newest[slot].clear();
                    newest[slot].extend_from_slice(bytes);
                    if winners[slot] == NONE {
                        touched.push((*id, begins || slot >= *known));
                    }
                    winners[slot] = row as u32;
                }
                *known = count;
            }
        }
        Ok(())
    }

    /// Drops what is kept of a key.
    fn remove(&mut self, id: u32) {
        match self {
            Order::Time { newest, .. } => newest[id as usize] = i64::MIN,
            Order::Bytes { newest, size, .. } => *size -= std::mem::take(&mut newest[id as usize]).len(),
        }
    }

    /// Numbers the keys anew, those of `live` in that order.
    fn renumber(&mut self, live: &[u32]) {
        match self {
            Order::Time { newest, known, .. } => {
                *newest = live.iter().map(|id| newest[*id as usize]).collect();
                *known = live.len();
            }
            Order::Bytes { newest, known, size, .. } => {
                *newest = live.iter().map(|id| std::mem::take(&mut newest[*id as usize])).collect();
                *size = newest.iter().map(Vec::len).sum();
                *known = live.len();
            }
        }
    }
}

impl LastByKey {
    /// Finds the newest row per key of this batch among those that are as new as what was known. Gives late rows.
    fn choose(&mut self, records: &RecordBatch) -> Result<Vec<u32>> {
        self.keys.intern(records)?;
        let mut back = self.take_back()?;
        let ids = self.keys.ids();
        let found = (self.winners.as_mut_slice(), &mut self.touched);
        let Some(forgetting) = &mut self.forgetting else {
            self.order.choose((records, ids), found, |_| Verdict::Compared)?;
            if !back.is_empty() {
                back.sort_unstable();
                self.touched.iter_mut().for_each(|(id, is_new)| *is_new &= back.binary_search(id).is_err());
            }
            return Ok(Vec::new());
        };
        // What is known of keys that came back, its verdicts say.
        self.order.know(self.keys.id_bound());
        let (late, strangers) = forgetting.judge(records.columns(), ids);
        self.order.choose((records, ids), found, |row| forgetting.verdicts[row])?;
        strangers.into_iter().for_each(|id| self.keys.remove(id));
        Ok(late)
    }

    /// Makes room for the keys of a batch that are new in memory, and takes back what is on disk of them. Gives those keys.
    fn take_back(&mut self) -> Result<Vec<u32>> {
        let (known, bound) = (self.winners.len(), self.keys.id_bound());
        self.winners.resize(bound, NONE);
        if self.disk.is_empty() {
            return Ok(Vec::new());
        }
        let Some(forgetting) = &mut self.forgetting else {
            let found = self.disk.find(&self.keys, known as u32..bound as u32)?;
            if !found.ids.is_empty() {
                self.order.restore(&found.ids, bound, &found.rest, |_| Verdict::Begins)?;
            }
            return Ok(found.ids);
        };
        let mut strangers: Vec<u32> = self.keys.ids().iter().copied().filter(|id| !forgetting.holds(*id)).collect();
        strangers.sort_unstable();
        strangers.dedup();
        let mut found = self.disk.find(&self.keys, strangers.into_iter())?;
        found.retain(|rest, row| !forgetting.is_over(touched_of(rest, row)))?;
        if let Some((_, order)) = found.rest.split_first() {
            self.order.restore(&found.ids, bound, order, |_| Verdict::Begins)?;
            for (row, id) in found.ids.iter().enumerate() {
                forgetting.restore(*id, touched_of(&found.rest, row));
            }
        }
        Ok(found.ids)
    }

    /// Forgets some of the keys that the watermark has outlived; passes it on after the last.
    fn step(&mut self, out: &mut dyn Output) -> Result<Progress> {
        let watermark = match &mut self.forgetting {
            Some(forgetting) => {
                let (gone, has_more) = forgetting.forget();
                for id in gone {
                    self.order.remove(id);
                    self.keys.remove(id);
                }
                if has_more {
                    return Ok(Progress::More);
                }
                forgetting.watermark
            }
            None => i64::MIN,
        };
        if self.keys.is_sparse() {
            self.keep(&self.held());
        }
        out.watermark(EventTime(watermark));
        Ok(Progress::Done)
    }

    /// Gives back the memory of all keys but these.
    fn keep(&mut self, live: &[u32]) {
        self.keys.renumber(live);
        self.order.renumber(live);
        self.winners = vec![NONE; live.len()];
        if let Some(forgetting) = &mut self.forgetting {
            forgetting.renumber(live);
        }
    }

    /// The keys that are held.
    fn held(&self) -> Vec<u32> {
        let all = 0..self.keys.id_bound() as u32;
        match &self.forgetting {
            Some(forgetting) => all.filter(|id| forgetting.holds(*id)).collect(),
            None => all.collect(),
        }
    }

    fn restore_rows(&mut self, rows: &StateRows, watermark: EventTime) -> Result<()> {
        let (keys, rest) = rows.columns.split_at(self.keys.columns().len());
        self.keys.intern_keys(keys, rows.row_count)?;
        self.take_back()?;
        let ids = self.keys.ids();
        let bound = self.keys.id_bound();
        let (touched, order) = rest.split_at(usize::from(self.forgetting.is_some()));
        let (Some(forgetting), Some(touched)) = (&mut self.forgetting, touched.first()) else {
            self.order.restore(ids, bound, order, |_| Verdict::Compared)?;
            self.order.know(bound);
            return Ok(());
        };
        let touched = touched.as_primitive::<TimestampMicrosecondType>();
        // Keys that were to be remembered for ever count as heard of now.
        let touched = |row: usize| if touched.is_valid(row) { touched.value(row) } else { watermark.0 };
        // What was forgotten may still have been on disk.
        let restore = |(row, id): (usize, &u32)| match touched(row) {
            time if forgetting.is_over(time) => Verdict::PassedOver,
            time => forgetting.restore(*id, time),
        };
        let verdicts: Vec<Verdict> = ids.iter().enumerate().map(restore).collect();
        self.order.restore(ids, bound, order, |row| verdicts[row])?;
        self.order.know(bound);
        let mut strangers: Vec<u32> = ids.iter().copied().filter(|id| !forgetting.holds(*id)).collect();
        strangers.sort_unstable();
        strangers.dedup();
        strangers.into_iter().for_each(|id| self.keys.remove(id));
        Ok(())
    }
}

/// The rows of some keys, as columns of the table without the keys.
fn rest_of(ids: &[u32], layout: &Layout, forgetting: &Option<Forgetting>, order: &Order) -> Result<Vec<ArrayRef>> {
    let touched = forgetting.iter().map(|forgetting| Arc::new(forgetting.state(ids)) as ArrayRef);
    Ok(touched.chain(order.state(ids, layout)?).collect())
}

/// The time of a key's newest row, of a row of the table without its key.
fn touched_of(rest: &[ArrayRef], row: usize) -> i64 {
    rest[0].as_primitive::<TimestampMicrosecondType>().value(row)
}

impl Operator for LastByKey {
    fn process(&mut self, _input: usize, batch: Batch, out: &mut dyn Output) -> Result<Progress> {
        let late = self.choose(&batch.records)?;
        if !late.is_empty() {
            let late = take_record_batch(&batch.records, &UInt32Array::from(late))?;
            out.emit_to(OutputTag::Late, batch.with_records(late));
        }
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

    fn on_watermark(&mut self, watermark: EventTime, out: &mut dyn Output) -> Result<Progress> {
        // After the last watermark no row follows, so nothing is worth forgetting.
        match &mut self.forgetting {
            Some(forgetting) if watermark < EventTime::MAX => {
                forgetting.watermark = forgetting.watermark.max(watermark.0);
                self.step(out)
            }
            _ => {
                out.watermark(watermark);
                Ok(Progress::Done)
            }
        }
    }

    fn resume(&mut self, out: &mut dyn Output) -> Result<Progress> {
        self.step(out)
    }

    fn snapshot(&mut self) -> Result<Vec<StateTable>> {
        resolved(self.freeze()?)
    }

    /// Per key in memory: the key and what its newest row is ordered by, each copied once (decoded where it is not one
    /// time). Keys that came back from disk are there twice; the newer row of a key counts.
    fn freeze(&mut self) -> Result<Vec<FrozenTable>> {
        let mut pieces = self.disk.frozen();
        for ids in self.held().chunks(BATCH_ROWS) {
            let (key_groups, mut columns) = self.keys.keys(ids, self.key_group_count)?;
            columns.extend(rest_of(ids, &self.layout, &self.forgetting, &self.order)?);
            pieces.push(FrozenPiece::Ready(self.layout.keyed_batch(key_groups, columns)?));
        }
        Ok(vec![FrozenTable { pieces, ..self.layout.table(Vec::new()).into() }])
    }

    fn spill(&mut self) -> Result<()> {
        // Without key columns there is one key.
        let has_keys = !self.keys.columns().is_empty() && self.keys.len() > 0;
        if !has_keys || !self.disk.is_worth(self.keys.size_bytes()) {
            return Ok(());
        }
        let held = self.held();
        let rest = |ids: &[u32]| rest_of(ids, &self.layout, &self.forgetting, &self.order);
        let end = self.forgetting.as_ref().map_or(FOREVER, |forgetting| forgetting.end_of(&held));
        self.disk.put(&self.keys, held.into_iter(), rest, end)?;
        self.keep(&[]);
        match &self.forgetting {
            Some(forgetting) => {
                self.disk.tidy(forgetting.watermark, |rest, row| forgetting.is_over(touched_of(rest, row)))
            }
            None => self.disk.tidy(i64::MIN, |_, _| false),
        }
    }

    fn restore(&mut self, tables: Vec<StateTable>, watermark: EventTime) -> Result<()> {
        let mut restored = Restored::new(tables);
        if let Some(forgetting) = self.forgetting.as_mut().filter(|_| watermark < EventTime::MAX) {
            forgetting.watermark = watermark.0;
        }
        for rows in restored.take(&self.layout)? {
            self.restore_rows(&rows, watermark)?;
        }
        restored.finish()
    }

    fn state_bytes(&self) -> usize {
        let order = match &self.order {
            Order::Time { newest, .. } => newest.capacity() * 8,
            Order::Bytes { newest, size, .. } => newest.capacity() * size_of::<Vec<u8>>() + size,
        };
        let forgetting = self.forgetting.as_ref().map_or(0, Forgetting::size_bytes);
        self.keys.size_bytes() + order + self.winners.capacity() * 4 + forgetting + self.disk.size_bytes()
    }
}

#[cfg(test)]
mod tests;
