//! Which checkpoints are dropped and which objects may be deleted. (pure)
//!
//! The coordinator's leader asks, after its metadata says what is retained; it deletes what comes back, in that order.
//! Nothing is counted: an object may go when no retained manifest names it, and only then. What the rules never give:
//! objects of another job or another incarnation (a restored job shares them with their owner), anything this crate did
//! not name, savepoints, and what the running attempt wrote, because a checkpoint under way may need it.

use std::collections::BTreeSet;
use std::time::Duration;

use weir_core::planted::{self, planted};
use weir_core::{CheckpointId, FencingToken, JobId};

use crate::layout::{self, Incarnation, Named};
use crate::manifest::{CheckpointKind, Manifest};
use crate::store::ListedObject;

/// What retention knows of a completed checkpoint.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct CompletedCheckpoint {
    /// Which.
    pub checkpoint: CheckpointId,
    /// Whose.
    pub kind: CheckpointKind,
    /// Path of its manifest.
    pub manifest: String,
    /// Paths of the objects it needs.
    pub objects: BTreeSet<String>,
}

impl From<&Manifest> for CompletedCheckpoint {
    fn from(manifest: &Manifest) -> Self {
        CompletedCheckpoint {
            checkpoint: manifest.checkpoint,
            kind: manifest.kind,
            manifest: manifest.path(),
            objects: manifest.objects().into_keys().map(str::to_owned).collect(),
        }
    }
}

/// Whose objects may be deleted: those that this life of this job has made.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Owner {
    /// The job.
    pub job: JobId,
    /// Its present life.
    pub incarnation: Incarnation,
}

/// The checkpoints to drop so that the `retain` newest stay (at least one), oldest first.
///
/// Savepoints are neither counted nor dropped, nor is a `pinned` checkpoint: one that a restore is reading. Drop them from
/// the metadata, durably, before asking [`deletable`].
pub fn to_drop(completed: &[CompletedCheckpoint], retain: usize, pinned: &BTreeSet<CheckpointId>) -> Vec<CheckpointId> {
    let ours = completed.iter().filter(|checkpoint| checkpoint.kind == CheckpointKind::Checkpoint);
    let ids: BTreeSet<CheckpointId> = ours.map(|checkpoint| checkpoint.checkpoint).collect();
    let kept = retain.max(1);
    let old = ids.iter().take(ids.len().saturating_sub(kept));
    old.filter(|id| !pinned.contains(id)).copied().collect()
}

/// What may be deleted once `dropped` are no longer in the metadata and `retained` are all that is. Manifests come first,
/// so that nobody finds a checkpoint whose objects are half gone; what a crash in between leaves, [`orphans`] finds.
///
/// A checkpoint under way may name objects of the newest completed one and what its attempt has written since, nothing
/// older. `retained` must be complete, pinned checkpoints and savepoints included. When a manifest cannot be read, its objects
/// are not known, and nothing may be deleted.
pub fn deletable(owner: Owner, retained: &[CompletedCheckpoint], dropped: &[CompletedCheckpoint]) -> Vec<String> {
    let is_forgetful = planted(planted::SHARED_OBJECT_DELETED_EARLY);
    let needed = if is_forgetful { BTreeSet::new() } else { needed(retained) };
    let dropped = dropped.iter().filter(|checkpoint| checkpoint.kind == CheckpointKind::Checkpoint);
    let mut manifests = BTreeSet::new();
    let mut objects = BTreeSet::new();
    for checkpoint in dropped {
        manifests.insert(checkpoint.manifest.as_str());
        objects.extend(checkpoint.objects.iter().map(String::as_str));
    }
    let of_manifests = manifests.into_iter().filter(|path| matches!(own(owner, path), Some(Own::Manifest(_))));
    let of_objects = objects.into_iter().filter(|path| matches!(own(owner, path), Some(Own::StateObject(_))));
    of_manifests.chain(of_objects).filter(|path| !needed.contains(path)).map(str::to_owned).collect()
}

/// What a sweep for orphans goes by.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Sweep {
    /// Wall time, milliseconds since 1970-01-01 UTC.
    pub now_unix_ms: i64,
    /// Younger objects are spared. Much more than a checkpoint may take, plus what the clocks of this machine and the
    /// store may differ: an hour.
    pub age_min: Duration,
    /// The running attempt, whose objects are spared at any age; `None` when the job has ended.
    pub running: Option<FencingToken>,
}

/// What is left over in a listing of the incarnation: written and never part of a checkpoint, or of a dropped one and not
/// deleted because somebody died. Manifests come first.
///
/// A manifest newer than every retained one is spared while the job runs: its commit may be under way. `retained` as in
/// [`deletable`].
pub fn orphans(owner: Owner, listed: &[ListedObject], retained: &[CompletedCheckpoint], sweep: &Sweep) -> Vec<String> {
    let needed = needed(retained);
    let age_ms_min = i64::try_from(sweep.age_min.as_millis()).unwrap_or(i64::MAX);
    let newest = retained.iter().map(|checkpoint| checkpoint.checkpoint).max();
    let mut manifests = Vec::new();
    let mut objects = Vec::new();
    for object in listed {
        let path = object.path.as_str();
        let age_ms = sweep.now_unix_ms.saturating_sub(object.modified_unix_ms);
        if needed.contains(path) || age_ms < age_ms_min {
            continue;
        }
        match own(owner, path) {
            Some(Own::Manifest(id)) if sweep.running.is_none() || newest.is_some_and(|newest| id < newest) => {
                manifests.push(path.to_owned());
            }
            Some(Own::StateObject(token)) if sweep.running.is_none_or(|running| token < running) => {
                objects.push(path.to_owned());
            }
            _ => {}
        }
    }
    manifests.append(&mut objects);
    manifests
}

enum Own {
    Manifest(CheckpointId),
    StateObject(FencingToken),
}

fn own(owner: Owner, path: &str) -> Option<Own> {
    let is_own = |job, incarnation| owner == Owner { job, incarnation };
    match layout::parse(path)? {
        Named::Manifest { job, incarnation, checkpoint } => {
            is_own(job, incarnation).then_some(Own::Manifest(checkpoint))
        }
        Named::StateObject { job, incarnation, token } => is_own(job, incarnation).then_some(Own::StateObject(token)),
    }
}

fn needed(retained: &[CompletedCheckpoint]) -> BTreeSet<&str> {
    let paths = retained.iter().flat_map(|checkpoint| checkpoint.objects.iter().chain([&checkpoint.manifest]));
    paths.map(String::as_str).collect()
}

#[cfg(test)]
mod tests;
