//! The sending half of the data stream from this worker to another, for one job attempt. Opened by `agent` when the job
//! starts; its channels are owned by tasks.

use std::collections::BTreeMap;
use std::sync::Arc;

use futures::StreamExt;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::CancellationToken;
use weir_core::{EdgeId, SubtaskIndex};
use weir_proto::v1::{Credit, FencingToken, Frame};

use super::channel::{ChannelKey, ChannelSender};
use super::credit::Credits;
use super::frame;
use super::transport::{FrameStream, Transport};
use crate::error::{EXCHANGE_LOST, TaskError};

/// Frames that wait for the network besides what HTTP/2 holds; a handful keeps it busy.
const QUEUED_FRAMES_MAX: usize = 8;

/// A stream that is not open yet.
#[derive(Debug)]
pub struct Link {
    address: String,
    sender: mpsc::Sender<Frame>,
    queue: mpsc::Receiver<Frame>,
    accounts: BTreeMap<ChannelKey, Arc<Credits>>,
}

impl Link {
    /// A stream to the worker that takes data at `address`.
    pub fn new(address: impl Into<String>) -> Self {
        let (sender, queue) = mpsc::channel(QUEUED_FRAMES_MAX);
        Link { address: address.into(), sender, queue, accounts: BTreeMap::new() }
    }

    /// Adds a channel. What is sent before the stream is open waits.
    pub fn channel(&mut self, key: ChannelKey, credit_bytes: usize) -> ChannelSender {
        let credits = Arc::new(Credits::new(credit_bytes));
        self.accounts.insert(key, Arc::clone(&credits));
        ChannelSender::remote(key, credits, self.sender.clone())
    }

    /// Opens the stream and serves it until all channels are gone, it breaks, or `cancel`. A break fails the channels.
    pub async fn run(self, transport: &dyn Transport, token: FencingToken, cancel: CancellationToken) {
        let Link { address, sender, queue, accounts } = self;
        drop(sender);
        let served = serve(transport, &address, Frames { token, queue }, &accounts);
        let lost = tokio::select! {
            biased;
            () = cancel.cancelled() => return,
            lost = served => lost,
        };
        let error =
            TaskError::external(EXCHANGE_LOST, format!("the data stream to the worker at {address} broke: {lost}"));
        for credits in accounts.values() {
            // Channels that have sent all they had do not look any more.
            credits.fail(error.clone());
        }
    }
}

struct Frames {
    token: FencingToken,
    queue: mpsc::Receiver<Frame>,
}

async fn serve(
    transport: &dyn Transport,
    address: &str,
    frames: Frames,
    accounts: &BTreeMap<ChannelKey, Arc<Credits>>,
) -> String {
    let hello = frame::hello(frames.token);
    let frames = futures::stream::iter([hello]).chain(ReceiverStream::new(frames.queue));
    let mut credits = match transport.open(address, FrameStream::new(frames)).await {
        Ok(credits) => credits,
        Err(error) => return error.to_string(),
    };
    loop {
        match credits.next().await {
            Some(Ok(credit)) => {
                if let Some(account) = accounts.get(&channel_of(&credit)) {
                    account.give(usize::try_from(credit.bytes).unwrap_or(usize::MAX));
                }
            }
            Some(Err(error)) => return error.to_string(),
            None => return "the other worker closed it".to_owned(),
        }
    }
}

fn channel_of(credit: &Credit) -> ChannelKey {
    ChannelKey {
        edge: EdgeId(credit.edge_id),
        source: SubtaskIndex(credit.source_subtask_index),
        target: SubtaskIndex(credit.target_subtask_index),
    }
}
