//! Rows of a keyed table that left memory and are asked for by key: `first_by_key` and `last_by_key` use it. It does not
//! know what the rows mean.
//!
//! They lie on disk twice: in an index by key, which answers whole batches of keys with one call, and in runs, which
//! checkpoints read beside the stream and name again as long as they are the same. A filter in memory spares keys that were
//! never here the way to the disk.
//!
//! A row that was taken back stays in its run, which is written anew when most of it is such. So a checkpoint may have a key
//! twice, once as it was before; whoever restores it must know which one is newer.

use std::sync::Arc;

use arrow_array::{ArrayRef, BooleanArray, RecordBatch, UInt32Array};
use arrow_row::Rows;
use arrow_schema::Schema;
use arrow_select::concat::concat_batches;
use arrow_select::filter::filter_record_batch;
use arrow_select::take::take_arrays;
use weir_operator_api::Result;
use weir_state::{FrozenPiece, StateSpace, StateStores};

use crate::key_filter::KeyFilter;
use crate::key_ids::KeyIds;
use crate::row_codec::RowCodec;
use crate::row_run::{RowRun, RunWriter};
use crate::state_rows::BATCH_ROWS;

/// Rows that are put away together: bounds what is held twice meanwhile.
pub(crate) const PART_ROWS: usize = if cfg!(test) { 64 } else { 4 * BATCH_ROWS };
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
    /// Rows that were taken back.
    taken: usize,
    /// When all rows are over.
    end: i64,
}

impl Part {
    fn left(&self) -> usize {
        self.row_count.saturating_sub(self.taken)
    }

    /// Whether most rows are of no use any more.
    fn is_stale(&self, now: i64) -> bool {
        (self.end <= now && self.end < FOREVER) || 2 * self.taken > self.row_count
    }
}

/// Rows that never are over.
pub(crate) const FOREVER: i64 = i64::MAX;

/// What was found of some keys.
#[derive(Default)]
pub(crate) struct Found {
    /// The keys, in no order.
    pub(crate) ids: Vec<u32>,
    /// The columns behind the key, a row for each of `ids`; no columns without any.
    pub(crate) rest: Vec<ArrayRef>,
}

impl Found {
    /// Keeps those of which this is true.
    pub(crate) fn retain(&mut self, is_kept: impl Fn(&[ArrayRef], usize) -> bool) -> Result<()> {
        let kept: Vec<u32> = (0..self.ids.len() as u32).filter(|row| is_kept(&self.rest, *row as usize)).collect();
        if kept.len() < self.ids.len() {
            self.ids = kept.iter().map(|row| self.ids[*row as usize]).collect();
            self.rest = take_arrays(&self.rest, &UInt32Array::from(kept), None)?;
        }
        Ok(())
    }
}

const NUMBER_BYTES: usize = size_of::<u64>();

/// The part that an entry of the index names, if there is something behind the key.
fn number_of(value: &[u8]) -> Option<u64> {
    value.first_chunk().map(|number: &[u8; NUMBER_BYTES]| u64::from_be_bytes(*number))
}

/// The first of the parts at the end that are to become one: each is at most twice as large as those behind it together. So a
/// row is written anew only for a part that is half as large again, and parts that stay are ever smaller.
fn small_ones(rows: &[usize]) -> usize {
    let Some(mut first) = rows.len().checked_sub(1) else { return 0 };
    let mut sum = rows[first];
    while first > 0 && rows[first - 1] <= 2 * sum && sum + rows[first - 1] <= PART_ROWS {
        first -= 1;
        sum += rows[first];
    }
    if first + 1 == rows.len() { rows.len() } else { first }
}

/// The places of some rows in the order of the rows.
fn in_order(rows: &Rows) -> Vec<usize> {
    let mut order: Vec<usize> = (0..rows.num_rows()).collect();
    order.sort_unstable_by(|a, b| rows.row(*a).cmp(&rows.row(*b)));
    order
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

    /// Whether putting away this much frees more than a part of what rows on disk cost in memory. **Units**: bytes.
    pub(crate) fn is_worth(&self, bytes: usize) -> bool {
        cfg!(test) || bytes > self.size_bytes() / 4
    }

    /// Whether nothing was ever put away.
    #[inline]
    pub(crate) fn is_empty(&self) -> bool {
        self.index.is_none()
    }

    /// Puts rows of the table away, with the hashes of their keys; all or none, as far as checkpoints see. At `end` all of
    /// them are over.
    ///
    /// **Shapes**: batches of at most [`PART_ROWS`] rows, no key twice; the hashes of all rows in order.
    /// **Errors**: the store cannot write.
    pub(crate) fn put(
        &mut self,
        mut batches: impl Iterator<Item = Result<RecordBatch>>,
        hashes: impl Iterator<Item = u64>,
        end: i64,
    ) -> Result<()> {
        let known = self.parts.len();
        let put = batches.try_for_each(|rows| {
            let rows = rows?;
            self.put_run(&rows, end)?;
            self.write_index(&rows)
        });
        match put {
            Ok(()) => hashes.for_each(|hash| self.filter.insert(hash)),
            // What the index has of them is not asked for while the keys are in memory, and written over later.
            Err(_) => self.parts.truncate(known),
        }
        put
    }

    /// Writes rows as a part. That comes before the index: what it names is never missing from a checkpoint.
    fn put_run(&mut self, rows: &RecordBatch, end: i64) -> Result<()> {
        let number = self.next_number;
        self.next_number += 1;
        let run = self.writer.write(std::slice::from_ref(rows))?;
        self.parts.push(Part { number, rows: run, row_count: rows.num_rows(), taken: 0, end });
        Ok(())
    }

    /// Lets the index say that these rows lie in the last part.
    fn write_index(&mut self, rows: &RecordBatch) -> Result<()> {
        let number = self.parts.last().map_or(0, |part| part.number);
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
        for rows in in_order(&keys).chunks(PUT_ROWS) {
            let value = |row: usize| match &rest {
                Some(rest) => [&number.to_be_bytes()[..], rest.row(row).data()].concat(),
                None => Vec::new(),
            };
            space.put(rows.iter().map(|row| (keys.row(*row).data().to_vec(), value(*row))).collect())?;
        }
        Ok(())
    }

    /// What is here of some keys, which must be different ones. They are expected to be put away anew, or to be over,
    /// before the next [`DiskRows::tidy`]; otherwise they stay here as they were.
    ///
    /// **Errors**: the store cannot read.
    pub(crate) fn take(&mut self, keys: &KeyIds, ids: impl Iterator<Item = u32>) -> Result<Found> {
        let (found, numbers) = self.look_up(keys, ids)?;
        for number in numbers {
            if let Ok(part) = self.parts.binary_search_by_key(&number, |part| part.number) {
                self.parts[part].taken += 1;
            }
        }
        Ok(found)
    }

    /// What is here of some keys, which must be different ones, and stays here.
    ///
    /// **Errors**: the store cannot read.
    pub(crate) fn find(&self, keys: &KeyIds, ids: impl Iterator<Item = u32>) -> Result<Found> {
        Ok(self.look_up(keys, ids)?.0)
    }

    /// What is here of some keys, and in which parts, where there is something behind the key.
    fn look_up(&self, keys: &KeyIds, ids: impl Iterator<Item = u32>) -> Result<(Found, Vec<u64>)> {
        let nothing = || (Found::default(), Vec::new());
        let Some(index) = &self.index else { return Ok(nothing()) };
        let ids: Vec<u32> = ids.filter(|id| self.filter.may_hold(keys.hash_of(*id))).collect();
        if ids.is_empty() {
            return Ok(nothing());
        }
        let rows = self.keys.encode_columns(&keys.columns_of(&ids)?)?;
        let order = in_order(&rows);
        let wanted: Vec<&[u8]> = order.iter().map(|at| rows.row(*at).data()).collect();
        let (mut found, mut values) = (Found::default(), Vec::new());
        for (at, value) in order.into_iter().zip(index.get(&wanted)?) {
            let Some(value) = value else { continue };
            found.ids.push(ids[at]);
            values.push(value);
        }
        if let Some(rest) = &self.rest {
            found.rest = rest.decode(values.iter().map(|value| &value[NUMBER_BYTES..]))?;
        }
        Ok((found, values.iter().filter_map(|value| number_of(value)).collect()))
    }

    /// Writes parts anew of which little is left, and joins small ones, so that disk and parts stay in proportion to what
    /// is here. `is_over` tells from the columns behind the key which rows are of no use at `now`.
    ///
    /// **Errors**: the store cannot read or write; nothing is lost then.
    pub(crate) fn tidy(&mut self, now: i64, is_over: impl Fn(&[ArrayRef], usize) -> bool) -> Result<()> {
        let (parts, mut first) = (self.parts.len(), 0);
        for _ in 0..parts {
            match self.parts[first].is_stale(now) {
                true => self.rewrite(first, 1, &is_over)?,
                false => first += 1,
            }
        }
        let small = small_ones(&self.parts.iter().map(Part::left).collect::<Vec<_>>());
        if small < self.parts.len() {
            self.rewrite(small, self.parts.len() - small, &is_over)?;
        }
        if self.parts.is_empty() {
            self.filter = KeyFilter::default();
        }
        Ok(())
    }

    /// Writes what is left of some parts as one.
    fn rewrite(&mut self, first: usize, count: usize, is_over: &impl Fn(&[ArrayRef], usize) -> bool) -> Result<()> {
        let (mut kept, mut end) = (Vec::new(), i64::MIN);
        for part in &self.parts[first..first + count] {
            end = end.max(part.end);
            for rows in part.rows.read_all() {
                let rows = self.live(rows?, part.number, is_over)?;
                kept.extend(Some(rows).filter(|rows| rows.num_rows() > 0));
            }
        }
        if let Some(schema) = kept.first().map(RecordBatch::schema) {
            let rows = concat_batches(&schema, &kept)?;
            self.put_run(&rows, end)?;
            if self.rest.is_some() {
                self.write_index(&rows)?;
            }
        }
        self.parts.drain(first..first + count);
        Ok(())
    }

    /// The rows of a part that the index still finds there and that are not over; these are forgotten.
    fn live(
        &self,
        rows: RecordBatch,
        number: u64,
        is_over: &impl Fn(&[ArrayRef], usize) -> bool,
    ) -> Result<RecordBatch> {
        let (Some(index), Some(_)) = (&self.index, &self.rest) else { return Ok(rows) };
        let (keys, rest) = rows.columns()[1..].split_at(self.key_count);
        let keys = self.keys.encode_columns(keys)?;
        let order = in_order(&keys);
        let wanted: Vec<&[u8]> = order.iter().map(|row| keys.row(*row).data()).collect();
        let (mut is_live, mut over) = (vec![false; rows.num_rows()], Vec::new());
        for ((row, key), value) in order.iter().zip(&wanted).zip(index.get(&wanted)?) {
            let is_here = value.is_some_and(|value| number_of(&value) == Some(number));
            match is_here && is_over(rest, *row) {
                true => over.push(*key),
                false => is_live[*row] = is_here,
            }
        }
        index.delete(&over)?;
        Ok(filter_record_batch(&rows, &BooleanArray::from(is_live))?)
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

#[cfg(test)]
mod tests;
