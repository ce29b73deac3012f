//! Copies of the state objects this worker has uploaded, on its own disk: a task that comes back to the same machine reads
//! them instead of the store. `upload` adds and forgets, `restore` reads through [`CopiedStore`].
//!
//! A copy is never trusted: an object's name is given once, its length must be the one in the manifest, and every section
//! that is read must have the checksum in the manifest. What is missing, torn or damaged is read from the store. So copies
//! are written without waiting for the disk, and losing them costs a download.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use weir_checkpoint::{
    CheckpointError, CheckpointStore, ListedObject, LocalCheckpoints, ObjectRef, SectionRef, StoreOptions, layout,
};
use weir_core::random::SplitMix64;
use weir_core::{Clock, JobId};

/// Copies of jobs that have not been here for so long are removed.
const FORGOTTEN_AFTER: Duration = Duration::from_secs(6 * 3600);
/// How a copy is named while it is being written.
const UNFINISHED: &str = "unfinished";

/// Copies of state objects below one directory of a worker.
pub struct LocalCopies {
    root: PathBuf,
    files: LocalCheckpoints,
    clock: Arc<dyn Clock>,
}

impl LocalCopies {
    /// Copies below a directory, which is made when the first one comes. What an earlier process left is used.
    ///
    /// **Errors**: a directory that is no text.
    pub fn new(root: &Path, clock: Arc<dyn Clock>) -> Result<LocalCopies, CheckpointError> {
        let root = std::path::absolute(root).unwrap_or_else(|_| root.to_owned());
        let random = Box::new(SplitMix64::new(crate::seed::seed(clock.as_ref())));
        let files = LocalCheckpoints::new(root.clone(), &StoreOptions::default(), Arc::clone(&clock), random)?;
        Ok(LocalCopies { root, files, clock })
    }

    /// Keeps a copy of an object that is in the store. A disk that is full or broken costs the copy.
    pub async fn keep(&self, path: &str, bytes: Bytes) {
        if let Err(error) = layout::check_path(path) {
            tracing::warn!("no local copy is kept: {error}");
            return;
        }
        let (place, unfinished) = (self.root.join(path), self.root.join(format!("{path}.{UNFINISHED}")));
        let write = move || -> std::io::Result<()> {
            if let Some(directory) = place.parent() {
                std::fs::create_dir_all(directory)?;
            }
            let written = std::fs::write(&unfinished, &bytes).and_then(|()| std::fs::rename(&unfinished, &place));
            if written.is_err() {
                let _ = std::fs::remove_file(&unfinished);
            }
            written
        };
        match tokio::task::spawn_blocking(write).await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => tracing::warn!(path, "no local copy is kept: {error}"),
            Err(error) => tracing::warn!(path, "no local copy is kept: {error}"),
        }
    }

    /// Removes the copies of a job but these, and those of jobs that are long gone.
    pub async fn retain(&self, job: JobId, kept: &BTreeSet<String>) {
        let listed = match self.files.list("").await {
            Ok(listed) => listed,
            Err(error) => return tracing::warn!("local copies cannot be listed: {error}"),
        };
        let oldest_ms = self.clock.wall_unix_us() / 1000 - FORGOTTEN_AFTER.as_millis() as i64;
        let of_job = layout::job_prefix(job);
        let is_old = |object: &ListedObject| match object.path.starts_with(&of_job) {
            true => !kept.contains(&object.path),
            false => object.modified_unix_ms < oldest_ms,
        };
        for object in listed.iter().filter(|object| is_old(object)) {
            if let Err(error) = std::fs::remove_file(self.root.join(&object.path)) {
                tracing::debug!(path = object.path, "a local copy stays: {error}");
            }
        }
    }

    async fn section(&self, section: &SectionRef) -> Option<Bytes> {
        match self.files.get_section(section).await {
            Ok(bytes) => Some(bytes),
            Err(CheckpointError::NotFound { .. }) => None,
            Err(error) => {
                tracing::warn!("a local copy is not used, the store has the same: {error}");
                let _ = std::fs::remove_file(self.root.join(&section.object.path));
                None
            }
        }
    }
}

/// A store whose sections are looked for on the own disk first.
pub struct CopiedStore {
    store: Arc<dyn CheckpointStore>,
    copies: Arc<LocalCopies>,
}

impl std::fmt::Debug for CopiedStore {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("CopiedStore").field("store", &self.store).finish_non_exhaustive()
    }
}

impl CopiedStore {
    /// Puts copies in front of a store.
    pub fn new(store: Arc<dyn CheckpointStore>, copies: Arc<LocalCopies>) -> Self {
        CopiedStore { store, copies }
    }
}

#[async_trait]
impl CheckpointStore for CopiedStore {
    async fn put_new(&self, path: &str, bytes: Bytes) -> Result<ObjectRef, CheckpointError> {
        self.store.put_new(path, bytes).await
    }

    async fn get(&self, object: &ObjectRef) -> Result<Bytes, CheckpointError> {
        self.store.get(object).await
    }

    async fn get_section(&self, section: &SectionRef) -> Result<Bytes, CheckpointError> {
        if let Some(bytes) = self.copies.section(section).await {
            crate::http::count_restored(crate::http::RestoredFrom::LocalCopy, bytes.len());
            return Ok(bytes);
        }
        let bytes = self.store.get_section(section).await?;
        crate::http::count_restored(crate::http::RestoredFrom::Store, bytes.len());
        Ok(bytes)
    }

    async fn get_small(&self, path: &str) -> Result<Bytes, CheckpointError> {
        self.store.get_small(path).await
    }

    async fn list(&self, prefix: &str) -> Result<Vec<ListedObject>, CheckpointError> {
        self.store.list(prefix).await
    }

    async fn delete(&self, path: &str) -> Result<(), CheckpointError> {
        self.store.delete(path).await
    }

    async fn check(&self) -> Result<(), CheckpointError> {
        self.store.check().await
    }

    fn url(&self) -> &str {
        self.store.url()
    }
}

#[cfg(test)]
mod tests {
    use weir_checkpoint::state_object::SectionHeader;
    use weir_checkpoint::{MemoryCheckpoints, StateObjectWriter};
    use weir_testkit::FakeClock;

    use super::*;

    struct Bench {
        directory: tempfile::TempDir,
        memory: MemoryCheckpoints,
        copies: Arc<LocalCopies>,
        store: CopiedStore,
    }

    fn bench() -> Bench {
        let directory = tempfile::tempdir().expect("a directory");
        let memory = MemoryCheckpoints::new();
        let copies = LocalCopies::new(directory.path(), Arc::new(FakeClock::default())).expect("a directory");
        let copies = Arc::new(copies);
        let store = CopiedStore::new(Arc::new(memory.clone()), Arc::clone(&copies));
        Bench { directory, memory, copies, store }
    }

    impl Bench {
        /// Writes an object with one section to the store and keeps a copy.
        async fn write(&self, path: &str, text: &str) -> SectionRef {
            let mut object = StateObjectWriter::new();
            let header = SectionHeader { table: "t".to_owned(), rows: 1, first_key_group: 0, last_key_group: 0 };
            object.append(header, text.as_bytes()).expect("a section");
            let (bytes, sections) = object.finish(path);
            self.store.put_new(path, bytes.clone()).await.expect("stored");
            self.copies.keep(path, bytes).await;
            sections[0].clone()
        }

        async fn read(&self, section: &SectionRef) -> Option<Bytes> {
            self.store.get_section(section).await.ok()
        }
    }

    fn path(job: u128, name: &str) -> String {
        format!("{}/0/data/1-1/{name}", JobId(job))
    }

    #[tokio::test]
    async fn copy_serves_when_the_store_has_lost_it_and_the_store_when_the_copy_is_gone() {
        let bench = bench();
        let section = bench.write(&path(1, "a"), "rows").await;
        bench.memory.damage(&path(1, "a"), None);
        assert_eq!(bench.read(&section).await.as_deref(), Some(&b"rows"[..]));
        let section = bench.write(&path(1, "b"), "other rows").await;
        std::fs::remove_file(bench.directory.path().join(path(1, "b"))).expect("it is there");
        assert_eq!(bench.read(&section).await.as_deref(), Some(&b"other rows"[..]));
    }

    #[tokio::test]
    async fn damaged_or_torn_copy_is_not_used() {
        let bench = bench();
        let section = bench.write(&path(1, "a"), "rows").await;
        let file = bench.directory.path().join(path(1, "a"));
        let whole = std::fs::read(&file).expect("it is there");
        for at in 0..whole.len() {
            let mut damaged = whole.clone();
            damaged[at] ^= 1;
            std::fs::write(&file, &damaged).expect("it can be damaged");
            assert_eq!(bench.read(&section).await.as_deref(), Some(&b"rows"[..]), "byte {at}");
            std::fs::write(&file, &whole[..at]).expect("it can be torn");
            assert_eq!(bench.read(&section).await.as_deref(), Some(&b"rows"[..]), "torn at {at}");
        }
    }

    #[tokio::test]
    async fn only_what_is_still_wanted_stays() {
        let bench = bench();
        for (job, name) in [(1, "a"), (1, "b"), (2, "c")] {
            bench.write(&path(job, name), name).await;
        }
        bench.copies.retain(JobId(1), &BTreeSet::from([path(1, "b")])).await;
        let there = |job, name| bench.directory.path().join(path(job, name)).exists();
        assert_eq!((there(1, "a"), there(1, "b")), (false, true));
        // The clock of the test stands in 1970, and the file was written today: it is not old.
        assert!(there(2, "c"));
    }
}
