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
//! A window whose slices partly lie on disk is emitted key group by key group, so that it need not fit memory.
//!
//! **Source**: Li et al., No pane, no gain, SIGMOD Record 2005; slices as in Flink's window table functions.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;

use arrow_schema::SchemaRef;
use arrow_select::concat::concat_batches;
use weir_core::{Batch, ChangeKind, EventTime, OutputTag};
use weir_graph::WindowSpec;
use weir_operator_api::{Operator, OperatorError, Output, Progress, Result};
use weir_state::state_table::FrozenBatches;
use weir_state::{FrozenPiece, FrozenTable, StateSpace, StateStores, StateTable};

use super::groups::{Groups, Shape};
use super::output::{Results, Window};
use super::rows::{ReadBatch, RowReader, Rows, read_partials};
use super::run::{Run, SliceRowsLayout};
use super::slice::Slice;
use super::slicing::cut;
use super::state::{self, Place};
use crate::state_rows::{BATCH_ROWS, Restored};

/// Slices with fewer groups are copied at a barrier, which takes less than a millisecond.
const SEAL_GROUPS_MIN: usize = if cfg!(test) { 1 } else { 16 * 1024 };

/// Groups of small slices that are copied at one barrier; those beyond are shared, however small.
const COPIED_GROUPS_MAX: usize = if cfg!(test) { 1 } else { 32 * 1024 };

/// Late rows fill many slices a little. So that their runs are few and large, the smallest slices may stay in memory, up to
/// one part in so many of what there is.
const STAYING_SHARE: usize = if cfg!(test) { usize::MAX } else { 8 };

/// What the engine is told.
pub(crate) struct SlicedOptions {
    pub(crate) window: WindowSpec,
    /// **Units**: microseconds.
    pub(crate) allowed_lateness: i64,
    pub(crate) batch_rows: usize,
    pub(crate) output: SchemaRef,
    pub(crate) place: Place,
    pub(crate) stores: StateStores,
}

/// The engine; the whole operator, or its final phase, which also takes partials.
pub(crate) struct Sliced {
    pub(super) options: SlicedOptions,
    pub(super) shape: Shape,
    reader: RowReader,
    pub(super) slices: BTreeMap<i64, Slice>,
    pub(super) rows_layout: SliceRowsLayout,
    /// Where slices go that memory does not hold, from the first on.
    space: Option<StateSpace>,
    /// Numbers runs, and what checkpoints hold of layers.
    next_number: u64,
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
    /// Groups that are on disk, one key group at a time.
    Disk(Box<FromDisk>),
}

struct FromDisk {
    runs: Vec<Arc<Run>>,
    /// Key groups that are still to come.
    waiting: VecDeque<u32>,
    /// The groups of the one at hand.
    groups: Groups,
}

/// The groups that one batch touched in the open layer of a slice with closed windows.
pub(super) struct Touched {
    /// Groups below this were there before the batch, as were those of all other layers and runs.
    pub(super) known: usize,
    pub(super) ids: Vec<u32>,
}

impl Sliced {
    pub(crate) fn new(options: SlicedOptions, shape: Shape, reader: RowReader) -> Self {
        Sliced {
            origin_us: options.place.created_us,
            rows_layout: SliceRowsLayout::new(&shape, options.place, options.allowed_lateness > 0),
            options,
            shape,
            reader,
            slices: BTreeMap::new(),
            space: None,
            next_number: 0,
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
            self.slices.insert(place, Slice::new(self.shape.groups()?));
        }
        let slice = self.slices.get_mut(&place).expect("the slice was just put in");
        // Within a batch, what it adds must be told from what stood there before: no layers are merged then.
        if !touched.contains_key(&slice_start) {
            slice.absorb(&self.shape)?;
        }
        let known = slice.open().keys.id_bound();
        if known == 0 || place != slice_start {
            let open = self.options.window.windows_of_slice(slice_start).into_iter();
            self.pending.extend(open.filter(|window| window.1 - 1 > self.watermark).map(|(start, end)| (end, start)));
        }
        slice.add(rows, &mut self.ids)?;
        if self.may_refire(slice_start) {
            let touched = touched.entry(slice_start).or_insert(Touched { known, ids: Vec::new() });
            touched.ids.extend_from_slice(&self.ids);
        }
        Ok(())
    }

    /// Whether rows of this slice may belong to windows that have fired.
    fn may_refire(&self, slice_start: i64) -> bool {
        self.options.allowed_lateness > 0 && self.is_closed(first_end(self.options.window, slice_start))
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
        let window = self.options.window;
        let is_kept = |place: i64| window.last_end_of_slice(place) != end;
        for place in &places {
            self.slices.get_mut(place).expect("the slice was just listed").settle(&self.shape)?;
        }
        if places.iter().any(|place| !self.slices[place].runs().is_empty()) {
            return self.gather_from_disk(&places);
        }
        if self.options.allowed_lateness > 0 {
            return match places[..] {
                [only] if self.slices[&only].only().is_some() => Ok(Source::Slice(only)),
                _ => self.merge_into(self.shape.groups()?, &places).map(|groups| Source::Owned(Box::new(groups))),
            };
        }
        if let WindowSpec::Cumulate { .. } = self.options.window {
            let base = self.slices.remove(&start);
            let base = base.map_or_else(|| self.shape.groups(), |slice| slice.into_groups(&self.shape))?;
            places.retain(|place| *place != start);
            let base = self.merge_into(base, &places)?;
            self.slices.retain(|place, _| !places.contains(place));
            if !is_kept(start) {
                return Ok(Source::Owned(Box::new(base)));
            }
            // It takes rows again, so it keeps its index.
            self.slices.insert(start, Slice::new(base));
            return Ok(Source::Slice(start));
        }
        match places[..] {
            [only] if is_kept(only) && self.slices[&only].only().is_some() => Ok(Source::Slice(only)),
            [first, ref rest @ ..] if !is_kept(first) => {
                let base = self.slices.remove(&first).expect("the slice was just listed").into_groups(&self.shape)?;
                self.merge_into(base, rest).map(|groups| Source::Owned(Box::new(groups)))
            }
            _ => self.merge_into(self.shape.groups()?, &places).map(|groups| Source::Owned(Box::new(groups))),
        }
    }

    /// Puts what is still in memory beside the rest, so that the window can be read key group by key group.
    fn gather_from_disk(&mut self, places: &[i64]) -> Result<Source> {
        for place in places {
            self.spill_slice(*place)?;
        }
        let runs: Vec<Arc<Run>> = places.iter().flat_map(|place| self.slices[place].runs().iter().cloned()).collect();
        let waiting: BTreeSet<u32> = runs.iter().flat_map(|run| run.key_groups()).collect();
        let groups = self.shape.groups()?;
        Ok(Source::Disk(Box::new(FromDisk { runs, waiting: waiting.into_iter().collect(), groups })))
    }

    fn spill_slice(&mut self, slice_start: i64) -> Result<()> {
        let space = match &self.space {
            Some(space) => space.clone(),
            None => self.space.insert(self.options.stores.space()?).clone(),
        };
        let Some(slice) = self.slices.get_mut(&slice_start) else { return Ok(()) };
        let (layout, number) = (&self.rows_layout, self.next_number);
        self.next_number += 1;
        slice.spill(&self.shape, |layers| Run::write((space, number), layout, slice_start, layers))
    }

    fn merge_into(&mut self, mut base: Groups, places: &[i64]) -> Result<Groups> {
        for place in places {
            let slice = self.slices.get_mut(place).expect("the slice was just listed");
            slice.merge_into(&self.shape, &mut base)?;
        }
        Ok(base)
    }

    /// Reads the next key group of a window on disk, if there is one.
    fn next_from_disk(&self, disk: &mut FromDisk) -> Result<bool> {
        let Some(group) = disk.waiting.pop_front() else { return Ok(false) };
        disk.groups.clear();
        let mut ids = Vec::new();
        for run in &disk.runs {
            for value in run.read(group) {
                let rows = self.rows_layout.to_rows(&value?, run.slice_start())?;
                disk.groups.add(&rows, &mut ids)?;
            }
        }
        Ok(true)
    }

    /// Emits one batch of the current window; whether that was its last.
    fn emit_piece(&self, current: &mut Current, out: &mut dyn Output) -> Result<bool> {
        if let Source::Disk(disk) = &mut current.source
            && current.next == disk.groups.len()
        {
            current.next = 0;
            if !self.next_from_disk(disk)? {
                return Ok(true);
            }
        }
        let groups = match &current.source {
            Source::Owned(groups) => groups,
            Source::Disk(disk) => &disk.groups,
            Source::Slice(place) => {
                let only = self.slices[place].only();
                only.ok_or_else(|| OperatorError::internal("a slice changed while it was emitted"))?
            }
        };
        let end = groups.len().min(current.next + self.options.batch_rows.max(1));
        let ids: Vec<u32> = (current.next as u32..end as u32).collect();
        let results = Results { schema: &self.options.output, change: ChangeKind::Insert };
        let windows = std::iter::repeat_n(current.window, ids.len());
        let records = results.batch(groups.keys.columns(&ids)?, windows, groups.accumulators.results(&ids)?)?;
        out.emit(Batch::new(records, self.origin_us));
        current.next = end;
        let is_last = end == groups.len();
        Ok(is_last && !matches!(current.source, Source::Disk(_)))
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

    fn snapshot(&mut self) -> Result<Vec<StateTable>> {
        let resolve = |table: FrozenTable| {
            table.resolve().map_err(|error| OperatorError::internal("state cannot be read").because(error))
        };
        self.freeze()?.into_iter().map(resolve).collect()
    }

    /// Per key and slice: the key, the slice's start and the partials. Large slices are shared, small ones copied.
    fn freeze(&mut self) -> Result<Vec<FrozenTable>> {
        if self.firing.is_some() {
            return Err(state::while_emitting());
        }
        let (mut pieces, mut copied_groups) = (Vec::new(), 0);
        let is_kept_for_late = self.options.allowed_lateness > 0;
        for (start, slice) in &mut self.slices {
            pieces.extend(slice.runs().iter().map(|run| frozen_run(run.clone(), self.rows_layout.clone())));
            let is_large = slice.len() >= SEAL_GROUPS_MIN || copied_groups + slice.len() > COPIED_GROUPS_MAX;
            if is_large {
                // Late rows are known by their ids. Before the first window closes, none is late.
                let may_shadow = !is_kept_for_late || first_end(self.options.window, *start) - 1 > self.watermark;
                for (layer, first) in slice.seal(&self.shape, &mut self.next_number, may_shadow)? {
                    pieces.extend(frozen_layer((&layer, first), &self.rows_layout, *start));
                }
                continue;
            }
            copied_groups += slice.len();
            let mut copied = self.shape.groups()?;
            let groups = match slice.only() {
                Some(groups) => groups,
                None => {
                    slice.merge_into(&self.shape, &mut copied)?;
                    &copied
                }
            };
            for ids in groups.id_pieces(BATCH_ROWS) {
                pieces.push(FrozenPiece::Ready(self.rows_layout.rows(groups, &ids, *start)?));
            }
        }
        let slices = self.rows_layout.layout.table(Vec::new());
        Ok(vec![self.state_of_windows()?.into(), FrozenTable { pieces, ..slices.into() }])
    }

    fn spill(&mut self) -> Result<()> {
        if self.firing.is_some() {
            return Ok(());
        }
        let mut places: Vec<(usize, i64)> =
            self.slices.iter().map(|(place, slice)| (slice.size_bytes(), *place)).collect();
        let mut left: usize = places.iter().map(|place| place.0).sum();
        let may_stay = if self.options.allowed_lateness > 0 { left / STAYING_SHARE } else { 0 };
        // The largest first.
        places.sort_unstable_by_key(|place| std::cmp::Reverse(*place));
        for (bytes, place) in places {
            if left <= may_stay {
                return Ok(());
            }
            self.spill_slice(place)?;
            left -= bytes;
        }
        Ok(())
    }

    fn restore(&mut self, tables: Vec<StateTable>, watermark: EventTime) -> Result<()> {
        let mut restored = Restored::new(tables);
        self.watermark = watermark.0;
        state::check_windows(&mut restored, &self.state_of_windows()?)?;
        for rows in restored.take(&state::slices(&self.shape))? {
            let (rows, _) = state::read_groups(&rows, &self.shape, 1)?;
            for piece in cut(&rows, self.options.window)? {
                if !self.slices.contains_key(&piece.slice_start) {
                    self.slices.insert(piece.slice_start, Slice::new(self.shape.groups()?));
                }
                let slice = self.slices.get_mut(&piece.slice_start).expect("the slice was just put in");
                slice.open_mut().add(&piece.rows, &mut self.ids)?;
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
        let source = self.firing.as_ref().and_then(|firing| firing.current.as_ref()).map(|current| &current.source);
        let emitting = match source {
            Some(Source::Owned(groups)) => groups.size_bytes(),
            Some(Source::Disk(disk)) => disk.groups.size_bytes(),
            Some(Source::Slice(_)) | None => 0,
        };
        emitting + self.slices.values().map(Slice::size_bytes).sum::<usize>()
    }
}

/// The pieces of a layer from an id on, which are put together beside the stream.
fn frozen_layer<'a>(
    (layer, first): (&'a Arc<Groups>, u32),
    layout: &'a SliceRowsLayout,
    slice_start: i64,
) -> impl Iterator<Item = FrozenPiece> + 'a {
    layer.numbered_pieces().filter(move |(_, ids)| ids.end > first).map(move |(number, ids)| {
        let (layer, layout) = (layer.clone(), layout.clone());
        let is_whole = ids.start >= first;
        let ids = ids.start.max(first)..ids.end;
        let rows = move || Ok(vec![layout.rows(&layer, &ids.clone().collect::<Vec<_>>(), slice_start)?]);
        if is_whole { FrozenPiece::Numbered(number, Arc::new(rows)) } else { FrozenPiece::Later(Arc::new(rows)) }
    })
}

/// A run, which is read beside the stream; it stays on disk as long.
fn frozen_run(run: Arc<Run>, layout: SliceRowsLayout) -> FrozenPiece {
    let number = run.number();
    let batches = move || {
        let (run, layout) = (run.clone(), layout.clone());
        let groups: Vec<u32> = run.key_groups().collect();
        let of_group = move |group: u32| {
            // Values may be small.
            let values: Vec<_> = run.read(group).collect::<Result<_>>()?;
            let rows = concat_batches(values[0].schema_ref(), &values)?;
            Ok(layout.to_checkpoint(&rows, group, run.slice_start())?)
        };
        Box::new(groups.into_iter().map(of_group)) as FrozenBatches
    };
    FrozenPiece::NumberedBatches(number, Arc::new(batches))
}
