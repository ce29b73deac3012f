//! What an overtaking barrier leaves behind itself: the elements that lay in front of it in the gate, and those that come
//! until the barrier has come on every channel. The gate writes them down while the task goes on with them; the snapshot
//! of the task waits for the last of them and stores them. At a restore the gate begins with them.
//!
//! Rows and watermarks are kept, in their order. Idleness is not: after a restore every channel is active until its
//! sender says otherwise, which only delays watermarks. An end stands for the barrier; a restored sender ends again.

use std::sync::Arc;

use arrow_schema::SchemaRef;
use tokio::sync::oneshot;
use weir_core::{Barrier, CheckpointId, EventTime, StreamElement, SubtaskIndex};
use weir_proto::v1::{Frame, FrameKind};

use crate::error::TaskError;
use crate::exchange::frame;

/// Code of a checkpoint whose elements in flight could not be kept.
pub const CHECKPOINT_IN_FLIGHT: &str = "checkpoint-in-flight";
/// Bytes that may be written down beyond twice what the gate holds; a channel whose barrier does not come must not fill
/// the memory.
const SPARE_BYTES: usize = 64 << 20;

/// What a channel carries, as it lies in the gate.
#[derive(Clone, Debug)]
pub enum Carried {
    /// From a task of this worker.
    Element(StreamElement),
    /// From another worker, not yet read.
    Encoded(Box<Frame>),
}

impl Carried {
    /// The element; `schema` is that of the channel's edge.
    ///
    /// **Errors**: a frame that cannot be read.
    pub fn read(self, schema: &SchemaRef) -> Result<StreamElement, TaskError> {
        match self {
            Carried::Element(element) => Ok(element),
            Carried::Encoded(frame) => frame::decode(*frame, schema),
        }
    }

    /// The barrier it is, if it is one.
    pub fn barrier(&self) -> Option<Barrier> {
        match self {
            Carried::Element(StreamElement::Barrier(barrier)) => Some(*barrier),
            Carried::Encoded(frame) if frame.kind == FrameKind::Barrier as i32 => frame::barrier_of(frame).ok(),
            _ => None,
        }
    }

    fn is_end(&self) -> bool {
        match self {
            Carried::Element(element) => matches!(element, StreamElement::EndOfInput),
            Carried::Encoded(frame) => frame.kind == FrameKind::EndOfInput as i32,
        }
    }

    fn is_kept(&self) -> bool {
        match self {
            Carried::Element(element) => matches!(element, StreamElement::Batch(_) | StreamElement::Watermark(_)),
            Carried::Encoded(frame) => {
                frame.kind == FrameKind::Batch as i32 || frame.kind == FrameKind::Watermark as i32
            }
        }
    }
}

/// The elements of all channels of a gate, in the order in which these were opened.
type Elements = Vec<Vec<Carried>>;

/// Elements that are being written down.
#[derive(Debug)]
pub(super) struct Recording {
    checkpoint: CheckpointId,
    elements: Elements,
    /// Channels whose barrier has not come.
    is_open: Vec<bool>,
    bytes_left: usize,
    /// Taken when it is over.
    done: Option<oneshot::Sender<Result<Elements, TaskError>>>,
}

impl Recording {
    /// Writes down what comes on the channels that are open, of a gate with room for `room_bytes`.
    pub(super) fn new(
        checkpoint: CheckpointId,
        is_open: Vec<bool>,
        room_bytes: usize,
    ) -> (Self, oneshot::Receiver<Result<Elements, TaskError>>) {
        let (done, recorded) = oneshot::channel();
        let elements = is_open.iter().map(|_| Vec::new()).collect();
        let bytes_left = room_bytes.saturating_mul(2).saturating_add(SPARE_BYTES);
        let mut recording = Recording { checkpoint, elements, is_open, bytes_left, done: Some(done) };
        recording.end_if_complete();
        (recording, recorded)
    }

    /// Of which checkpoint.
    pub(super) fn checkpoint(&self) -> CheckpointId {
        self.checkpoint
    }

    /// Whether nothing more is to be written down.
    pub(super) fn is_over(&self) -> bool {
        self.done.is_none()
    }

    /// An element has come that the task has not processed.
    pub(super) fn see(&mut self, channel: usize, carried: &Carried, bytes: usize) {
        if self.is_over() || !self.is_open[channel] {
            return;
        }
        match carried.barrier() {
            Some(barrier) if barrier.checkpoint > self.checkpoint => {
                self.fail("a newer checkpoint began before its barrier had come on every channel".to_owned());
            }
            Some(barrier) if barrier.checkpoint == self.checkpoint => self.close(channel),
            // One that was given up.
            Some(_) => {}
            None if carried.is_end() => self.close(channel),
            None if carried.is_kept() => match self.bytes_left.checked_sub(bytes) {
                Some(left) => {
                    self.bytes_left = left;
                    self.elements[channel].push(carried.clone());
                }
                None => self.fail("more is in flight than may be kept in memory, and barriers are missing".to_owned()),
            },
            None => {}
        }
    }

    fn close(&mut self, channel: usize) {
        self.is_open[channel] = false;
        self.end_if_complete();
    }

    fn end_if_complete(&mut self) {
        if !self.is_open.contains(&true) {
            self.end(|recording| Ok(std::mem::take(&mut recording.elements)));
        }
    }

    fn fail(&mut self, reason: String) {
        self.end(|_| Err(TaskError::external(CHECKPOINT_IN_FLIGHT, reason)));
        self.elements.clear();
    }

    fn end(&mut self, result: impl FnOnce(&mut Self) -> Result<Elements, TaskError>) {
        if let Some(done) = self.done.take() {
            let result = result(self);
            // Nobody waits for it any more when the checkpoint was given up.
            let _ = done.send(result);
        }
    }
}

/// What one channel is, and how far its watermark had come for the task.
#[derive(Clone, Debug)]
pub struct ChannelAtCut {
    /// Name of its edge.
    pub edge: Arc<str>,
    /// Who sends.
    pub sender: SubtaskIndex,
    /// Schema of its rows.
    pub schema: SchemaRef,
    /// Its watermark at the cut.
    pub watermark: EventTime,
}

/// The elements in flight of one cut, once they are all known.
#[derive(Debug)]
pub struct InFlight {
    /// The channels, in the order of the gate.
    pub channels: Vec<ChannelAtCut>,
    /// Their elements.
    pub(super) recorded: oneshot::Receiver<Result<Elements, TaskError>>,
}

impl InFlight {
    /// Waits for the last barrier; gives each channel with its elements.
    ///
    /// **Errors**: they could not all be kept, or the task has ended.
    pub async fn complete(self) -> Result<Vec<(ChannelAtCut, Vec<Carried>)>, TaskError> {
        let gone = |_| TaskError::external(CHECKPOINT_IN_FLIGHT, "the task ended before its barriers had come");
        let elements = self.recorded.await.map_err(gone)??;
        Ok(self.channels.into_iter().zip(elements).collect())
    }
}

/// What one channel had in flight, as a restore gives it back.
#[derive(Clone, Debug)]
pub struct RestoredChannel {
    /// Name of its edge.
    pub edge: String,
    /// Who sent.
    pub sender: SubtaskIndex,
    /// Its watermark at the cut.
    pub watermark: EventTime,
    /// Rows and watermarks, in order.
    pub elements: Vec<StreamElement>,
}
