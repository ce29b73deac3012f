//! The truth of one coordinator in files: `jobs/<job id>.job` in its data directory, one per job that has not ended.
//!
//! A disk format. One line, `weir-job <version> <length of the body> <xxh3-128 of what is before and behind>`, then a
//! protobuf message. A file is written beside, synced, renamed, and its directory synced: it is whole or not there. One
//! that is torn or damaged all the same keeps the coordinator from starting, by name: to leave a job out unseen would lose
//! it, and its output.

use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use parking_lot::Mutex;
use prost::Message;
use weir_checkpoint::Incarnation;
use weir_core::{CheckpointId, JobId};
use weir_proto::v1::Failure;
use xxhash_rust::xxh3::Xxh3;

use super::{CompletedPointer, JobMeta, MetaStore, Origin};
use crate::error::CoordinatorError;

/// Version that this program writes, and the newest it reads.
const FORMAT_VERSION: u32 = 1;
const MAGIC: &str = "weir-job";
const EXTENSION: &str = "job";

/// The directory of jobs; clones share it.
#[derive(Clone, Debug)]
pub(crate) struct MetaFiles {
    dir: PathBuf,
    /// One write at a time: two writes of one job share the name of the file beside.
    writing: Arc<Mutex<()>>,
}

impl MetaFiles {
    /// Uses `data_dir/jobs`; makes it when missing.
    pub(crate) fn open(data_dir: &Path) -> Result<Self, CoordinatorError> {
        let dir = data_dir.join("jobs");
        fs::create_dir_all(&dir).map_err(|source| CoordinatorError::DataDir { path: dir.clone(), source })?;
        Ok(MetaFiles { dir, writing: Arc::default() })
    }

    fn path(&self, job: JobId) -> PathBuf {
        self.dir.join(format!("{job}.{EXTENSION}"))
    }

    fn write(&self, job: JobId, bytes: &[u8]) -> io::Result<()> {
        let _writing = self.writing.lock();
        let temporary = self.dir.join(format!("{job}.tmp"));
        let mut file = File::create(&temporary)?;
        file.write_all(bytes)?;
        file.sync_all()?;
        fs::rename(&temporary, self.path(job))?;
        File::open(&self.dir)?.sync_all()
    }

    fn delete(&self, job: JobId) -> io::Result<()> {
        let _writing = self.writing.lock();
        match fs::remove_file(self.path(job)) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        File::open(&self.dir)?.sync_all()
    }

    fn read_all(&self) -> Result<Vec<JobMeta>, CoordinatorError> {
        let in_dir = |source| CoordinatorError::DataDir { path: self.dir.clone(), source };
        let mut jobs = Vec::new();
        for entry in fs::read_dir(&self.dir).map_err(in_dir)? {
            let path = entry.map_err(in_dir)?.path();
            if path.extension().is_some_and(|extension| extension == EXTENSION) {
                let bytes =
                    fs::read(&path).map_err(|source| CoordinatorError::DataDir { path: path.clone(), source })?;
                jobs.push(decode(&bytes).map_err(|reason| CoordinatorError::JobFile { path, reason })?);
            }
        }
        jobs.sort_by_key(|job| (job.submitted_at_unix_ms, job.job));
        Ok(jobs)
    }
}

#[async_trait]
impl MetaStore for MetaFiles {
    async fn put(&self, job: &JobMeta) -> Result<(), CoordinatorError> {
        let (files, id, bytes) = (self.clone(), job.job, encode(job));
        let path = self.path(id);
        let written = tokio::task::spawn_blocking(move || files.write(id, &bytes)).await;
        written.map_err(io::Error::other).flatten().map_err(|source| CoordinatorError::DataDir { path, source })
    }

    async fn remove(&self, job: JobId) -> Result<(), CoordinatorError> {
        let (files, path) = (self.clone(), self.path(job));
        let removed = tokio::task::spawn_blocking(move || files.delete(job)).await;
        removed.map_err(io::Error::other).flatten().map_err(|source| CoordinatorError::DataDir { path, source })
    }

    async fn load(&self) -> Result<Vec<JobMeta>, CoordinatorError> {
        let (files, path) = (self.clone(), self.dir.clone());
        let read = tokio::task::spawn_blocking(move || files.read_all()).await;
        read.map_err(|error| CoordinatorError::DataDir { path, source: io::Error::other(error) }).flatten()
    }
}

/// The body of a file. Numbers of fields are never used again for something else.
#[derive(Clone, PartialEq, Message)]
struct JobBody {
    #[prost(string, tag = "1")]
    job: String,
    #[prost(bytes = "bytes", tag = "2")]
    graph: Bytes,
    #[prost(string, tag = "3")]
    incarnation: String,
    #[prost(int64, tag = "4")]
    submitted_at_unix_ms: i64,
    #[prost(uint64, tag = "5")]
    next_checkpoint: u64,
    #[prost(uint32, tag = "6")]
    attempt: u32,
    #[prost(uint32, tag = "7")]
    restart_count: u32,
    #[prost(message, optional, tag = "8")]
    last_restart_cause: Option<Failure>,
    #[prost(message, optional, tag = "9")]
    origin: Option<OriginBody>,
    #[prost(message, repeated, tag = "10")]
    retained: Vec<PointerBody>,
    #[prost(message, repeated, tag = "11")]
    dropped: Vec<PointerBody>,
    #[prost(uint64, tag = "12")]
    published: u64,
    #[prost(bytes = "bytes", optional, tag = "13")]
    end: Option<Bytes>,
    #[prost(uint64, tag = "14")]
    completed_count: u64,
    #[prost(uint64, tag = "15")]
    failed_count: u64,
    #[prost(uint64, tag = "16")]
    savepoint: u64,
}

#[derive(Clone, PartialEq, Message)]
struct OriginBody {
    #[prost(string, tag = "1")]
    store: String,
    #[prost(string, tag = "2")]
    manifest: String,
    #[prost(bool, tag = "3")]
    leaves_out_unclaimed: bool,
}

#[derive(Clone, PartialEq, Message)]
struct PointerBody {
    #[prost(uint64, tag = "1")]
    checkpoint: u64,
    #[prost(string, tag = "2")]
    manifest: String,
}

impl From<&CompletedPointer> for PointerBody {
    fn from(pointer: &CompletedPointer) -> Self {
        PointerBody { checkpoint: pointer.checkpoint.0, manifest: pointer.manifest.clone() }
    }
}

impl From<PointerBody> for CompletedPointer {
    fn from(body: PointerBody) -> Self {
        CompletedPointer { checkpoint: CheckpointId(body.checkpoint), manifest: body.manifest }
    }
}

fn checksum(start: &str, body: &[u8]) -> u128 {
    let mut hash = Xxh3::new();
    hash.update(start.as_bytes());
    hash.update(body);
    hash.digest128()
}

fn encode(job: &JobMeta) -> Vec<u8> {
    let origin = job.origin.clone().map(|origin| OriginBody {
        store: origin.store,
        manifest: origin.manifest,
        leaves_out_unclaimed: origin.leaves_out_unclaimed,
    });
    let body = JobBody {
        job: job.job.to_string(),
        graph: job.graph.clone(),
        incarnation: job.incarnation.to_string(),
        submitted_at_unix_ms: job.submitted_at_unix_ms,
        next_checkpoint: job.next_checkpoint.0,
        attempt: job.attempt,
        restart_count: job.restart_count,
        last_restart_cause: job.last_restart_cause.clone(),
        origin,
        retained: job.retained.iter().map(PointerBody::from).collect(),
        dropped: job.dropped.iter().map(PointerBody::from).collect(),
        published: job.published.0,
        end: job.end.clone(),
        completed_count: job.completed_count,
        failed_count: job.failed_count,
        savepoint: job.savepoint.0,
    }
    .encode_to_vec();
    let start = format!("{MAGIC} {FORMAT_VERSION} {}", body.len());
    let mut bytes = format!("{start} {:032x}\n", checksum(&start, &body)).into_bytes();
    bytes.extend_from_slice(&body);
    bytes
}

fn decode(bytes: &[u8]) -> Result<JobMeta, String> {
    let end = bytes.iter().take(128).position(|byte| *byte == b'\n').ok_or("its first line is torn")?;
    let line = std::str::from_utf8(&bytes[..end]).map_err(|_| "its first line is damaged")?;
    let (start, sum) = line.rsplit_once(' ').ok_or("its first line is damaged")?;
    let [magic, version, length] = start.split(' ').collect::<Vec<_>>()[..] else {
        return Err("its first line is damaged".to_owned());
    };
    let (version, length) = (version.parse::<u32>(), length.parse::<usize>());
    let (MAGIC, Ok(version), Ok(length)) = (magic, version, length) else {
        return Err("its first line is damaged".to_owned());
    };
    let body = &bytes[end + 1..];
    if body.len() != length {
        return Err(format!("it is torn: {} bytes where {length} were written", body.len()));
    }
    if sum != format!("{:032x}", checksum(start, body)) {
        return Err("it is damaged: its checksum does not fit".to_owned());
    }
    if version != FORMAT_VERSION {
        return Err(format!("it has format version {version}; this version of weir reads {FORMAT_VERSION}"));
    }
    let body = JobBody::decode(body).map_err(|error| format!("it cannot be read: {error}"))?;
    let origin = body.origin.map(|origin| Origin {
        store: origin.store,
        manifest: origin.manifest,
        leaves_out_unclaimed: origin.leaves_out_unclaimed,
    });
    Ok(JobMeta {
        job: body.job.parse().map_err(|error: weir_core::ids::JobIdError| error.to_string())?,
        graph: body.graph,
        incarnation: body
            .incarnation
            .parse::<Incarnation>()
            .map_err(|error| format!("its incarnation is wrong: {error}"))?,
        submitted_at_unix_ms: body.submitted_at_unix_ms,
        next_checkpoint: CheckpointId(body.next_checkpoint),
        attempt: body.attempt,
        restart_count: body.restart_count,
        last_restart_cause: body.last_restart_cause,
        origin,
        retained: body.retained.into_iter().map(CompletedPointer::from).collect(),
        dropped: body.dropped.into_iter().map(CompletedPointer::from).collect(),
        published: CheckpointId(body.published),
        end: body.end,
        completed_count: body.completed_count,
        failed_count: body.failed_count,
        savepoint: CheckpointId(body.savepoint),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample() -> JobMeta {
        let pointer = |id| CompletedPointer { checkpoint: CheckpointId(id), manifest: format!("chk-{id}/manifest") };
        JobMeta {
            retained: vec![pointer(7), pointer(8)],
            dropped: vec![pointer(6)],
            published: CheckpointId(7),
            end: Some(Bytes::from_static(b"end")),
            origin: Some(Origin {
                store: "file:///sp".to_owned(),
                manifest: "manifest".to_owned(),
                leaves_out_unclaimed: true,
            }),
            last_restart_cause: Some(Failure { code: "worker-lost".to_owned(), ..Failure::default() }),
            ..JobMeta::new(JobId(0xabc), Bytes::from_static(b"graph"), Incarnation(0xdef), 99)
        }
    }

    /// A disk format: these bytes never change, whatever the program becomes.
    #[test]
    fn golden_bytes() {
        let job = JobMeta::new(JobId(0xabc), Bytes::from_static(b"graph"), Incarnation(0xdef), 99);
        let text = String::from_utf8(encode(&job)).expect("all of it is text");
        let (line, body) = text.split_once('\n').expect("a line");
        assert!(line.starts_with("weir-job 1 81 "), "{line}");
        let expected = "\n\u{20}00000000000000000000000000000abc\u{12}\u{5}graph\u{1a}\u{20}\
                        00000000000000000000000000000def\u{20}c(\u{11}0\u{1}";
        assert_eq!(body, expected);
    }

    /// Carries b7 of the failure list: a torn or damaged file is found at every byte, and said by name.
    #[test]
    fn b7_torn_or_damaged_file_is_never_believed() {
        let bytes = encode(&sample());
        assert_eq!(decode(&bytes), Ok(sample()));
        for end in 0..bytes.len() {
            assert!(decode(&bytes[..end]).is_err(), "cut at {end}");
        }
        for index in 0..bytes.len() * 8 {
            let mut damaged = bytes.clone();
            damaged[index / 8] ^= 1 << (index % 8);
            assert!(decode(&damaged).is_err(), "bit {index}");
        }
    }

    #[tokio::test]
    async fn jobs_are_kept_until_removed_and_damage_names_its_file() {
        let dir = tempfile::tempdir().expect("a directory");
        let files = MetaFiles::open(dir.path()).expect("open");
        files.put(&JobMeta { attempt: 9, ..sample() }).await.expect("put");
        files.put(&sample()).await.expect("put again");
        fs::write(dir.path().join("jobs/left.tmp"), "over").expect("write");
        assert_eq!(MetaFiles::open(dir.path()).expect("open").load().await.expect("load"), [sample()]);
        let path = files.path(sample().job);
        let bytes = fs::read(&path).expect("read");
        fs::write(&path, &bytes[..bytes.len() - 1]).expect("tear");
        let error = files.load().await.expect_err("it is torn");
        assert_eq!(error.code(), "job-file-damaged");
        assert!(error.to_string().contains(&path.display().to_string()), "{error}");
        files.remove(sample().job).await.expect("remove");
        files.remove(sample().job).await.expect("remove what is not there");
        assert_eq!(files.load().await.expect("load"), []);
    }
}
