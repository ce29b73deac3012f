//! The settings of `file_source`, read once by the factory to check them and once by reader and enumerator to use them.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::sync::Arc;

use arrow_schema::{DataType, Field, Schema, SchemaRef, TimeUnit};
use weir_core::batch::CHANGE_COLUMN;
use weir_core::{OperatorUid, Settings, Value, data_type};
use weir_operator_api::{OperatorError, Result};

use crate::files::compression::Compression;
use crate::format::{Decode, csv, json, unreadable_columns};
use crate::pace::Pace;

/// How a file's records are written.
#[derive(Clone, Debug, PartialEq)]
pub enum Format {
    /// JSON lines.
    Json,
    /// CSV.
    Csv {
        /// Whether the first record of each file names the columns.
        has_header: bool,
        /// How it is to be read.
        options: csv::Options,
    },
}

impl Format {
    /// Whether a line end always ends a record, so that a file may be cut at any line.
    pub fn is_line_cuttable(&self) -> bool {
        match self {
            Format::Json => true,
            Format::Csv { options, .. } => !options.quoted_newlines,
        }
    }

    /// Whether each file starts with a header.
    pub fn has_header(&self) -> bool {
        matches!(self, Format::Csv { has_header: true, .. })
    }
}

/// Everything a user sets on `file_source`.
#[derive(Clone, Debug)]
pub struct SourceSettings {
    /// Files, directories and patterns.
    pub paths: Vec<String>,
    /// How the records are written.
    pub format: Format,
    /// The declared columns.
    pub schema: SchemaRef,
    /// `auto`, `none`, `gzip` or `zstd`.
    pub compression: &'static str,
    /// How fast to read.
    pub pace: Pace,
    /// **Units**: bytes a split should have; by default [`SPLIT_BYTES_DEFAULT`], or less for more subtasks.
    pub split_bytes: Option<u64>,
    /// Whether splits follow each other in event time.
    pub is_time_ordered: bool,
    /// Longest record.
    pub line_bytes_max: usize,
}

/// Bytes of a split when the user sets none.
pub const SPLIT_BYTES_DEFAULT: u64 = 64 * 1024 * 1024;
const LINE_BYTES_DEFAULT: i64 = 1024 * 1024;
const LINE_BYTES_MAX: i64 = 256 * 1024 * 1024;

impl SourceSettings {
    /// Reads the settings; `None` after recording problems.
    pub fn read(settings: &Settings<'_>) -> Option<SourceSettings> {
        let paths = settings.required_texts("path");
        check_paths(settings, &paths);
        let schema = read_schema(settings);
        let line_bytes_max =
            settings.integer("max_line_bytes", 16..=LINE_BYTES_MAX).unwrap_or(LINE_BYTES_DEFAULT) as usize;
        let format = read_format(settings, &paths, line_bytes_max);
        let compression = settings.choice("compression", &["auto", "none", "gzip", "zstd"]).unwrap_or("auto");
        let split_bytes = settings.integer("split_bytes", 1024..=i64::MAX).map(|bytes| bytes as u64);
        let is_time_ordered = settings.boolean("time_ordered").unwrap_or(false);
        let pace = Pace::read(settings);
        let (schema, format) = (schema?, format?);
        check_types(settings, &schema, &format);
        check_pace(settings, &schema, &pace);
        Some(SourceSettings { paths, format, schema, compression, pace, split_bytes, is_time_ordered, line_bytes_max })
    }

    /// Reads settings that were checked when the job was submitted.
    ///
    /// **Errors**: internal, if they are wrong all the same.
    pub fn of_checked(uid: &OperatorUid, settings: &BTreeMap<String, Value>) -> Result<SourceSettings> {
        let reader = Settings::new(uid.as_str(), settings);
        let read = SourceSettings::read(&reader);
        settings.keys().for_each(|field| reader.allow(field));
        let problems = reader.finish();
        match (read, problems.first()) {
            (Some(read), None) => Ok(read),
            (_, Some(problem)) => Err(OperatorError::internal(format!("settings were not checked: {problem}"))),
            (None, None) => Err(OperatorError::internal(format!("the settings of '{uid}' cannot be read"))),
        }
    }

    /// How a file is compressed.
    pub fn compression_of(&self, path: &Path) -> Compression {
        Compression::of_setting(self.compression, path)
    }

    /// A decoder for one split.
    pub fn decoder(&self) -> Result<SplitDecoder> {
        let schema = Arc::clone(&self.schema);
        Ok(match &self.format {
            Format::Json => SplitDecoder::Json(Box::new(json::Decoder::new(schema, self.line_bytes_max)?)),
            Format::Csv { options, .. } => SplitDecoder::Csv(Box::new(csv::Decoder::new(schema, options.clone())?)),
        })
    }
}

/// A decoder of either format.
pub enum SplitDecoder {
    /// JSON lines.
    Json(Box<json::Decoder>),
    /// CSV.
    Csv(Box<csv::Decoder>),
}

impl SplitDecoder {
    /// The decoder behind the contract.
    pub fn get(&mut self) -> &mut dyn Decode {
        match self {
            SplitDecoder::Json(decoder) => decoder.as_mut(),
            SplitDecoder::Csv(decoder) => decoder.as_mut(),
        }
    }
}

fn check_paths(settings: &Settings<'_>, paths: &[String]) {
    for path in paths {
        let parent = Path::new(path).parent().and_then(Path::to_str).unwrap_or_default();
        if path.is_empty() {
            settings.problem("path", "must not be empty");
        } else if parent.contains('*') {
            settings.problem("path", format!("'{path}': '*' may only stand in the last part of a path"));
        }
    }
}

fn read_format(settings: &Settings<'_>, paths: &[String], line_bytes_max: usize) -> Option<Format> {
    let by_name = paths.first().and_then(|path| format_of_name(path));
    let word =
        settings.choice("format", &["json", "csv"]).or_else(|| if settings.has("format") { None } else { by_name });
    let delimiter = settings.text("delimiter");
    let has_header = settings.boolean("header");
    let null = settings.text("null");
    let quoted_newlines = settings.boolean("quoted_newlines");
    match word {
        Some("csv") => {
            let delimiter = delimiter.as_deref().map_or(Some(b','), one_byte);
            if delimiter.is_none() {
                settings
                    .problem("delimiter", "expected one ASCII character (\\t for a tab) that is no quote or line end");
            }
            let options = csv::Options {
                delimiter: delimiter?,
                null: null.unwrap_or_default(),
                quoted_newlines: quoted_newlines.unwrap_or(true),
                line_bytes_max,
            };
            Some(Format::Csv { has_header: has_header.unwrap_or(true), options })
        }
        Some("parquet") => {
            settings.problem("format", "parquet files cannot be read: expected json or csv");
            None
        }
        Some(_) => {
            for field in ["delimiter", "header", "null", "quoted_newlines"] {
                if settings.has(field) {
                    settings.problem(field, "only the format csv has this field");
                }
            }
            Some(Format::Json)
        }
        None => {
            if !settings.has("format") {
                settings.problem("format", "is missing and the path does not tell it: expected json or csv");
            }
            None
        }
    }
}

/// The format that a file's name tells, compression aside.
pub fn format_of_name(path: &str) -> Option<&'static str> {
    let name = [".gz", ".gzip", ".zst", ".zstd"].iter().find_map(|end| path.strip_suffix(end)).unwrap_or(path);
    match name.rsplit_once('.')?.1 {
        "json" | "jsonl" | "ndjson" => Some("json"),
        "csv" => Some("csv"),
        "parquet" => Some("parquet"),
        _ => None,
    }
}

fn one_byte(text: &str) -> Option<u8> {
    match text.as_bytes() {
        b"\\t" => Some(b'\t'),
        [byte] if byte.is_ascii() && !matches!(byte, b'"' | b'\n' | b'\r') => Some(*byte),
        _ => None,
    }
}

const SCHEMA_FORMS: &str = "a list of columns, each as text 'name TYPE', as 'name: TYPE', or as {name: .., type: ..}";

/// Reads the declared columns; `None` after recording problems.
pub fn read_schema(settings: &Settings<'_>) -> Option<SchemaRef> {
    let items = match settings.get("schema") {
        Some(Value::List(items)) if !items.is_empty() => items,
        Some(Value::Map(_)) => {
            settings.problem("schema", format!("a map has no order: expected {SCHEMA_FORMS}"));
            return None;
        }
        Some(other) => {
            settings.problem("schema", format!("expected {SCHEMA_FORMS}, found {}", other.kind()));
            return None;
        }
        None => {
            settings.problem("schema", format!("is missing: expected {SCHEMA_FORMS}"));
            return None;
        }
    };
    let (mut fields, mut names, mut is_valid) = (Vec::new(), BTreeSet::new(), true);
    for (index, item) in items.iter().enumerate() {
        match read_column(item) {
            Ok(field) if field.name() == CHANGE_COLUMN => {
                settings.problem(&format!("schema[{index}]"), format!("the name '{CHANGE_COLUMN}' is reserved"));
                is_valid = false;
            }
            Ok(field) if !names.insert(field.name().clone()) => {
                settings
                    .problem(&format!("schema[{index}]"), format!("the column '{}' is declared twice", field.name()));
                is_valid = false;
            }
            Ok(field) => fields.push(field),
            Err(reason) => {
                settings.problem(&format!("schema[{index}]"), reason);
                is_valid = false;
            }
        }
    }
    is_valid.then(|| Arc::new(Schema::new(fields)) as SchemaRef)
}

fn read_column(item: &Value) -> std::result::Result<Field, String> {
    let wrong = || format!("expected a column as 'name TYPE' or {{name: .., type: ..}}, found {item}");
    let (name, type_text) = match item {
        Value::Text(text) => text.trim().split_once(char::is_whitespace).ok_or_else(wrong)?,
        Value::Map(map) => {
            let pair = match (map.get("name"), map.get("type"), map.len()) {
                (Some(name), Some(type_text), 2) => Some((name.as_text(), type_text.as_text())),
                (_, _, 1) => map.iter().next().map(|(name, type_text)| (Some(name.as_str()), type_text.as_text())),
                _ => None,
            };
            match pair {
                Some((Some(name), Some(type_text))) => (name, type_text),
                _ => return Err(wrong()),
            }
        }
        _ => return Err(wrong()),
    };
    let upper = type_text.trim().to_ascii_uppercase();
    let nullable = upper.strip_suffix("NOT NULL").is_none();
    let type_text = if nullable { type_text.trim() } else { type_text.trim()[..upper.len() - 8].trim_end() };
    let data_type = data_type::parse(type_text)?;
    Ok(Field::new(name.trim(), data_type, nullable))
}

fn check_types(settings: &Settings<'_>, schema: &Schema, format: &Format) {
    for (column, reason) in unreadable_columns(schema) {
        settings.problem(&format!("schema.{column}"), reason);
    }
    if let Format::Csv { .. } = format {
        for field in schema.fields().iter().filter(|field| field.data_type().is_nested()) {
            let reason = format!("column '{}': ARRAY and ROW cannot be read from CSV", field.name());
            settings.problem(&format!("schema.{}", field.name()), reason);
        }
    }
}

fn check_pace(settings: &Settings<'_>, schema: &Schema, pace: &Pace) {
    let Some(pace) = &pace.event_time else { return };
    match schema.field_with_name(&pace.column).map(Field::data_type) {
        Ok(DataType::Int64 | DataType::Timestamp(TimeUnit::Microsecond, _)) => {}
        Ok(other) => {
            let name = data_type::name(other);
            settings.problem(
                "pace.event_time",
                format!("expected a TIMESTAMP or BIGINT (milliseconds) column, found {name}"),
            );
        }
        Err(_) if pace.column.is_empty() => {}
        Err(_) => {
            let names = schema.fields().iter().map(|field| field.name().as_str());
            let near = weir_core::settings::nearest(&pace.column, names);
            settings.problem_near("pace.event_time", format!("there is no column '{}'", pace.column), near);
        }
    }
}
