//! What a running task is told about checkpoints. `agent` sends, the two loops obey between two elements.

use weir_core::{Barrier, CheckpointId};

/// Orders that may wait for a task. One that finds no room is dropped: a trigger is declined, a confirmation is only a
/// chance to forget early, and a checkpoint that was given up is overtaken by the next one's barrier.
pub const ORDERS_MAX: usize = 64;

/// An order to one task.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum TaskOrder {
    /// A source puts a barrier into its stream.
    Trigger {
        /// The barrier.
        barrier: Barrier,
        /// What it does behind it.
        after: AfterBarrier,
    },
    /// The checkpoint is committed.
    Completed(CheckpointId),
    /// The checkpoint will not be completed.
    Aborted(CheckpointId),
}

/// What a source does behind a barrier.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum AfterBarrier {
    /// Goes on.
    GoOn,
    /// Ends; open windows stay silent.
    Stop,
    /// Sends a last watermark of MAX in front of the barrier, then ends.
    Drain,
}
