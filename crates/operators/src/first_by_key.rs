//! The first row of each key by event time, once. Built by `create`. With `state_ttl` keys are forgotten and may have
//! another first row: [`lives`].
//!
//! Each key has a candidate, the earliest of its rows so far; when the watermark reaches the candidate's time no earlier
//! row can come, and it is emitted. From then on only the key is remembered. Of rows with the same time the smallest in
//! row order is first, so that the result does not depend on how rows arrived.

use std::cmp::Reverse;
use std::collections::BinaryHeap;

use arrow_array::{BooleanArray, RecordBatch};
use arrow_schema::SchemaRef;
use arrow_select::filter::filter_record_batch;
use weir_core::{Batch, EventTime, OutputTag};
use weir_graph::descriptor;
use weir_operator_api::{Operator, OperatorContext, OperatorError, Output, Progress, Result};
use weir_state::StateTable;

use crate::expiry::TOUCHED;
use crate::key_ids::KeyIds;
use crate::row_codec::RowCodec;
use crate::state_rows::{BATCH_ROWS, Layout, Restored, RowTable};

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
    Ok(Box::new(FirstByKey {
        // Tables of a job with a time to live say when keys were heard of.
        emitted: Layout::keyed(EMITTED_KEYS, keys.state_columns(input).collect()).passing_over(TOUCHED),
        candidates: RowTable::new(FIRST_ROWS, Vec::new(), input, key_columns, key_group_count).passing_over(TOUCHED),
        key_group_count,
        keys,
        codec: RowCodec::new(input)?,
        times: Vec::new(),
        rows: Vec::new(),
        rows_bytes: 0,
        due: BinaryHeap::new(),
        watermark: EventTime::MIN,
        origin_us: context.clock.wall_unix_us(),
        output: context.output.clone(),
        batch_rows: context.batch_rows.max(1),
    }))
}

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
        let ids = self.keys.intern(&batch.records)?;
        let mut candidates: Vec<(u32, u32)> = Vec::new();
        let mut late: Vec<u32> = Vec::new();
        for (row, (time, id)) in times.iter().zip(ids).enumerate() {
            let slot = *id as usize;
            if slot >= self.times.len() {
                self.times.resize(slot + 1, NO_CANDIDATE);
                self.rows.resize_with(slot + 1, Box::default);
            }
            if *time > self.times[slot] || self.times[slot] == EMITTED {
                continue;
            }
            if *time <= self.watermark.0 {
                late.push(row as u32);
                continue;
            }
            if *time < self.times[slot] {
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

    /// Per emitted key: the key, copied once. Per candidate: its row, decoded once.
    fn snapshot(&mut self) -> Result<Vec<StateTable>> {
        let ids = |is_wanted: fn(i64) -> bool| -> Vec<u32> {
            (0..self.times.len() as u32).filter(|id| is_wanted(self.times[*id as usize])).collect()
        };
        let emitted = |ids: &[u32]| {
            let (key_groups, columns) = self.keys.keys(ids, self.key_group_count)?;
            self.emitted.keyed_batch(key_groups, columns)
        };
        let candidates = |ids: &[u32]| {
            let rows = ids.iter().map(|id| self.rows[*id as usize].as_ref());
            self.candidates.batch(Vec::new(), &self.codec.decode(rows)?)
        };
        let emitted = ids(|time| time == EMITTED).chunks(BATCH_ROWS).map(emitted).collect::<Result<_>>()?;
        let with_candidate = ids(|time| time != EMITTED && time != NO_CANDIDATE);
        let candidates = with_candidate.chunks(BATCH_ROWS).map(candidates).collect::<Result<_>>()?;
        Ok(vec![self.emitted.table(emitted), self.candidates.layout.table(candidates)])
    }

    fn restore(&mut self, tables: Vec<StateTable>, watermark: EventTime) -> Result<()> {
        let mut restored = Restored::new(tables);
        self.watermark = watermark;
        for rows in restored.take(&self.emitted)? {
            let ids = self.keys.intern_keys(&rows.columns, rows.row_count)?;
            self.times
                .resize(ids.iter().map(|id| *id as usize + 1).max().unwrap_or(0).max(self.times.len()), NO_CANDIDATE);
            self.rows.resize_with(self.times.len(), Box::default);
            for id in ids {
                self.times[*id as usize] = EMITTED;
                // With a time to live a key may have had a candidate besides.
                self.rows_bytes -= std::mem::take(&mut self.rows[*id as usize]).len();
            }
        }
        self.rows.resize_with(self.times.len(), Box::default);
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
        self.keys.size_bytes() + self.rows_bytes + self.times.capacity() * 24 + self.due.len() * 16
    }
}

#[cfg(test)]
mod tests;
