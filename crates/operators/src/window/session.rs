//! Session windows: runs of rows of one key no further than a gap apart. A batch is first joined into runs
//! ([`super::runs`]), runs are placed into sessions ([`super::session_store`]), and then all rows are added at once.
//!
//! The rows of a batch count as one: a row that alone would be late is not, if rows of its batch join it to a session
//! that is open. A session that was emitted and changes its bounds within the allowed lateness is taken back (`-D`) and
//! emitted anew; with the same bounds it is updated (`+U`).
//!
//! Sessions that memory does not hold are parked on disk ([`super::parking`]).

use std::sync::Arc;

use arrow_array::{ArrayRef, BooleanArray, RecordBatch, UInt32Array};
use arrow_buffer::ScalarBuffer;
use arrow_schema::SchemaRef;
use weir_core::{Batch, ChangeKind, EventTime, OutputTag};
use weir_graph::WindowSpec;
use weir_operator_api::{Operator, OperatorError, Output, Progress, Result};
use weir_state::{FrozenTable, KeyTable, StateStores, StateTable};

use super::groups::{Accumulators, Shape};
use super::output::{Results, Window, times};
use super::parked::Parked;
use super::rows::{ReadBatch, RowReader, Rows, read_partials};
use super::runs::RunFinder;
use super::session_cut::{LentMemory, SessionMemory};
use super::session_store::{Changes, NONE, SessionStore};
use super::state::{self, Place};
use crate::state_rows::{Layout, Restored};

/// What the engine is told. **Units**: microseconds.
pub(crate) struct SessionOptions {
    pub(crate) gap: i64,
    pub(crate) allowed_lateness: i64,
    pub(crate) batch_rows: usize,
    pub(crate) output: SchemaRef,
    pub(crate) place: Place,
    pub(crate) stores: StateStores,
}

/// The engine; the whole operator, or its final phase, which also takes partials.
pub(crate) struct Sessions {
    pub(super) options: SessionOptions,
    pub(super) shape: Shape,
    reader: RowReader,
    pub(super) memory: LentMemory,
    /// What is not in memory.
    pub(super) parked: Parked,
    /// The table of a checkpoint.
    pub(super) layout: Layout,
    pub(super) finder: RunFinder,
    pub(super) watermark: i64,
    firing: Option<Firing>,
    /// When the newest batch entered the job: results count as that old.
    origin_us: i64,
    pub(super) ids: Vec<u32>,
}

/// Sessions that a watermark completed, being emitted.
struct Firing {
    watermark: EventTime,
    due: Vec<u32>,
    next: usize,
}

impl Sessions {
    pub(crate) fn new(options: SessionOptions, shape: &Shape, reader: RowReader) -> Result<Self> {
        Ok(Sessions {
            shape: shape.clone(),
            reader,
            memory: LentMemory::new(SessionMemory::new(
                shape,
                SessionStore::new(options.gap, options.allowed_lateness),
            )?),
            parked: Parked::new(options.stores.clone(), shape)?,
            layout: state::sessions(shape),
            finder: RunFinder::default(),
            watermark: i64::MIN,
            firing: None,
            origin_us: options.place.created_us,
            ids: Vec::new(),
            options,
        })
    }

    fn take_rows(&mut self, read: &ReadBatch, out: &mut dyn Output) -> Result<()> {
        let late = self.add(&read.rows, &read.rows.times, out)?;
        if !late.is_empty() {
            out.emit_to(OutputTag::Late, read.as_they_came(late)?);
        }
        Ok(())
    }

    fn take_partials(&mut self, batch: &Batch, key_count: usize, out: &mut dyn Output) -> Result<()> {
        let (rows, lasts) = read_partials(&batch.records, key_count, 2)?;
        if self.add(&rows, &lasts, out)?.is_empty() {
            return Ok(());
        }
        // The local phase sends what could still come to be late as rows.
        Err(OperatorError::internal("a partial came after its session had closed"))
    }

    /// Adds rows that last from their times to `lasts`; gives the places of those that are late.
    fn add(&mut self, rows: &Rows, lasts: &ScalarBuffer<i64>, out: &mut dyn Output) -> Result<Vec<u32>> {
        self.memory.keys.intern(&rows.keys, &rows.hashes, &mut self.ids)?;
        self.finder.find((&self.ids, self.memory.keys.id_bound()), &rows.times, lasts, self.options.gap);
        self.memory.keep_keys(self.finder.runs.iter().map(|run| run.key))?;
        self.fetch_for_late_runs()?;
        let mut changes = Changes::default();
        let placed = self.place_runs(&mut changes);
        self.memory.grow();
        self.take_back(&changes, out)?;
        for (into, from) in &changes.absorbed {
            self.memory.accumulators.absorb(*into, *from)?;
        }
        let store = &self.memory.store;
        let sessions: Vec<u32> = placed.iter().map(|id| store.resolve(*id)).collect();
        let mut late = Vec::new();
        if sessions.contains(&NONE) {
            late = self.add_on_time(&sessions, rows)?;
        } else {
            self.ids.clear();
            self.ids.extend(self.finder.of_row.iter().map(|run| sessions[*run as usize]));
            self.memory.accumulators.update(&self.ids, rows)?;
        }
        if self.options.allowed_lateness > 0 {
            self.emit_closed(sessions, out)?;
        }
        changes.absorbed.iter().for_each(|(_, from)| self.memory.store.free_absorbed(*from));
        Ok(late)
    }

    /// Finds the session of each run; [`NONE`] where it is late. Runs that alone would be late come last, the newest
    /// of them first, so that all that could join them to an open session is there.
    fn place_runs(&mut self, changes: &mut Changes) -> Vec<u32> {
        let (watermark, runs) = (self.watermark, &self.finder.runs);
        let store = &mut self.memory.store;
        let mut placed = vec![NONE; runs.len()];
        let mut late = Vec::new();
        for (index, run) in runs.iter().enumerate() {
            if store.is_late(run.last, watermark) {
                late.push(index);
            } else {
                placed[index] = store.place(*run, watermark, changes);
            }
        }
        late.sort_by_key(|index| std::cmp::Reverse(runs[*index].last));
        for index in late {
            placed[index] = store.place(runs[index], watermark, changes);
        }
        placed
    }

    fn add_on_time(&mut self, sessions: &[u32], rows: &Rows) -> Result<Vec<u32>> {
        let (mut on_time, mut late) = (Vec::new(), Vec::new());
        self.ids.clear();
        for (row, run) in self.finder.of_row.iter().enumerate() {
            match sessions[*run as usize] {
                NONE => late.push(row as u32),
                session => {
                    on_time.push(row as u32);
                    self.ids.push(session);
                }
            }
        }
        self.memory.accumulators.update(&self.ids, &rows.take(&UInt32Array::from(on_time))?)?;
        let late_runs = self.finder.runs.iter().zip(sessions).filter(|(_, session)| **session == NONE);
        let mut keys: Vec<u32> = late_runs.map(|(run, _)| run.key).collect();
        keys.sort_unstable();
        keys.dedup();
        keys.into_iter().for_each(|key| self.memory.drop_unused(key));
        Ok(late)
    }

    /// Takes back the results of sessions whose bounds are no longer those that were emitted.
    fn take_back(&self, changes: &Changes, out: &mut dyn Output) -> Result<()> {
        for chunk in changes.disturbed.chunks(self.options.batch_rows.max(1)) {
            let (ids, windows): (Vec<u32>, Vec<Window>) = chunk.iter().copied().unzip();
            self.emit(&ids, windows.into_iter(), ChangeKind::Delete, out)?;
        }
        Ok(())
    }

    /// Emits sessions that a batch touched and that are past their end already.
    fn emit_closed(&mut self, mut sessions: Vec<u32>, out: &mut dyn Output) -> Result<()> {
        sessions.retain(|id| *id != NONE && self.memory.store.is_closed(*id, self.watermark));
        sessions.sort_unstable();
        sessions.dedup();
        // Those that were taken back do not count as emitted any more.
        let (updated, inserted): (Vec<u32>, Vec<u32>) =
            sessions.into_iter().partition(|id| self.memory.store.is_fired(*id));
        for (ids, change) in [(inserted, ChangeKind::Insert), (updated, ChangeKind::UpdateAfter)] {
            for ids in ids.chunks(self.options.batch_rows.max(1)) {
                self.emit_now(ids, change, out)?;
                ids.iter().for_each(|id| self.memory.store.mark_fired(*id));
            }
        }
        Ok(())
    }

    fn emit_now(&self, ids: &[u32], change: ChangeKind, out: &mut dyn Output) -> Result<()> {
        let windows: Vec<Window> = ids.iter().map(|id| self.memory.store.window(*id)).collect();
        self.emit(ids, windows.into_iter(), change, out)
    }

    fn emit(
        &self,
        ids: &[u32],
        windows: impl ExactSizeIterator<Item = Window> + Clone,
        change: ChangeKind,
        out: &mut dyn Output,
    ) -> Result<()> {
        let keys: Vec<u32> = ids.iter().map(|id| self.memory.store.key(*id)).collect();
        let results = Results { schema: &self.options.output, change };
        let records =
            results.batch(self.memory.keys.columns(&keys)?, windows, self.memory.accumulators.results(ids)?)?;
        out.emit(Batch::new(records, self.origin_us));
        Ok(())
    }

    fn emit_due(&mut self, out: &mut dyn Output) -> Result<Progress> {
        let Some(mut firing) = self.firing.take() else { return Ok(Progress::Done) };
        if firing.next == firing.due.len() && self.parked.has_due(firing.watermark.0) {
            self.make_room();
            firing = Firing { due: self.next_due(firing.watermark.0)?, next: 0, ..firing };
        }
        let end = firing.due.len().min(firing.next + self.options.batch_rows.max(1));
        let ids = &firing.due[firing.next..end];
        if !ids.is_empty() {
            self.emit_now(ids, ChangeKind::Insert, out)?;
            // Without lateness, or when the watermark leapt over it, a session goes with its result.
            let watermark = firing.watermark.0;
            ids.iter()
                .filter(|id| self.memory.store.is_past(**id, watermark))
                .copied()
                .collect::<Vec<_>>()
                .into_iter()
                .for_each(|id| self.remove(id));
        }
        if end == firing.due.len() && !self.parked.has_due(firing.watermark.0) {
            out.watermark(firing.watermark);
            return Ok(Progress::Done);
        }
        firing.next = end;
        self.firing = Some(firing);
        Ok(Progress::More)
    }

    /// Every call of the operator that needs the sessions is one of these.
    fn with_memory<T>(&mut self, call: impl FnOnce(&mut Self) -> Result<T>) -> Result<T> {
        self.memory.take();
        let result = call(self);
        self.memory.lend();
        result
    }

    fn state_of_windows(&self) -> Result<StateTable> {
        let window = WindowSpec::Session { gap: self.options.gap };
        state::windows_table(window, self.options.allowed_lateness, self.watermark)
    }

    /// Some sessions as rows of the table.
    pub(super) fn rows(&self, ids: &[u32]) -> Result<RecordBatch> {
        rows(&self.memory.store, (&self.memory.keys, self.options.place), &self.memory.accumulators, &self.layout, ids)
    }

    pub(super) fn remove(&mut self, id: u32) {
        let key = self.memory.store.key(id);
        self.memory.store.remove(id);
        self.memory.accumulators.reset(id);
        self.memory.drop_unused(key);
    }
}

/// Some sessions as rows of the table: key, first and last row's time, whether it was emitted, and the partials.
pub(super) fn rows(
    sessions: &SessionStore,
    (keys, place): (&KeyTable, Place),
    accumulators: &Accumulators,
    layout: &Layout,
    ids: &[u32],
) -> Result<RecordBatch> {
    let key_ids: Vec<u32> = ids.iter().map(|id| sessions.key(*id)).collect();
    layout.keyed_batch(place.key_groups(keys, &key_ids), columns(sessions, keys, accumulators, ids)?)
}

/// The columns of such rows, without their key groups.
pub(super) fn columns(
    sessions: &SessionStore,
    keys: &KeyTable,
    accumulators: &Accumulators,
    ids: &[u32],
) -> Result<Vec<ArrayRef>> {
    let key_ids: Vec<u32> = ids.iter().map(|id| sessions.key(*id)).collect();
    let mut columns = keys.columns(&key_ids)?;
    columns.push(times(ids.iter().map(|id| sessions.bounds(*id).0)));
    columns.push(times(ids.iter().map(|id| sessions.bounds(*id).1)));
    let is_fired = ids.iter().map(|id| Some(sessions.is_fired(*id)));
    columns.push(Arc::new(is_fired.collect::<BooleanArray>()));
    columns.extend(accumulators.partials(ids)?);
    Ok(columns)
}

impl Operator for Sessions {
    fn process(&mut self, input: usize, batch: Batch, out: &mut dyn Output) -> Result<Progress> {
        self.origin_us = batch.origin_us;
        self.with_memory(|sessions| {
            if input == 1 {
                sessions.take_partials(&batch, sessions.reader.key_columns.len(), out)?;
            } else {
                for read in sessions.reader.read(batch, out)? {
                    sessions.take_rows(&read, out)?;
                }
            }
            Ok(Progress::Done)
        })
    }

    fn on_watermark(&mut self, watermark: EventTime, out: &mut dyn Output) -> Result<Progress> {
        self.watermark = watermark.0;
        self.with_memory(|sessions| {
            let due = sessions.next_due(watermark.0)?;
            sessions.firing = Some(Firing { watermark, due, next: 0 });
            sessions.emit_due(out)
        })
    }

    fn resume(&mut self, out: &mut dyn Output) -> Result<Progress> {
        self.with_memory(|sessions| sessions.emit_due(out))
    }

    fn snapshot(&mut self) -> Result<Vec<StateTable>> {
        let resolve = |table: FrozenTable| {
            table.resolve().map_err(|error| OperatorError::internal("state cannot be read").because(error))
        };
        self.freeze()?.into_iter().map(resolve).collect()
    }

    /// Sessions in memory are copied while the stream goes on; parked ones stay where they are. Those that left memory
    /// first come first.
    fn freeze(&mut self) -> Result<Vec<FrozenTable>> {
        if self.firing.is_some() {
            return Err(state::while_emitting());
        }
        let mut pieces = self.parked.frozen();
        pieces.extend(self.with_memory(|sessions| {
            sessions.memory.freeze(&sessions.layout, sessions.options.place, sessions.shape.key_types.len())
        })?);
        let sessions = self.layout.table(Vec::new());
        Ok(vec![self.state_of_windows()?.into(), FrozenTable { pieces, ..sessions.into() }])
    }

    fn spill(&mut self) -> Result<()> {
        if self.firing.is_some() {
            return Ok(());
        }
        self.with_memory(Sessions::park)
    }

    fn restore(&mut self, tables: Vec<StateTable>, watermark: EventTime) -> Result<()> {
        let mut restored = Restored::new(tables);
        self.watermark = watermark.0;
        state::check_windows(&mut restored, &self.state_of_windows()?)?;
        let rows = restored.take(&self.layout)?;
        self.with_memory(|sessions| sessions.put_back(&rows))?;
        restored.finish()
    }

    fn state_bytes(&self) -> usize {
        self.memory.size_bytes() + self.finder.size_bytes() + self.parked.size_bytes()
    }
}
