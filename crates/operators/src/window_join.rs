//! Joins two inputs within windows. Built by `create`.
//!
//! Rows wait, untouched, in the slice they belong to (for `same`: in their window); each row is kept once, however many
//! windows overlap it. When the watermark passes a window's end, the rows of its slices are joined by hash in
//! [`run`], piece by piece. A slice goes when its last window has closed.
//!
//! Rows that memory does not hold lie on disk by key group, and a window with such rows is joined key group by key group.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;

use arrow_array::RecordBatch;
use arrow_schema::{DataType, SchemaRef};
use weir_core::{Batch, EventTime, OutputTag};
use weir_graph::descriptor::{self, JoinType};
use weir_graph::{WindowSpec, join_schema};
use weir_operator_api::{Operator, OperatorContext, OperatorError, Output, Progress, Result};
use weir_state::{FrozenPiece, FrozenTable, StateTable};

use crate::row_run::{RowRun, RunWriter};
use crate::state_rows::{Restored, RowTable};
use crate::window_rows::{Bounds, WindowColumns, cut, split_late};

mod run;

use run::{Layout, Run};

/// Builds the operator of one subtask.
pub fn create(join: &descriptor::WindowJoin, context: &OperatorContext) -> Result<Box<dyn Operator>> {
    let [left, right] = context.inputs.as_slice() else {
        return Err(OperatorError::internal("a window join was planned without two inputs"));
    };
    let planned =
        join_schema::output_schema(left, right, &join.window, join.join_type).map_err(OperatorError::internal)?;
    if planned.fields() != context.output.fields() {
        return Err(OperatorError::internal("a window join was planned with another output"));
    }
    let window_columns = match join.window {
        WindowSpec::Same => Some([WindowColumns::find(left)?, WindowColumns::find(right)?]),
        _ => None,
    };
    let layout = Layout::new(join, left, right, context.output.clone())?;
    let table = |name: &'static str, side: usize| {
        let key_columns = layout.key_columns(side).to_vec();
        Arc::new(RowTable::new(name, Vec::new(), &context.inputs[side], key_columns, context.key_group_count))
    };
    Ok(Box::new(WindowJoin {
        spec: join.window,
        window_columns,
        tables: [table("left-rows", 0), table("right-rows", 1)],
        layout,
        slices: BTreeMap::new(),
        runs: RunWriter::new(context.stores.clone()),
        pending: BTreeSet::new(),
        buffered_bytes: 0,
        closing: None,
        watermark: EventTime::MIN,
        origin_us: context.clock.wall_unix_us(),
        batch_rows: context.batch_rows.max(1),
    }))
}

/// Rows of the left and of the right input.
type Sides = [Vec<RecordBatch>; 2];

/// The rows of one slice.
#[derive(Clone, Default)]
struct Slice {
    /// In memory.
    rows: Sides,
    /// On disk, by side.
    runs: [Vec<Arc<RowRun>>; 2],
}

impl Slice {
    fn is_on_disk(&self) -> bool {
        self.runs.iter().any(|runs| !runs.is_empty())
    }
}

/// A window that is being emitted.
struct Closing {
    window: Bounds,
    /// The rows at hand, being joined.
    run: Run,
    /// Rows that are still to be read.
    disk: FromDisk,
}

/// Rows of a window on disk, read key group by key group.
#[derive(Default)]
struct FromDisk {
    runs: [Vec<Arc<RowRun>>; 2],
    /// Key groups that are still to come.
    waiting: VecDeque<u32>,
}

struct WindowJoin {
    spec: WindowSpec,
    /// Where the rows carry their window, for `same`.
    window_columns: Option<[WindowColumns; 2]>,
    layout: Layout,
    /// The tables of a checkpoint: the rows of both sides, whose slices follow from them.
    tables: [Arc<RowTable>; 2],
    /// Rows by the slice they belong to, keyed by start and end.
    slices: BTreeMap<(i64, i64), Slice>,
    runs: RunWriter,
    /// Windows that hold rows and are not closed.
    pending: BTreeSet<Bounds>,
    /// Of the rows in memory.
    buffered_bytes: usize,
    /// The window being emitted.
    closing: Option<Closing>,
    watermark: EventTime,
    /// When the last rows entered the job; results carry it on.
    origin_us: i64,
    batch_rows: usize,
}

impl WindowJoin {
    /// The slice of each row; for `same`, its window.
    fn bounds(&self, input: usize, batch: Batch, out: &mut dyn Output) -> Result<(Batch, Vec<Bounds>)> {
        if let Some(columns) = self.window_columns {
            return columns[input].read(batch, out);
        }
        let bounds = self.slices_of(&batch)?;
        Ok((batch, bounds))
    }

    fn slices_of(&self, batch: &Batch) -> Result<Vec<Bounds>> {
        let times = batch.event_times().ok_or_else(|| OperatorError::internal("rows without event time"))?;
        let length = self.spec.slice();
        let mut slice = Bounds { start: 0, end: 0 };
        let bounds = times.values().iter().map(|time| {
            // Neighbours mostly share a slice, which spares the division.
            if !(slice.start..slice.end).contains(time) {
                let start = self.spec.slice_start(*time);
                slice = Bounds { start, end: start + length };
            }
            slice
        });
        Ok(bounds.collect())
    }

    /// The end of the last window that a slice belongs to.
    fn last_end(&self, slice: Bounds) -> i64 {
        if self.window_columns.is_some() { slice.end } else { self.spec.last_end_of_slice(slice.start) }
    }

    fn keep(&mut self, input: usize, slice: Bounds, records: RecordBatch) {
        if self.window_columns.is_some() {
            self.pending.insert(slice);
        } else {
            let windows = self.spec.windows_of_slice(slice.start).into_iter().map(|(start, end)| Bounds { end, start });
            self.pending.extend(windows.filter(|window| !window.is_closed(self.watermark.0)));
        }
        self.buffered_bytes += size_bytes(&records);
        self.slices.entry((slice.start, slice.end)).or_default().rows[input].push(records);
    }

    /// Takes the rows of a window that closes; slices that later windows need stay.
    fn close(&mut self, window: Bounds) -> Result<Closing> {
        let places: Vec<(i64, i64)> = if self.window_columns.is_some() {
            vec![(window.start, window.end)]
        } else {
            self.slices.range((window.start, i64::MIN)..(window.end, i64::MIN)).map(|(slice, _)| *slice).collect()
        };
        if places.iter().any(|place| self.slices.get(place).is_some_and(Slice::is_on_disk)) {
            // All on disk, the window can be read key group by key group.
            places.iter().try_for_each(|place| self.spill_slice(*place))?;
        }
        let (mut sides, mut runs) = (Sides::default(), <[Vec<Arc<RowRun>>; 2]>::default());
        for (start, end) in places {
            let is_last = self.last_end(Bounds { start, end }) <= window.end;
            let slice =
                if is_last { self.slices.remove(&(start, end)) } else { self.slices.get(&(start, end)).cloned() };
            let Some(slice) = slice else { continue };
            if is_last {
                self.buffered_bytes = self.buffered_bytes.saturating_sub(sides_bytes(&slice.rows));
            }
            sides.iter_mut().zip(slice.rows).for_each(|(side, rows)| side.extend(rows));
            runs.iter_mut().zip(slice.runs).for_each(|(side, runs)| side.extend(runs));
        }
        let waiting: BTreeSet<u32> = runs.iter().flatten().flat_map(|run| run.key_groups()).collect();
        let disk = FromDisk { runs, waiting: waiting.into_iter().collect() };
        Ok(Closing { window, run: Run::new(&self.layout, window, sides)?, disk })
    }

    /// Reads the next key group of a window on disk; whether there was one.
    fn next_from_disk(&self, closing: &mut Closing) -> Result<bool> {
        let Some(group) = closing.disk.waiting.pop_front() else { return Ok(false) };
        let has =
            [0, 1].map(|side: usize| closing.disk.runs[side].iter().any(|run| run.key_groups().any(|of| of == group)));
        let mut sides = Sides::default();
        if self.layout.gives(has) {
            for (side, rows) in sides.iter_mut().enumerate() {
                for value in closing.disk.runs[side].iter().flat_map(|run| run.read(group)) {
                    let table = &self.tables[side];
                    rows.push(table.records(&table.layout.read(&value?)?)?);
                }
            }
        }
        closing.run = Run::new(&self.layout, closing.window, sides)?;
        Ok(true)
    }

    /// Puts the rows of one slice on disk.
    fn spill_slice(&mut self, place: (i64, i64)) -> Result<()> {
        let Some(slice) = self.slices.get_mut(&place) else { return Ok(()) };
        for (side, table) in self.tables.iter().enumerate() {
            let rows = &slice.rows[side];
            let batches = rows.iter().map(|records| table.batch(Vec::new(), records.columns()));
            let batches = batches.collect::<Result<Vec<_>>>()?;
            if !batches.is_empty() {
                slice.runs[side].push(self.runs.write(&batches)?);
                // Only now: what cannot be written stays.
                let bytes = rows.iter().map(size_bytes).sum();
                self.buffered_bytes = self.buffered_bytes.saturating_sub(bytes);
                slice.rows[side] = Vec::new();
            }
        }
        Ok(())
    }

    /// Emits about `batch_rows` rows of closed windows, and reads at most one key group; passes the watermark on after
    /// the last.
    fn step(&mut self, out: &mut dyn Output) -> Result<Progress> {
        let mut emitted = 0;
        while emitted < self.batch_rows {
            let Some(closing) = &mut self.closing else {
                let Some(window) = self.pending.first().copied().filter(|window| window.is_closed(self.watermark.0))
                else {
                    out.watermark(self.watermark);
                    return Ok(Progress::Done);
                };
                let closing = self.close(window)?;
                self.pending.remove(&window);
                self.closing = Some(closing);
                continue;
            };
            if let Some(records) = closing.run.next(&self.layout, self.batch_rows - emitted)? {
                emitted += records.num_rows();
                out.emit(Batch::new(records, self.origin_us));
                continue;
            }
            let Some(mut closing) = self.closing.take() else { continue };
            if self.next_from_disk(&mut closing)? {
                self.closing = Some(closing);
                return Ok(Progress::More);
            }
        }
        Ok(Progress::More)
    }
}

impl Operator for WindowJoin {
    fn process(&mut self, input: usize, batch: Batch, out: &mut dyn Output) -> Result<Progress> {
        self.origin_us = batch.origin_us;
        let (batch, bounds) = self.bounds(input, batch, out)?;
        let watermark = self.watermark.0;
        let is_late = |slice: &Bounds| self.last_end(*slice).saturating_sub(1) <= watermark;
        let (batch, bounds, late) = split_late(batch, bounds, is_late)?;
        if let Some(late) = late {
            out.emit_to(OutputTag::Late, late);
        }
        for (slice, records) in cut(&batch.records, &bounds)? {
            self.keep(input, slice, records);
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

    /// The rows that wait, which nobody changes: shared, and given their key groups beside the stream.
    fn freeze(&mut self) -> Result<Vec<FrozenTable>> {
        if self.closing.is_some() {
            return Err(OperatorError::internal("a barrier came before everything was emitted"));
        }
        let table = |side: usize| {
            let mut pieces = Vec::new();
            for slice in self.slices.values() {
                pieces.extend(slice.runs[side].iter().flat_map(RowRun::frozen));
                pieces.extend(slice.rows[side].iter().map(|records| frozen_rows(&self.tables[side], records)));
            }
            FrozenTable { pieces, ..self.tables[side].layout.table(Vec::new()).into() }
        };
        Ok(vec![table(0), table(1)])
    }

    fn spill(&mut self) -> Result<()> {
        if self.closing.is_some() {
            return Ok(());
        }
        let places: Vec<(i64, i64)> = self.slices.keys().copied().collect();
        places.into_iter().try_for_each(|place| self.spill_slice(place))
    }

    fn restore(&mut self, tables: Vec<StateTable>, watermark: EventTime) -> Result<()> {
        let mut restored = Restored::new(tables);
        self.watermark = watermark;
        for input in 0..2 {
            for rows in restored.take(&self.tables[input].layout)? {
                let batch = Batch::new(self.tables[input].records(&rows)?, 0);
                let bounds = match self.window_columns {
                    Some(columns) => columns[input].bounds(&batch.records),
                    None => self.slices_of(&batch)?,
                };
                for (slice, records) in cut(&batch.records, &bounds)? {
                    self.keep(input, slice, records);
                }
            }
        }
        restored.finish()
    }

    fn state_bytes(&self) -> usize {
        self.buffered_bytes
    }
}

/// Rows as a piece of a checkpoint.
fn frozen_rows(table: &Arc<RowTable>, records: &RecordBatch) -> FrozenPiece {
    let (table, records) = (Arc::clone(table), records.clone());
    FrozenPiece::Later(Arc::new(move || Ok(vec![table.batch(Vec::new(), records.columns())?])))
}

fn sides_bytes(sides: &Sides) -> usize {
    sides.iter().flatten().map(size_bytes).sum()
}

/// Bytes of a buffered piece; pieces of one batch share its memory.
fn size_bytes(records: &RecordBatch) -> usize {
    Batch::new(records.clone(), 0).size_bytes()
}

/// The types of key columns, which are the same on both sides.
fn key_types(columns: &[usize], schema: &SchemaRef) -> Vec<DataType> {
    columns.iter().map(|column| schema.field(*column).data_type().clone()).collect()
}

/// Which sides a result may lack.
fn may_lack(join: JoinType) -> [bool; 2] {
    [join_schema::may_lack_left(join), join_schema::may_lack_right(join)]
}

#[cfg(test)]
mod tests;
