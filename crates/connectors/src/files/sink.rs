//! The sink `file_sink`: JSON lines, CSV or Parquet. Nothing is visible before the commit, and every row is in the output
//! once, whatever fails when.
//!
//! | setting | meaning | default |
//! |---|---|---|
//! | `path` | a file (its name ends in `.csv`, `.json`, `.jsonl`, `.parquet`, or the text ones with `.gz` or `.zst`), else a directory | required |
//! | `format` | `json`, `csv` or `parquet` | by the file's name; required for a directory |
//! | `header` | whether CSV starts with the column names | true |
//! | `compression` | `none`, `gzip` or `zstd`, for text; Parquet has zstd inside | by the file's name, `none` |
//! | `upsert_key` | columns; keeps the last row per key and writes the final state, ordered by key; one subtask | every row is written |
//! | `roll_bytes`, `roll_interval` | size and age at which a part is ended and the next one begun (directories) | never |
//!
//! While it is written, and until it is published, a part is a hidden file beside its target; `names.rs` has the names.
//! A directory shows the parts of a checkpoint when the checkpoint is complete. A single file takes one subtask and is
//! shown at the end: each checkpoint ends a hidden part, the list of all of them is the sink's state, and the committer
//! puts them together. Publishing over an older file replaces it in one step. An empty result still writes its file, or
//! leaves its directory empty.

use std::collections::BTreeMap;

use arrow_schema::Schema;
use async_trait::async_trait;
use weir_core::{Settings, Value};
use weir_operator_api::connector::SinkProperties;
use weir_operator_api::sink::SinkCommitter;
use weir_operator_api::{OperatorError, Result, SinkContext, SinkFactory, SinkWriter};

use crate::files::committer::Committer;
use crate::files::sink_settings::SinkSettings;
use crate::files::writer::Writer;

/// Makes file sinks.
#[derive(Clone, Copy, Debug, Default)]
pub struct FileSink;

#[async_trait]
impl SinkFactory for FileSink {
    fn kind(&self) -> &'static str {
        "file_sink"
    }

    fn describe(&self, settings: &Settings<'_>, input: &Schema) -> Option<SinkProperties> {
        let read = SinkSettings::read(settings)?;
        read.check_input(settings, input);
        Some(SinkProperties {
            // Rows are dealt to sinks in turn, not by key: only one subtask sees all rows of a key.
            parallelism_max: (read.is_single_file || read.upsert_key.is_some()).then_some(1),
            takes_changes: read.upsert_key.is_some(),
        })
    }

    async fn writer(&self, context: SinkContext) -> Result<Box<dyn SinkWriter>> {
        let reader = Settings::new(context.uid.as_str(), &context.settings);
        let settings = SinkSettings::read(&reader);
        drop(reader);
        let settings =
            settings.ok_or_else(|| OperatorError::internal("the settings of a file sink were not checked"))?;
        Ok(Box::new(Writer::open(settings, context).await?))
    }

    async fn committer(&self, _settings: &BTreeMap<String, Value>) -> Result<Box<dyn SinkCommitter>> {
        Ok(Box::new(Committer))
    }
}
