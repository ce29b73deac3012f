//! The control plane: accepts jobs, schedules them onto workers, watches them and ends them. It decides and never
//! touches a record.
//!
//! ```text
//! service/admin  -> job/submit (catalog, planner, splits) -> job/master <-> job/lifecycle, job/outbox, checkpoint (pure)
//!                                                               |  ^  |
//!                           cluster (schedule/slots, recovery)  |  |  +-> meta: the durable truth, read at a start
//!                                                               v  |
//!            service/worker_facing <- reports    schedule/deploy -> worker_link -> orders
//! ```
//! The wiring of the `weir` binary calls [`Coordinator::bind`]. It must not know workers' insides, state, operator code
//! or the contents of records; connectors are named by the wiring alone.

mod catalog;
pub mod checkpoint;
mod cluster;
mod config;
mod data_dir;
mod error;
mod gauges;
mod http;
pub mod job;
mod meta;
pub mod recovery;
pub mod schedule;
mod server;
mod service;
pub mod splits;
mod wire;
mod worker_link;

pub use config::{AtShutdown, CoordinatorConfig, MetricsRender};
pub use error::CoordinatorError;
pub use server::{BoundCoordinator, Coordinator};
