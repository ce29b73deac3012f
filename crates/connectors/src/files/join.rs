//! Puts files end to end: the parts of a single file when it is published, and small parts when there are many. Blocks.
//!
//! Text is copied byte by byte: gzip members and Zstandard frames one after the other are one stream. Parquet is read
//! and written again, so that many small parts become few large row groups.

use std::fs::{self, File, OpenOptions};
use std::io;
use std::path::{Path, PathBuf};

use parquet::arrow::ArrowWriter;
use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;
use weir_operator_api::{OperatorError, Result};

use crate::files::part::{parquet_properties, sink_io};

/// Rows that are read from Parquet at once.
const BATCH_ROWS: usize = 8_192;

/// Puts `parts` end to end into the new file `whole` and makes it durable; gives its size.
///
/// **Errors**: `sink-io`; `sink-part-lost` when a part is gone. What was written of `whole` is removed then.
pub fn join(parts: &[PathBuf], whole: &Path, is_parquet: bool) -> Result<u64> {
    let joined = if is_parquet { join_parquet(parts, whole) } else { join_text(parts, whole) };
    let durable = joined.and_then(|file| {
        file.sync_all().map_err(|error| sink_io("sync", whole, error))?;
        Ok(file.metadata().map_err(|error| sink_io("look at", whole, error))?.len())
    });
    if durable.is_err() {
        // The first error counts; what is left has a name of its own and is swept away later.
        let _ = fs::remove_file(whole);
    }
    durable
}

fn create(path: &Path) -> Result<File> {
    OpenOptions::new().write(true).create_new(true).open(path).map_err(|error| sink_io("create", path, error))
}

fn open(path: &Path) -> Result<File> {
    File::open(path).map_err(|error| match error.kind() {
        io::ErrorKind::NotFound => part_lost(path, error),
        _ => sink_io("read", path, error),
    })
}

/// The error of a hidden part that someone removed.
pub fn part_lost(path: &Path, error: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> OperatorError {
    let message = format!("the finished part '{}' is gone: someone removed it before it was published", path.display());
    OperatorError::external("sink-part-lost", message).because(error)
}

fn join_text(parts: &[PathBuf], whole: &Path) -> Result<File> {
    let mut out = create(whole)?;
    for part in parts {
        io::copy(&mut open(part)?, &mut out).map_err(|error| sink_io("write", whole, error))?;
    }
    Ok(out)
}

fn join_parquet(parts: &[PathBuf], whole: &Path) -> Result<File> {
    let mut writer = None;
    for part in parts {
        let unreadable = |error| sink_io("read", part, error);
        let reader = ParquetRecordBatchReaderBuilder::try_new(open(part)?).map_err(unreadable)?;
        let schema = reader.schema().clone();
        let writer = match &mut writer {
            Some(writer) => writer,
            None => {
                let new = ArrowWriter::try_new(create(whole)?, schema, Some(parquet_properties()));
                writer.insert(new.map_err(|error| sink_io("create", whole, error))?)
            }
        };
        for rows in reader.with_batch_size(BATCH_ROWS).build().map_err(unreadable)? {
            let rows = rows.map_err(|error| sink_io("read", part, error))?;
            writer.write(&rows).map_err(|error| sink_io("write", whole, error))?;
        }
    }
    let writer = writer.ok_or_else(|| OperatorError::internal("there are no parts to be put together"))?;
    writer.into_inner().map_err(|error| sink_io("write", whole, error))
}
