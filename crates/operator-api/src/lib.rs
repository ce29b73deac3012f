//! The contracts between the engine and what it runs: operators, sources, sinks, and their factories.
//!
//! `operators` and `connectors` implement them, `worker` drives them, `coordinator` asks the factories. It must not
//! know any concrete operator or connector, nor tasks.

pub mod bad_record;
pub mod clock;
pub mod connector;
pub mod error;
pub mod metrics;
pub mod operator;
pub mod sink;
pub mod source;

pub use bad_record::BadRecord;
pub use clock::SystemClock;
pub use connector::{Registry, SinkFactory, SourceFactory};
pub use error::OperatorError;
pub use metrics::OperatorMetrics;
pub use operator::{Operator, OperatorContext, Output, OutputTag, Progress, SplitEvent};
pub use weir_state::{FrozenPiece, FrozenTable, StateScope, StateStores, StateTable};

pub use sink::{Committable, Cut, Leftovers, PreparedOutput, SinkContext, SinkReport, SinkState, SinkWriter};
pub use source::{ReaderContext, SourceEvent, SourceReader, Split, SplitPosition};

/// Result of operator code.
pub type Result<T, E = OperatorError> = std::result::Result<T, E>;
