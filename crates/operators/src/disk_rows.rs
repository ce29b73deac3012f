//! Rows of a keyed table that left memory and are asked for by key: `first_by_key` and `last_by_key` use it. It does not
//! know what the rows mean.
//!
//! ```text
//! shard    a range of hashes of the subtask's; has runs, oldest first
//! run      rows in pages on disk, in order of the hashes of their keys; never changed
//! ```
//! Whatever is put away makes a run in each shard it has keys of. A key is looked for in the newest run first, behind a
//! filter of each run, with one page read where it is. Runs of a shard are merged when the one before is no larger than those
//! behind it together, so there are few, and at most half of all rows are older ones of keys that have newer ones. Checkpoints
//! name a run again as long as it is there, so a checkpoint may have a key more than once; whoever restores it must know
//! which row is newest.

use std::ops::Range;
use std::sync::Arc;

use arrow_array::{ArrayRef, RecordBatch, UInt32Array};
use arrow_schema::Schema;
use arrow_select::take::take_arrays;
use weir_operator_api::{OperatorContext, Result};
use weir_state::{FrozenPiece, StateStores};

use crate::key_filter::Place;
use crate::key_ids::KeyIds;
use crate::key_page::Entry;
use crate::key_run::{FileWriter, KeyRun, Pages, RunBuilder, merge};
use crate::row_codec::RowCodec;
use crate::state_rows::{BATCH_ROWS, Layout, group_of};

/// Ranges of hashes: what is merged at once is a run of one of them.
const SHARDS: u64 = if cfg!(test) { 3 } else { 16 };
/// Rows that are encoded together: bounds what is held twice meanwhile.
const CHUNK_ROWS: usize = if cfg!(test) { 5 } else { 16 * 1024 };
/// Rows of one piece of a checkpoint, about.
const PIECE_ROWS: usize = if cfg!(test) { 7 } else { BATCH_ROWS };
/// Rows that are merged per row that was put away, at most, about: bounds how long the stream stands for it.
const MERGED_PER_ROW: usize = 8;

/// Rows by key.
pub(crate) struct DiskRows {
    stores: StateStores,
    format: Arc<Format>,
    /// The first hash of each shard but the first.
    starts: Vec<u64>,
    shards: Vec<Shard>,
    /// Numbers the pieces of checkpoints.
    next_piece: u64,
    /// Shards from here on are merged first.
    next_shard: usize,
    /// Rows that may be merged for those that were put away.
    to_merge: usize,
}

/// Rows as bytes and back.
struct Format {
    layout: Layout,
    key_group_count: u32,
    keys: RowCodec,
    /// The columns behind the key, if the table has some.
    rest: Option<RowCodec>,
}

/// Runs of a range of hashes, oldest first.
#[derive(Default)]
struct Shard {
    runs: Vec<NumberedRun>,
}

struct NumberedRun {
    run: Arc<KeyRun>,
    /// The number of its first piece.
    first_piece: u64,
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

/// A key that is looked for.
struct Wanted {
    hash: u64,
    id: u32,
    /// Bits of the runs of its shard in which it may be; none when it was found.
    runs: u32,
}

/// What stands for a run in [`Wanted::runs`]; runs behind the last bit share it.
#[inline]
fn run_bit(run: usize) -> u32 {
    1 << run.min(u32::BITS as usize - 1)
}

/// Bytes one behind the other.
#[derive(Default)]
struct Slices {
    bytes: Vec<u8>,
    ends: Vec<usize>,
}

impl Slices {
    fn push(&mut self, slice: &[u8]) {
        self.bytes.extend_from_slice(slice);
        self.ends.push(self.bytes.len());
    }

    fn iter(&self) -> impl Iterator<Item = &[u8]> {
        let starts = std::iter::once(0).chain(self.ends.iter().copied());
        starts.zip(&self.ends).map(|(start, end)| &self.bytes[start..*end])
    }

    fn clear(&mut self) {
        self.bytes.clear();
        self.ends.clear();
    }
}

/// Rows of a merge that wait for being written: those that are over are left out, many at a time.
#[derive(Default)]
struct Merged {
    hashes: Vec<u64>,
    keys: Slices,
    rest: Slices,
}

impl Merged {
    fn push(&mut self, entry: Entry<'_>) {
        self.hashes.push(entry.hash);
        self.keys.push(entry.key);
        self.rest.push(entry.rest);
    }

    fn write(
        &mut self,
        (run, file): (&mut RunBuilder, &mut FileWriter),
        rest: &RowCodec,
        is_over: impl Fn(&[ArrayRef], usize) -> bool,
    ) -> Result<()> {
        let columns = rest.decode(self.rest.iter())?;
        let rows = self.hashes.iter().zip(self.keys.iter()).zip(self.rest.iter()).enumerate();
        for (row, ((hash, key), rest)) in rows {
            if !is_over(&columns, row) {
                run.push(Entry { hash: *hash, key, rest }, file)?;
            }
        }
        self.hashes.clear();
        self.keys.clear();
        self.rest.clear();
        Ok(())
    }
}

impl Format {
    /// The rows of some pages of a run.
    fn batches(&self, run: &KeyRun, pages: Range<usize>) -> Result<Vec<RecordBatch>> {
        let batch = |pages: Result<Vec<_>>| {
            let pages = pages?;
            let entries = || pages.iter().flat_map(crate::key_page::Page::<Vec<u8>>::entries);
            let groups = entries().map(|entry| group_of(entry.hash, self.key_group_count)).collect();
            let mut columns = self.keys.decode(entries().map(|entry| entry.key))?;
            if let Some(rest) = &self.rest {
                columns.extend(rest.decode(entries().map(|entry| entry.rest))?);
            }
            self.layout.keyed_batch(groups, columns)
        };
        run.pages(pages).map(batch).collect()
    }
}

/// The first of the runs at the end that are to become one: it is at most as large as those behind it together. So a row is
/// written anew only for a run that is twice as large, and runs that stay are larger than all behind them.
fn small_ones(rows: &[usize]) -> usize {
    let (mut first, mut behind) = (rows.len(), 0);
    for (at, count) in rows.iter().enumerate().rev() {
        if *count <= behind {
            first = at;
        }
        behind += count;
    }
    first
}

impl DiskRows {
    /// Holds nothing yet. `layout` is that of the table: the columns of the key, and others.
    pub(crate) fn new(context: &OperatorContext, layout: &Layout, key_count: usize) -> Result<Self> {
        let (keys, rest) = layout.schema().fields()[1..].split_at(key_count);
        let codec = |fields: &[Arc<arrow_schema::Field>]| RowCodec::new(&Schema::new(fields.to_vec()));
        let count = context.key_group_count;
        let first_hash = |group: u32| (u128::from(group) << 64).div_ceil(u128::from(count));
        let (from, to) = (first_hash(context.key_groups.start), first_hash(context.key_groups.end));
        let start = |shard: u64| (from + (to - from) * u128::from(shard) / u128::from(SHARDS)) as u64;
        Ok(DiskRows {
            stores: context.stores.clone(),
            format: Arc::new(Format {
                layout: layout.clone(),
                key_group_count: count,
                keys: codec(keys)?,
                rest: if rest.is_empty() { None } else { Some(codec(rest)?) },
            }),
            starts: (1..SHARDS).map(start).collect(),
            shards: (0..SHARDS).map(|_| Shard::default()).collect(),
            next_piece: 0,
            next_shard: 0,
            to_merge: 0,
        })
    }

    /// Whether putting away this much frees more than a part of what rows on disk cost in memory. **Units**: bytes.
    pub(crate) fn is_worth(&self, bytes: usize) -> bool {
        cfg!(test) || bytes > self.size_bytes() / 4
    }

    /// Whether nothing is here.
    #[inline]
    pub(crate) fn is_empty(&self) -> bool {
        self.shards.iter().all(|shard| shard.runs.is_empty())
    }

    #[inline]
    fn shard_of(&self, hash: u64) -> usize {
        self.starts.partition_point(|start| *start <= hash)
    }

    /// Puts rows of the table away, all or none; of keys that are here already they take the place. `rest` gives the columns
    /// behind the key of some keys. At `end` all rows are over.
    ///
    /// **Shapes**: no key twice. **Errors**: the store cannot write.
    pub(crate) fn put(
        &mut self,
        keys: &KeyIds,
        ids: impl Iterator<Item = u32>,
        rest: impl Fn(&[u32]) -> Result<Vec<ArrayRef>>,
        end: i64,
    ) -> Result<()> {
        let mut order: Vec<(u64, u32)> = ids.map(|id| (keys.hash_of(id), id)).collect();
        order.sort_unstable();
        let count = order.len();
        let mut file = FileWriter::new(&self.stores)?;
        let mut new: Vec<(usize, Pages)> = Vec::new();
        let mut left = order.as_slice();
        while let Some((hash, _)) = left.first() {
            let shard = self.shard_of(*hash);
            let rows = self.starts.get(shard).map_or(left.len(), |end| left.partition_point(|(hash, _)| hash < end));
            let of_shard;
            (of_shard, left) = left.split_at(rows);
            let mut run = RunBuilder::new(of_shard.len(), end);
            self.write(keys, of_shard, &rest, (&mut run, &mut file))?;
            new.extend(run.finish(&mut file)?.map(|run| (shard, run)));
        }
        let file = file.finish()?;
        new.into_iter().for_each(|(shard, run)| self.add(shard, KeyRun::new(&file, run)));
        self.to_merge = MERGED_PER_ROW * count;
        Ok(())
    }

    /// Writes rows to a run.
    fn write(
        &self,
        keys: &KeyIds,
        rows: &[(u64, u32)],
        rest: &impl Fn(&[u32]) -> Result<Vec<ArrayRef>>,
        (run, file): (&mut RunBuilder, &mut FileWriter),
    ) -> Result<()> {
        let mut ids: Vec<u32> = Vec::with_capacity(CHUNK_ROWS.min(rows.len()));
        for rows in rows.chunks(CHUNK_ROWS) {
            ids.clear();
            ids.extend(rows.iter().map(|row| row.1));
            let keys = self.format.keys.encode_columns(&keys.columns_of(&ids)?)?;
            let rest = match &self.format.rest {
                Some(codec) => Some(codec.encode_columns(&rest(&ids)?)?),
                None => None,
            };
            for (row, (hash, _)) in rows.iter().enumerate() {
                let rest = rest.as_ref().map(|rest| rest.row(row));
                let rest = rest.as_ref().map_or(&[][..], |rest| rest.data());
                run.push(Entry { hash: *hash, key: keys.row(row).data(), rest }, file)?;
            }
        }
        Ok(())
    }

    /// Makes a run the newest of its shard.
    fn add(&mut self, shard: usize, run: KeyRun) {
        let first_piece = self.next_piece;
        self.next_piece += run.page_count() as u64;
        self.shards[shard].runs.push(NumberedRun { run: Arc::new(run), first_piece });
    }

    /// What is here of some keys, which must be different ones. It stays here until it is put away anew, or over.
    ///
    /// **Errors**: the store cannot read.
    pub(crate) fn find(&self, keys: &KeyIds, ids: impl Iterator<Item = u32>) -> Result<Found> {
        let mut wanted: Vec<Wanted> = Vec::new();
        for id in ids {
            let hash = keys.hash_of(id);
            let (place, runs) = (Place::of(hash), &self.shards[self.shard_of(hash)].runs);
            let may_hold = runs.iter().enumerate().filter(|(_, run)| run.run.may_hold(place));
            let runs = may_hold.fold(0, |runs, (at, _)| runs | run_bit(at));
            if runs != 0 {
                wanted.push(Wanted { hash, id, runs });
            }
        }
        if wanted.is_empty() {
            return Ok(Found::default());
        }
        wanted.sort_unstable_by_key(|wanted| wanted.hash);
        let ids: Vec<u32> = wanted.iter().map(|wanted| wanted.id).collect();
        let encoded = self.format.keys.encode_columns(&keys.columns_of(&ids)?)?;
        let (mut found, mut values) = (Found::default(), Slices::default());
        let mut start = 0;
        for (at, shard) in self.shards.iter().enumerate() {
            let end = self.starts.get(at).map_or(wanted.len(), |end| wanted.partition_point(|key| key.hash < *end));
            for (run, numbered) in shard.runs.iter().enumerate().rev() {
                let mut hits: Vec<usize> = Vec::new();
                let of_run = (start..end).filter(|at| wanted[*at].runs & run_bit(run) != 0);
                let of_run = of_run.map(|at| (wanted[at].hash, at));
                numbered.run.find(
                    of_run,
                    |at| encoded.row(at).data(),
                    |at, rest| {
                        hits.push(at);
                        values.push(rest);
                    },
                )?;
                hits.iter().for_each(|at| wanted[*at].runs = 0);
                found.ids.extend(hits.iter().map(|at| ids[*at]));
            }
            start = end;
        }
        if let Some(rest) = &self.format.rest {
            found.rest = rest.decode(values.iter())?;
        }
        Ok(found)
    }

    /// Merges runs, so that they stay few and the disk in proportion to what is here. `is_over` tells from the columns behind
    /// the key which rows are of no use at `now`; rows of a key that are older must be over too then.
    ///
    /// **Errors**: the store cannot read or write; nothing is lost then.
    pub(crate) fn tidy(&mut self, now: i64, is_over: impl Fn(&[ArrayRef], usize) -> bool) -> Result<()> {
        if now < FOREVER {
            self.shards.iter_mut().for_each(|shard| shard.runs.retain(|run| run.run.end() > now));
        }
        for _ in 0..self.shards.len() {
            if self.to_merge == 0 {
                break;
            }
            let shard = self.next_shard;
            self.next_shard = (shard + 1) % self.shards.len();
            let rows: Vec<usize> = self.shards[shard].runs.iter().map(|run| run.run.row_count()).collect();
            let first = small_ones(&rows);
            if first < rows.len() {
                self.to_merge = self.to_merge.saturating_sub(rows[first..].iter().sum());
                self.merge(shard, first, &is_over)?;
            }
        }
        Ok(())
    }

    /// Merges the last runs of a shard.
    fn merge(&mut self, shard: usize, first: usize, is_over: &impl Fn(&[ArrayRef], usize) -> bool) -> Result<()> {
        let runs = &self.shards[shard].runs[first..];
        let rows_max = runs.iter().map(|run| run.run.row_count()).sum();
        let end = runs.iter().map(|run| run.run.end()).max().unwrap_or(FOREVER);
        let runs = runs.iter().map(|run| run.run.as_ref());
        let (mut into, mut file) = (RunBuilder::new(rows_max, end), FileWriter::new(&self.stores)?);
        match self.format.rest.as_ref().filter(|_| end < FOREVER) {
            None => merge(runs, |entry| into.push(entry, &mut file))?,
            Some(rest) => {
                let mut merged = Merged::default();
                merge(runs, |entry| {
                    merged.push(entry);
                    let is_full = merged.hashes.len() >= CHUNK_ROWS;
                    if is_full { merged.write((&mut into, &mut file), rest, is_over) } else { Ok(()) }
                })?;
                merged.write((&mut into, &mut file), rest, is_over)?;
            }
        }
        let run = into.finish(&mut file)?;
        let file = file.finish()?;
        self.shards[shard].runs.truncate(first);
        run.into_iter().for_each(|run| self.add(shard, KeyRun::new(&file, run)));
        Ok(())
    }

    /// All rows as pieces of a checkpoint, which keep them on disk until they are written.
    pub(crate) fn frozen(&self) -> Vec<FrozenPiece> {
        let mut pieces = Vec::new();
        for NumberedRun { run, first_piece } in self.shards.iter().flat_map(|shard| &shard.runs) {
            let step = (PIECE_ROWS * run.page_count() / run.row_count()).max(1);
            for (piece, start) in (0..run.page_count()).step_by(step).enumerate() {
                let (format, run) = (Arc::clone(&self.format), Arc::clone(run));
                let pages = start..run.page_count().min(start + step);
                let read = move || Ok(format.batches(&run, pages.clone())?);
                pieces.push(FrozenPiece::Numbered(first_piece + piece as u64, Arc::new(read)));
            }
        }
        pieces
    }

    /// Bytes of memory held, roughly.
    pub(crate) fn size_bytes(&self) -> usize {
        let runs = self.shards.iter().flat_map(|shard| &shard.runs);
        runs.map(|run| size_of::<NumberedRun>() + run.run.size_bytes()).sum()
    }
}

#[cfg(test)]
mod tests;
