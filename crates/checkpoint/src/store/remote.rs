//! A store behind the `object_store` client: S3 and what speaks like it.
//!
//! The client's word is not taken for anything that matters. Create-if-absent is settled by reading back, because a lost
//! answer, a conflict and a retry inside the client all come back as "already exists" or as a general failure. Reads go
//! through `verified.rs`. Waits have one bound per call, on the clock of this process; the client's own retries
//! may end earlier.

use std::future::Future;
use std::pin::pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use bytes::{Bytes, BytesMut};
use futures::TryStreamExt;
use futures::future::{Either, select};
use object_store::path::Path;
use object_store::{GetOptions, GetRange, ObjectStore, ObjectStoreExt, PutMode, PutOptions, PutPayload};
use tokio::sync::Semaphore;
use weir_core::{Clock, Random};
use weir_s3::{BACKOFF_MAX, BACKOFF_MIN};

use super::outcome::{Comparison, Stored, sort};
use super::verified::{self, RangeReader};
use super::{CheckpointStore, ListedObject, READS_MAX, StoreOptions, check, unix_ms};
use crate::error::Cause;
use crate::manifest::{MANIFEST_BYTES_MAX, ObjectRef, SectionRef};
use crate::state_object::object_ref;
use crate::{CheckpointError, Result, layout};

/// How often the same bytes are put again when they are not there afterwards.
const PUTS_MAX: u32 = 8;
/// Greatest listing. A job has some ten thousand objects; more is a wrong prefix.
const LISTED_MAX: usize = 1_000_000;
/// Longest call of the check at start: somebody waits for it.
const CHECK_DEADLINE_MAX: Duration = Duration::from_secs(20);

/// Objects in an object store.
#[derive(Clone)]
pub struct ObjectStoreCheckpoints {
    store: Arc<dyn ObjectStore>,
    url: String,
    prefix: String,
    call_deadline: Duration,
    range_bytes: u64,
    permits: Arc<Semaphore>,
    clock: Arc<dyn Clock>,
    random: Arc<Mutex<Box<dyn Random>>>,
}

impl std::fmt::Debug for ObjectStoreCheckpoints {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ObjectStoreCheckpoints").field("url", &self.url).finish_non_exhaustive()
    }
}

impl ObjectStoreCheckpoints {
    /// The store `s3://bucket/prefix`.
    ///
    /// **Errors**: `StoreUrl` when options or credentials cannot be used.
    pub fn s3(
        bucket: &str,
        prefix: &str,
        options: &StoreOptions,
        clock: Arc<dyn Clock>,
        random: Box<dyn Random>,
    ) -> Result<ObjectStoreCheckpoints> {
        let url = if prefix.is_empty() { format!("s3://{bucket}") } else { format!("s3://{bucket}/{prefix}") };
        let limits = weir_s3::Limits {
            call_deadline: options.call_deadline,
            request_timeout: options.request_timeout,
            connect_timeout: options.connect_timeout,
            requests_in_flight_max: options.requests_in_flight_max,
        };
        let store = weir_s3::client(&url, bucket, (&options.s3, &options.environment), &limits)?;
        Ok(ObjectStoreCheckpoints {
            store: Arc::new(store),
            url,
            prefix: if prefix.is_empty() { String::new() } else { format!("{prefix}/") },
            call_deadline: options.call_deadline,
            range_bytes: options.range_bytes,
            permits: Arc::new(Semaphore::new(options.requests_in_flight_max.max(1))),
            clock,
            random: Arc::new(Mutex::new(random)),
        })
    }

    fn random(&self) -> std::sync::MutexGuard<'_, Box<dyn Random>> {
        self.random.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn key(&self, path: &str) -> Result<Path> {
        layout::check_path(path)?;
        Path::parse(format!("{}{path}", self.prefix)).map_err(|error| sort("name", &self.place(path), error.into()))
    }

    /// Runs `work` until the deadline of a call. `last` is the failure to show then.
    async fn bounded<T>(
        &self,
        operation: &'static str,
        path: &str,
        last: &Mutex<Option<CheckpointError>>,
        work: impl Future<Output = Result<T>>,
    ) -> Result<T> {
        let outcome = match select(pin!(work), self.clock.sleep(self.call_deadline)).await {
            Either::Left((outcome, _)) => return outcome,
            Either::Right(_) => last.lock().unwrap_or_else(PoisonError::into_inner).take(),
        };
        let after = format!("no success within {:?}", self.call_deadline);
        let source: Cause = match outcome {
            Some(error) => format!("{after}; the last failure: {}", weir_core::error::report(&error)).into(),
            None => after.into(),
        };
        Err(CheckpointError::Unreachable { place: self.place(path), operation, source })
    }

    /// Repeats a request while the store cannot be reached, until the deadline; one of the permitted requests at a time.
    async fn repeated<T, F: Future<Output = Result<T>>>(
        &self,
        operation: &'static str,
        path: &str,
        request: impl Fn() -> F,
    ) -> Result<T> {
        let last = Mutex::new(None);
        self.bounded(operation, path, &last, self.until_reached(&last, request)).await
    }

    async fn until_reached<T, F: Future<Output = Result<T>>>(
        &self,
        last: &Mutex<Option<CheckpointError>>,
        request: impl Fn() -> F,
    ) -> Result<T> {
        for round in 0u32.. {
            let permit = self.permits.acquire().await.expect("the semaphore is never closed");
            let outcome = request().await;
            drop(permit);
            match outcome {
                Err(error @ CheckpointError::Unreachable { .. }) => keep(last, error),
                outcome => return outcome,
            }
            self.back_off(round).await;
        }
        unreachable!("u32::MAX rounds of backoff take longer than any deadline")
    }

    /// Waits, each round longer, with jitter so that workers that failed together do not come back together.
    async fn back_off(&self, round: u32) {
        let longest = BACKOFF_MIN.saturating_mul(1 << round.min(16)).min(BACKOFF_MAX);
        let share = self.random().unit();
        self.clock.sleep(longest.mul_f64(0.5 + share / 2.0)).await;
    }

    /// Puts until it is clear whose bytes are there.
    async fn put_settled(&self, path: &str, bytes: &Bytes, last: &Mutex<Option<CheckpointError>>) -> Result<()> {
        let key = self.key(path)?;
        let place = self.place(path);
        for put in 1..=PUTS_MAX {
            let permit = self.permits.acquire().await.expect("the semaphore is never closed");
            let options = PutOptions::from(PutMode::Create);
            let answer = self.store.put_opts(&key, PutPayload::from(bytes.clone()), options).await;
            drop(permit);
            let failure = match answer {
                Ok(_) => return Ok(()),
                Err(error) => sort("put", &place, error),
            };
            keep(last, sorted_copy(&failure));
            match self.settle(&key, &place, bytes, last).await {
                Ok(true) => return Ok(()),
                // Not there: the put was refused, lost on its way, or in conflict with another that was refused as well.
                Ok(false) if is_final(&failure) => return Err(failure),
                Ok(false) if put == PUTS_MAX => {
                    let source = format!("put {PUTS_MAX} times, and each time it was not there: {failure}").into();
                    return Err(CheckpointError::Unreachable { place, operation: "put", source });
                }
                Ok(false) => self.back_off(put).await,
                // Who may not read cannot settle; the first refusal says more.
                Err(CheckpointError::Permission { .. }) if is_final(&failure) => return Err(failure),
                Err(error) => return Err(error),
            }
        }
        unreachable!("the last round returns")
    }

    /// Whether our bytes are there (`true`) or nothing is (`false`).
    ///
    /// **Errors**: `AlreadyExists` when the same other bytes came twice, `Torn` when only a part of ours comes.
    async fn settle(
        &self,
        key: &Path,
        place: &str,
        ours: &Bytes,
        last: &Mutex<Option<CheckpointError>>,
    ) -> Result<bool> {
        let mut before = None;
        for read in 1u32.. {
            let look = || async { self.compare(key, place, ours).await };
            let stored = match self.until_reached(last, look).await {
                Ok(stored) => stored,
                Err(CheckpointError::NotFound { .. }) => return Ok(false),
                Err(error) if error.is_damage() && read < READS_MAX => continue,
                Err(error) => return Err(error),
            };
            match stored {
                Stored::Ours => return Ok(true),
                // Bits flip on the wire; they do not flip the same way twice.
                Stored::Others { .. } if before == Some(stored) => {
                    return Err(CheckpointError::AlreadyExists { place: place.to_owned() });
                }
                Stored::PartOfOurs { bytes } if read >= READS_MAX => {
                    return Err(verified::torn(place.to_owned(), ours.len() as u64, bytes));
                }
                _ if read >= 2 * READS_MAX => {
                    let reason = "it reads differently every time".to_owned();
                    return Err(CheckpointError::Malformed { place: place.to_owned(), reason });
                }
                _ => before = Some(stored),
            }
        }
        unreachable!("the rounds are bounded")
    }

    async fn compare(&self, key: &Path, place: &str, ours: &Bytes) -> Result<Stored> {
        let error = |error| sort("get", place, error);
        let mut chunks = self.store.get_opts(key, GetOptions::default()).await.map_err(error)?.into_stream();
        let mut comparison = Comparison::new(ours.clone());
        while let Some(chunk) = chunks.try_next().await.map_err(error)? {
            if !comparison.take(&chunk) {
                break;
            }
        }
        Ok(comparison.finish())
    }

    /// Reads at most `most` bytes; the length the store gives the whole object, and the bytes.
    async fn read(&self, key: &Path, place: &str, range: Option<GetRange>, most: u64) -> Result<(u64, Bytes)> {
        let error = |error| sort("get", place, error);
        let options = GetOptions { range, ..GetOptions::default() };
        let answer = self.store.get_opts(key, options).await.map_err(error)?;
        let length = answer.meta.size;
        let mut bytes = BytesMut::new();
        let mut chunks = answer.into_stream();
        while let Some(chunk) = chunks.try_next().await.map_err(error)? {
            bytes.extend_from_slice(&chunk);
            // A server that ignores the range of a resumed answer sends more than there is.
            if bytes.len() as u64 > most {
                return Err(verified::torn(place.to_owned(), most, bytes.len() as u64));
            }
        }
        Ok((length, bytes.freeze()))
    }

    async fn length(&self, key: &Path, place: &str) -> Result<u64> {
        Ok(self.store.head(key).await.map_err(|error| sort("head", place, error))?.size)
    }
}

#[async_trait]
impl RangeReader for ObjectStoreCheckpoints {
    fn place(&self, path: &str) -> String {
        format!("{}/{path}", self.url)
    }

    async fn read_range(&self, object: &ObjectRef, start: u64, length: u64) -> Result<Bytes> {
        let (key, place) = (self.key(&object.path)?, self.place(&object.path));
        let (key, place) = (&key, place.as_str());
        self.repeated("get", &object.path, || async move {
            let range = GetRange::Bounded(start..start + length);
            let (there, bytes) = match length {
                0 => (self.length(key, place).await?, Bytes::new()),
                _ => match self.read(key, place, Some(range), length).await {
                    // 416: the object ends before the range begins.
                    Err(error @ CheckpointError::Refused { .. }) => match self.length(key, place).await {
                        Ok(there) if there != object.length => (there, Bytes::new()),
                        _ => return Err(error),
                    },
                    outcome => outcome?,
                },
            };
            if there != object.length {
                return Err(verified::torn(place.to_owned(), object.length, there));
            }
            match bytes.len() as u64 == length {
                true => Ok(bytes),
                false => Err(verified::torn(place.to_owned(), length, bytes.len() as u64)),
            }
        })
        .await
    }
}

#[async_trait]
impl CheckpointStore for ObjectStoreCheckpoints {
    async fn put_new(&self, path: &str, bytes: Bytes) -> Result<ObjectRef> {
        let reference = object_ref(path, &bytes);
        let last = Mutex::new(None);
        self.bounded("put", path, &last, self.put_settled(path, &bytes, &last)).await?;
        Ok(reference)
    }

    async fn get(&self, object: &ObjectRef) -> Result<Bytes> {
        verified::read_object(self, object, self.range_bytes).await
    }

    async fn get_section(&self, section: &SectionRef) -> Result<Bytes> {
        verified::read_section(self, section).await
    }

    async fn get_small(&self, path: &str) -> Result<Bytes> {
        let (key, place) = (self.key(path)?, self.place(path));
        let (key, place) = (&key, place.as_str());
        let most = verified::small_bytes_max(MANIFEST_BYTES_MAX);
        self.repeated("get", path, || async move { Ok(self.read(key, place, None, most).await?.1) }).await
    }

    async fn list(&self, prefix: &str) -> Result<Vec<ListedObject>> {
        let below = verified::directory(prefix)?;
        let place = self.place(&below);
        let (below, place) = (below.as_str(), place.as_str());
        let directory = format!("{}{below}", self.prefix);
        let directory = &Path::parse(directory.trim_end_matches('/')).map_err(|e| sort("list", place, e.into()))?;
        let mut listed = self.repeated("list", prefix, || self.list_once(directory, place)).await?;
        listed.sort_by(|a, b| a.path.cmp(&b.path));
        Ok(listed)
    }

    async fn delete(&self, path: &str) -> Result<()> {
        let (key, place) = (self.key(path)?, self.place(path));
        let (key, place) = (&key, place.as_str());
        let delete = || async move { self.store.delete(key).await.map_err(|error| sort("delete", place, error)) };
        match self.repeated("delete", path, delete).await {
            Err(CheckpointError::NotFound { .. }) => Ok(()),
            outcome => outcome,
        }
    }

    async fn check(&self) -> Result<()> {
        let path = layout::probe(self.random().as_mut());
        let patient = self.call_deadline.min(CHECK_DEADLINE_MAX);
        let checked = ObjectStoreCheckpoints { call_deadline: patient, ..self.clone() };
        check::try_out(&checked, &path).await
    }

    fn url(&self) -> &str {
        &self.url
    }
}

impl ObjectStoreCheckpoints {
    async fn list_once(&self, directory: &Path, place: &str) -> Result<Vec<ListedObject>> {
        let error = |error| sort("list", place, error);
        let mut objects = self.store.list(Some(directory));
        let mut listed = Vec::new();
        while let Some(object) = objects.try_next().await.map_err(error)? {
            let path = object.location.as_ref();
            // What this store cannot have written is none of its objects.
            let Some(path) = path.strip_prefix(&self.prefix).filter(|path| layout::check_path(path).is_ok()) else {
                continue;
            };
            if listed.len() == LISTED_MAX {
                let source = format!("more than {LISTED_MAX} objects").into();
                return Err(CheckpointError::Refused { place: place.to_owned(), operation: "list", source });
            }
            let modified_unix_ms = unix_ms(object.last_modified.into());
            listed.push(ListedObject { path: path.to_owned(), length: object.size, modified_unix_ms });
        }
        Ok(listed)
    }
}

fn keep(last: &Mutex<Option<CheckpointError>>, error: CheckpointError) {
    *last.lock().unwrap_or_else(PoisonError::into_inner) = Some(error);
}

/// The text of an error as one of its own, to be shown when the deadline comes first.
fn sorted_copy(error: &CheckpointError) -> CheckpointError {
    let source = weir_core::error::report(error).into();
    CheckpointError::Unreachable { place: String::new(), operation: "put", source }
}

/// Whether putting again cannot help.
fn is_final(failure: &CheckpointError) -> bool {
    !matches!(failure, CheckpointError::Unreachable { .. } | CheckpointError::AlreadyExists { .. })
}
