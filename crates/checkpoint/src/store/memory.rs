//! A store in memory, for tests and simulation. It keeps the same contract as the others.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard};

use async_trait::async_trait;
use bytes::Bytes;
use weir_core::Clock;

use super::verified::{self, RangeReader};
use super::{CheckpointStore, ListedObject, check};
use crate::manifest::{MANIFEST_BYTES_MAX, ObjectRef, SectionRef};
use crate::state_object::object_ref;
use crate::{CheckpointError, Result, layout};

const URL: &str = "memory://";

/// Objects in memory; clones share them.
#[derive(Clone, Debug, Default)]
pub struct MemoryCheckpoints {
    objects: Arc<Mutex<BTreeMap<String, (Bytes, i64)>>>,
    clock: Option<Arc<dyn Clock>>,
}

impl MemoryCheckpoints {
    /// An empty store whose objects have no age: every one was written in 1970.
    pub fn new() -> Self {
        Self::default()
    }

    /// An empty store whose objects are as old as this clock says.
    pub fn with_clock(clock: Arc<dyn Clock>) -> Self {
        MemoryCheckpoints { objects: Arc::default(), clock: Some(clock) }
    }

    /// Replaces or removes the bytes of an object behind the store's back, as a broken disk does.
    pub fn damage(&self, path: &str, bytes: Option<Bytes>) {
        let mut objects = self.objects();
        match bytes {
            Some(bytes) => objects.insert(path.to_owned(), (bytes, 0)),
            None => objects.remove(path),
        };
    }

    fn objects(&self) -> MutexGuard<'_, BTreeMap<String, (Bytes, i64)>> {
        self.objects.lock().expect("no holder of the lock panics")
    }

    fn find(&self, path: &str) -> Result<Bytes> {
        layout::check_path(path)?;
        let found = self.objects().get(path).map(|(bytes, _)| bytes.clone());
        found.ok_or_else(|| CheckpointError::NotFound { place: self.place(path) })
    }
}

#[async_trait]
impl RangeReader for MemoryCheckpoints {
    fn place(&self, path: &str) -> String {
        format!("{URL}/{path}")
    }

    async fn read_range(&self, object: &ObjectRef, start: u64, length: u64) -> Result<Bytes> {
        let bytes = self.find(&object.path)?;
        let (start, end) = (start as usize, (start + length) as usize);
        if bytes.len() as u64 != object.length {
            return Err(verified::torn(self.place(&object.path), object.length, bytes.len() as u64));
        }
        Ok(bytes.slice(start..end))
    }
}

#[async_trait]
impl CheckpointStore for MemoryCheckpoints {
    async fn put_new(&self, path: &str, bytes: Bytes) -> Result<ObjectRef> {
        layout::check_path(path)?;
        let now = self.clock.as_ref().map_or(0, |clock| clock.wall_unix_us() / 1000);
        let reference = object_ref(path, &bytes);
        let mut objects = self.objects();
        let (stored, _) = objects.entry(path.to_owned()).or_insert_with(|| (bytes.clone(), now));
        match *stored == bytes {
            true => Ok(reference),
            false => Err(CheckpointError::AlreadyExists { place: self.place(path) }),
        }
    }

    async fn get(&self, object: &ObjectRef) -> Result<Bytes> {
        verified::read_object(self, object, u64::MAX).await
    }

    async fn get_section(&self, section: &SectionRef) -> Result<Bytes> {
        verified::read_section(self, section).await
    }

    async fn get_small(&self, path: &str) -> Result<Bytes> {
        let bytes = self.find(path)?;
        verified::check_small(bytes.len() as u64, MANIFEST_BYTES_MAX, || self.place(path))?;
        Ok(bytes)
    }

    async fn list(&self, prefix: &str) -> Result<Vec<ListedObject>> {
        let below = verified::directory(prefix)?;
        let objects = self.objects();
        let listed = objects.iter().filter(|(path, _)| path.starts_with(&below));
        let listed = listed.map(|(path, (bytes, modified_unix_ms))| ListedObject {
            path: path.clone(),
            length: bytes.len() as u64,
            modified_unix_ms: *modified_unix_ms,
        });
        Ok(listed.collect())
    }

    async fn delete(&self, path: &str) -> Result<()> {
        layout::check_path(path)?;
        self.objects().remove(path);
        Ok(())
    }

    async fn check(&self) -> Result<()> {
        check::try_out(self, "probe/memory").await
    }

    fn url(&self) -> &str {
        URL
    }
}
