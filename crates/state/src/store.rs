//! What lies behind the tables when memory does not hold them: ordered bytes, written in batches and read in batches.
//! Operators use it through [`StateSpace`]; it must not know what the bytes mean.
//!
//! A store is scratch space of one process: it holds nothing that a checkpoint does not, and is empty after a restart.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use parking_lot::Mutex;

mod files;
#[cfg(feature = "rocksdb")]
pub mod rocks;

pub use files::StateFile;

/// The store cannot write or read: its disk is full, damaged or gone.
#[derive(Clone, Debug, thiserror::Error)]
#[error("the state store in '{place}' cannot {doing}: {reason}; is its disk full or read-only?")]
pub struct StateStoreError {
    /// Directory of the store.
    pub place: String,
    /// What it was doing.
    pub doing: &'static str,
    /// What the store says.
    pub reason: String,
}

/// Result of the store.
pub type Result<T> = std::result::Result<T, StateStoreError>;

/// Entries of a store: keys with their values.
pub type Entries = Vec<(Vec<u8>, Vec<u8>)>;

/// Bytes by key, in the order of keys. Calls come from the threads of tasks and may wait for the disk.
pub trait StateStore: Send + Sync {
    /// Puts entries, all or none as far as later calls see; an entry takes the place of an older one with its key.
    fn put(&self, entries: &Entries) -> Result<()>;

    /// The values of some keys; cheapest when the keys are in order.
    ///
    /// **Shapes**: one answer per key.
    fn get(&self, keys: &[Vec<u8>]) -> Result<Vec<Option<Vec<u8>>>>;

    /// The entries with keys from `from` up to but without `to`, in order, at most `count`.
    fn range(&self, from: &[u8], to: &[u8], count: usize) -> Result<Entries>;

    /// Forgets some keys.
    fn delete(&self, keys: &[Vec<u8>]) -> Result<()>;

    /// Forgets all keys from `from` up to but without `to`.
    fn delete_range(&self, from: &[u8], to: &[u8]) -> Result<()>;

    /// A new file, for values that are found without the order of keys.
    fn file(&self) -> Result<Box<dyn StateFile>>;

    /// Bytes held on disk or in memory, roughly, those of files with them.
    fn size_bytes(&self) -> u64;
}

/// Entries in memory: for tests, simulation, and workers that are told to use no disk.
#[derive(Debug, Default)]
pub struct MemoryStore {
    entries: Mutex<BTreeMap<Vec<u8>, Vec<u8>>>,
    in_files: files::Total,
}

impl StateStore for MemoryStore {
    fn put(&self, entries: &Entries) -> Result<()> {
        self.entries.lock().extend(entries.iter().cloned());
        Ok(())
    }

    fn get(&self, keys: &[Vec<u8>]) -> Result<Vec<Option<Vec<u8>>>> {
        let entries = self.entries.lock();
        Ok(keys.iter().map(|key| entries.get(key).cloned()).collect())
    }

    fn range(&self, from: &[u8], to: &[u8], count: usize) -> Result<Entries> {
        if from >= to {
            return Ok(Entries::new());
        }
        let entries = self.entries.lock();
        let range = entries.range(from.to_vec()..to.to_vec()).take(count);
        Ok(range.map(|(key, value)| (key.clone(), value.clone())).collect())
    }

    fn delete(&self, keys: &[Vec<u8>]) -> Result<()> {
        let mut entries = self.entries.lock();
        keys.iter().for_each(|key| _ = entries.remove(key));
        Ok(())
    }

    fn delete_range(&self, from: &[u8], to: &[u8]) -> Result<()> {
        if from < to {
            self.entries.lock().retain(|key, _| key.as_slice() < from || key.as_slice() >= to);
        }
        Ok(())
    }

    fn file(&self) -> Result<Box<dyn StateFile>> {
        Ok(Box::new(files::MemoryFile::new(&self.in_files)))
    }

    fn size_bytes(&self) -> u64 {
        let entries = self.entries.lock();
        self.in_files.load(Relaxed) + entries.iter().map(|(key, value)| (key.len() + value.len()) as u64).sum::<u64>()
    }
}

/// Opens the store when it is first needed: most jobs never need it.
type Open = Box<dyn Fn() -> Result<Arc<dyn StateStore>> + Send + Sync>;

/// The store of a worker; cheap to clone.
#[derive(Clone)]
pub struct StateStores {
    inner: Arc<Inner>,
}

struct Inner {
    open: Open,
    opened: Mutex<Option<Arc<dyn StateStore>>>,
    next_space: AtomicU64,
}

impl std::fmt::Debug for StateStores {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("StateStores").field("is_open", &self.inner.opened.lock().is_some()).finish()
    }
}

impl StateStores {
    /// Stores that are opened so.
    pub fn new(open: impl Fn() -> Result<Arc<dyn StateStore>> + Send + Sync + 'static) -> Self {
        let inner = Inner { open: Box::new(open), opened: Mutex::default(), next_space: AtomicU64::new(0) };
        StateStores { inner: Arc::new(inner) }
    }

    /// A store in memory.
    pub fn in_memory() -> Self {
        StateStores::new(|| Ok(Arc::new(MemoryStore::default())))
    }

    /// A store on disk, below this directory, which belongs to it alone.
    ///
    /// **Units**: `memory` in bytes: what the store itself may hold.
    #[cfg(feature = "rocksdb")]
    pub fn on_disk(directory: PathBuf, memory: usize) -> Self {
        StateStores::new(move || Ok(Arc::new(rocks::RocksStore::open(&directory, memory)?)))
    }

    /// A store on disk: this build has none, and says so when state is to leave memory.
    #[cfg(not(feature = "rocksdb"))]
    pub fn on_disk(directory: PathBuf, _memory: usize) -> Self {
        let place = directory.display().to_string();
        let reason = "this build has no RocksDB; build without '--no-default-features'".to_owned();
        StateStores::new(move || Err(StateStoreError { place: place.clone(), doing: "open", reason: reason.clone() }))
    }

    fn store(&self) -> Result<Arc<dyn StateStore>> {
        let mut opened = self.inner.opened.lock();
        Ok(match &*opened {
            Some(store) => Arc::clone(store),
            None => Arc::clone(opened.insert((self.inner.open)()?)),
        })
    }

    /// A new file of the store.
    ///
    /// **Errors**: the store cannot be opened, or the file not be made.
    pub fn file(&self) -> Result<Box<dyn StateFile>> {
        self.store()?.file()
    }

    /// A part of the store that is nobody else's.
    ///
    /// **Errors**: the store cannot be opened.
    pub fn space(&self) -> Result<StateSpace> {
        let store = self.store()?;
        let number = self.inner.next_space.fetch_add(1, Relaxed);
        Ok(StateSpace { own: Arc::new(Own { store, number }) })
    }

    /// Bytes in the store. **Units**: bytes.
    pub fn size_bytes(&self) -> u64 {
        self.inner.opened.lock().as_ref().map_or(0, |store| store.size_bytes())
    }
}

/// A part of a store, by prefix; forgotten with its last handle. Cheap to clone, so that whoever reads it beside the
/// stream keeps it alive.
#[derive(Clone)]
pub struct StateSpace {
    own: Arc<Own>,
}

struct Own {
    store: Arc<dyn StateStore>,
    number: u64,
}

impl std::fmt::Debug for StateSpace {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("StateSpace").field("number", &self.own.number).finish_non_exhaustive()
    }
}

impl Drop for Own {
    fn drop(&mut self) {
        let forgotten = self.store.delete_range(&self.number.to_be_bytes(), &(self.number + 1).to_be_bytes());
        // The space is scratch and nobody can reach it any more: what stays costs disk until the next start.
        if let Err(error) = forgotten {
            tracing::warn!("state that is no longer needed stays on disk: {error}");
        }
    }
}

impl StateSpace {
    fn key(&self, key: &[u8]) -> Vec<u8> {
        [&self.own.number.to_be_bytes()[..], key].concat()
    }

    /// As [`StateStore::put`].
    pub fn put(&self, entries: Entries) -> Result<()> {
        let entries = entries.into_iter().map(|(key, value)| (self.key(&key), value)).collect();
        self.own.store.put(&entries)
    }

    /// As [`StateStore::get`].
    pub fn get<K: AsRef<[u8]>>(&self, keys: &[K]) -> Result<Vec<Option<Vec<u8>>>> {
        let keys: Vec<_> = keys.iter().map(|key| self.key(key.as_ref())).collect();
        self.own.store.get(&keys)
    }

    /// As [`StateStore::range`]; without an end when `to` is `None`.
    pub fn range(&self, from: &[u8], to: Option<&[u8]>, count: usize) -> Result<Entries> {
        let end = match to {
            Some(to) => self.key(to),
            None => (self.own.number + 1).to_be_bytes().to_vec(),
        };
        let mut entries = self.own.store.range(&self.key(from), &end, count)?;
        entries.iter_mut().for_each(|(key, _)| _ = key.drain(..size_of::<u64>()));
        Ok(entries)
    }

    /// As [`StateStore::delete`].
    pub fn delete<K: AsRef<[u8]>>(&self, keys: &[K]) -> Result<()> {
        let keys: Vec<_> = keys.iter().map(|key| self.key(key.as_ref())).collect();
        self.own.store.delete(&keys)
    }
}
