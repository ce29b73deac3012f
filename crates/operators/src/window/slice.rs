//! The groups of one slice: in memory, in layers that a checkpoint shares with the operator, and in runs on disk.
//!
//! ```text
//! open      takes rows
//! sealed    layers that a barrier closed, oldest first; whoever writes the checkpoint reads them meanwhile
//! shadow    what rows add meanwhile to groups of the only sealed layer, by its ids
//! runs      what left memory, oldest first
//! ```
//! A barrier closes the open layer and begins a new one, which costs nothing; when nobody else holds the layers any
//! more, they are merged again, some groups with every batch, until one is left. All parts hold partials, so the groups
//! of a slice are the merge of its parts, in their order.
//!
//! Where order makes no difference, a shadow spares the keys: rows of known keys are accumulated beside their layer, and
//! folded back when it is free; only new keys go to the open layer. What would meet a shadow otherwise (another barrier, a
//! window that fires, a spill) settles it first.

use std::sync::Arc;

use weir_operator_api::{OperatorError, Result};

use super::groups::{Accumulators, Groups, Shape};
use super::rows::Rows;
use super::run::Run;
use super::shadow::Shadow;

/// A layer with fewer groups is merged at once.
const SMALL: usize = if cfg!(test) { 1 } else { 4096 };
/// Groups merged with every batch: more than a batch can add, so that merging comes to an end.
const STEP: u32 = if cfg!(test) { 1 } else { 32 * 1024 };

/// The groups of one slice.
pub(super) struct Slice {
    open: Groups,
    sealed: Vec<Arc<Groups>>,
    /// So many groups of the second sealed layer are merged into the first.
    absorbed: u32,
    runs: Vec<Arc<Run>>,
    /// Of the only sealed layer; of the open one, when that layer is free again and has become it.
    shadow: Option<Shadow>,
    /// New keys that came under a shadow, and how many of them are merged into the open layer.
    late: Option<(Groups, u32)>,
    /// Accumulators for the next shadow, all empty.
    spare: Option<Accumulators>,
}

impl Slice {
    pub(super) fn new(open: Groups) -> Self {
        let (sealed, runs) = (Vec::new(), Vec::new());
        Slice { open, sealed, absorbed: 0, runs, shadow: None, late: None, spare: None }
    }

    /// Adds rows; `ids` becomes their groups in the open layer, unless there is a shadow.
    pub(super) fn add(&mut self, rows: &Rows, ids: &mut Vec<u32>) -> Result<()> {
        let (Some(shadow), Some(base)) = (&mut self.shadow, self.sealed.first()) else {
            return self.open.add(rows, ids);
        };
        match shadow.add(base, rows, ids)? {
            Some(new) => self.open.add(&new, ids),
            None => Ok(()),
        }
    }

    /// Where rows go.
    pub(super) fn open(&self) -> &Groups {
        &self.open
    }

    /// Where rows go, for those of a checkpoint.
    pub(super) fn open_mut(&mut self) -> &mut Groups {
        &mut self.open
    }

    /// The only part, if there is only one and it is in memory.
    pub(super) fn only(&self) -> Option<&Groups> {
        (self.sealed.is_empty() && self.runs.is_empty() && self.shadow.is_none()).then_some(&self.open)
    }

    /// Runs on disk, oldest first.
    pub(super) fn runs(&self) -> &[Arc<Run>] {
        &self.runs
    }

    /// Groups in memory; keys in several layers count several times.
    pub(super) fn len(&self) -> usize {
        let late = self.late.as_ref().map_or(0, |(late, _)| late.len());
        self.open.len() + late + self.sealed.iter().map(|layer| layer.len()).sum::<usize>()
    }

    /// The layers that barriers closed with the first id that counts, oldest first: the groups of the second layer that
    /// have been merged into the first stand there.
    pub(super) fn sealed(&self) -> impl Iterator<Item = (&Groups, u32)> {
        let sealed = self.sealed.iter().enumerate();
        sealed.map(|(index, layer)| (layer.as_ref(), if index == 1 { self.absorbed } else { 0 }))
    }

    /// All layers in memory with the first id that counts, oldest first.
    fn layers(&self) -> impl Iterator<Item = (&Groups, u32)> {
        self.sealed().chain([(&self.open, 0)]).filter(|(layer, _)| layer.len() > 0)
    }

    /// Whether rows of known keys are kept in a shadow: then [`Slice::add`] gives no ids of the open layer.
    pub(super) fn has_shadow(&self) -> bool {
        self.shadow.is_some() || self.late.is_some()
    }

    /// Closes the open layer. Gives all layers with the first id that counts; nobody changes them while they are held.
    /// Their pieces are numbered. `may_shadow`: nobody needs the ids of rows to come.
    pub(super) fn seal(
        &mut self,
        shape: &Shape,
        next_number: &mut u64,
        may_shadow: bool,
    ) -> Result<Vec<(Arc<Groups>, u32)>> {
        self.settle(shape)?;
        // A layer that is held by others has not changed since it was numbered.
        self.sealed.iter_mut().filter_map(Arc::get_mut).for_each(|layer| layer.number_pieces(next_number));
        self.open.number_pieces(next_number);
        if self.open.len() > 0 {
            self.sealed.push(Arc::new(std::mem::replace(&mut self.open, shape.groups()?)));
        }
        if let [only] = &self.sealed[..]
            && may_shadow
            && shape.is_order_free()
            && only.keys.can_find()
        {
            self.shadow = Some(Shadow::new(only, self.spare.take(), shape)?);
        }
        let first = |index: usize| if index == 1 { self.absorbed } else { 0 };
        Ok(self.sealed.iter().enumerate().map(|(index, layer)| (layer.clone(), first(index))).collect())
    }

    /// Merges some groups of the layers, if nobody else holds them.
    pub(super) fn absorb(&mut self, shape: &Shape) -> Result<()> {
        if self.shadow.is_some() {
            return self.fold().map(|_| ());
        }
        let Some((base, rest)) = self.sealed.split_first_mut() else { return Ok(()) };
        let Some(base) = Arc::get_mut(base) else { return Ok(()) };
        match rest.first() {
            Some(next) => {
                let end = (self.absorbed + STEP).min(next.keys.id_bound() as u32);
                base.merge_some(next, self.absorbed..end)?;
                self.absorbed = end;
                if end == next.keys.id_bound() as u32 {
                    self.sealed.remove(1);
                    self.absorbed = 0;
                }
            }
            None if self.open.len() <= SMALL => {
                base.merge(&self.open)?;
                let base = self.sealed.pop().and_then(Arc::into_inner);
                self.open = base.ok_or_else(|| OperatorError::internal("a layer of a slice is held twice"))?;
            }
            // What the open layer gets while this one is merged is the less, the faster merging is than rows come.
            None => self.sealed.push(Arc::new(std::mem::replace(&mut self.open, shape.groups()?))),
        }
        Ok(())
    }

    /// Folds some groups of the shadow back, if nobody else holds its layer; whether it could.
    fn fold(&mut self) -> Result<bool> {
        if let Some(base) = self.sealed.pop() {
            match Arc::try_unwrap(base) {
                Ok(base) => {
                    let late = std::mem::replace(&mut self.open, base);
                    self.late = (late.len() > 0).then_some((late, 0));
                }
                Err(base) => {
                    self.sealed.push(base);
                    return Ok(false);
                }
            }
        }
        if let Some((late, merged)) = &mut self.late {
            let end = (*merged + STEP).min(late.keys.id_bound() as u32);
            self.open.merge_some(late, *merged..end)?;
            *merged = end;
            if end == late.keys.id_bound() as u32 {
                self.late = None;
            }
            return Ok(true);
        }
        if let Some(shadow) = &mut self.shadow
            && shadow.fold(&mut self.open)?
        {
            self.spare = self.shadow.take().map(Shadow::into_spare);
        }
        Ok(true)
    }

    /// Makes layers of what a shadow holds.
    pub(super) fn settle(&mut self, shape: &Shape) -> Result<()> {
        while let Some(shadow) = &self.shadow {
            if self.sealed.first().is_some_and(|base| Arc::strong_count(base) > 1) {
                let groups = shadow.to_groups(&self.sealed[0], shape)?;
                self.sealed.push(Arc::new(groups));
                self.shadow = None;
                return Ok(());
            }
            self.fold()?;
        }
        Ok(())
    }

    /// Adds all groups in memory to others.
    pub(super) fn merge_into(&mut self, shape: &Shape, into: &mut Groups) -> Result<()> {
        self.settle(shape)?;
        self.layers().try_for_each(|(layer, first)| into.merge_some(layer, first..layer.keys.id_bound() as u32))
    }

    /// All groups in memory as one, without copying where that can be.
    pub(super) fn into_groups(mut self, shape: &Shape) -> Result<Groups> {
        self.settle(shape)?;
        if self.sealed.is_empty() {
            return Ok(self.open);
        }
        let mut base = match Arc::get_mut(&mut self.sealed[0]) {
            // What is merged already is in it.
            Some(base) => std::mem::replace(base, shape.groups()?),
            None => shape.groups()?,
        };
        self.merge_into(shape, &mut base)?;
        Ok(base)
    }

    /// Moves all groups in memory into a run.
    pub(super) fn spill(&mut self, shape: &Shape, write: impl FnOnce(&[(&Groups, u32)]) -> Result<Run>) -> Result<()> {
        if self.len() == 0 {
            return Ok(());
        }
        self.settle(shape)?;
        self.spare = None;
        let layers: Vec<(&Groups, u32)> = self.layers().collect();
        self.runs.push(Arc::new(write(&layers)?));
        (self.open, self.sealed, self.absorbed) = (shape.groups()?, Vec::new(), 0);
        Ok(())
    }

    /// Bytes in memory.
    pub(super) fn size_bytes(&self) -> usize {
        let shadow = self.shadow.as_ref().map_or(0, Shadow::size_bytes);
        let spare = self.spare.as_ref().map_or(0, Accumulators::size_bytes);
        let late = self.late.as_ref().map_or(0, |(late, _)| late.size_bytes());
        let sealed = self.sealed.iter().map(|layer| layer.size_bytes()).sum::<usize>();
        self.open.size_bytes() + sealed + shadow + spare + late
    }
}
