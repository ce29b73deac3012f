//! The clients' door: submit, look, cancel, stop. Converts once and hands on; it decides nothing about a job.

use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::sync::{mpsc, oneshot};
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::CancellationToken;
use tonic::{Request, Response, Status};
use tracing::Instrument;
use weir_core::random::Random;
use weir_core::{JobId, Problem};
use weir_operator_api::Registry;
use weir_proto::v1;
use weir_proto::v1::job_service_server::JobService;

use crate::job::master::{Letter, MAILBOX_MAX, Master, Surroundings};
use crate::job::record::JobRecord;
use crate::job::submit::{PreparedJob, prepare};
use crate::job::table::{JobHandle, NotAdmitted};
use crate::wire;
use crate::worker_link::Drain;

/// Serves `weir.v1.JobService`.
pub(crate) struct AdminService {
    around: Surroundings,
    registry: Registry,
    enumerate_timeout: Duration,
    job_ids: Mutex<Box<dyn Random>>,
}

impl AdminService {
    /// A service over the jobs of `around`; ids are drawn from `job_ids`.
    pub(crate) fn new(
        around: Surroundings,
        registry: Registry,
        enumerate_timeout: Duration,
        job_ids: Box<dyn Random>,
    ) -> Self {
        AdminService { around, registry, enumerate_timeout, job_ids: Mutex::new(job_ids) }
    }

    /// Gives a prepared job a name, a record and a master.
    fn start(&self, job: PreparedJob) -> Result<JobId, NotAdmitted> {
        let id = {
            let mut random = self.job_ids.lock();
            JobId(u128::from(random.next_u64()) << 64 | u128::from(random.next_u64()))
        };
        let now = self.around.clock.wall_unix_us();
        let record = Arc::new(Mutex::new(JobRecord::new(id, &job.plan, job.config.clone(), now)));
        let (mailbox, letters) = mpsc::channel(MAILBOX_MAX);
        let handle = JobHandle { record: Arc::clone(&record), mailbox, ended: CancellationToken::new() };
        self.around.table.admit(id, handle)?;
        let span = tracing::info_span!("job", job = %id, name = job.plan.name);
        span.in_scope(|| tracing::info!(slots = job.plan.slots_needed(), "job accepted"));
        let master = Master::new(id, job, record, self.around.clone());
        tokio::spawn(master.run(letters).instrument(span));
        Ok(id)
    }

    fn details(&self, id: JobId) -> Result<v1::JobDetails, Status> {
        self.around.table.details(id).ok_or_else(|| unknown_job(id))
    }

    /// Way to a job that lives.
    fn live(&self, id: JobId) -> Result<JobHandle, Status> {
        if let Some(handle) = self.around.table.live(id) {
            return Ok(handle);
        }
        let details = self.details(id)?;
        let state = details.summary.unwrap_or_default().state();
        let name = state.as_str_name().trim_start_matches("JOB_STATE_");
        Err(Status::failed_precondition(format!("job {id} has ended already: it is {name}")))
    }
}

#[tonic::async_trait]
impl JobService for AdminService {
    async fn submit_job(
        &self,
        request: Request<v1::SubmitJobRequest>,
    ) -> Result<Response<v1::SubmitJobResponse>, Status> {
        let graph = request.into_inner().job.ok_or_else(|| Status::invalid_argument("field 'job' is missing"))?;
        let prepared = prepare(graph, &self.registry, &self.around.clock, self.enumerate_timeout).await;
        let answer = match prepared {
            Ok(job) => {
                let id = self.start(job).map_err(|error| match error {
                    NotAdmitted::Closed => Status::unavailable(error.to_string()),
                    NotAdmitted::Full => Status::resource_exhausted(error.to_string()),
                })?;
                v1::SubmitJobResponse { job_id: id.to_string(), problems: Vec::new() }
            }
            Err(problems) => refusal(&problems),
        };
        Ok(Response::new(answer))
    }

    async fn list_jobs(&self, _: Request<v1::ListJobsRequest>) -> Result<Response<v1::ListJobsResponse>, Status> {
        Ok(Response::new(v1::ListJobsResponse { jobs: self.around.table.summaries() }))
    }

    async fn get_job(&self, request: Request<v1::GetJobRequest>) -> Result<Response<v1::JobDetails>, Status> {
        let id = job_id(&request.get_ref().job_id)?;
        Ok(Response::new(self.details(id)?))
    }

    type WatchJobStream = ReceiverStream<Result<v1::JobDetails, Status>>;

    async fn watch_job(&self, request: Request<v1::WatchJobRequest>) -> Result<Response<Self::WatchJobStream>, Status> {
        let request = request.into_inner();
        let id = job_id(&request.job_id)?;
        let interval = match request.interval_ms {
            0 => Duration::from_millis(500),
            ms @ 50..=60_000 => Duration::from_millis(u64::from(ms)),
            ms => return Err(Status::invalid_argument(format!("interval_ms is {ms}: 50 to 60000 are allowed, or 0"))),
        };
        self.details(id)?;
        let (tx, rx) = mpsc::channel(1);
        tokio::spawn(watch(self.around.clone(), id, interval, tx));
        Ok(Response::new(ReceiverStream::new(rx)))
    }

    async fn cancel_job(
        &self,
        request: Request<v1::CancelJobRequest>,
    ) -> Result<Response<v1::CancelJobResponse>, Status> {
        let id = job_id(&request.get_ref().job_id)?;
        let handle = self.live(id)?;
        if handle.mailbox.send(Letter::Cancel).await.is_err() {
            self.live(id)?;
        }
        Ok(Response::new(v1::CancelJobResponse {}))
    }

    async fn stop_job(&self, request: Request<v1::StopJobRequest>) -> Result<Response<v1::StopJobResponse>, Status> {
        let request = request.into_inner();
        let id = job_id(&request.job_id)?;
        let handle = self.live(id)?;
        let drain = if request.drain { Drain::Yes } else { Drain::No };
        let (tx, rx) = oneshot::channel();
        let is_sent = handle.mailbox.send(Letter::Stop(drain, tx)).await.is_ok();
        if is_sent && rx.await.unwrap_or(false) {
            return Ok(Response::new(v1::StopJobResponse::default()));
        }
        self.live(id)?;
        let state = handle.record.lock().state().name();
        let hint = "only a RUNNING job whose tasks have all started can be stopped; cancel it instead";
        Err(Status::failed_precondition(format!("job {id} is {state}: {hint}")))
    }

    async fn take_checkpoint(
        &self,
        _: Request<v1::TakeCheckpointRequest>,
    ) -> Result<Response<v1::TakeCheckpointResponse>, Status> {
        Err(Status::unimplemented("checkpoints are not taken yet"))
    }

    async fn rescale_job(&self, _: Request<v1::RescaleJobRequest>) -> Result<Response<v1::RescaleJobResponse>, Status> {
        Err(Status::unimplemented("checkpoints are not taken yet"))
    }

    async fn get_cluster(&self, _: Request<v1::GetClusterRequest>) -> Result<Response<v1::ClusterDetails>, Status> {
        Ok(Response::new(self.around.cluster.details()))
    }
}

/// Sends the job at once, then every interval, at last when it has ended; ends when nobody listens.
async fn watch(around: Surroundings, id: JobId, interval: Duration, tx: mpsc::Sender<Result<v1::JobDetails, Status>>) {
    loop {
        // Asked before the details are taken: what is seen to have ended is then shown ended.
        let live = around.table.live(id);
        let Some(details) = around.table.details(id) else { return };
        if tx.send(Ok(details)).await.is_err() {
            return;
        }
        let Some(handle) = live else { return };
        tokio::select! {
            () = around.clock.sleep(interval) => {}
            () = handle.ended.cancelled() => {}
            () = tx.closed() => return,
        }
    }
}

fn refusal(problems: &[Problem]) -> v1::SubmitJobResponse {
    tracing::info!(problems = problems.len(), "job refused");
    v1::SubmitJobResponse { job_id: String::new(), problems: problems.iter().map(wire::problem).collect() }
}

fn job_id(text: &str) -> Result<JobId, Status> {
    text.parse().map_err(|error: weir_core::ids::JobIdError| Status::invalid_argument(error.to_string()))
}

fn unknown_job(id: JobId) -> Status {
    Status::not_found(format!("there is no job {id}; 'weir list' shows the jobs this coordinator knows"))
}
