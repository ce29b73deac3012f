//! Makes finished parts visible by renaming them. Runs after the commit point, and again after a failure: a part whose
//! hidden file is gone and whose target stands was published before.
//!
//! A rename is atomic, also over an older file of the same name: readers see the old file or the new one, whole.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io::ErrorKind;
use std::path::PathBuf;

use async_trait::async_trait;
use weir_operator_api::sink::SinkCommitter;
use weir_operator_api::{Committable, OperatorError, Result};

use crate::files::part::{PartPaths, sink_io};

/// Publishes the parts of file sinks.
#[derive(Clone, Copy, Debug, Default)]
pub struct Committer;

#[async_trait]
impl SinkCommitter for Committer {
    async fn publish(&mut self, committables: Vec<Committable>) -> Result<()> {
        let parts = paths_of(&committables)?;
        run(move || publish(&parts)).await
    }

    async fn discard(&mut self, committables: Vec<Committable>) -> Result<()> {
        let parts = paths_of(&committables)?;
        run(move || parts.iter().try_for_each(|part| remove(&part.in_progress))).await
    }
}

fn paths_of(committables: &[Committable]) -> Result<Vec<PartPaths>> {
    committables.iter().map(|committable| PartPaths::of_value(&committable.description)).collect()
}

async fn run(work: impl FnOnce() -> Result<()> + Send + 'static) -> Result<()> {
    let done = tokio::task::spawn_blocking(work).await;
    done.map_err(|error| OperatorError::internal("publishing files stopped").because(error))?
}

fn publish(parts: &[PartPaths]) -> Result<()> {
    let mut directories = BTreeSet::<PathBuf>::new();
    for part in parts {
        match fs::rename(&part.in_progress, &part.target) {
            Ok(()) => {}
            Err(error) if error.kind() == ErrorKind::NotFound && part.target.is_file() => {}
            Err(error) if error.kind() == ErrorKind::NotFound => {
                let message = format!(
                    "the finished part '{}' is gone and '{}' does not exist: someone removed it before it was published",
                    part.in_progress.display(),
                    part.target.display()
                );
                return Err(OperatorError::external("sink-part-lost", message).because(error));
            }
            Err(error) => return Err(sink_io("publish", &part.target, error)),
        }
        directories.extend(part.target.parent().map(PathBuf::from));
    }
    // The names are durable only when their directories are.
    for directory in &directories {
        let synced = File::open(directory).and_then(|open| open.sync_all());
        synced.map_err(|error| sink_io("sync directory", directory, error))?;
    }
    Ok(())
}

/// Removes a hidden file; one that is gone already is fine.
///
/// **Errors**: `sink-io`.
pub fn remove(path: &PathBuf) -> Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != ErrorKind::NotFound => Err(sink_io("remove", path, error)),
        _ => Ok(()),
    }
}
