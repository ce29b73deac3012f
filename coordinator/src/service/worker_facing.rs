//! The workers' door: one stream per worker process. The first message must register it; then come heartbeats and
//! reports, which go to the cluster and to the masters of the jobs. Messages about jobs that do not live are stale and
//! ignored.

use std::collections::BTreeMap;
use std::io::ErrorKind;
use std::pin::Pin;
use std::time::Duration;

use futures::{Stream, StreamExt};
use tokio::net::TcpStream;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::CancellationToken;
use tonic::{Request, Response, Status, Streaming};
use weir_core::{JobId, WorkerId};
use weir_proto::v1;
use weir_proto::v1::coordinator_message::Message as Order;
use weir_proto::v1::worker_link_service_server::WorkerLinkService;
use weir_proto::v1::worker_message::Message as Report;

use crate::job::master::{Letter, Surroundings};
use crate::job::state::TaskKey;
use crate::worker_link::{ORDERS_MAX, WorkerLink};

/// How long a worker's machine may take to answer whether its process is there.
const DIAL_TIMEOUT: Duration = Duration::from_millis(500);
/// How often it is asked.
const DIAL_INTERVAL: Duration = Duration::from_millis(50);
/// Most slots one worker may offer.
const SLOTS_MAX: u32 = 1024;
/// Most bytes of a worker's id or address.
const TEXT_BYTES_MAX: usize = 256;

/// Serves `weir.v1.WorkerLinkService`.
#[derive(Clone)]
pub(crate) struct WorkerFacing {
    around: Surroundings,
    heartbeat_interval: Duration,
    lease: Duration,
    closing: CancellationToken,
}

impl WorkerFacing {
    /// A door that closes with `closing`.
    pub(crate) fn new(
        around: Surroundings,
        heartbeat_interval: Duration,
        lease: Duration,
        closing: CancellationToken,
    ) -> Self {
        WorkerFacing { around, heartbeat_interval, lease, closing }
    }
}

#[tonic::async_trait]
impl WorkerLinkService for WorkerFacing {
    type AttachStream = Pin<Box<dyn Stream<Item = Result<v1::CoordinatorMessage, Status>> + Send>>;

    async fn attach(
        &self,
        request: Request<Streaming<v1::WorkerMessage>>,
    ) -> Result<Response<Self::AttachStream>, Status> {
        let (tx, rx) = mpsc::channel(ORDERS_MAX);
        let over = CancellationToken::new();
        let session = Session { door: self.clone(), over: over.clone() };
        tokio::spawn(session.run(request.into_inner(), tx));
        // The queue of a lost worker is still held by the jobs that had tasks there: the stream must end without it.
        let orders = ReceiverStream::new(rx).map(Ok).take_until(over.cancelled_owned());
        Ok(Response::new(Box::pin(orders)))
    }
}

/// The conversation with one worker.
struct Session {
    door: WorkerFacing,
    over: CancellationToken,
}

impl Session {
    async fn run(self, mut reports: Streaming<v1::WorkerMessage>, orders: mpsc::Sender<v1::CoordinatorMessage>) {
        let Some(register) = self.first_message(&mut reports).await else {
            self.over.cancel();
            return;
        };
        if let Err(reason) = check(&register) {
            tracing::warn!(worker = register.worker, reason, "worker refused");
            let refused = v1::CoordinatorMessage { message: Some(Order::Refused(v1::Refused { reason })) };
            // The queue is dropped at the end of this function: the stream ends after its only message.
            let _ = orders.send(refused).await;
            return;
        }
        let registered = Order::Registered(v1::Registered {
            term: self.door.around.term,
            heartbeat_interval_ms: self.door.heartbeat_interval.as_millis() as u32,
            lease_ms: self.door.lease.as_millis() as u32,
        });
        // Before the cluster knows the worker: no order may come first.
        let _ = orders.send(v1::CoordinatorMessage { message: Some(registered) }).await;
        let worker = WorkerId(register.worker.clone());
        let link = WorkerLink::new(worker, register.data_address.clone(), orders);
        self.door.around.cluster.attach(link.clone(), register);
        self.listen(&link, reports).await;
        self.over.cancel();
        self.look_for(&link).await;
    }

    /// After a connection broke: asks the worker's machine whether its process is still there, so that one that was killed
    /// is not waited for. An answer other than a refusal says nothing; silence neither.
    async fn look_for(&self, link: &WorkerLink) {
        let (cluster, clock) = (&self.door.around.cluster, &self.door.around.clock);
        let until = clock.monotonic() + self.door.lease;
        while !link.lost().is_cancelled() && !self.door.closing.is_cancelled() && clock.monotonic() < until {
            let dialled = tokio::select! {
                dialled = TcpStream::connect(link.data_address()) => dialled.err(),
                () = clock.sleep(DIAL_TIMEOUT) => None,
            };
            if dialled.is_some_and(|error| error.kind() == ErrorKind::ConnectionRefused) {
                return cluster.nobody_listens(link);
            }
            clock.sleep(DIAL_INTERVAL).await;
        }
    }

    async fn first_message(&self, reports: &mut Streaming<v1::WorkerMessage>) -> Option<v1::Register> {
        let first = tokio::select! {
            first = reports.message() => first.ok().flatten(),
            () = self.door.around.clock.sleep(self.door.lease) => None,
            () = self.door.closing.cancelled() => None,
        };
        match first.and_then(|first| first.message) {
            Some(Report::Register(register)) => Some(register),
            _ => {
                tracing::warn!("a worker's stream did not begin with Register");
                None
            }
        }
    }

    async fn listen(&self, link: &WorkerLink, mut reports: Streaming<v1::WorkerMessage>) {
        let cluster = &self.door.around.cluster;
        loop {
            let report = tokio::select! {
                report = reports.message() => report,
                () = link.lost().cancelled() => return,
                () = self.door.closing.cancelled() => return,
            };
            match report {
                Ok(Some(report)) => {
                    cluster.heard(link);
                    if let Some(report) = report.message {
                        self.hand_on(link, report).await;
                    }
                }
                Ok(None) => {
                    tracing::info!(worker = %link.worker(), "worker closed its connection");
                    return cluster.disconnected(link);
                }
                Err(status) => {
                    tracing::warn!(worker = %link.worker(), cause = status.message(), "connection to worker broke");
                    return cluster.disconnected(link);
                }
            }
        }
    }

    async fn hand_on(&self, link: &WorkerLink, report: Report) {
        let worker = link.worker();
        match report {
            Report::Register(_) => tracing::warn!(%worker, "ignored a second registration on one stream"),
            Report::Heartbeat(beat) => self.count(beat.tasks),
            Report::TaskStateChanged(change) => {
                let job = change.token.as_ref().map(|token| token.job_id.clone());
                self.write(job, Letter::TaskChanged(worker.clone(), change)).await;
            }
            Report::CheckpointAcknowledged(answer) => {
                let job = answer.token.as_ref().map(|token| token.job_id.clone());
                self.write(job, Letter::Acknowledged(worker.clone(), answer)).await;
            }
            Report::CheckpointDeclined(answer) => {
                let job = answer.token.as_ref().map(|token| token.job_id.clone());
                self.write(job, Letter::Declined(worker.clone(), answer)).await;
            }
            Report::Published(answer) => {
                let job = answer.token.as_ref().map(|token| token.job_id.clone());
                self.write(job, Letter::Published(worker.clone(), answer)).await;
            }
        }
    }

    async fn write(&self, job: Option<String>, letter: Letter) {
        let job = job.as_deref().and_then(|id| id.parse::<JobId>().ok());
        match job.and_then(|id| self.door.around.table.live(id)) {
            // A mailbox that closes belongs to a job that has just ended.
            Some(handle) => drop(handle.mailbox.send(letter).await),
            None => tracing::debug!(?letter, "ignored a message about a job that does not live"),
        }
    }

    fn count(&self, tasks: Vec<v1::TaskReport>) {
        let mut by_job: BTreeMap<String, (v1::FencingToken, Vec<(TaskKey, v1::TaskMetrics)>)> = BTreeMap::new();
        for report in tasks {
            if let (Some(token), Some(task), Some(metrics)) = (report.token, report.task, report.metrics) {
                let counts = by_job.entry(token.job_id.clone()).or_insert_with(|| (token, Vec::new()));
                counts.1.push((task.into(), metrics));
            }
        }
        for (job, (token, counts)) in by_job {
            let handle = job.parse::<JobId>().ok().and_then(|id| self.door.around.table.live(id));
            if let Some(handle) = handle {
                // A full mailbox loses nothing: the next heartbeat brings newer counters.
                let _ = handle.mailbox.try_send(Letter::Counted(token, counts));
            }
        }
    }
}

fn check(register: &v1::Register) -> Result<(), String> {
    if register.version != weir_proto::VERSION {
        return Err(format!(
            "the worker has version {}, the coordinator {}: both must be the same",
            register.version,
            weir_proto::VERSION
        ));
    }
    let texts = [&register.worker, &register.data_address, &register.http_address];
    if register.worker.is_empty() || texts.iter().any(|text| text.len() > TEXT_BYTES_MAX) {
        return Err(format!("the worker's id must not be empty, ids and addresses not longer than {TEXT_BYTES_MAX}"));
    }
    if !(1..=SLOTS_MAX).contains(&register.slots) {
        return Err(format!("the worker offers {} slots: 1 to {SLOTS_MAX} are allowed", register.slots));
    }
    Ok(())
}
