//! The settings of `file_sink`, read once by the factory to check them and once by each writer to use them.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use arrow_schema::{Schema, SchemaRef};
use weir_core::Settings;
use weir_core::batch::{CHANGE_COLUMN, is_changing};
use weir_operator_api::{OperatorError, Result};
use weir_s3::S3Options;
use weir_s3::options::{S3_ALLOW_HTTP, S3_ENDPOINT, S3_PATH_STYLE, S3_REGION};

use crate::files::bucket::unusable;
use crate::files::compression::Compression;
use crate::files::part::PartKind;
use crate::files::settings::format_of_name;
use crate::files::upsert::LastRows;
use crate::format::csv::Header;
use crate::format::text::can_write;
use crate::format::{Encode, csv, json};

/// Everything a user sets on `file_sink`.
#[derive(Clone, Debug, PartialEq)]
pub struct SinkSettings {
    /// A file or a directory.
    pub path: String,
    /// Whether the path names one file.
    pub is_single_file: bool,
    /// `json`, `csv` or `parquet`.
    pub format: &'static str,
    /// Whether CSV begins with the names of the columns.
    pub header: Header,
    /// How text is compressed.
    pub compression: Compression,
    /// Columns that identify a row, if the last row of each is kept.
    pub upsert_key: Option<Vec<String>>,
    /// Size at which a part is ended.
    pub roll_bytes: Option<u64>,
    /// Age at which a part is ended.
    pub roll_interval: Option<Duration>,
    /// How a bucket is reached.
    pub s3: S3Options,
}

impl SinkSettings {
    /// Reads the settings; `None` after recording problems.
    pub fn read(settings: &Settings<'_>) -> Option<SinkSettings> {
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
        let roll_interval = if settings.has("roll_interval") { settings.duration("roll_interval") } else { None };
        for field in ["roll_bytes", "roll_interval"] {
            if settings.has(field) && is_single_file {
                settings.problem(field, format!("'{path}' names one file: give a directory to write several parts"));
            }
        }
        let s3 = read_s3(settings, &path);
        if path.is_empty() {
            return None;
        }
        let format = format?;
        Some(SinkSettings {
            path,
            is_single_file,
            format,
            header,
            compression,
            upsert_key,
            roll_bytes,
            roll_interval,
            s3,
        })
    }

    /// Whether the output goes to a bucket.
    pub fn is_in_bucket(&self) -> bool {
        weir_s3::address::is_s3(&self.path)
    }

    /// Checks them against the input.
    pub fn check_input(&self, settings: &Settings<'_>, input: &Schema) {
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

    /// What the bytes of a part are.
    pub fn kind(&self, schema: &SchemaRef) -> PartKind {
        if self.format == "parquet" { PartKind::Parquet(Arc::clone(schema)) } else { PartKind::Text(self.compression) }
    }

    /// Encodes rows as text; `None` for Parquet.
    pub fn encoder(&self, schema: &SchemaRef) -> Option<Box<dyn Encode>> {
        match self.format {
            "json" => Some(Box::new(json::Encoder::new(schema))),
            "csv" => Some(Box::new(csv::Encoder::new(schema, self.header))),
            _ => None,
        }
    }

    /// The directory of the output, and the name of the single file in it.
    ///
    /// **Errors**: `sink-io` for a path that cannot be one.
    pub fn place(&self) -> Result<(PathBuf, Option<String>)> {
        let wrong = || OperatorError::user("sink-io", format!("cannot use the path '{}'", self.path));
        let path = match self.is_in_bucket() {
            true => {
                let (bucket, rest) = weir_s3::address::split(&self.path).map_err(|error| unusable(&error))?;
                PathBuf::from(format!("s3://{bucket}/{rest}").trim_end_matches('/'))
            }
            false => std::path::absolute(&self.path).map_err(|error| wrong().because(error))?,
        };
        if path.to_str().is_none() {
            return Err(wrong());
        }
        if !self.is_single_file {
            return Ok((path, None));
        }
        let name = path.file_name().and_then(|name| name.to_str()).ok_or_else(wrong)?.to_owned();
        let directory = path.parent().ok_or_else(wrong)?.to_path_buf();
        Ok((directory, Some(name)))
    }

    /// What the names of part files end in.
    pub fn extension(&self) -> String {
        let compression = if self.is_parquet() { "" } else { self.compression.extension() };
        format!(".{}{compression}", self.format)
    }

    /// Whether the files are Parquet.
    pub fn is_parquet(&self) -> bool {
        self.format == "parquet"
    }
}

/// The keys by which a bucket is reached; a job's own hold for its sinks that do not set them.
fn read_s3(settings: &Settings<'_>, path: &str) -> S3Options {
    let mut keys = BTreeMap::new();
    for key in [S3_ENDPOINT, S3_REGION] {
        keys.extend(settings.text(key).map(|text| (key.to_owned(), text)));
    }
    for key in [S3_PATH_STYLE, S3_ALLOW_HTTP] {
        keys.extend(settings.boolean(key).map(|truth| (key.to_owned(), truth.to_string())));
    }
    if weir_s3::address::is_s3(path) {
        let split = weir_s3::address::split(path);
        let has_gaps = |rest: &str| rest.trim_end_matches('/').split('/').any(|part| matches!(part, "" | "." | ".."));
        match split {
            Err(error) => settings.problem("path", error.to_string()),
            Ok((_, rest)) if !rest.is_empty() && has_gaps(rest) => {
                settings.problem("path", format!("'{path}' has a part between slashes that is empty, '.' or '..'"));
            }
            Ok(_) => {}
        }
    }
    S3Options::from_config(&keys).unwrap_or_else(|error| {
        settings.problem(S3_ENDPOINT, error.to_string());
        S3Options::default()
    })
}

/// The schema without the hidden change column.
pub fn visible_schema(input: &Schema) -> SchemaRef {
    let fields = input.fields().iter().filter(|field| field.name() != CHANGE_COLUMN).cloned();
    Arc::new(Schema::new(fields.collect::<Vec<_>>()))
}
