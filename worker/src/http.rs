//! What a process shows of itself over HTTP: `/metrics` for Prometheus and `/healthz`. The wiring installs the recorder
//! once per process; coordinator and worker may share it.

use std::future::Future;
use std::sync::OnceLock;
use std::time::Duration;

use axum::Router;
use axum::routing::get;
use metrics_exporter_prometheus::{PrometheusBuilder, PrometheusHandle};
use metrics_util::MetricKindMask;
use tokio::net::TcpListener;
use weir_core::JobId;
use weir_proto::v1::TaskMetrics;

use crate::task::TaskKey;

static HANDLE: OnceLock<PrometheusHandle> = OnceLock::new();

/// Metrics that nobody has touched for this long are forgotten: those of jobs that have ended.
const FORGOTTEN_AFTER: Duration = Duration::from_secs(120);

/// Makes this process record metrics; later calls give the same recorder.
pub fn install_recorder() -> PrometheusHandle {
    HANDLE
        .get_or_init(|| {
            let recorder =
                PrometheusBuilder::new().idle_timeout(MetricKindMask::ALL, Some(FORGOTTEN_AFTER)).build_recorder();
            let handle = recorder.handle();
            if metrics::set_global_recorder(recorder).is_err() {
                tracing::warn!("another metrics recorder is installed already: /metrics will be empty");
            }
            handle
        })
        .clone()
}

/// Serves `/metrics` and `/healthz` until `shutdown`.
pub async fn serve(listener: TcpListener, shutdown: impl Future<Output = ()> + Send + 'static) -> std::io::Result<()> {
    let handle = install_recorder();
    let router = Router::new()
        .route("/metrics", get(move || std::future::ready(handle.render())))
        .route("/healthz", get(|| std::future::ready("ok\n")));
    axum::serve(listener, router).with_graceful_shutdown(shutdown).await
}

/// Whose counters are recorded.
#[derive(Clone, Copy, Debug)]
pub struct Scope<'a> {
    /// The job.
    pub job: JobId,
    /// Its name.
    pub job_name: &'a str,
    /// Name of the vertex.
    pub vertex: &'a str,
    /// The task.
    pub task: TaskKey,
}

/// Shows what the state of all tasks takes. **Units**: bytes.
pub fn record_memory(used: usize, limit: usize, on_disk: u64) {
    metrics::gauge!("weir_worker_stateMemoryUsedBytes").set(used as f64);
    metrics::gauge!("weir_worker_stateMemoryMaxBytes").set(limit as f64);
    metrics::gauge!("weir_worker_stateOnDiskBytes").set(on_disk as f64);
}

/// Where state was read from that a task took back.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum RestoredFrom {
    /// The worker's own disk.
    LocalCopy,
    /// The checkpoint store.
    Store,
}

/// Counts state that a task took back, where copies may spare the way to the store. **Units**: bytes.
pub fn count_restored(from: RestoredFrom, bytes: usize) {
    let from = match from {
        RestoredFrom::LocalCopy => "copy",
        RestoredFrom::Store => "store",
    };
    metrics::counter!("weir_worker_restoredBytes", "from" => from).increment(bytes as u64);
}

/// Shows the counters of one task under Flink's names.
pub fn record(scope: Scope<'_>, counters: &TaskMetrics) {
    let (job, name) = (scope.job.to_string(), scope.job_name.to_owned());
    let subtask = scope.task.subtask.to_string();
    let labels = [
        ("job", job.clone()),
        ("job_name", name.clone()),
        ("vertex", scope.vertex.to_owned()),
        ("subtask", subtask.clone()),
    ];
    metrics::counter!("weir_task_busyTimeMs", &labels).absolute(counters.busy_ms);
    metrics::counter!("weir_task_idleTimeMs", &labels).absolute(counters.idle_ms);
    metrics::counter!("weir_task_backPressuredTimeMs", &labels).absolute(counters.back_pressured_ms);
    metrics::gauge!("weir_task_stateBytes", &labels).set(counters.state_bytes as f64);
    for operator in &counters.operators {
        let labels = [
            ("job", job.clone()),
            ("job_name", name.clone()),
            ("vertex", scope.vertex.to_owned()),
            ("operator", operator.operator.clone()),
            ("subtask", subtask.clone()),
        ];
        metrics::counter!("weir_task_operator_numRecordsIn", &labels).absolute(operator.records_in);
        metrics::counter!("weir_task_operator_numRecordsOut", &labels).absolute(operator.records_out);
        metrics::counter!("weir_task_operator_numBytesIn", &labels).absolute(operator.bytes_in);
        metrics::counter!("weir_task_operator_numBytesOut", &labels).absolute(operator.bytes_out);
        metrics::counter!("weir_task_operator_numLateRecords", &labels).absolute(operator.late_records);
        metrics::counter!("weir_task_operator_numBadRecords", &labels).absolute(operator.bad_records);
        let watermarks = [
            ("weir_task_operator_currentInputWatermark", operator.watermark_in_unix_us),
            ("weir_task_operator_currentOutputWatermark", operator.watermark_out_unix_us),
        ];
        for (name, watermark_us) in watermarks {
            // Milliseconds, as in Flink.
            metrics::gauge!(name, &labels).set(watermark_us as f64 / 1000.0);
        }
    }
}
