//! The loop of a task that begins with a source: orders first, then one event of the reader, through the chain, on.
//! A barrier goes into the stream between two events, with the reader's positions as they are there.

use std::future::Future;
use std::pin::pin;
use std::task::Poll;
use std::time::Duration;

use tokio::sync::{mpsc, watch};
use weir_checkpoint::SplitState;
use weir_core::planted::{self, planted};
use weir_core::{Barrier, EventTime, OperatorUid, Passage};
use weir_operator_api::{SourceEvent, SourceReader, Split, SplitEvent};

use super::counters::Doing;
use super::orders::{AfterBarrier, TaskOrder};
use super::runner::{CutHere, Runner};
use super::supervise::StopMode;
use crate::error::TaskError;

/// How long the planted mistake `offsets-after-barrier` waits for a batch.
const PLANTED_PATIENCE: Duration = Duration::from_millis(50);

/// The source of a task.
pub struct Source {
    /// Its name.
    pub uid: OperatorUid,
    /// Its reader.
    pub reader: Box<dyn SourceReader>,
    /// The splits it reads.
    pub splits: Vec<Split>,
    /// How often waiting is reported to the chain.
    pub watermark_interval: Duration,
}

/// Runs until the source ends or a stop is ordered. Dropped to cancel.
pub async fn run(
    runner: &mut Runner,
    source: &mut Source,
    stop: &mut watch::Receiver<Option<StopMode>>,
    orders: &mut mpsc::Receiver<TaskOrder>,
) -> Result<(), TaskError> {
    for split in &source.splits {
        if source.reader.holds_watermark(split) {
            runner.chain.split(SplitEvent::Added(split.index))?;
        }
    }
    runner.settle().await?;
    let mut waited = Duration::ZERO;
    let drain = loop {
        if let Some(mode) = *stop.borrow_and_update() {
            break mode;
        }
        let mut is_over = false;
        while let Ok(order) = orders.try_recv() {
            is_over |= obey(runner, source, order).await?;
        }
        if is_over {
            break StopMode::NoDrain;
        }
        if let Some(pause) = runner.memory.pause() {
            let pause = runner.clock.sleep(pause);
            runner.counters.watch(Doing::BackPressured, pause).await;
        }
        let event = match next(runner, source, (&mut *stop, &mut *orders), &mut waited).await? {
            Next::Event(event) => event,
            Next::Order(order) if obey(runner, source, order).await? => break StopMode::NoDrain,
            Next::Order(_) | Next::Stop => continue,
        };
        match event {
            SourceEvent::Batch(batch) => runner.chain.emit_source(batch)?,
            SourceEvent::Bad(bad) => runner.chain.bad(0, bad)?,
            SourceEvent::SplitFinished(split) => runner.chain.split(SplitEvent::Finished(split))?,
            SourceEvent::EndOfInput => break StopMode::Drain,
        }
        runner.settle().await?;
        runner.flush_due().await?;
        tokio::task::yield_now().await;
    };
    if drain == StopMode::Drain {
        runner.chain.watermark(EventTime::MAX)?;
        runner.settle().await?;
    }
    runner.chain.end()?;
    runner.settle().await
}

/// Obeys an order; `true` when nothing is to be read after it.
async fn obey(runner: &mut Runner, source: &mut Source, order: TaskOrder) -> Result<bool, TaskError> {
    let (barrier, after) = match order {
        TaskOrder::Trigger { barrier, after } => (barrier, after),
        TaskOrder::Completed(checkpoint) => {
            runner.completed(checkpoint);
            return Ok(false);
        }
        // A source never waits for a barrier.
        TaskOrder::Aborted(checkpoint) => {
            runner.hurry.passed(checkpoint);
            return Ok(false);
        }
    };
    let checkpoint = barrier.checkpoint;
    let ahead = match planted(planted::OFFSETS_AFTER_BARRIER) {
        true => read_ahead(runner.clock.sleep(PLANTED_PATIENCE), source).await,
        false => None,
    };
    let splits = match positions(source) {
        Ok(splits) => splits,
        Err(error) => {
            runner.hurry.passed(checkpoint);
            runner.decline(checkpoint, error);
            return Ok(false);
        }
    };
    if after == AfterBarrier::Drain {
        runner.chain.watermark(EventTime::MAX)?;
        runner.settle().await?;
    }
    cut(runner, barrier, splits).await?;
    match ahead {
        Some(SourceEvent::Batch(batch)) => runner.chain.emit_source(batch)?,
        Some(SourceEvent::SplitFinished(split)) => runner.chain.split(SplitEvent::Finished(split))?,
        _ => return Ok(after != AfterBarrier::GoOn),
    }
    runner.settle().await?;
    Ok(after != AfterBarrier::GoOn)
}

/// What a planted mistake reads before it notes the positions.
async fn read_ahead(patience: impl Future<Output = ()>, source: &mut Source) -> Option<SourceEvent> {
    tokio::select! {
        event = source.reader.next() => event.ok(),
        () = patience => None,
    }
}

async fn cut(runner: &mut Runner, barrier: Barrier, splits: Vec<SplitState>) -> Result<(), TaskError> {
    let checkpoint = barrier.checkpoint;
    let began_at = runner.hurry.came_at(checkpoint).unwrap_or_else(|| runner.clock.monotonic());
    // A source that waited for room for so long that its rows went out without it passes that on.
    let is_late = runner.hurry.overtaking() == Some(checkpoint);
    let passage = if is_late { Passage::Overtakes } else { barrier.passage };
    runner.cut(CutHere { barrier: Barrier { checkpoint, passage }, began_at, splits, in_flight: None }).await
}

/// Where the reader stands in each split.
pub fn positions(source: &Source) -> Result<Vec<SplitState>, TaskError> {
    let positions = source.reader.positions().map_err(|error| TaskError::of_operator(&source.uid, &error))?;
    let split = |split: &Split| {
        let at = positions.iter().find(|position| position.split == split.index);
        SplitState {
            index: split.index,
            description: split.description.clone(),
            // A split of which the reader says nothing was not begun since it was given out.
            position: at.map_or_else(|| split.position.clone(), |at| at.position.clone()),
            is_finished: at.is_some_and(|at| at.is_finished),
        }
    };
    Ok(source.splits.iter().map(split).collect())
}

/// What comes next to a source.
enum Next {
    Event(SourceEvent),
    Order(TaskOrder),
    Stop,
}

/// The next event or order. While the reader has nothing, tells the chain how long, and flushes.
async fn next(
    runner: &mut Runner,
    source: &mut Source,
    (stop, orders): (&mut watch::Receiver<Option<StopMode>>, &mut mpsc::Receiver<TaskOrder>),
    waited: &mut Duration,
) -> Result<Next, TaskError> {
    let uid = source.uid.clone();
    let mut event = pin!(source.reader.next());
    let failed = |error| TaskError::of_operator(&uid, &error);
    // Most events are there at once and need no timer.
    if let Poll::Ready(event) = poll_once(event.as_mut()).await {
        return event.map(Next::Event).map_err(failed);
    }
    let clock = runner.clock.clone();
    loop {
        let began = clock.monotonic();
        let report_at = began + source.watermark_interval.saturating_sub(*waited);
        let wake_at = runner.deadline().map_or(report_at, |deadline| deadline.min(report_at));
        let wait = async {
            tokio::select! {
                biased;
                changed = stop.changed() => Woken::Stop(changed.is_ok()),
                Some(order) = orders.recv() => Woken::Order(order),
                event = &mut event => Woken::Event(event),
                () = Runner::wait_for_deadline(Some(wake_at), clock.as_ref()) => Woken::Timer,
            }
        };
        let woken = runner.counters.watch(Doing::Idle, wait).await;
        *waited += clock.monotonic().saturating_sub(began);
        if *waited >= source.watermark_interval {
            let waited_us = std::mem::take(waited).as_micros() as i64;
            runner.chain.split(SplitEvent::Waited { waited_us })?;
            runner.settle().await?;
        }
        match woken {
            Woken::Stop(true) => return Ok(Next::Stop),
            Woken::Order(order) => return Ok(Next::Order(order)),
            // Nobody is left who could order a stop; the attempt is being cancelled.
            Woken::Stop(false) => std::future::pending().await,
            Woken::Event(event) => return event.map(Next::Event).map_err(failed),
            Woken::Timer => runner.flush_due().await?,
        }
    }
}

enum Woken {
    Stop(bool),
    Order(TaskOrder),
    Event(weir_operator_api::Result<SourceEvent>),
    Timer,
}

async fn poll_once<F: Future>(mut future: std::pin::Pin<&mut F>) -> Poll<F::Output> {
    std::future::poll_fn(|context| Poll::Ready(future.as_mut().poll(context))).await
}
