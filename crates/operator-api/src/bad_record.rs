//! Bad records: rows that cannot be processed and leave by the dead-letter output, never silently.

use std::sync::Arc;

use arrow_array::{ArrayRef, Int64Array, RecordBatch, StringArray};
use weir_core::batch::dead_letter_schema;

/// One record that an operator or source could not use.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BadRecord {
    /// Page in `docs/errors`, like `bad-record-json`.
    pub code: &'static str,
    /// What is wrong with it, for a person.
    pub message: String,
    /// File or generator it came from, where known.
    pub source: Option<String>,
    /// Line from 1, or offset, where known.
    pub position: Option<i64>,
    /// The text as it came; bytes that are not UTF-8 are replaced, long texts cut at [`ORIGINAL_BYTES_MAX`].
    pub original: Option<String>,
}

/// Most bytes of the original text that a dead letter keeps.
pub const ORIGINAL_BYTES_MAX: usize = 64 * 1024;

impl BadRecord {
    /// Keeps as much of the original as a dead letter holds.
    pub fn original_text(bytes: &[u8]) -> String {
        let text = String::from_utf8_lossy(&bytes[..bytes.len().min(ORIGINAL_BYTES_MAX)]).into_owned();
        if bytes.len() > ORIGINAL_BYTES_MAX { format!("{text} ... ({} bytes in all)", bytes.len()) } else { text }
    }

    /// Puts bad records of `operator` into the columns of a dead-letter batch.
    pub fn to_records(operator: &str, bad: &[BadRecord]) -> RecordBatch {
        let text = |values: Vec<Option<&str>>| -> ArrayRef { Arc::new(StringArray::from(values)) };
        let positions: Int64Array = bad.iter().map(|record| record.position).collect();
        let columns = vec![
            text(bad.iter().map(|record| Some(record.code)).collect()),
            text(bad.iter().map(|_| Some(operator)).collect()),
            text(bad.iter().map(|record| Some(record.message.as_str())).collect()),
            text(bad.iter().map(|record| record.source.as_deref()).collect()),
            Arc::new(positions),
            text(bad.iter().map(|record| record.original.as_deref()).collect()),
        ];
        RecordBatch::try_new(dead_letter_schema(), columns).expect("columns are built to the dead-letter schema")
    }
}
