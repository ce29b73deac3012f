//! The local phase: aggregates rows before the exchange and sends partials, so that fewer rows travel and a hot key
//! costs each sender one row. It runs in the chain of the source.
//!
//! It decides nothing about lateness. Whatever the watermark here has already passed goes on as rows (`Raw`), and what
//! is held is sent before the watermark that completes it: so the final phase gets everything no later than it would
//! have got the rows. After the subtask was idle its watermark says nothing about how far the final phase has got,
//! and from then on it sends rows only.

use std::collections::BTreeMap;

use arrow_array::{ArrayRef, RecordBatch};
use arrow_schema::SchemaRef;
use weir_core::{Batch, EventTime, OutputTag};
use weir_graph::WindowSpec;
use weir_operator_api::{Operator, Output, Progress, Result};
use weir_state::{KeyTable, StateTable};

use super::groups::{Accumulators, Groups, Shape};
use super::output::times;
use super::rows::{ReadBatch, RowReader};
use super::runs::RunFinder;
use super::sliced::first_end;
use super::slicing::cut;
use super::state::Progressed;
use super::worth::Worth;

/// Most groups held before they are sent: table and counts of 32 Ki groups take about 1 MiB, a core's second cache.
const GROUPS_MAX: usize = 32 * 1024;
/// Most bytes held before they are sent, for groups with large keys or states.
const STATE_BYTES_MAX: usize = 8 * 1024 * 1024;

/// What a local phase is told.
pub(crate) struct LocalOptions {
    pub(crate) window: WindowSpec,
    pub(crate) batch_rows: usize,
    /// Schema of the partials.
    pub(crate) output: SchemaRef,
}

/// The local phase of windows in slices.
pub(crate) struct LocalSliced {
    options: LocalOptions,
    shape: Shape,
    reader: RowReader,
    slices: BTreeMap<i64, Groups>,
    /// Empty groups, whose memory is used again.
    spare: Vec<Groups>,
    worth: Worth,
    progressed: Progressed,
    origin_us: i64,
    ids: Vec<u32>,
}

impl LocalSliced {
    pub(crate) fn new(options: LocalOptions, shape: Shape, reader: RowReader) -> Self {
        LocalSliced {
            options,
            shape,
            reader,
            slices: BTreeMap::new(),
            spare: Vec::new(),
            worth: Worth::default(),
            progressed: Progressed::none(),
            origin_us: 0,
            ids: Vec::new(),
        }
    }

    fn take_rows(&mut self, read: &ReadBatch, out: &mut dyn Output) -> Result<()> {
        let mut passed = Vec::new();
        let mut new_groups = 0;
        for piece in cut(&read.rows, self.options.window)? {
            if first_end(self.options.window, piece.slice_start) - 1 <= self.progressed.watermark {
                passed.extend(piece.places());
                continue;
            }
            if !self.slices.contains_key(&piece.slice_start) {
                let groups = self.spare.pop().map_or_else(|| self.shape.groups(), Ok)?;
                self.slices.insert(piece.slice_start, groups);
            }
            let groups = self.slices.get_mut(&piece.slice_start).expect("the slice was just put in");
            let known = groups.len();
            groups.add(&piece.rows, &mut self.ids)?;
            new_groups += groups.len() - known;
        }
        if !passed.is_empty() {
            passed.sort_unstable();
            out.emit_to(OutputTag::Raw, read.as_they_came(passed)?);
        }
        let held: usize = self.slices.values().map(Groups::len).sum();
        let pays = self.worth.aggregated(read.rows.len(), new_groups);
        if !pays || held > GROUPS_MAX || self.state_bytes() > STATE_BYTES_MAX {
            self.send_before(i64::MAX, out)?;
        }
        Ok(())
    }

    /// Sends the slices of which a window ends at or before `end`.
    fn send_before(&mut self, end: i64, out: &mut dyn Output) -> Result<()> {
        while let Some(slice) = self.slices.first_entry() {
            if first_end(self.options.window, *slice.key()) > end {
                return Ok(());
            }
            let (slice_start, mut groups) = slice.remove_entry();
            let count = groups.len() as u32;
            for first in (0..count).step_by(self.options.batch_rows.max(1)) {
                let ids: Vec<u32> = (first..count.min(first + self.options.batch_rows.max(1) as u32)).collect();
                let mut columns = groups.keys.columns(&ids)?;
                columns.push(times(std::iter::repeat_n(slice_start, ids.len())));
                columns.extend(groups.accumulators.partials(&ids)?);
                self.emit(columns, out)?;
            }
            groups.clear();
            if self.spare.len() < 4 && groups.size_bytes() < STATE_BYTES_MAX {
                self.spare.push(groups);
            }
        }
        Ok(())
    }

    fn emit(&self, columns: Vec<ArrayRef>, out: &mut dyn Output) -> Result<()> {
        let records = RecordBatch::try_new(self.options.output.clone(), columns)?;
        out.emit(Batch::new(records, self.origin_us));
        Ok(())
    }
}

impl Operator for LocalSliced {
    fn process(&mut self, _input: usize, batch: Batch, out: &mut dyn Output) -> Result<Progress> {
        if self.progressed.was_idle || !self.worth.wants(batch.num_rows()) {
            out.emit_to(OutputTag::Raw, batch);
            return Ok(Progress::Done);
        }
        self.origin_us = batch.origin_us;
        for read in self.reader.read(batch, out)? {
            self.take_rows(&read, out)?;
        }
        Ok(Progress::Done)
    }

    fn on_watermark(&mut self, watermark: EventTime, out: &mut dyn Output) -> Result<Progress> {
        self.send_before(watermark.0.saturating_add(1), out)?;
        self.progressed.advance(watermark);
        out.watermark(watermark);
        Ok(Progress::Done)
    }

    fn on_idle(&mut self, is_idle: bool, out: &mut dyn Output) -> Result<()> {
        self.progressed.was_idle |= is_idle;
        self.send_before(i64::MAX, out)?;
        out.idle(is_idle);
        Ok(())
    }

    fn on_end(&mut self, out: &mut dyn Output) -> Result<Progress> {
        self.send_before(i64::MAX, out)?;
        Ok(Progress::Done)
    }

    fn on_barrier(&mut self, out: &mut dyn Output) -> Result<Progress> {
        self.send_before(i64::MAX, out)?;
        Ok(Progress::Done)
    }

    fn snapshot(&mut self) -> Result<Vec<StateTable>> {
        self.progressed.snapshot()
    }

    fn restore(&mut self, tables: Vec<StateTable>, watermark: EventTime) -> Result<()> {
        self.progressed = Progressed::restore(&self.shape, tables, watermark)?;
        Ok(())
    }

    fn state_bytes(&self) -> usize {
        self.slices.values().map(Groups::size_bytes).sum()
    }
}

/// The local phase of session windows: one partial per run of a batch; nothing is held from batch to batch.
pub(crate) struct LocalSessions {
    gap: i64,
    output: SchemaRef,
    shape: Shape,
    reader: RowReader,
    keys: KeyTable,
    accumulators: Accumulators,
    finder: RunFinder,
    worth: Worth,
    progressed: Progressed,
    ids: Vec<u32>,
}

impl LocalSessions {
    pub(crate) fn new(gap: i64, output: SchemaRef, shape: &Shape, reader: RowReader) -> Result<Self> {
        Ok(LocalSessions {
            gap,
            output,
            shape: shape.clone(),
            reader,
            keys: shape.key_table()?,
            accumulators: shape.accumulators()?,
            finder: RunFinder::default(),
            worth: Worth::default(),
            progressed: Progressed::none(),
            ids: Vec::new(),
        })
    }

    /// Parts the rows that the watermark has passed, as they came, from the others.
    fn part(&self, read: ReadBatch) -> Result<(Option<Batch>, Option<ReadBatch>)> {
        let is_past = |time: &i64| *time + self.gap - 1 <= self.progressed.watermark;
        if !read.rows.times.iter().any(is_past) {
            return Ok((None, Some(read)));
        }
        let rows = 0..read.rows.len() as u32;
        let (past, others): (Vec<u32>, Vec<u32>) = rows.partition(|row| is_past(&read.rows.times[*row as usize]));
        let past = Some(read.as_they_came(past)?);
        if others.is_empty() {
            return Ok((past, None));
        }
        let batch = read.as_they_came(others.clone())?;
        Ok((past, Some(ReadBatch { batch, rows: read.rows.take(&others.into())? })))
    }

    fn take_rows(&mut self, read: &ReadBatch, out: &mut dyn Output) -> Result<()> {
        let rows = &read.rows;
        self.keys.clear();
        self.keys.intern(&rows.keys, &rows.hashes, &mut self.ids)?;
        self.finder.find((&self.ids, self.keys.id_bound()), &rows.times, &rows.times, self.gap);
        let runs = &self.finder.runs;
        self.accumulators.clear();
        self.accumulators.resize(runs.len());
        self.accumulators.update(&self.finder.of_row, rows)?;
        let keys: Vec<u32> = runs.iter().map(|run| run.key).collect();
        let all: Vec<u32> = (0..runs.len() as u32).collect();
        let mut columns = self.keys.columns(&keys)?;
        columns.push(times(runs.iter().map(|run| run.start)));
        columns.push(times(runs.iter().map(|run| run.last)));
        columns.extend(self.accumulators.partials(&all)?);
        out.emit(Batch::new(RecordBatch::try_new(self.output.clone(), columns)?, read.batch.origin_us));
        self.worth.aggregated(rows.len(), runs.len());
        Ok(())
    }
}

impl Operator for LocalSessions {
    fn process(&mut self, _input: usize, batch: Batch, out: &mut dyn Output) -> Result<Progress> {
        if self.progressed.was_idle || !self.worth.wants(batch.num_rows()) {
            out.emit_to(OutputTag::Raw, batch);
            return Ok(Progress::Done);
        }
        for read in self.reader.read(batch, out)? {
            let (past, others) = self.part(read)?;
            if let Some(read) = others {
                self.take_rows(&read, out)?;
            }
            // Rows that are late alone come after those that may still join them to a session.
            if let Some(past) = past {
                out.emit_to(OutputTag::Raw, past);
            }
        }
        Ok(Progress::Done)
    }

    fn on_watermark(&mut self, watermark: EventTime, out: &mut dyn Output) -> Result<Progress> {
        self.progressed.advance(watermark);
        out.watermark(watermark);
        Ok(Progress::Done)
    }

    fn on_idle(&mut self, is_idle: bool, out: &mut dyn Output) -> Result<()> {
        self.progressed.was_idle |= is_idle;
        out.idle(is_idle);
        Ok(())
    }

    fn snapshot(&mut self) -> Result<Vec<StateTable>> {
        self.progressed.snapshot()
    }

    fn restore(&mut self, tables: Vec<StateTable>, watermark: EventTime) -> Result<()> {
        self.progressed = Progressed::restore(&self.shape, tables, watermark)?;
        Ok(())
    }

    fn state_bytes(&self) -> usize {
        self.keys.size_bytes() + self.accumulators.size_bytes() + self.finder.size_bytes()
    }
}
