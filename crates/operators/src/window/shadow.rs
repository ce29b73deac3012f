//! What rows add to groups while a checkpoint reads them: accumulators of their own over the ids of the frozen layer, so
//! that no key is looked for and kept a second time. `slice` begins one at a barrier and folds it back afterwards.

use weir_operator_api::Result;
use weir_state::key_table::NO_ID;

use super::groups::{Accumulators, Groups, PIECE_BITS, Shape};
use super::rows::Rows;

/// Groups folded back with every batch: some tenths of a millisecond.
const STEP: u32 = if cfg!(test) { 1 } else { 128 * 1024 };

/// Additions to the groups of one layer.
pub(super) struct Shadow {
    accumulators: Accumulators,
    /// Ids of the layer are below.
    bound: u32,
    /// By piece of ids: whether something was added.
    is_touched: Vec<bool>,
    /// Ids below are folded back.
    folded: u32,
}

impl Shadow {
    /// No additions to a layer. `spare` are accumulators of an earlier shadow, all empty.
    pub(super) fn new(layer: &Groups, spare: Option<Accumulators>, shape: &Shape) -> Result<Shadow> {
        let bound = layer.keys.id_bound() as u32;
        let accumulators = spare.map_or_else(|| shape.accumulators(), Ok)?;
        Ok(Shadow { accumulators, bound, is_touched: vec![false; bound.div_ceil(1 << PIECE_BITS) as usize], folded: 0 })
    }

    /// Adds the rows whose keys the layer has; gives the others back.
    pub(super) fn add(&mut self, layer: &Groups, rows: &Rows, ids: &mut Vec<u32>) -> Result<Option<Rows>> {
        layer.keys.find(&rows.keys, &rows.hashes, ids);
        self.accumulators.resize(self.bound as usize);
        if !ids.contains(&NO_ID) {
            ids.iter().for_each(|id| self.is_touched[(id >> PIECE_BITS) as usize] = true);
            self.accumulators.update(ids, rows)?;
            return Ok(None);
        }
        let of = |is_known: bool| -> arrow_array::UInt32Array {
            (0u32..).zip(&*ids).filter(|(_, id)| (**id != NO_ID) == is_known).map(|(row, _)| row).collect()
        };
        let (known, new) = (of(true), of(false));
        ids.retain(|id| *id != NO_ID);
        ids.iter().for_each(|id| self.is_touched[(id >> PIECE_BITS) as usize] = true);
        self.accumulators.update(ids, &rows.take(&known)?)?;
        Ok(Some(rows.take(&new)?))
    }

    /// Folds some groups back into their layer, which is nobody else's any more; `true` when all are.
    pub(super) fn fold(&mut self, layer: &mut Groups) -> Result<bool> {
        while self.folded < self.bound && !self.is_touched[(self.folded >> PIECE_BITS) as usize] {
            self.folded = self.bound.min((self.folded | ((1 << PIECE_BITS) - 1)) + 1);
        }
        // No step goes beyond its piece: the next one may be untouched.
        let piece_end = (self.folded | ((1 << PIECE_BITS) - 1)) + 1;
        let end = self.bound.min(piece_end).min(self.folded.saturating_add(STEP));
        if self.folded < end {
            layer.fold(&mut self.accumulators, self.folded..end)?;
            self.folded = end;
        }
        Ok(self.folded == self.bound)
    }

    /// The additions as groups of their own, when the layer is still somebody else's too.
    pub(super) fn to_groups(&self, layer: &Groups, shape: &Shape) -> Result<Groups> {
        let mut groups = shape.groups()?;
        let touched = (0u32..).zip(&self.is_touched).filter(|(_, is_touched)| **is_touched);
        for (piece, _) in touched {
            let ids = piece << PIECE_BITS..self.bound.min((piece + 1) << PIECE_BITS);
            groups.merge_beside(&layer.keys, &self.accumulators, ids)?;
        }
        Ok(groups)
    }

    /// The accumulators, when all are folded back and so empty.
    pub(super) fn into_spare(self) -> Accumulators {
        self.accumulators
    }

    /// Bytes in memory.
    pub(super) fn size_bytes(&self) -> usize {
        self.accumulators.size_bytes()
    }
}
