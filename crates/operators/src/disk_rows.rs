//! Rows of a keyed table that left memory and are asked for by key: `first_by_key` and `last_by_key` use it. It does not
//! know what the rows mean.
//!
//! They lie on disk twice: in an index by key, which answers whole batches of keys with one call, and in runs, which
//! checkpoints read beside the stream and name again as long as they are the same. A filter in memory spares keys that were
//! never here the way to the disk.
//!
//! A row that was taken back stays in its run until its key is put away again. So a checkpoint may have a key twice, once as
//! it was before; whoever restores it must know which one is newer.

use std::sync::Arc;

use arrow_array::{ArrayRef, RecordBatch};
use arrow_schema::Schema;
use weir_operator_api::Result;
use weir_state::{FrozenPiece, StateSpace, StateStores};

use crate::key_filter::KeyFilter;
use crate::key_ids::KeyIds;
use crate::row_codec::RowCodec;
use crate::row_run::{RowRun, RunWriter};
use crate::state_rows::BATCH_ROWS;

/// Rows that are put away together: bounds what is held twice meanwhile.
pub(crate) const PART_ROWS: usize = if cfg!(test) { 3 } else { 4 * BATCH_ROWS };
/// Entries of the index that are written together.
const PUT_ROWS: usize = if cfg!(test) { 2 } else { 16 * 1024 };

/// Rows by key.
pub(crate) struct DiskRows {
    stores: StateStores,
    /// Per key the number of its run, and the columns behind the key; nothing where there are none.
    index: Option<StateSpace>,
    writer: RunWriter,
    /// In the order of their numbers.
    parts: Vec<Part>,
    next_number: u64,
    filter: KeyFilter,
    key_count: usize,
    keys: RowCodec,
    /// The columns behind the key, if the table has some.
    rest: Option<RowCodec>,
}

struct Part {
    number: u64,
    rows: Arc<RowRun>,
    row_count: usize,
}

/// What was found of some keys.
#[derive(Default)]
pub(crate) struct Found {
    /// The keys, in no order.
    pub(crate) ids: Vec<u32>,
    /// The columns behind the key, a row for each of `ids`.
    pub(crate) rest: Vec<ArrayRef>,
}

impl DiskRows {
    /// Holds nothing yet. `schema` is that of the table: the key group, the columns of the key, and others.
    pub(crate) fn new(stores: StateStores, schema: &Schema, key_count: usize) -> Result<Self> {
        let (keys, rest) = schema.fields()[1..].split_at(key_count);
        let codec = |fields: &[Arc<arrow_schema::Field>]| RowCodec::new(&Schema::new(fields.to_vec()));
        Ok(DiskRows {
            writer: RunWriter::new(stores.clone()),
            stores,
            index: None,
            parts: Vec::new(),
            next_number: 0,
            filter: KeyFilter::default(),
            key_count,
            keys: codec(keys)?,
            rest: if rest.is_empty() { None } else { Some(codec(rest)?) },
        })
    }

    /// Whether nothing was ever put away.
    #[inline]
    pub(crate) fn is_empty(&self) -> bool {
        self.index.is_none()
    }

    /// Puts rows of the table away, with the hashes of their keys; all or none, as far as checkpoints see.
    ///
    /// **Shapes**: batches of at most [`PART_ROWS`] rows, no key twice; the hashes of all rows in order.
    /// **Errors**: the store cannot write.
    pub(crate) fn put(&mut self, batches: &[RecordBatch], hashes: impl Iterator<Item = u64>) -> Result<()> {
        let known = self.parts.len();
        let put = batches.iter().try_for_each(|rows| self.put_part(rows));
        match put {
            Ok(()) => hashes.for_each(|hash| self.filter.insert(hash)),
            // What the index has of them is not asked for while the keys are in memory, and written over later.
            Err(_) => self.parts.truncate(known),
        }
        put
    }

    fn put_part(&mut self, rows: &RecordBatch) -> Result<()> {
        let number = self.next_number;
        self.next_number += 1;
        self.write_index(rows, number)?;
        let run = self.writer.write(std::slice::from_ref(rows))?;
        self.parts.push(Part { number, rows: run, row_count: rows.num_rows() });
        Ok(())
    }

    /// Lets the index say that the keys of these rows lie in this part.
    fn write_index(&mut self, rows: &RecordBatch, number: u64) -> Result<()> {
        let space = match &self.index {
            Some(space) => space.clone(),
            None => self.index.insert(self.stores.space()?).clone(),
        };
        let columns = &rows.columns()[1..];
        let keys = self.keys.encode_columns(&columns[..self.key_count])?;
        let rest = match &self.rest {
            Some(rest) => Some(rest.encode_columns(&columns[self.key_count..])?),
            None => None,
        };
        let mut order: Vec<usize> = (0..rows.num_rows()).collect();
        order.sort_unstable_by(|a, b| keys.row(*a).cmp(&keys.row(*b)));
        for rows in order.chunks(PUT_ROWS) {
            let value = |row: usize| match &rest {
                Some(rest) => [&number.to_be_bytes()[..], rest.row(row).data()].concat(),
                None => Vec::new(),
            };
            space.put(rows.iter().map(|row| (keys.row(*row).data().to_vec(), value(*row))).collect())?;
        }
        Ok(())
    }

    /// What is here of some keys, which must be different ones.
    ///
    /// **Errors**: the store cannot read.
    pub(crate) fn find(&self, keys: &KeyIds, ids: impl Iterator<Item = u32>) -> Result<Found> {
        let Some(index) = &self.index else { return Ok(Found::default()) };
        let ids: Vec<u32> = ids.filter(|id| self.filter.may_hold(keys.hash_of(*id))).collect();
        if ids.is_empty() {
            return Ok(Found::default());
        }
        let rows = self.keys.encode_columns(&keys.columns_of(&ids)?)?;
        let mut order: Vec<usize> = (0..ids.len()).collect();
        order.sort_unstable_by(|a, b| rows.row(*a).cmp(&rows.row(*b)));
        let wanted: Vec<&[u8]> = order.iter().map(|at| rows.row(*at).data()).collect();
        let (mut found, mut values) = (Found::default(), Vec::new());
        for (at, value) in order.into_iter().zip(index.get(&wanted)?) {
            let Some(value) = value else { continue };
            found.ids.push(ids[at]);
            values.push(value);
        }
        if let Some(rest) = &self.rest {
            found.rest = rest.decode(values.iter().map(|value| &value[size_of::<u64>()..]))?;
        }
        Ok(found)
    }

    /// All rows as pieces of a checkpoint, which keep them on disk until they are written.
    pub(crate) fn frozen(&self) -> Vec<FrozenPiece> {
        self.parts.iter().flat_map(|part| part.rows.frozen()).collect()
    }

    /// Bytes of memory held, roughly.
    pub(crate) fn size_bytes(&self) -> usize {
        self.filter.size_bytes()
            + self.parts.iter().map(|part| size_of::<Part>() + part.rows.size_bytes()).sum::<usize>()
    }
}
