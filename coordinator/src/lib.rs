//! The control plane: accepts jobs, schedules them onto workers, watches them and ends them. It decides and never
//! touches a record.
//!
//! ```text
//! service/admin  -> job/submit (catalog, planner, splits) -> job/master <-> job/lifecycle, job/publication (pure)
//!                                                               |  ^
//!                           cluster (schedule/slots, recovery)  |  |  service/worker_facing <- reports
//!                                                               v  |
//!                                               schedule/deploy -> worker_link -> orders
//! ```
//! The wiring of the `weir` binary calls [`Coordinator::bind`]. It must not know workers' insides, state, operator code
//! or the contents of records; connectors are named by the wiring alone.

mod catalog;
mod cluster;
mod config;
mod data_dir;
mod error;
mod gauges;
mod http;
pub mod job;
pub mod recovery;
pub mod schedule;
mod server;
mod service;
pub mod splits;
mod wire;
mod worker_link;

pub use config::{CoordinatorConfig, MetricsRender};
pub use error::CoordinatorError;
pub use server::{BoundCoordinator, Coordinator};
