//! The best rows of each window. Built by `create`.
//!
//! A list is kept per window and partition, pruned while rows come in, and emitted when the watermark passes the
//! window's end. With one list per window its worst kept row is a threshold: a batch is compared with it as a whole
//! column, and only rows that pass are looked at one by one.

use std::collections::{BTreeMap, VecDeque};
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
use weir_state::StateTable;

use crate::key_ids::KeyIds;
use crate::row_codec::RowCodec;
use crate::state_rows::{BATCH_ROWS, Restored, RowTable};
use crate::window_rows::{Bounds, WindowColumns, cut, split_late};

mod group;

use group::{Entry, Group, Rule};

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
        let partition = &self.partition;
        let new_window =
            || Window { partitions: partition.new_like(), groups: Vec::new(), threshold: None, list_bytes: 0 };
        let mut window = self.windows.remove(&bounds).unwrap_or_else(new_window);
        let added =
            if self.has_partition { self.offer(&mut window, &records) } else { self.add_to_one(&mut window, records) };
        self.windows.insert(bounds, window);
        added
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

    /// Emits up to `batch_rows` results of closed windows; passes the watermark on after the last.
    fn step(&mut self, out: &mut dyn Output) -> Result<Progress> {
        while self.ready.len() < self.batch_rows {
            let Some(window) = self.windows.first_entry().filter(|entry| entry.key().is_closed(self.watermark.0))
            else {
                break;
            };
            for group in window.remove().groups {
                self.ready.extend(group.finish(self.rule));
            }
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

    /// Per row on a list (at most the limit and ties with the last): the row, decoded once.
    fn snapshot(&mut self) -> Result<Vec<StateTable>> {
        for group in self.windows.values_mut().flat_map(|window| &mut window.groups) {
            group.prune(self.rule);
        }
        let rows: Vec<&[u8]> = self.windows.values().flat_map(|window| &window.groups).flat_map(Group::rows).collect();
        let batch = |rows: &[&[u8]]| self.table.batch(Vec::new(), &self.codec.decode(rows.iter().copied())?);
        Ok(vec![self.table.layout.table(rows.chunks(BATCH_ROWS).map(batch).collect::<Result<_>>()?)])
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
