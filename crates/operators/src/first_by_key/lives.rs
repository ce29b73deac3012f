//! The first row of each key in each of its lives: `first_by_key` with `state_ttl`. Built by `create` of the parent.
//!
//! A life is a run of rows of one key of which each comes within the time to live after the one before: a session. So a row
//! is a first row exactly when its key had no row in the time to live before it, in event time; that depends neither on how
//! rows arrive nor on when watermarks come. A first row leaves when the watermark has reached it. A row behind the watermark
//! changes nothing: it is late, unless its key is remembered.
//!
//! A life goes when the watermark reaches the end of its time: no row that is not late can belong to it. A key without lives
//! is forgotten.
//!
//! Keys of which all first rows have left go to disk when memory does not hold them, and come back when they are heard of.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::sync::Arc;

use arrow_array::cast::AsArray;
use arrow_array::types::TimestampMicrosecondType;
use arrow_array::{Array, ArrayRef, RecordBatch};
use arrow_schema::SchemaRef;
use arrow_select::filter::filter_record_batch;
use weir_core::batch::{EventTimeArray, event_time_type};
use weir_core::{Batch, EventTime, OutputTag};
use weir_operator_api::{Operator, OperatorContext, OperatorError, Output, Progress, Result};
use weir_state::{FrozenPiece, FrozenTable, StateTable};

use super::{EMITTED_KEYS, FIRST_ROWS, WORTH, mask};
use crate::disk_rows::DiskRows;
use crate::expiry::{Expiry, STEP_KEYS, TOUCHED};
use crate::key_ids::KeyIds;
use crate::row_codec::RowCodec;
use crate::state_rows::{BATCH_ROWS, Column, Layout, Restored, RowTable, StateRows, resolved};

pub(super) struct FirstOfLives {
    keys: KeyIds,
    codec: RowCodec,
    ttl_us: i64,
    /// Per key its lives in order of time; almost always one, none for a key that is not held.
    lives: Vec<Vec<Life>>,
    /// Keys that are not in memory, or were there before.
    disk: DiskRows,
    /// Bytes of candidates, roughly.
    rows_bytes: usize,
    /// Time and key of every candidate there ever was; those that were replaced are skipped when their time comes.
    due: BinaryHeap<Reverse<(i64, u32)>>,
    expiry: Expiry,
    watermark: EventTime,
    /// The tables of a checkpoint: keys whose first row was emitted, and candidates; each with the life's last time.
    emitted: Layout,
    candidates: RowTable,
    key_group_count: u32,
    /// When the last rows entered the job; results carry it on.
    origin_us: i64,
    output: SchemaRef,
    batch_rows: usize,
}

struct Life {
    /// Time of the first row.
    start: i64,
    /// Time of the last row.
    last: i64,
    /// The first row's bytes; empty when it has left, or is in the batch at hand.
    row: Box<[u8]>,
    is_emitted: bool,
}

/// A row that may be first, with its key and time.
type Candidate = (u32, u32, i64);

/// Takes a row at `time` into the lives of its key. Gives how many bytes of rows went that are first no more.
fn add(lives: &mut Vec<Life>, time: i64, ttl_us: i64) -> usize {
    let reaches = |from: i64, to: i64| from.saturating_add(ttl_us) >= to;
    let first = lives.partition_point(|life| !reaches(life.last, time));
    let joined = lives[first..].iter().take_while(|life| reaches(time, life.start)).count();
    if joined == 0 {
        lives.insert(first, Life { start: time, last: time, row: Box::default(), is_emitted: false });
        return 0;
    }
    // What is joined behind the first has not left yet: it begins behind a row that is not late.
    let mut gone = 0;
    let mut last = time;
    for life in lives.drain(first + 1..first + joined) {
        last = last.max(life.last);
        gone += life.row.len();
    }
    let life = &mut lives[first];
    life.last = life.last.max(last);
    if time < life.start {
        life.start = time;
        gone += std::mem::take(&mut life.row).len();
    }
    gone
}

impl FirstOfLives {
    pub(super) fn new(keys: KeyIds, ttl_us: i64, context: &OperatorContext) -> Result<Self> {
        let input = &context.inputs[0];
        let touched = || Column::added(TOUCHED, event_time_type());
        let (key_columns, key_group_count) = (keys.columns().to_vec(), context.key_group_count);
        let emitted = Layout::keyed(EMITTED_KEYS, keys.state_columns(input).chain([touched()]).collect());
        Ok(FirstOfLives {
            disk: DiskRows::new(context, &emitted, key_columns.len())?,
            emitted,
            candidates: RowTable::new(FIRST_ROWS, vec![touched()], input, key_columns, key_group_count),
            key_group_count,
            keys,
            codec: RowCodec::new(input)?,
            ttl_us,
            lives: Vec::new(),
            rows_bytes: 0,
            due: BinaryHeap::new(),
            expiry: Expiry::default(),
            watermark: EventTime::MIN,
            origin_us: context.clock.wall_unix_us(),
            output: context.output.clone(),
            batch_rows: context.batch_rows.max(1),
        })
    }

    /// Takes rows into lives. Gives those that may be first, and the late ones.
    fn sort_in(&mut self, batch: &Batch) -> Result<(Vec<Candidate>, Vec<u32>)> {
        let times = times_of(batch)?;
        self.keys.intern(&batch.records)?;
        self.take_back()?;
        let ids = self.keys.ids();
        let (mut candidates, mut late): (Vec<Candidate>, Vec<u32>) = (Vec::new(), Vec::new());
        // Keys of late rows, which may be held for nothing.
        let mut strangers: Vec<u32> = Vec::new();
        for (row, (time, id)) in times.iter().zip(ids).enumerate() {
            let lives = &mut self.lives[*id as usize];
            if *time <= self.watermark.0 {
                if !lives.iter().any(|life| life.is_emitted) {
                    late.push(row as u32);
                    strangers.push(*id);
                }
                continue;
            }
            self.rows_bytes -= add(lives, *time, self.ttl_us);
            if let Some(life) = lives.iter().find(|life| life.start == *time && !life.is_emitted) {
                if life.row.is_empty() {
                    self.due.push(Reverse((*time, *id)));
                }
                candidates.push((row as u32, *id, *time));
            }
            self.expiry.set(*id, time.saturating_add(self.ttl_us));
        }
        self.remove(strangers);
        Ok((candidates, late))
    }

    /// Forgets those of some keys that have no lives.
    fn remove(&mut self, mut strangers: Vec<u32>) {
        strangers.sort_unstable();
        strangers.dedup();
        for id in strangers.into_iter().filter(|id| self.lives[*id as usize].is_empty()) {
            self.keys.remove(id);
        }
    }

    /// Makes room for the keys that came last, and takes back what is on disk of those that are new in memory.
    fn take_back(&mut self) -> Result<()> {
        self.lives.resize_with(self.keys.id_bound().max(self.lives.len()), Vec::new);
        if self.disk.is_empty() {
            return Ok(());
        }
        let is_new = |id: &u32| self.lives[*id as usize].is_empty();
        let mut new: Vec<u32> = self.keys.ids().iter().copied().filter(is_new).collect();
        new.sort_unstable();
        new.dedup();
        let found = self.disk.find(&self.keys, new.into_iter())?;
        for (row, id) in found.ids.iter().enumerate() {
            let last = touched_of(&found.rest, row);
            if !is_over(last, self.ttl_us, self.watermark) {
                self.put_back(*id, last);
            }
        }
        Ok(())
    }

    /// Takes back a life whose first row has left, or a part of one.
    fn put_back(&mut self, id: u32, last: i64) {
        let lives = &mut self.lives[id as usize];
        match lives.first_mut().filter(|life| life.is_emitted) {
            Some(life) => life.last = last.max(life.last),
            None => lives.insert(0, Life { start: i64::MIN, last, row: Box::default(), is_emitted: true }),
        }
        self.expiry.set(id, last.saturating_add(self.ttl_us));
    }

    /// Keeps the bytes of the smallest row at the beginning of each life.
    fn store(&mut self, records: &RecordBatch, candidates: &[Candidate]) -> Result<()> {
        let is_first = |(_, id, time): &&Candidate| {
            self.lives[*id as usize].iter().any(|life| life.start == *time && !life.is_emitted)
        };
        // Some were overtaken by later rows of this batch.
        let candidates: Vec<&Candidate> = candidates.iter().filter(is_first).collect();
        let indexes: Vec<u32> = candidates.iter().map(|(row, ..)| *row).collect();
        let encoded = self.codec.encode(records, &indexes)?;
        for (row, (_, id, time)) in encoded.iter().zip(candidates) {
            let mut lives = self.lives[*id as usize].iter_mut();
            let Some(life) = lives.find(|life| life.start == *time && !life.is_emitted) else { continue };
            if life.row.is_empty() || row.data() < life.row.as_ref() {
                self.rows_bytes = self.rows_bytes + row.data().len() - life.row.len();
                life.row = row.data().into();
            }
        }
        Ok(())
    }

    /// Emits up to `batch_rows` candidates whose time has come, or forgets some keys; passes the watermark on in the end.
    fn step(&mut self, out: &mut dyn Output) -> Result<Progress> {
        let mut ready: Vec<Box<[u8]>> = Vec::new();
        while ready.len() < self.batch_rows {
            let Some(Reverse((time, id))) = self.due.peek().copied() else { break };
            if time > self.watermark.0 {
                break;
            }
            self.due.pop();
            let lives = self.lives.get_mut(id as usize).into_iter().flatten();
            for life in lives.filter(|life| life.start == time && !life.is_emitted) {
                life.is_emitted = true;
                ready.push(std::mem::take(&mut life.row));
            }
        }
        if !ready.is_empty() {
            self.rows_bytes -= ready.iter().map(|row| row.len()).sum::<usize>();
            let columns = self.codec.decode(ready.iter().map(AsRef::as_ref))?;
            out.emit(Batch::new(RecordBatch::try_new(self.output.clone(), columns)?, self.origin_us));
        }
        let has_due = self.due.peek().is_some_and(|Reverse((time, _))| *time <= self.watermark.0);
        // After the last watermark no row follows, so nothing is worth forgetting.
        if has_due || self.watermark < EventTime::MAX && self.forget() {
            return Ok(Progress::More);
        }
        out.watermark(self.watermark);
        Ok(Progress::Done)
    }

    /// Forgets what the watermark has outlived, some keys at a time; whether there are more.
    fn forget(&mut self) -> bool {
        for _ in 0..STEP_KEYS {
            let Some(id) = self.expiry.ring(self.watermark.0) else { break };
            let Some(lives) = self.lives.get_mut(id as usize).filter(|lives| !lives.is_empty()) else { continue };
            let end = |life: &Life| life.last.saturating_add(self.ttl_us);
            let over = lives.iter().take_while(|life| end(life) <= self.watermark.0).count();
            lives.drain(..over);
            match lives.first() {
                Some(life) => self.expiry.set(id, end(life)),
                None => {
                    *lives = Vec::new();
                    self.keys.remove(id);
                }
            }
        }
        if self.expiry.is_due(self.watermark.0) {
            return true;
        }
        if self.keys.is_sparse() {
            self.renumber();
        }
        false
    }

    /// Gives back the memory of keys that are forgotten.
    fn renumber(&mut self) {
        let live: Vec<u32> = (0..self.lives.len() as u32).filter(|id| !self.lives[*id as usize].is_empty()).collect();
        self.keys.renumber(&live);
        self.lives = live.iter().map(|id| std::mem::take(&mut self.lives[*id as usize])).collect();
        self.due = BinaryHeap::new();
        self.expiry.clear();
        for (id, lives) in (0u32..).zip(&self.lives) {
            let candidates = lives.iter().filter(|life| !life.is_emitted);
            self.due.extend(candidates.map(|life| Reverse((life.start, id))));
            if let Some(life) = lives.first() {
                self.expiry.set(id, life.last.saturating_add(self.ttl_us));
            }
        }
    }

    fn restore_emitted(&mut self, rows: &StateRows, watermark: EventTime) -> Result<()> {
        let (keys, touched) = rows.columns.split_at(self.keys.columns().len());
        self.keys.intern_keys(keys, rows.row_count)?;
        self.take_back()?;
        let ids = self.keys.ids().to_vec();
        let touched = touched[0].as_primitive::<TimestampMicrosecondType>();
        for (row, id) in ids.iter().enumerate() {
            // Keys that were to be remembered for ever count as heard of now.
            let last = if touched.is_valid(row) { touched.value(row) } else { watermark.0 };
            // What was forgotten may still have been on disk.
            if !is_over(last, self.ttl_us, watermark) {
                self.put_back(*id, last);
            }
        }
        self.remove(ids);
        Ok(())
    }

    fn restore_candidates(&mut self, rows: &StateRows) -> Result<()> {
        let records = self.candidates.records(rows)?;
        let encoded = self.codec.encode_all(&records)?;
        let touched = rows.columns[0].as_primitive::<TimestampMicrosecondType>().clone();
        let batch = Batch::new(records, 0);
        let times = times_of(&batch)?;
        self.keys.intern(&batch.records)?;
        self.take_back()?;
        for (row, id) in self.keys.ids().iter().enumerate() {
            let start = times[row];
            let last = if touched.is_valid(row) { touched.value(row).max(start) } else { start };
            let bytes: Box<[u8]> = encoded.row(row).data().into();
            self.rows_bytes += bytes.len();
            let lives = &mut self.lives[*id as usize];
            let place = lives.partition_point(|life| life.start < start);
            lives.insert(place, Life { start, last, row: bytes, is_emitted: false });
            self.due.push(Reverse((start, *id)));
            self.expiry.set(*id, last.saturating_add(self.ttl_us));
        }
        Ok(())
    }

    /// The lives whose first row has left, or has not, with their keys.
    fn lives(&self, is_emitted: bool) -> Vec<(u32, &Life)> {
        let all = (0u32..).zip(&self.lives).flat_map(|(id, lives)| lives.iter().map(move |life| (id, life)));
        all.filter(|(_, life)| life.is_emitted == is_emitted).collect()
    }
}

/// Keys of which all first rows have left, with their last life.
fn spare(lives: &[Vec<Life>]) -> Vec<(u32, &Life)> {
    let mut spare = Vec::new();
    for (id, lives) in (0u32..).zip(lives) {
        spare.extend(lives.last().filter(|_| lives.iter().all(|life| life.is_emitted)).map(|life| (id, life)));
    }
    spare
}

/// Lives whose first row has left, as a batch of their table.
fn emitted_batch(keys: &KeyIds, table: &Layout, key_group_count: u32, lives: &[(u32, &Life)]) -> Result<RecordBatch> {
    let ids: Vec<u32> = lives.iter().map(|(id, _)| *id).collect();
    let (key_groups, mut columns) = keys.keys(&ids, key_group_count)?;
    columns.push(lasts(lives));
    table.keyed_batch(key_groups, columns)
}

fn times_of(batch: &Batch) -> Result<&[i64]> {
    Ok(batch.event_times().ok_or_else(|| OperatorError::internal("rows without event time"))?.values())
}

/// Whether a life with this last row is forgotten. After the last watermark nothing is.
fn is_over(last: i64, ttl_us: i64, watermark: EventTime) -> bool {
    watermark < EventTime::MAX && last.saturating_add(ttl_us) <= watermark.0
}

/// The time of a key's last row, of a row of the table without its key.
fn touched_of(rest: &[ArrayRef], row: usize) -> i64 {
    rest[0].as_primitive::<TimestampMicrosecondType>().value(row)
}

fn lasts(lives: &[(u32, &Life)]) -> ArrayRef {
    Arc::new(EventTimeArray::from_iter_values(lives.iter().map(|(_, life)| life.last)).with_timezone("UTC"))
}

impl Operator for FirstOfLives {
    fn process(&mut self, _input: usize, batch: Batch, out: &mut dyn Output) -> Result<Progress> {
        self.origin_us = batch.origin_us;
        let (candidates, late) = self.sort_in(&batch)?;
        if let Some(late) = mask(&late, batch.num_rows()) {
            out.emit_to(OutputTag::Late, batch.with_records(filter_record_batch(&batch.records, &late)?));
        }
        if !candidates.is_empty() {
            self.store(&batch.records, &candidates)?;
        }
        Ok(Progress::Done)
    }

    fn on_watermark(&mut self, watermark: EventTime, out: &mut dyn Output) -> Result<Progress> {
        self.watermark = self.watermark.max(watermark);
        self.step(out)
    }

    fn resume(&mut self, out: &mut dyn Output) -> Result<Progress> {
        self.step(out)
    }

    fn snapshot(&mut self) -> Result<Vec<StateTable>> {
        resolved(self.freeze()?)
    }

    /// Per life in memory: its key or its first row, and its last time, each copied or decoded once. Keys that came back from
    /// disk are there twice; the later last time counts.
    fn freeze(&mut self) -> Result<Vec<FrozenTable>> {
        let candidates = |lives: &[(u32, &Life)]| {
            let rows = self.codec.decode(lives.iter().map(|(_, life)| life.row.as_ref()))?;
            self.candidates.batch(vec![lasts(lives)], &rows)
        };
        let mut emitted = self.disk.frozen();
        for lives in self.lives(true).chunks(BATCH_ROWS) {
            emitted.push(FrozenPiece::Ready(emitted_batch(&self.keys, &self.emitted, self.key_group_count, lives)?));
        }
        let candidates = self.lives(false).chunks(BATCH_ROWS).map(candidates).collect::<Result<_>>()?;
        let emitted = FrozenTable { pieces: emitted, ..self.emitted.table(Vec::new()).into() };
        Ok(vec![emitted, self.candidates.layout.table(candidates).into()])
    }

    fn spill(&mut self) -> Result<()> {
        let (held, bytes) = (self.keys.len(), self.keys.size_bytes());
        // Without key columns there is one key. There are at most as many candidates as times they are due.
        let is_worth = held.saturating_sub(self.due.len()) >= held.div_ceil(WORTH) && self.disk.is_worth(bytes);
        if self.keys.columns().is_empty() || !is_worth {
            return Ok(());
        }
        let spare = spare(&self.lives);
        let ids: Vec<u32> = spare.iter().map(|(id, _)| *id).collect();
        let end = spare.iter().map(|(_, life)| life.last.saturating_add(self.ttl_us)).max().unwrap_or(i64::MIN);
        let last = |id: &u32| self.lives[*id as usize].last().map(|life| (*id, life));
        let rest = |ids: &[u32]| Ok(vec![lasts(&ids.iter().filter_map(last).collect::<Vec<_>>())]);
        self.disk.put(&self.keys, ids.iter().copied(), rest, end)?;
        ids.iter().for_each(|id| self.lives[*id as usize] = Vec::new());
        self.renumber();
        let (ttl_us, watermark) = (self.ttl_us, self.watermark);
        self.disk.tidy(watermark.0, |rest, row| is_over(touched_of(rest, row), ttl_us, watermark))
    }

    fn restore(&mut self, tables: Vec<StateTable>, watermark: EventTime) -> Result<()> {
        let mut restored = Restored::new(tables);
        self.watermark = watermark;
        for rows in restored.take(&self.emitted)? {
            self.restore_emitted(&rows, watermark)?;
        }
        for rows in restored.take(&self.candidates.layout)? {
            self.restore_candidates(&rows)?;
        }
        restored.finish()
    }

    fn state_bytes(&self) -> usize {
        let per_key = size_of::<Vec<Life>>() * self.lives.capacity() + size_of::<Life>() * self.keys.len();
        let timers = self.due.capacity() * 16 + self.expiry.size_bytes();
        self.keys.size_bytes() + self.rows_bytes + per_key + timers + self.disk.size_bytes()
    }
}

#[cfg(test)]
mod tests;
