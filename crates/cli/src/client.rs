//! The client side of `weir.v1.JobService`: connecting, finding jobs, and the commands that ask one question.

use std::time::Duration;

use anyhow::{anyhow, bail};
use tonic::transport::{Channel, Endpoint};
use weir_proto::v1;
use weir_proto::v1::job_service_client::JobServiceClient;

use crate::arguments::{JobOptions, RescaleOptions, SavepointOptions, StopOptions, Target};
use crate::output::line;
use crate::report;

/// A connection to a coordinator.
pub type Client = JobServiceClient<Channel>;

/// Longest time to wait for a connection.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// Most bytes of an answer: counters of every subtask of a large job.
const ANSWER_BYTES_MAX: usize = 64 * 1024 * 1024;
/// Digits of a whole job id.
const JOB_ID_DIGITS: usize = 32;

/// Connects to the coordinator at `address`, `host:port`.
///
/// **Errors**: nobody there, with what to do.
pub async fn connect(address: &str) -> anyhow::Result<Client> {
    let address = address.strip_prefix("http://").unwrap_or(address).trim_end_matches('/');
    let endpoint = Endpoint::from_shared(format!("http://{address}"))
        .map_err(|_| anyhow!("'{address}' is not an address; expected host:port"))?;
    let channel = endpoint.connect_timeout(CONNECT_TIMEOUT).tcp_nodelay(true).connect().await;
    let channel = channel.map_err(|error| {
        anyhow!(error).context(format!(
            "cannot reach the coordinator at {address}: start one with `weir coordinator`, or name another with -m"
        ))
    })?;
    Ok(JobServiceClient::new(channel).max_decoding_message_size(ANSWER_BYTES_MAX))
}

/// What a coordinator's refusal says.
pub fn refused(status: &tonic::Status) -> anyhow::Error {
    match status.message() {
        "" => anyhow!("the coordinator answers {}", status.code()),
        message => anyhow!("{message}"),
    }
}

/// All jobs, newest first.
pub async fn jobs(client: &mut Client) -> anyhow::Result<Vec<v1::JobSummary>> {
    let answer = client.list_jobs(v1::ListJobsRequest {}).await.map_err(|status| refused(&status))?;
    Ok(answer.into_inner().jobs)
}

/// The whole id of the job whose id begins with `prefix`.
///
/// **Errors**: none, or more than one such job.
pub async fn find_job(client: &mut Client, prefix: &str) -> anyhow::Result<String> {
    let prefix = prefix.to_ascii_lowercase();
    if prefix.is_empty() || prefix.len() > JOB_ID_DIGITS || !prefix.bytes().all(|byte| byte.is_ascii_hexdigit()) {
        bail!("'{prefix}' is not a job id: expected up to {JOB_ID_DIGITS} hexadecimal digits; `weir list` shows them");
    }
    if prefix.len() == JOB_ID_DIGITS {
        return Ok(prefix);
    }
    let found: Vec<_> = jobs(client).await?.into_iter().filter(|job| job.job_id.starts_with(&prefix)).collect();
    match &found[..] {
        [job] => Ok(job.job_id.clone()),
        [] => bail!("there is no job whose id begins with '{prefix}'; `weir list` shows them"),
        several => {
            let ids: Vec<_> = several.iter().map(|job| job.job_id.as_str()).collect();
            bail!("several jobs begin with '{prefix}': {}", ids.join(", "))
        }
    }
}

/// `weir list`.
pub async fn list(options: &Target) -> anyhow::Result<()> {
    let mut client = connect(&options.coordinator).await?;
    line(&report::list(&jobs(&mut client).await?));
    Ok(())
}

/// `weir info`.
pub async fn info(options: &JobOptions) -> anyhow::Result<()> {
    let (mut client, job_id) = open(options).await?;
    let details = client.get_job(v1::GetJobRequest { job_id }).await.map_err(|status| refused(&status))?;
    line(&report::info(&details.into_inner()));
    Ok(())
}

/// `weir cancel`.
pub async fn cancel(options: &JobOptions) -> anyhow::Result<()> {
    let (mut client, job_id) = open(options).await?;
    let request = v1::CancelJobRequest { job_id: job_id.clone() };
    client.cancel_job(request).await.map_err(|status| refused(&status))?;
    line(&format!("Cancelling job {job_id}."));
    Ok(())
}

/// The key that says where a job's savepoints are made.
const SAVEPOINT_DIR: &str = "execution.checkpointing.savepoint-dir";

/// `weir stop`: with a savepoint, as in Flink, unless neither the command nor the job says where.
pub async fn stop(options: &StopOptions) -> anyhow::Result<()> {
    let (mut client, job_id) = open(&options.job).await?;
    let request = v1::GetJobRequest { job_id: job_id.clone() };
    let details = client.get_job(request).await.map_err(|status| refused(&status))?.into_inner();
    let has_own = details.config.get(SAVEPOINT_DIR).is_some_and(|directory| !directory.is_empty());
    let savepoint_directory = options.savepoint_path.as_deref().map(place).transpose()?.unwrap_or_default();
    let savepoint = has_own || !savepoint_directory.is_empty();
    let request = v1::StopJobRequest { job_id: job_id.clone(), drain: options.drain, savepoint, savepoint_directory };
    if !savepoint {
        client.stop_job(request).await.map_err(|status| refused(&status))?;
        line(&format!(
            "Stopping job {job_id} without a savepoint: --savepointPath or {SAVEPOINT_DIR} says where one goes."
        ));
        return Ok(());
    }
    line(&format!("Suspending job \"{job_id}\" with a savepoint."));
    let answer = client.stop_job(request).await.map_err(|status| refused(&status))?.into_inner();
    line(&format!("Savepoint completed. Path: {}", answer.savepoint_path));
    Ok(())
}

/// `weir savepoint`.
pub async fn savepoint(options: &SavepointOptions) -> anyhow::Result<()> {
    let (mut client, job_id) = open(&options.job).await?;
    let directory = options.directory.as_deref().map(place).transpose()?.unwrap_or_default();
    line(&format!("Triggering savepoint for job {job_id}."));
    line("Waiting for response...");
    let request = v1::TakeCheckpointRequest { job_id, savepoint: true, directory };
    let taken = client.take_checkpoint(request).await.map_err(|status| refused(&status))?.into_inner();
    line(&format!("Savepoint completed. Path: {}", taken.path));
    line("You can resume your program from this savepoint with the run command.");
    Ok(())
}

/// `weir checkpoint`.
pub async fn checkpoint(options: &JobOptions) -> anyhow::Result<()> {
    let (mut client, job_id) = open(options).await?;
    line(&format!("Triggering checkpoint for job {job_id}."));
    line("Waiting for response...");
    let request = v1::TakeCheckpointRequest { job_id: job_id.clone(), ..v1::TakeCheckpointRequest::default() };
    let taken = client.take_checkpoint(request).await.map_err(|status| refused(&status))?.into_inner();
    line(&format!("Checkpoint {} for job {job_id} completed. Path: {}", taken.checkpoint_id, taken.path));
    line("You can resume your program from this checkpoint with the run command.");
    Ok(())
}

/// `weir rescale`.
pub async fn rescale(options: &RescaleOptions) -> anyhow::Result<()> {
    let (mut client, job_id) = open(&options.job).await?;
    let parallelism = options.parallelism;
    line(&format!("Rescaling job {job_id} to parallelism {parallelism}."));
    let request = v1::RescaleJobRequest { job_id, parallelism };
    let rescaled = client.rescale_job(request).await.map_err(|status| refused(&status))?.into_inner();
    line(&format!(
        "Rescaled from checkpoint {}; nothing was processed for {}.",
        rescaled.checkpoint_id,
        crate::output::duration_ms(rescaled.pause_ms)
    ));
    Ok(())
}

/// A directory as the coordinator understands it, whose working directory may be another.
///
/// **Errors**: a relative path without a working directory.
pub fn place(directory: &str) -> anyhow::Result<String> {
    if directory.contains("://") || directory.starts_with("file:") {
        return Ok(directory.to_owned());
    }
    Ok(std::path::absolute(directory)?.display().to_string())
}

async fn open(options: &JobOptions) -> anyhow::Result<(Client, String)> {
    let mut client = connect(&options.target.coordinator).await?;
    let job_id = find_job(&mut client, &options.job).await?;
    Ok((client, job_id))
}
