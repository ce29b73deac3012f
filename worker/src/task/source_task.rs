//! The loop of a task that begins with a source: commands first, then one event of the reader, through the chain, on.

use std::future::Future;
use std::pin::pin;
use std::task::Poll;
use std::time::Duration;

use tokio::sync::watch;
use weir_core::{EventTime, OperatorUid};
use weir_operator_api::{SourceEvent, SourceReader, Split, SplitEvent};

use super::counters::Doing;
use super::runner::Runner;
use super::supervise::StopMode;
use crate::error::TaskError;

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
        let Some(event) = next(runner, source, stop, &mut waited).await? else { continue };
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

/// The next event; `None` when a stop was ordered. While the reader has nothing, tells the chain how long, and flushes.
async fn next(
    runner: &mut Runner,
    source: &mut Source,
    stop: &mut watch::Receiver<Option<StopMode>>,
    waited: &mut Duration,
) -> Result<Option<SourceEvent>, TaskError> {
    let uid = source.uid.clone();
    let mut event = pin!(source.reader.next());
    let failed = |error| TaskError::of_operator(&uid, &error);
    // Most events are there at once and need no timer.
    if let Poll::Ready(event) = poll_once(event.as_mut()).await {
        return event.map(Some).map_err(failed);
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
            Woken::Stop(true) => return Ok(None),
            // Nobody is left who could order a stop; the attempt is being cancelled.
            Woken::Stop(false) => std::future::pending().await,
            Woken::Event(event) => return event.map(Some).map_err(failed),
            Woken::Timer => runner.flush_due().await?,
        }
    }
}

enum Woken {
    Stop(bool),
    Event(weir_operator_api::Result<SourceEvent>),
    Timer,
}

async fn poll_once<F: Future>(mut future: std::pin::Pin<&mut F>) -> Poll<F::Output> {
    std::future::poll_fn(|context| Poll::Ready(future.as_mut().poll(context))).await
}
