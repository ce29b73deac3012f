//! A batch: records that move together. Every room that touches records uses it.
//!
//! The schema of a batch names its event-time column in the metadata; a stream that retracts carries one
//! hidden column with the kind of each change.

use std::sync::Arc;

use arrow_array::types::TimestampMicrosecondType;
use arrow_array::{Array, Int8Array, PrimitiveArray, RecordBatch};
use arrow_schema::{DataType, Field, Schema, SchemaRef, TimeUnit};

use crate::ids::SplitIndex;

/// Schema metadata key whose value is the name of the event-time column.
pub const EVENT_TIME_KEY: &str = "weir.event_time";

/// Name of the hidden column that carries a [`ChangeKind`] per row (`Int8`, not null).
pub const CHANGE_COLUMN: &str = "__weir_change";

/// The type of every event-time column: microseconds, UTC.
pub fn event_time_type() -> DataType {
    DataType::Timestamp(TimeUnit::Microsecond, Some("UTC".into()))
}

/// The array behind an event-time column.
pub type EventTimeArray = PrimitiveArray<TimestampMicrosecondType>;

/// What a row of a changing stream means; Flink's RowKind with its numbers.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(i8)]
pub enum ChangeKind {
    /// `+I`: a new row.
    Insert = 0,
    /// `-U`: takes back the row that an update replaces.
    UpdateBefore = 1,
    /// `+U`: the row after an update (alone: an upsert).
    UpdateAfter = 2,
    /// `-D`: takes back a row for good.
    Delete = 3,
}

impl ChangeKind {
    /// Reads the number stored in the hidden column.
    pub fn from_i8(number: i8) -> Option<Self> {
        [ChangeKind::Insert, ChangeKind::UpdateBefore, ChangeKind::UpdateAfter, ChangeKind::Delete]
            .into_iter()
            .find(|kind| *kind as i8 == number)
    }

    /// Whether the row is added to the result (and not taken back).
    pub fn is_addition(self) -> bool {
        matches!(self, ChangeKind::Insert | ChangeKind::UpdateAfter)
    }

    /// The short form that Flink prints.
    pub fn symbol(self) -> &'static str {
        match self {
            ChangeKind::Insert => "+I",
            ChangeKind::UpdateBefore => "-U",
            ChangeKind::UpdateAfter => "+U",
            ChangeKind::Delete => "-D",
        }
    }
}

/// Records that move together: the smallest unit of work on the data path.
///
/// **Shapes**: 1 to a few thousand rows; an empty batch is never sent.
#[derive(Clone, Debug)]
pub struct Batch {
    /// The rows.
    pub records: RecordBatch,
    /// The split all rows came from, known between a source and the end of its chain.
    pub split: Option<SplitIndex>,
    /// **Units**: wall time in microseconds since 1970 when the oldest row entered the job. Feeds latency metrics.
    pub origin_us: i64,
}

impl Batch {
    /// Wraps rows that entered the job at `origin_us`.
    pub fn new(records: RecordBatch, origin_us: i64) -> Self {
        Batch { records, split: None, origin_us }
    }

    /// Keeps split and origin, replaces the rows.
    pub fn with_records(&self, records: RecordBatch) -> Self {
        Batch { records, split: self.split, origin_us: self.origin_us }
    }

    /// Number of rows.
    pub fn num_rows(&self) -> usize {
        self.records.num_rows()
    }

    /// Bytes that these rows occupy; a slice counts only its own share, so the parts of a batch add up to it.
    pub fn size_bytes(&self) -> usize {
        self.records.columns().iter().map(|column| sliced_size_bytes(column.as_ref())).sum()
    }

    /// The event-time column, if the schema names one.
    pub fn event_times(&self) -> Option<&EventTimeArray> {
        let index = event_time_index(self.records.schema_ref())?;
        self.records.column(index).as_any().downcast_ref()
    }

    /// The kind of change per row; `None` when every row is an insert.
    pub fn changes(&self) -> Option<&Int8Array> {
        self.records.column_by_name(CHANGE_COLUMN)?.as_any().downcast_ref()
    }
}

fn sliced_size_bytes(array: &dyn Array) -> usize {
    array.to_data().get_slice_memory_size().unwrap_or_else(|_| array.get_array_memory_size())
}

/// The index of the event-time column, if the schema names one that exists.
pub fn event_time_index(schema: &Schema) -> Option<usize> {
    schema.index_of(schema.metadata().get(EVENT_TIME_KEY)?).ok()
}

/// Names `column` as the event-time column; `None` removes the name.
pub fn with_event_time(schema: &Schema, column: Option<&str>) -> SchemaRef {
    let mut metadata = schema.metadata().clone();
    match column {
        Some(name) => metadata.insert(EVENT_TIME_KEY.to_owned(), name.to_owned()),
        None => metadata.remove(EVENT_TIME_KEY),
    };
    Arc::new(Schema::new_with_metadata(schema.fields().clone(), metadata))
}

/// The hidden change column.
pub fn change_field() -> Field {
    Field::new(CHANGE_COLUMN, DataType::Int8, false)
}

/// Whether rows of this schema may update or take back earlier ones.
pub fn is_changing(schema: &Schema) -> bool {
    schema.index_of(CHANGE_COLUMN).is_ok()
}

/// Schema of every dead-letter output: one row per bad record.
///
/// **Shapes**: `code` is a page name in `docs/errors`; `source` a file or generator; `position` a line number from
/// 1 or an offset; `original` the text or bytes as they came.
pub fn dead_letter_schema() -> SchemaRef {
    Arc::new(Schema::new(vec![
        Field::new("code", DataType::Utf8, false),
        Field::new("operator", DataType::Utf8, false),
        Field::new("message", DataType::Utf8, false),
        Field::new("source", DataType::Utf8, true),
        Field::new("position", DataType::Int64, true),
        Field::new("original", DataType::Utf8, true),
    ]))
}

#[cfg(test)]
mod tests {
    use super::*;
    use arrow_array::{Int64Array, StringArray};

    #[test]
    fn event_time_column_is_found_by_metadata() {
        let plain = Schema::new(vec![Field::new("t", event_time_type(), false)]);
        assert_eq!(event_time_index(&plain), None);
        let named = with_event_time(&plain, Some("t"));
        assert_eq!(event_time_index(&named), Some(0));
        assert_eq!(event_time_index(&with_event_time(&named, None)), None);
    }

    #[test]
    fn slices_add_up_to_about_the_whole() {
        let schema = Arc::new(Schema::new(vec![
            Field::new("a", DataType::Int64, false),
            Field::new("b", DataType::Utf8, false),
        ]));
        let rows = RecordBatch::try_new(
            schema,
            vec![
                Arc::new(Int64Array::from_iter_values(0..1000)),
                Arc::new(StringArray::from_iter_values((0..1000).map(|i| format!("value {i}")))),
            ],
        )
        .expect("columns fit the schema");
        let whole = Batch::new(rows.clone(), 0).size_bytes();
        let parts: usize = (0..10).map(|i| Batch::new(rows.slice(i * 100, 100), 0).size_bytes()).sum();
        assert!(parts >= whole && parts < whole + 200, "{parts} against {whole}");
    }

    #[test]
    fn change_kinds_keep_flinks_numbers() {
        let symbols: Vec<_> = (0..5).map(|n| ChangeKind::from_i8(n).map(ChangeKind::symbol)).collect();
        assert_eq!(symbols, [Some("+I"), Some("-U"), Some("+U"), Some("-D"), None]);
    }
}
