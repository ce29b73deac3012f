//! The reader of `fleet`: takes reports from its splits, at full speed or at the pace of event time, and has the truth
//! written. The task drives it.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};

use async_trait::async_trait;
use tokio::task::JoinHandle;
use weir_core::{Batch, Clock, SplitIndex};
use weir_operator_api::{
    BadRecord, OperatorError, ReaderContext, Result, SourceEvent, SourceReader, Split, SplitPosition,
};

use super::columns::{Column, Columns, Report};
use super::factory::read_split;
use super::plan::Fleet;
use super::position::{FleetPosition, Place};
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
    truth: Option<Truth>,
}

struct OpenSplit {
    index: SplitIndex,
    stream: SplitStream,
    /// Reports in the order of arrival; those before `taken` are emitted.
    ready: Vec<Report>,
    taken: usize,
    /// Broken reports of the last batch, and where the split stands when they are given.
    bad: Vec<BadRecord>,
    after_bad: Place,
    position: FleetPosition,
    /// The split with the first truck: its reader writes the truth.
    is_first: bool,
    is_finished: bool,
}

impl OpenSplit {
    fn open(fleet: &Arc<Fleet>, columns: &Columns, split: &Split) -> Result<OpenSplit> {
        let (first, stride) = read_split(split)?;
        let position = FleetPosition::of_split(split)?;
        let FleetPosition { place, without_bad } = position;
        let mut ready = Vec::new();
        let stream = if position == FleetPosition::default() {
            SplitStream::new(Arc::clone(fleet), first, stride)
        } else {
            SplitStream::starting_at(Arc::clone(fleet), first, stride, place.received_ms, &mut ready)
        };
        let mut split = OpenSplit {
            index: split.index,
            stream,
            ready,
            taken: place.count as usize,
            bad: Vec::new(),
            after_bad: place,
            position,
            is_first: first == 0,
            is_finished: false,
        };
        let taken = split.taken + without_bad as usize;
        split.stream.take(taken, &mut split.ready);
        let again = split.ready.get(split.taken..taken).ok_or_else(|| {
            OperatorError::internal(format!("split {} of the fleet ends before its position", split.index))
        })?;
        let broken = again.iter().filter(|report| report.is_broken());
        split.bad = broken.map(|report| columns.bad_record(report, fleet.settings.seed)).collect();
        split.after_bad = place.after(again);
        split.taken = taken;
        Ok(split)
    }

    /// Makes sure that reports are ready, unless the split is at its end.
    fn fill(&mut self, wanted: usize) {
        if self.taken == self.ready.len() && !self.is_finished {
            self.ready.clear();
            self.taken = 0;
            self.stream.take(wanted, &mut self.ready);
        }
    }

    /// Gives the broken reports of the last batch.
    fn give_bad(&mut self) -> SourceEvent {
        self.position = FleetPosition { place: self.after_bad, without_bad: 0 };
        SourceEvent::Bad(std::mem::take(&mut self.bad))
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
        let columns = Columns::new(columns, fleet.settings.start_unix_ms);
        let splits = context.splits.iter().map(|split| OpenSplit::open(&fleet, &columns, split));
        let splits = splits.collect::<Result<Vec<_>>>()?;
        let is_first = splits.iter().any(|split| split.is_first);
        // A restored reader plays on from where it stands; a new one from the start of the stream, as all others do.
        let anchor_ms = splits.iter().map(|split| split.position.place.received_ms).min().unwrap_or(0);
        // One reader of all has the first split, and that one writes the truth.
        let truth = fleet.settings.truth_path.as_deref().filter(|_| is_first).map(|path| Truth::start(&fleet, path));
        Ok(FleetReader {
            splits,
            columns,
            batch_rows: context.batch_rows.max(1),
            pacer: Pacer::new(None, fleet.settings.speedup, context.flush_interval).anchored_at(anchor_ms * 1_000),
            clock: context.clock,
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
        split.after_bad = split.position.place.after(reports);
        let seed = self.fleet.settings.seed;
        let broken = reports.iter().filter(|report| report.is_broken());
        split.bad.extend(broken.map(|report| self.columns.bad_record(report, seed)));
        let records = if split.bad.is_empty() {
            split.position.place = split.after_bad;
            self.columns.rows(reports)
        } else {
            let whole: Vec<Report> = reports.iter().filter(|report| !report.is_broken()).copied().collect();
            if whole.is_empty() {
                return split.give_bad();
            }
            split.position.without_bad = count as u64;
            self.columns.rows(&whole)
        };
        SourceEvent::Batch(Batch { records, split: Some(split.index), origin_us: self.clock.wall_unix_us() })
    }

    /// Says that a split is at its end. The truth is written then, if it is this split that it comes with: a restored job
    /// does not read a finished split again.
    ///
    /// **Cancel safety**: a dropped call changes nothing.
    async fn finish(&mut self, place: usize) -> Result<SourceEvent> {
        if let Some(truth) = self.truth.as_mut().filter(|_| self.splits[place].is_first) {
            truth.finish().await?;
            self.truth = None;
        }
        let split = &mut self.splits[place];
        split.is_finished = true;
        Ok(SourceEvent::SplitFinished(split.index))
    }
}

#[async_trait]
impl SourceReader for FleetReader {
    async fn next(&mut self) -> Result<SourceEvent> {
        if let Some(split) = self.splits.iter_mut().find(|split| !split.bad.is_empty()) {
            return Ok(split.give_bad());
        }
        let earliest = self.earliest();
        if let Some(place) = self.splits.iter().position(|split| !split.is_finished && split.next_ms().is_none()) {
            return self.finish(place).await;
        }
        let Some(place) = earliest else { return Ok(SourceEvent::EndOfInput) };
        let split = &self.splits[place];
        let ready = &split.ready[split.taken..];
        let offered = ready.len().min(self.batch_rows);
        let due_us = |row: usize| Some(ready[row].received_ms * 1_000);
        let count = self.pacer.next_piece(self.clock.as_ref(), offered, due_us).await;
        Ok(self.emit(place, count))
    }

    fn positions(&self) -> Result<Vec<SplitPosition>> {
        let position = |split: &OpenSplit| SplitPosition {
            split: split.index,
            position: split.position.to_value(),
            is_finished: split.is_finished,
        };
        Ok(self.splits.iter().map(position).collect())
    }
}
