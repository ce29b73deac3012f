//! What a worker process can be told at its start.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use crate::task::build::CreateOperator;

/// Settings of one worker.
#[derive(Clone, Debug)]
pub struct WorkerConfig {
    /// The coordinator's address, `host:port`.
    pub coordinator: String,
    /// Subtasks of each vertex of a job that it takes, at least 1.
    pub slots: u32,
    /// Where it may keep files.
    pub data_dir: PathBuf,
    /// Where it takes data from other workers; port 0 picks a free one.
    pub listen: SocketAddr,
    /// Host and port under which other workers reach `listen`, when that is not the address itself.
    pub advertise: Option<String>,
    /// Where it serves `/metrics` and `/healthz`, if anywhere.
    pub http: Option<SocketAddr>,
    /// Threads that process records, at least 1.
    pub data_threads: usize,
    /// Memory for all it does, see [`crate::memory`]. **Units**: bytes.
    pub memory_bytes: u64,
    /// Longest time that a source or sink may take to open.
    pub open_timeout: Duration,
    /// Longest wait between two attempts to reach the coordinator.
    pub reconnect_wait_max: Duration,
    /// Makes operators; `weir_operators::create` outside of tests.
    pub create: CreateOperator,
}

impl WorkerConfig {
    /// A worker on loopback with everything at its default.
    pub fn new(coordinator: impl Into<String>, slots: u32, data_dir: impl Into<PathBuf>) -> Self {
        WorkerConfig {
            coordinator: coordinator.into(),
            slots: slots.max(1),
            data_dir: data_dir.into(),
            listen: SocketAddr::from(([127, 0, 0, 1], 0)),
            advertise: None,
            http: None,
            data_threads: std::thread::available_parallelism().map_or(2, usize::from),
            memory_bytes: crate::memory::default_bytes(),
            open_timeout: Duration::from_secs(30),
            reconnect_wait_max: Duration::from_secs(5),
            create: weir_operators::create,
        }
    }
}
