//! The durable truth of one coordinator: which jobs there are, which of their checkpoints are complete, what of their
//! output is published. A pointer to a manifest that is written here is the commit point of its checkpoint.
//!
//! Masters write through [`ledger::Ledger`], one change after another; a coordinator that starts reads everything once.
//! [`MetaStore`] is the seam that a replicated log will take.

pub(crate) mod files;
pub(crate) mod ledger;

use std::fmt::Debug;

use async_trait::async_trait;
use bytes::Bytes;
use weir_checkpoint::Incarnation;
use weir_core::{CheckpointId, JobId};
use weir_proto::v1::Failure;

use crate::error::CoordinatorError;

/// Checkpoint ids that are reserved in one write: no id is ever given twice, also not after a crash.
pub(crate) const IDS_RESERVED: u64 = 16;

/// A checkpoint that is complete.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct CompletedPointer {
    /// Which.
    pub(crate) checkpoint: CheckpointId,
    /// Path of its manifest in the job's store.
    pub(crate) manifest: String,
}

/// Where a user's restore began.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Origin {
    /// The store that the manifest and its objects lie in.
    pub(crate) store: String,
    /// Path of the manifest.
    pub(crate) manifest: String,
    /// Whether state that no operator takes is left out.
    pub(crate) leaves_out_unclaimed: bool,
}

/// What is kept of a job that has not ended.
#[derive(Clone, PartialEq, Debug)]
pub(crate) struct JobMeta {
    /// The job.
    pub(crate) job: JobId,
    /// The submitted graph with its configuration, an encoded `weir.v1.JobGraph`.
    pub(crate) graph: Bytes,
    /// The life of its state.
    pub(crate) incarnation: Incarnation,
    /// Wall time of its acceptance, milliseconds since 1970-01-01 UTC.
    pub(crate) submitted_at_unix_ms: i64,
    /// Every checkpoint id given so far is smaller.
    pub(crate) next_checkpoint: CheckpointId,
    /// Its last attempt.
    pub(crate) attempt: u32,
    /// Restarts after failures.
    pub(crate) restart_count: u32,
    /// Why it restarted last.
    pub(crate) last_restart_cause: Option<Failure>,
    /// Where a user's restore began; `None` for a job that started afresh.
    pub(crate) origin: Option<Origin>,
    /// Completed checkpoints that are kept, oldest first; the last is what a restart goes on from.
    pub(crate) retained: Vec<CompletedPointer>,
    /// Completed checkpoints that are no longer kept and not yet deleted.
    pub(crate) dropped: Vec<CompletedPointer>,
    /// The output of all checkpoints up to this one is published.
    pub(crate) published: CheckpointId,
    /// The last savepoint that was begun; 0 when there is none.
    pub(crate) savepoint: CheckpointId,
    /// The manifest of the job's end, encoded, once all its tasks have finished: from then on only publishing is left.
    pub(crate) end: Option<Bytes>,
    /// Completed checkpoints since the job was submitted.
    pub(crate) completed_count: u64,
    /// Failed checkpoints since the job was submitted, as of the last write.
    pub(crate) failed_count: u64,
}

impl JobMeta {
    /// A job that was just accepted.
    pub(crate) fn new(job: JobId, graph: Bytes, incarnation: Incarnation, submitted_at_unix_ms: i64) -> Self {
        JobMeta {
            job,
            graph,
            incarnation,
            submitted_at_unix_ms,
            next_checkpoint: CheckpointId(1 + IDS_RESERVED),
            attempt: 1,
            restart_count: 0,
            last_restart_cause: None,
            origin: None,
            retained: Vec::new(),
            dropped: Vec::new(),
            published: CheckpointId(0),
            savepoint: CheckpointId(0),
            end: None,
            completed_count: 0,
            failed_count: 0,
        }
    }

    /// The checkpoint that a restart goes on from; `None` before the first.
    pub(crate) fn latest(&self) -> Option<&CompletedPointer> {
        self.retained.iter().max_by_key(|pointer| pointer.checkpoint)
    }
}

/// Keeps the truth.
#[async_trait]
pub(crate) trait MetaStore: Send + Sync + Debug {
    /// Keeps a job; durable when it returns. **Errors**: it is unknown whether the old or the new state is kept.
    async fn put(&self, job: &JobMeta) -> Result<(), CoordinatorError>;

    /// Forgets a job that has ended; one that is not there is fine.
    async fn remove(&self, job: JobId) -> Result<(), CoordinatorError>;

    /// All jobs that have not ended. **Errors**: one that cannot be read, by name; nothing is skipped.
    async fn load(&self) -> Result<Vec<JobMeta>, CoordinatorError>;
}
