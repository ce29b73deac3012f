//! `weir coordinator`, `weir worker` and `weir local` without a job: wire a plane with connectors, clock and metrics, say
//! where it is, and serve until a signal. The first line on standard output ends with the address, for scripts.

use std::sync::Arc;

use anyhow::Context;
use tokio_util::sync::CancellationToken;
use weir_coordinator::{AtShutdown, Coordinator, CoordinatorConfig, MetricsRender};
use weir_core::Clock;
use weir_operator_api::SystemClock;
use weir_worker::WorkerConfig;

use crate::arguments::{CoordinatorOptions, LocalOptions, WorkerOptions};
use crate::client;
use crate::embedded::{self, Cluster, ClusterOptions};
use crate::output::line;
use crate::signals;

/// `weir coordinator`.
pub async fn coordinator(options: CoordinatorOptions) -> anyhow::Result<()> {
    let shutdown = signals::shutdown()?;
    let mut config = CoordinatorConfig::new(options.listen, options.data_dir);
    config.http = Some(options.http);
    config.metrics_render = Some(metrics_render());
    let bound = Coordinator::bind(config, weir_connectors::registry(), Arc::new(SystemClock::default())).await?;
    let http = bound.http_addr().map_or_else(String::new, |http| format!(" (metrics at http://{http}/metrics)"));
    line(&format!("Coordinator{http} at {}", bound.local_addr()));
    bound.serve(shutdown).await?;
    Ok(())
}

/// `weir worker`.
pub async fn worker(options: WorkerOptions) -> anyhow::Result<()> {
    let shutdown = signals::shutdown()?;
    let temporary = match &options.data_dir {
        Some(_) => None,
        None => Some(tempfile::Builder::new().prefix("weir-worker-").tempdir().context("make a data directory")?),
    };
    let data_dir = options.data_dir.or_else(|| temporary.as_ref().map(|directory| directory.path().to_owned()));
    let slots = options.slots.unwrap_or_else(embedded::core_count);
    let mut config = WorkerConfig::new(&options.coordinator, slots, data_dir.context("no data directory")?);
    config.listen = options.listen;
    config.http = Some(options.http);
    config.memory_bytes = options.memory.unwrap_or(config.memory_bytes);
    let clock: Arc<dyn Clock> = Arc::new(SystemClock::default());
    let running = weir_worker::run(config, weir_connectors::registry(), Arc::clone(&clock), shutdown.clone());
    tokio::spawn(announce(options.coordinator, clock, shutdown));
    running.await?;
    Ok(())
}

/// Says that the worker is registered, once it is.
async fn announce(coordinator: String, clock: Arc<dyn Clock>, shutdown: CancellationToken) {
    let registered = async {
        loop {
            // The worker itself says what keeps it from the coordinator; here only success counts.
            if let Ok(mut client) = client::connect(&coordinator).await
                && let Ok(worker) = embedded::wait_for_worker(&mut client, clock.as_ref()).await
            {
                return worker;
            }
            clock.sleep(embedded::LOOK_INTERVAL_UNREACHABLE).await;
        }
    };
    tokio::select! {
        worker = registered => line(&format!(
            "Worker {} with {} slots registered at {coordinator} (metrics at http://{}/metrics), data at {}",
            worker.worker, worker.slots_total, worker.http_address, worker.data_address
        )),
        () = shutdown.cancelled() => {}
    }
}

/// `weir local` without a job.
pub async fn local(options: LocalOptions) -> anyhow::Result<()> {
    let shutdown = signals::shutdown()?;
    let mut cluster_options = ClusterOptions::new(options.data_dir);
    cluster_options.listen = options.listen;
    cluster_options.http = Some(options.http);
    cluster_options.slots = options.slots;
    cluster_options.memory_bytes = options.memory;
    cluster_options.at_shutdown = AtShutdown::Suspend;
    cluster_options.metrics_render = Some(metrics_render());
    let mut cluster = Cluster::start(cluster_options).await?;
    let http = cluster.http_address.map_or_else(String::new, |http| format!(" (metrics at http://{http}/metrics)"));
    line(&format!("Cluster with {} slots{http} at {}", options.slots, cluster.address));
    let broken = tokio::select! {
        () = shutdown.cancelled() => None,
        error = cluster.broken() => Some(error),
    };
    let stopped = cluster.stop().await;
    broken.map_or(stopped, Err)
}

/// Makes this process record metrics; the two planes of one process share the recorder.
pub fn metrics_render() -> MetricsRender {
    let handle = weir_worker::install_recorder();
    Arc::new(move || handle.render())
}
