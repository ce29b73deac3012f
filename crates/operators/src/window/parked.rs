//! Sessions that left memory, in the state store: by end, for those that a watermark completes, and by key, for those
//! that others may touch. [`super::parking`] says when which ones are needed; this file knows no watermark's meaning.
//! The end is the next one: that of the session, or of its lateness when it was emitted before it left.
//!
//! ```text
//! part     the sessions that left at once: (end, id) -> row of the checkpoint's table, never changed
//! taken    per part, in memory: which of them are back; whoever writes a checkpoint keeps the part and these marks
//! index    key group, key -> where the sessions of the key lie: (part, end, id) each
//! ```
//! A part goes when all its sessions are back. The sessions of a key leave and come back together, so an entry of the
//! index is complete as long as it is there.

use std::collections::BTreeMap;
use std::sync::Arc;

use arrow_array::cast::AsArray;
use arrow_array::types::UInt32Type;
use arrow_array::{ArrayRef, RecordBatch};
use arrow_schema::{Field, Schema};
use weir_operator_api::{OperatorError, Result};
use weir_state::store::Entries;
use weir_state::{FrozenPiece, KeyTable, StateSpace, StateStores};

use super::groups::Shape;
use super::session_store::SessionStore;
use super::state::{self, Place};
use crate::row_codec::RowCodec;
use crate::row_run::lost;
use crate::state_rows::{BATCH_ROWS, Layout};

/// Rows that are written or read at once.
const CHUNK_ROWS: usize = if cfg!(test) { 2 } else { 8 * 1024 };
/// Sessions that come due and are taken back at once.
const DUE_ROWS: usize = if cfg!(test) { 3 } else { 32 * 1024 };
/// Rows of one piece of a checkpoint.
const PIECE_ROWS: usize = if cfg!(test) { 3 } else { BATCH_ROWS };

/// Key of a session in its part: its end and its id, which compare as bytes in this order.
type RowKey = [u8; 12];

fn row_key(end: i64, id: u32) -> RowKey {
    let mut key = [0; 12];
    key[..8].copy_from_slice(&(end as u64 ^ 1 << 63).to_be_bytes());
    key[8..].copy_from_slice(&id.to_be_bytes());
    key
}

fn read_row_key(bytes: &[u8]) -> Result<(RowKey, i64, u32)> {
    let key: RowKey = bytes.try_into().map_err(|_| OperatorError::internal("a parked session has a strange key"))?;
    let (end, id) = (u64::from_be_bytes(*key.first_chunk().ok_or_else(lost)?), &key[8..]);
    let id = id.iter().fold(0, |id, byte| id << 8 | u32::from(*byte));
    Ok((key, (end ^ 1 << 63) as i64, id))
}

/// All parked sessions of one subtask. **Units**: microseconds.
pub(super) struct Parked {
    stores: StateStores,
    layout: Layout,
    rows: Arc<RowCodec>,
    keys: RowCodec,
    key_count: usize,
    index: Option<StateSpace>,
    /// By number, oldest first.
    parts: BTreeMap<u32, Part>,
    next_part: u32,
    /// Numbers the pieces of checkpoints.
    next_piece: u64,
}

/// Sessions that left memory together.
struct Part {
    space: StateSpace,
    /// A bit per id: it is back in memory.
    taken: Arc<Vec<u64>>,
    /// The first and the last time of all its sessions.
    bounds: (i64, i64),
    /// From here on nobody looked for what is due.
    cursor: RowKey,
    /// No session that is still here ends before; none is here without it.
    next_end: Option<i64>,
    pieces: Vec<Piece>,
}

/// Sessions of a part in a row, which go into checkpoints together.
struct Piece {
    first: RowKey,
    /// How many are not taken.
    left: usize,
    number: u64,
    /// Some were taken since it got its number.
    has_changed: bool,
}

impl Part {
    /// Marks a session; whether it had been here.
    fn take(&mut self, key: &RowKey, id: u32) -> bool {
        let (word, bit) = (id as usize / 64, 1 << (id % 64));
        if self.taken[word] & bit != 0 {
            return false;
        }
        Arc::make_mut(&mut self.taken)[word] |= bit;
        let at = self.pieces.partition_point(|piece| piece.first <= *key) - 1;
        self.pieces[at].left -= 1;
        self.pieces[at].has_changed = true;
        true
    }

    fn is_empty(&self) -> bool {
        self.pieces.iter().all(|piece| piece.left == 0)
    }

    fn is_due(&self, watermark: i64) -> bool {
        self.next_end.is_some_and(|end| end - 1 <= watermark)
    }

    /// Takes up to `count` sessions that end by the watermark.
    fn take_due(&mut self, watermark: i64, count: usize) -> Result<Vec<Vec<u8>>> {
        let to = watermark.checked_add(2).map(|end| row_key(end, 0));
        let found = self.space.range(&self.cursor, to.as_ref().map(|to| &to[..]), count)?;
        let is_all = found.len() < count;
        let mut rows = Vec::with_capacity(found.len());
        for (key, value) in found {
            let (key, end, id) = read_row_key(&key)?;
            (self.cursor, self.next_end) = (row_key(end, id + 1), Some(end));
            if self.take(&key, id) {
                rows.push(value);
            }
        }
        if is_all {
            let next = self.space.range(&self.cursor, None, 1)?.pop();
            self.next_end = next.map(|(key, _)| read_row_key(&key)).transpose()?.map(|(_, end, _)| end);
        }
        Ok(rows)
    }
}

/// Where a session lies.
#[derive(Clone, Copy)]
struct Ref {
    part: u32,
    end: i64,
    id: u32,
}

impl Ref {
    const BYTES: usize = 16;

    fn write(&self, into: &mut Vec<u8>) {
        into.extend_from_slice(&self.part.to_be_bytes());
        into.extend_from_slice(&row_key(self.end, self.id));
    }

    fn read(bytes: &[u8]) -> Result<Ref> {
        let (part, key) = bytes.split_at(4);
        let part = part.iter().fold(0, |part, byte| part << 8 | u32::from(*byte));
        let (_, end, id) = read_row_key(key)?;
        Ok(Ref { part, end, id })
    }
}

impl Parked {
    pub(super) fn new(stores: StateStores, shape: &Shape) -> Result<Self> {
        let layout = state::sessions(shape);
        let key_fields: Vec<Field> =
            shape.key_types.iter().map(|data_type| Field::new("key", data_type.clone(), true)).collect();
        Ok(Parked {
            stores,
            rows: Arc::new(RowCodec::new(layout.schema())?),
            keys: RowCodec::new(&Schema::new(key_fields))?,
            key_count: shape.key_types.len(),
            layout,
            index: None,
            parts: BTreeMap::new(),
            next_part: 0,
            next_piece: 0,
        })
    }

    pub(super) fn is_empty(&self) -> bool {
        self.parts.is_empty()
    }

    /// Whether some session may be no further than the gap from these bounds.
    pub(super) fn may_touch(&self, (start, last): (i64, i64), gap: i64) -> bool {
        let touches = |bounds: (i64, i64)| bounds.0 <= last + gap && start <= bounds.1 + gap;
        self.parts.values().any(|part| touches(part.bounds))
    }

    /// Whether some session that a watermark completes may be here.
    pub(super) fn has_due(&self, watermark: i64) -> bool {
        self.parts.values().any(|part| part.is_due(watermark))
    }

    /// Puts all sessions of a store here; `rows` gives some of them as rows of the table.
    ///
    /// **Errors**: the state store cannot write; nothing is here then that was not here before.
    pub(super) fn park(
        &mut self,
        sessions: &SessionStore,
        (keys, place): (&KeyTable, Place),
        rows: impl Fn(&[u32]) -> Result<RecordBatch>,
    ) -> Result<()> {
        let mut order: Vec<(i64, u32)> = sessions.ids().into_iter().map(|id| (sessions.next_end(id), id)).collect();
        order.sort_unstable();
        let Some(first) = order.first() else { return Ok(()) };
        let space = self.stores.space()?;
        for chunk in order.chunks(CHUNK_ROWS) {
            let ids: Vec<u32> = chunk.iter().map(|session| session.1).collect();
            let rows = self.rows.encode_all(&rows(&ids)?)?;
            let entry = |((end, id), row): (&(i64, u32), arrow_row::Row<'_>)| {
                (row_key(*end, *id).to_vec(), row.data().to_vec())
            };
            space.put(chunk.iter().zip(rows.iter()).map(entry).collect())?;
        }
        let number = self.next_part;
        // What an attempt that failed left in the index names a part that there never was.
        self.next_part += 1;
        let written = self.write_index(number, sessions, (keys, place));
        written.inspect_err(|_| self.drop_empty())?;
        let pieces = order.chunks(PIECE_ROWS).map(|rows| {
            self.next_piece += 1;
            let first = row_key(rows[0].0, rows[0].1);
            Piece { first, left: rows.len(), number: self.next_piece, has_changed: false }
        });
        let (starts, lasts): (Vec<i64>, Vec<i64>) = order.iter().map(|session| sessions.bounds(session.1)).unzip();
        let bounds = starts.iter().min().zip(lasts.iter().max()).map(|(start, last)| (*start, *last));
        let part = Part {
            space,
            taken: Arc::new(vec![0; sessions.id_bound().div_ceil(64)]),
            bounds: bounds.unwrap_or_default(),
            cursor: row_key(first.0, 0),
            next_end: Some(first.0),
            pieces: pieces.collect(),
        };
        self.parts.insert(number, part);
        Ok(())
    }

    /// Adds the sessions of a new part to those of their keys.
    fn write_index(&mut self, part: u32, sessions: &SessionStore, (keys, place): (&KeyTable, Place)) -> Result<()> {
        let index = match &self.index {
            Some(index) => index.clone(),
            None => self.index.insert(self.stores.space()?).clone(),
        };
        let ids: Vec<u32> = (0..keys.id_bound() as u32).filter(|key| sessions.has_sessions(*key)).collect();
        for ids in ids.chunks(CHUNK_ROWS) {
            let index_keys = self.index_keys(&place.key_groups(keys, ids), &keys.columns(ids)?)?;
            let known = if self.parts.is_empty() { vec![None; ids.len()] } else { index.get(&index_keys)? };
            let mut entries = Entries::with_capacity(ids.len());
            for ((index_key, known), key) in index_keys.into_iter().zip(known).zip(ids) {
                let mut value = known.unwrap_or_default();
                let new = sessions.of_key(*key).map(|id| Ref { part, end: sessions.next_end(id), id });
                new.for_each(|new| new.write(&mut value));
                entries.push((index_key, value));
            }
            index.put(entries)?;
        }
        Ok(())
    }

    /// Takes back sessions that end by the watermark, some thousand, and all others of their keys. Those that left
    /// first come first.
    pub(super) fn take_due(&mut self, watermark: i64) -> Result<Vec<RecordBatch>> {
        let mut rows: Vec<(u32, Vec<u8>)> = Vec::new();
        for (number, part) in &mut self.parts {
            while part.is_due(watermark) && rows.len() < DUE_ROWS {
                let due = part.take_due(watermark, (DUE_ROWS - rows.len()).min(CHUNK_ROWS))?;
                rows.extend(due.into_iter().map(|row| (*number, row)));
            }
        }
        let mut batches = self.decode(&rows)?;
        let mut others = Vec::new();
        for batch in &batches {
            let key_groups = batch.column(0).as_primitive::<UInt32Type>().values();
            others.extend(self.take_rows(key_groups, &batch.columns()[1..=self.key_count])?);
        }
        if !others.is_empty() {
            rows.extend(others);
            rows.sort_by_key(|row| row.0);
            batches = self.decode(&rows)?;
        }
        self.drop_empty();
        Ok(batches)
    }

    /// Takes back all sessions of some keys. Those that left first come first.
    pub(super) fn take_keys(&mut self, key_groups: &[u32], keys: &[ArrayRef]) -> Result<Vec<RecordBatch>> {
        let mut rows = self.take_rows(key_groups, keys)?;
        rows.sort_by_key(|row| row.0);
        self.drop_empty();
        self.decode(&rows)
    }

    /// The rows of some keys, each with its part.
    fn take_rows(&mut self, key_groups: &[u32], keys: &[ArrayRef]) -> Result<Vec<(u32, Vec<u8>)>> {
        let mut index_keys = self.index_keys(key_groups, keys)?;
        let Some(index) = &self.index else { return Ok(Vec::new()) };
        let found = index.get(&index_keys)?;
        let mut wanted: BTreeMap<u32, Vec<RowKey>> = BTreeMap::new();
        for bytes in found.iter().flatten().flat_map(|value| value.chunks_exact(Ref::BYTES)) {
            let Ref { part, end, id } = Ref::read(bytes)?;
            let key = row_key(end, id);
            if self.parts.get_mut(&part).is_some_and(|part| part.take(&key, id)) {
                wanted.entry(part).or_default().push(key);
            }
        }
        let mut is_known = found.iter().map(Option::is_some);
        index_keys.retain(|_| is_known.next() == Some(true));
        index.delete(&index_keys)?;
        let mut rows = Vec::new();
        for (number, mut keys) in wanted {
            keys.sort_unstable();
            let found = self.parts[&number].space.get(&keys)?;
            for row in found {
                rows.push((number, row.ok_or_else(lost)?));
            }
        }
        Ok(rows)
    }

    fn index_keys(&self, key_groups: &[u32], keys: &[ArrayRef]) -> Result<Vec<Vec<u8>>> {
        let groups = key_groups.iter().map(|group| group.to_be_bytes());
        if self.key_count == 0 {
            return Ok(groups.map(|group| group.to_vec()).collect());
        }
        let keys = self.keys.encode_columns(keys)?;
        Ok(groups.zip(keys.iter()).map(|(group, key)| [&group[..], key.data()].concat()).collect())
    }

    fn decode(&self, rows: &[(u32, Vec<u8>)]) -> Result<Vec<RecordBatch>> {
        let decode = |rows: &[(u32, Vec<u8>)]| decode(&self.rows, &self.layout, rows.iter().map(|row| &row.1[..]));
        rows.chunks(BATCH_ROWS).map(decode).collect()
    }

    fn drop_empty(&mut self) {
        self.parts.retain(|_, part| !part.is_empty());
        if self.parts.is_empty() {
            self.index = None;
        }
    }

    /// All sessions here as pieces of a checkpoint, read beside the stream.
    pub(super) fn frozen(&mut self) -> Vec<FrozenPiece> {
        let mut pieces = Vec::new();
        for part in self.parts.values_mut() {
            let ends: Vec<Option<RowKey>> =
                part.pieces.iter().skip(1).map(|next| Some(next.first)).chain([None]).collect();
            for (piece, end) in part.pieces.iter_mut().zip(ends).filter(|(piece, _)| piece.left > 0) {
                if piece.has_changed {
                    self.next_piece += 1;
                    (piece.number, piece.has_changed) = (self.next_piece, false);
                }
                let reader = PieceReader {
                    space: part.space.clone(),
                    taken: Arc::clone(&part.taken),
                    range: (piece.first, end),
                    rows: Arc::clone(&self.rows),
                    layout: self.layout.clone(),
                };
                pieces.push(FrozenPiece::Numbered(piece.number, Arc::new(move || Ok(reader.read()?))));
            }
        }
        pieces
    }

    /// Bytes in memory.
    pub(super) fn size_bytes(&self) -> usize {
        let of_part = |part: &Part| part.taken.len() * size_of::<u64>() + part.pieces.len() * size_of::<Piece>();
        self.parts.values().map(of_part).sum()
    }
}

/// Reads a piece as it was when it was frozen: its part stays as long, and what is taken later is not marked here.
struct PieceReader {
    space: StateSpace,
    taken: Arc<Vec<u64>>,
    range: (RowKey, Option<RowKey>),
    rows: Arc<RowCodec>,
    layout: Layout,
}

impl PieceReader {
    fn read(&self) -> Result<Vec<RecordBatch>> {
        let (mut from, to) = self.range;
        let mut batches = Vec::new();
        loop {
            let found = self.space.range(&from, to.as_ref().map(|to| &to[..]), CHUNK_ROWS)?;
            let is_last = found.len() < CHUNK_ROWS;
            let mut rows = Vec::with_capacity(found.len());
            for (key, value) in found {
                let (_, end, id) = read_row_key(&key)?;
                from = row_key(end, id + 1);
                if self.taken[id as usize / 64] & 1 << (id % 64) == 0 {
                    rows.push(value);
                }
            }
            if !rows.is_empty() {
                batches.push(decode(&self.rows, &self.layout, rows.iter().map(|row| &row[..]))?);
            }
            if is_last {
                return Ok(batches);
            }
        }
    }
}

fn decode<'a>(codec: &RowCodec, layout: &Layout, rows: impl Iterator<Item = &'a [u8]>) -> Result<RecordBatch> {
    Ok(RecordBatch::try_new(layout.schema().clone(), codec.decode(rows)?)?)
}
