//! The reader of `fleet`: takes reports from its splits, at full speed or at the pace of event time, and has the truth
//! written. The task drives it.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};

use async_trait::async_trait;
use tokio::task::JoinHandle;
use weir_core::{Batch, Clock, SplitIndex};
use weir_operator_api::{BadRecord, OperatorError, ReaderContext, Result, SourceEvent, SourceReader};

use super::columns::{Column, Columns, Report};
use super::factory::read_split;
use super::plan::Fleet;
use super::stream::SplitStream;
use super::truth;
use crate::pace::Pacer;

/// Reads some splits of the fleet.
pub(super) struct FleetReader {
    fleet: Arc<Fleet>,
    splits: Vec<OpenSplit>,
    columns: Columns,
    batch_rows: usize,
    pacer: Pacer,
    clock: Arc<dyn Clock>,
    /// Broken reports of the last batch.
    bad: Vec<BadRecord>,
    truth: Option<Truth>,
}

struct OpenSplit {
    index: SplitIndex,
    stream: SplitStream,
    /// Reports in the order of arrival; those before `taken` are emitted.
    ready: Vec<Report>,
    taken: usize,
    is_finished: bool,
}

impl OpenSplit {
    /// Makes sure that reports are ready, unless the split is at its end.
    fn fill(&mut self, wanted: usize) {
        if self.taken == self.ready.len() && !self.is_finished {
            self.ready.clear();
            self.taken = 0;
            self.stream.take(wanted, &mut self.ready);
        }
    }

    fn next_ms(&self) -> Option<i64> {
        self.ready.get(self.taken).map(|report| report.received_ms)
    }
}

/// The truth being written beside the stream.
struct Truth {
    path: String,
    task: JoinHandle<std::io::Result<()>>,
    stop: Arc<AtomicBool>,
}

impl Truth {
    fn start(fleet: &Arc<Fleet>, path: &str) -> Truth {
        let stop = Arc::new(AtomicBool::new(false));
        let (fleet, told) = (Arc::clone(fleet), Arc::clone(&stop));
        let file = PathBuf::from(path);
        let task = tokio::task::spawn_blocking(move || truth::write(&fleet, &file, &told));
        Truth { path: path.to_owned(), task, stop }
    }

    /// **Cancel safety**: waiting again goes on waiting.
    async fn finish(&mut self) -> Result<()> {
        let failed = || {
            let message = format!("cannot write the truth about the fleet to '{}'", self.path);
            OperatorError::external("fleet-truth-io", message)
        };
        match (&mut self.task).await {
            Ok(written) => written.map_err(|error| failed().because(error)),
            Err(error) => Err(failed().because(error)),
        }
    }
}

impl Drop for Truth {
    /// A cancelled job leaves no half-written truth: the writer sees this at the next truck.
    fn drop(&mut self) {
        self.stop.store(true, Relaxed);
    }
}

impl FleetReader {
    pub(super) fn new(fleet: Arc<Fleet>, context: ReaderContext) -> Result<Self> {
        let columns = Column::project(context.projection.as_deref())
            .map_err(|name| OperatorError::internal(format!("source '{}' has no column '{name}'", context.uid)))?;
        let mut splits = Vec::with_capacity(context.splits.len());
        let mut is_first = false;
        for split in &context.splits {
            let (first, stride) = read_split(split)?;
            is_first |= first == 0;
            let stream = SplitStream::new(Arc::clone(&fleet), first, stride);
            splits.push(OpenSplit { index: split.index, stream, ready: Vec::new(), taken: 0, is_finished: false });
        }
        // One reader of all has the first split, and that one writes the truth.
        let truth = fleet.settings.truth_path.as_deref().filter(|_| is_first).map(|path| Truth::start(&fleet, path));
        Ok(FleetReader {
            splits,
            columns: Columns::new(columns, fleet.settings.start_unix_ms),
            batch_rows: context.batch_rows.max(1),
            pacer: Pacer::new(None, fleet.settings.speedup, context.flush_interval).anchored_at(0),
            clock: context.clock,
            bad: Vec::new(),
            truth,
            fleet,
        })
    }

    /// The split whose next report arrives first.
    fn earliest(&mut self) -> Option<usize> {
        let wanted = self.batch_rows;
        self.splits.iter_mut().for_each(|split| split.fill(wanted));
        let open = self.splits.iter().enumerate().filter_map(|(place, split)| Some((split.next_ms()?, place)));
        open.min().map(|(_, place)| place)
    }

    /// Turns the next `count` reports of a split into an event; a batch and its broken reports are two.
    fn emit(&mut self, place: usize, count: usize) -> SourceEvent {
        let split = &mut self.splits[place];
        let reports = &split.ready[split.taken..split.taken + count];
        split.taken += count;
        let seed = self.fleet.settings.seed;
        let broken = reports.iter().filter(|report| report.is_broken());
        self.bad.extend(broken.map(|report| self.columns.bad_record(report, seed)));
        let records = if self.bad.is_empty() {
            self.columns.rows(reports)
        } else {
            let whole: Vec<Report> = reports.iter().filter(|report| !report.is_broken()).copied().collect();
            if whole.is_empty() {
                return SourceEvent::Bad(std::mem::take(&mut self.bad));
            }
            self.columns.rows(&whole)
        };
        SourceEvent::Batch(Batch { records, split: Some(split.index), origin_us: self.clock.wall_unix_us() })
    }
}

#[async_trait]
impl SourceReader for FleetReader {
    async fn next(&mut self) -> Result<SourceEvent> {
        if !self.bad.is_empty() {
            return Ok(SourceEvent::Bad(std::mem::take(&mut self.bad)));
        }
        let earliest = self.earliest();
        if let Some(split) = self.splits.iter_mut().find(|split| !split.is_finished && split.next_ms().is_none()) {
            split.is_finished = true;
            return Ok(SourceEvent::SplitFinished(split.index));
        }
        let Some(place) = earliest else {
            if let Some(truth) = &mut self.truth {
                truth.finish().await?;
                self.truth = None;
            }
            return Ok(SourceEvent::EndOfInput);
        };
        let split = &self.splits[place];
        let ready = &split.ready[split.taken..];
        let offered = ready.len().min(self.batch_rows);
        let due_us = |row: usize| Some(ready[row].received_ms * 1_000);
        let count = self.pacer.next_piece(self.clock.as_ref(), offered, due_us).await;
        Ok(self.emit(place, count))
    }
}
