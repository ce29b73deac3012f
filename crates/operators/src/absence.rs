//! Keys from which nothing was heard for a while. Built by `create`.
//!
//! A silence begins after a row that no other row of its key follows within the timeout, and becomes one when that time
//! is over. So a silence is the end of a session whose gap is the timeout, and this operator keeps sessions: rows out
//! of order stretch or join them, and the result does not depend on how rows arrived or when watermarks came. A row
//! whose own silence is already over when it arrives, and that belongs to no open session, is late.
//!
//! A key without an open session is forgotten, so that the state does not grow with keys that are heard of no more.
//!
//! At the end of a bounded input silences that the last watermark had not reached stay unreported: nobody knows how
//! the keys would have gone on.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::sync::Arc;

use arrow_array::cast::AsArray;
use arrow_array::types::TimestampMicrosecondType;
use arrow_array::{ArrayRef, RecordBatch};
use arrow_schema::SchemaRef;
use arrow_select::filter::filter_record_batch;
use weir_core::batch::{EventTimeArray, event_time_type};
use weir_core::{Batch, EventTime, OutputTag};
use weir_graph::descriptor;
use weir_graph::window_schema::SESSION_START;
use weir_operator_api::{Operator, OperatorContext, OperatorError, Output, Progress, Result};
use weir_state::StateTable;

use crate::first_by_key::mask;
use crate::key_ids::KeyIds;
use crate::row_codec::RowCodec;
use crate::state_rows::{BATCH_ROWS, Column, Restored, RowTable};

/// Builds the operator of one subtask.
pub fn create(absence: &descriptor::Absence, context: &OperatorContext) -> Result<Box<dyn Operator>> {
    let input = &context.inputs[0];
    let ids = KeyIds::new(&absence.key, input)?;
    let start = vec![Column::new(SESSION_START, event_time_type())];
    Ok(Box::new(Absence {
        table: RowTable::new("silences", start, input, ids.columns().to_vec(), context.key_group_count),
        ids,
        codec: RowCodec::new(input)?,
        timeout_us: absence.timeout,
        keys: Vec::new(),
        session_bytes: 0,
        timers: BinaryHeap::new(),
        touched: Vec::new(),
        watermark: EventTime::MIN,
        passed: EventTime::MIN,
        origin_us: context.clock.wall_unix_us(),
        output: context.output.clone(),
        batch_rows: context.batch_rows.max(1),
    }))
}

struct Absence {
    ids: KeyIds,
    codec: RowCodec,
    timeout_us: i64,
    keys: Vec<Key>,
    /// Bytes of the last rows of open sessions, roughly.
    session_bytes: usize,
    /// Deadlines with their keys. A key has one timer that counts (see [`Key::timer`]); it may ring too early, since rows
    /// that come do not move it, and is then set anew. So a key costs one step per timeout, not one per row.
    timers: BinaryHeap<Reverse<(i64, u32)>>,
    /// Keys whose sessions end with a row of the batch at hand.
    touched: Vec<u32>,
    /// The last watermark that was not the end of the input: what is known about silence.
    watermark: EventTime,
    /// The table of a checkpoint: the beginning and the last row of each open session.
    table: RowTable,
    /// The watermark to pass on.
    passed: EventTime,
    /// When the last rows entered the job; results carry it on.
    origin_us: i64,
    output: SchemaRef,
    batch_rows: usize,
}

struct Key {
    /// Open sessions in order of time; almost always one.
    sessions: Vec<Session>,
    /// The deadline of the timer that counts; [`NO_TIMER`], later than any, without one.
    timer: i64,
}

struct Session {
    start: i64,
    last: i64,
    /// The last row's bytes, unless it is still in the batch at hand.
    row: Vec<u8>,
    /// Where the last row is in the batch at hand.
    batch_row: Option<u32>,
}

const NO_TIMER: i64 = i64::MAX;

impl Key {
    /// Adds a row; whether it became the last of its session.
    fn add(&mut self, time: i64, row: u32, gap_us: i64) -> bool {
        let reaches = |from: i64, to: i64| from.saturating_add(gap_us) >= to;
        // The row joins every session it is within reach of: at most the one before and the one after it.
        let first = self.sessions.partition_point(|session| !reaches(session.last, time));
        let joined = self.sessions[first..].iter().take_while(|session| reaches(time, session.start)).count();
        let own = Session { start: time, last: time, row: Vec::new(), batch_row: Some(row) };
        if joined == 0 {
            self.sessions.insert(first, own);
            return true;
        }
        // Sessions behind the first that it joins come later, so their last row stays the last.
        let mut rest: Vec<Session> =
            if joined > 1 { self.sessions.drain(first + 1..first + joined).collect() } else { Vec::new() };
        let session = &mut self.sessions[first];
        session.start = session.start.min(time);
        if let Some(later) = rest.pop() {
            session.last = later.last;
            session.row = later.row;
            session.batch_row = later.batch_row;
        }
        // On a tie the row that came later counts as the last.
        let is_last = time >= session.last;
        if is_last {
            session.last = time;
            session.batch_row = Some(row);
        }
        is_last
    }
}

impl Absence {
    fn sort_in(&mut self, batch: &Batch) -> Result<Vec<u32>> {
        let times = batch.event_times().ok_or_else(|| OperatorError::internal("rows without event time"))?.values();
        let ids = self.ids.intern(&batch.records)?;
        // Keys of late rows, which may be held for nothing.
        let (mut late, mut strangers) = (Vec::new(), Vec::new());
        for (row, (time, id)) in times.iter().zip(ids).enumerate() {
            let slot = *id as usize;
            if slot >= self.keys.len() {
                self.keys.resize_with(slot + 1, || Key { sessions: Vec::new(), timer: NO_TIMER });
            }
            let key = &mut self.keys[slot];
            let deadline = time.saturating_add(self.timeout_us);
            let is_over = deadline <= self.watermark.0;
            if is_over && !key.sessions.iter().any(|session| session.start <= deadline && *time <= session.last) {
                late.push(row as u32);
                strangers.push(*id);
                continue;
            }
            if key.add(*time, row as u32, self.timeout_us) {
                self.touched.push(*id);
            }
            if deadline < key.timer {
                key.timer = deadline;
                self.timers.push(Reverse((deadline, *id)));
            }
        }
        strangers.sort_unstable();
        strangers.dedup();
        for id in strangers.into_iter().filter(|id| self.keys[*id as usize].sessions.is_empty()) {
            self.ids.remove(id);
        }
        Ok(late)
    }

    /// Gives back the memory of keys that are forgotten.
    fn renumber(&mut self) {
        let live: Vec<u32> =
            (0..self.keys.len() as u32).filter(|id| !self.keys[*id as usize].sessions.is_empty()).collect();
        self.ids.renumber(&live);
        let key = |id: &u32| {
            let key = &mut self.keys[*id as usize];
            Key { sessions: std::mem::take(&mut key.sessions), timer: key.timer }
        };
        self.keys = live.iter().map(key).collect();
        self.timers = (0u32..).zip(&self.keys).map(|(id, key)| Reverse((key.timer, id))).collect();
    }

    /// Turns rows of the batch at hand, where they are the last of a session, into bytes.
    fn store(&mut self, records: &RecordBatch) -> Result<()> {
        self.touched.sort_unstable();
        self.touched.dedup();
        let mut rows = Vec::with_capacity(self.touched.len());
        for id in &self.touched {
            rows.extend(self.keys[*id as usize].sessions.iter().filter_map(|session| session.batch_row));
        }
        let encoded = self.codec.encode(records, &rows)?;
        let mut encoded = encoded.iter();
        for id in self.touched.drain(..) {
            for session in &mut self.keys[id as usize].sessions {
                if session.batch_row.take().is_some() {
                    let row = encoded.next().expect("one row was encoded for each session that asked").data();
                    self.session_bytes = (self.session_bytes + row.len()).saturating_sub(session.row.len());
                    session.row.clear();
                    session.row.extend_from_slice(row);
                }
            }
        }
        Ok(())
    }

    /// Takes back sessions with these last rows.
    fn put_back(&mut self, last_rows: &Batch, starts: &[i64]) -> Result<()> {
        let no_time = || OperatorError::internal("rows without event time");
        let lasts = last_rows.event_times().ok_or_else(no_time)?.values();
        let encoded = self.codec.encode_all(&last_rows.records)?;
        let ids = self.ids.intern(&last_rows.records)?;
        for (row, id) in ids.iter().enumerate() {
            let slot = *id as usize;
            if slot >= self.keys.len() {
                self.keys.resize_with(slot + 1, || Key { sessions: Vec::new(), timer: NO_TIMER });
            }
            let bytes = encoded.row(row).data().to_vec();
            self.session_bytes += bytes.len();
            let session = Session { start: starts[row], last: lasts[row], row: bytes, batch_row: None };
            let key = &mut self.keys[slot];
            let place = key.sessions.partition_point(|other| other.start < session.start);
            let deadline = session.last.saturating_add(self.timeout_us);
            key.sessions.insert(place, session);
            if deadline < key.timer {
                key.timer = deadline;
                self.timers.push(Reverse((deadline, *id)));
            }
        }
        Ok(())
    }

    /// Emits up to about `batch_rows` silences that are over; passes the watermark on after the last.
    fn step(&mut self, out: &mut dyn Output) -> Result<Progress> {
        let mut silent: Vec<(Vec<u8>, i64)> = Vec::new();
        while silent.len() < self.batch_rows {
            let Some(Reverse((rings, id))) = self.timers.peek().copied() else { break };
            if rings > self.watermark.0 {
                break;
            }
            self.timers.pop();
            let key = &mut self.keys[id as usize];
            if key.timer != rings {
                continue;
            }
            let (timeout_us, watermark) = (self.timeout_us, self.watermark.0);
            let deadline = |session: &Session| session.last.saturating_add(timeout_us);
            let over = key.sessions.iter().take_while(|session| deadline(session) <= watermark).count();
            silent.extend(key.sessions.drain(..over).map(|session| {
                let deadline = deadline(&session);
                (session.row, deadline)
            }));
            key.timer = key.sessions.first().map_or(NO_TIMER, deadline);
            if key.timer != NO_TIMER {
                self.timers.push(Reverse((key.timer, id)));
            } else {
                key.sessions = Vec::new();
                self.ids.remove(id);
            }
        }
        if !silent.is_empty() {
            let bytes = silent.iter().map(|(row, _)| row.len()).sum::<usize>();
            self.session_bytes = self.session_bytes.saturating_sub(bytes);
            let mut columns = self.codec.decode(silent.iter().map(|(row, _)| row.as_slice()))?;
            let until = EventTimeArray::from_iter_values(silent.iter().map(|(_, until)| *until)).with_timezone("UTC");
            columns.push(Arc::new(until) as ArrayRef);
            out.emit(Batch::new(RecordBatch::try_new(self.output.clone(), columns)?, self.origin_us));
        }
        if self.timers.peek().is_some_and(|Reverse((rings, _))| *rings <= self.watermark.0) {
            return Ok(Progress::More);
        }
        if self.ids.is_sparse() {
            self.renumber();
        }
        out.watermark(self.passed);
        Ok(Progress::Done)
    }
}

impl Operator for Absence {
    fn process(&mut self, _input: usize, batch: Batch, out: &mut dyn Output) -> Result<Progress> {
        self.origin_us = batch.origin_us;
        let late = self.sort_in(&batch)?;
        if let Some(late) = mask(&late, batch.num_rows()) {
            out.emit_to(OutputTag::Late, batch.with_records(filter_record_batch(&batch.records, &late)?));
        }
        if !self.touched.is_empty() {
            self.store(&batch.records)?;
        }
        Ok(Progress::Done)
    }

    fn on_watermark(&mut self, watermark: EventTime, out: &mut dyn Output) -> Result<Progress> {
        self.passed = watermark;
        if watermark < EventTime::MAX {
            self.watermark = self.watermark.max(watermark);
        }
        self.step(out)
    }

    fn resume(&mut self, out: &mut dyn Output) -> Result<Progress> {
        self.step(out)
    }

    /// Per open session: its beginning, and its last row, decoded once.
    fn snapshot(&mut self) -> Result<Vec<StateTable>> {
        let sessions: Vec<&Session> = self.keys.iter().flat_map(|key| &key.sessions).collect();
        let batch = |sessions: &[&Session]| {
            let starts = EventTimeArray::from_iter_values(sessions.iter().map(|session| session.start));
            let rows = self.codec.decode(sessions.iter().map(|session| session.row.as_slice()))?;
            self.table.batch(vec![Arc::new(starts.with_timezone("UTC"))], &rows)
        };
        Ok(vec![self.table.layout.table(sessions.chunks(BATCH_ROWS).map(batch).collect::<Result<_>>()?)])
    }

    fn restore(&mut self, tables: Vec<StateTable>, watermark: EventTime) -> Result<()> {
        let mut restored = Restored::new(tables);
        // After the last watermark no row and no silence follows.
        self.passed = watermark;
        self.watermark = if watermark < EventTime::MAX { watermark } else { EventTime::MIN };
        for rows in restored.take(&self.table.layout)? {
            let starts = rows.columns[0].as_primitive::<TimestampMicrosecondType>().values().clone();
            let batch = Batch::new(self.table.records(&rows)?, 0);
            self.put_back(&batch, &starts)?;
        }
        restored.finish()
    }

    fn state_bytes(&self) -> usize {
        let per_key = size_of::<Key>() + size_of::<Session>();
        self.ids.size_bytes() + self.keys.capacity() * per_key + self.session_bytes + self.timers.len() * 16
    }
}

#[cfg(test)]
mod tests;
