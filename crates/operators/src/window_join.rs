//! Joins two inputs within windows. Built by `create`.
//!
//! Rows wait, untouched, in the slice they belong to (for `same`: in their window); each row is kept once, however many
//! windows overlap it. When the watermark passes a window's end, the rows of its slices are joined by hash in
//! [`run`], piece by piece. A slice goes when its last window has closed.

use std::collections::{BTreeMap, BTreeSet};

use arrow_array::RecordBatch;
use arrow_schema::{DataType, SchemaRef};
use weir_core::{Batch, EventTime, OutputTag};
use weir_graph::descriptor::{self, JoinType};
use weir_graph::{WindowSpec, join_schema};
use weir_operator_api::{Operator, OperatorContext, OperatorError, Output, Progress, Result};
use weir_state::StateTable;

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
        RowTable::new(name, Vec::new(), &context.inputs[side], key_columns, context.key_group_count)
    };
    Ok(Box::new(WindowJoin {
        spec: join.window,
        window_columns,
        tables: [table("left-rows", 0), table("right-rows", 1)],
        layout,
        slices: BTreeMap::new(),
        pending: BTreeSet::new(),
        buffered_bytes: 0,
        run: None,
        watermark: EventTime::MIN,
        origin_us: context.clock.wall_unix_us(),
        batch_rows: context.batch_rows.max(1),
    }))
}

/// Rows of the left and of the right input.
type Sides = [Vec<RecordBatch>; 2];

struct WindowJoin {
    spec: WindowSpec,
    /// Where the rows carry their window, for `same`.
    window_columns: Option<[WindowColumns; 2]>,
    layout: Layout,
    /// The tables of a checkpoint: the rows of both sides, whose slices follow from them.
    tables: [RowTable; 2],
    /// Rows by the slice they belong to, keyed by start and end.
    slices: BTreeMap<(i64, i64), Sides>,
    /// Windows that hold rows and are not closed.
    pending: BTreeSet<Bounds>,
    buffered_bytes: usize,
    /// The window being emitted.
    run: Option<Run>,
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
        self.slices.entry((slice.start, slice.end)).or_default()[input].push(records);
    }

    /// Takes the rows of a window that closes; slices that later windows need stay.
    fn close(&mut self, window: Bounds) -> Sides {
        let mut sides = Sides::default();
        let slices: Vec<(i64, i64)> = if self.window_columns.is_some() {
            vec![(window.start, window.end)]
        } else {
            self.slices.range((window.start, i64::MIN)..(window.end, i64::MIN)).map(|(slice, _)| *slice).collect()
        };
        for (start, end) in slices {
            let is_last = self.last_end(Bounds { start, end }) <= window.end;
            let rows =
                if is_last { self.slices.remove(&(start, end)) } else { self.slices.get(&(start, end)).cloned() };
            let Some([left, right]) = rows else { continue };
            if is_last {
                let bytes = left.iter().chain(&right).map(size_bytes).sum::<usize>();
                self.buffered_bytes = self.buffered_bytes.saturating_sub(bytes);
            }
            sides[0].extend(left);
            sides[1].extend(right);
        }
        sides
    }

    /// Emits about `batch_rows` rows of closed windows; passes the watermark on after the last.
    fn step(&mut self, out: &mut dyn Output) -> Result<Progress> {
        let mut emitted = 0;
        while emitted < self.batch_rows {
            if self.run.is_none() {
                let Some(window) = self.pending.first().copied().filter(|window| window.is_closed(self.watermark.0))
                else {
                    out.watermark(self.watermark);
                    return Ok(Progress::Done);
                };
                self.pending.remove(&window);
                let sides = self.close(window);
                self.run = Some(Run::new(&self.layout, window, sides)?);
            }
            let Some(run) = &mut self.run else { continue };
            match run.next(&self.layout, self.batch_rows - emitted)? {
                Some(records) => {
                    emitted += records.num_rows();
                    out.emit(Batch::new(records, self.origin_us));
                }
                None => self.run = None,
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

    /// Per row that waits: its key group; the rows themselves are shared, not copied.
    fn snapshot(&mut self) -> Result<Vec<StateTable>> {
        if self.run.is_some() {
            return Err(OperatorError::internal("a barrier came before everything was emitted"));
        }
        let table = |side: usize| -> Result<StateTable> {
            let pieces = self.slices.values().flat_map(|sides| &sides[side]);
            let batches = pieces.map(|records| self.tables[side].batch(Vec::new(), records.columns()));
            Ok(self.tables[side].layout.table(batches.collect::<Result<_>>()?))
        };
        Ok(vec![table(0)?, table(1)?])
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
