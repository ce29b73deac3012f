//! Makes prepared output visible, by renaming. Runs after the commit point, and again after a failure: a part whose
//! hidden file is gone and whose target stands was published before.
//!
//! A rename is atomic, also over an older file of the same name: readers see the old file or the new one, whole. A single
//! file of several parts is first put together under a name of its own; then its first part is removed before the others,
//! so that a first part that is gone says that the whole was shown.

use std::collections::BTreeSet;
use std::fs;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use async_trait::async_trait;
use weir_operator_api::sink::SinkCommitter;
use weir_operator_api::{Committable, OperatorError, Result};

use crate::files::commit::{Commit, Join};
use crate::files::join::{join, part_lost};
use crate::files::names::{Hidden, read_hidden, whole_name};
use crate::files::part::{PartPaths, create_directory, sink_io, sync_directory};

/// Publishes the output of file sinks.
#[derive(Clone, Copy, Debug, Default)]
pub struct Committer;

#[async_trait]
impl SinkCommitter for Committer {
    async fn publish(&mut self, committables: Vec<Committable>) -> Result<()> {
        let commits = read(&committables)?;
        run(move || publish(&commits)).await
    }

    async fn discard(&mut self, committables: Vec<Committable>) -> Result<()> {
        let commits = read(&committables)?;
        run(move || commits.iter().try_for_each(discard)).await
    }
}

fn read(committables: &[Committable]) -> Result<Vec<Commit>> {
    committables.iter().map(|committable| Commit::of_value(&committable.description)).collect()
}

async fn run(work: impl FnOnce() -> Result<()> + Send + 'static) -> Result<()> {
    let done = tokio::task::spawn_blocking(work).await;
    done.map_err(|error| OperatorError::internal("publishing files stopped").because(error))?
}

fn publish(commits: &[Commit]) -> Result<()> {
    let mut directories = BTreeSet::<&Path>::new();
    for commit in commits {
        match commit {
            Commit::Show(part) => {
                show(part)?;
                directories.extend(part.target.parent());
            }
            Commit::Join(whole) => publish_whole(whole)?,
            Commit::Close { .. } => {}
        }
    }
    // The names are durable only when their directories are.
    directories.into_iter().try_for_each(sync_directory)?;
    // Only now: what was published just before is no leftover.
    for commit in commits {
        if let Commit::Close { directory, mark, token } = commit {
            create_directory(directory)?;
            sweep(directory, mark, |_, hidden| matches!(hidden, Hidden::Part(part) if part.token < *token))?;
        }
    }
    Ok(())
}

fn show(part: &PartPaths) -> Result<()> {
    match fs::rename(&part.in_progress, &part.target) {
        Ok(()) => Ok(()),
        Err(error) if error.kind() == ErrorKind::NotFound && part.target.is_file() => Ok(()),
        Err(error) if error.kind() == ErrorKind::NotFound => Err(part_lost(&part.in_progress, error)),
        Err(error) => Err(sink_io("publish", &part.target, error)),
    }
}

/// Shows a single file. Several publishers may do so at once, one of them given up on: each puts the whole together
/// for itself.
fn publish_whole(whole: &Join) -> Result<()> {
    let target = whole.directory.join(&whole.file);
    let parts: Vec<PathBuf> = whole.parts.iter().map(|name| whole.directory.join(name)).collect();
    let Some(first) = parts.first() else {
        return Err(OperatorError::internal("a file is to be published that has no parts"));
    };
    let shown = if let Err(error) = first.metadata() {
        Err(part_lost(first, error))
    } else if parts.len() == 1 {
        fs::rename(first, &target).map_err(|error| match error.kind() {
            ErrorKind::NotFound => part_lost(first, error),
            _ => sink_io("publish", &target, error),
        })
    } else {
        join_and_show(whole, &parts, &target)
    };
    // Whoever finds the first part gone and the target there comes after one who has shown it.
    let was_shown = |error: &OperatorError| {
        let has_failed = matches!(error.code, "sink-part-lost" | "sink-io");
        has_failed && target.is_file() && !fs::exists(first).unwrap_or(true)
    };
    match shown {
        Err(error) if !was_shown(&error) => return Err(error),
        _ => sync_directory(&whole.directory)?,
    }
    parts.iter().try_for_each(|part| remove(part))?;
    sweep(&whole.directory, &whole.mark, |_, _| true)
}

fn join_and_show(whole: &Join, parts: &[PathBuf], target: &Path) -> Result<()> {
    static PUBLISHERS: AtomicU64 = AtomicU64::new(0);
    let publisher = format!("{}-{}", std::process::id(), PUBLISHERS.fetch_add(1, Relaxed));
    let hidden = whole.directory.join(whole_name(&whole.file, &whole.mark, &publisher));
    join(parts, &hidden, whole.is_parquet)?;
    fs::rename(&hidden, target).map_err(|error| {
        let error = sink_io("publish", target, error);
        // The first error counts; what is left has a name of its own and is swept away later.
        let _ = fs::remove_file(&hidden);
        error
    })
}

fn discard(commit: &Commit) -> Result<()> {
    match commit {
        Commit::Show(part) => remove(&part.in_progress),
        Commit::Join(whole) => {
            let fresh = whole.parts.len().saturating_sub(whole.fresh);
            whole.parts[fresh..].iter().try_for_each(|name| remove(&whole.directory.join(name)))
        }
        Commit::Close { .. } => Ok(()),
    }
}

/// Removes hidden files of a job and sink that are `unwanted`. A directory that is gone holds none.
///
/// **Errors**: `sink-io`.
pub fn sweep(directory: &Path, mark: &str, unwanted: impl Fn(&str, Hidden) -> bool) -> Result<()> {
    let entries = match fs::read_dir(directory) {
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(()),
        entries => entries.map_err(|error| sink_io("list", directory, error))?,
    };
    for entry in entries {
        let name = entry.map_err(|error| sink_io("list", directory, error))?.file_name();
        let Some(name) = name.to_str() else { continue };
        if read_hidden(mark, name).is_some_and(|hidden| unwanted(name, hidden)) {
            tracing::debug!(name, directory = %directory.display(), "removing a hidden file that is left over");
            remove(&directory.join(name))?;
        }
    }
    Ok(())
}

/// Removes a hidden file; one that is gone already is fine.
///
/// **Errors**: `sink-io`.
pub fn remove(path: &Path) -> Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != ErrorKind::NotFound => Err(sink_io("remove", path, error)),
        _ => Ok(()),
    }
}
