//! The data plane: a worker runs the subtasks that the coordinator deploys to it and exchanges their data with other
//! workers. The wiring of each process calls [`run`]. It decides nothing: it is told; it must not know the coordinator,
//! SQL or placement.

pub mod agent;
pub mod config;
pub mod error;
pub mod http;
pub mod memory;

pub mod exchange;
pub mod input;
pub mod output;
pub mod seed;
pub mod snapshot;
pub mod task;

pub use agent::run;
pub use config::WorkerConfig;
pub use error::{TaskError, WorkerError};
pub use http::install_recorder;
