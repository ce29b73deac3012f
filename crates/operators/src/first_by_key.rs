//! The first row of each key by event time, once. Built by `create`. With `state_ttl` keys are forgotten and may have
//! another first row: [`lives`].
//!
//! Each key has a candidate, the earliest of its rows so far; when the watermark reaches the candidate's time no earlier
//! row can come, and it is emitted. From then on only the key is remembered. Of rows with the same time the smallest in
//! row order is first, so that the result does not depend on how rows arrived.
//!
//! Keys whose first row was emitted are most of the state. When memory does not hold them they go to disk, where new keys
//! of a batch are asked for all at once; candidates, of which there are as many as keys came since the watermark, stay.

use std::cmp::Reverse;
use std::collections::BinaryHeap;

use arrow_array::{BooleanArray, RecordBatch};
use arrow_schema::SchemaRef;
use arrow_select::filter::filter_record_batch;
use weir_core::{Batch, EventTime, OutputTag};
use weir_graph::descriptor;
use weir_operator_api::{Operator, OperatorContext, OperatorError, Output, Progress, Result};
use weir_state::{FrozenPiece, FrozenTable, StateTable};

use crate::disk_rows::{DiskRows, FOREVER};
use crate::expiry::TOUCHED;
use crate::key_ids::KeyIds;
use crate::row_codec::RowCodec;
use crate::state_rows::{BATCH_ROWS, Layout, Restored, RowTable, resolved};

mod lives;

/// The tables of a checkpoint.
const EMITTED_KEYS: &str = "emitted-keys";
const FIRST_ROWS: &str = "first-rows";

/// Builds the operator of one subtask.
pub fn create(first: &descriptor::FirstByKey, context: &OperatorContext) -> Result<Box<dyn Operator>> {
    let input = &context.inputs[0];
    let keys = KeyIds::new(&first.key, input)?;
    if let Some(ttl_us) = first.state_ttl {
        return Ok(Box::new(lives::FirstOfLives::new(keys, ttl_us, context)?));
    }
    let (key_columns, key_group_count) = (keys.columns().to_vec(), context.key_group_count);
    // Tables of a job with a time to live say when keys were heard of.
    let emitted = Layout::keyed(EMITTED_KEYS, keys.state_columns(input).collect()).passing_over(TOUCHED);
    Ok(Box::new(FirstByKey {
        disk: DiskRows::new(context, &emitted, key_columns.len())?,
        on_disk: Vec::new(),
        emitted,
        candidates: RowTable::new(FIRST_ROWS, Vec::new(), input, key_columns, key_group_count).passing_over(TOUCHED),
        key_group_count,
        keys,
        codec: RowCodec::new(input)?,
        times: Vec::new(),
        rows: Vec::new(),
        rows_bytes: 0,
        candidate_count: 0,
        due: BinaryHeap::new(),
        watermark: EventTime::MIN,
        origin_us: context.clock.wall_unix_us(),
        output: context.output.clone(),
        batch_rows: context.batch_rows.max(1),
    }))
}

/// Putting keys away is worth it when they are at least this part of all keys in memory.
const WORTH: usize = 16;

/// The key's first row was emitted: no time is less, so no row is a candidate any more.
const EMITTED: i64 = i64::MIN;
/// The key has no candidate: every time is less.
const NO_CANDIDATE: i64 = i64::MAX;

struct FirstByKey {
    keys: KeyIds,
    codec: RowCodec,
    /// Per key the time of its candidate, [`EMITTED`] or [`NO_CANDIDATE`].
    times: Vec<i64>,
    /// Per key its candidate's bytes; empty without one.
    rows: Vec<Box<[u8]>>,
    rows_bytes: usize,
    /// Keys that have a candidate.
    candidate_count: usize,
    /// Keys on disk: all of them are emitted.
    disk: DiskRows,
    /// Keys that are both in memory and on disk.
    on_disk: Vec<u32>,
    /// Time and key of every candidate there ever was; those that were replaced are skipped when their time comes.
    due: BinaryHeap<Reverse<(i64, u32)>>,
    watermark: EventTime,
    /// The tables of a checkpoint: keys whose first row was emitted, and candidates.
    emitted: Layout,
    candidates: RowTable,
    key_group_count: u32,
    /// When the last rows entered the job; results carry it on.
    origin_us: i64,
    output: SchemaRef,
    batch_rows: usize,
}

/// A row with its key.
type Candidate = (u32, u32);

impl FirstByKey {
    /// Notes the times of new candidates. Gives the rows that may be candidates, with their keys, and which are late.
    fn sort_in(&mut self, batch: &Batch) -> Result<(Vec<Candidate>, Option<BooleanArray>)> {
        let times =
            batch.event_times().ok_or_else(|| OperatorError::internal("rows without event time"))?.values().clone();
        self.keys.intern(&batch.records)?;
        self.meet()?;
        let mut candidates: Vec<(u32, u32)> = Vec::new();
        let mut late: Vec<u32> = Vec::new();
        for (row, (time, id)) in times.iter().zip(self.keys.ids()).enumerate() {
            let slot = *id as usize;
            if *time > self.times[slot] || self.times[slot] == EMITTED {
                continue;
            }
            if *time <= self.watermark.0 {
                late.push(row as u32);
                continue;
            }
            if *time < self.times[slot] {
                self.candidate_count += usize::from(self.times[slot] == NO_CANDIDATE);
                self.times[slot] = *time;
                self.rows_bytes -= std::mem::take(&mut self.rows[slot]).len();
                self.due.push(Reverse((*time, *id)));
            }
            candidates.push((row as u32, *id));
        }
        // Some were overtaken by later rows of this batch.
        candidates.retain(|(row, id)| times[*row as usize] == self.times[*id as usize]);
        Ok((candidates, mask(&late, batch.num_rows())))
    }

    /// Makes room for keys that are new in memory; those that are on disk are emitted.
    fn meet(&mut self) -> Result<()> {
        let (known, bound) = (self.times.len(), self.keys.id_bound());
        if known == bound {
            return Ok(());
        }
        self.times.resize(bound, NO_CANDIDATE);
        self.rows.resize_with(bound, Box::default);
        if self.disk.is_empty() {
            return Ok(());
        }
        let found = self.disk.find(&self.keys, known as u32..bound as u32)?.ids;
        found.iter().for_each(|id| self.times[*id as usize] = EMITTED);
        self.on_disk.extend(found);
        Ok(())
    }

    /// Keeps the bytes of the smallest candidate per key.
    fn store(&mut self, records: &RecordBatch, candidates: &[(u32, u32)]) -> Result<()> {
        let indexes: Vec<u32> = candidates.iter().map(|(row, _)| *row).collect();
        let encoded = self.codec.encode(records, &indexes)?;
        for (row, (_, id)) in encoded.iter().zip(candidates) {
            let kept = &mut self.rows[*id as usize];
            if kept.is_empty() || row.data() < kept.as_ref() {
                self.rows_bytes = self.rows_bytes + row.data().len() - kept.len();
                *kept = row.data().into();
            }
        }
        Ok(())
    }

    /// Emits up to `batch_rows` candidates whose time has come; passes the watermark on after the last.
    fn step(&mut self, out: &mut dyn Output) -> Result<Progress> {
        let mut ready: Vec<Box<[u8]>> = Vec::new();
        while ready.len() < self.batch_rows {
            let Some(Reverse((time, id))) = self.due.peek().copied() else { break };
            if time > self.watermark.0 {
                break;
            }
            self.due.pop();
            if self.times[id as usize] == time {
                self.times[id as usize] = EMITTED;
                ready.push(std::mem::take(&mut self.rows[id as usize]));
            }
        }
        if !ready.is_empty() {
            self.candidate_count -= ready.len();
            self.rows_bytes -= ready.iter().map(|row| row.len()).sum::<usize>();
            let columns = self.codec.decode(ready.iter().map(AsRef::as_ref))?;
            out.emit(Batch::new(RecordBatch::try_new(self.output.clone(), columns)?, self.origin_us));
        }
        if self.due.peek().is_some_and(|Reverse((time, _))| *time <= self.watermark.0) {
            return Ok(Progress::More);
        }
        out.watermark(self.watermark);
        Ok(Progress::Done)
    }

    /// The keys in memory whose times are such, of those that are not on disk.
    fn ids(&self, is_wanted: fn(i64) -> bool) -> Vec<u32> {
        let mut is_on_disk = vec![false; self.times.len()];
        self.on_disk.iter().for_each(|id| is_on_disk[*id as usize] = true);
        let is_wanted = |id: &u32| is_wanted(self.times[*id as usize]) && !is_on_disk[*id as usize];
        (0..self.times.len() as u32).filter(is_wanted).collect()
    }

    /// Forgets all keys but those with a candidate, and gives their memory back.
    fn keep_candidates(&mut self) {
        let live = self.ids(has_candidate);
        self.keys.renumber(&live);
        self.times = live.iter().map(|id| self.times[*id as usize]).collect();
        self.rows = live.iter().map(|id| std::mem::take(&mut self.rows[*id as usize])).collect();
        self.due = self.times.iter().zip(0u32..).map(|(time, id)| Reverse((*time, id))).collect();
        self.on_disk = Vec::new();
    }
}

fn is_emitted(time: i64) -> bool {
    time == EMITTED
}

fn has_candidate(time: i64) -> bool {
    time != EMITTED && time != NO_CANDIDATE
}

/// A mask with these rows set; `None` when there are none.
pub(crate) fn mask(rows: &[u32], row_count: usize) -> Option<BooleanArray> {
    if rows.is_empty() {
        return None;
    }
    let mut is_set = vec![false; row_count];
    rows.iter().for_each(|row| is_set[*row as usize] = true);
    Some(BooleanArray::from(is_set))
}

impl Operator for FirstByKey {
    fn process(&mut self, _input: usize, batch: Batch, out: &mut dyn Output) -> Result<Progress> {
        self.origin_us = batch.origin_us;
        let (candidates, late) = self.sort_in(&batch)?;
        if let Some(late) = late {
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

    /// Per emitted key in memory: the key, copied once. Per candidate: its row, decoded once.
    fn freeze(&mut self) -> Result<Vec<FrozenTable>> {
        let candidates = |ids: &[u32]| {
            let rows = ids.iter().map(|id| self.rows[*id as usize].as_ref());
            self.candidates.batch(Vec::new(), &self.codec.decode(rows)?)
        };
        let mut emitted = self.disk.frozen();
        for ids in self.ids(is_emitted).chunks(BATCH_ROWS) {
            let (key_groups, columns) = self.keys.keys(ids, self.key_group_count)?;
            emitted.push(FrozenPiece::Ready(self.emitted.keyed_batch(key_groups, columns)?));
        }
        let candidates = self.ids(has_candidate).chunks(BATCH_ROWS).map(candidates).collect::<Result<_>>()?;
        let emitted = FrozenTable { pieces: emitted, ..self.emitted.table(Vec::new()).into() };
        Ok(vec![emitted, self.candidates.layout.table(candidates).into()])
    }

    fn spill(&mut self) -> Result<()> {
        let (spare, bytes) = (self.keys.len() - self.candidate_count, self.keys.size_bytes());
        // Without key columns there is one key.
        if self.keys.columns().is_empty() || spare == 0 || spare < self.keys.len() / WORTH || !self.disk.is_worth(bytes)
        {
            return Ok(());
        }
        self.disk.put(&self.keys, self.ids(is_emitted).into_iter(), |_| Ok(Vec::new()), FOREVER)?;
        self.keep_candidates();
        self.disk.tidy(i64::MIN, |_, _| false)
    }

    fn restore(&mut self, tables: Vec<StateTable>, watermark: EventTime) -> Result<()> {
        let mut restored = Restored::new(tables);
        self.watermark = watermark;
        for rows in restored.take(&self.emitted)? {
            self.keys.intern_keys(&rows.columns, rows.row_count)?;
            self.meet()?;
            for id in self.keys.ids() {
                let time = std::mem::replace(&mut self.times[*id as usize], EMITTED);
                self.candidate_count -= usize::from(has_candidate(time));
                // With a time to live a key may have had a candidate besides.
                self.rows_bytes -= std::mem::take(&mut self.rows[*id as usize]).len();
            }
        }
        for rows in restored.take(&self.candidates.layout)? {
            let batch = Batch::new(self.candidates.records(&rows)?, 0);
            let (candidates, _) = self.sort_in(&batch)?;
            if candidates.len() != rows.row_count && !rows.had_spare {
                return Err(OperatorError::internal(
                    "the checkpoint holds two first rows of one key, or one that is late",
                ));
            }
            self.store(&batch.records, &candidates)?;
        }
        restored.finish()
    }

    fn state_bytes(&self) -> usize {
        let in_memory = self.keys.size_bytes() + self.rows_bytes + self.times.capacity() * 24 + self.due.len() * 16;
        in_memory + self.on_disk.capacity() * size_of::<u32>() + self.disk.size_bytes()
    }
}

#[cfg(test)]
mod tests;
