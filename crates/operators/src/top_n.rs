//! The best rows of each window. Built by `create`.
//!
//! A list is kept per window and partition, pruned while rows come in, and emitted when the watermark passes the
//! window's end. With one list per window its worst kept row is a threshold: a batch is compared with it as a whole
//! column, and only rows that pass are looked at one by one.
//!
//! Lists that memory does not hold leave it as rows, by key group of their partitions. When their window closes, these
//! are offered again, key group by key group: the best rows are the best of the best. Without a partition a window has
//! one list, which is not worth the way.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;

use arrow_array::{Array, ArrayRef, Int64Array, RecordBatch, Scalar};
use arrow_ord::cmp::{gt_eq, lt_eq};
use arrow_row::{RowConverter, RowParser, SortField};
use arrow_schema::{SchemaRef, SortOptions};
use arrow_select::filter::filter_record_batch;
use weir_core::key_hash::is_key_type;
use weir_core::{Batch, EventTime, OutputTag};
use weir_expr::order_item;
use weir_graph::descriptor;
use weir_operator_api::{Operator, OperatorContext, OperatorError, Output, Progress, Result};
use weir_state::{FrozenPiece, FrozenTable, StateTable};

use crate::key_ids::KeyIds;
use crate::row_codec::RowCodec;
use crate::row_run::{RowRun, RunWriter};
use crate::state_rows::{BATCH_ROWS, Restored, RowTable};
use crate::window_rows::{Bounds, WindowColumns, cut, split_late};

mod group;

use group::{Entry, Group, Rule};

/// Rows of one run: bounds what is held twice while lists leave memory.
const RUN_ROWS: usize = if cfg!(test) { 3 } else { 4 * BATCH_ROWS };

/// Builds the operator of one subtask.
pub fn create(top: &descriptor::WindowTopN, context: &OperatorContext) -> Result<Box<dyn Operator>> {
    let input = &context.inputs[0];
    let (columns, partition) = (WindowColumns::find(input)?, KeyIds::new(&top.partition, input)?);
    // Rows are dealt by window and partition.
    let key_columns = columns.indexes().into_iter().chain(partition.columns().iter().copied()).collect();
    Ok(Box::new(TopN {
        table: RowTable::new("top-rows", Vec::new(), input, key_columns, context.key_group_count),
        columns,
        partition,
        has_partition: !top.partition.is_empty(),
        order: Order::new(&top.order_by, input)?,
        codec: RowCodec::new(input)?,
        rule: Rule { limit: top.limit.max(1) as usize, ties: top.ties },
        has_rank: top.rank_column.is_some(),
        windows: BTreeMap::new(),
        runs: RunWriter::new(context.stores.clone()),
        from_disk: None,
        ready: VecDeque::new(),
        watermark: EventTime::MIN,
        origin_us: context.clock.wall_unix_us(),
        output: context.output.clone(),
        batch_rows: context.batch_rows.max(1),
    }))
}

struct TopN {
    columns: WindowColumns,
    /// An empty numbering of partitions, the pattern for that of each window.
    partition: KeyIds,
    has_partition: bool,
    order: Order,
    codec: RowCodec,
    rule: Rule,
    has_rank: bool,
    windows: BTreeMap<Bounds, Window>,
    runs: RunWriter,
    /// A closed window on disk.
    from_disk: Option<FromDisk>,
    /// The table of a checkpoint: the rows on all lists, whose window and partition they carry.
    table: RowTable,
    /// Results of closed windows that have not left yet.
    ready: VecDeque<(Entry, i64)>,
    watermark: EventTime,
    /// When the last rows entered the job; results carry it on.
    origin_us: i64,
    output: SchemaRef,
    batch_rows: usize,
}

struct Window {
    partitions: KeyIds,
    groups: Vec<Group>,
    /// The threshold of the only list in the first column of the order.
    threshold: Option<ArrayRef>,
    /// Bytes of all lists, roughly.
    list_bytes: usize,
    /// Rows that were on lists.
    runs: Vec<Arc<RowRun>>,
}

/// What is left of a closed window on disk.
struct FromDisk {
    runs: Vec<Arc<RowRun>>,
    /// Key groups that are still to come.
    waiting: VecDeque<u32>,
}

/// What rows compete by: bytes that are less for better rows; nulls are last.
struct Order {
    columns: Vec<usize>,
    converter: RowConverter,
    parser: RowParser,
    first_is_descending: bool,
    first_is_comparable: bool,
}

impl Order {
    fn new(order_by: &[String], input: &SchemaRef) -> Result<Self> {
        let (mut columns, mut fields, mut descending) = (Vec::new(), Vec::new(), Vec::new());
        for sql in order_by {
            let item = order_item(sql, input)
                .map_err(|error| OperatorError::internal("a planned ordering does not compile").because(error))?;
            let column = input.index_of(&item.column)?;
            let options = SortOptions { descending: item.is_descending, nulls_first: false };
            fields.push(SortField::new_with_options(input.field(column).data_type().clone(), options));
            columns.push(column);
            descending.push(item.is_descending);
        }
        let converter = RowConverter::new(fields)?;
        let parser = converter.parser();
        let first_is_descending = descending.first().copied().unwrap_or(false);
        let first_is_comparable = columns.first().is_some_and(|column| is_key_type(input.field(*column).data_type()));
        Ok(Order { columns, converter, parser, first_is_descending, first_is_comparable })
    }

    /// The first column of an encoded order, as a column of one row.
    fn first_column(&self, order: &[u8]) -> Result<Option<ArrayRef>> {
        if !self.first_is_comparable {
            return Ok(None);
        }
        let columns = self.converter.convert_rows([self.parser.parse(order)])?;
        // A null threshold is beaten by everything, so nothing could be left out.
        Ok(columns.into_iter().next().filter(|column| column.null_count() == 0))
    }

    /// Rows whose first column is at least as good as the threshold's. Nulls are worse than any.
    fn filter(&self, records: &RecordBatch, threshold: &ArrayRef) -> Result<RecordBatch> {
        let column = records.column(self.columns[0]);
        let threshold = Scalar::new(threshold.clone());
        let mask = if self.first_is_descending { gt_eq(column, &threshold)? } else { lt_eq(column, &threshold)? };
        Ok(filter_record_batch(records, &mask)?)
    }
}

impl TopN {
    fn add(&mut self, bounds: Bounds, records: RecordBatch) -> Result<()> {
        let mut window = self.windows.remove(&bounds).unwrap_or_else(|| self.new_window());
        let added =
            if self.has_partition { self.offer(&mut window, &records) } else { self.add_to_one(&mut window, records) };
        self.windows.insert(bounds, window);
        added
    }

    fn new_window(&self) -> Window {
        let partitions = self.partition.new_like();
        Window { partitions, groups: Vec::new(), threshold: None, list_bytes: 0, runs: Vec::new() }
    }

    /// Adds rows to the only list of a window, a threshold ahead of them.
    fn add_to_one(&self, window: &mut Window, mut records: RecordBatch) -> Result<()> {
        // Rows enough for a threshold come first; it spares most of the others.
        let first_rows = 2 * self.rule.limit + 256;
        if window.threshold.is_none() && records.num_rows() > 2 * first_rows {
            self.offer(window, &records.slice(0, first_rows))?;
            self.prune_one(window)?;
            records = records.slice(first_rows, records.num_rows() - first_rows);
        }
        if let Some(threshold) = &window.threshold {
            records = self.order.filter(&records, threshold)?;
        }
        if records.num_rows() > 0 {
            self.offer(window, &records)?;
            self.prune_one(window)?;
        }
        Ok(())
    }

    fn prune_one(&self, window: &mut Window) -> Result<()> {
        let group = &mut window.groups[0];
        if group.prune(self.rule)
            && let Some(order) = group.threshold_order()
        {
            window.threshold = self.order.first_column(order)?;
        }
        window.list_bytes = group.size_bytes();
        Ok(())
    }

    fn offer(&self, window: &mut Window, records: &RecordBatch) -> Result<()> {
        let ids = window.partitions.intern(records)?;
        let group_count = ids.iter().map(|id| *id as usize + 1).max().unwrap_or(0).max(window.groups.len());
        window.groups.resize_with(group_count, Group::default);
        let columns: Vec<ArrayRef> = self.order.columns.iter().map(|column| records.column(*column).clone()).collect();
        let orders = self.order.converter.convert_columns(&columns)?;
        let may_be_taken =
            |row: &u32| window.groups[ids[*row as usize] as usize].may_take(orders.row(*row as usize).data());
        let rows: Vec<u32> = (0..records.num_rows() as u32).filter(may_be_taken).collect();
        let encoded = self.codec.encode(records, &rows)?;
        for (bytes, row) in encoded.iter().zip(&rows) {
            let row = *row as usize;
            let group = &mut window.groups[ids[row] as usize];
            let bytes_before = group.size_bytes();
            group.offer(orders.row(row).data(), bytes.data(), self.rule);
            window.list_bytes = (window.list_bytes + group.size_bytes()).saturating_sub(bytes_before);
        }
        Ok(())
    }

    /// Some rows of lists, as a batch of the table.
    fn batch_of(&self, rows: &[&[u8]]) -> Result<RecordBatch> {
        self.table.batch(Vec::new(), &self.codec.decode(rows.iter().copied())?)
    }

    /// Puts the rows on the lists of one window on disk.
    fn spill_window(&mut self, window: &mut Window) -> Result<()> {
        window.groups.iter_mut().for_each(|group| _ = group.prune(self.rule));
        let rows: Vec<&[u8]> = window.groups.iter().flat_map(Group::rows).collect();
        let mut runs = std::mem::take(&mut window.runs);
        let known = runs.len();
        for rows in rows.chunks(RUN_ROWS) {
            let written = self.batch_of(rows).and_then(|batch| self.runs.write(&[batch]));
            match written {
                Ok(run) => runs.push(run),
                Err(error) => {
                    // The lists stay, so what was written of them goes.
                    runs.truncate(known);
                    window.runs = runs;
                    return Err(error);
                }
            }
        }
        *window = Window { runs, ..self.new_window() };
        Ok(())
    }

    /// Takes the results of a window that closes, or goes on with them from disk.
    fn close(&mut self, mut window: Window) -> Result<()> {
        if window.runs.is_empty() {
            window.groups.into_iter().for_each(|group| self.ready.extend(group.finish(self.rule)));
            return Ok(());
        }
        // All on disk, the window can be read key group by key group.
        self.spill_window(&mut window)?;
        let waiting: BTreeSet<u32> = window.runs.iter().flat_map(|run| run.key_groups()).collect();
        self.from_disk = Some(FromDisk { runs: window.runs, waiting: waiting.into_iter().collect() });
        Ok(())
    }

    /// Takes the results of the next key group of a window on disk; whether there was one.
    fn next_from_disk(&mut self, disk: &mut FromDisk) -> Result<bool> {
        let Some(group) = disk.waiting.pop_front() else { return Ok(false) };
        let mut window = self.new_window();
        for value in disk.runs.iter().flat_map(|run| run.read(group)) {
            let records = self.table.records(&self.table.layout.read(&value?)?)?;
            self.offer(&mut window, &records)?;
        }
        window.groups.into_iter().for_each(|group| self.ready.extend(group.finish(self.rule)));
        Ok(true)
    }

    /// Emits up to `batch_rows` results of closed windows; passes the watermark on after the last.
    fn step(&mut self, out: &mut dyn Output) -> Result<Progress> {
        while self.ready.len() < self.batch_rows {
            if let Some(mut disk) = self.from_disk.take() {
                if self.next_from_disk(&mut disk)? {
                    self.from_disk = Some(disk);
                }
                continue;
            }
            let Some(window) = self.windows.first_entry().filter(|entry| entry.key().is_closed(self.watermark.0))
            else {
                break;
            };
            let window = window.remove();
            self.close(window)?;
        }
        let count = self.ready.len().min(self.batch_rows);
        if count > 0 {
            let results: Vec<(Entry, i64)> = self.ready.drain(..count).collect();
            let mut columns = self.codec.decode(results.iter().map(|(entry, _)| entry.row()))?;
            if self.has_rank {
                columns.push(Arc::new(Int64Array::from_iter_values(results.iter().map(|(_, rank)| *rank))));
            }
            out.emit(Batch::new(RecordBatch::try_new(self.output.clone(), columns)?, self.origin_us));
        }
        let has_more = !self.ready.is_empty()
            || self.from_disk.is_some()
            || self.windows.first_key_value().is_some_and(|(bounds, _)| bounds.is_closed(self.watermark.0));
        if has_more {
            return Ok(Progress::More);
        }
        out.watermark(self.watermark);
        Ok(Progress::Done)
    }
}

impl Operator for TopN {
    fn process(&mut self, _input: usize, batch: Batch, out: &mut dyn Output) -> Result<Progress> {
        self.origin_us = batch.origin_us;
        let (batch, bounds) = self.columns.read(batch, out)?;
        let watermark = self.watermark.0;
        let (batch, bounds, late) = split_late(batch, bounds, |bounds| bounds.is_closed(watermark))?;
        if let Some(late) = late {
            out.emit_to(OutputTag::Late, late);
        }
        for (bounds, records) in cut(&batch.records, &bounds)? {
            self.add(bounds, records)?;
        }
        Ok(Progress::Done)
    }

    fn on_watermark(&mut self, watermark: EventTime, out: &mut dyn Output) -> Result<Progress> {
        self.watermark = self.watermark.max(watermark);
        self.step(out)
    }

    fn resume(&mut self, out: &mut dyn Output) -> Result<Progress> {
        self.step(out)
    }

    fn snapshot(&mut self) -> Result<Vec<StateTable>> {
        let resolve = |table: FrozenTable| {
            table.resolve().map_err(|error| OperatorError::internal("state cannot be read").because(error))
        };
        self.freeze()?.into_iter().map(resolve).collect()
    }

    /// Per row on a list (at most the limit and ties with the last): the row, decoded once.
    fn freeze(&mut self) -> Result<Vec<FrozenTable>> {
        for group in self.windows.values_mut().flat_map(|window| &mut window.groups) {
            group.prune(self.rule);
        }
        let mut pieces: Vec<FrozenPiece> =
            self.windows.values().flat_map(|window| &window.runs).flat_map(RowRun::frozen).collect();
        let rows: Vec<&[u8]> = self.windows.values().flat_map(|window| &window.groups).flat_map(Group::rows).collect();
        for rows in rows.chunks(BATCH_ROWS) {
            pieces.push(FrozenPiece::Ready(self.batch_of(rows)?));
        }
        Ok(vec![FrozenTable { pieces, ..self.table.layout.table(Vec::new()).into() }])
    }

    fn spill(&mut self) -> Result<()> {
        let is_emitting = self.from_disk.is_some() || !self.ready.is_empty();
        if !self.has_partition || is_emitting {
            return Ok(());
        }
        let mut windows = std::mem::take(&mut self.windows);
        let spilled = windows.values_mut().try_for_each(|window| self.spill_window(window));
        self.windows = windows;
        spilled
    }

    fn restore(&mut self, tables: Vec<StateTable>, watermark: EventTime) -> Result<()> {
        let mut restored = Restored::new(tables);
        self.watermark = watermark;
        for rows in restored.take(&self.table.layout)? {
            let records = self.table.records(&rows)?;
            for (bounds, records) in cut(&records, &self.columns.bounds(&records))? {
                self.add(bounds, records)?;
            }
        }
        restored.finish()
    }

    fn state_bytes(&self) -> usize {
        self.windows.values().map(|window| window.partitions.size_bytes() + window.list_bytes).sum()
    }
}

#[cfg(test)]
mod tests;
