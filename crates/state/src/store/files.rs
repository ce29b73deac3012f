//! Files of a state store: bytes that are written once and read at any place, for whoever keeps an order of its own in them.
//! `RocksStore` makes them on disk, `MemoryStore` in memory. They know nothing of what is in them.

use std::fs::File;
use std::io::Write;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use super::{Result, StateStoreError};

/// A file of a store; it is deleted when it is dropped.
pub trait StateFile: Send + Sync {
    /// Writes behind what is there. After an error the file is of no use.
    fn append(&mut self, bytes: &[u8]) -> Result<()>;

    /// Reads as many bytes as `into` takes, from `at` on. **Errors**: also when there are fewer.
    fn read_at(&self, at: u64, into: &mut [u8]) -> Result<()>;
}

impl std::fmt::Debug for dyn StateFile {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("StateFile")
    }
}

/// Bytes in all files of a store.
pub(super) type Total = Arc<AtomicU64>;

/// A file in memory.
#[derive(Default)]
pub(super) struct MemoryFile {
    bytes: Vec<u8>,
    total: Total,
}

impl MemoryFile {
    pub(super) fn new(total: &Total) -> Self {
        MemoryFile { bytes: Vec::new(), total: Arc::clone(total) }
    }
}

impl StateFile for MemoryFile {
    fn append(&mut self, bytes: &[u8]) -> Result<()> {
        self.bytes.extend_from_slice(bytes);
        self.total.fetch_add(bytes.len() as u64, Relaxed);
        Ok(())
    }

    fn read_at(&self, at: u64, into: &mut [u8]) -> Result<()> {
        let found = self.bytes.get(at as usize..).and_then(|bytes| bytes.get(..into.len()));
        let reason = || "a file in memory ends before".to_owned();
        let found =
            found.ok_or_else(|| StateStoreError { place: "memory".to_owned(), doing: "read", reason: reason() })?;
        into.copy_from_slice(found);
        Ok(())
    }
}

impl Drop for MemoryFile {
    fn drop(&mut self) {
        self.total.fetch_sub(self.bytes.len() as u64, Relaxed);
    }
}

/// The files in one directory, which belongs to them alone.
pub(super) struct Directory {
    path: PathBuf,
    next: AtomicU64,
    total: Total,
}

fn failed(place: &Path, doing: &'static str) -> impl FnOnce(std::io::Error) -> StateStoreError {
    move |error| StateStoreError { place: place.display().to_string(), doing, reason: error.to_string() }
}

impl Directory {
    /// Makes the directory, without what an earlier process left there.
    pub(super) fn open(path: PathBuf) -> Result<Self> {
        let removed = if path.exists() { std::fs::remove_dir_all(&path) } else { Ok(()) };
        removed.and_then(|()| std::fs::create_dir_all(&path)).map_err(failed(&path, "open"))?;
        Ok(Directory { path, next: AtomicU64::new(0), total: Total::default() })
    }

    /// A new file.
    pub(super) fn file(&self) -> Result<Box<dyn StateFile>> {
        let path = self.path.join(format!("{}.rows", self.next.fetch_add(1, Relaxed)));
        let file = File::options().read(true).write(true).create_new(true).open(&path);
        let file = file.map_err(failed(&path, "write"))?;
        Ok(Box::new(DiskFile { path, file, size: 0, total: Arc::clone(&self.total) }))
    }

    /// Bytes in all files. **Units**: bytes.
    pub(super) fn size_bytes(&self) -> u64 {
        self.total.load(Relaxed)
    }
}

struct DiskFile {
    path: PathBuf,
    file: File,
    size: u64,
    total: Total,
}

impl StateFile for DiskFile {
    fn append(&mut self, bytes: &[u8]) -> Result<()> {
        self.file.write_all(bytes).map_err(failed(&self.path, "write"))?;
        self.size += bytes.len() as u64;
        self.total.fetch_add(bytes.len() as u64, Relaxed);
        Ok(())
    }

    fn read_at(&self, at: u64, into: &mut [u8]) -> Result<()> {
        self.file.read_exact_at(into, at).map_err(failed(&self.path, "read"))
    }
}

impl Drop for DiskFile {
    fn drop(&mut self) {
        self.total.fetch_sub(self.size, Relaxed);
        // Nobody can reach it any more: what stays costs disk until the next start.
        if let Err(error) = std::fs::remove_file(&self.path) {
            tracing::warn!("state that is no longer needed stays in '{}': {error}", self.path.display());
        }
    }
}
