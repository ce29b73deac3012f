//! Sessions in memory while a checkpoint reads them: nothing is copied at the barrier. Between two calls of the operator
//! the writer of the checkpoint has the sessions, some at a time; during a call the operator has them, and before it
//! changes a session that was there at the barrier and is not written yet, it copies that one.
//!
//! ```text
//! barrier     every session of that moment counts as uncopied; those that begin later do not
//! writer      waits until the operator is between two calls, copies the uncopied of one range of ids
//! operator    copies the uncopied sessions of the keys of a batch, or those that are due, and only then touches them
//! last piece  what the operator copied
//! ```
//! A writer that gave up is noticed at the next call. An operator that ends leaves the sessions to the writer.

use std::ops::{Deref, DerefMut};
use std::sync::Arc;

use arrow_array::{ArrayRef, RecordBatch};
use parking_lot::{Condvar, Mutex};
use weir_operator_api::{OperatorError, Result};
use weir_state::state_table::FreezeError;
use weir_state::{FrozenPiece, KeyTable};

use super::groups::{Accumulators, Shape};
use super::session::columns;
use super::session_store::SessionStore;
use super::state::Place;
use crate::state_rows::Layout;

/// With fewer sessions a copy at the barrier takes less than a millisecond.
const SHARED_MIN: usize = if cfg!(test) { 1 } else { 8 * 1024 };

/// Sessions that are copied at once, while the operator waits: less than a millisecond's.
const COPY_ROWS: u32 = if cfg!(test) { 2 } else { 8 * 1024 };

/// All sessions in memory.
pub(super) struct SessionMemory {
    pub(super) keys: KeyTable,
    pub(super) store: SessionStore,
    /// By session id.
    pub(super) accumulators: Accumulators,
}

impl SessionMemory {
    pub(super) fn new(shape: &Shape, store: SessionStore) -> Result<Self> {
        Ok(SessionMemory { keys: shape.key_table()?, store, accumulators: shape.accumulators()? })
    }

    /// The columns of some sessions, without key groups.
    pub(super) fn columns(&self, ids: &[u32]) -> Result<Vec<ArrayRef>> {
        columns(&self.store, &self.keys, &self.accumulators, ids)
    }

    /// Every session has accumulators.
    pub(super) fn grow(&mut self) {
        self.accumulators.resize(self.store.id_bound());
    }

    /// Takes a key out that has no session.
    pub(super) fn drop_unused(&mut self, key: u32) {
        if !self.store.has_sessions(key) {
            self.keys.remove(key);
        }
    }

    fn bytes(&self) -> usize {
        self.keys.size_bytes() + self.store.size_bytes() + self.accumulators.size_bytes()
    }
}

/// Sessions in memory, and the checkpoint that reads them. [`LentMemory::take`] begins every call of the operator,
/// [`LentMemory::lend`] ends it.
pub(super) struct LentMemory {
    own: Option<Box<SessionMemory>>,
    cut: Option<Arc<Cut>>,
}

/// One barrier's sessions.
struct Cut {
    state: Mutex<CutState>,
    is_lent: Condvar,
    layout: Layout,
    place: Place,
    key_count: usize,
}

#[derive(Default)]
struct CutState {
    /// The sessions, between two calls of the operator.
    memory: Option<Box<SessionMemory>>,
    /// Columns of sessions that were copied because they were about to change.
    changed: Vec<Vec<ArrayRef>>,
    /// All that the writer has not copied is in `changed`.
    is_settled: bool,
    /// The writer has all it needs.
    is_complete: bool,
    /// The operator broke off in the middle of a call, or a copy failed.
    is_broken: bool,
}

const AT_HAND: &str = "every call of the operator takes the sessions back first";

impl Deref for LentMemory {
    type Target = SessionMemory;

    fn deref(&self) -> &SessionMemory {
        self.own.as_ref().expect(AT_HAND)
    }
}

impl DerefMut for LentMemory {
    fn deref_mut(&mut self) -> &mut SessionMemory {
        self.own.as_mut().expect(AT_HAND)
    }
}

impl LentMemory {
    pub(super) fn new(memory: SessionMemory) -> Self {
        LentMemory { own: Some(Box::new(memory)), cut: None }
    }

    /// Takes the sessions back from the writer; waits while it copies a range.
    pub(super) fn take(&mut self) {
        let Some(cut) = &self.cut else { return };
        let mut state = cut.state.lock();
        if self.own.is_none() {
            self.own = state.memory.take();
        }
        let is_over = state.is_complete || Arc::strong_count(cut) == 1;
        drop(state);
        if is_over {
            self.cut = None;
            self.store.uncopied = None;
        }
    }

    /// Lets the writer have the sessions, if one reads them.
    pub(super) fn lend(&mut self) {
        if let Some(cut) = &self.cut {
            cut.state.lock().memory = self.own.take();
            cut.is_lent.notify_all();
        }
    }

    /// Bytes of memory held.
    pub(super) fn size_bytes(&self) -> usize {
        match (&self.own, &self.cut) {
            (Some(own), _) => own.bytes(),
            (None, Some(cut)) => cut.state.lock().memory.as_ref().map_or(0, |memory| memory.bytes()),
            (None, None) => 0,
        }
    }

    /// Copies those of these sessions that a writer still needs. Comes before they change.
    pub(super) fn keep(&mut self, ids: impl Iterator<Item = u32>) -> Result<()> {
        let Some(cut) = self.cut.clone() else { return Ok(()) };
        let uncopied = self.store.take_uncopied(ids);
        for ids in uncopied.chunks(COPY_ROWS as usize) {
            // They count as copied already: without them the checkpoint must fail.
            let columns = self.columns(ids).inspect_err(|_| cut.break_off())?;
            cut.state.lock().changed.push(columns);
        }
        Ok(())
    }

    /// As [`LentMemory::keep`], of all sessions of some keys.
    pub(super) fn keep_keys(&mut self, keys: impl Iterator<Item = u32>) -> Result<()> {
        if self.cut.is_none() {
            return Ok(());
        }
        let ids: Vec<u32> = keys.flat_map(|key| self.store.of_key(key)).collect();
        self.keep(ids.into_iter())
    }

    /// As [`LentMemory::keep`], of all sessions that a watermark can complete or take out.
    pub(super) fn keep_due(&mut self, watermark: i64) -> Result<()> {
        if self.cut.is_none() {
            return Ok(());
        }
        let ids: Vec<u32> = self.store.waiting(watermark).collect();
        self.keep(ids.into_iter())
    }

    /// Puts other sessions in the place of all; a writer keeps the old ones.
    pub(super) fn replace(&mut self, memory: SessionMemory) {
        self.lend();
        (self.own, self.cut) = (Some(Box::new(memory)), None);
    }

    /// The pieces of a checkpoint: the sessions as they are now.
    pub(super) fn freeze(&mut self, layout: &Layout, place: Place, key_count: usize) -> Result<Vec<FrozenPiece>> {
        if let Some(older) = self.cut.clone() {
            // It is still being written, which is rare: it gets its sessions at once.
            let all = 0..self.store.id_bound() as u32;
            self.keep(all)?;
            older.state.lock().is_settled = true;
            older.is_lent.notify_all();
        }
        let (live, bound) = (self.store.len(), self.store.id_bound() as u32);
        let cut = |memory| {
            let state = Mutex::new(CutState { memory, ..CutState::default() });
            Arc::new(Cut { state, is_lent: Condvar::new(), layout: layout.clone(), place, key_count })
        };
        if live < SHARED_MIN {
            (self.cut, self.store.uncopied) = (None, None);
            let columns = self.columns(&self.store.ids())?;
            let cut = cut(None);
            cut.state.lock().is_complete = true;
            return Ok(vec![piece(move || Ok(vec![cut.rows(&columns)?]))]);
        }
        self.store.begin_copy();
        let cut = cut(None);
        self.cut = Some(cut.clone());
        let mut pieces = Vec::new();
        for start in (0..bound).step_by(COPY_ROWS as usize) {
            let cut = cut.clone();
            pieces.push(piece(move || Ok(cut.copy(start..bound.min(start + COPY_ROWS))?.into_iter().collect())));
        }
        pieces.push(piece(move || cut.rest(bound)));
        Ok(pieces)
    }
}

/// The writer must not wait for an operator that broke off.
impl Drop for LentMemory {
    fn drop(&mut self) {
        if let (Some(cut), Some(_)) = (&self.cut, &self.own) {
            cut.break_off();
        }
    }
}

impl Cut {
    /// Sessions are missing, or nobody knows: no piece may be given from here on.
    fn break_off(&self) {
        self.state.lock().is_broken = true;
        self.is_lent.notify_all();
    }

    /// Copies what is uncopied of a range of ids, when the operator is between two calls; nothing when the operator has
    /// copied it all.
    fn copy(&self, ids: std::ops::Range<u32>) -> Result<Option<RecordBatch>> {
        let mut state = self.state.lock();
        let columns = loop {
            if state.is_broken {
                return Err(OperatorError::internal("the task broke off while its sessions were being written"));
            }
            if let Some(memory) = &mut state.memory {
                let ids = memory.store.take_uncopied(ids);
                let columns = memory.columns(&ids);
                state.is_broken = columns.is_err();
                break columns?;
            }
            if state.is_settled {
                return Ok(None);
            }
            self.is_lent.wait(&mut state);
        };
        drop(state);
        self.rows(&columns).map(Some)
    }

    /// What no other piece has.
    fn rest(&self, bound: u32) -> Result<Vec<RecordBatch>> {
        let last = self.copy(0..bound)?;
        let changed = {
            let mut state = self.state.lock();
            state.is_complete = true;
            std::mem::take(&mut state.changed)
        };
        let changed = changed.iter().map(|columns| self.rows(columns));
        changed.chain(last.map(Ok)).collect()
    }

    /// Rows of the table; what follows from a copy is worked out beside the stream.
    fn rows(&self, columns: &[ArrayRef]) -> Result<RecordBatch> {
        let row_count = columns.last().map_or(0, |column| column.len());
        let key_groups = self.place.key_groups_of(&columns[..self.key_count], row_count)?;
        self.layout.keyed_batch(key_groups, columns.to_vec())
    }
}

/// A piece that is copied once, and then the same at every call.
fn piece(copy: impl Fn() -> Result<Vec<RecordBatch>> + Send + Sync + 'static) -> FrozenPiece {
    let copied: Mutex<Option<Vec<RecordBatch>>> = Mutex::new(None);
    FrozenPiece::Later(Arc::new(move || -> Result<_, FreezeError> {
        let mut copied = copied.lock();
        match copied.as_ref() {
            Some(rows) => Ok(rows.clone()),
            None => Ok(copied.insert(copy()?).clone()),
        }
    }))
}

#[cfg(test)]
mod tests {
    use arrow_array::Int64Array;
    use arrow_schema::{DataType, Schema};
    use weir_testkit::context;

    use super::super::runs::Run;
    use super::super::session_store::Changes;
    use super::super::state;
    use super::*;

    /// The writer is told, and does not wait for ever, when the operator ends in the middle of a call.
    #[test]
    fn writer_does_not_wait_for_an_operator_that_broke_off() {
        let shape = Shape { key_names: vec!["k".to_owned()], key_types: vec![DataType::Int64], calls: Vec::new() };
        let frozen = |breaks_off: bool| {
            let mut memory = SessionMemory::new(&shape, SessionStore::new(10, 0)).expect("the types have tables");
            let keys: Vec<ArrayRef> = vec![Arc::new(Int64Array::from(vec![7]))];
            memory.keys.intern(&keys, &[1], &mut Vec::new()).expect("it is a key");
            memory.store.place(Run::alone(0, 0, 5), i64::MIN, &mut Changes::default());
            memory.grow();
            let schema = Arc::new(Schema::empty());
            let place = Place::of(&context(vec![schema.clone()], schema).0);
            let mut lent = LentMemory::new(memory);
            let pieces = lent.freeze(&state::sessions(&shape), place, 1).expect("they can be frozen");
            if !breaks_off {
                lent.lend();
            }
            drop(lent);
            pieces
                .iter()
                .map(|piece| piece.batches().map(|rows| rows.iter().map(RecordBatch::num_rows).sum()))
                .collect()
        };
        let rows: Result<Vec<usize>, FreezeError> = frozen(false);
        assert_eq!(rows.expect("the sessions were left to the writer"), [1, 0]);
        assert!(frozen(true).is_err());
    }
}
