//! What lies in the checkpoint store: names, manifests, state objects, and what may be deleted; and the store itself.
//!
//! The worker writes and reads state objects, the coordinator writes and reads manifests and deletes. This crate must
//! not know who triggers a checkpoint, how state is encoded, or the wire between the two.

pub mod layout;
pub mod manifest;
pub mod retention;
pub mod state_object;
pub mod store;
pub mod task_state;

pub mod error;

mod envelope;
mod json;

pub use error::CheckpointError;
pub use layout::{Incarnation, Located};
pub use manifest::{
    ChannelState, CheckpointKind, Manifest, ObjectRef, OperatorState, SectionRef, SplitState, SubtaskState, TableScope,
    TableState,
};
pub use state_object::StateObjectWriter;
pub use store::{
    CheckpointStore, ListedObject, LocalCheckpoints, MemoryCheckpoints, ObjectStoreCheckpoints, S3Options,
    StoreOptions, open, read_manifest, write_manifest,
};
pub use task_state::{OperatorTaskState, TaskState};

/// Result of this crate.
pub type Result<T, E = CheckpointError> = std::result::Result<T, E>;
