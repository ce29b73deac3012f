//! One file being written: under a hidden name beside its target, until the commit. Everything here blocks; the sink
//! calls it where blocking is allowed.

use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use arrow_array::RecordBatch;
use arrow_schema::SchemaRef;
use parquet::arrow::ArrowWriter;
use parquet::basic::{Compression as ParquetCompression, ZstdLevel};
use parquet::file::properties::WriterProperties;
use weir_operator_api::{OperatorError, Result};

use crate::files::compression::{CompressedWriter, Compression};
use crate::files::home::{Ended, Home, Out};

/// Rows after which a Parquet file starts a new row group: bounds what a writer buffers.
const ROW_GROUP_ROWS: usize = 256 * 1024;

/// Where a part is written and where it will stand.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PartPaths {
    /// Where it is written.
    pub in_progress: PathBuf,
    /// Where readers will find it.
    pub target: PathBuf,
}

/// The error of a file operation of the sink.
pub fn sink_io(verb: &str, path: &Path, error: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> OperatorError {
    OperatorError::external("sink-io", format!("cannot {verb} '{}'", path.display())).because(error)
}

/// What the bytes of a part are.
#[derive(Clone, Debug)]
pub enum PartKind {
    /// Encoded text.
    Text(Compression),
    /// Parquet with columns of this schema, zstd inside.
    Parquet(SchemaRef),
}

/// How Parquet is written.
pub fn parquet_properties() -> WriterProperties {
    WriterProperties::builder()
        .set_compression(ParquetCompression::ZSTD(ZstdLevel::default()))
        .set_max_row_group_row_count(Some(ROW_GROUP_ROWS))
        .build()
}

/// Makes a directory and what leads to it, durably.
///
/// **Errors**: `sink-io`.
pub fn create_directory(directory: &Path) -> Result<()> {
    if directory.is_dir() {
        return Ok(());
    }
    let parent = directory.parent().filter(|parent| !parent.as_os_str().is_empty());
    parent.map_or(Ok(()), create_directory)?;
    match fs::create_dir(directory) {
        // Another subtask was faster.
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists && directory.is_dir() => {}
        created => created.map_err(|error| sink_io("create directory", directory, error))?,
    }
    parent.map_or(Ok(()), sync_directory)
}

/// Makes the names in a directory durable.
///
/// **Errors**: `sink-io`.
pub fn sync_directory(directory: &Path) -> Result<()> {
    let synced = File::open(directory).and_then(|open| open.sync_all());
    synced.map_err(|error| sink_io("sync directory", directory, error))
}

/// What is added to a part.
pub enum Chunk {
    /// For text.
    Text(Vec<u8>),
    /// For Parquet.
    Rows(RecordBatch),
}

enum Body {
    Text(CompressedWriter),
    Parquet(Box<ArrowWriter<Out>>),
}

/// A file being written.
pub struct Part {
    paths: PartPaths,
    body: Body,
}

impl Part {
    /// Creates the file in a directory that exists. No other part ever has its hidden name: a file of that name is not
    /// replaced.
    ///
    /// **Errors**: `sink-io`.
    pub fn create(home: &Home, paths: PartPaths, kind: PartKind) -> Result<Part> {
        if matches!(home, Home::Disk) && paths.target.is_dir() {
            let message = format!("cannot write the file '{}': it is a directory", paths.target.display());
            return Err(OperatorError::user("sink-io", message));
        }
        let failed = |error: io::Error| sink_io("create", &paths.in_progress, error);
        let file = home.create(&paths.in_progress)?;
        let body = match kind {
            PartKind::Text(compression) => Body::Text(compression.writer(file).map_err(failed)?),
            PartKind::Parquet(schema) => {
                let writer = ArrowWriter::try_new(file, Arc::clone(&schema), Some(parquet_properties()));
                Body::Parquet(Box::new(writer.map_err(|error| sink_io("create", &paths.in_progress, error))?))
            }
        };
        Ok(Part { paths, body })
    }

    /// Adds to the file.
    ///
    /// **Errors**: `sink-io`.
    pub fn write(&mut self, chunk: Chunk) -> Result<()> {
        let path = &self.paths.in_progress;
        match (&mut self.body, chunk) {
            (Body::Text(writer), Chunk::Text(bytes)) => {
                writer.write_all(&bytes).map_err(|error| sink_io("write", path, error))
            }
            (Body::Parquet(writer), Chunk::Rows(rows)) => {
                writer.write(&rows).map_err(|error| sink_io("write", path, error))
            }
            _ => Err(OperatorError::internal("a part was given a chunk of another kind")),
        }
    }

    /// Ends the file and makes it durable, still hidden. The name is durable only when the directory is.
    ///
    /// **Errors**: `sink-io`.
    pub fn finish(self) -> Result<(PartPaths, Ended)> {
        let path = self.paths.in_progress.clone();
        let file = match self.body {
            Body::Text(writer) => writer.finish().map_err(|error| sink_io("write", &path, error))?,
            Body::Parquet(writer) => writer.into_inner().map_err(|error| sink_io("write", &path, error))?,
        };
        let ended = file.finish(&path)?;
        Ok((self.paths, ended))
    }
}

#[cfg(test)]
mod tests {
    use std::fs::OpenOptions;

    use weir_core::ErrorDomain;

    use super::*;

    #[test]
    fn full_disk_is_an_error_of_the_outside_with_path_and_cause() {
        let paths = PartPaths { in_progress: "/dev/full".into(), target: "/dev/never".into() };
        let file = Out::File(OpenOptions::new().write(true).open("/dev/full").expect("Linux has it"));
        let body = Body::Text(Compression::None.writer(file).expect("nothing to write yet"));
        let error = Part { paths, body }.write(Chunk::Text(vec![b'x'; 10])).expect_err("no space");
        assert_eq!((error.code, error.domain), ("sink-io", ErrorDomain::External));
        assert_eq!(error.message, "cannot write '/dev/full'");
        assert!(error.source.is_some_and(|cause| cause.to_string().contains("No space left")));
    }

    #[test]
    fn part_of_another_is_never_written_over() {
        let directory = tempfile::tempdir().expect("a directory");
        let paths =
            PartPaths { in_progress: directory.path().join(".a.inprogress"), target: directory.path().join("a") };
        fs::write(&paths.in_progress, "precious").expect("writes");
        let created = Part::create(&Home::Disk, paths.clone(), PartKind::Text(Compression::None));
        assert_eq!(created.err().map(|error| error.code), Some("sink-io"));
        assert_eq!(fs::read(&paths.in_progress).expect("reads"), b"precious");
    }
}
