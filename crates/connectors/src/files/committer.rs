//! Makes prepared output visible: by renaming on disk, by completing uploads in a bucket. Runs after the commit point, and
//! again after a failure: a part whose hidden form is gone and whose target stands was published before.
//!
//! Both are atomic, also over an older file of the same name: readers see the old file or the new one, whole. A single
//! file of several parts is first put together, on disk under a name of its own, in a bucket as an upload; then its first
//! part is removed before the others, so that a first part that is gone says that the whole was shown.

use std::collections::BTreeSet;
use std::fs;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use async_trait::async_trait;
use weir_core::FencingToken;
use weir_operator_api::sink::SinkCommitter;
use weir_operator_api::{Committable, Leftovers, OperatorError, Result};

use crate::files::bucket::{Access, Bucket};
use crate::files::commit::{Commit, Join};
use crate::files::home::{Home, Homes};
use crate::files::join::{Parts, part_lost};
use crate::files::memory::Memory;
use crate::files::names::{Hidden, Names, whole_name};
use crate::files::part::{PartPaths, create_directory, sink_io, sync_directory};
use crate::files::sink_settings::SinkSettings;

/// How often a whole is put together in a bucket when the answers stay unclear.
const WHOLES_MAX: u32 = 3;

/// Publishes the output of file sinks.
#[derive(Clone, Debug)]
pub struct Committer {
    /// How buckets are reached.
    pub access: Access,
    /// What is set on the sink; a committable says all it needs, a sweep does not.
    pub settings: Option<SinkSettings>,
    /// Whether the parts of a single file stay.
    pub parts: Afterwards,
}

/// What becomes of the hidden parts of a single file that is shown.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Afterwards {
    /// Nobody needs them.
    #[default]
    Removed,
    /// A savepoint may count on them.
    Kept,
}

#[async_trait]
impl SinkCommitter for Committer {
    async fn publish(&mut self, committables: Vec<Committable>) -> Result<()> {
        let commits = read(&committables)?;
        let (mut homes, parts) = (Homes::new(self.access.clone()), self.parts);
        run(move || publish(&commits, &mut homes, parts)).await
    }

    fn keep(&mut self) {
        self.parts = Afterwards::Kept;
    }

    async fn discard(&mut self, committables: Vec<Committable>) -> Result<()> {
        let commits = read(&committables)?;
        let mut homes = Homes::new(self.access.clone());
        run(move || commits.iter().try_for_each(|commit| discard(commit, &mut homes))).await
    }

    async fn sweep(&mut self, leftovers: Leftovers) -> Result<()> {
        let Some(settings) = &self.settings else {
            return Err(OperatorError::internal("a sink without settings cannot be swept"));
        };
        let names = Names::new(leftovers.job, &leftovers.sink, settings.place()?, settings.extension());
        let kept = Memory::of_restored(names.mark(), &leftovers.kept)?;
        let mut homes = Homes::new(self.access.clone());
        run(move || {
            let counted: BTreeSet<&str> = kept.parts.iter().map(|part| part.name.as_str()).collect();
            homes.of(names.directory())?.sweep(names.directory(), names.mark(), |name, hidden| match hidden {
                Hidden::Part(part) => !kept.covered.covers(part) && !counted.contains(name),
                Hidden::Whole => true,
            })
        })
        .await
    }
}

fn read(committables: &[Committable]) -> Result<Vec<Commit>> {
    committables.iter().map(|committable| Commit::of_value(&committable.description)).collect()
}

async fn run(work: impl FnOnce() -> Result<()> + Send + 'static) -> Result<()> {
    let done = tokio::task::spawn_blocking(work).await;
    done.map_err(|error| OperatorError::internal("publishing files stopped").because(error))?
}

fn publish(commits: &[Commit], homes: &mut Homes, afterwards: Afterwards) -> Result<()> {
    let mut directories = BTreeSet::<&Path>::new();
    for commit in commits {
        match commit {
            Commit::Show(part) => {
                show(part)?;
                directories.extend(part.target.parent());
            }
            Commit::Complete { target, upload } => bucket_of(target, homes)?.complete(target, upload)?,
            Commit::Join(whole) => publish_whole(whole, homes.of(&whole.directory)?, afterwards)?,
            Commit::Close { .. } => {}
        }
    }
    // The names are durable only when their directories are.
    directories.into_iter().try_for_each(sync_directory)?;
    // Only now: what was published just before is no leftover.
    for commit in commits {
        if let Commit::Close { directory, mark, token } = commit {
            let home = homes.of(directory)?;
            if matches!(home, Home::Disk) {
                create_directory(directory)?;
            }
            let is_over = |name: &str, of: FencingToken| match &home {
                _ if of < *token => true,
                // An answer that was lost leaves a second upload of a name that is published.
                Home::Bucket(bucket) => {
                    of == *token && bucket.size(&directory.join(name)).is_ok_and(|size| size.is_some())
                }
                Home::Disk => false,
            };
            home.sweep(
                directory,
                mark,
                |name, hidden| matches!(hidden, Hidden::Part(part) if is_over(name, part.token)),
            )?;
        }
    }
    Ok(())
}

fn bucket_of(path: &Path, homes: &mut Homes) -> Result<Bucket> {
    match homes.of(path)? {
        Home::Bucket(bucket) => Ok(bucket),
        Home::Disk => Err(OperatorError::internal(format!("'{}' is in no bucket", path.display()))),
    }
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
fn publish_whole(whole: &Join, home: Home, afterwards: Afterwards) -> Result<()> {
    let target = whole.directory.join(&whole.file);
    let directory = whole.directory.clone();
    let parts = Parts { home: home.clone(), directory, parts: whole.parts.clone(), is_parquet: whole.is_parquet };
    let paths: Vec<PathBuf> = parts.paths().collect();
    let Some(first) = paths.first() else {
        return Err(OperatorError::internal("a file is to be published that has no parts"));
    };
    let shown = match &home {
        _ if !home.has(first)? => Err(part_lost(first, "it is not there")),
        Home::Disk => show_whole(whole, &parts, (&target, afterwards)),
        Home::Bucket(bucket) => show_whole_in(bucket, &parts, &target),
    };
    // Whoever finds the first part gone and the target there comes after one who has shown it.
    let was_shown = |error: &OperatorError| {
        let has_failed = matches!(error.code, "sink-part-lost" | "sink-io");
        has_failed && !home.has(first).unwrap_or(true) && home.has(&target).unwrap_or(false)
    };
    match shown {
        Err(error) if !was_shown(&error) => return Err(error),
        _ => home.sync(&whole.directory)?,
    }
    if afterwards == Afterwards::Removed {
        paths.iter().try_for_each(|part| home.remove(part))?;
    }
    let is_left = |hidden| hidden == Hidden::Whole || afterwards == Afterwards::Removed;
    home.sweep(&whole.directory, &whole.mark, |_, hidden| is_left(hidden))?;
    match &home {
        Home::Disk => Ok(()),
        // Of publishers that died. One that lives begins again, or finds that all is done.
        Home::Bucket(bucket) => bucket.abort_all(&target),
    }
}

/// Shows a single file on disk. One part needs no putting together, unless it stays as well.
fn show_whole(whole: &Join, parts: &Parts, (target, afterwards): (&Path, Afterwards)) -> Result<()> {
    static PUBLISHERS: AtomicU64 = AtomicU64::new(0);
    if let ([only], Afterwards::Removed) = (parts.parts.as_slice(), afterwards) {
        let from = parts.directory.join(&only.name);
        return fs::rename(&from, target).map_err(|error| match error.kind() {
            ErrorKind::NotFound => part_lost(&from, error),
            _ => sink_io("publish", target, error),
        });
    }
    let publisher = format!("{}-{}", std::process::id(), PUBLISHERS.fetch_add(1, Relaxed));
    let hidden = whole.directory.join(whole_name(&whole.file, &whole.mark, &publisher));
    parts.join(&hidden)?;
    fs::rename(&hidden, target).map_err(|error| {
        let error = sink_io("publish", target, error);
        // The first error counts; what is left has a name of its own and is swept away later.
        let _ = fs::remove_file(&hidden);
        error
    })
}

/// Shows a single file in a bucket. An older object of the same name makes it impossible to know by a look whether an
/// unclear answer was a good one: it is done again, with the same outcome.
fn show_whole_in(bucket: &Bucket, parts: &Parts, target: &Path) -> Result<()> {
    let mut round = 1;
    loop {
        let ended = parts.join(target)?;
        let Some(upload) = ended.upload else {
            return Err(OperatorError::internal(format!("'{}' was not uploaded", target.display())));
        };
        match bucket.complete_new(target, &upload) {
            Err(error) if round == WHOLES_MAX => return Err(error),
            Err(_) => round += 1,
            Ok(()) => return Ok(()),
        }
    }
}

fn discard(commit: &Commit, homes: &mut Homes) -> Result<()> {
    match commit {
        Commit::Show(part) => Home::Disk.remove(&part.in_progress),
        Commit::Complete { target, upload } => bucket_of(target, homes)?.abort(target, &upload.id),
        Commit::Join(whole) => {
            let fresh = whole.parts.len().saturating_sub(whole.fresh);
            let home = homes.of(&whole.directory)?;
            whole.parts[fresh..].iter().try_for_each(|part| home.remove(&whole.directory.join(&part.name)))
        }
        Commit::Close { .. } => Ok(()),
    }
}
