//! A whole cluster in one process: a coordinator and a worker, with real gRPC between them on loopback. `weir local`
//! and tests start it.

use std::future::Future;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, anyhow, bail};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use weir_coordinator::{AtShutdown, Coordinator, CoordinatorConfig, MetricsRender};
use weir_core::Clock;
use weir_operator_api::SystemClock;
use weir_proto::v1;
use weir_worker::WorkerConfig;

use crate::client::{self, Client};

/// Time between two looks whether the worker is there.
const LOOK_INTERVAL: Duration = Duration::from_millis(5);
/// Time between two tries to reach a coordinator that is not there.
pub const LOOK_INTERVAL_UNREACHABLE: Duration = Duration::from_millis(500);
/// Longest time to wait for the worker.
const WORKER_PATIENCE: Duration = Duration::from_secs(30);

/// How an embedded cluster is to run.
#[derive(Clone)]
pub struct ClusterOptions {
    /// Where clients reach it; port 0 takes a free one.
    pub listen: SocketAddr,
    /// Where `/metrics` and `/healthz` are served, if anywhere.
    pub http: Option<SocketAddr>,
    /// Slots of its worker.
    pub slots: u32,
    /// Memory of its worker; its default when absent. **Units**: bytes.
    pub memory_bytes: Option<u64>,
    /// Directory of its files.
    pub data_dir: PathBuf,
    /// Renders the metrics of the process.
    pub metrics_render: Option<MetricsRender>,
    /// What becomes of its jobs when it is stopped.
    pub at_shutdown: AtShutdown,
}

impl ClusterOptions {
    /// A free port on loopback, no HTTP, a slot per core; its jobs end with it.
    pub fn new(data_dir: impl Into<PathBuf>) -> Self {
        ClusterOptions {
            listen: SocketAddr::from(([127, 0, 0, 1], 0)),
            http: None,
            slots: core_count(),
            memory_bytes: None,
            data_dir: data_dir.into(),
            metrics_render: None,
            at_shutdown: AtShutdown::Cancel,
        }
    }
}

/// Cores of this machine.
pub fn core_count() -> u32 {
    std::thread::available_parallelism().map_or(2, |count| count.get() as u32)
}

/// A coordinator and a worker that run in this process until [`Cluster::stop`].
pub struct Cluster {
    /// Where clients reach it.
    pub address: SocketAddr,
    /// Where `/metrics` and `/healthz` are served.
    pub http_address: Option<SocketAddr>,
    shutdown_coordinator: CancellationToken,
    shutdown_worker: CancellationToken,
    coordinator: Part,
    worker: Part,
}

/// A plane that runs on its own.
struct Part {
    name: &'static str,
    /// Gone when its end was told.
    handle: Option<JoinHandle<anyhow::Result<()>>>,
}

impl Part {
    fn start<E>(name: &'static str, plane: impl Future<Output = Result<(), E>> + Send + 'static) -> Self
    where
        anyhow::Error: From<E>,
    {
        Part { name, handle: Some(tokio::spawn(async move { plane.await.map_err(anyhow::Error::from) })) }
    }

    /// Waits for its end; for ever, when that was told before.
    async fn end(&mut self) -> anyhow::Result<()> {
        let Some(handle) = &mut self.handle else { return std::future::pending().await };
        let ended = handle.await;
        self.handle = None;
        ended.with_context(|| format!("the {} panicked", self.name))?
    }

    /// Waits for an end that was asked for.
    async fn stopped(&mut self) -> anyhow::Result<()> {
        if self.handle.is_some() { self.end().await } else { Ok(()) }
    }

    /// Waits for an end that was not asked for; why.
    async fn broken(&mut self) -> anyhow::Error {
        match self.end().await {
            Ok(()) => anyhow!("the {} ended by itself", self.name),
            Err(error) => error,
        }
    }
}

impl Cluster {
    /// Starts a cluster; its worker is registered when this returns.
    ///
    /// **Errors**: addresses or a directory that cannot be used.
    pub async fn start(options: ClusterOptions) -> anyhow::Result<Cluster> {
        let clock: Arc<dyn Clock> = Arc::new(SystemClock::default());
        let registry = weir_connectors::registry();
        let mut config = CoordinatorConfig::new(options.listen, options.data_dir.join("coordinator"));
        config.http = options.http;
        config.metrics_render = options.metrics_render;
        config.at_shutdown = options.at_shutdown;
        let bound = Coordinator::bind(config, registry.clone(), Arc::clone(&clock)).await?;
        let (address, http_address) = (bound.local_addr(), bound.http_addr());
        let (shutdown_coordinator, shutdown_worker) = (CancellationToken::new(), CancellationToken::new());
        let coordinator = Part::start("coordinator", bound.serve(shutdown_coordinator.clone()));
        let mut config = WorkerConfig::new(address.to_string(), options.slots, options.data_dir.join("worker"));
        config.memory_bytes = options.memory_bytes.unwrap_or(config.memory_bytes);
        let running = weir_worker::run(config, registry, Arc::clone(&clock), shutdown_worker.clone());
        let worker = Part::start("worker", running);
        let mut cluster = Cluster { address, http_address, shutdown_coordinator, shutdown_worker, coordinator, worker };
        let mut client = cluster.client().await?;
        tokio::select! {
            registered = wait_for_worker(&mut client, clock.as_ref()) => drop(registered?),
            error = cluster.broken() => return Err(error),
        }
        Ok(cluster)
    }

    /// A connection to it.
    pub async fn client(&self) -> anyhow::Result<Client> {
        client::connect(&self.address.to_string()).await
    }

    /// Waits until a part of it has ended without being asked to; why.
    ///
    /// **Cancel safety**: safe. After it has returned, [`Cluster::stop`] must still be called.
    pub async fn broken(&mut self) -> anyhow::Error {
        tokio::select! {
            error = self.coordinator.broken() => error,
            error = self.worker.broken() => error,
        }
    }

    /// Ends it in order: first the coordinator with its jobs, then the worker.
    ///
    /// **Errors**: a part that failed meanwhile.
    pub async fn stop(mut self) -> anyhow::Result<()> {
        self.shutdown_coordinator.cancel();
        let coordinator = self.coordinator.stopped().await;
        self.shutdown_worker.cancel();
        let worker = self.worker.stopped().await;
        coordinator.and(worker)
    }
}

/// Waits until the coordinator knows a worker of this process.
pub async fn wait_for_worker(client: &mut Client, clock: &dyn Clock) -> anyhow::Result<v1::WorkerDetails> {
    let started = clock.monotonic();
    loop {
        let request = v1::GetClusterRequest {};
        let answer = client.get_cluster(request).await.map_err(|status| client::refused(&status))?;
        let mut workers = answer.into_inner().workers.into_iter();
        if let Some(worker) = workers.find(|worker| worker.process_id == std::process::id()) {
            return Ok(worker);
        }
        if clock.monotonic() - started > WORKER_PATIENCE {
            bail!("the worker did not register with the coordinator within {} s", WORKER_PATIENCE.as_secs());
        }
        clock.sleep(LOOK_INTERVAL).await;
    }
}
