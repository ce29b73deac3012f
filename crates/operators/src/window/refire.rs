//! Updates the results of windows that have fired, when rows come within the allowed lateness.
//!
//! Windows that have closed are fired again after every batch that touches them, so at any time a key was emitted for
//! a closed window exactly if it stood in one of the window's slices before the batch: then the row is an update,
//! otherwise an insert. No flag per key is kept.

use std::collections::{BTreeMap, BTreeSet};

use weir_core::{Batch, ChangeKind};
use weir_operator_api::{Output, Result};
use weir_state::key_table::NO_ID;

use super::groups::Groups;
use super::output::{Results, Window};
use super::sliced::{Sliced, Touched};

/// Windows that allow lateness look their groups up by id, so their slices stay in memory as they are.
const ONE_PART: &str = "slices of windows that allow lateness are never sealed";

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
        for (end, start) in windows {
            self.refire_window(Window { start, end }, &touched, out)?;
        }
        Ok(())
    }

    fn refire_window(&self, window: Window, touched: &BTreeMap<i64, Touched>, out: &mut dyn Output) -> Result<()> {
        let mut result = self.shape.groups()?;
        let mut ids = Vec::new();
        for (slice_start, touched) in touched.range(window.start..window.end) {
            result.keys.intern_table(&self.slices[slice_start].only().expect(ONE_PART).keys, &touched.ids, &mut ids);
        }
        result.accumulators.resize(result.keys.id_bound());
        let all: Vec<u32> = (0..result.keys.id_bound() as u32).collect();
        let mut was_emitted = vec![false; all.len()];
        for (slice_start, slice) in self.slices.range(window.start..window.end) {
            let slice = slice.only().expect(ONE_PART);
            slice.keys.find_table(&result.keys, &all, &mut ids);
            let known = touched.get(slice_start).map_or(usize::MAX, |touched| touched.known);
            let (mut into, mut from) = (Vec::new(), Vec::new());
            for (group, id) in all.iter().zip(&ids).filter(|(_, id)| **id != NO_ID) {
                was_emitted[*group as usize] |= (*id as usize) < known;
                into.push(*group);
                from.push(*id);
            }
            result.accumulators.merge(&into, &slice.accumulators, &from)?;
        }
        for change in [ChangeKind::Insert, ChangeKind::UpdateAfter] {
            let is_update = change == ChangeKind::UpdateAfter;
            let ids: Vec<u32> = all.iter().copied().filter(|id| was_emitted[*id as usize] == is_update).collect();
            for ids in ids.chunks(self.options.batch_rows.max(1)) {
                self.emit_update(&result, window, ids, change, out)?;
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
