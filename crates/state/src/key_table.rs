//! The table of keys: gives every distinct key a dense id, a whole batch at a time. Operators index their columnar
//! state by these ids.
//!
//! A single column of whole numbers, dates or times is kept as words, a single text or binary column as bytes, anything
//! else in arrow-row's encoding. Null is a key like any other. Keys are compared exactly; hashes only find them.

use arrow_array::cast::AsArray;
use arrow_array::types::*;
use arrow_array::{Array, ArrayRef};
use arrow_buffer::NullBuffer;
use arrow_schema::{ArrowError, DataType};
use weir_core::key_hash::{NotAKey, is_key_type, mix};
use weir_core::{KeyGroup, KeyGroupRange};

use crate::key_store::{Bytes, Encoded, Spelled, Store, Words};
use crate::slot_index::SlotIndex;

/// Stands for "no such entry" where ids are looked up.
pub const NO_ID: u32 = u32::MAX;

/// Rows that are looked up together: their cache misses overlap.
const CHUNK: usize = 64;

enum Keys {
    /// No key columns: one entry, id 0, for all rows.
    Unit,
    Words(Words),
    /// Text and binary; their hashes are kept, for comparing bytes is dear and hashing them dearer.
    Bytes(Bytes, Vec<u64>),
    Encoded(Box<Encoded>, Vec<u64>),
}

/// Distinct keys with dense ids.
///
/// **Shapes**: ids count up from 0; [`KeyTable::remove`] frees ids, which are given out again before new ones.
pub struct KeyTable {
    types: Vec<DataType>,
    keys: Keys,
    entries: Entries,
}

/// What does not depend on the kind of key.
#[derive(Default)]
struct Entries {
    index: SlotIndex,
    /// The entry of the null key of a single column; it is not in the index.
    null_id: Option<u32>,
    null_hash: u64,
    free: Vec<u32>,
    /// One above the greatest id ever given.
    id_bound: u32,
}

impl Entries {
    #[inline]
    fn next_id(free: &mut Vec<u32>, id_bound: &mut u32) -> u32 {
        free.pop().unwrap_or_else(|| {
            let id = *id_bound;
            assert!(id < NO_ID, "a key table holds fewer than 2^32 - 1 keys");
            *id_bound = id + 1;
            id
        })
    }

    fn null_entry(&mut self, hash: u64) -> (u32, bool) {
        match self.null_id {
            Some(id) => (id, false),
            None => {
                let id = Self::next_id(&mut self.free, &mut self.id_bound);
                (self.null_id, self.null_hash) = (Some(id), hash);
                (id, true)
            }
        }
    }

    /// The loop over a batch without nulls. `put` also takes the id of a new entry, to keep what is kept beside the key.
    #[inline]
    fn intern<B: ?Sized, S: Store<B>>(
        &mut self,
        store: &mut S,
        batch: &B,
        hashes: &[u64],
        ids: &mut Vec<u32>,
        mut kept_hashes: Option<&mut Vec<u64>>,
    ) {
        ids.reserve(hashes.len());
        for (chunk, hashes) in hashes.chunks(CHUNK).enumerate() {
            let first = chunk * CHUNK;
            self.index.reserve(CHUNK);
            let mut guesses = [0u64; CHUNK];
            if self.index.is_large() {
                for (guess, hash) in guesses.iter_mut().zip(hashes) {
                    *guess = self.index.guess(*hash);
                }
            }
            for (offset, (hash, guess)) in hashes.iter().zip(guesses).enumerate() {
                let row = first + offset;
                if let Some(id) = SlotIndex::guessed_id(guess, *hash).filter(|id| store.is_equal(*id, batch, row)) {
                    ids.push(id);
                    continue;
                }
                ids.push(self.intern_row(store, batch, row, *hash, &mut kept_hashes));
            }
        }
    }

    fn find<B: ?Sized, S: Store<B>>(
        &self,
        store: &S,
        batch: &B,
        nulls: Option<&NullBuffer>,
        hashes: &[u64],
        ids: &mut Vec<u32>,
    ) {
        ids.reserve(hashes.len());
        let nulls = nulls.filter(|nulls| nulls.null_count() > 0);
        for (chunk, hashes) in hashes.chunks(CHUNK).enumerate() {
            let first = chunk * CHUNK;
            let mut guesses = [0u64; CHUNK];
            if self.index.is_large() {
                for (guess, hash) in guesses.iter_mut().zip(hashes) {
                    *guess = self.index.guess(*hash);
                }
            }
            for (offset, (hash, guess)) in hashes.iter().zip(guesses).enumerate() {
                let row = first + offset;
                if nulls.is_some_and(|nulls| nulls.is_null(row)) {
                    ids.push(self.null_id.unwrap_or(NO_ID));
                    continue;
                }
                let guessed = SlotIndex::guessed_id(guess, *hash).filter(|id| store.is_equal(*id, batch, row));
                let found = guessed.or_else(|| self.index.find(*hash, |id| store.is_equal(id, batch, row)));
                ids.push(found.unwrap_or(NO_ID));
            }
        }
    }

    #[inline]
    fn intern_row<B: ?Sized, S: Store<B>>(
        &mut self,
        store: &mut S,
        batch: &B,
        row: usize,
        hash: u64,
        kept_hashes: &mut Option<&mut Vec<u64>>,
    ) -> u32 {
        let (free, id_bound) = (&mut self.free, &mut self.id_bound);
        let mut is_new = false;
        let id = self.index.find_or_insert(
            hash,
            |id| store.is_equal(id, batch, row),
            || {
                is_new = true;
                Self::next_id(free, id_bound)
            },
        );
        if is_new {
            store.put(id, batch, row);
            if let Some(kept) = kept_hashes {
                keep_hash(kept, id, hash);
            }
        }
        id
    }
}

#[inline]
fn keep_hash(kept: &mut Vec<u64>, id: u32, hash: u64) {
    if id as usize == kept.len() {
        kept.push(hash);
    } else {
        kept[id as usize] = hash;
    }
}

/// Runs a body with the rows of a text or binary column.
macro_rules! with_byte_rows {
    ($column:expr, $rows:ident => $body:expr) => {{
        let column = $column;
        macro_rules! spelled {
            ($type:ty) => {{
                let array = column.as_bytes::<$type>();
                let $rows = &Spelled { offsets: array.value_offsets(), data: array.value_data() };
                $body
            }};
        }
        match column.data_type() {
            DataType::Utf8 => spelled!(Utf8Type),
            DataType::LargeUtf8 => spelled!(LargeUtf8Type),
            DataType::Binary => spelled!(BinaryType),
            DataType::LargeBinary => spelled!(LargeBinaryType),
            _ => {
                let $rows = column.as_string_view();
                $body
            }
        }
    }};
}

impl KeyTable {
    /// Makes an empty table for key columns of these types; without columns every row has the same key.
    ///
    /// **Errors**: [`NotAKey`] for nested types, which the planner refuses.
    pub fn new(types: &[DataType]) -> Result<KeyTable, NotAKey> {
        if let Some(bad) = types.iter().find(|data_type| !is_key_type(data_type)) {
            return Err(NotAKey(bad.clone()));
        }
        let keys = match types {
            [] => Keys::Unit,
            [one] if Words::holds(one) => Keys::Words(Words::default()),
            [DataType::Utf8 | DataType::LargeUtf8 | DataType::Utf8View | DataType::Binary | DataType::LargeBinary] => {
                Keys::Bytes(Bytes::default(), Vec::new())
            }
            several => {
                let encoded = Encoded::new(several).map_err(|_| NotAKey(several[0].clone()))?;
                Keys::Encoded(Box::new(encoded), Vec::new())
            }
        };
        Ok(KeyTable { types: types.to_vec(), keys, entries: Entries::default() })
    }

    /// Makes an empty table for the same key columns.
    pub fn new_like(&self) -> KeyTable {
        KeyTable::new(&self.types).expect("the types were keys before")
    }

    /// Number of keys held.
    pub fn len(&self) -> usize {
        self.entries.id_bound as usize - self.entries.free.len()
    }

    /// Whether no key is held.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// All ids are below this; state beside the table needs that many places.
    pub fn id_bound(&self) -> usize {
        self.entries.id_bound as usize
    }

    /// Finds or adds the key of every row and puts its id into `ids` (cleared first). `hashes` are those of
    /// [`weir_core::key_hash::hash_columns`]; without key columns any words, one per row.
    ///
    /// **Shapes**: one hash and one id per row.
    /// **Errors**: only when a key of several columns cannot be encoded.
    pub fn intern(&mut self, columns: &[ArrayRef], hashes: &[u64], ids: &mut Vec<u32>) -> Result<(), ArrowError> {
        ids.clear();
        assert!(columns.iter().all(|column| column.len() == hashes.len()), "one hash per row");
        let entries = &mut self.entries;
        match &mut self.keys {
            Keys::Unit => {
                entries.id_bound = entries.id_bound.max(u32::from(!hashes.is_empty()));
                ids.resize(hashes.len(), 0);
            }
            Keys::Words(words) => {
                let column = &columns[0];
                let batch = Words::read(column.as_ref());
                intern_column(entries, words, &batch[..], column.nulls(), hashes, ids, None);
            }
            Keys::Bytes(bytes, kept) => {
                with_byte_rows!(&columns[0], rows => {
                    intern_column(entries, bytes, rows, columns[0].nulls(), hashes, ids, Some(kept));
                });
            }
            Keys::Encoded(encoded, kept) => {
                encoded.encode(columns)?;
                let Encoded { rows, bytes, .. } = encoded.as_mut();
                entries.intern(bytes, rows, hashes, ids, Some(kept));
            }
        }
        Ok(())
    }

    /// Whether [`KeyTable::find`] works for these keys: those of several columns must be encoded first.
    pub fn can_find(&self) -> bool {
        !matches!(self.keys, Keys::Encoded(..))
    }

    /// Puts the id of every row's key into `ids` (cleared first), [`NO_ID`] for keys that are not held. Others may do the
    /// same at once.
    ///
    /// **Shapes**: one hash and one id per row; a table that [`KeyTable::can_find`].
    pub fn find(&self, columns: &[ArrayRef], hashes: &[u64], ids: &mut Vec<u32>) {
        ids.clear();
        assert!(columns.iter().all(|column| column.len() == hashes.len()), "one hash per row");
        let entries = &self.entries;
        match &self.keys {
            Keys::Unit => ids.resize(hashes.len(), if entries.id_bound > 0 { 0 } else { NO_ID }),
            Keys::Words(words) => {
                let batch = Words::read(columns[0].as_ref());
                entries.find(words, &batch[..], columns[0].nulls(), hashes, ids);
            }
            Keys::Bytes(bytes, _) => {
                with_byte_rows!(&columns[0], rows => entries.find(bytes, rows, columns[0].nulls(), hashes, ids));
            }
            Keys::Encoded(..) => panic!("keys of several columns are not found without encoding them"),
        }
    }

    /// Finds or adds the keys `from_ids` of another table of the same types, without hashing them again.
    pub fn intern_table(&mut self, other: &KeyTable, from_ids: &[u32], ids: &mut Vec<u32>) {
        ids.clear();
        let entries = &mut self.entries;
        match (&mut self.keys, &other.keys) {
            (Keys::Unit, Keys::Unit) => {
                entries.id_bound = entries.id_bound.max(u32::from(!from_ids.is_empty()));
                ids.resize(from_ids.len(), 0);
            }
            (Keys::Words(words), Keys::Words(from)) => {
                copy_entries(entries, words, &from.values[..], (other, from_ids), None, ids);
            }
            (Keys::Bytes(bytes, kept), Keys::Bytes(from, _)) => {
                copy_entries(entries, bytes, from, (other, from_ids), Some(kept), ids);
            }
            (Keys::Encoded(encoded, kept), Keys::Encoded(from, _)) => {
                copy_entries(entries, &mut encoded.bytes, &from.bytes, (other, from_ids), Some(kept), ids);
            }
            _ => panic!("key tables of different types"),
        }
    }

    /// Looks up the keys `from_ids` of another table of the same types; [`NO_ID`] for keys this table does not hold.
    pub fn find_table(&self, other: &KeyTable, from_ids: &[u32], ids: &mut Vec<u32>) {
        ids.clear();
        ids.extend(from_ids.iter().map(|from| self.find_entry(other, *from).unwrap_or(NO_ID)));
    }

    fn find_entry(&self, other: &KeyTable, from: u32) -> Option<u32> {
        let hash = other.hash_of(from);
        if other.entries.null_id == Some(from) {
            return self.entries.null_id;
        }
        let index = &self.entries.index;
        match (&self.keys, &other.keys) {
            (Keys::Unit, Keys::Unit) => (self.entries.id_bound > 0).then_some(0),
            (Keys::Words(here), Keys::Words(there)) => {
                index.find(hash, |id| here.values[id as usize] == there.values[from as usize])
            }
            (Keys::Bytes(here, _), Keys::Bytes(there, _)) => index.find(hash, |id| here.get(id) == there.get(from)),
            (Keys::Encoded(here, _), Keys::Encoded(there, _)) => {
                index.find(hash, |id| here.bytes.get(id) == there.bytes.get(from))
            }
            _ => panic!("key tables of different types"),
        }
    }

    /// The hash of an entry, as [`weir_core::key_hash::hash_columns`] gave it.
    #[inline]
    pub fn hash_of(&self, id: u32) -> u64 {
        if self.entries.null_id == Some(id) {
            return self.entries.null_hash;
        }
        match &self.keys {
            Keys::Unit => 0,
            Keys::Words(words) => mix(words.values[id as usize] as u64),
            Keys::Bytes(_, hashes) | Keys::Encoded(_, hashes) => hashes[id as usize],
        }
    }

    /// What `map` makes of the hashes of entries.
    pub fn map_hashes<T>(&self, ids: &[u32], map: impl Fn(u64) -> T) -> Vec<T> {
        match (&self.keys, self.entries.null_id) {
            // The common case has no branch.
            (Keys::Words(words), None) => ids.iter().map(|id| map(mix(words.values[*id as usize] as u64))).collect(),
            _ => ids.iter().map(|id| map(self.hash_of(*id))).collect(),
        }
    }

    /// The keys of these entries as columns of the types the table was made for.
    ///
    /// **Errors**: when a column would need more than 2 GiB of text.
    pub fn columns(&self, ids: &[u32]) -> Result<Vec<ArrayRef>, ArrowError> {
        let nulls = || {
            let null_id = self.entries.null_id.filter(|null_id| ids.contains(null_id))?;
            Some(ids.iter().map(|id| *id != null_id).collect::<NullBuffer>())
        };
        match &self.keys {
            Keys::Unit => Ok(Vec::new()),
            Keys::Words(words) => Ok(vec![words.write(ids, nulls(), &self.types[0])]),
            Keys::Bytes(bytes, _) => Ok(vec![bytes.write(ids, nulls(), &self.types[0])?]),
            Keys::Encoded(encoded, _) => encoded.write(ids),
        }
    }

    /// Forgets one key; its id will be given to another.
    pub fn remove(&mut self, id: u32) {
        let hash = self.hash_of(id);
        if self.entries.null_id == Some(id) {
            self.entries.null_id = None;
        } else if !matches!(self.keys, Keys::Unit) {
            let was_there = self.entries.index.remove(hash, id);
            assert!(was_there, "only held keys are removed");
        }
        self.entries.free.push(id);
        if let Keys::Unit = self.keys {
            self.clear();
            return;
        }
        let bytes = match &mut self.keys {
            Keys::Bytes(bytes, _) => bytes,
            Keys::Encoded(encoded, _) => &mut encoded.bytes,
            Keys::Unit | Keys::Words(_) => return,
        };
        bytes.remove(id);
        if bytes.needs_compaction() {
            bytes.compact();
        }
    }

    /// The ids of the keys in a range of key groups: what a snapshot of that range holds.
    pub fn ids_of_key_groups(&self, range: KeyGroupRange, key_group_count: u32) -> Vec<u32> {
        let unit = matches!(self.keys, Keys::Unit).then_some(0).filter(|_| self.entries.id_bound > 0);
        let entries = self.entries.index.ids().chain(self.entries.null_id).chain(unit);
        entries.filter(|id| range.contains(KeyGroup::of(self.hash_of(*id), key_group_count))).collect()
    }

    /// Forgets all keys and keeps the memory for the next.
    pub fn clear(&mut self) {
        let entries = &mut self.entries;
        entries.index.clear();
        entries.free.clear();
        (entries.null_id, entries.id_bound) = (None, 0);
        match &mut self.keys {
            Keys::Unit => {}
            Keys::Words(words) => words.values.clear(),
            Keys::Bytes(bytes, hashes) => {
                bytes.clear();
                hashes.clear();
            }
            Keys::Encoded(encoded, hashes) => {
                encoded.bytes.clear();
                hashes.clear();
            }
        }
    }

    /// Gives back the memory that only finding and adding keys needs: what remains can be read out by id. A table that
    /// is being emitted never looks up a key again.
    pub fn release_index(&mut self) {
        self.entries.index.release();
    }

    /// Bytes of memory held.
    pub fn size_bytes(&self) -> usize {
        let keys = match &self.keys {
            Keys::Unit => 0,
            Keys::Words(words) => words.values.capacity() * size_of::<i64>(),
            Keys::Bytes(bytes, hashes) => bytes.size_bytes() + hashes.capacity() * size_of::<u64>(),
            Keys::Encoded(encoded, hashes) => {
                encoded.bytes.size_bytes() + encoded.rows.size() + hashes.capacity() * size_of::<u64>()
            }
        };
        keys + self.entries.index.size_bytes() + self.entries.free.capacity() * size_of::<u32>()
    }
}

/// Interns one column, whose nulls are one entry of their own.
#[allow(clippy::too_many_arguments, reason = "the parts of a table are borrowed one by one")]
#[inline]
fn intern_column<B: ?Sized, S: Store<B> + PutNull>(
    entries: &mut Entries,
    store: &mut S,
    batch: &B,
    nulls: Option<&NullBuffer>,
    hashes: &[u64],
    ids: &mut Vec<u32>,
    mut kept_hashes: Option<&mut Vec<u64>>,
) {
    let Some(nulls) = nulls.filter(|nulls| nulls.null_count() > 0) else {
        return entries.intern(store, batch, hashes, ids, kept_hashes);
    };
    for (row, hash) in hashes.iter().enumerate() {
        if nulls.is_valid(row) {
            entries.index.reserve(1);
            ids.push(entries.intern_row(store, batch, row, *hash, &mut kept_hashes));
        } else {
            ids.push(intern_null(entries, store, *hash, &mut kept_hashes));
        }
    }
}

fn intern_null<S: PutNull>(
    entries: &mut Entries,
    store: &mut S,
    hash: u64,
    kept_hashes: &mut Option<&mut Vec<u64>>,
) -> u32 {
    let (id, is_new) = entries.null_entry(hash);
    if is_new {
        store.put_null(id);
        if let Some(kept) = kept_hashes {
            keep_hash(kept, id, hash);
        }
    }
    id
}

#[inline]
fn copy_entries<B: ?Sized, S: Store<B> + PutNull>(
    entries: &mut Entries,
    store: &mut S,
    batch: &B,
    (other, from_ids): (&KeyTable, &[u32]),
    mut kept_hashes: Option<&mut Vec<u64>>,
    ids: &mut Vec<u32>,
) {
    entries.index.reserve(from_ids.len());
    for from in from_ids {
        let hash = other.hash_of(*from);
        if other.entries.null_id == Some(*from) {
            ids.push(intern_null(entries, store, hash, &mut kept_hashes));
        } else {
            ids.push(entries.intern_row(store, batch, *from as usize, hash, &mut kept_hashes));
        }
    }
}

/// Stores that give the null key a place, whose content is never compared.
trait PutNull {
    fn put_null(&mut self, id: u32);
}

impl PutNull for Words {
    fn put_null(&mut self, id: u32) {
        self.put(id, &[0i64][..], 0);
    }
}

impl PutNull for Bytes {
    fn put_null(&mut self, id: u32) {
        self.put_bytes(id, &[]);
    }
}

#[cfg(test)]
mod tests;
