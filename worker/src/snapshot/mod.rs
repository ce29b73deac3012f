//! Checkpoints on the worker: what a task froze at a barrier is encoded and uploaded beside the stream; what a restored
//! task takes back is fetched, verified and cut to its key groups. Tasks and `agent` use it; it decides nothing.

pub mod buffers;
pub mod copies;
pub mod encode;
pub mod in_flight;
pub mod objects;
pub mod packed;
pub mod restore;
pub mod reuse;
pub mod stores;
pub mod take;
pub mod upload;

pub use stores::Stores;
pub use take::{OperatorSnapshot, TaskSnapshot};
pub use upload::{Checkpointing, TriggerOrder};
