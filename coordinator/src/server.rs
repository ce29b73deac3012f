//! Puts a coordinator together, serves it and ends it in order. Called by the wiring of the `weir` binary.

use std::fs::File;
use std::future::Future;
use std::io::Read;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;
use tonic::transport::Server;
use tonic::transport::server::TcpIncoming;
use weir_core::Clock;
use weir_operator_api::Registry;
use weir_proto::v1::job_service_server::JobServiceServer;
use weir_proto::v1::worker_link_service_server::WorkerLinkServiceServer;

use crate::checkpoint::stores::Stores;
use crate::cluster::Cluster;
use crate::config::{AtShutdown, CoordinatorConfig};
use crate::data_dir::Leadership;
use crate::error::CoordinatorError;
use crate::gauges::Gauges;
use crate::http;
use crate::job::archive::Archive;
use crate::job::launch;
use crate::job::master::{Letter, Patience, Surroundings};
use crate::job::table::JobTable;
use crate::meta::files::MetaFiles;
use crate::service::admin::AdminService;
use crate::service::worker_facing::WorkerFacing;

/// Most bytes of one request of a client: a job graph of the allowed size and some, so that one that is a little too
/// large gets a sentence instead of a broken connection.
const CLIENT_MESSAGE_BYTES_MAX: usize = 2 * weir_graph::limits::GRAPH_BYTES_MAX;
/// Most bytes of one message of a worker: counters of all its tasks, committables of one.
const WORKER_MESSAGE_BYTES_MAX: usize = 64 * 1024 * 1024;
/// Time connections have to end by themselves when everything else has ended.
const LINGER: Duration = Duration::from_secs(1);

/// A coordinator.
#[derive(Debug)]
pub struct Coordinator;

/// A coordinator that has its addresses and does not serve yet.
pub struct BoundCoordinator {
    config: CoordinatorConfig,
    around: Surroundings,
    local_addr: SocketAddr,
    listener: TcpListener,
    http: Option<(SocketAddr, TcpListener)>,
    leadership: Leadership,
}

impl Coordinator {
    /// Takes the data directory and the addresses. Must be called within a tokio runtime.
    ///
    /// **Errors**: an address that is not on loopback or is taken, a data directory that cannot be used or is in use.
    pub async fn bind(
        config: CoordinatorConfig,
        registry: Registry,
        clock: Arc<dyn Clock>,
    ) -> Result<BoundCoordinator, CoordinatorError> {
        let leadership = Leadership::acquire(&config.data_dir)?;
        let archive = Archive::open(&config.data_dir)?;
        let ended = archive.load()?;
        let (local_addr, listener) = listen(config.listen).await?;
        let http = match config.http {
            Some(address) => Some(listen(address).await?),
            None => None,
        };
        let seed = match config.seed {
            Some(seed) => seed,
            None => system_seed().map_err(CoordinatorError::Seed)?,
        };
        let cluster = Cluster::new(Arc::clone(&clock), config.lease, config.reconnect_grace);
        let table = JobTable::new(cluster.clone(), archive, ended);
        let patience =
            Patience { deploy: config.deploy_timeout, cancel: config.cancel_timeout, publish: config.publish_timeout };
        // Relative to the directory this process was started in, but workers may have another.
        let data_dir = std::path::absolute(&config.data_dir)
            .map_err(|source| CoordinatorError::DataDir { path: config.data_dir.clone(), source })?;
        let around = Surroundings {
            cluster,
            table,
            meta: Arc::new(MetaFiles::open(&data_dir)?),
            stores: Stores::new(data_dir.join("checkpoints"), Arc::clone(&clock), seed),
            registry,
            clock,
            patience,
            enumerate_timeout: config.enumerate_timeout,
            term: leadership.term(),
        };
        Ok(BoundCoordinator { config, around, local_addr, listener, http, leadership })
    }
}

impl BoundCoordinator {
    /// Where gRPC will be served.
    pub fn local_addr(&self) -> SocketAddr {
        self.local_addr
    }

    /// Where `/metrics` and `/healthz` will be served.
    pub fn http_addr(&self) -> Option<SocketAddr> {
        self.http.as_ref().map(|(address, _)| *address)
    }

    /// Goes on with the jobs that an earlier coordinator left, then serves until `shutdown`. Then: takes no more jobs,
    /// suspends or cancels those that live, waits for that (bounded), and closes all connections.
    ///
    /// **Errors**: jobs that cannot be read, a server that ended by itself. **Cancel safety**: dropping the future ends the servers at once, but
    /// not the jobs' masters: use `shutdown`.
    pub async fn serve(self, shutdown: CancellationToken) -> Result<(), CoordinatorError> {
        let BoundCoordinator { config, around, local_addr, listener, http, leadership } = self;
        tracing::info!(address = %local_addr, term = leadership.term(), "coordinator serves");
        let closing = CancellationToken::new();
        let _closes_when_dropped = closing.clone().drop_guard();
        launch::left_behind(&around).await?;
        let admin = AdminService::new(around.clone());
        let workers = WorkerFacing::new(around.clone(), config.heartbeat_interval, config.lease, closing.clone());
        let grpc = serve_grpc(listener, admin, workers, closing.clone());
        let http = serve_http(http, &config, closing.clone());
        let servers = async { tokio::try_join!(grpc, http).map(drop) };
        tokio::pin!(servers);
        let ending = async {
            tokio::select! {
                () = watch_over(&around, config.heartbeat_interval / 2) => {}
                () = shutdown.cancelled() => {}
            }
            end_jobs(&around, config.shutdown_timeout, config.at_shutdown).await;
        };
        tokio::select! {
            result = &mut servers => return result,
            () = ending => {}
        }
        closing.cancel();
        tokio::select! {
            result = &mut servers => result,
            () = around.clock.sleep(LINGER) => Ok(()),
        }
    }
}

async fn listen(address: SocketAddr) -> Result<(SocketAddr, TcpListener), CoordinatorError> {
    if !address.ip().is_loopback() {
        return Err(CoordinatorError::InsecureListener { address });
    }
    let failed = |source| CoordinatorError::Listen { address, source };
    let listener = TcpListener::bind(address).await.map_err(failed)?;
    Ok((listener.local_addr().map_err(failed)?, listener))
}

async fn serve_grpc(
    listener: TcpListener,
    admin: AdminService,
    workers: WorkerFacing,
    closing: CancellationToken,
) -> Result<(), CoordinatorError> {
    let (reporter, health) = tonic_health::server::health_reporter();
    reporter.set_serving::<JobServiceServer<AdminService>>().await;
    reporter.set_serving::<WorkerLinkServiceServer<WorkerFacing>>().await;
    let reflection = || {
        tonic_reflection::server::Builder::configure()
            .register_encoded_file_descriptor_set(weir_proto::FILE_DESCRIPTOR_SET)
            .register_encoded_file_descriptor_set(tonic_health::pb::FILE_DESCRIPTOR_SET)
    };
    Server::builder()
        .add_service(health)
        .add_service(reflection().build_v1().map_err(CoordinatorError::Reflection)?)
        .add_service(reflection().build_v1alpha().map_err(CoordinatorError::Reflection)?)
        .add_service(JobServiceServer::new(admin).max_decoding_message_size(CLIENT_MESSAGE_BYTES_MAX))
        .add_service(WorkerLinkServiceServer::new(workers).max_decoding_message_size(WORKER_MESSAGE_BYTES_MAX))
        .serve_with_incoming_shutdown(TcpIncoming::from(listener).with_nodelay(Some(true)), closing.cancelled_owned())
        .await
        .map_err(CoordinatorError::Serve)
}

fn serve_http(
    listener: Option<(SocketAddr, TcpListener)>,
    config: &CoordinatorConfig,
    closing: CancellationToken,
) -> impl Future<Output = Result<(), CoordinatorError>> + use<> {
    let render = config.metrics_render.clone();
    async move {
        match listener {
            Some((_, listener)) => http::serve(listener, render, closing).await,
            None => {
                closing.cancelled().await;
                Ok(())
            }
        }
    }
}

/// Gives up dead workers and keeps the gauges, for ever.
async fn watch_over(around: &Surroundings, interval: Duration) {
    let mut gauges = Gauges::default();
    loop {
        around.cluster.bury_the_dead();
        gauges.update(&around.cluster, &around.table);
        around.clock.sleep(interval).await;
    }
}

/// Suspends or cancels all jobs and waits for their ends.
async fn end_jobs(around: &Surroundings, timeout: Duration, what: AtShutdown) {
    around.table.close();
    let live = around.table.all_live();
    tracing::info!(jobs = live.len(), "coordinator ends");
    let all_ended = async {
        for (_, job) in &live {
            let letter = match what {
                AtShutdown::Suspend => Letter::Suspend,
                AtShutdown::Cancel => Letter::Cancel,
            };
            // A mailbox that is closed belongs to a job that is ending.
            let _ = job.mailbox.send(letter).await;
        }
        for (_, job) in &live {
            job.ended.cancelled().await;
        }
    };
    let watching = watch_over(around, timeout / 20);
    tokio::select! {
        () = all_ended => {}
        () = watching => {}
        () = around.clock.sleep(timeout) => tracing::warn!("some jobs did not end in time"),
    }
}

#[allow(clippy::disallowed_methods, reason = "the seed of job ids comes from the operating system")]
fn system_seed() -> std::io::Result<u64> {
    let mut seed = [0; 8];
    File::open("/dev/urandom")?.read_exact(&mut seed)?;
    Ok(u64::from_le_bytes(seed))
}
