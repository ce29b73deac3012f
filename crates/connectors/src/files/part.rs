//! One file being written: under a hidden name beside its target, until the commit. Everything here blocks; the sink
//! calls it where blocking is allowed.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use arrow_array::RecordBatch;
use arrow_schema::SchemaRef;
use parquet::arrow::ArrowWriter;
use parquet::basic::{Compression as ParquetCompression, ZstdLevel};
use parquet::file::properties::WriterProperties;
use weir_core::Value;
use weir_operator_api::{OperatorError, Result};

use crate::files::compression::{CompressedWriter, Compression};

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

impl PartPaths {
    /// Puts them into a committable's words.
    ///
    /// **Errors**: a path that is not UTF-8.
    pub fn to_value(&self) -> Result<Value> {
        let text = |path: &Path| match path.to_str() {
            Some(text) => Ok(Value::Text(text.to_owned())),
            None => Err(OperatorError::user("sink-io", format!("the path '{}' is not UTF-8", path.display()))),
        };
        let from = ("from".to_owned(), text(&self.in_progress)?);
        Ok(Value::Map(BTreeMap::from([from, ("to".to_owned(), text(&self.target)?)])))
    }

    /// Reads a committable's words.
    ///
    /// **Errors**: internal, when they are not ours.
    pub fn of_value(value: &Value) -> Result<PartPaths> {
        let field = |name: &str| value.as_map()?.get(name)?.as_text().map(PathBuf::from);
        match (field("from"), field("to")) {
            (Some(in_progress), Some(target)) => Ok(PartPaths { in_progress, target }),
            _ => Err(OperatorError::internal(format!("not a committable of a file sink: {value}"))),
        }
    }
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

/// What is added to a part.
pub enum Chunk {
    /// For text.
    Text(Vec<u8>),
    /// For Parquet.
    Rows(RecordBatch),
}

enum Body {
    Text(CompressedWriter),
    Parquet(Box<ArrowWriter<File>>),
}

/// A file being written.
pub struct Part {
    paths: PartPaths,
    body: Body,
}

impl Part {
    /// Creates the file, and its directory where needed. A file of the same hidden name is left over from an earlier
    /// attempt of the same job and is replaced.
    ///
    /// **Errors**: `sink-io`.
    pub fn create(paths: PartPaths, kind: PartKind) -> Result<Part> {
        if paths.target.is_dir() {
            let message = format!("cannot write the file '{}': it is a directory", paths.target.display());
            return Err(OperatorError::user("sink-io", message));
        }
        if let Some(directory) = paths.in_progress.parent() {
            fs::create_dir_all(directory).map_err(|error| sink_io("create directory", directory, error))?;
        }
        let failed = |error: io::Error| sink_io("create", &paths.in_progress, error);
        let file = File::create(&paths.in_progress).map_err(failed)?;
        let body = match kind {
            PartKind::Text(compression) => Body::Text(compression.writer(file).map_err(failed)?),
            PartKind::Parquet(schema) => {
                let properties = WriterProperties::builder()
                    .set_compression(ParquetCompression::ZSTD(ZstdLevel::default()))
                    .set_max_row_group_row_count(Some(ROW_GROUP_ROWS))
                    .build();
                let writer = ArrowWriter::try_new(file, Arc::clone(&schema), Some(properties));
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

    /// Ends the file and makes it durable, still under its hidden name.
    ///
    /// **Errors**: `sink-io`.
    pub fn finish(self) -> Result<PartPaths> {
        let path = self.paths.in_progress.clone();
        let file = match self.body {
            Body::Text(writer) => writer.finish().map_err(|error| sink_io("write", &path, error))?,
            Body::Parquet(writer) => writer.into_inner().map_err(|error| sink_io("write", &path, error))?,
        };
        file.sync_all().map_err(|error| sink_io("sync", &path, error))?;
        Ok(self.paths)
    }
}
