//! The sending end of one edge in one task: cuts batches by target and puts small pieces together, so that many
//! targets do not mean small batches. Driven by the task; waits for room in the channels.
//!
//! A watermark never overtakes rows. It may wait with rows that came after it: that only delays it, which is always
//! right. Rows and watermark leave together when the batch is full, when the oldest has waited `flush_interval`, and
//! before anything else (idle, barrier, end) is sent.

use std::time::Duration;

use arrow_array::RecordBatch;
use arrow_select::concat::concat_batches;
use weir_core::{Batch, EventTime, StreamElement};
use weir_operator_api::OperatorError;

use super::partition::Partitioner;
use crate::error::TaskError;
use crate::exchange::ChannelSender;
use crate::input::Hurry;

/// Bytes at which a batch is full whatever its rows.
pub const BATCH_BYTES: usize = 256 * 1024;

/// When a batch leaves.
#[derive(Clone, Copy, Debug)]
pub struct WriterOptions {
    /// Rows to aim at.
    pub batch_rows: usize,
    /// Longest wait of the oldest row; zero sends everything at once.
    pub flush_interval: Duration,
}

/// What waits for one channel.
#[derive(Debug, Default)]
struct Pending {
    pieces: Vec<RecordBatch>,
    rows: usize,
    bytes: usize,
    origin_us: i64,
    watermark: Option<EventTime>,
    since: Option<Duration>,
}

/// Sends the elements of one edge.
#[derive(Debug)]
pub struct EdgeWriter {
    partitioner: Partitioner,
    options: WriterOptions,
    channels: Vec<ChannelSender>,
    pending: Vec<Pending>,
    /// Elements ready to be sent, in order, each with its channel. Empty between calls.
    ready: Vec<(usize, StreamElement)>,
    deadline: Option<Duration>,
}

impl EdgeWriter {
    /// Sends to `channels`, one per target of the partitioner.
    pub fn new(partitioner: Partitioner, channels: Vec<ChannelSender>, options: WriterOptions) -> Self {
        let pending = channels.iter().map(|_| Pending::default()).collect();
        EdgeWriter { partitioner, options, channels, pending, ready: Vec::new(), deadline: None }
    }

    /// Takes an element at `now` (monotonic) and sends what is due; waits for room, unless and until `hurry` says that
    /// there is no time to.
    ///
    /// **Errors**: a channel broke.
    pub async fn write(
        &mut self,
        element: StreamElement,
        now: Duration,
        hurry: Option<&Hurry>,
    ) -> Result<(), TaskError> {
        match element {
            StreamElement::Batch(batch) => self
                .add_rows(batch, now)
                .map_err(|error| TaskError { operator: None, ..TaskError::of_operator(&"".into(), &error) })?,
            // The last time before the end is told too: what ends with the input depends on it.
            StreamElement::Watermark(watermark) if watermark < EventTime::MAX => self.add_watermark(watermark, now)?,
            other => {
                self.flush_all()?;
                self.ready.extend((0..self.channels.len()).map(|target| (target, other.clone())));
            }
        }
        self.send_ready(hurry).await
    }

    /// When [`EdgeWriter::flush_due`] is to be called, if anything waits.
    pub fn deadline(&self) -> Option<Duration> {
        self.deadline
    }

    /// Sends what has waited long enough at `now`.
    pub async fn flush_due(&mut self, now: Duration, hurry: Option<&Hurry>) -> Result<(), TaskError> {
        if self.deadline.is_some_and(|deadline| deadline <= now) {
            for target in 0..self.pending.len() {
                if self.pending[target].since.is_some_and(|since| since + self.options.flush_interval <= now) {
                    self.flush(target)?;
                }
            }
            self.find_deadline();
            self.send_ready(hurry).await?;
        }
        Ok(())
    }

    async fn send_ready(&mut self, hurry: Option<&Hurry>) -> Result<(), TaskError> {
        for (target, element) in self.ready.drain(..) {
            self.channels[target].send(element, hurry).await?;
        }
        Ok(())
    }

    fn add_rows(&mut self, batch: Batch, now: Duration) -> Result<(), OperatorError> {
        let EdgeWriter { partitioner, options, pending, ready, .. } = self;
        let mut failed = None;
        let origin_us = batch.origin_us;
        partitioner.split(batch.records, |target, records| {
            let pending = &mut pending[target];
            let part = Batch::new(records, origin_us);
            let bytes = part.size_bytes();
            let is_large = part.num_rows() * 2 >= options.batch_rows || bytes * 2 >= BATCH_BYTES;
            let is_first = pending.since.is_none();
            if is_first && (is_large || options.flush_interval.is_zero()) {
                ready.push((target, StreamElement::Batch(part)));
                return;
            }
            pending.add(part, bytes, now);
            if pending.rows >= options.batch_rows || pending.bytes >= BATCH_BYTES {
                failed = pending.take(target, ready).err();
            }
        })?;
        self.find_deadline();
        failed.map_or(Ok(()), Err)
    }

    fn add_watermark(&mut self, watermark: EventTime, now: Duration) -> Result<(), TaskError> {
        for pending in &mut self.pending {
            pending.watermark = Some(watermark);
            pending.since.get_or_insert(now);
        }
        if self.options.flush_interval.is_zero() {
            return self.flush_all();
        }
        self.find_deadline();
        Ok(())
    }

    fn flush_all(&mut self) -> Result<(), TaskError> {
        for target in 0..self.pending.len() {
            self.flush(target)?;
        }
        self.deadline = None;
        Ok(())
    }

    fn flush(&mut self, target: usize) -> Result<(), TaskError> {
        self.pending[target]
            .take(target, &mut self.ready)
            .map_err(|error| TaskError { operator: None, ..TaskError::of_operator(&"".into(), &error) })
    }

    fn find_deadline(&mut self) {
        let oldest = self.pending.iter().filter_map(|pending| pending.since).min();
        self.deadline = oldest.map(|since| since + self.options.flush_interval);
    }
}

impl Pending {
    fn add(&mut self, part: Batch, bytes: usize, now: Duration) {
        self.since.get_or_insert(now);
        self.origin_us = if self.pieces.is_empty() { part.origin_us } else { self.origin_us.min(part.origin_us) };
        self.rows += part.num_rows();
        self.bytes += bytes;
        self.pieces.push(part.records);
    }

    fn take(&mut self, target: usize, ready: &mut Vec<(usize, StreamElement)>) -> Result<(), OperatorError> {
        let Pending { mut pieces, origin_us, watermark, .. } = std::mem::take(self);
        let records = match pieces.len() {
            0 => None,
            1 => pieces.pop(),
            _ => Some(concat_batches(pieces[0].schema_ref(), &pieces)?),
        };
        ready.extend(records.map(|records| (target, StreamElement::Batch(Batch::new(records, origin_us)))));
        ready.extend(watermark.map(|watermark| (target, StreamElement::Watermark(watermark))));
        Ok(())
    }
}

#[cfg(test)]
#[path = "writer_tests.rs"]
mod tests;
