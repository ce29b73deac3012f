//! The door for data of other workers: checks who sends, keeps each channel's order, fills the gates, sends room back.
//! `agent` registers the channels of an attempt when it is deployed and removes them when it has ended.

use std::collections::{BTreeMap, BTreeSet};
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use futures::Stream;
use parking_lot::Mutex;
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tonic::{Request, Response, Status, Streaming};
use weir_core::{FencingToken, JobId};
use weir_proto::v1::exchange_service_server::{ExchangeService, ExchangeServiceServer};
use weir_proto::v1::{Credit, Frame, FrameKind};

use super::channel::ChannelKey;
use super::frame::{self, FRAME_BYTES_MAX};
use crate::error::{EXCHANGE_FRAME, EXCHANGE_LOST, TaskError};
use crate::input::gate::{ChannelInput, Gate, RemoteGateSender, ReturnCredit};

/// One attempt of one job.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct AttemptKey {
    /// Which job.
    pub job: JobId,
    /// Which attempt, under which leader.
    pub token: FencingToken,
}

/// Room of one channel on its way back to the sender.
#[derive(Debug)]
struct Returns {
    channel: ChannelKey,
    /// Consumed and not yet told. Told when it reaches a quarter of the credit: a sender without room has all of its
    /// credit here or in the gate, so that the quarter is always reached.
    consumed: AtomicUsize,
    threshold: usize,
    stream: Mutex<Option<Arc<Due>>>,
}

/// What one stream owes to its sender; bounded by its channels.
#[derive(Debug, Default)]
struct Due {
    bytes: Mutex<BTreeMap<ChannelKey, usize>>,
    wake: Notify,
}

impl ReturnCredit for Returns {
    fn give_back(&self, bytes: usize) {
        let consumed = self.consumed.fetch_add(bytes, Ordering::AcqRel) + bytes;
        if consumed < self.threshold {
            return;
        }
        if let Some(due) = &*self.stream.lock() {
            let bytes = self.consumed.swap(0, Ordering::AcqRel);
            *due.bytes.lock().entry(self.channel).or_default() += bytes;
            due.wake.notify_one();
        }
    }
}

#[derive(Debug)]
struct RemoteChannel {
    gate: RemoteGateSender,
    returns: Arc<Returns>,
}

/// The channels of one attempt that other workers fill.
#[derive(Debug, Default)]
pub struct AttemptInbox {
    channels: BTreeMap<ChannelKey, RemoteChannel>,
    cancel: CancellationToken,
}

impl AttemptInbox {
    /// An attempt without channels; its streams end with `cancel`.
    pub fn new(cancel: CancellationToken) -> Self {
        AttemptInbox { channels: BTreeMap::new(), cancel }
    }

    /// Opens a channel into `gate`.
    pub fn open(&mut self, gate: &mut Gate, key: ChannelKey, input: ChannelInput, credit_bytes: usize) {
        let returns = Arc::new(Returns {
            channel: key,
            consumed: AtomicUsize::new(0),
            threshold: (credit_bytes / 4).max(1),
            stream: Mutex::new(None),
        });
        let gate = gate.open_remote(input, Arc::clone(&returns) as Arc<dyn ReturnCredit>, credit_bytes);
        self.channels.insert(key, RemoteChannel { gate, returns });
    }
}

/// All attempts that take data on this worker; cheap to clone.
#[derive(Clone, Debug, Default)]
pub struct Inbox {
    attempts: Arc<Mutex<BTreeMap<AttemptKey, Arc<AttemptInbox>>>>,
    streams: TaskTracker,
}

impl Inbox {
    /// Lets other workers reach the attempt.
    pub fn insert(&self, key: AttemptKey, attempt: AttemptInbox) {
        self.attempts.lock().insert(key, Arc::new(attempt));
    }

    /// Forgets the attempt; its streams end by themselves or by its token.
    pub fn remove(&self, key: AttemptKey) {
        self.attempts.lock().remove(&key);
    }

    /// Whether any attempt or stream is left, for tests and the orderly end.
    pub fn is_empty(&self) -> bool {
        self.attempts.lock().is_empty() && self.streams.is_empty()
    }

    /// The gRPC service.
    pub fn service(&self) -> ExchangeServiceServer<Inbox> {
        ExchangeServiceServer::new(self.clone())
            .max_decoding_message_size(FRAME_BYTES_MAX)
            .max_encoding_message_size(FRAME_BYTES_MAX)
    }

    #[allow(clippy::result_large_err, reason = "the error type of the service")]
    fn find(&self, hello: &Frame) -> Result<Arc<AttemptInbox>, Status> {
        if hello.kind != FrameKind::Hello as i32 {
            return Err(Status::invalid_argument("the first frame of a data stream must be HELLO"));
        }
        let (job, token) = weir_proto::convert::token_from_proto(hello.token.clone())
            .map_err(|error| Status::invalid_argument(error.to_string()))?;
        self.attempts.lock().get(&AttemptKey { job, token }).cloned().ok_or_else(|| {
            Status::failed_precondition(format!(
                "job {job} attempt {} of term {} does not run on this worker",
                token.attempt, token.term
            ))
        })
    }
}

type CreditStream = Pin<Box<dyn Stream<Item = Result<Credit, Status>> + Send>>;

#[tonic::async_trait]
impl ExchangeService for Inbox {
    type OpenStream = CreditStream;

    async fn open(&self, request: Request<Streaming<Frame>>) -> Result<Response<CreditStream>, Status> {
        let mut frames = request.into_inner();
        let hello = frames.message().await?.ok_or_else(|| Status::invalid_argument("an empty data stream"))?;
        let attempt = self.find(&hello)?;
        let due = Arc::new(Due::default());
        let closed = CancellationToken::new();
        let pump = Pump { attempt, due: Arc::clone(&due), sequences: BTreeMap::new(), open: BTreeSet::new() };
        let end = closed.clone().drop_guard();
        self.streams.spawn(async move {
            pump.run(frames).await;
            drop(end);
        });
        Ok(Response::new(Box::pin(credits(due, closed))))
    }
}

/// Credits as they fall due, until the stream is closed.
fn credits(due: Arc<Due>, closed: CancellationToken) -> impl Stream<Item = Result<Credit, Status>> + Send {
    futures::stream::unfold((due, closed), |(due, closed)| async move {
        loop {
            let next = due.bytes.lock().pop_first();
            if let Some((channel, bytes)) = next {
                let credit = Credit {
                    edge_id: channel.edge.0,
                    source_subtask_index: channel.source.0,
                    target_subtask_index: channel.target.0,
                    bytes: bytes as u64,
                };
                return Some((Ok(credit), (due, closed)));
            }
            tokio::select! {
                biased;
                () = due.wake.notified() => {}
                () = closed.cancelled() => return None,
            }
        }
    })
}

/// Moves the frames of one stream into the gates.
struct Pump {
    attempt: Arc<AttemptInbox>,
    due: Arc<Due>,
    /// Number of the next frame per channel.
    sequences: BTreeMap<ChannelKey, u64>,
    /// Channels that have sent something and not yet ended.
    open: BTreeSet<ChannelKey>,
}

impl Pump {
    async fn run(mut self, mut frames: Streaming<Frame>) {
        let cancel = self.attempt.cancel.clone();
        let error = loop {
            let frame = tokio::select! {
                biased;
                () = cancel.cancelled() => return,
                frame = frames.message() => frame,
            };
            match frame {
                Ok(Some(frame)) => {
                    if let Err(error) = self.accept(frame) {
                        break error;
                    }
                }
                Ok(None) if self.open.is_empty() => return,
                Ok(None) => break TaskError::external(EXCHANGE_LOST, "a data stream ended before its channels did"),
                Err(status) => {
                    let reason =
                        format!("a data stream of another worker broke: {}: {}", status.code(), status.message());
                    break TaskError::external(EXCHANGE_LOST, reason);
                }
            }
        };
        for channel in &self.open {
            if let Some(channel) = self.attempt.channels.get(channel) {
                channel.gate.fail(error.clone());
            }
        }
    }

    fn accept(&mut self, frame: Frame) -> Result<(), TaskError> {
        let key = frame::channel_of(&frame);
        let wrong = |reason: &str| {
            let place = format!("edge {} from subtask {} to {}", key.edge, key.source, key.target);
            TaskError::internal(EXCHANGE_FRAME, format!("a data stream is out of order: {reason} ({place})"))
        };
        let channel = self.attempt.channels.get(&key).ok_or_else(|| wrong("no such channel here"))?;
        let next = self.sequences.entry(key).or_insert(0);
        if *next == 0 {
            *channel.returns.stream.lock() = Some(Arc::clone(&self.due));
            self.open.insert(key);
        }
        if frame.sequence != *next {
            return Err(wrong("a frame is missing"));
        }
        *next += 1;
        if !self.open.contains(&key) {
            return Err(wrong("a frame after the end of its channel"));
        }
        if frame.kind == FrameKind::EndOfInput as i32 {
            self.open.remove(&key);
        }
        channel.gate.push(frame);
        Ok(())
    }
}
