//! The sink `file_sink`: JSON lines, CSV or Parquet. Nothing is visible before the commit, and every row is in the output
//! once, whatever fails when.
//!
//! | setting | meaning | default |
//! |---|---|---|
//! | `path` | a file (its name ends in `.csv`, `.json`, `.jsonl`, `.parquet`, or the text ones with `.gz` or `.zst`), else a directory | required |
//! | `format` | `json`, `csv` or `parquet` | by the file's name; required for a directory |
//! | `header` | whether CSV starts with the column names | true |
//! | `compression` | `none`, `gzip` or `zstd`, for text; Parquet has zstd inside | by the file's name, `none` |
//! | `upsert_key` | columns; keeps the last row per key and writes the final state, ordered by key in each file | every row is written |
//! | `roll_bytes`, `roll_interval` | size and age at which a part is ended and the next one begun (directories) | never |
//! | `s3.endpoint`, `s3.region`, `s3.path-style-access`, `s3.allow-http` | how a bucket is reached, for `s3://bucket/...` | those of the job |
//!
//! While it is written, and until it is published, a part is a hidden file beside its target; `names.rs` has the names.
//! A directory shows the parts of a checkpoint when the checkpoint is complete. A single file takes one subtask and is
//! shown at the end: each checkpoint ends a hidden part, the list of all of them is the sink's state, and the committer
//! puts them together. Publishing over an older file replaces it in one step. An empty result still writes its file, or
//! leaves its directory empty.

use std::collections::BTreeMap;

use arrow_schema::Schema;
use async_trait::async_trait;
use weir_core::key_hash::is_key_type;
use weir_core::{Settings, Value};
use weir_operator_api::connector::SinkProperties;
use weir_operator_api::sink::SinkCommitter;
use weir_operator_api::{OperatorError, Result, SinkContext, SinkFactory, SinkWriter};
use weir_s3::{Environment, Limits, S3Options};

use crate::files::bucket::{Access, LIMITS};
use crate::files::committer::{Afterwards, Committer};
use crate::files::sink_settings::SinkSettings;
use crate::files::writer::Writer;

/// Makes file sinks.
#[derive(Clone, Debug)]
pub struct FileSink {
    /// Credentials of buckets; those of this process when absent.
    environment: Option<Environment>,
    limits: Limits,
}

impl FileSink {
    /// With the credentials of this process.
    pub const fn new() -> Self {
        FileSink { environment: None, limits: LIMITS }
    }

    /// With these credentials and bounds of requests.
    pub const fn with(environment: Environment, limits: Limits) -> Self {
        FileSink { environment: Some(environment), limits }
    }

    fn access(&self, options: S3Options) -> Access {
        let environment = self.environment.clone().unwrap_or_else(Environment::of_process);
        Access { options, environment, limits: self.limits.clone() }
    }
}

#[async_trait]
impl SinkFactory for FileSink {
    fn kind(&self) -> &'static str {
        "file_sink"
    }

    fn describe(&self, settings: &Settings<'_>, input: &Schema) -> Option<SinkProperties> {
        let read = SinkSettings::read(settings)?;
        read.check_input(settings, input);
        // Only one subtask may see rows of a key: they are spread by it, or all go to one.
        let is_spread = read.upsert_key.as_ref().is_some_and(|key| is_key(key, input));
        Some(SinkProperties {
            parallelism_max: (read.is_single_file || (read.upsert_key.is_some() && !is_spread)).then_some(1),
            takes_changes: read.upsert_key.is_some(),
            partition_by: read.upsert_key.clone().filter(|_| is_spread),
            takes_store_keys: read.is_in_bucket(),
        })
    }

    async fn writer(&self, context: SinkContext) -> Result<Box<dyn SinkWriter>> {
        let reader = Settings::new(context.uid.as_str(), &context.settings);
        let settings = SinkSettings::read(&reader);
        drop(reader);
        let settings =
            settings.ok_or_else(|| OperatorError::internal("the settings of a file sink were not checked"))?;
        let access = self.access(settings.s3.clone());
        Ok(Box::new(Writer::open(settings, &access, context).await?))
    }

    fn leaves_output(&self) -> bool {
        true
    }

    async fn committer(&self, settings: &BTreeMap<String, Value>) -> Result<Box<dyn SinkCommitter>> {
        let settings = SinkSettings::read(&Settings::new("", settings));
        let options = settings.as_ref().map(|settings| settings.s3.clone()).unwrap_or_default();
        Ok(Box::new(Committer { access: self.access(options), settings, parts: Afterwards::default() }))
    }
}

/// Whether rows can be spread by these columns.
fn is_key(columns: &[String], input: &Schema) -> bool {
    columns.iter().all(|name| input.field_with_name(name).is_ok_and(|field| is_key_type(field.data_type())))
}

impl Default for FileSink {
    fn default() -> Self {
        FileSink::new()
    }
}
