//! One task from deployment to its end: build, wait for the start, run, prepare or remove. Panics are caught here; a
//! task that has ended leaves nothing behind. `agent` spawns it on the data threads.

use std::panic::AssertUnwindSafe;

use futures::FutureExt;
use tokio::sync::{mpsc, watch};
use tokio_util::sync::CancellationToken;

use super::build::{Built, Head, TaskParts};
use super::orders::TaskOrder;
use super::runner::{Prepared, Runner};
use super::{operator_task, source_task};
use crate::error::TaskError;

/// How sources end.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum StopMode {
    /// A last watermark of MAX goes out: open windows fire.
    Drain,
    /// Open windows stay silent.
    NoDrain,
}

/// How a task ended.
#[derive(Debug)]
pub enum Outcome {
    /// All input processed.
    Finished(Prepared),
    /// Stopped on order.
    Canceled,
    /// Ended by an error.
    Failed(TaskError),
}

/// What a task listens to.
#[derive(Clone, Debug)]
pub struct Signals {
    /// End now.
    pub cancel: CancellationToken,
    /// True when all tasks of the job are deployed.
    pub start: watch::Receiver<bool>,
    /// End of the sources.
    pub stop: watch::Receiver<Option<StopMode>>,
}

/// A task has come this far.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Milestone {
    /// Operators, readers and writers are open.
    Initialized,
    /// It processes.
    Running,
}

/// Runs one task to its end. `reached` is told of milestones.
pub async fn supervise(
    parts: TaskParts,
    mut signals: Signals,
    mut orders: mpsc::Receiver<TaskOrder>,
    mut reached: impl FnMut(Milestone),
) -> Outcome {
    // Opening is not cut short by a cancel: what has been opened must be known to be removed. It is bounded by its
    // timeout.
    let opened = AssertUnwindSafe(parts.build()).catch_unwind().await;
    let Built { mut runner, mut head } = match opened {
        Ok(Ok(built)) => built,
        Ok(Err(error)) => return Outcome::Failed(error),
        Err(payload) => return Outcome::Failed(TaskError::panic(payload.as_ref())),
    };
    let cancel = signals.cancel.clone();
    let ran = tokio::select! {
        biased;
        () = cancel.cancelled() => None,
        ran = AssertUnwindSafe(run(&mut runner, &mut head, (&mut signals, &mut orders), &mut reached)).catch_unwind() => Some(ran),
    };
    let outcome = match ran {
        None => Outcome::Canceled,
        Some(Ok(Ok(prepared))) => return Outcome::Finished(prepared),
        Some(Ok(Err(error))) => Outcome::Failed(error),
        Some(Err(payload)) => Outcome::Failed(runner.chain.blame(TaskError::panic(payload.as_ref()))),
    };
    runner.abort().await;
    outcome
}

async fn run(
    runner: &mut Runner,
    head: &mut Head,
    (signals, orders): (&mut Signals, &mut mpsc::Receiver<TaskOrder>),
    reached: &mut impl FnMut(Milestone),
) -> Result<Prepared, TaskError> {
    reached(Milestone::Initialized);
    if signals.start.wait_for(|is_started| *is_started).await.is_err() {
        // Nobody is left who could start it; the attempt is being cancelled.
        std::future::pending::<()>().await;
    }
    runner.counters.restart();
    reached(Milestone::Running);
    // What a restore has to tell everyone downstream goes first.
    runner.settle().await?;
    let mut splits = Vec::new();
    match head {
        Head::Source(source) => {
            source_task::run(runner, source, &mut signals.stop, orders).await?;
            // Without positions no checkpoint was taken either.
            splits = source_task::positions(source).unwrap_or_default();
        }
        Head::Gate(gate) => operator_task::run(runner, gate, orders).await?,
    }
    let mut prepared = runner.prepare().await?;
    if let Some(head) = prepared.operators.first_mut() {
        head.splits = splits;
    }
    Ok(prepared)
}
