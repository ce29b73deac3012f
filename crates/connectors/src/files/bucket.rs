//! Files of a sink as objects of an S3 bucket. Everything here blocks; the sink calls it on threads that may, of a runtime
//! that drives the network.
//!
//! A part of a directory is an upload in parts under its visible name. It shows nowhere until it is completed, which may
//! be done later and by another process: its id and the tags of its pieces are all it takes. Completing is atomic, and
//! an answer that is lost is settled by a look: nobody else ever writes an object of that name. Parts of a single file
//! have to be read again, so they are objects under hidden names; what is read is compared with what was written.

use std::future::Future;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use futures::TryStreamExt;
use object_store::aws::AmazonS3;
use object_store::list::{PaginatedListOptions, PaginatedListStore};
use object_store::multipart::{MultipartStore, PartId};
use object_store::path::Path as Key;
use object_store::{Error, GetOptions, ObjectStore, ObjectStoreExt, PutPayload};
use weir_core::Clock;
use weir_core::error::chain;
use weir_operator_api::{OperatorError, Result, SystemClock};
use weir_s3::{BACKOFF_MIN, Environment, Limits, S3Error, S3Options, Uploads};
use xxhash_rust::xxh3::{Xxh3, xxh3_64};

use crate::files::join::part_lost;
use crate::files::part::sink_io;

/// Bounds of requests. The client repeats within the deadline; a sink that is held up longer fails, and its job goes on
/// from the last checkpoint.
pub const LIMITS: Limits = Limits {
    call_deadline: Duration::from_secs(120),
    request_timeout: Duration::from_secs(30),
    connect_timeout: Duration::from_secs(5),
    requests_in_flight_max: 8,
};
/// Bytes of a piece of an upload. Stores want at least 5 MiB in all but the last, and some want all to be equal.
const PIECE_BYTES: usize = 8 * 1024 * 1024;
/// Bytes of later pieces: an upload has at most 10,000, so that the largest file has some 600 GB.
const LATE_PIECE_BYTES: usize = 64 * 1024 * 1024;
/// Pieces after which they are larger.
const EARLY_PIECES: usize = 1000;
/// Tries of what the client does not repeat by itself, or must not without a look.
const TRIES: u32 = 5;
/// Most names in a listing of hidden objects; more is a wrong directory.
const NAMES_MAX: usize = 1_000_000;

/// How the buckets of a sink are reached.
#[derive(Clone, Debug, PartialEq)]
pub struct Access {
    /// What is set.
    pub options: S3Options,
    /// Credentials.
    pub environment: Environment,
    /// Bounds of requests.
    pub limits: Limits,
}

/// A bucket; cheap to clone.
#[derive(Clone, Debug)]
pub struct Bucket {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    /// `s3://bucket`.
    root: String,
    store: Arc<AmazonS3>,
    uploads: Uploads,
    clock: SystemClock,
}

/// A hidden object.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HiddenObject {
    /// Its name in its directory.
    pub name: String,
    /// Its size.
    pub bytes: u64,
}

/// An upload whose pieces are all there; to be completed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Uploaded {
    /// What the store calls it.
    pub id: String,
    /// What the store calls its pieces, in their order.
    pub tags: Vec<String>,
    /// Size of the object that it becomes.
    pub bytes: u64,
}

/// The error of an address or option that cannot be used.
pub fn unusable(error: &S3Error) -> OperatorError {
    OperatorError::user("sink-io", error.to_string())
}

impl Bucket {
    /// The bucket of an address like `s3://bucket/some/directory`.
    ///
    /// **Errors**: `sink-io` of the user when address, options or credentials cannot be used.
    pub fn open(url: &str, access: &Access) -> Result<Bucket> {
        let open = || {
            let (bucket, _) = weir_s3::address::split(url)?;
            let by = (&access.options, &access.environment);
            let store = Arc::new(weir_s3::client(url, bucket, by, &access.limits)?);
            let uploads = Uploads::new(Arc::clone(&store), bucket, by, &access.limits)?;
            let clock = SystemClock::default();
            Ok(Inner { root: format!("s3://{bucket}"), store, uploads, clock })
        };
        Ok(Bucket { inner: Arc::new(open().map_err(|error| unusable(&error))?) })
    }

    /// `s3://bucket`.
    pub fn root(&self) -> &str {
        &self.inner.root
    }

    fn key(&self, path: &Path) -> Result<Key> {
        let text = self.key_text(path)?;
        Key::parse(text).map_err(|error| {
            OperatorError::user("sink-io", format!("cannot use the path '{}'", path.display())).because(error)
        })
    }

    fn key_text<'a>(&self, path: &'a Path) -> Result<&'a str> {
        let below = path.to_str().and_then(|text| text.strip_prefix(self.inner.root.as_str()));
        let below = below.filter(|below| below.is_empty() || below.starts_with('/'));
        let wrong = || OperatorError::internal(format!("'{}' is not in {}", path.display(), self.inner.root));
        Ok(below.ok_or_else(wrong)?.trim_matches('/'))
    }

    /// Prefix of the keys in a directory: empty, or with a slash at its end.
    fn prefix(&self, directory: &Path) -> Result<String> {
        let text = self.key_text(directory)?;
        Ok(if text.is_empty() { String::new() } else { format!("{text}/") })
    }

    /// Repeats what failed, unless that cannot help.
    fn repeated<T, F: Future<Output = Result<T, Error>>>(&self, request: impl Fn() -> F) -> Result<T, Error> {
        let mut round = 1;
        loop {
            match wait(request()) {
                Err(error) if round < TRIES && !is_settled(&error) => self.pause(round),
                outcome => return outcome,
            }
            round += 1;
        }
    }

    fn pause(&self, round: u32) {
        wait(self.inner.clock.sleep(BACKOFF_MIN * 2u32.pow(round.min(6))));
    }

    /// Looks whether the bucket can be used at all, so that a job that never can ends at once.
    ///
    /// **Errors**: `sink-io`, of the user when the store says no.
    pub fn check(&self, directory: &Path) -> Result<()> {
        let prefix = self.prefix(directory)?;
        let ask = || self.inner.store.list_paginated(Some(&prefix), one_page(None));
        match self.repeated(ask) {
            Ok(_) => Ok(()),
            Err(error) if is_settled(&error) || is_refusal(&error) => {
                let message = format!("cannot use '{}'", directory.display());
                Err(OperatorError::user("sink-io", message).because(error))
            }
            Err(error) => Err(sink_io("list", directory, error)),
        }
    }

    /// Begins an upload.
    ///
    /// **Errors**: `sink-io`.
    pub fn begin(&self, path: &Path) -> Result<Upload> {
        let key = self.key(path)?;
        let id = self.repeated(|| self.inner.store.create_multipart(&key));
        let id = id.map_err(|error| sink_io("create", path, error))?;
        Ok(Upload {
            bucket: self.clone(),
            path: path.to_path_buf(),
            key,
            id,
            buffer: Vec::new(),
            tags: Vec::new(),
            bytes: 0,
            hash: Box::new(Xxh3::new()),
        })
    }

    /// Turns an upload into its object: readers see all of it from then on. Doing it again changes nothing.
    ///
    /// **Errors**: `sink-part-lost` when the upload is gone and the object is not there; `sink-io`.
    pub fn complete(&self, path: &Path, upload: &Uploaded) -> Result<()> {
        let key = self.key(path)?;
        let mut round = 1;
        loop {
            let tags = upload.tags.iter().map(|tag| PartId { content_id: tag.clone() }).collect();
            let answer = wait(self.inner.store.complete_multipart(&key, &upload.id, tags));
            let Err(error) = answer else { return Ok(()) };
            // Whatever the store says: the name is ours alone, and what stands there is this upload.
            match self.size(path) {
                Ok(Some(bytes)) if bytes == upload.bytes => return Ok(()),
                Ok(Some(bytes)) => {
                    let message = format!("'{}' has {bytes} bytes, and {} were written", path.display(), upload.bytes);
                    return Err(OperatorError::external("sink-part-lost", message).because(error));
                }
                Ok(None) if is_gone(&error) => return Err(part_lost(path, error)),
                _ if round == TRIES => return Err(sink_io("publish", path, error)),
                _ => self.pause(round),
            }
            round += 1;
        }
    }

    /// As [`Bucket::complete`], of a name that others write too: what is not said to be done is not known to be.
    ///
    /// **Errors**: `sink-io`.
    pub fn complete_new(&self, path: &Path, upload: &Uploaded) -> Result<()> {
        let key = self.key(path)?;
        let tags = upload.tags.iter().map(|tag| PartId { content_id: tag.clone() }).collect();
        let completed = wait(self.inner.store.complete_multipart(&key, &upload.id, tags));
        completed.map(drop).map_err(|error| {
            // Whether it is gone or done, nobody needs it any more; the first error counts.
            let _ = self.abort(path, &upload.id);
            sink_io("publish", path, error)
        })
    }

    /// Size of an object, if it is there.
    ///
    /// **Errors**: `sink-io`.
    pub fn size(&self, path: &Path) -> Result<Option<u64>> {
        let key = self.key(path)?;
        match self.repeated(|| self.inner.store.head(&key)) {
            Ok(found) => Ok(Some(found.size)),
            Err(Error::NotFound { .. }) => Ok(None),
            Err(error) => Err(sink_io("look at", path, error)),
        }
    }

    /// Reads an object whole, as it was written.
    ///
    /// **Errors**: `sink-part-lost` when it is gone, or comes with other bytes again and again; `sink-io`.
    pub fn read(&self, path: &Path, bytes: u64, hash: u64) -> Result<Bytes> {
        let key = self.key(path)?;
        for round in 1..=TRIES {
            match self.repeated(|| self.get(&key, bytes)) {
                Ok(read) if read.len() as u64 == bytes && xxh3_64(&read) == hash => return Ok(read),
                Ok(_) => self.pause(round),
                Err(error @ Error::NotFound { .. }) => return Err(part_lost(path, error)),
                Err(error) => return Err(sink_io("read", path, error)),
            }
        }
        let message = format!("'{}' does not hold the {bytes} bytes that were written", path.display());
        Err(OperatorError::external("sink-part-lost", message))
    }

    async fn get(&self, key: &Key, bytes: u64) -> Result<Bytes, Error> {
        let mut chunks = self.inner.store.get_opts(key, GetOptions::default()).await?.into_stream();
        let mut read = BytesMut::with_capacity(bytes as usize);
        while let Some(chunk) = chunks.try_next().await? {
            read.extend_from_slice(&chunk);
            if read.len() as u64 > bytes {
                break;
            }
        }
        Ok(read.freeze())
    }

    /// Removes what nobody sees of a name: open uploads, and the object if its name is a hidden one.
    ///
    /// **Errors**: `sink-io`.
    pub fn remove(&self, path: &Path) -> Result<()> {
        self.abort_all(path)?;
        if is_hidden(path) { self.delete(path) } else { Ok(()) }
    }

    fn delete(&self, path: &Path) -> Result<()> {
        let key = self.key(path)?;
        match self.repeated(|| self.inner.store.delete(&key)) {
            Ok(()) | Err(Error::NotFound { .. }) => Ok(()),
            Err(error) => Err(sink_io("remove", path, error)),
        }
    }

    /// Aborts the open uploads of one name.
    ///
    /// **Errors**: `sink-io`.
    pub fn abort_all(&self, path: &Path) -> Result<()> {
        let key = self.key_text(path)?.to_owned();
        let open = self.open_uploads(path, &key)?;
        open.iter().filter(|(name, _)| *name == key).try_for_each(|(_, id)| self.abort(path, id))
    }

    /// Aborts an upload; one that is gone is fine.
    ///
    /// **Errors**: `sink-io`.
    pub fn abort(&self, path: &Path, id: &String) -> Result<()> {
        let key = self.key(path)?;
        match self.repeated(|| self.inner.store.abort_multipart(&key, id)) {
            Err(error) if !is_gone(&error) => Err(sink_io("remove", path, error)),
            _ => Ok(()),
        }
    }

    /// Open uploads in a directory: the names of their objects, and their ids.
    ///
    /// **Errors**: `sink-io`.
    pub fn uploads_in(&self, directory: &Path) -> Result<Vec<(String, String)>> {
        let prefix = self.prefix(directory)?;
        let open = self.open_uploads(directory, &prefix)?;
        let names = open.into_iter().filter_map(|(key, id)| Some((key.strip_prefix(&prefix)?.to_owned(), id)));
        Ok(names.filter(|(name, _)| !name.contains('/')).collect())
    }

    fn open_uploads(&self, place: &Path, prefix: &str) -> Result<Vec<(String, String)>> {
        let mut round = 1;
        loop {
            match wait(self.inner.uploads.list(prefix)) {
                Ok(open) => return Ok(open.into_iter().map(|upload| (upload.key, upload.id)).collect()),
                Err(error) if round == TRIES => return Err(sink_io("list", place, error)),
                Err(_) => self.pause(round),
            }
            round += 1;
        }
    }

    /// Hidden objects in a directory.
    ///
    /// **Errors**: `sink-io`.
    pub fn hidden_in(&self, directory: &Path) -> Result<Vec<HiddenObject>> {
        let prefix = self.prefix(directory)?;
        let hidden = format!("{prefix}.");
        let (mut found, mut token) = (Vec::new(), None);
        loop {
            let ask = || self.inner.store.list_paginated(Some(&hidden), one_page(token.clone()));
            let page = self.repeated(ask).map_err(|error| sink_io("list", directory, error))?;
            for object in page.result.objects {
                if let Some(name) = object.location.as_ref().strip_prefix(&prefix).filter(|name| !name.contains('/')) {
                    found.push(HiddenObject { name: name.to_owned(), bytes: object.size });
                }
            }
            token = page.page_token;
            if token.is_none() || found.len() > NAMES_MAX {
                return Ok(found);
            }
        }
    }
}

fn one_page(page_token: Option<String>) -> PaginatedListOptions {
    PaginatedListOptions { delimiter: Some("/".into()), page_token, ..PaginatedListOptions::default() }
}

/// Waits for the network. Only on threads that may block.
fn wait<T>(work: impl Future<Output = T>) -> T {
    tokio::runtime::Handle::current().block_on(work)
}

/// Whether a path names something that readers are to leave alone.
pub fn is_hidden(path: &Path) -> bool {
    path.file_name().and_then(|name| name.to_str()).is_some_and(|name| name.starts_with('.'))
}

/// Whether the store says that an upload, or an object, is not there.
fn is_gone(error: &Error) -> bool {
    matches!(error, Error::NotFound { .. }) || chain(error).iter().any(|text| text.contains("NoSuchUpload"))
}

/// Whether asking again cannot help.
fn is_settled(error: &Error) -> bool {
    matches!(
        error,
        Error::NotFound { .. }
            | Error::PermissionDenied { .. }
            | Error::Unauthenticated { .. }
            | Error::InvalidPath { .. }
    )
}

/// Whether the store says no: it does not know the bucket, or us. Stores disagree on the status, but not on its class.
fn is_refusal(error: &Error) -> bool {
    let text = chain(error).join(": ");
    let status = text.split_once("status code: ").and_then(|(_, after)| after.get(..3)?.parse::<u16>().ok());
    status.is_some_and(|status| matches!(status, 400..=499) && ![408, 409, 425, 429].contains(&status))
}

/// An object being uploaded: full pieces leave while it is written.
pub struct Upload {
    bucket: Bucket,
    path: PathBuf,
    key: Key,
    id: String,
    buffer: Vec<u8>,
    tags: Vec<String>,
    bytes: u64,
    hash: Box<Xxh3>,
}

impl Upload {
    /// Bytes of the next piece.
    fn piece_bytes(&self) -> usize {
        if self.tags.len() < EARLY_PIECES { PIECE_BYTES } else { LATE_PIECE_BYTES }
    }

    fn put(&mut self, piece: Vec<u8>) -> Result<()> {
        let piece = Bytes::from(piece);
        let number = self.tags.len();
        let store = &self.bucket.inner.store;
        let put = self.bucket.repeated(|| store.put_part(&self.key, &self.id, number, PutPayload::from(piece.clone())));
        self.tags.push(put.map_err(|error| sink_io("write", &self.path, error))?.content_id);
        Ok(())
    }

    /// Sends the last piece; gives what completes the upload, and the hash of all bytes. An object with a hidden name is
    /// completed at once.
    ///
    /// **Errors**: `sink-io`.
    pub fn finish(mut self) -> Result<(Uploaded, u64)> {
        let last = std::mem::take(&mut self.buffer);
        if !last.is_empty() || self.tags.is_empty() {
            self.put(last)?;
        }
        let uploaded = Uploaded { id: self.id, tags: self.tags, bytes: self.bytes };
        if is_hidden(&self.path) {
            self.bucket.complete(&self.path, &uploaded)?;
        }
        Ok((uploaded, self.hash.digest()))
    }
}

impl io::Write for Upload {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.hash.update(bytes);
        self.bytes += bytes.len() as u64;
        self.buffer.extend_from_slice(bytes);
        while self.buffer.len() >= self.piece_bytes() {
            let rest = self.buffer.split_off(self.piece_bytes());
            let piece = std::mem::replace(&mut self.buffer, rest);
            self.put(piece).map_err(io::Error::other)?;
        }
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
