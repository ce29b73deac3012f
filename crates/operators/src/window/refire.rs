//! Updates the results of windows that have fired, when rows come within the allowed lateness.
//!
//! Windows that have closed are fired again after every batch that touches them, so at any time a key was emitted for
//! a closed window exactly if it stood in one of the window's slices before the batch: then the row is an update,
//! otherwise an insert. No flag per key is kept.
//!
//! A slice may have several parts (layers that barriers closed, runs on disk); rows go to its open layer, so what stands
//! in another part stood there before. Of a run only values that may hold a touched key are read, each once per batch.

use std::collections::{BTreeMap, BTreeSet};

use arrow_array::UInt32Array;
use weir_core::{Batch, ChangeKind};
use weir_operator_api::{OperatorError, Output, Result};
use weir_state::key_table::NO_ID;

use super::groups::Groups;
use super::output::{Results, Window};
use super::run::Run;
use super::sliced::{Sliced, Touched};

/// What the runs of some slices hold for touched keys, by start of the slice.
type OnDisk = BTreeMap<i64, Groups>;

impl Sliced {
    /// Emits the new results of closed windows for the groups that a batch touched.
    pub(super) fn refire(&mut self, touched: BTreeMap<i64, Touched>, out: &mut dyn Output) -> Result<()> {
        let mut windows = BTreeSet::new();
        for slice_start in touched.keys() {
            for (start, end) in self.options.window.windows_of_slice(*slice_start) {
                // Windows beyond their own lateness keep their last result.
                if self.is_closed(end) && !self.is_closed(end.saturating_add(self.options.allowed_lateness)) {
                    windows.insert((end, start));
                }
            }
        }
        let on_disk = self.read_touched(&windows, &touched)?;
        for (end, start) in windows {
            self.refire_window(Window { start, end }, &touched, &on_disk, out)?;
        }
        Ok(())
    }

    /// Reads what the slices of some windows have on disk for the keys that a batch touched.
    fn read_touched(&self, windows: &BTreeSet<(i64, i64)>, touched: &BTreeMap<i64, Touched>) -> Result<OnDisk> {
        let mut found = OnDisk::new();
        let mut wanted = Vec::new();
        for (end, start) in windows {
            for (slice_start, slice) in self.slices.range(*start..*end).filter(|(_, slice)| !slice.runs().is_empty()) {
                if found.contains_key(slice_start) {
                    continue;
                }
                if wanted.is_empty() {
                    wanted = self.wanted(touched);
                }
                let mut groups = self.shape.groups()?;
                slice.runs().iter().try_for_each(|run| self.read_run(run, &wanted, &mut groups))?;
                found.insert(*slice_start, groups);
            }
        }
        Ok(found)
    }

    /// Key group and hash of all touched keys, sorted.
    fn wanted(&self, touched: &BTreeMap<i64, Touched>) -> Vec<(u32, u64)> {
        let mut wanted = Vec::new();
        for (slice_start, touched) in touched {
            let keys = &self.slices[slice_start].open().keys;
            let key_groups = self.rows_layout.place.key_groups(keys, &touched.ids);
            wanted.extend(key_groups.into_iter().zip(touched.ids.iter().map(|id| keys.hash_of(*id))));
        }
        wanted.sort_unstable();
        wanted.dedup();
        wanted
    }

    /// Adds the wanted keys of a run to groups; others of the same hash may be among them.
    fn read_run(&self, run: &Run, wanted: &[(u32, u64)], groups: &mut Groups) -> Result<()> {
        let mut ids = Vec::new();
        for wanted in wanted.chunk_by(|a, b| a.0 == b.0) {
            let hashes: Vec<u64> = wanted.iter().map(|key| key.1).collect();
            for value in run.read_some(wanted[0].0, &hashes) {
                let rows = self.rows_layout.to_rows(&value?, run.slice_start())?;
                let is_wanted = |hash: &u64| hashes.binary_search(hash).is_ok();
                let of_rows = (0u32..).zip(rows.hashes.iter()).filter(|(_, hash)| is_wanted(hash));
                let indices: UInt32Array = of_rows.map(|(row, _)| row).collect();
                if !indices.is_empty() {
                    groups.add(&rows.take(&indices)?, &mut ids)?;
                }
            }
        }
        Ok(())
    }

    fn refire_window(
        &self,
        window: Window,
        touched: &BTreeMap<i64, Touched>,
        on_disk: &OnDisk,
        out: &mut dyn Output,
    ) -> Result<()> {
        let mut result = self.shape.groups()?;
        let mut ids = Vec::new();
        for (slice_start, touched) in touched.range(window.start..window.end) {
            result.keys.intern_table(&self.slices[slice_start].open().keys, &touched.ids, &mut ids);
        }
        result.accumulators.resize(result.keys.id_bound());
        let all: Vec<u32> = (0..result.keys.id_bound() as u32).collect();
        let mut was_emitted = vec![false; all.len()];
        for (slice_start, slice) in self.slices.range(window.start..window.end) {
            if slice.has_shadow() {
                return Err(OperatorError::internal("rows of a window that has fired went to a shadow"));
            }
            let on_disk = on_disk.get(slice_start).map(|groups| (groups, 0));
            let known = touched.get(slice_start).map_or(u32::MAX, |touched| touched.known as u32);
            // Oldest first: some aggregates tell first from last.
            let before = on_disk.into_iter().chain(slice.sealed()).map(|(part, first)| (part, first, u32::MAX));
            for (part, first, known) in before.chain([(slice.open(), 0, known)]) {
                part.keys.find_table(&result.keys, &all, &mut ids);
                let (mut into, mut from) = (Vec::new(), Vec::new());
                for (group, id) in all.iter().zip(&ids).filter(|(_, id)| **id != NO_ID && **id >= first) {
                    was_emitted[*group as usize] |= *id < known;
                    into.push(*group);
                    from.push(*id);
                }
                result.accumulators.merge(&into, &part.accumulators, &from)?;
            }
        }
        self.emit_updates(&result, &was_emitted, window, out)
    }

    /// Emits groups of a window: updates of those that were emitted before, and the others.
    fn emit_updates(&self, result: &Groups, was_emitted: &[bool], window: Window, out: &mut dyn Output) -> Result<()> {
        let all = 0..was_emitted.len() as u32;
        for change in [ChangeKind::Insert, ChangeKind::UpdateAfter] {
            let is_update = change == ChangeKind::UpdateAfter;
            let ids: Vec<u32> = all.clone().filter(|id| was_emitted[*id as usize] == is_update).collect();
            for ids in ids.chunks(self.options.batch_rows.max(1)) {
                self.emit_update(result, window, ids, change, out)?;
            }
        }
        Ok(())
    }

    fn emit_update(
        &self,
        groups: &Groups,
        window: Window,
        ids: &[u32],
        change: ChangeKind,
        out: &mut dyn Output,
    ) -> Result<()> {
        let results = Results { schema: &self.options.output, change };
        let windows = std::iter::repeat_n(window, ids.len());
        let records = results.batch(groups.keys.columns(ids)?, windows, groups.accumulators.results(ids)?)?;
        out.emit(Batch::new(records, self.origin_us));
        Ok(())
    }
}
