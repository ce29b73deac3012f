//! All jobs the coordinator knows: living ones with a way to their masters, and the last that have ended.

use std::collections::BTreeMap;
use std::io;
use std::sync::Arc;

use parking_lot::Mutex;
use tokio::sync::mpsc;
use tokio::task::JoinError;
use tokio_util::sync::CancellationToken;
use weir_core::JobId;
use weir_proto::v1::{JobDetails, JobSummary};

use super::archive::{Archive, ENDED_JOBS_MAX};
use super::failure;
use super::master::Letter;
use super::record::JobRecord;
use super::state::JobState;
use crate::cluster::Cluster;

/// Jobs that may live at the same time, waiting ones included.
pub(crate) const LIVE_JOBS_MAX: usize = 1000;

/// Way to one living job; cheap to clone.
#[derive(Clone, Debug)]
pub(crate) struct JobHandle {
    /// What is known of it.
    pub(crate) record: Arc<Mutex<JobRecord>>,
    /// Its master's mailbox. The master never waits for anything but its mailbox and timers, so sending never blocks
    /// for long.
    pub(crate) mailbox: mpsc::Sender<Letter>,
    /// Ends when the job has ended and is kept.
    pub(crate) ended: CancellationToken,
}

/// Handle to the table of jobs.
#[derive(Clone, Debug)]
pub(crate) struct JobTable {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    cluster: Cluster,
    archive: Archive,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    is_closed: bool,
    live: BTreeMap<JobId, JobHandle>,
    ended: BTreeMap<JobId, Arc<JobDetails>>,
}

/// Why a job is not taken in.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub(crate) enum NotAdmitted {
    /// The process is about to end.
    #[error("the coordinator is shutting down and takes no more jobs")]
    Closed,
    /// Too many jobs live.
    #[error("{LIVE_JOBS_MAX} jobs live already; cancel some or wait for their end")]
    Full,
}

impl JobTable {
    /// A table with the jobs of the archive.
    pub(crate) fn new(cluster: Cluster, archive: Archive, ended: Vec<(JobId, JobDetails)>) -> Self {
        let ended = ended.into_iter().map(|(id, details)| (id, Arc::new(details))).collect();
        let state = Mutex::new(State { ended, ..State::default() });
        JobTable { inner: Arc::new(Inner { cluster, archive, state }) }
    }

    /// Takes a living job in.
    pub(crate) fn admit(&self, id: JobId, handle: JobHandle) -> Result<(), NotAdmitted> {
        let mut state = self.inner.state.lock();
        if state.is_closed {
            return Err(NotAdmitted::Closed);
        }
        if state.live.len() >= LIVE_JOBS_MAX {
            return Err(NotAdmitted::Full);
        }
        if let Some(panicked) = state.live.insert(id, handle) {
            panicked.ended.cancel();
        }
        Ok(())
    }

    /// Takes no more jobs in.
    pub(crate) fn close(&self) {
        self.inner.state.lock().is_closed = true;
    }

    /// Way to a living job.
    pub(crate) fn live(&self, id: JobId) -> Option<JobHandle> {
        self.inner.state.lock().live.get(&id).cloned()
    }

    /// All living jobs.
    pub(crate) fn all_live(&self) -> Vec<(JobId, JobHandle)> {
        self.inner.state.lock().live.iter().map(|(id, handle)| (*id, handle.clone())).collect()
    }

    /// A job has ended: keeps it on disk. A disk that fails is reported in the log; the job's end is not undone by it.
    pub(crate) async fn archive(&self, id: JobId) -> Option<Arc<JobDetails>> {
        let handle = self.live(id)?;
        let details = Arc::new(handle.record.lock().details());
        self.keep(id, Arc::clone(&details)).await;
        Some(details)
    }

    async fn keep(&self, id: JobId, details: Arc<JobDetails>) {
        let archive = self.inner.archive.clone();
        log_failure(id, tokio::task::spawn_blocking(move || archive.store(id, &details)).await);
    }

    /// An archived job lives no more; everyone who waits for its end is told. The oldest beyond the limit are forgotten.
    pub(crate) fn ended(&self, id: JobId, details: Option<Arc<JobDetails>>) {
        let (handle, surplus) = {
            let mut state = self.inner.state.lock();
            let handle = state.live.remove(&id);
            state.ended.extend(details.map(|details| (id, details)));
            (handle, state.take_surplus())
        };
        if let Some(handle) = handle {
            handle.ended.cancel();
        }
        if !surplus.is_empty() {
            let archive = self.inner.archive.clone();
            tokio::task::spawn_blocking(move || {
                let forgotten = surplus.into_iter().try_for_each(|old| archive.remove(old));
                log_failure(id, Ok(forgotten));
            });
        }
    }

    /// A job that an earlier coordinator left cannot go on: it has ended, with what is known of it.
    pub(crate) async fn bury(&self, id: JobId, details: JobDetails) {
        let details = Arc::new(details);
        self.keep(id, Arc::clone(&details)).await;
        self.ended(id, Some(details));
    }

    /// A job lives on without this coordinator.
    pub(crate) fn suspend(&self, id: JobId) {
        if let Some(handle) = self.inner.state.lock().live.remove(&id) {
            handle.ended.cancel();
        }
    }

    /// Whether a job has ended.
    pub(crate) fn has_ended(&self, id: JobId) -> bool {
        self.inner.state.lock().ended.contains_key(&id)
    }

    /// One job in full, living or ended.
    pub(crate) fn details(&self, id: JobId) -> Option<JobDetails> {
        let handle = {
            let state = self.inner.state.lock();
            match state.live.get(&id) {
                Some(handle) => handle.clone(),
                None => return state.ended.get(&id).map(|details| JobDetails::clone(details)),
            }
        };
        let record = handle.record.lock();
        let mut details = record.details();
        if let Some(needed) = record.slots_awaited() {
            details.waiting_for = failure::waiting_for(needed, self.inner.cluster.free_slots());
        }
        Some(details)
    }

    /// All jobs, newest first.
    pub(crate) fn summaries(&self) -> Vec<JobSummary> {
        let (live, ended) = {
            let state = self.inner.state.lock();
            let live: Vec<JobHandle> = state.live.values().cloned().collect();
            (live, state.ended.values().cloned().collect::<Vec<_>>())
        };
        let living = live.iter().map(|handle| handle.record.lock().summary());
        let mut summaries: Vec<JobSummary> =
            living.chain(ended.iter().filter_map(|details| details.summary.clone())).collect();
        summaries.sort_by(|a, b| (b.submitted_at_unix_ms, &b.job_id).cmp(&(a.submitted_at_unix_ms, &a.job_id)));
        summaries
    }

    /// How many living jobs run.
    pub(crate) fn running_count(&self) -> usize {
        self.all_live().iter().filter(|(_, job)| job.record.lock().state() == JobState::Running).count()
    }
}

impl State {
    fn take_surplus(&mut self) -> Vec<JobId> {
        let mut surplus = Vec::new();
        while self.ended.len() > ENDED_JOBS_MAX {
            let ended_at = |details: &JobDetails| details.summary.as_ref().map_or(0, |job| job.ended_at_unix_ms);
            let oldest = self.ended.iter().min_by_key(|(_, details)| ended_at(details)).map(|(id, _)| *id);
            let Some(oldest) = oldest else { break };
            self.ended.remove(&oldest);
            surplus.push(oldest);
        }
        surplus
    }
}

fn log_failure(id: JobId, result: Result<io::Result<()>, JoinError>) {
    match result {
        Ok(Ok(())) => {}
        Ok(Err(error)) => tracing::error!(job = %id, %error, "cannot keep ended jobs on disk"),
        Err(error) => tracing::error!(job = %id, %error, "keeping ended jobs on disk was interrupted"),
    }
}
