//! From what a user submitted to what workers run, as data: submitted job -> operator descriptors -> stream graph
//! with schemas -> job graph (chained vertices and edges).
//!
//! The coordinator plans with it, workers read descriptors with it. It must not know operator code, SQL, the wire
//! or slots: expressions and connectors are asked for through the [`catalog`] traits.

pub mod catalog;
pub mod config;
pub mod descriptor;
pub mod document;
pub mod join_schema;
pub mod limits;
pub mod plan;
pub mod resolve;
pub mod row_schema;
pub mod state_change;
pub mod submitted;
pub mod topology;
pub mod window;
pub mod window_schema;

pub use catalog::{Catalog, SinkDescription, SourceDescription};
pub use config::JobOptions;
pub use descriptor::OperatorKind;
pub use plan::{Edge, JobPlan, OutputTag, Partitioning, Phase, PlannedOperator, Route, Target, Vertex};
pub use submitted::{SubmittedJob, SubmittedOperator};
pub use window::WindowSpec;
