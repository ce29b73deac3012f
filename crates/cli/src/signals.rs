//! SIGINT and SIGTERM: the first asks for an end in order, the second ends the process at once.

use anyhow::Context;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio_util::sync::CancellationToken;

/// Exit code of a process that a signal ended, as shells have it for SIGINT.
const EXIT_BY_SIGNAL: i32 = 130;

/// The two signals that end a process.
#[derive(Debug)]
pub struct Signals {
    interrupt: Signal,
    terminate: Signal,
}

impl Signals {
    /// From now on the signals no longer end the process by themselves.
    pub fn listen() -> anyhow::Result<Self> {
        let interrupt = signal(SignalKind::interrupt()).context("listen for SIGINT")?;
        Ok(Signals { interrupt, terminate: signal(SignalKind::terminate()).context("listen for SIGTERM")? })
    }

    /// Waits for a signal.
    ///
    /// **Cancel safety**: safe; no signal is lost.
    pub async fn next(&mut self) {
        tokio::select! {
            _ = self.interrupt.recv() => {}
            _ = self.terminate.recv() => {}
        }
    }

    /// From now on a signal ends the process at once.
    pub fn end_at_next(mut self) {
        tokio::spawn(async move {
            self.next().await;
            std::process::exit(EXIT_BY_SIGNAL);
        });
    }
}

/// A token that the first signal cancels; the second ends the process at once.
pub fn shutdown() -> anyhow::Result<CancellationToken> {
    let mut signals = Signals::listen()?;
    let shutdown = CancellationToken::new();
    let token = shutdown.clone();
    tokio::spawn(async move {
        signals.next().await;
        tracing::info!("asked to end");
        token.cancel();
        signals.end_at_next();
    });
    Ok(shutdown)
}
