//! The loop of a task that is fed by exchanges: next element out of the gate, through the chain, on. A barrier that has
//! waited long enough comes first: between two elements it overtakes what is in the gate.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::mpsc;
use weir_core::planted::{self, planted};
use weir_core::{Barrier, CheckpointId, EventTime, Passage, StreamElement};

use super::counters::Doing;
use super::orders::TaskOrder;
use super::runner::{CutHere, Runner};
use crate::error::TaskError;
use crate::input::align::Verdict;
use crate::input::watermark::Change;
use crate::input::{Aligner, Gate, InFlight, Received, WatermarkValve};

struct Loop<'a> {
    runner: &'a mut Runner,
    gate: &'a mut Gate,
    valve: WatermarkValve,
    aligner: Aligner,
    /// When the first barrier of the checkpoint at hand was met, monotonic.
    began_at: Duration,
    /// Whether the barrier at hand may overtake further down.
    passage: Passage,
    /// A cut that a planted mistake puts behind one more batch.
    late_cut: Option<Barrier>,
}

/// What woke the loop.
enum Woken {
    Received(Received),
    Order(Option<TaskOrder>),
    Timer,
    Hurry,
}

/// Runs until all channels have ended. Dropped to cancel.
pub async fn run(
    runner: &mut Runner,
    gate: &mut Gate,
    orders: &mut mpsc::Receiver<TaskOrder>,
) -> Result<(), TaskError> {
    let (channels, watermark) = (gate.channel_count(), runner.chain.head_watermark());
    // The end of an earlier attempt's input is no time.
    let watermark = if watermark == EventTime::MAX { EventTime::MIN } else { watermark };
    let valve = match gate.restored_watermarks() {
        Some(channels) => WatermarkValve::continued(&channels, watermark),
        None => WatermarkValve::restored(channels, watermark),
    };
    let aligner = Aligner::new(channels);
    let mut task =
        Loop { runner, gate, valve, aligner, began_at: Duration::ZERO, passage: Passage::Waits, late_cut: None };
    if channels == 0 {
        // Fewer senders than receivers, each with one of its own: for the others nothing will ever come.
        let end = Change { watermark: Some(EventTime::MAX), has_ended: true, ..Change::default() };
        return task.apply(end).await;
    }
    loop {
        if let Some(checkpoint) = task.runner.hurry.overtaking() {
            task.overtake(checkpoint).await?;
        }
        let woken = match task.gate.try_next()? {
            Some(received) => Woken::Received(received),
            None => task.wait(orders).await?,
        };
        match woken {
            Woken::Received(received) => {
                if task.take(received).await? {
                    return Ok(());
                }
            }
            Woken::Order(Some(order)) => task.obey(&order),
            Woken::Order(None) | Woken::Timer | Woken::Hurry => {}
        }
        while let Ok(order) = orders.try_recv() {
            task.obey(&order);
        }
        task.runner.flush_due().await?;
    }
}

impl Loop<'_> {
    /// Waits for an element, an order, or the moment in which something is to be flushed.
    async fn wait(&mut self, orders: &mut mpsc::Receiver<TaskOrder>) -> Result<Woken, TaskError> {
        let runner = &*self.runner;
        let (deadline, clock, counters) = (runner.deadline(), Arc::clone(&runner.clock), Arc::clone(&runner.counters));
        let hurry = Arc::clone(&runner.hurry);
        let wait = async {
            tokio::select! {
                biased;
                received = self.gate.next() => received.map(Woken::Received),
                order = orders.recv(), if !orders.is_closed() => Ok(Woken::Order(order)),
                () = Runner::wait_for_deadline(deadline, clock.as_ref()) => Ok(Woken::Timer),
                () = hurry.wait() => Ok(Woken::Hurry),
            }
        };
        counters.watch(Doing::Idle, wait).await
    }

    /// Takes one element; `true` when it was the last.
    async fn take(&mut self, Received { channel, element }: Received) -> Result<bool, TaskError> {
        let is_batch = matches!(element, StreamElement::Batch(_));
        let change = match element {
            StreamElement::Batch(batch) => {
                self.runner.chain.process(self.gate.input_of(channel), batch)?;
                self.runner.settle().await?;
                if let Some(barrier) = self.late_cut.take() {
                    self.cut(barrier, None).await?;
                }
                Change::default()
            }
            StreamElement::Watermark(watermark) => self.valve.on_watermark(channel, watermark),
            StreamElement::Idle => self.valve.on_idle(channel),
            StreamElement::Active => self.valve.on_active(channel),
            StreamElement::EndOfInput => {
                // The end stands for every barrier; it belongs in front of the cut it completes.
                let verdict = self.aligner.on_end(channel);
                self.aligned(channel, verdict).await?;
                self.valve.on_end(channel)
            }
            StreamElement::Barrier(barrier) => {
                if self.aligner.current() != Some(barrier.checkpoint) {
                    self.began_at = self.runner.clock.monotonic();
                    self.passage = barrier.passage;
                }
                self.passage = self.passage.max(barrier.passage);
                let verdict = self.aligner.on_barrier(channel, barrier.checkpoint);
                self.aligned(channel, verdict).await?;
                Change::default()
            }
        };
        self.apply(change).await?;
        if is_batch {
            // Tasks share threads; each gets its turn after every batch.
            tokio::task::yield_now().await;
        }
        Ok(change.has_ended)
    }

    fn obey(&mut self, order: &TaskOrder) {
        match order {
            TaskOrder::Aborted(checkpoint) => {
                self.runner.hurry.passed(*checkpoint);
                self.gate.give_up(*checkpoint);
                if self.aligner.on_abort(*checkpoint) == Verdict::Released {
                    self.gate.unblock_all();
                }
            }
            TaskOrder::Completed(checkpoint) => self.runner.completed(*checkpoint),
            // Barriers come through the channels.
            TaskOrder::Trigger { .. } => {}
        }
    }

    async fn aligned(&mut self, channel: usize, verdict: Verdict) -> Result<(), TaskError> {
        match verdict {
            Verdict::Nothing | Verdict::Released => Ok(()),
            Verdict::Blocked { is_first } => {
                if is_first {
                    self.gate.unblock_all();
                }
                self.gate.block(channel);
                Ok(())
            }
            Verdict::Complete(checkpoint) => {
                let barrier = Barrier { checkpoint, passage: self.passage };
                if planted(planted::BARRIER_BEFORE_FREEZE) {
                    self.runner.forward(barrier).await?;
                    self.late_cut = Some(barrier);
                } else {
                    self.cut(barrier, None).await?;
                }
                self.gate.unblock_all();
                Ok(())
            }
        }
    }

    /// The time of an alignment is over: the cut is here, and what the barrier overtakes belongs to the checkpoint.
    async fn overtake(&mut self, checkpoint: CheckpointId) -> Result<(), TaskError> {
        let Some(passed) = self.aligner.on_overtake(checkpoint) else {
            self.runner.hurry.passed(checkpoint);
            return Ok(());
        };
        let in_flight = self.gate.overtake(checkpoint, &passed, &self.valve.channel_watermarks());
        self.cut(Barrier { checkpoint, passage: Passage::Overtakes }, Some(in_flight)).await
    }

    async fn cut(&mut self, barrier: Barrier, in_flight: Option<InFlight>) -> Result<(), TaskError> {
        let began_at = self.runner.hurry.came_at(barrier.checkpoint).unwrap_or(self.began_at);
        self.runner.cut(CutHere { barrier, began_at, splits: Vec::new(), in_flight }).await
    }

    async fn apply(&mut self, change: Change) -> Result<(), TaskError> {
        let runner = &mut *self.runner;
        if change.is_idle == Some(false) {
            runner.chain.idle(false)?;
            runner.settle().await?;
        }
        for watermark in [change.end_time, change.watermark].into_iter().flatten() {
            runner.chain.watermark(watermark)?;
            runner.settle().await?;
        }
        if change.is_idle == Some(true) {
            runner.chain.idle(true)?;
            runner.settle().await?;
        }
        if change.has_ended {
            runner.chain.end()?;
            runner.settle().await?;
        }
        Ok(())
    }
}
