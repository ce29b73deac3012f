//! What the wiring tells a coordinator: addresses, directory, time limits. Every bound a user may want to know stands
//! here with its default. It must not know how the values were given (flags, files).

use std::fmt;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

/// Renders the metrics of this process in the text format of Prometheus. The wiring installs the one recorder a
/// process can have and gives its renderer to every plane that serves `/metrics`.
pub type MetricsRender = Arc<dyn Fn() -> String + Send + Sync>;

/// How a coordinator is to run.
#[derive(Clone)]
pub struct CoordinatorConfig {
    /// Where gRPC is served, to clients and workers; port 0 takes any free port. Loopback only: there is no TLS yet.
    pub listen: SocketAddr,
    /// Where `/metrics` and `/healthz` are served; nowhere when absent. Loopback only.
    pub http: Option<SocketAddr>,
    /// Directory of this coordinator's files; made when missing. One process at a time.
    pub data_dir: PathBuf,
    /// Time between heartbeats of a worker. Default 0.5 s.
    pub heartbeat_interval: Duration,
    /// Time without a sign of life after which a worker is given up. Default 3 s.
    pub lease: Duration,
    /// Time a worker whose connection broke has to come back before it is given up. Default 1 s.
    pub reconnect_grace: Duration,
    /// Longest time from sending tasks to their workers until all of them run. Default 60 s.
    pub deploy_timeout: Duration,
    /// Longest time to wait for tasks to stop; a worker that has not answered by then is not waited for. Default 10 s.
    pub cancel_timeout: Duration,
    /// Longest time to publish, or to discard, the output of a job, all tries together. Default 60 s.
    pub publish_timeout: Duration,
    /// Longest time a source may take to list its splits. Default 60 s.
    pub enumerate_timeout: Duration,
    /// Longest time to wait for the jobs to end when the process is to end. Default 10 s.
    pub shutdown_timeout: Duration,
    /// What becomes of the jobs then. Default: they go on when a coordinator starts on the same directory.
    pub at_shutdown: AtShutdown,
    /// Seed of job ids, for tests and simulation; from the operating system when absent.
    pub seed: Option<u64>,
    /// Renders the metrics of the process; `/metrics` answers 404 when absent.
    pub metrics_render: Option<MetricsRender>,
}

/// What becomes of living jobs when a coordinator is asked to end.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum AtShutdown {
    /// Their tasks are stopped; the next coordinator on the same directory goes on from their last checkpoints.
    Suspend,
    /// They are cancelled.
    Cancel,
}

impl CoordinatorConfig {
    /// Takes the defaults for everything but the address and the directory.
    pub fn new(listen: SocketAddr, data_dir: impl Into<PathBuf>) -> Self {
        CoordinatorConfig {
            listen,
            http: None,
            data_dir: data_dir.into(),
            heartbeat_interval: Duration::from_millis(500),
            lease: Duration::from_secs(3),
            reconnect_grace: Duration::from_secs(1),
            deploy_timeout: Duration::from_secs(60),
            cancel_timeout: Duration::from_secs(10),
            publish_timeout: Duration::from_secs(60),
            enumerate_timeout: Duration::from_secs(60),
            shutdown_timeout: Duration::from_secs(10),
            at_shutdown: AtShutdown::Suspend,
            seed: None,
            metrics_render: None,
        }
    }
}

impl fmt::Debug for CoordinatorConfig {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("CoordinatorConfig")
            .field("listen", &self.listen)
            .field("http", &self.http)
            .field("data_dir", &self.data_dir)
            .field("heartbeat_interval", &self.heartbeat_interval)
            .field("lease", &self.lease)
            .finish_non_exhaustive()
    }
}
