//! The one door out to a worker: deploy, start, cancel, stop, checkpoint, publish. Every order carries its fencing token. A link
//! never waits: its queue is bounded, and a worker that does not take orders from a full queue is as good as dead.

use std::sync::{Arc, OnceLock};

use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;
use weir_core::WorkerId;
use weir_proto::v1::coordinator_message::Message;
use weir_proto::v1::{
    Cancel, CheckpointAborted, CheckpointCompleted, CoordinatorMessage, Deploy, FencingToken, Publish, Start, Stop,
    TriggerCheckpoint,
};

/// Orders that may wait for the network. A worker gets about three per job, and two and one per sink for each checkpoint, so that this is far more
/// than a worker that still reads can leave lying.
pub(crate) const ORDERS_MAX: usize = 4096;

/// Orders to one attached worker; cheap to clone.
#[derive(Clone, Debug)]
pub(crate) struct WorkerLink {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    worker: WorkerId,
    data_address: String,
    orders: mpsc::Sender<CoordinatorMessage>,
    lost: CancellationToken,
    why_lost: OnceLock<String>,
}

impl WorkerLink {
    /// A link to `worker` whose orders leave by `orders`.
    pub(crate) fn new(worker: WorkerId, data_address: String, orders: mpsc::Sender<CoordinatorMessage>) -> Self {
        let lost = CancellationToken::new();
        WorkerLink { inner: Arc::new(Inner { worker, data_address, orders, lost, why_lost: OnceLock::new() }) }
    }

    /// Who is at the other end.
    pub(crate) fn worker(&self) -> &WorkerId {
        &self.inner.worker
    }

    /// Where the worker takes data.
    pub(crate) fn data_address(&self) -> &str {
        &self.inner.data_address
    }

    /// Ends when the worker is given up. Everyone who has something on it listens.
    pub(crate) fn lost(&self) -> &CancellationToken {
        &self.inner.lost
    }

    /// Gives the worker up; the first reason stays.
    pub(crate) fn give_up(&self, why: &str) {
        self.inner.why_lost.get_or_init(|| why.to_owned());
        self.inner.lost.cancel();
    }

    /// Why the worker was given up.
    pub(crate) fn why_lost(&self) -> &str {
        self.inner.why_lost.get().map_or("", String::as_str)
    }

    /// Whether both are the same attachment, not only the same worker.
    pub(crate) fn is(&self, other: &WorkerLink) -> bool {
        Arc::ptr_eq(&self.inner, &other.inner)
    }

    /// Builds tasks.
    pub(crate) fn deploy(&self, order: Deploy) {
        self.send(Message::Deploy(order));
    }

    /// Lets all tasks of the attempt process.
    pub(crate) fn start(&self, token: FencingToken) {
        self.send(Message::Start(Start { token: Some(token) }));
    }

    /// Stops all tasks of the attempt.
    pub(crate) fn cancel(&self, token: FencingToken) {
        self.send(Message::Cancel(Cancel { token: Some(token) }));
    }

    /// Ends the sources of the attempt.
    pub(crate) fn stop(&self, token: FencingToken, drain: Drain) {
        self.send(Message::Stop(Stop { token: Some(token), drain: drain == Drain::Yes }));
    }

    /// Publishes or discards the output of one sink.
    pub(crate) fn publish(&self, order: Publish) {
        self.send(Message::Publish(order));
    }

    /// Puts a barrier into the sources.
    pub(crate) fn trigger_checkpoint(&self, order: TriggerCheckpoint) {
        self.send(Message::TriggerCheckpoint(order));
    }

    /// A checkpoint is committed and its output published.
    pub(crate) fn checkpoint_completed(&self, order: CheckpointCompleted) {
        self.send(Message::CheckpointCompleted(order));
    }

    /// A checkpoint has come to nothing.
    pub(crate) fn checkpoint_aborted(&self, order: CheckpointAborted) {
        self.send(Message::CheckpointAborted(order));
    }

    fn send(&self, message: Message) {
        let sent = self.inner.orders.try_send(CoordinatorMessage { message: Some(message) });
        if let Err(mpsc::error::TrySendError::Full(_)) = sent {
            self.give_up("it does not take its orders");
        }
        // A closed queue needs no word: the end of the connection is seen by its reader, which reports it.
    }
}

/// Whether open windows fire when a job is stopped.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Drain {
    /// A last watermark of MAX is sent.
    Yes,
    /// Windows that are open stay so.
    No,
}
