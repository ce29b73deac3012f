//! The reader of `nexmark`: takes runs of blocks from its splits, at full speed or at a pace. The task drives it.

use std::collections::VecDeque;
use std::sync::Arc;

use arrow_array::RecordBatch;
use async_trait::async_trait;
use weir_core::{Batch, Clock, SplitIndex, Value};
use weir_operator_api::{OperatorError, ReaderContext, Result, SourceEvent, SourceReader, SplitPosition};

use super::factory::{NexmarkSettings, read_position, read_split};
use super::generate::{Blocks, Generator};
use super::rules::BLOCK_EVENTS;
use crate::pace::Pacer;

/// Most events between the first and the last row of a batch, counted in the reader's own blocks: a table with few rows
/// gives small batches, so that the watermark, which follows the rows, keeps moving.
const EVENTS_PER_BATCH_MAX: usize = 65_536;

/// Reads some splits of one table.
pub(super) struct NexmarkReader {
    generator: Generator,
    splits: Vec<Progress>,
    /// The first block after the stream.
    end: u64,
    blocks_per_batch: usize,
    batch_rows: usize,
    /// Blocks are due by their place in the whole stream, so no reader needs a share of the pace.
    pacer: Pacer,
    events_per_second: f64,
    /// When a live stream began on the wall clock, until the first row is wanted.
    live_since_us: Option<i64>,
    clock: Arc<dyn Clock>,
    /// Pieces of a block that did not fit into one batch (only with tiny batches).
    pending: VecDeque<Batch>,
}

struct Progress {
    index: SplitIndex,
    next: u64,
    stride: u64,
    /// Rows of the next block that were given before the job was restored.
    skip: usize,
    /// Rows given since the beginning of the split: the position. Blocks have as many rows each, so this is a place
    /// whatever the batches were.
    given_rows: u64,
    is_finished: bool,
}

/// When a block is due. **Units**: microseconds since the start of the stream.
fn due_us(block: u64, events_per_second: f64) -> i64 {
    ((block * BLOCK_EVENTS) as f64 * 1e6 / events_per_second) as i64
}

impl NexmarkReader {
    pub(super) fn new(settings: NexmarkSettings, context: ReaderContext) -> Result<Self> {
        let table = settings.table;
        let columns = table
            .project(context.projection.as_deref())
            .map_err(|name| OperatorError::internal(format!("source '{}' has no column '{name}'", context.uid)))?;
        let mut splits = Vec::with_capacity(context.splits.len());
        for split in &context.splits {
            let (first, stride) = read_split(split)?;
            let given_rows = read_position(split)?;
            let per_block = table.rows_per_block() as u64;
            splits.push(Progress {
                index: split.index,
                next: first + given_rows / per_block * stride,
                stride,
                skip: (given_rows % per_block) as usize,
                given_rows,
                is_finished: false,
            });
        }
        let events_per_second = settings.pace.unwrap_or(f64::INFINITY);
        // A restored reader plays on from where it stands; a new one from the start of the stream, as all others do.
        let is_restored = splits.iter().any(|split| split.given_rows > 0);
        let first = splits.iter().filter(|_| is_restored).map(|split| split.next).min().unwrap_or(0);
        let anchor_us = due_us(first, events_per_second);
        let blocks_max = EVENTS_PER_BATCH_MAX / BLOCK_EVENTS as usize;
        Ok(NexmarkReader {
            generator: Generator::new(table, columns, settings.rate),
            splits,
            end: settings.blocks,
            blocks_per_batch: (context.batch_rows / table.rows_per_block()).clamp(1, blocks_max),
            batch_rows: context.batch_rows.max(1),
            pacer: Pacer::new(None, settings.pace.map(|_| 1.0), context.flush_interval).anchored_at(anchor_us),
            events_per_second,
            live_since_us: settings.live_since_us,
            clock: context.clock,
            pending: VecDeque::new(),
        })
    }

    /// Cuts rows into batches of the wanted size; all but the first wait.
    fn cut(&mut self, rows: RecordBatch, split: SplitIndex) -> Batch {
        let origin_us = self.clock.wall_unix_us();
        let batch = |records: RecordBatch| Batch { records, split: Some(split), origin_us };
        // One block more than wanted is no reason to cut; a table whose blocks alone are too large is.
        let piece = if self.blocks_per_batch > 1 { rows.num_rows() } else { self.batch_rows };
        for start in (piece..rows.num_rows()).step_by(piece) {
            self.pending.push_back(batch(rows.slice(start, piece.min(rows.num_rows() - start))));
        }
        batch(rows.slice(0, piece.min(rows.num_rows())))
    }

    /// Counts a batch as given.
    fn give(&mut self, batch: Batch) -> SourceEvent {
        if let Some(split) = self.splits.iter_mut().find(|split| Some(split.index) == batch.split) {
            split.given_rows += batch.num_rows() as u64;
        }
        SourceEvent::Batch(batch)
    }
}

#[async_trait]
impl SourceReader for NexmarkReader {
    async fn next(&mut self) -> Result<SourceEvent> {
        if let Some(batch) = self.pending.pop_front() {
            return Ok(self.give(batch));
        }
        let end = self.end;
        if let Some(split) = self.splits.iter_mut().find(|split| !split.is_finished && split.next >= end) {
            split.is_finished = true;
            return Ok(SourceEvent::SplitFinished(split.index));
        }
        // The split that is furthest behind goes first, so that none holds the watermark back.
        let open = self.splits.iter_mut().filter(|split| !split.is_finished);
        let Some(split) = open.min_by_key(|split| split.next) else { return Ok(SourceEvent::EndOfInput) };
        if let Some(since_us) = self.live_since_us.take() {
            // What a live stream has brought by now is due, whenever it is asked for.
            let brought_us = self.clock.wall_unix_us().saturating_sub(since_us);
            self.pacer = self.pacer.clone().anchored_at(brought_us);
        }
        let left = (end - split.next).div_ceil(split.stride);
        let count = left.min(self.blocks_per_batch as u64) as usize;
        let run = Blocks { first: split.next, stride: split.stride, count };
        let row_due_us = |row: usize| Some(due_us(run.first + row as u64 * run.stride, self.events_per_second));
        let count = self.pacer.next_piece(self.clock.as_ref(), count, row_due_us).await;
        let run = Blocks { count, ..run };
        split.next += count as u64 * run.stride;
        let (index, skip) = (split.index, std::mem::take(&mut split.skip));
        let rows = self.generator.rows(run);
        let batch = self.cut(rows.slice(skip, rows.num_rows() - skip), index);
        Ok(self.give(batch))
    }

    fn positions(&self) -> Result<Vec<SplitPosition>> {
        let position = |split: &Progress| SplitPosition {
            split: split.index,
            position: (split.given_rows > 0).then_some(Value::Integer(split.given_rows as i64)),
            is_finished: split.is_finished,
        };
        Ok(self.splits.iter().map(position).collect())
    }
}

#[cfg(test)]
#[path = "reader_tests.rs"]
mod tests;
