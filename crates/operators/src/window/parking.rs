//! When sessions leave memory and when they come back. A record never waits for the disk: what of a parked session
//! comes anew begins a session of its own in memory, and both are joined when it matters.
//!
//! ```text
//! a watermark completes a parked session    it comes back, with all others of its key
//! a watermark completes one in memory       the parked ones of its key come back first: they may touch it, and then it
//!                                           is not complete
//! a run alone would be late                 the parked ones of its key come back first: they may be open and touch it
//! ```
//! So whenever a session is emitted, or a row is told to be late, all of its key is in memory. Of one watermark as much
//! comes back at once as memory can bear, in no order of ends beyond that.
//!
//! With allowed lateness sessions stay after they were emitted, parked or not, until a watermark ends their lateness:
//!
//! ```text
//! a watermark ends a parked session's lateness    it comes back, and goes
//! a run begins before the watermark               the parked ones of its key come back first: it may touch one that was
//!                                                 emitted, or be closed alone, and then there are results at once
//! ```
//! An emitted session had all of its key in memory when it was emitted, and since then every run that could touch it; so
//! it touches no other, wherever that lies.

use arrow_array::RecordBatch;
use arrow_array::cast::AsArray;
use arrow_buffer::ScalarBuffer;
use weir_operator_api::Result;

use super::rows::Rows;
use super::runs::{Run, RunFinder};
use super::session::{Sessions, rows};
use super::session_cut::SessionMemory;
use super::session_store::{Changes, SessionStore};
use super::state;
use crate::state_rows::{BATCH_ROWS, StateRows};

/// Keys that are looked up at once.
const LOOKUP_KEYS: usize = if cfg!(test) { 2 } else { 64 * 1024 };
/// When a watermark completes more sessions in memory that may touch parked ones, all go to disk and come back in
/// order: what comes back for them could be as much again.
const LEAP_SESSIONS: usize = if cfg!(test) { 3 } else { 128 * 1024 };

/// Rows of the table, read.
struct Parsed {
    rows: Rows,
    lasts: ScalarBuffer<i64>,
    is_fired: Vec<bool>,
}

impl Sessions {
    /// Puts all sessions on disk.
    pub(super) fn park(&mut self) -> Result<()> {
        let empty =
            SessionMemory::new(&self.shape, SessionStore::new(self.options.gap, self.options.allowed_lateness))?;
        let memory = &*self.memory;
        let (store, of_keys) = (&memory.store, (&memory.keys, self.options.place));
        let rows = |ids: &[u32]| rows(store, of_keys, &memory.accumulators, &self.layout, ids);
        self.parked.park(store, of_keys, rows)?;
        self.memory.replace(empty);
        self.finder = RunFinder::default();
        Ok(())
    }

    /// Finds sessions that a watermark completes; more may be left on disk.
    pub(super) fn next_due(&mut self, watermark: i64) -> Result<Vec<u32>> {
        if !self.parked.is_empty() {
            self.fetch_for_closing(watermark)?;
            let rows = self.parked.take_due(watermark)?;
            self.bring_back(rows)?;
        }
        self.memory.keep_due(watermark)?;
        let due = self.memory.store.due(watermark);
        due.remove.into_iter().for_each(|id| self.remove(id));
        Ok(due.fire)
    }

    /// Puts sessions on disk that were emitted and stay for late rows, when one watermark completes more of them than
    /// memory should hold. What is due must be emitted.
    pub(super) fn make_room(&mut self) {
        if self.options.allowed_lateness > 0
            && self.memory.store.len() > LEAP_SESSIONS
            && let Err(error) = self.park()
        {
            tracing::warn!("sessions stay in memory: {error}");
        }
    }

    fn fetch_for_closing(&mut self, watermark: i64) -> Result<()> {
        let may_touch = |id: &u32| self.parked.may_touch(self.memory.store.bounds(*id), self.options.gap);
        let closing: Vec<u32> = self.memory.store.closing(watermark).filter(may_touch).collect();
        if closing.len() > LEAP_SESSIONS {
            match self.park() {
                Ok(()) => return Ok(()),
                // They are all still here, and go on with the memory there is.
                Err(error) => tracing::warn!("sessions stay in memory: {error}"),
            }
        }
        self.fetch(closing.into_iter().map(|id| self.memory.store.key(id)).collect())
    }

    /// Has everything in memory that the runs of a batch must be held against before they may be called late, or have
    /// results at once.
    pub(super) fn fetch_for_late_runs(&mut self) -> Result<()> {
        if self.parked.is_empty() {
            return Ok(());
        }
        let (gap, watermark) = (self.options.gap, self.watermark);
        let keeps_emitted = self.options.allowed_lateness > 0;
        let matters = |run: &Run| match keeps_emitted {
            // The last row of an emitted session is at least a gap before the next watermark.
            true => run.start <= watermark.saturating_add(1),
            false => self.memory.store.is_late(run.last, watermark),
        };
        let late = self.finder.runs.iter().filter(|run| matters(run));
        let late = late.filter(|run| self.parked.may_touch((run.start, run.last), gap));
        self.fetch(late.map(|run| run.key).collect())
    }

    /// Brings the parked sessions of some keys back.
    fn fetch(&mut self, mut keys: Vec<u32>) -> Result<()> {
        keys.sort_unstable();
        keys.dedup();
        for keys in keys.chunks(LOOKUP_KEYS) {
            let key_groups = self.options.place.key_groups(&self.memory.keys, keys);
            let rows = self.parked.take_keys(&key_groups, &self.memory.keys.columns(keys)?)?;
            self.bring_back(rows)?;
        }
        Ok(())
    }

    /// Joins rows of parked sessions with what is in memory of their keys.
    fn bring_back(&mut self, batches: Vec<RecordBatch>) -> Result<()> {
        let (mut parsed, mut keys) = (Vec::new(), Vec::new());
        for batch in batches {
            let batch = self.parse(&self.layout.read(&batch)?)?;
            self.memory.keys.intern(&batch.rows.keys, &batch.rows.hashes, &mut self.ids)?;
            keys.extend_from_slice(&self.ids);
            parsed.push(batch);
        }
        keys.sort_unstable();
        keys.dedup();
        // What is in memory came later; it is added again behind the rest, for aggregates that tell first from last.
        self.memory.keep_keys(keys.iter().copied())?;
        let newer: Vec<u32> = keys.iter().flat_map(|key| self.memory.store.of_key(*key)).collect();
        for ids in newer.chunks(BATCH_ROWS) {
            parsed.push(self.parse(&self.layout.read(&self.rows(ids)?)?)?);
        }
        for id in newer {
            self.memory.store.remove(id);
            self.memory.accumulators.reset(id);
        }
        self.join(&parsed)
    }

    /// Adds sessions of a checkpoint.
    pub(super) fn put_back(&mut self, batches: &[StateRows]) -> Result<()> {
        let parsed = batches.iter().map(|batch| self.parse(batch)).collect::<Result<Vec<_>>>()?;
        self.join(&parsed)
    }

    /// Adds sessions that may touch each other and those in memory.
    fn join(&mut self, batches: &[Parsed]) -> Result<()> {
        let mut changes = Changes::default();
        let mut placed = Vec::new();
        for Parsed { rows, lasts, is_fired } in batches {
            self.memory.keys.intern(&rows.keys, &rows.hashes, &mut self.ids)?;
            for (row, key) in self.ids.iter().enumerate() {
                placed.push(self.memory.store.put_back(
                    *key,
                    (rows.times[row], lasts[row]),
                    is_fired[row],
                    &mut changes,
                ));
            }
        }
        self.memory.grow();
        for (into, from) in &changes.absorbed {
            self.memory.accumulators.absorb(*into, *from)?;
        }
        let mut placed = placed.into_iter();
        for Parsed { rows, .. } in batches {
            self.ids.clear();
            self.ids.extend(placed.by_ref().take(rows.len()).map(|id| self.memory.store.resolve(id)));
            self.memory.accumulators.update(&self.ids, rows)?;
        }
        changes.absorbed.iter().for_each(|(_, from)| self.memory.store.free_absorbed(*from));
        Ok(())
    }

    fn parse(&self, state_rows: &StateRows) -> Result<Parsed> {
        let (rows, lasts) = state::read_groups(state_rows, &self.shape, 2)?;
        let is_fired = state_rows.columns[self.shape.key_types.len() + 2].as_boolean();
        Ok(Parsed { rows, lasts, is_fired: is_fired.values().iter().collect() })
    }
}
