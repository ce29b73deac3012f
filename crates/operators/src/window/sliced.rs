//! Tumbling, hopping and cumulative windows in slices. A row updates the groups of its one slice; when the watermark
//! completes a window, the groups of its slices are merged and emitted; a slice is dropped whole with its last window.
//!
//! ```text
//! hop 10 s / 2 s     slices  0 2 4 6 8 10 12      a row at 9 goes to slice 8
//! watermark 9.99     fires   [0, 10) = 0+2+4+6+8  and drops slice 0, in which it also does the adding up
//! watermark 11.99    fires   [2, 12) = 2+..+10    and drops slice 2
//! ```
//! With `allowed_lateness` slices stay that much longer, and rows for windows that have fired update their results
//! at once ([`super::refire`]).
//!
//! **Source**: Li et al., No pane, no gain, SIGMOD Record 2005; slices as in Flink's window table functions.

use std::collections::{BTreeMap, BTreeSet};

use arrow_schema::SchemaRef;
use weir_core::{Batch, ChangeKind, EventTime, OutputTag};
use weir_graph::WindowSpec;
use weir_operator_api::{Operator, OperatorError, Output, Progress, Result};
use weir_state::StateTable;

use super::groups::{Groups, Shape};
use super::output::{Results, Window, times};
use super::rows::{ReadBatch, RowReader, Rows, read_partials};
use super::slicing::cut;
use super::state::{self, Place};
use crate::state_rows::{BATCH_ROWS, Restored};

/// What the engine is told.
pub(crate) struct SlicedOptions {
    pub(crate) window: WindowSpec,
    /// **Units**: microseconds.
    pub(crate) allowed_lateness: i64,
    pub(crate) batch_rows: usize,
    pub(crate) output: SchemaRef,
    pub(crate) place: Place,
}

/// The engine; the whole operator, or its final phase, which also takes partials.
pub(crate) struct Sliced {
    pub(super) options: SlicedOptions,
    pub(super) shape: Shape,
    reader: RowReader,
    pub(super) slices: BTreeMap<i64, Groups>,
    /// Windows that have rows and have not fired, by end.
    pending: BTreeSet<(i64, i64)>,
    pub(super) watermark: i64,
    firing: Option<Firing>,
    /// When the newest batch entered the job: results count as that old.
    pub(super) origin_us: i64,
    ids: Vec<u32>,
}

/// Windows that a watermark completed, being emitted.
struct Firing {
    watermark: EventTime,
    current: Option<Current>,
}

struct Current {
    window: Window,
    source: Source,
    /// The next group to emit.
    next: usize,
}

enum Source {
    /// Groups that nothing needs after this.
    Owned(Box<Groups>),
    /// The groups of this slice, which later windows need.
    Slice(i64),
}

/// The groups that one batch touched in a slice with closed windows.
pub(super) struct Touched {
    /// Groups below this were there before the batch.
    pub(super) known: usize,
    pub(super) ids: Vec<u32>,
}

impl Sliced {
    pub(crate) fn new(options: SlicedOptions, shape: Shape, reader: RowReader) -> Self {
        Sliced {
            origin_us: options.place.created_us,
            options,
            shape,
            reader,
            slices: BTreeMap::new(),
            pending: BTreeSet::new(),
            watermark: i64::MIN,
            firing: None,
            ids: Vec::new(),
        }
    }

    /// Whether rows of this slice are late for all its windows.
    fn is_late(&self, slice_start: i64) -> bool {
        self.is_closed(self.options.window.last_end_of_slice(slice_start).saturating_add(self.options.allowed_lateness))
    }

    /// Whether the watermark has passed everything before `end`.
    pub(super) fn is_closed(&self, end: i64) -> bool {
        end - 1 <= self.watermark
    }

    fn take_rows(&mut self, read: &ReadBatch, out: &mut dyn Output) -> Result<()> {
        let mut late = Vec::new();
        let mut touched = BTreeMap::new();
        for piece in cut(&read.rows, self.options.window)? {
            if self.is_late(piece.slice_start) {
                late.extend(piece.places());
            } else {
                self.add(piece.slice_start, &piece.rows, &mut touched)?;
            }
        }
        if !late.is_empty() {
            late.sort_unstable();
            out.emit_to(OutputTag::Late, read.as_they_came(late)?);
        }
        self.refire(touched, out)
    }

    fn take_partials(&mut self, batch: &Batch, out: &mut dyn Output) -> Result<()> {
        let (rows, _) = read_partials(&batch.records, self.shape.key_types.len(), 1)?;
        let mut touched = BTreeMap::new();
        for piece in cut(&rows, self.options.window)? {
            if self.is_late(piece.slice_start) {
                // The local phase sends what could still come to be late as rows.
                return Err(OperatorError::internal("a partial came after its windows had closed"));
            }
            self.add(piece.slice_start, &piece.rows, &mut touched)?;
        }
        self.refire(touched, out)
    }

    fn add(&mut self, slice_start: i64, rows: &Rows, touched: &mut BTreeMap<i64, Touched>) -> Result<()> {
        let place = self.home_of(slice_start);
        if !self.slices.contains_key(&place) {
            self.slices.insert(place, self.shape.groups()?);
        }
        let groups = self.slices.get_mut(&place).expect("the slice was just put in");
        if groups.keys.is_empty() || place != slice_start {
            let open = self.options.window.windows_of_slice(slice_start).into_iter();
            self.pending.extend(open.filter(|window| window.1 - 1 > self.watermark).map(|(start, end)| (end, start)));
        }
        let known = groups.keys.id_bound();
        groups.add(rows, &mut self.ids)?;
        if self.options.allowed_lateness > 0 && first_end(self.options.window, slice_start) - 1 <= self.watermark {
            let touched = touched.entry(slice_start).or_insert(Touched { known, ids: Vec::new() });
            touched.ids.extend_from_slice(&self.ids);
        }
        Ok(())
    }

    /// Where the groups of a slice are kept: cumulative windows add their closed slices up at their common start.
    fn home_of(&self, slice_start: i64) -> i64 {
        match self.options.window {
            WindowSpec::Cumulate { size, step, offset }
                if self.options.allowed_lateness == 0 && self.is_closed(slice_start + step) =>
            {
                (slice_start - offset).div_euclid(size) * size + offset
            }
            _ => slice_start,
        }
    }

    /// Begins with the next complete window, if there is one.
    fn next_window(&mut self, watermark: EventTime) -> Result<Option<Current>> {
        let Some(&(end, start)) = self.pending.first() else { return Ok(None) };
        if end - 1 > watermark.0 {
            return Ok(None);
        }
        self.pending.pop_first();
        let mut source = self.gather(start, end)?;
        if let Source::Owned(groups) = &mut source {
            // Only read from here on.
            groups.keys.release_index();
        }
        Ok(Some(Current { window: Window { start, end }, source, next: 0 }))
    }

    fn gather(&mut self, start: i64, end: i64) -> Result<Source> {
        let mut places: Vec<i64> = self.slices.range(start..end).map(|slice| *slice.0).collect();
        let is_kept = |place: i64| self.options.window.last_end_of_slice(place) != end;
        if self.options.allowed_lateness > 0 {
            return match places[..] {
                [only] => Ok(Source::Slice(only)),
                _ => self.merge_into(self.shape.groups()?, &places).map(|groups| Source::Owned(Box::new(groups))),
            };
        }
        if let WindowSpec::Cumulate { .. } = self.options.window {
            let base = self.slices.remove(&start).map_or_else(|| self.shape.groups(), Ok)?;
            places.retain(|place| *place != start);
            let base = self.merge_into(base, &places)?;
            self.slices.retain(|place, _| !places.contains(place));
            if !is_kept(start) {
                return Ok(Source::Owned(Box::new(base)));
            }
            // It takes rows again, so it keeps its index.
            self.slices.insert(start, base);
            return Ok(Source::Slice(start));
        }
        match places[..] {
            [only] if is_kept(only) => Ok(Source::Slice(only)),
            [first, ref rest @ ..] if !is_kept(first) => {
                let base = self.slices.remove(&first).expect("the slice was just listed");
                self.merge_into(base, rest).map(|groups| Source::Owned(Box::new(groups)))
            }
            _ => self.merge_into(self.shape.groups()?, &places).map(|groups| Source::Owned(Box::new(groups))),
        }
    }

    fn merge_into(&self, mut base: Groups, places: &[i64]) -> Result<Groups> {
        for place in places {
            base.merge(&self.slices[place])?;
        }
        Ok(base)
    }

    /// Emits one batch of the current window; whether that was its last.
    fn emit_piece(&self, current: &mut Current, out: &mut dyn Output) -> Result<bool> {
        let groups = match &current.source {
            Source::Owned(groups) => groups,
            Source::Slice(place) => &self.slices[place],
        };
        let end = groups.len().min(current.next + self.options.batch_rows.max(1));
        let ids: Vec<u32> = (current.next as u32..end as u32).collect();
        let results = Results { schema: &self.options.output, change: ChangeKind::Insert };
        let windows = std::iter::repeat_n(current.window, ids.len());
        let records = results.batch(groups.keys.columns(&ids)?, windows, groups.accumulators.results(&ids)?)?;
        out.emit(Batch::new(records, self.origin_us));
        current.next = end;
        Ok(end == groups.len())
    }

    fn state_of_windows(&self) -> Result<StateTable> {
        state::windows_table(self.options.window, self.options.allowed_lateness, self.watermark)
    }

    fn drop_slices(&mut self) {
        let (window, lateness) = (self.options.window, self.options.allowed_lateness);
        // The last end of slices grows with their start, so those to drop are the first ones.
        while let Some(slice) = self.slices.first_entry() {
            if window.last_end_of_slice(*slice.key()).saturating_add(lateness) - 1 > self.watermark {
                break;
            }
            slice.remove();
        }
    }
}

/// End of the first window that contains the slice.
pub(crate) fn first_end(window: WindowSpec, slice_start: i64) -> i64 {
    match window {
        WindowSpec::Hop { size, slide, offset } => {
            let slice_end = slice_start + window.slice();
            (slice_end - size - offset + slide - 1).div_euclid(slide) * slide + offset + size
        }
        // The first window of a tumbling or cumulative slice ends with it.
        _ => slice_start + window.slice(),
    }
}

impl Operator for Sliced {
    fn process(&mut self, input: usize, batch: Batch, out: &mut dyn Output) -> Result<Progress> {
        self.origin_us = batch.origin_us;
        if input == 1 {
            self.take_partials(&batch, out)?;
        } else {
            for read in self.reader.read(batch, out)? {
                self.take_rows(&read, out)?;
            }
        }
        Ok(Progress::Done)
    }

    fn on_watermark(&mut self, watermark: EventTime, out: &mut dyn Output) -> Result<Progress> {
        self.watermark = watermark.0;
        self.firing = Some(Firing { watermark, current: None });
        self.resume(out)
    }

    fn resume(&mut self, out: &mut dyn Output) -> Result<Progress> {
        let Some(Firing { watermark, current }) = self.firing.take() else { return Ok(Progress::Done) };
        let current = match current {
            Some(current) => Some(current),
            None => self.next_window(watermark)?,
        };
        let Some(mut current) = current else {
            self.drop_slices();
            out.watermark(watermark);
            return Ok(Progress::Done);
        };
        let is_last = self.emit_piece(&mut current, out)?;
        self.firing = Some(Firing { watermark, current: (!is_last).then_some(current) });
        Ok(Progress::More)
    }

    /// Per key and slice: the key, the slice's start and the partials, each copied once.
    fn snapshot(&mut self) -> Result<Vec<StateTable>> {
        if self.firing.is_some() {
            return Err(state::while_emitting());
        }
        let layout = state::slices(&self.shape);
        let mut batches = Vec::new();
        for (start, groups) in &self.slices {
            for ids in groups.id_pieces(BATCH_ROWS) {
                let mut columns = groups.keys.columns(&ids)?;
                columns.push(times(std::iter::repeat_n(*start, ids.len())));
                columns.extend(groups.accumulators.partials(&ids)?);
                batches.push(layout.keyed_batch(self.options.place.key_groups(&groups.keys, &ids), columns)?);
            }
        }
        Ok(vec![self.state_of_windows()?, layout.table(batches)])
    }

    fn restore(&mut self, tables: Vec<StateTable>, watermark: EventTime) -> Result<()> {
        let mut restored = Restored::new(tables);
        self.watermark = watermark.0;
        state::check_windows(&mut restored, &self.state_of_windows()?)?;
        for rows in restored.take(&state::slices(&self.shape))? {
            let (rows, _) = state::read_groups(&rows, &self.shape, 1)?;
            for piece in cut(&rows, self.options.window)? {
                if !self.slices.contains_key(&piece.slice_start) {
                    self.slices.insert(piece.slice_start, self.shape.groups()?);
                }
                let groups = self.slices.get_mut(&piece.slice_start).expect("the slice was just put in");
                groups.add(&piece.rows, &mut self.ids)?;
            }
        }
        // What the watermark has closed has fired; windows of one cumulative run lie in its first slice.
        for start in self.slices.keys() {
            let windows = self.options.window.windows_of_slice(*start).into_iter();
            self.pending.extend(windows.filter(|window| window.1 - 1 > watermark.0).map(|(start, end)| (end, start)));
        }
        restored.finish()
    }

    fn state_bytes(&self) -> usize {
        let emitting = self
            .firing
            .as_ref()
            .and_then(|firing| firing.current.as_ref())
            .map_or(0, |current| if let Source::Owned(groups) = &current.source { groups.size_bytes() } else { 0 });
        emitting + self.slices.values().map(Groups::size_bytes).sum::<usize>()
    }
}
