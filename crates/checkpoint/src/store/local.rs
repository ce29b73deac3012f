//! A store in a directory: durable and atomic on any file system with hard links. Written on `std::fs`, on tokio's
//! blocking threads, because the client of object stores does not sync files.
//!
//! A put writes an unfinished file next to its name, syncs it, links it to the name (which fails when the name is taken),
//! unlinks the unfinished name and syncs the directories. A reader sees all of an object or none of it, also after a
//! crash at any step; what a crash leaves is an unfinished file, which a listing shows and a sweep removes. Large objects
//! are written past the page cache where the file system can.

use std::fs::{self, File, OpenOptions};
use std::io::{self, ErrorKind};
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::pin::pin;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use futures::future::{Either, select};
use tokio::sync::Semaphore;
use weir_core::{Clock, Random};

use super::verified::{self, RangeReader};
use super::{CheckpointStore, ListedObject, StoreOptions, address, check, store_url_error, unix_ms};
use crate::error::from_io;
use crate::manifest::{MANIFEST_BYTES_MAX, ObjectRef, SectionRef};
use crate::state_object::{ALIGNMENT, object_ref};
use crate::{CheckpointError, Result, layout};

/// Smaller objects go through the page cache. **Units**: bytes.
const DIRECT_BYTES_MIN: usize = 1 << 20;
/// Linux's flag for writing past the page cache.
const DIRECT: Option<i32> = if cfg!(not(target_os = "linux")) {
    None
} else if cfg!(any(target_arch = "x86_64", target_arch = "x86", target_arch = "riscv64")) {
    Some(0o40_000)
} else if cfg!(any(target_arch = "aarch64", target_arch = "arm")) {
    Some(0o200_000)
} else {
    None
};
/// How often a put makes its directory again when a delete takes it away as empty.
const DIRECTORY_ROUNDS_MAX: usize = 16;

/// Objects as files below a directory.
pub struct LocalCheckpoints {
    root: Arc<Path>,
    url: String,
    call_deadline: Duration,
    range_bytes: u64,
    permits: Arc<Semaphore>,
    clock: Arc<dyn Clock>,
    random: Mutex<Box<dyn Random>>,
}

impl std::fmt::Debug for LocalCheckpoints {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("LocalCheckpoints").field("root", &self.root).finish_non_exhaustive()
    }
}

impl LocalCheckpoints {
    /// The store below an absolute directory, which the first put makes.
    ///
    /// **Errors**: `StoreUrl` for a path that is not absolute or not UTF-8.
    pub fn new(
        root: PathBuf,
        options: &StoreOptions,
        clock: Arc<dyn Clock>,
        random: Box<dyn Random>,
    ) -> Result<LocalCheckpoints> {
        if !root.is_absolute() || root.to_str().is_none() {
            return Err(store_url_error(&root.to_string_lossy(), "a directory is given from the root on, in UTF-8"));
        }
        Ok(LocalCheckpoints {
            url: address::file_url(&root),
            root: root.into(),
            call_deadline: options.call_deadline,
            range_bytes: options.range_bytes,
            permits: Arc::new(Semaphore::new(options.requests_in_flight_max.max(1))),
            clock,
            random: Mutex::new(random),
        })
    }

    fn draw(&self, name: impl FnOnce(&mut dyn Random) -> String) -> String {
        name(self.random.lock().expect("no holder of the lock panics").as_mut())
    }

    /// Runs file work on a blocking thread and waits for it until the deadline. A file system that hangs keeps its thread
    /// and its permit, and so no more than a bounded number of threads.
    async fn blocking<T: Send + 'static>(
        &self,
        operation: &'static str,
        path: &str,
        work: impl FnOnce(&Path) -> Result<T> + Send + 'static,
    ) -> Result<T> {
        let (root, permits) = (Arc::clone(&self.root), Arc::clone(&self.permits));
        let place = self.place(path);
        let done = pin!(async {
            let permit = permits.acquire_owned().await.expect("the semaphore is never closed");
            let joined = tokio::task::spawn_blocking(move || {
                let _permit = permit;
                work(&root)
            });
            joined.await.unwrap_or_else(|error| {
                Err(CheckpointError::Unreachable { place: place.clone(), operation, source: Box::new(error) })
            })
        });
        match select(done, self.clock.sleep(self.call_deadline)).await {
            Either::Left((outcome, _)) => outcome,
            Either::Right(_) => {
                let source = format!("no answer of the file system within {:?}", self.call_deadline).into();
                Err(CheckpointError::Unreachable { place: self.place(path), operation, source })
            }
        }
    }
}

#[async_trait]
impl RangeReader for LocalCheckpoints {
    fn place(&self, path: &str) -> String {
        self.root.join(path).display().to_string()
    }

    async fn read_range(&self, object: &ObjectRef, start: u64, length: u64) -> Result<Bytes> {
        let object = object.clone();
        let path = object.path.clone();
        self.blocking("get", &path, move |root| {
            let place = root.join(&object.path);
            let error = |error| from_io("get", &place.display().to_string(), error);
            let file = File::open(&place).map_err(error)?;
            let there = file.metadata().map_err(error)?.len();
            if there != object.length {
                return Err(verified::torn(place.display().to_string(), object.length, there));
            }
            let mut bytes = vec![0; length as usize];
            file.read_exact_at(&mut bytes, start).map_err(error)?;
            Ok(Bytes::from(bytes))
        })
        .await
    }
}

#[async_trait]
impl CheckpointStore for LocalCheckpoints {
    async fn put_new(&self, path: &str, bytes: Bytes) -> Result<ObjectRef> {
        layout::check_path(path)?;
        let reference = object_ref(path, &bytes);
        let unfinished = self.draw(|random| layout::unfinished(path, random));
        let name = path.to_owned();
        self.blocking("put", path, move |root| {
            let (name, unfinished) = (root.join(name), root.join(unfinished));
            put(root, &name, &unfinished, &bytes)
        })
        .await?;
        Ok(reference)
    }

    async fn get(&self, object: &ObjectRef) -> Result<Bytes> {
        verified::read_object(self, object, self.range_bytes).await
    }

    async fn get_section(&self, section: &SectionRef) -> Result<Bytes> {
        verified::read_section(self, section).await
    }

    async fn get_small(&self, path: &str) -> Result<Bytes> {
        layout::check_path(path)?;
        let name = path.to_owned();
        self.blocking("get", path, move |root| {
            let name = root.join(name);
            let place = || name.display().to_string();
            let error = |error| from_io("get", &place(), error);
            verified::check_small(fs::metadata(&name).map_err(error)?.len(), MANIFEST_BYTES_MAX, place)?;
            fs::read(&name).map(Bytes::from).map_err(error)
        })
        .await
    }

    async fn list(&self, prefix: &str) -> Result<Vec<ListedObject>> {
        let below = verified::directory(prefix)?;
        self.blocking("list", prefix, move |root| {
            let mut listed = Vec::new();
            walk(root, &below, &mut listed)?;
            listed.sort_by(|a, b| a.path.cmp(&b.path));
            Ok(listed)
        })
        .await
    }

    async fn delete(&self, path: &str) -> Result<()> {
        layout::check_path(path)?;
        let name = path.to_owned();
        self.blocking("delete", path, move |root| {
            let name = root.join(name);
            match fs::remove_file(&name) {
                Err(error) if error.kind() != ErrorKind::NotFound => {
                    return Err(from_io("delete", &name.display().to_string(), error));
                }
                _ => {}
            }
            // Directories that are empty now go too; one that is not, or that a put has just made again, stays.
            for directory in name.ancestors().skip(1).take_while(|directory| *directory != root) {
                if fs::remove_dir(directory).is_err() {
                    break;
                }
            }
            Ok(())
        })
        .await
    }

    async fn check(&self) -> Result<()> {
        check::try_out(self, &self.draw(layout::probe)).await
    }

    fn url(&self) -> &str {
        &self.url
    }
}

fn put(root: &Path, name: &Path, unfinished: &Path, bytes: &Bytes) -> Result<()> {
    let place = name.display().to_string();
    let error = |error| from_io("put", &place, error);
    // The name's directory lies below the root, so there is one.
    let directory = name.parent().unwrap_or(root);
    let oldest = directory.ancestors().find(|directory| directory.exists()).unwrap_or(root).to_owned();
    let file = create(directory, unfinished).map_err(error)?;
    let linked = write(file, unfinished, bytes).map_err(error).and_then(|()| link(unfinished, name, bytes));
    // Whether or not it has its name now, the unfinished one goes; what cannot be unlinked is found by a sweep.
    let unlinked = fs::remove_file(unfinished).map_err(error);
    linked.and(unlinked)?;
    sync_directories(root, directory, &oldest).map_err(error)
}

/// Gives the synced file its name; the same bytes under that name are as good.
fn link(unfinished: &Path, name: &Path, bytes: &Bytes) -> Result<()> {
    let place = name.display().to_string();
    let error = |error| from_io("put", &place, error);
    match fs::hard_link(unfinished, name) {
        Ok(()) => Ok(()),
        Err(taken) if taken.kind() == ErrorKind::AlreadyExists => match fs::read(name).map_err(error)? == *bytes {
            true => Ok(()),
            false => Err(CheckpointError::AlreadyExists { place }),
        },
        // The file was just written next to its name, so these are not missing rights.
        Err(other) if matches!(other.kind(), ErrorKind::Unsupported | ErrorKind::PermissionDenied) => {
            let source = format!("this file system has no hard links, choose another directory: {other}").into();
            Err(CheckpointError::Refused { place, operation: "put", source })
        }
        Err(other) => Err(error(other)),
    }
}

/// Creates the unfinished file and the directories above it; a delete may take an empty one away in between.
fn create(directory: &Path, unfinished: &Path) -> io::Result<File> {
    let mut round = 1;
    loop {
        let created = fs::create_dir_all(directory).and_then(|()| File::create_new(unfinished));
        match created {
            Err(error) if error.kind() == ErrorKind::NotFound && round < DIRECTORY_ROUNDS_MAX => round += 1,
            created => return created,
        }
    }
}

/// After a failed sync the file is given up: the kernel may have dropped the pages, so a second sync proves nothing.
fn write(file: File, place: &Path, bytes: &Bytes) -> io::Result<()> {
    let written = write_past_cache(place, bytes)?;
    file.write_all_at(&bytes[written..], written as u64)?;
    file.sync_all()
}

/// Writes the whole blocks of a large object from where they lie, if the file system can: copying what nobody is going to
/// read soon into the page cache costs more than the disk does. Gives how many bytes it wrote.
fn write_past_cache(place: &Path, bytes: &Bytes) -> io::Result<usize> {
    let blocks = bytes.len() / ALIGNMENT * ALIGNMENT;
    let is_aligned = bytes.as_ptr().align_offset(ALIGNMENT) == 0;
    let Some(flag) = DIRECT.filter(|_| is_aligned && blocks >= DIRECT_BYTES_MIN) else { return Ok(0) };
    let Ok(file) = OpenOptions::new().write(true).custom_flags(flag).open(place) else { return Ok(0) };
    match file.write_all_at(&bytes[..blocks], 0) {
        Ok(()) => Ok(blocks),
        Err(error) if matches!(error.kind(), ErrorKind::InvalidInput | ErrorKind::Unsupported) => Ok(0),
        Err(error) => Err(error),
    }
}

/// Makes the name durable: its directory, the directories up to the root, and up to the one that was there before.
fn sync_directories(root: &Path, directory: &Path, oldest: &Path) -> io::Result<()> {
    for above in directory.ancestors() {
        File::open(above)?.sync_all()?;
        if root.starts_with(above) && oldest.starts_with(above) {
            break;
        }
    }
    Ok(())
}

fn walk(root: &Path, below: &str, listed: &mut Vec<ListedObject>) -> Result<()> {
    let directory = root.join(below);
    let failed = |error| from_io("list", &directory.display().to_string(), error);
    let gone = |error: &io::Error| matches!(error.kind(), ErrorKind::NotFound);
    let entries = match fs::read_dir(&directory) {
        Err(error) if gone(&error) => return Ok(()),
        entries => entries.map_err(failed)?,
    };
    for entry in entries {
        let entry = entry.map_err(failed)?;
        let Some(name) = entry.file_name().to_str().map(|name| format!("{below}{name}")) else { continue };
        // What a store cannot have written is none of its objects.
        if layout::check_path(&name).is_err() {
            continue;
        }
        let metadata = match entry.metadata() {
            Err(error) if gone(&error) => continue,
            metadata => metadata.map_err(failed)?,
        };
        if metadata.is_dir() {
            walk(root, &format!("{name}/"), listed)?;
        } else if metadata.is_file() {
            let modified_unix_ms = unix_ms(metadata.modified().map_err(failed)?);
            listed.push(ListedObject { path: name, length: metadata.len(), modified_unix_ms });
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Carries b7 of the failure list: whether or not a file is written past the page cache, all of it is there.
    #[test]
    fn b7_objects_are_whole_however_they_lie_in_memory() {
        let directory = tempfile::tempdir().expect("a test may make a directory");
        let bytes: Vec<u8> = (0..(3u32 << 20)).map(|at| (at.wrapping_mul(2_654_435_761) >> 13) as u8).collect();
        let aligned = bytes.as_ptr().align_offset(ALIGNMENT);
        let bytes = Bytes::from(bytes);
        for (shift, length) in
            [(0, 2 << 20), (0, (2 << 20) + 1), (0, (1 << 20) - 1), (1, 2 << 20), (512, (1 << 20) + 7)]
        {
            let object = bytes.slice(aligned + shift..aligned + shift + length);
            let place = directory.path().join(format!("{shift}-{length}"));
            let file = File::create_new(&place).expect("it is new");
            let blocks = write_past_cache(&place, &object).expect("there is room");
            assert!(
                blocks == 0 || shift == 0 && blocks == length / ALIGNMENT * ALIGNMENT && length >= DIRECT_BYTES_MIN
            );
            write(file, &place, &object).expect("there is room");
            assert!(fs::read(&place).expect("it is there") == object, "{length} bytes from {shift} on");
        }
    }
}
