//! The sink `file_sink`: JSON lines, CSV or Parquet. Nothing is visible before the commit.
//!
//! | setting | meaning | default |
//! |---|---|---|
//! | `path` | a file (its name ends in `.csv`, `.json`, `.jsonl`, `.parquet`, or the text ones with `.gz` or `.zst`), else a directory | required |
//! | `format` | `json`, `csv` or `parquet` | by the file's name; required for a directory |
//! | `header` | whether CSV starts with the column names | true |
//! | `compression` | `none`, `gzip` or `zstd`, for text; Parquet has zstd inside | by the file's name, `none` |
//! | `upsert_key` | columns; keeps the last row per key and writes the final state, ordered by key | every row is written |
//! | `roll_bytes` | size at which a part is ended and the next one begun (directories) | never |
//!
//! A file takes one subtask; a directory gets parts `part-<job id>-<subtask>-<n>`, so that no two jobs, subtasks or parts
//! ever share a name and a part written again is the same part. While it is written a part is called
//! `.<name>.<job id>-<subtask>.inprogress` beside its target. Publishing over an older file replaces it in one step.
//! An empty result still writes its file.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use arrow_array::RecordBatch;
use arrow_schema::{Schema, SchemaRef};
use async_trait::async_trait;
use tokio::task::JoinHandle;
use weir_core::batch::{CHANGE_COLUMN, is_changing};
use weir_core::{Batch, Settings, Value};
use weir_operator_api::connector::SinkProperties;
use weir_operator_api::sink::SinkCommitter;
use weir_operator_api::{
    BadRecord, Committable, Cut, OperatorError, PreparedOutput, Result, SinkContext, SinkFactory, SinkWriter,
};

use crate::files::committer::{Committer, remove};
use crate::files::compression::Compression;
use crate::files::enumerate::IN_PROGRESS;
use crate::files::part::{Chunk, Part, PartKind, PartPaths};
use crate::files::settings::format_of_name;
use crate::files::upsert::LastRows;
use crate::format::csv::Header;
use crate::format::text::can_write;
use crate::format::{Encode, csv, json};

/// Bytes of text that are handed to the file at once.
const CHUNK_BYTES: usize = 256 * 1024;
/// Rows per batch when the last row per key is written.
const UPSERT_BATCH_ROWS: usize = 8_192;

/// Everything a user sets on `file_sink`.
#[derive(Clone, Debug, PartialEq)]
struct SinkSettings {
    path: String,
    is_single_file: bool,
    format: &'static str,
    header: Header,
    compression: Compression,
    upsert_key: Option<Vec<String>>,
    roll_bytes: Option<u64>,
}

impl SinkSettings {
    fn read(settings: &Settings<'_>) -> Option<SinkSettings> {
        let path = settings.required_text("path");
        let by_name = format_of_name(&path);
        let is_single_file = by_name.is_some() && !path.ends_with('/');
        let format = settings.choice("format", &["json", "csv", "parquet"]);
        if format.is_none() && by_name.is_none() && !settings.has("format") {
            settings.problem("format", "is missing and the path does not tell it: expected json, csv or parquet");
        }
        let format = format.or(by_name);
        let header = if settings.boolean("header").unwrap_or(true) { Header::Names } else { Header::None };
        if settings.has("header") && format.is_some_and(|format| format != "csv") {
            settings.problem("header", "only the format csv has this field");
        }
        let word = settings.choice("compression", &["none", "gzip", "zstd"]);
        let by_path = if is_single_file { Compression::of_path(Path::new(&path)) } else { Compression::None };
        let compression = word.map_or(by_path, |word| Compression::of_setting(word, Path::new(&path)));
        if format == Some("parquet") && (compression != Compression::None) && word != Some("zstd") {
            settings.problem("compression", "parquet files are compressed inside with zstd: leave this field out");
        }
        let upsert_key = settings.has("upsert_key").then(|| settings.required_texts("upsert_key"));
        let roll_bytes = settings.integer("roll_bytes", 1..=i64::MAX).map(|bytes| bytes as u64);
        if roll_bytes.is_some() && is_single_file {
            settings.problem("roll_bytes", format!("'{path}' names one file: give a directory to write several parts"));
        }
        if path.is_empty() {
            return None;
        }
        Some(SinkSettings { path, is_single_file, format: format?, header, compression, upsert_key, roll_bytes })
    }

    fn check_input(&self, settings: &Settings<'_>, input: &Schema) {
        let visible = visible_schema(input);
        let names = || visible.fields().iter().map(|field| field.name().as_str());
        match &self.upsert_key {
            None if is_changing(input) => settings.problem(
                "upsert_key",
                "the input updates or takes back rows it sent before, and a file cannot: set upsert_key to the columns \
                 that identify a row, and the last row per key is written at the end",
            ),
            Some(_) if !LastRows::supports(&visible) => {
                settings.problem("upsert_key", "the input has a column type of which no last row can be kept");
            }
            Some(key) => {
                for name in key.iter().filter(|name| visible.index_of(name).is_err()) {
                    let near = weir_core::settings::nearest(name, names());
                    settings.problem_near("upsert_key", format!("the input has no column '{name}'"), near);
                }
            }
            None => {}
        }
        if self.format != "parquet" {
            for field in visible.fields().iter().filter(|field| !can_write(field.data_type())) {
                let reason =
                    format!("column '{}' of type {} cannot be written as text", field.name(), field.data_type());
                settings.problem("format", reason);
            }
        }
    }

    fn kind(&self, schema: &SchemaRef) -> PartKind {
        if self.format == "parquet" { PartKind::Parquet(Arc::clone(schema)) } else { PartKind::Text(self.compression) }
    }

    fn encoder(&self, schema: &SchemaRef) -> Option<Box<dyn Encode>> {
        match self.format {
            "json" => Some(Box::new(json::Encoder::new(schema))),
            "csv" => Some(Box::new(csv::Encoder::new(schema, self.header))),
            _ => None,
        }
    }

    /// Where part `number` of a subtask is written.
    fn paths(&self, context: &SinkContext, number: u32) -> Result<PartPaths> {
        let wrong =
            |error| OperatorError::user("sink-io", format!("cannot use the path '{}'", self.path)).because(error);
        let path = std::path::absolute(&self.path).map_err(wrong)?;
        let (job, subtask) = (context.job, context.subtask);
        let target = if self.is_single_file {
            path
        } else {
            let compression = if self.format == "parquet" { "" } else { self.compression.extension() };
            path.join(format!("part-{job}-{subtask}-{number}.{}{compression}", self.format))
        };
        let name = target.file_name().and_then(|name| name.to_str()).unwrap_or("part");
        let hidden = format!(".{name}.{job}-{subtask}{IN_PROGRESS}");
        Ok(PartPaths { in_progress: target.with_file_name(hidden), target })
    }
}

/// The schema without the hidden change column.
fn visible_schema(input: &Schema) -> SchemaRef {
    let fields = input.fields().iter().filter(|field| field.name() != CHANGE_COLUMN).cloned();
    Arc::new(Schema::new(fields.collect::<Vec<_>>()))
}

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
            parallelism_max: read.is_single_file.then_some(1),
            takes_changes: read.upsert_key.is_some(),
        })
    }

    async fn writer(&self, context: SinkContext) -> Result<Box<dyn SinkWriter>> {
        let reader = Settings::new(context.uid.as_str(), &context.settings);
        let settings = SinkSettings::read(&reader);
        drop(reader);
        let settings =
            settings.ok_or_else(|| OperatorError::internal("the settings of a file sink were not checked"))?;
        let mut writer = Writer::new(settings, context)?;
        // Opened at once: a path that cannot be written ends the job before it has worked for hours.
        writer.open_part().await?;
        Ok(Box::new(writer))
    }

    async fn committer(&self, _settings: &BTreeMap<String, Value>) -> Result<Box<dyn SinkCommitter>> {
        Ok(Box::new(Committer))
    }
}

/// What a blocking step gives back.
type Step = (Option<Part>, Result<()>);

/// Writes the parts of one subtask.
struct Writer {
    settings: SinkSettings,
    context: SinkContext,
    schema: SchemaRef,
    visible: Vec<usize>,
    encoder: Option<Box<dyn Encode>>,
    last_rows: Option<LastRows>,
    /// Encoded text that is not yet handed to the part.
    buffer: Vec<u8>,
    part: Option<Part>,
    /// The one blocking step under way; it holds the part.
    step: Option<JoinHandle<Step>>,
    part_bytes: u64,
    next_number: u32,
    /// Hidden files that exist, or may.
    in_progress: Vec<PathBuf>,
    /// Whether rows came since the last `prepare`.
    has_news: bool,
    finished: Vec<PartPaths>,
}

impl Writer {
    fn new(settings: SinkSettings, context: SinkContext) -> Result<Self> {
        let schema = visible_schema(&context.input);
        let fields = context.input.fields().iter().enumerate();
        let visible = fields.filter(|(_, field)| field.name() != CHANGE_COLUMN).map(|(index, _)| index).collect();
        let last_rows = match &settings.upsert_key {
            Some(key) => Some(LastRows::new(Arc::clone(&schema), key)?),
            None => None,
        };
        Ok(Writer {
            encoder: settings.encoder(&schema),
            settings,
            context,
            schema,
            visible,
            last_rows,
            buffer: Vec::new(),
            part: None,
            step: None,
            part_bytes: 0,
            next_number: 0,
            in_progress: Vec::new(),
            has_news: false,
            finished: Vec::new(),
        })
    }

    /// Starts a blocking step when the one before is done.
    async fn start_step(&mut self, step: impl FnOnce(Option<Part>) -> Step + Send + 'static) -> Result<()> {
        self.settle().await?;
        let part = self.part.take();
        self.step = Some(tokio::task::spawn_blocking(move || step(part)));
        Ok(())
    }

    /// Waits for the blocking step under way.
    async fn settle(&mut self) -> Result<()> {
        let Some(step) = &mut self.step else { return Ok(()) };
        let joined = step.await;
        self.step = None;
        let (part, result) = joined.map_err(|error| OperatorError::internal("a file writer stopped").because(error))?;
        self.part = part;
        result
    }

    async fn open_part(&mut self) -> Result<()> {
        if self.settings.is_single_file && self.next_number > 0 {
            return Err(OperatorError::internal(format!(
                "'{}' was finished and cannot be continued",
                self.settings.path
            )));
        }
        let paths = self.settings.paths(&self.context, self.next_number)?;
        self.in_progress.push(paths.in_progress.clone());
        self.next_number += 1;
        self.part_bytes = 0;
        let kind = self.settings.kind(&self.schema);
        self.start_step(move |_| match Part::create(paths, kind) {
            Ok(part) => (Some(part), Ok(())),
            Err(error) => (None, Err(error)),
        })
        .await?;
        if let Some(encoder) = &mut self.encoder {
            encoder.header(&mut self.buffer);
        }
        self.settle().await
    }

    async fn ensure_part(&mut self) -> Result<()> {
        self.settle().await?;
        if self.part.is_none() { self.open_part().await } else { Ok(()) }
    }

    async fn add(&mut self, rows: RecordBatch) -> Result<()> {
        match &mut self.encoder {
            Some(encoder) => {
                encoder.rows(&rows, &mut self.buffer)?;
                if self.buffer.len() >= CHUNK_BYTES {
                    self.hand_over().await?;
                }
            }
            None => {
                self.ensure_part().await?;
                self.part_bytes += Batch::new(rows.clone(), 0).size_bytes() as u64;
                self.write_chunk(Chunk::Rows(rows)).await?;
            }
        }
        let is_full = self.settings.roll_bytes.is_some_and(|most| self.part_bytes + self.buffer.len() as u64 >= most);
        if is_full { self.finish_part().await } else { Ok(()) }
    }

    /// Hands the buffered text to the part.
    async fn hand_over(&mut self) -> Result<()> {
        let fresh = Vec::with_capacity(CHUNK_BYTES + CHUNK_BYTES / 4);
        let text = std::mem::replace(&mut self.buffer, fresh);
        self.part_bytes += text.len() as u64;
        self.write_chunk(Chunk::Text(text)).await
    }

    async fn write_chunk(&mut self, chunk: Chunk) -> Result<()> {
        self.start_step(move |part| match part {
            Some(mut part) => {
                let result = part.write(chunk);
                (Some(part), result)
            }
            None => (None, Err(OperatorError::internal("no part is open to be written"))),
        })
        .await
    }

    async fn finish_part(&mut self) -> Result<()> {
        if !self.buffer.is_empty() {
            self.hand_over().await?;
        }
        self.settle().await?;
        let Some(part) = self.part.take() else { return Ok(()) };
        let finish = tokio::task::spawn_blocking(move || part.finish());
        let paths = finish.await.map_err(|error| OperatorError::internal("a file writer stopped").because(error))??;
        self.finished.push(paths);
        Ok(())
    }
}

#[async_trait]
impl SinkWriter for Writer {
    async fn write(&mut self, batch: Batch) -> Result<Vec<BadRecord>> {
        let rows = batch.records.project(&self.visible)?;
        // Without the metadata of the stream: the schema of the files is the visible one.
        let rows = RecordBatch::try_new(Arc::clone(&self.schema), rows.columns().to_vec())?;
        self.has_news = true;
        match &mut self.last_rows {
            Some(last_rows) => last_rows.apply(&rows, batch.changes())?,
            None => {
                if self.part.is_none() && self.step.is_none() {
                    self.open_part().await?;
                }
                self.add(rows).await?;
            }
        }
        Ok(Vec::new())
    }

    async fn prepare(&mut self, _cut: Cut) -> Result<PreparedOutput> {
        let has_news = std::mem::replace(&mut self.has_news, false);
        if let (Some(last_rows), true) = (&self.last_rows, has_news) {
            for rows in last_rows.in_order(UPSERT_BATCH_ROWS)? {
                self.ensure_part().await?;
                self.add(rows).await?;
            }
        }
        self.finish_part().await?;
        let committables = std::mem::take(&mut self.finished).into_iter().map(|paths| {
            Ok(Committable {
                sink: self.context.uid.clone(),
                subtask: self.context.subtask,
                description: paths.to_value()?,
            })
        });
        let committables = committables.collect::<Result<Vec<_>>>()?;
        Ok(PreparedOutput { committables, ..PreparedOutput::default() })
    }

    async fn abort(&mut self) {
        // A step under way may still create its file: it must end first. Its error says nothing new.
        if self.settle().await.is_err() {
            tracing::debug!(sink = %self.context.uid, "the last write of an aborted sink failed");
        }
        self.part = None;
        let paths = std::mem::take(&mut self.in_progress);
        let removing = tokio::task::spawn_blocking(move || {
            for path in paths {
                if let Err(error) = remove(&path) {
                    tracing::warn!(path = %path.display(), %error, "an unfinished file stays behind");
                }
            }
        });
        if let Err(error) = removing.await {
            tracing::warn!(sink = %self.context.uid, %error, "unfinished files may stay behind");
        }
    }
}
