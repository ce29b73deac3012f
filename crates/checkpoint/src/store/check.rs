//! The check of a store at start: everything a job will need, tried out with one small object. Used by all stores.

use bytes::Bytes;

use super::CheckpointStore;
use crate::{CheckpointError, Result};

/// Writes, overwrites in vain, reads, lists and deletes the object at `path`.
pub(crate) async fn try_out(store: &dyn CheckpointStore, path: &str) -> Result<()> {
    let ours = Bytes::from(format!("weir probe {path}\n"));
    let put = store.put_new(path, ours.clone()).await;
    let object = put.map_err(|error| failed("put", error))?;
    let outcome = try_others(store, path, &ours, &object).await;
    let deleted = store.delete(path).await.map_err(|error| failed("delete", error));
    outcome.and(deleted)
}

async fn try_others(
    store: &dyn CheckpointStore,
    path: &str,
    ours: &Bytes,
    object: &crate::manifest::ObjectRef,
) -> Result<()> {
    let refused = |step, reason: &'static str| {
        let place = format!("{}/{path}", store.url());
        failed(step, CheckpointError::Refused { place, operation: step, source: reason.into() })
    };
    match store.put_new(path, Bytes::from_static(b"weir probe of another\n")).await {
        Err(CheckpointError::AlreadyExists { .. }) => {}
        Ok(_) => return Err(refused("second put", "an object that was there was overwritten")),
        Err(error) => return Err(failed("second put", error)),
    }
    let read = store.get(object).await.map_err(|error| failed("get", error))?;
    if read != *ours {
        return Err(refused("get", "other bytes came back"));
    }
    let directory = path.rsplit_once('/').map_or("", |(directory, _)| directory);
    let listed = store.list(directory).await.map_err(|error| failed("list", error))?;
    match listed.iter().any(|object| object.path == path && object.length == ours.len() as u64) {
        true => Ok(()),
        false => Err(refused("list", "an object that was written is not in the list")),
    }
}

fn failed(step: &'static str, error: CheckpointError) -> CheckpointError {
    let cure = match (&error, step) {
        (CheckpointError::Unreachable { .. }, _) => "check the address, s3.endpoint and the network",
        (CheckpointError::Permission { .. }, "delete") => {
            "the coordinator needs the right to delete; check its credentials and the bucket's policy"
        }
        (CheckpointError::Permission { .. }, "list") => {
            "the coordinator needs the right to list; check its credentials and the bucket's policy"
        }
        (CheckpointError::Permission { .. }, _) => {
            "check AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY and the bucket's policy, or the directory's owner and mode"
        }
        (CheckpointError::DiskFull { .. }, _) => "make room, or choose another directory",
        (_, "second put") => {
            "the store does not keep create-if-absent (If-None-Match), without which no checkpoint is safe: use another"
        }
        (CheckpointError::Refused { .. } | CheckpointError::NotFound { .. }, _) => {
            "check that the bucket exists and s3.region and s3.path-style-access are its own, or that the path is a directory"
        }
        _ => "the store gives back other bytes than it was given: use another",
    };
    CheckpointError::Check { step, cure, source: Box::new(error) }
}
