//! What both task loops share: the chain with its edges and sinks. Sends what leaves the chain before the chain gets
//! anything new, in order.

use std::collections::{BTreeMap, VecDeque};
use std::sync::atomic::Ordering::Relaxed;
use std::sync::{Arc, Weak};
use std::time::Duration;

use futures::FutureExt;
use weir_checkpoint::SplitState;
use weir_core::{Barrier, CheckpointId, Clock, EdgeId, OperatorUid, StreamElement, Value};
use weir_operator_api::{Committable, Cut, PreparedOutput, SinkReport, SinkWriter};
use weir_state::{FrozenShare, FrozenTable, MemoryShare, StateTable};

use super::chain::{Chain, Pending};
use super::counters::{Doing, TaskCounters};
use crate::error::TaskError;
use crate::input::{Hurry, InFlight};
use crate::output::EdgeWriter;
use crate::snapshot::{OperatorSnapshot, TaskSnapshot};

/// How often the size of the state is asked for.
const STATE_INTERVAL: Duration = Duration::from_millis(20);
/// After the state store failed, state stays in memory for so long before it is tried again.
const SPILL_AGAIN: Duration = Duration::from_secs(10);

/// Checkpoints after which no row is under suspicion any more: what killed the attempt before lies behind the first.
const CLEAN_CHECKPOINTS: u32 = 3;

/// One open sink of a task.
pub struct Sink {
    /// Its name.
    pub uid: OperatorUid,
    /// Its writer.
    pub writer: Box<dyn SinkWriter>,
    /// Its place in the chain.
    pub node: usize,
    /// What it prepared at the cut at hand.
    pub prepared: Option<PreparedOutput>,
    /// What it prepared since the last checkpoint that is known to be committed.
    pub uncommitted: VecDeque<(CheckpointId, Value)>,
}

/// Takes what a task froze, and its refusals; `agent` writes and reports them.
pub trait Cuts: Send + Sync {
    /// The task has passed the barrier.
    fn taken(&self, snapshot: TaskSnapshot);

    /// The task cannot take part in the checkpoint.
    fn declined(&self, checkpoint: CheckpointId, error: TaskError);
}

/// What a finished task leaves to be committed.
#[derive(Debug, Default)]
pub struct Prepared {
    /// Output that waits for the job's commit.
    pub committables: Vec<Committable>,
    /// Totals of each sink.
    pub totals: Vec<(OperatorUid, SinkReport)>,
    /// What the task leaves to later checkpoints.
    pub operators: Vec<OperatorSnapshot>,
}

/// The chain of a task with everything it writes to.
pub struct Runner {
    /// The operators.
    pub chain: Chain,
    /// Open sinks, by the numbers the chain uses.
    pub sinks: Vec<Sink>,
    /// Edges by id.
    pub writers: BTreeMap<EdgeId, EdgeWriter>,
    /// Counters of the task.
    pub counters: Arc<TaskCounters>,
    /// The clock.
    pub clock: Arc<dyn Clock>,
    /// Longest wait of a row, and of a sink that may be watched by a person.
    pub flush_interval: Duration,
    /// When the sinks are to be flushed, if they have got rows since.
    pub sinks_due: Option<Duration>,
    /// When the size of the state is asked for next.
    pub state_due: Duration,
    /// Where cuts go; absent when the job takes no checkpoints.
    pub cuts: Option<Arc<dyn Cuts>>,
    /// How long sinks took at the cut at hand.
    pub freeze: Duration,
    /// What the task holds of the worker's memory.
    pub memory: MemoryShare,
    /// The newest cut's part of it, until that is written.
    pub frozen: Weak<FrozenShare>,
    /// Not before this is state put on disk.
    pub spill_after: Duration,
    /// When the task stops waiting for room, because a barrier has waited long enough.
    pub hurry: Arc<Hurry>,
    /// A barrier is on its way through the chain.
    pub is_cutting: bool,
    /// Checkpoints that were committed since the task runs.
    pub completed_count: u32,
}

/// A cut through the stream of a task.
#[derive(Debug)]
pub struct CutHere {
    /// The barrier, as it goes on.
    pub barrier: Barrier,
    /// When the first barrier of the checkpoint came, monotonic.
    pub began_at: Duration,
    /// Where the source of the task stands.
    pub splits: Vec<SplitState>,
    /// What the barrier has overtaken in the gate.
    pub in_flight: Option<InFlight>,
}

impl Runner {
    /// Sends everything that follows from the last call of the chain, however many steps that takes.
    pub async fn settle(&mut self) -> Result<(), TaskError> {
        loop {
            while let Some(pending) = self.chain.pop() {
                self.deliver(pending).await?;
            }
            if !self.chain.advance()? {
                break;
            }
            // Ten million windows that fire at once do not keep other tasks from the thread.
            tokio::task::yield_now().await;
        }
        self.look_at_state();
        Ok(())
    }

    async fn deliver(&mut self, pending: Pending) -> Result<(), TaskError> {
        match pending {
            Pending::Edge(edge, element) => {
                let Some(writer) = self.writers.get_mut(&edge) else {
                    return Err(TaskError::internal("internal", format!("edge {edge} has no writer in this task")));
                };
                // An operator with more to emit could fill the memory; it goes on at the pace of its receivers, and the
                // barrier waits for it. What operators only hold back is little, and goes out in front of the barrier.
                let may_hurry = self.is_cutting || !self.chain.is_unfinished();
                let hurry = may_hurry.then_some(self.hurry.as_ref());
                let write = writer.write(element, self.clock.monotonic(), hurry);
                self.counters.watch(Doing::BackPressured, write).await
            }
            Pending::Sink { sink, node, batch } => {
                let Sink { uid, writer, .. } = &mut self.sinks[sink];
                self.chain.sink_begins(node, &batch);
                let written = self.counters.watch(Doing::BackPressured, writer.write(batch)).await;
                self.sinks_due = Some(self.clock.monotonic() + self.flush_interval);
                let bad = written.map_err(|error| self.chain.blame(TaskError::of_operator(uid, &error)))?;
                self.chain.sink_wrote();
                self.chain.bad(node, bad)
            }
            Pending::SinkBarrier { sink, node, checkpoint } => {
                let began = self.clock.monotonic();
                let Sink { uid, writer, prepared, uncommitted, .. } = &mut self.sinks[sink];
                let output =
                    self.counters.watch(Doing::BackPressured, writer.prepare(Cut::Checkpoint(checkpoint))).await;
                let mut output = output.map_err(|error| TaskError::of_operator(uid, &error))?;
                let committables = std::mem::take(&mut output.committables);
                uncommitted.extend(committables.into_iter().map(|item| (checkpoint, item.description)));
                *prepared = Some(output);
                self.freeze += self.clock.monotonic().saturating_sub(began);
                self.chain.sink_froze(node, checkpoint)
            }
            Pending::SinkEnd { node } => {
                self.chain.sink_ended(node);
                Ok(())
            }
        }
    }

    fn look_at_state(&mut self) {
        let now = self.clock.monotonic();
        if now >= self.state_due {
            self.state_due = now + STATE_INTERVAL;
            self.measure_state();
            if self.memory.must_spill() && now >= self.spill_after {
                self.spill(now);
            }
        }
    }

    /// Gives an operator more rows of its state, and puts them on disk when memory is used up.
    pub fn restore_rows(&mut self, operator: &OperatorUid, table: StateTable) -> Result<(), TaskError> {
        self.chain.restore_rows(operator, table)?;
        self.measure_state();
        if self.memory.must_spill() {
            self.spill(self.clock.monotonic());
        }
        Ok(())
    }

    fn measure_state(&mut self) {
        let bytes = self.chain.state_bytes();
        if let Some(frozen) = self.frozen.upgrade() {
            frozen.has_left(self.memory.bytes().saturating_sub(bytes));
        }
        self.memory.set(bytes);
        self.counters.state_bytes.store(bytes as u64, Relaxed);
    }

    /// Puts state on disk. When that fails nothing is lost, the state stays where it is: sources slow down, and it is
    /// tried again.
    fn spill(&mut self, now: Duration) {
        if let Err(error) = self.chain.spill() {
            tracing::warn!("state stays in memory, and sources slow down: {error}");
            self.spill_after = now + SPILL_AGAIN;
        }
        self.measure_state();
    }

    /// When [`Runner::flush_due`] has something to do, if nothing else happens before.
    pub fn deadline(&self) -> Option<Duration> {
        self.writers.values().filter_map(EdgeWriter::deadline).chain(self.sinks_due).min()
    }

    /// Sends rows that have waited long enough.
    pub async fn flush_due(&mut self) -> Result<(), TaskError> {
        let now = self.clock.monotonic();
        if self.deadline().is_none_or(|deadline| deadline > now) {
            return Ok(());
        }
        for writer in self.writers.values_mut() {
            let flushed = writer.flush_due(now, Some(self.hurry.as_ref()));
            self.counters.watch(Doing::BackPressured, flushed).await?;
        }
        if self.sinks_due.is_some_and(|due| due <= now) {
            self.sinks_due = None;
            for Sink { uid, writer, .. } in &mut self.sinks {
                let flushed = self.counters.watch(Doing::BackPressured, writer.flush()).await;
                flushed.map_err(|error| TaskError::of_operator(uid, &error))?;
            }
        }
        Ok(())
    }

    /// Waits until [`Runner::flush_due`] has something to do; for ever when nothing waits.
    pub async fn wait_for_deadline(deadline: Option<Duration>, clock: &dyn Clock) {
        match deadline {
            Some(deadline) => clock.sleep(deadline.saturating_sub(clock.monotonic())).await,
            None => std::future::pending().await,
        }
    }

    /// The barrier of a checkpoint has come on all inputs, or overtakes: freezes the operators, lets the barrier through,
    /// and hands on what was frozen.
    pub async fn cut(&mut self, here: CutHere) -> Result<(), TaskError> {
        let CutHere { barrier, began_at, splits, in_flight } = here;
        let checkpoint = barrier.checkpoint;
        let Some(cuts) = self.cuts.clone() else {
            return Err(TaskError::internal("internal", "a barrier came, but this job takes no checkpoints"));
        };
        let aligned_at = self.clock.monotonic();
        self.freeze = Duration::ZERO;
        self.is_cutting = true;
        self.chain.barrier(barrier)?;
        self.freeze += self.clock.monotonic().saturating_sub(aligned_at);
        self.settle().await?;
        self.is_cutting = false;
        self.hurry.passed(checkpoint);
        let mut operators = self.chain.frozen();
        if let Some(head) = operators.first_mut() {
            head.splits = splits;
        }
        for sink in &mut self.sinks {
            let prepared = sink.prepared.take();
            if let (Some(operator), Some(prepared)) = (operators.get_mut(sink.node), prepared) {
                operator.tables = prepared.tables.into_iter().map(FrozenTable::from).collect();
                operator.sink_states = prepared.values;
                operator.committables = sink.uncommitted.iter().map(|(_, item)| item.clone()).collect();
            }
        }
        let alignment = aligned_at.saturating_sub(began_at);
        let (freeze, passed) = (self.freeze, self.chain.passed());
        let held = Arc::new(self.memory.frozen());
        self.frozen = Arc::downgrade(&held);
        cuts.taken(TaskSnapshot { checkpoint, operators, began_at, alignment, freeze, in_flight, passed, held });
        Ok(())
    }

    /// Sends a barrier on without a cut: the planted mistake `barrier-before-freeze`. The one of the cut comes behind it and
    /// says nothing any more.
    pub async fn forward(&mut self, barrier: Barrier) -> Result<(), TaskError> {
        let now = self.clock.monotonic();
        for writer in self.writers.values_mut() {
            writer.write(StreamElement::Barrier(barrier), now, None).await?;
        }
        Ok(())
    }

    /// The task cannot take part in a checkpoint.
    pub fn decline(&self, checkpoint: CheckpointId, error: TaskError) {
        if let Some(cuts) = &self.cuts {
            cuts.declined(checkpoint, error);
        }
    }

    /// A checkpoint is committed, with all output prepared up to it.
    pub fn completed(&mut self, checkpoint: CheckpointId) {
        self.completed_count += 1;
        if self.completed_count == CLEAN_CHECKPOINTS {
            self.chain.trust();
        }
        for sink in &mut self.sinks {
            while sink.uncommitted.front().is_some_and(|(of, _)| *of <= checkpoint) {
                sink.uncommitted.pop_front();
            }
        }
    }

    /// All input is processed: makes the output of all sinks ready for the commit.
    pub async fn prepare(&mut self) -> Result<Prepared, TaskError> {
        let mut prepared = Prepared { operators: self.chain.ended(), ..Prepared::default() };
        for Sink { uid, writer, node, uncommitted, .. } in &mut self.sinks {
            let output = self.counters.watch(Doing::BackPressured, writer.prepare(Cut::End)).await;
            let output = output.map_err(|error| TaskError::of_operator(uid, &error))?;
            let operator = &mut prepared.operators[*node];
            let earlier = uncommitted.drain(..).map(|(_, item)| item);
            let last = output.committables.iter().map(|item| item.description.clone());
            operator.committables = earlier.chain(last).collect();
            let (sink, subtask) = (uid.clone(), operator.subtask);
            let committable =
                |description: &Value| Committable { sink: sink.clone(), subtask, description: description.clone() };
            prepared.committables.extend(operator.committables.iter().map(committable));
            operator.sink_states = output.values;
            operator.tables = output.tables.into_iter().map(FrozenTable::from).collect();
            prepared.totals.push((uid.clone(), writer.report()));
        }
        Ok(prepared)
    }

    /// The attempt is over without a commit: sinks remove what they wrote, each even if another one panics.
    pub async fn abort(&mut self) {
        for Sink { uid, writer, .. } in &mut self.sinks {
            let aborted = std::panic::AssertUnwindSafe(writer.abort()).catch_unwind().await;
            if let Err(payload) = aborted {
                tracing::error!(operator = %uid, "sink panicked while it removed its output: {}", TaskError::panic(payload.as_ref()));
            }
        }
    }
}
