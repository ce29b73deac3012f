//! Puts files end to end: the parts of a single file when it is published, and small parts when there are many. Blocks.
//!
//! Text is copied byte by byte: gzip members and Zstandard frames one after the other are one stream. Parquet is read
//! and written again, so that many small parts become few large row groups. What comes from a bucket is read whole and
//! compared with what was written; parts there are small enough for that.

use std::fs::File;
use std::io::{self, Cursor, ErrorKind, Write};
use std::path::{Path, PathBuf};

use arrow_array::RecordBatch;
use bytes::Bytes;
use parquet::arrow::ArrowWriter;
use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;
use parquet::file::reader::ChunkReader;
use weir_operator_api::{OperatorError, Result};

use crate::files::home::{Ended, Home, Out};
use crate::files::memory::FilePart;
use crate::files::part::{parquet_properties, sink_io};

/// Rows that are read from Parquet at once.
const BATCH_ROWS: usize = 8_192;

/// Parts of a single file, and where they are.
#[derive(Clone, Debug)]
pub struct Parts {
    /// Where they are.
    pub home: Home,
    /// In which directory.
    pub directory: PathBuf,
    /// The parts, in the order of the rows.
    pub parts: Vec<FilePart>,
    /// Whether they are Parquet.
    pub is_parquet: bool,
}

/// A part to be read.
enum Source {
    File(File),
    Bytes(Bytes),
}

impl Parts {
    /// The paths of the parts.
    pub fn paths(&self) -> impl Iterator<Item = PathBuf> + '_ {
        self.parts.iter().map(|part| self.directory.join(&part.name))
    }

    /// Puts the parts end to end into the new file `whole` and makes it durable.
    ///
    /// **Errors**: `sink-io`; `sink-part-lost` when a part is gone. What was written of `whole` is removed then.
    pub fn join(&self, whole: &Path) -> Result<Ended> {
        let joined = if self.is_parquet { self.join_parquet(whole) } else { self.join_text(whole) };
        let durable = joined.and_then(|out| out.finish(whole));
        if durable.is_err() {
            // The first error counts; what is left has a name of its own and is swept away later.
            let _ = self.home.remove(whole);
        }
        durable
    }

    fn open(&self, part: &FilePart) -> Result<Source> {
        let path = self.directory.join(&part.name);
        match &self.home {
            Home::Disk => match File::open(&path) {
                Ok(file) => Ok(Source::File(file)),
                Err(error) if error.kind() == ErrorKind::NotFound => Err(part_lost(&path, error)),
                Err(error) => Err(sink_io("read", &path, error)),
            },
            Home::Bucket(bucket) => {
                let no_hash = || OperatorError::internal(format!("'{}' was written without a hash", path.display()));
                Ok(Source::Bytes(bucket.read(&path, part.bytes, part.hash.ok_or_else(no_hash)?)?))
            }
        }
    }

    fn join_text(&self, whole: &Path) -> Result<Out> {
        let mut out = self.home.create(whole)?;
        for part in &self.parts {
            let copied = match self.open(part)? {
                Source::File(mut file) => io::copy(&mut file, &mut out),
                Source::Bytes(bytes) => io::copy(&mut Cursor::new(bytes), &mut out),
            };
            copied.map_err(|error| sink_io("write", whole, error))?;
        }
        out.flush().map_err(|error| sink_io("write", whole, error))?;
        Ok(out)
    }

    fn join_parquet(&self, whole: &Path) -> Result<Out> {
        let mut writer: Option<ArrowWriter<Out>> = None;
        for part in &self.parts {
            let path = self.directory.join(&part.name);
            let add = |rows: RecordBatch| {
                let writer = match &mut writer {
                    Some(writer) => writer,
                    None => {
                        let out = self.home.create(whole)?;
                        let new = ArrowWriter::try_new(out, rows.schema(), Some(parquet_properties()));
                        writer.insert(new.map_err(|error| sink_io("create", whole, error))?)
                    }
                };
                writer.write(&rows).map_err(|error| sink_io("write", whole, error))
            };
            match self.open(part)? {
                Source::File(file) => each_batch(file, &path, add)?,
                Source::Bytes(bytes) => each_batch(bytes, &path, add)?,
            }
        }
        let writer = writer.ok_or_else(|| OperatorError::internal("there are no parts to be put together"))?;
        writer.into_inner().map_err(|error| sink_io("write", whole, error))
    }
}

/// Reads a Parquet file batch by batch; one without rows gives an empty batch, for its schema.
fn each_batch<R: ChunkReader + 'static>(
    reader: R,
    path: &Path,
    mut add: impl FnMut(RecordBatch) -> Result<()>,
) -> Result<()> {
    let unreadable = |error| sink_io("read", path, error);
    let reader = ParquetRecordBatchReaderBuilder::try_new(reader).map_err(unreadable)?;
    add(RecordBatch::new_empty(reader.schema().clone()))?;
    for rows in reader.with_batch_size(BATCH_ROWS).build().map_err(unreadable)? {
        add(rows.map_err(|error| sink_io("read", path, error))?)?;
    }
    Ok(())
}

/// The error of a hidden part that someone removed.
pub fn part_lost(path: &Path, error: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> OperatorError {
    let message = format!("the finished part '{}' is gone: someone removed it before it was published", path.display());
    OperatorError::external("sink-part-lost", message).because(error)
}
