//! Brings jobs to life: one that a user submitted, or those that an earlier coordinator left. Gives each a record, a
//! mailbox and a master.

use std::panic::AssertUnwindSafe;
use std::sync::Arc;

use futures::FutureExt;
use futures::future::BoxFuture;
use parking_lot::Mutex;
use prost::Message;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;
use tracing::Instrument;
use weir_checkpoint::Incarnation;
use weir_core::{ErrorDomain, JobId};
use weir_proto::v1;

use super::failure;
use super::lifecycle::Birth;
use super::master::{Beginning, MAILBOX_MAX, Master, Surroundings};
use super::record::JobRecord;
use super::submit::{PreparedJob, RestorePoint, plan};
use super::table::{JobHandle, NotAdmitted};
use crate::error::CoordinatorError;
use crate::meta::{IDS_RESERVED, JobMeta, Origin};

/// Masters of one job that may panic before it has failed.
const DEATHS_MAX: u32 = 4;

/// Why a submitted job does not live.
#[derive(Debug, thiserror::Error)]
pub(crate) enum NotLaunched {
    /// There is no room for it.
    #[error(transparent)]
    NotAdmitted(#[from] NotAdmitted),
    /// It could not be kept.
    #[error("the job could not be written down")]
    NotKept(#[source] CoordinatorError),
}

/// Takes in a job that was just prepared. It is durable before this returns: whoever is told its id can rely on it.
pub(crate) async fn submitted(
    job: PreparedJob,
    found: Option<(Origin, RestorePoint)>,
    around: &Surroundings,
) -> Result<JobId, NotLaunched> {
    let draw = || u128::from(around.stores.draw()) << 64 | u128::from(around.stores.draw());
    let id = JobId(draw());
    let now = around.clock.wall_unix_us();
    let mut meta = JobMeta::new(id, job.graph_bytes(), Incarnation(draw()), now / 1000);
    let mut point = None;
    if let Some((origin, found)) = found {
        meta.next_checkpoint.0 = found.manifest.checkpoint.0 + 1 + IDS_RESERVED;
        meta.origin = Some(origin);
        point = Some(found);
    }
    around.meta.put(&meta).await.map_err(NotLaunched::NotKept)?;
    let record = JobRecord::new(id, &job.plan, job.config.clone(), now);
    let launched = launch(Beginning { meta, job, point, birth: Birth::New }, record, around, 0);
    if launched.is_err() {
        around.meta.remove(id).await.map_err(NotLaunched::NotKept)?;
    }
    Ok(launched?)
}

/// Brings back all jobs that an earlier coordinator left. One that can no longer be planned has failed, and says so.
///
/// **Errors**: metadata that cannot be read.
pub(crate) async fn left_behind(around: &Surroundings) -> Result<(), CoordinatorError> {
    for meta in around.meta.load().await? {
        go_on(meta, around, 0).await?;
    }
    Ok(())
}

/// Goes on with a job from what is kept of it. `deaths` is how many masters of it have panicked here.
async fn go_on(meta: JobMeta, around: &Surroundings, deaths: u32) -> Result<(), CoordinatorError> {
    let id = meta.job;
    if around.table.has_ended(id) {
        return around.meta.remove(id).await;
    }
    let graph = v1::JobGraph::decode(meta.graph.clone()).map_err(|error| format!("its graph cannot be read: {error}"));
    let planned = match graph {
        Ok(graph) => plan(graph, around).await.map_err(|problems| failure::listed(&problems)),
        Err(reason) => Err(reason),
    };
    match planned {
        Ok(job) => {
            let submitted_us = meta.submitted_at_unix_ms.saturating_mul(1000);
            let record = JobRecord::new(id, &job.plan, job.config.clone(), submitted_us).resume(&meta);
            tracing::info!(job = %id, name = job.plan.name, "goes on with a job");
            let beginning = Beginning { meta, job, point: None, birth: Birth::Recovered };
            if let Err(error) = launch(beginning, record, around, deaths) {
                tracing::error!(job = %id, %error, "cannot go on with a job");
            }
            Ok(())
        }
        Err(reason) => bury(&meta, &reason, around).await,
    }
}

/// After a master has panicked: what it knew is gone, and what is durable is enough to go on from, as it is after the end
/// of a coordinator. One that panics again and again would do so for ever.
async fn after_panic(id: JobId, around: Surroundings, deaths: u32) {
    around.cluster.release_slots(id);
    let kept = match around.meta.load().await {
        Ok(kept) => kept.into_iter().find(|meta| meta.job == id),
        Err(error) => {
            return tracing::error!(job = %id, error = weir_core::error::report(&error), "cannot go on with a job");
        }
    };
    let Some(meta) = kept else {
        // It had come to its end, and there is nothing left to tell of it.
        return around.table.suspend(id);
    };
    let went_on = match deaths {
        DEATHS_MAX.. => bury(&meta, "its master panicked again and again; the log has the places", &around).await,
        _ => go_on(meta, &around, deaths).await,
    };
    if let Err(error) = went_on {
        tracing::error!(job = %id, error = weir_core::error::report(&error), "cannot go on with a job");
    }
}

async fn bury(meta: &JobMeta, reason: &str, around: &Surroundings) -> Result<(), CoordinatorError> {
    let latest = meta.latest().map(|latest| format!("; its last checkpoint is '{}'", latest.manifest));
    let message = format!("the job cannot go on: {reason}{}", latest.unwrap_or_default());
    tracing::error!(job = %meta.job, message, "a job has failed");
    let now = around.clock.wall_unix_us();
    let name = v1::JobGraph::decode(meta.graph.clone()).map(|graph| graph.name).unwrap_or_default();
    let summary = v1::JobSummary {
        job_id: meta.job.to_string(),
        name,
        state: v1::JobState::Failed.into(),
        submitted_at_unix_ms: meta.submitted_at_unix_ms,
        ended_at_unix_ms: now / 1000,
        ..v1::JobSummary::default()
    };
    let details = v1::JobDetails {
        summary: Some(summary),
        failure: Some(failure::of_coordinator("restore-refused", ErrorDomain::User, message, now)),
        restart_count: meta.restart_count,
        ..v1::JobDetails::default()
    };
    around.table.bury(meta.job, details).await;
    around.meta.remove(meta.job).await
}

fn launch(beginning: Beginning, record: JobRecord, around: &Surroundings, deaths: u32) -> Result<JobId, NotAdmitted> {
    let id = beginning.meta.job;
    let record = Arc::new(Mutex::new(record));
    let (mailbox, letters) = mpsc::channel(MAILBOX_MAX);
    let handle = JobHandle { record: Arc::clone(&record), mailbox, ended: CancellationToken::new() };
    around.table.admit(id, handle)?;
    let plan = &beginning.job.plan;
    let span = tracing::info_span!("job", job = %id, name = plan.name);
    span.in_scope(|| tracing::info!(slots = plan.slots_needed(), "job accepted"));
    let master = Master::new(beginning, record, around.clone());
    let around = around.clone();
    let watched: BoxFuture<'static, ()> = Box::pin(async move {
        let ran = AssertUnwindSafe(master.run(letters).instrument(span)).catch_unwind().await;
        if ran.is_err() {
            tracing::error!(job = %id, "the master of the job panicked");
            after_panic(id, around, deaths + 1).await;
        }
    });
    tokio::spawn(watched);
    Ok(id)
}
