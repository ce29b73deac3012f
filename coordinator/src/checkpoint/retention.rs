//! Deletes what no retained checkpoint needs. What may go is decided by `weir_checkpoint::retention`, from manifests
//! alone; this is told what the metadata says, durably, and carries it out. Nobody else deletes; workers never do.

use std::sync::Arc;

use weir_checkpoint::retention::{CompletedCheckpoint, Owner, Sweep, deletable, orphans};
use weir_checkpoint::{CheckpointError, CheckpointStore, layout, read_manifest};
use weir_core::CheckpointId;

use crate::meta::CompletedPointer;

/// A checkpoint of the metadata, with its objects as far as they are known.
#[derive(Clone, Debug)]
pub(crate) enum Known {
    /// This process wrote or read its manifest.
    Read(CompletedCheckpoint),
    /// Its manifest is still to be read.
    Unread(CompletedPointer),
}

/// Deletes what only `dropped` checkpoints needed. `retained` are all others of the metadata.
///
/// **Errors**: a manifest that cannot be read (nothing is deleted then), or a deletion that failed (it is tried again with
/// the next one: the metadata still names what was dropped).
pub(crate) async fn delete_dropped(
    store: Arc<dyn CheckpointStore>,
    owner: Owner,
    retained: Vec<Known>,
    dropped: Vec<Known>,
) -> Result<(), CheckpointError> {
    let mut kept = Vec::new();
    for checkpoint in retained {
        kept.push(read(store.as_ref(), checkpoint).await?);
    }
    let mut gone = Vec::new();
    for checkpoint in dropped {
        match read(store.as_ref(), checkpoint).await {
            Ok(checkpoint) => gone.push(checkpoint),
            // Its manifest went before its objects: somebody died between the two. The sweep at the job's end takes them.
            Err(CheckpointError::NotFound { .. }) => {}
            Err(error) => return Err(error),
        }
    }
    for path in deletable(owner, &kept, &gone) {
        store.delete(&path).await?;
    }
    Ok(())
}

/// Deletes everything that this life of the job has made: it has ended and keeps nothing.
///
/// **Errors**: a list or a deletion that failed; what is left then stays.
pub(crate) async fn delete_all(store: Arc<dyn CheckpointStore>, owner: Owner) -> Result<(), CheckpointError> {
    let listed = store.list(&layout::incarnation_prefix(owner.job, owner.incarnation)).await?;
    // Nothing of it is too young, whatever the store's clock says.
    let sweep = Sweep { now_unix_ms: i64::MAX, age_min: Default::default(), running: None };
    for path in orphans(owner, &listed, &[], &sweep) {
        store.delete(&path).await?;
    }
    Ok(())
}

/// Deletes what attempts before the running one have left behind and no checkpoint needs; how many objects that were.
///
/// **Errors**: a manifest that cannot be read (nothing is deleted then), a list or a deletion that failed.
pub(crate) async fn sweep(
    store: Arc<dyn CheckpointStore>,
    owner: Owner,
    retained: Vec<Known>,
    sweep: Sweep,
) -> Result<usize, CheckpointError> {
    let mut kept = Vec::new();
    for checkpoint in retained {
        kept.push(read(store.as_ref(), checkpoint).await?);
    }
    let listed = store.list(&layout::incarnation_prefix(owner.job, owner.incarnation)).await?;
    let left_over = orphans(owner, &listed, &kept, &sweep);
    for path in &left_over {
        store.delete(path).await?;
    }
    Ok(left_over.len())
}

async fn read(store: &dyn CheckpointStore, checkpoint: Known) -> Result<CompletedCheckpoint, CheckpointError> {
    match checkpoint {
        Known::Read(checkpoint) => Ok(checkpoint),
        Known::Unread(pointer) => Ok(CompletedCheckpoint::from(&read_manifest(store, &pointer.manifest).await?)),
    }
}

/// The ids of pointers.
pub(crate) fn ids(pointers: &[CompletedPointer]) -> Vec<CheckpointId> {
    pointers.iter().map(|pointer| pointer.checkpoint).collect()
}
