//! `weir run` and `weir local run`: submit a job, follow it to its end, say how it ended. Both are the same client;
//! the local one brings its cluster.

use std::path::Path;

use anyhow::{Context, bail};
use weir_core::Clock;
use weir_graph::SubmittedJob;
use weir_graph::limits::PARALLELISM_MAX;
use weir_operator_api::SystemClock;
use weir_proto::convert::{job_to_proto, problem_from_proto};
use weir_proto::v1;

use crate::arguments::{LocalRunOptions, RestoreOptions, RunOptions};
use crate::client::{self, Client};
use crate::embedded::{Cluster, ClusterOptions};
use crate::job_file;
use crate::output::{Refused, line};
use crate::progress::Progress;
use crate::report::{failure, is_terminal};
use crate::signals::Signals;
use crate::summary;

/// What a signal means to the job that is followed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum OnSignal {
    /// It goes on without us.
    Leave,
    /// It is cancelled.
    Cancel,
}

/// `weir run`.
///
/// **Errors**: a job that was refused or did not end FINISHED.
pub async fn remote(options: RunOptions) -> anyhow::Result<()> {
    let job = job_file::read(&options.job)?;
    let mut client = client::connect(&options.target.coordinator).await?;
    let job_id = submit(&mut client, &job, &options.restore).await?;
    line(&format!("Job has been submitted with JobID {job_id}"));
    if options.detached {
        return Ok(());
    }
    let ended = follow(&mut client, &job_id, Signals::listen()?, OnSignal::Leave).await?;
    conclude(&ended, options.summary.as_deref())
}

/// `weir local run`.
///
/// **Errors**: a job that was refused or did not end FINISHED, a cluster that does not start.
pub async fn local(options: LocalRunOptions) -> anyhow::Result<()> {
    let job = job_file::read(&options.job)?;
    let signals = Signals::listen()?;
    let data = tempfile::Builder::new().prefix("weir-local-").tempdir().context("make a directory for the cluster")?;
    let mut cluster_options = ClusterOptions::new(data.path());
    // As many slots as any job may need: one process runs one job, and nobody waits for room.
    cluster_options.slots = PARALLELISM_MAX;
    cluster_options.http = options.http;
    cluster_options.memory_bytes = options.memory;
    let mut cluster = Cluster::start(cluster_options).await?;
    let client = cluster.client().await?;
    let ended = tokio::select! {
        ended = run_in(client, &job, &options.restore, signals) => ended,
        error = cluster.broken() => Err(error),
    };
    let stopped = cluster.stop().await;
    conclude(&ended?, options.summary.as_deref())?;
    stopped
}

async fn run_in(
    mut client: Client,
    job: &SubmittedJob,
    restore: &RestoreOptions,
    signals: Signals,
) -> anyhow::Result<v1::JobDetails> {
    let job_id = submit(&mut client, job, restore).await?;
    tracing::info!(job = job_id, "job has been submitted");
    follow(&mut client, &job_id, signals, OnSignal::Cancel).await
}

/// Submits a job; its id.
///
/// **Errors**: [`Refused`] with everything that is wrong with it.
pub async fn submit(client: &mut Client, job: &SubmittedJob, restore: &RestoreOptions) -> anyhow::Result<String> {
    let request = v1::SubmitJobRequest {
        job: Some(job_to_proto(job)),
        restore_path: restore.from_savepoint.as_deref().map(client::place).transpose()?.unwrap_or_default(),
        allow_non_restored_state: restore.allow_non_restored_state,
    };
    let answer = client.submit_job(request).await.map_err(|status| client::refused(&status))?.into_inner();
    if !answer.problems.is_empty() {
        let problems = answer.problems.into_iter().map(problem_from_proto).collect();
        return Err(Refused { problems }.into());
    }
    Ok(answer.job_id)
}

/// Follows a job to its end.
async fn follow(
    client: &mut Client,
    job_id: &str,
    mut signals: Signals,
    on_signal: OnSignal,
) -> anyhow::Result<v1::JobDetails> {
    let clock = SystemClock::default();
    let mut progress = Progress::on_standard_error();
    let request = v1::WatchJobRequest {
        job_id: job_id.to_owned(),
        interval_ms: u32::try_from(progress.interval().as_millis()).unwrap_or(0),
    };
    let mut updates = client.watch_job(request).await.map_err(|status| client::refused(&status))?.into_inner();
    let mut last = None;
    let mut is_asked_to_end = false;
    loop {
        let update = tokio::select! {
            update = updates.message() => update.with_context(|| format!("lost the coordinator while following job {job_id}"))?,
            () = signals.next() => {
                if is_asked_to_end || on_signal == OnSignal::Leave {
                    bail!("stopped following job {job_id}; it goes on: `weir cancel {job_id}` ends it");
                }
                is_asked_to_end = true;
                progress.say("Cancelling the job; once more to end at once.");
                let request = v1::CancelJobRequest { job_id: job_id.to_owned() };
                client.cancel_job(request).await.map_err(|status| client::refused(&status))?;
                continue;
            }
        };
        match update {
            Some(job) if is_terminal(job.summary.clone().unwrap_or_default().state()) => {
                progress.end(&job);
                return Ok(job);
            }
            Some(job) => {
                progress.show(&job, clock.monotonic());
                last = Some(job);
            }
            None => {
                let state = last
                    .and_then(|job| job.summary)
                    .map_or("unknown", |summary| crate::report::state_name(summary.state()));
                bail!("the coordinator stopped telling about job {job_id}; its last known state is {state}");
            }
        }
    }
}

/// Prints the results of a job that has ended; an error unless it is FINISHED.
fn conclude(job: &v1::JobDetails, summary_file: Option<&Path>) -> anyhow::Result<()> {
    if let Some(path) = summary_file {
        let text = format!("{:#}\n", summary::json(job));
        std::fs::write(path, text).with_context(|| format!("write the summary '{}'", path.display()))?;
    }
    let job_summary = job.summary.clone().unwrap_or_default();
    if job_summary.state() == v1::JobState::Finished {
        summary::hash_lines(job).iter().for_each(|text| line(text));
        return Ok(());
    }
    if let Some(cause) = &job.failure {
        eprint!("{}", failure(cause));
    }
    if job_summary.state() == v1::JobState::Suspended {
        bail!("job '{}' is SUSPENDED: it goes on when its coordinator is started again", job_summary.name);
    }
    bail!("job '{}' is {}", job_summary.name, crate::report::state_name(job_summary.state()))
}
