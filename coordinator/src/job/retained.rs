//! Which checkpoints of a job are kept, as its master sees to it: dropped in the metadata first, deleted only when that is
//! durable. Part of the master; what may go is decided by `weir_checkpoint::retention`.

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use weir_checkpoint::retention::{CompletedCheckpoint, Owner, Sweep, to_drop};
use weir_checkpoint::{CheckpointError, CheckpointKind};
use weir_core::CheckpointId;
use weir_core::error::report;
use weir_graph::config::CheckpointRetention;

use super::master::{Master, Note, Signal};
use super::state::JobState;
use crate::checkpoint::retention::{Known, delete_all, delete_dropped, ids, sweep};
use crate::meta::CompletedPointer;

/// Longest time the deletion of checkpoints may hold up the end of a job.
const DELETE_PATIENCE: Duration = Duration::from_secs(5);
/// How often left-over objects are looked for.
const SWEEP_INTERVAL: Duration = Duration::from_secs(3600);
/// Younger objects are spared: much more than a checkpoint takes, and than clocks differ.
const ORPHAN_AGE_MIN: Duration = Duration::from_secs(3600);

impl Master {
    /// Drops what is more than is to be retained; deleted is only what the metadata says, durably, is dropped.
    pub(super) fn retain(&mut self) {
        let meta = self.ledger.next();
        let completed: Vec<CompletedCheckpoint> = meta
            .retained
            .iter()
            .map(|pointer| CompletedCheckpoint {
                checkpoint: pointer.checkpoint,
                kind: CheckpointKind::Checkpoint,
                manifest: pointer.manifest.clone(),
                objects: Default::default(),
            })
            .collect();
        let drop = to_drop(&completed, self.job.plan.options.checkpoints.retained_count, &Default::default());
        if drop.is_empty() {
            return;
        }
        self.ledger.change(Some(Note::Dropped), |meta| {
            let (dropped, retained) = std::mem::take(&mut meta.retained)
                .into_iter()
                .partition::<Vec<_>, _>(|pointer| drop.contains(&pointer.checkpoint));
            meta.retained = retained;
            meta.dropped.extend(dropped);
        });
        self.write_ledger();
    }

    pub(super) fn delete_dropped(&mut self) {
        let meta = self.ledger.durable();
        if self.is_deleting || meta.dropped.is_empty() {
            return;
        }
        let known = |pointer: &CompletedPointer| match self.known.get(&pointer.checkpoint) {
            Some(known) => Known::Read(known.clone()),
            None => Known::Unread(pointer.clone()),
        };
        // What is not yet durable as retained is needed all the same.
        let retained = self.all_retained();
        let dropped: Vec<Known> = meta.dropped.iter().map(known).collect();
        let (ids, owner, store) = (ids(&meta.dropped), self.owner(), Arc::clone(&self.job.store));
        self.is_deleting = true;
        self.later(async move { Signal::Deleted(ids, delete_dropped(store, owner, retained, dropped).await) });
    }

    /// Looks for what earlier attempts have left behind: with the first checkpoint of an attempt, then every hour.
    pub(super) fn sweep_orphans(&mut self, now: Duration) {
        if now < self.sweep_after {
            return;
        }
        self.sweep_after = now + SWEEP_INTERVAL;
        let retained = self.all_retained();
        let sweeping =
            Sweep { now_unix_ms: self.wall_unix_us() / 1000, age_min: ORPHAN_AGE_MIN, running: Some(self.token) };
        let (owner, store) = (self.owner(), Arc::clone(&self.job.store));
        self.later(async move { Signal::Swept(sweep(store, owner, retained, sweeping).await) });
    }

    pub(super) fn swept(&mut self, result: Result<usize, CheckpointError>) {
        match result {
            Ok(0) => {}
            Ok(count) => {
                tracing::info!(count, "objects that no checkpoint needs were deleted");
                self.record.lock().history.swept(count);
            }
            Err(error) => tracing::warn!(cause = report(&error), "left-over objects stay; looked for again in an hour"),
        }
    }

    /// Every checkpoint that is retained, durably or soon.
    fn all_retained(&self) -> Vec<Known> {
        let known = |pointer: &CompletedPointer| match self.known.get(&pointer.checkpoint) {
            Some(known) => Known::Read(known.clone()),
            None => Known::Unread(pointer.clone()),
        };
        let meta = self.ledger.durable();
        let more = self.ledger.next().retained.iter().filter(|pointer| !meta.retained.contains(pointer));
        meta.retained.iter().chain(more).map(known).collect()
    }

    pub(super) fn deleted(&mut self, checkpoints: &[CheckpointId], result: Result<(), CheckpointError>) {
        self.is_deleting = false;
        match result {
            Ok(()) => {
                self.known.retain(|checkpoint, _| !checkpoints.contains(checkpoint));
                // Written with the next change: to delete again what is gone does no harm.
                self.ledger.change_later(|meta| {
                    meta.dropped.retain(|pointer| !checkpoints.contains(&pointer.checkpoint));
                });
            }
            Err(error) => tracing::warn!(cause = report(&error), "old checkpoints are not deleted; tried again later"),
        }
    }

    fn owner(&self) -> Owner {
        Owner { job: self.id, incarnation: self.ledger.durable().incarnation }
    }

    /// Whether the checkpoints of a job that has ended like this are deleted.
    pub(super) fn are_deleted(&self, state: JobState) -> bool {
        let retention = self.job.plan.options.checkpoints.retention;
        match state {
            JobState::Finished => true,
            JobState::Canceled => retention != CheckpointRetention::RetainOnCancellation,
            _ => retention == CheckpointRetention::NoExternalizedCheckpoints,
        }
    }

    /// What is to be done with the checkpoints of a job that has ended: nothing when they are kept.
    pub(super) fn deletion(&self, state: JobState) -> Option<impl Future<Output = ()> + Send + use<>> {
        let is_deleted = self.are_deleted(state);
        let has_none =
            self.ledger.next().retained.is_empty() && self.record.lock().history.overview().latest.is_empty();
        if !is_deleted || has_none {
            return None;
        }
        let deleting = delete_all(Arc::clone(&self.job.store), self.owner());
        let patience = self.around.clock.sleep(DELETE_PATIENCE);
        Some(async move {
            tokio::select! {
                result = deleting => if let Err(error) = result {
                    tracing::warn!(cause = report(&error), "checkpoints of the ended job are left behind");
                },
                () = patience => {
                    tracing::warn!("deleting the checkpoints of the ended job takes too long; some are left behind");
                }
            }
        })
    }
}
