//! The clients' door: submit, look, cancel, stop, take savepoints, rescale. Converts once and hands on; it decides nothing
//! about a job.

use std::time::Duration;

use tokio::sync::{mpsc, oneshot};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status};
use weir_core::error::report;
use weir_core::{JobId, Problem};
use weir_graph::limits::PARALLELISM_MAX;
use weir_proto::v1;
use weir_proto::v1::job_service_server::JobService;

use crate::job::launch::{self, NotLaunched};
use crate::job::master::{Letter, Surroundings};
use crate::job::orders::Answer;
use crate::job::submit::{RestoreWish, prepare};
use crate::job::table::{JobHandle, NotAdmitted};
use crate::recovery::plan::Unclaimed;
use crate::wire;
use crate::worker_link::Drain;

/// Serves `weir.v1.JobService`.
pub(crate) struct AdminService {
    around: Surroundings,
}

impl AdminService {
    /// A service over the jobs of `around`.
    pub(crate) fn new(around: Surroundings) -> Self {
        AdminService { around }
    }

    /// Asks a job's master something that takes a while; the job's own refusal is a failed precondition.
    async fn ask<T>(&self, id: JobId, letter: impl FnOnce(Answer<T>) -> Letter) -> Result<T, Status> {
        let handle = self.live(id)?;
        let (tx, rx) = oneshot::channel();
        if handle.mailbox.send(letter(tx)).await.is_err() {
            self.live(id)?;
        }
        match rx.await {
            Ok(Ok(answer)) => Ok(answer),
            Ok(Err(why)) => Err(Status::failed_precondition(format!("job {id}: {why}"))),
            Err(_) => Err(Status::aborted(format!("job {id} ended before it could answer"))),
        }
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
        let request = request.into_inner();
        let graph = request.job.ok_or_else(|| Status::invalid_argument("field 'job' is missing"))?;
        let unclaimed = if request.allow_non_restored_state { Unclaimed::LeftOut } else { Unclaimed::Refused };
        let wish = match request.restore_path {
            path if path.is_empty() => None,
            path => Some(RestoreWish { path, unclaimed }),
        };
        let answer = match prepare(graph, wish, &self.around).await {
            Ok((job, found)) => {
                let id = launch::submitted(job, found, &self.around).await.map_err(|error| match error {
                    NotLaunched::NotAdmitted(NotAdmitted::Full) => Status::resource_exhausted(error.to_string()),
                    NotLaunched::NotAdmitted(NotAdmitted::Closed) => Status::unavailable(error.to_string()),
                    NotLaunched::NotKept(_) => Status::internal(report(&error)),
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
        let drain = if request.drain { Drain::Yes } else { Drain::No };
        if request.savepoint {
            let directory = Some(request.savepoint_directory);
            let savepoint_path = self.ask(id, |answer| Letter::StopWithSavepoint(directory, drain, answer)).await?;
            return Ok(Response::new(v1::StopJobResponse { savepoint_path }));
        }
        let handle = self.live(id)?;
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
        request: Request<v1::TakeCheckpointRequest>,
    ) -> Result<Response<v1::TakeCheckpointResponse>, Status> {
        let request = request.into_inner();
        let id = job_id(&request.job_id)?;
        let taken = match request.savepoint {
            true => self.ask(id, |answer| Letter::TakeSavepoint(Some(request.directory), answer)).await?,
            false => self.ask(id, Letter::TakeCheckpoint).await?,
        };
        Ok(Response::new(v1::TakeCheckpointResponse {
            checkpoint_id: taken.checkpoint_id,
            path: taken.path,
            duration_ms: taken.duration.as_millis() as u64,
        }))
    }

    async fn rescale_job(
        &self,
        request: Request<v1::RescaleJobRequest>,
    ) -> Result<Response<v1::RescaleJobResponse>, Status> {
        let request = request.into_inner();
        let id = job_id(&request.job_id)?;
        if !(1..=PARALLELISM_MAX).contains(&request.parallelism) {
            let given = request.parallelism;
            return Err(Status::invalid_argument(format!(
                "parallelism is {given}: 1 to {PARALLELISM_MAX} are allowed"
            )));
        }
        let rescaled = self.ask(id, |answer| Letter::Rescale(request.parallelism, answer)).await?;
        Ok(Response::new(v1::RescaleJobResponse {
            pause_ms: rescaled.pause.as_millis() as u64,
            checkpoint_id: rescaled.checkpoint_id,
        }))
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
