//! The worker's side of the control stream: keeps it open, turns orders into tasks, and tells what became of them.
//! [`run`] is the whole worker; the wiring calls it.

mod attempt;
mod cuts;
mod publish;
mod reports;
mod session;

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use tokio::net::TcpListener;
use tokio::runtime::{Handle, Runtime};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tonic::transport::server::TcpIncoming;
use weir_core::key_hash::mix;
use weir_core::{Clock, WorkerId};
use weir_operator_api::Registry;
use weir_state::{MemoryBudget, StateStores};

pub(crate) use self::attempt::Attempts;
pub(crate) use self::reports::Reporter;
use crate::config::WorkerConfig;
use crate::error::WorkerError;
use crate::exchange::transport::{CONNECTION_WINDOW_BYTES, HTTP_FRAME_BYTES_MAX, STREAM_WINDOW_BYTES};
use crate::exchange::{Inbox, TonicTransport, Transport};
use crate::seed::seed;
use crate::snapshot::Stores;
use crate::snapshot::buffers::ObjectBuffers;
use crate::snapshot::copies::LocalCopies;
use crate::task::build::Environment;
use crate::{http, memory};

/// Longest time that data threads get to end at a shutdown; tasks have ended before.
const THREADS_END: Duration = Duration::from_secs(2);

/// What the parts of a worker share; cheap to clone.
#[derive(Clone)]
pub(crate) struct Worker {
    pub(crate) id: WorkerId,
    pub(crate) environment: Environment,
    pub(crate) inbox: Inbox,
    pub(crate) transport: Arc<dyn Transport>,
    /// Threads that process records.
    pub(crate) data: Handle,
    /// Everything spawned on the control threads for jobs.
    pub(crate) spawned: TaskTracker,
    /// Checkpoint stores.
    pub(crate) stores: Stores,
}

/// Where the worker can be reached.
#[derive(Clone, Debug)]
pub(crate) struct Addresses {
    pub(crate) data: String,
    pub(crate) http: String,
}

/// Runs a worker on the caller's runtime, which becomes its control threads, until `shutdown`; tasks get threads of
/// their own. Returns when every task, port and thread of it is gone.
///
/// **Errors**: a port that is taken, an address that is none, or a coordinator that refuses this worker.
pub async fn run(
    config: WorkerConfig,
    registry: Registry,
    clock: Arc<dyn Clock>,
    shutdown: CancellationToken,
) -> Result<(), WorkerError> {
    let data = listen(config.listen).await?;
    let address = data.local_addr().unwrap_or(config.listen);
    let web = match config.http {
        Some(address) => Some(listen(address).await?),
        None => None,
    };
    let addresses = Addresses {
        data: config.advertise.clone().unwrap_or_else(|| address.to_string()),
        http: web.as_ref().and_then(|web| web.local_addr().ok()).map(|web| web.to_string()).unwrap_or_default(),
    };
    let threads = data_threads(config.data_threads)?;
    let memory = memory::divide(config.memory_bytes);
    let buffers = ObjectBuffers::of_allowance(memory.objects);
    let mut stores = Stores::of_process(Arc::clone(&clock)).with_buffers(buffers);
    match LocalCopies::new(&config.data_dir.join("copies"), Arc::clone(&clock)) {
        Ok(copies) => stores = stores.with_copies(copies),
        Err(error) => tracing::warn!("no local copies of checkpoints are kept: {error}"),
    }
    let worker = Worker {
        id: worker_id(clock.as_ref(), address),
        environment: Environment {
            registry,
            create: config.create,
            clock,
            control: Handle::current(),
            open_timeout: config.open_timeout,
            budget: MemoryBudget::new(memory.tables),
            stores: StateStores::on_disk(config.data_dir.join("state"), memory.store),
        },
        inbox: Inbox::default(),
        transport: Arc::new(TonicTransport),
        data: threads.handle().clone(),
        spawned: TaskTracker::new(),
        stores,
    };
    tracing::info!(worker = %worker.id, data = %addresses.data, slots = config.slots, "worker starts");
    let closed = CancellationToken::new();
    let servers = TaskTracker::new();
    servers.spawn(serve_data(data, worker.inbox.clone(), closed.clone()));
    if let Some(web) = web {
        let closed = closed.clone();
        servers.spawn(async move {
            if let Err(error) = http::serve(web, async move { closed.cancelled().await }).await {
                tracing::error!("the HTTP door broke: {error}");
            }
        });
    }
    let result = session::keep(&worker, &config, &addresses, &shutdown).await;
    worker.spawned.close();
    worker.spawned.wait().await;
    closed.cancel();
    servers.close();
    servers.wait().await;
    let ended = tokio::task::spawn_blocking(move || threads.shutdown_timeout(THREADS_END)).await;
    if let Err(error) = ended {
        tracing::error!("data threads did not end: {error}");
    }
    tracing::info!(worker = %worker.id, "worker has ended");
    result
}

async fn listen(address: SocketAddr) -> Result<TcpListener, WorkerError> {
    TcpListener::bind(address).await.map_err(|source| WorkerError::Listen { address, source })
}

fn data_threads(count: usize) -> Result<Runtime, WorkerError> {
    tokio::runtime::Builder::new_multi_thread()
        .worker_threads(count.max(1))
        .thread_name("weir-data")
        .enable_all()
        .build()
        .map_err(WorkerError::Threads)
}

/// New with every start.
fn worker_id(clock: &dyn Clock, address: SocketAddr) -> WorkerId {
    let seed = seed(clock) ^ u64::from(address.port());
    WorkerId(format!("worker-{:016x}", mix(seed)))
}

async fn serve_data(listener: TcpListener, inbox: Inbox, closed: CancellationToken) {
    let served = tonic::transport::Server::builder()
        .initial_stream_window_size(STREAM_WINDOW_BYTES)
        .initial_connection_window_size(CONNECTION_WINDOW_BYTES)
        .max_frame_size(HTTP_FRAME_BYTES_MAX)
        .add_service(inbox.service())
        .serve_with_incoming_shutdown(TcpIncoming::from(listener).with_nodelay(Some(true)), closed.cancelled())
        .await;
    if let Err(error) = served {
        tracing::error!("the door for data broke: {}", weir_core::error::report(&error));
    }
}
