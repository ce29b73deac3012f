//! The sending end of one channel: to a task of this worker by handing the element over, to another worker as a frame.

use std::sync::Arc;

use tokio::sync::mpsc;
use weir_core::{EdgeId, StreamElement, SubtaskIndex};
use weir_proto::v1::Frame;

use super::credit::{Credits, cost};
use super::frame;
use crate::error::{EXCHANGE_LOST, TaskError};
use crate::input::gate::GateSender;
use crate::input::hurry::Hurry;

/// Names a channel within an attempt: the edge and its two subtasks.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct ChannelKey {
    /// Which exchange.
    pub edge: EdgeId,
    /// Who sends.
    pub source: SubtaskIndex,
    /// Who receives.
    pub target: SubtaskIndex,
}

/// The sending end of one channel; owned by one task.
#[derive(Debug)]
pub struct ChannelSender {
    key: ChannelKey,
    credits: Arc<Credits>,
    way: Way,
}

#[derive(Debug)]
enum Way {
    /// The receiving task lives on this worker: the columns are shared, not copied.
    Local(GateSender),
    /// It lives elsewhere.
    Remote { frames: mpsc::Sender<Frame>, sequence: u64 },
}

impl ChannelSender {
    /// A channel to a task of this worker.
    pub fn local(key: ChannelKey, gate: GateSender) -> Self {
        ChannelSender { key, credits: Arc::clone(gate.credits()), way: Way::Local(gate) }
    }

    /// A channel to another worker.
    pub fn remote(key: ChannelKey, credits: Arc<Credits>, frames: mpsc::Sender<Frame>) -> Self {
        ChannelSender { key, credits, way: Way::Remote { frames, sequence: 0 } }
    }

    /// Waits for room and sends. When `hurry` says that a barrier has waited long enough, it sends without room: what the
    /// task holds ready must be out before it can pass the barrier on.
    ///
    /// **Errors**: the connection to the other worker broke. **Cancel safety**: a dropped call may lose the element; it
    /// is dropped only when the task ends.
    pub async fn send(&mut self, element: StreamElement, hurry: Option<&Hurry>) -> Result<(), TaskError> {
        match hurry {
            Some(hurry) => tokio::select! {
                biased;
                room = self.credits.wait_for_room() => room?,
                () = hurry.wait() => {}
            },
            None => self.credits.wait_for_room().await?,
        }
        match &mut self.way {
            Way::Local(gate) => {
                let bytes = cost(&element);
                self.credits.take(bytes);
                gate.push(element, bytes);
            }
            Way::Remote { frames, sequence } => {
                let frame = frame::encode(self.key, *sequence, &element)?;
                *sequence += 1;
                self.credits.take(frame::cost(&frame));
                if frames.send(frame).await.is_err() {
                    // The link drops its queue only after it has told all its accounts why.
                    self.credits.wait_for_room().await?;
                    return Err(TaskError::external(EXCHANGE_LOST, "the connection to another worker has ended"));
                }
            }
        }
        Ok(())
    }
}
