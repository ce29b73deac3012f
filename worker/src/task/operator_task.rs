//! The loop of a task that is fed by exchanges: next element out of the gate, through the chain, on.

use std::sync::Arc;

use weir_core::StreamElement;

use super::counters::Doing;
use super::runner::Runner;
use crate::error::TaskError;
use crate::input::watermark::Change;
use crate::input::{Gate, Received, WatermarkValve};

/// Runs until all channels have ended. Dropped to cancel.
pub async fn run(runner: &mut Runner, gate: &mut Gate) -> Result<(), TaskError> {
    let mut valve = WatermarkValve::new(gate.channel_count());
    loop {
        let received = match gate.try_next()? {
            Some(received) => Some(received),
            None => wait(runner, gate).await?,
        };
        if let Some(Received { channel, element }) = received {
            let is_batch = matches!(element, StreamElement::Batch(_));
            let change = match element {
                StreamElement::Batch(batch) => {
                    runner.chain.process(gate.input_of(channel), batch)?;
                    runner.settle().await?;
                    Change::default()
                }
                StreamElement::Watermark(watermark) => valve.on_watermark(channel, watermark),
                StreamElement::Idle => valve.on_idle(channel),
                StreamElement::Active => valve.on_active(channel),
                StreamElement::EndOfInput => valve.on_end(channel),
                StreamElement::Barrier(_) => {
                    return Err(TaskError::internal("internal", "a barrier came, but this job takes no checkpoints"));
                }
            };
            apply(runner, change).await?;
            if change.has_ended {
                return Ok(());
            }
            if is_batch {
                // Tasks share threads; each gets its turn after every batch.
                tokio::task::yield_now().await;
            }
        }
        runner.flush_due().await?;
    }
}

/// Waits for an element; `None` when something is to be flushed first.
async fn wait(runner: &mut Runner, gate: &mut Gate) -> Result<Option<Received>, TaskError> {
    let (deadline, clock, counters) = (runner.deadline(), Arc::clone(&runner.clock), Arc::clone(&runner.counters));
    let wait = async {
        tokio::select! {
            biased;
            received = gate.next() => received.map(Some),
            () = Runner::wait_for_deadline(deadline, clock.as_ref()) => Ok(None),
        }
    };
    counters.watch(Doing::Idle, wait).await
}

async fn apply(runner: &mut Runner, change: Change) -> Result<(), TaskError> {
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
