//! What flows through a channel, in order: batches and the control elements between them.

use crate::batch::Batch;
use crate::ids::CheckpointId;
use crate::time::EventTime;

/// One element of a stream. Order within a channel is kept from sender to receiver.
#[derive(Clone, Debug)]
pub enum StreamElement {
    /// Records.
    Batch(Batch),
    /// No element with a time at or before this one is expected any more.
    Watermark(EventTime),
    /// A cut through the stream: what came before belongs to the checkpoint, what comes after does not.
    Barrier(Barrier),
    /// The channel is idle: it holds no watermark back until it becomes active.
    Idle,
    /// The channel is active again.
    Active,
    /// Nothing follows on this channel.
    EndOfInput,
}

/// The mark of one checkpoint in a stream.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Barrier {
    /// Which checkpoint.
    pub checkpoint: CheckpointId,
    /// What it does with what lies in front of it.
    pub passage: Passage,
}

/// Whether a barrier waits for the elements in front of it.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum Passage {
    /// Always: nothing in flight is stored.
    Waits,
    /// For the job's `aligned_timeout`; then it overtakes them, and they are stored.
    MayOvertake,
    /// It has overtaken elsewhere and waits no more.
    Overtakes,
}

/// The outputs an operator may have.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum OutputTag {
    /// The result.
    Main,
    /// Rows that came after their window had closed, as they came in.
    Late,
    /// Bad records, in the dead-letter schema.
    DeadLetter,
    /// Rows that a local aggregation passes on as they are (input 0 of the final phase; partials go by `Main`).
    Raw,
}
