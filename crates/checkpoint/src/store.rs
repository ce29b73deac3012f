//! The store trait, and what its implementations share: options, addresses, verified reads and the check at start.
//!
//! Both planes open one store per address and share it. Nothing here knows manifests' owners or what state means. All
//! implementations pass `tests/contract.rs`; `tests/faults.rs` breaks the wire under the S3 one.

mod address;
mod check;
mod local;
mod memory;
mod options;
mod outcome;
mod remote;
mod verified;

use std::fmt::Debug;
use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use weir_core::{Clock, Random};

use crate::manifest::{Manifest, ObjectRef, SectionRef};
use crate::{CheckpointError, Result};

pub use local::LocalCheckpoints;
pub use memory::MemoryCheckpoints;
pub use options::{Environment, S3Options, StoreOptions};
pub use remote::ObjectStoreCheckpoints;

/// How often damaged bytes are asked for again before they are reported: what was damaged on the wire heals, what lies
/// damaged in the store does not.
pub(crate) const READS_MAX: u32 = 3;

/// Keeps objects: small manifests and large state objects, each written once under a name of its own.
///
/// **Cancel safety**: a call that is dropped may or may not have taken effect; a put that is dropped may still land.
#[async_trait]
pub trait CheckpointStore: Send + Sync + Debug {
    /// Writes an object whose name is not taken; after `Ok` it is durable and nobody else's bytes are there.
    ///
    /// Bytes must be unique to the writer (its attempt, a uuid in the name): an unclear answer is settled by reading
    /// back, and the same bytes mean that this call, or an earlier one of the same writer, has won.
    ///
    /// **Errors**: `AlreadyExists` when other bytes are there; `Unreachable` when it stays unknown whether it was
    /// written; `Torn` when what is there is a part of these bytes; `Refused`, `Permission`, `DiskFull`.
    async fn put_new(&self, path: &str, bytes: Bytes) -> Result<ObjectRef>;

    /// Reads a whole object; every byte is the one that was written.
    ///
    /// **Errors**: `NotFound`; `Torn` or `Checksum` when it is damaged; `Unreachable`, `Refused`, `Permission`.
    async fn get(&self, object: &ObjectRef) -> Result<Bytes>;

    /// Reads the payload of one section; every byte is the one that was written.
    ///
    /// **Errors**: as [`CheckpointStore::get`]; `Malformed` when the bytes are whole and not the section meant.
    async fn get_section(&self, section: &SectionRef) -> Result<Bytes>;

    /// Reads a whole object of unknown length and checksum: a manifest, which verifies itself. At most
    /// [`crate::manifest::MANIFEST_BYTES_MAX`] and a line.
    ///
    /// **Errors**: as [`CheckpointStore::get`]; the bytes are **not** verified: use [`read_manifest`].
    async fn get_small(&self, path: &str) -> Result<Bytes>;

    /// Lists the objects below a directory (`""` for all), ordered by path. A local store also lists unfinished files
    /// that a killed process left behind.
    ///
    /// **Errors**: `Unreachable`, `Refused`, `Permission`. A directory that is not there has no objects.
    async fn list(&self, prefix: &str) -> Result<Vec<ListedObject>>;

    /// Deletes an object; one that is not there is fine. Only the coordinator's leader may call this.
    ///
    /// **Errors**: `Unreachable`, `Refused`, `Permission`.
    async fn delete(&self, path: &str) -> Result<()>;

    /// Tries out everything that a job will need, with a probe object: put, put of another over it, get, list, delete.
    ///
    /// **Errors**: `Check`, with the step that failed and what to try.
    async fn check(&self) -> Result<()>;

    /// The address, as [`open`] takes it.
    fn url(&self) -> &str;
}

/// One object of a listing.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ListedObject {
    /// Where, relative to the store.
    pub path: String,
    /// In bytes.
    pub length: u64,
    /// When it was last written, by the store's clock: milliseconds since 1970-01-01 UTC.
    pub modified_unix_ms: i64,
}

/// Opens the store at an address: `file:///directory`, a plain directory, or `s3://bucket/prefix`. Nothing is read or
/// written yet. Needs a tokio runtime when it is used.
///
/// **Errors**: `StoreUrl`, with what to write instead.
pub fn open(
    url: &str,
    options: &StoreOptions,
    clock: Arc<dyn Clock>,
    random: Box<dyn Random>,
) -> Result<Arc<dyn CheckpointStore>> {
    match address::parse(url)? {
        address::Address::Local(root) => Ok(Arc::new(LocalCheckpoints::new(root, options, clock, random)?)),
        address::Address::S3 { bucket, prefix } => {
            Ok(Arc::new(ObjectStoreCheckpoints::s3(&bucket, &prefix, options, clock, random)?))
        }
    }
}

/// Reads and verifies the manifest at `path`. What came damaged is asked for again, a bounded number of times.
///
/// **Errors**: as [`CheckpointStore::get`] and [`Manifest::decode`]. An unreadable manifest is to be shown, never skipped.
pub async fn read_manifest(store: &dyn CheckpointStore, path: &str) -> Result<Manifest> {
    let place = format!("{}/{path}", store.url());
    let mut read = 1;
    loop {
        let outcome = match store.get_small(path).await {
            Ok(bytes) => Manifest::decode(&bytes, &place),
            Err(error) => Err(error),
        };
        match outcome {
            Err(error) if error.is_damage() && read < READS_MAX => {
                tracing::warn!(place, read, error = %error, "a manifest came damaged and is read again");
                read += 1;
            }
            outcome => return outcome,
        }
    }
}

/// Writes the manifest where it belongs; see [`CheckpointStore::put_new`].
pub async fn write_manifest(store: &dyn CheckpointStore, manifest: &Manifest) -> Result<ObjectRef> {
    store.put_new(&manifest.path(), manifest.encode()?).await
}

/// Milliseconds since 1970-01-01 UTC of a file's or object's time; 0 for times before it.
pub(crate) fn unix_ms(time: std::time::SystemTime) -> i64 {
    let since = time.duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_millis()).unwrap_or(i64::MAX)
}

pub(crate) fn store_url_error(url: &str, reason: impl Into<String>) -> CheckpointError {
    CheckpointError::StoreUrl { url: url.to_owned(), reason: reason.into() }
}

impl From<weir_s3::S3Error> for CheckpointError {
    fn from(error: weir_s3::S3Error) -> Self {
        CheckpointError::StoreUrl { url: error.subject, reason: error.reason }
    }
}
