//! The nouns of Weir: typed ids, batches, stream elements, watermarks, key groups, settings, clocks, errors.
//!
//! Every room uses this crate; it uses Arrow and nothing else. It must not know tokio, prost, files,
//! the network or any sibling crate.

pub mod aggregate;
pub mod batch;
pub mod clock;
pub mod data_type;
pub mod element;
pub mod error;
pub mod ids;
pub mod key_group;
pub mod key_hash;
pub mod planted;
pub mod random;
pub mod settings;
pub mod time;
pub mod value;
pub mod widening;

pub use aggregate::{AggregateFunction, OrderItem, TypedAggregate, TypedExpression, TypedItem};
pub use batch::{Batch, ChangeKind};
pub use clock::Clock;
pub use element::{Barrier, OutputTag, Passage, StreamElement};
pub use error::{ErrorDomain, RetryHint};
pub use ids::{
    AttemptNumber, CheckpointId, EdgeId, FencingToken, JobId, OperatorUid, SplitIndex, SubtaskIndex, VertexId, WorkerId,
};
pub use key_group::{KeyGroup, KeyGroupRange};
pub use random::Random;
pub use settings::{Problem, Settings};
pub use time::EventTime;
pub use value::Value;
