//! The sink `print`: one line per row on standard output, in Flink's form, like `label> +I[a, 1, null]`.
//!
//! Setting `label` is the prefix; with several subtasks the number of the subtask, from 1, follows it (`label:2> `).
//! Rows are visible at once, not at the commit: a person is looking. So a restored job prints again what came after its
//! checkpoint (at least once).

use std::collections::BTreeMap;
use std::io::Write;

use arrow_array::RecordBatch;
use arrow_schema::Schema;
use async_trait::async_trait;
use weir_core::batch::CHANGE_COLUMN;
use weir_core::{Batch, ChangeKind, Settings, Value};
use weir_operator_api::connector::SinkProperties;
use weir_operator_api::sink::SinkCommitter;
use weir_operator_api::{BadRecord, Cut, OperatorError, PreparedOutput, Result, SinkContext, SinkFactory, SinkWriter};

use crate::format::text::{TimeStyle, can_write, text_columns};
use crate::nothing::NothingToCommit;

/// Makes print sinks.
#[derive(Clone, Copy, Debug, Default)]
pub struct PrintSink;

#[async_trait]
impl SinkFactory for PrintSink {
    fn kind(&self) -> &'static str {
        "print"
    }

    fn describe(&self, settings: &Settings<'_>, input: &Schema) -> Option<SinkProperties> {
        settings.text("label");
        for field in input.fields().iter().filter(|field| !can_write(field.data_type())) {
            settings.problem("", format!("column '{}' of type {} cannot be printed", field.name(), field.data_type()));
        }
        Some(SinkProperties { takes_changes: true, ..SinkProperties::default() })
    }

    async fn writer(&self, context: SinkContext) -> Result<Box<dyn SinkWriter>> {
        let settings = Settings::new(context.uid.as_str(), &context.settings);
        let prefix = prefix(settings.text("label").as_deref(), context.subtask.0, context.parallelism);
        Ok(Box::new(Writer { prefix }))
    }

    async fn committer(&self, _settings: &BTreeMap<String, Value>) -> Result<Box<dyn SinkCommitter>> {
        Ok(Box::new(NothingToCommit))
    }
}

fn prefix(label: Option<&str>, subtask: u32, parallelism: u32) -> String {
    match (label, parallelism > 1) {
        (Some(label), true) => format!("{label}:{}> ", subtask + 1),
        (Some(label), false) => format!("{label}> "),
        (None, true) => format!("{}> ", subtask + 1),
        (None, false) => String::new(),
    }
}

struct Writer {
    prefix: String,
}

/// Writes rows as lines.
fn lines(prefix: &str, batch: &Batch) -> Result<Vec<u8>> {
    let records: &RecordBatch = &batch.records;
    let columns = text_columns(records, CHANGE_COLUMN)?;
    let changes = batch.changes();
    let mut out = Vec::new();
    for row in 0..records.num_rows() {
        let kind = changes.and_then(|kinds| ChangeKind::from_i8(kinds.value(row))).unwrap_or(ChangeKind::Insert);
        out.extend_from_slice(prefix.as_bytes());
        out.extend_from_slice(kind.symbol().as_bytes());
        out.push(b'[');
        for (index, column) in columns.iter().enumerate() {
            if index > 0 {
                out.extend_from_slice(b", ");
            }
            column.write(row, TimeStyle::Rfc3339, &mut out);
        }
        out.extend_from_slice(b"]\n");
    }
    Ok(out)
}

#[async_trait]
impl SinkWriter for Writer {
    async fn write(&mut self, batch: Batch) -> Result<Vec<BadRecord>> {
        let text = lines(&self.prefix, &batch)?;
        // A terminal or pipe may be slow, and must then not hold a data thread.
        let written = tokio::task::spawn_blocking(move || {
            let mut stdout = std::io::stdout().lock();
            stdout.write_all(&text).and_then(|()| stdout.flush())
        });
        let written = written.await.map_err(|error| OperatorError::internal("printing stopped").because(error))?;
        written
            .map_err(|error| OperatorError::external("sink-io", "cannot write to standard output").because(error))?;
        Ok(Vec::new())
    }

    async fn prepare(&mut self, _cut: Cut) -> Result<PreparedOutput> {
        Ok(PreparedOutput::default())
    }

    async fn abort(&mut self) {}
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use arrow_array::{ArrayRef, Float64Array, Int8Array, Int64Array, StringArray};
    use arrow_schema::{DataType, Field};
    use weir_core::batch::{EventTimeArray, change_field, event_time_type};

    use super::*;

    #[test]
    fn rows_are_printed_as_flink_prints_them() {
        let schema = Arc::new(Schema::new(vec![
            change_field(),
            Field::new("s", DataType::Utf8, true),
            Field::new("n", DataType::Int64, true),
            Field::new("f", DataType::Float64, true),
            Field::new("t", event_time_type(), true),
        ]));
        let columns: Vec<ArrayRef> = vec![
            Arc::new(Int8Array::from(vec![0, 1, 2, 3])),
            Arc::new(StringArray::from(vec![Some("a"), None, Some("c, d"), Some("")])),
            Arc::new(Int64Array::from(vec![Some(1), Some(-2), None, Some(4)])),
            Arc::new(Float64Array::from(vec![1.0, 0.5, 1e300, -0.0])),
            Arc::new(EventTimeArray::from(vec![0, 1_000_001, 5, 86_400_000_000]).with_timezone("UTC")),
        ];
        let batch = Batch::new(RecordBatch::try_new(schema, columns).expect("fits"), 0);
        let text = String::from_utf8(lines("trucks:1> ", &batch).expect("prints")).expect("text");
        expect_test::expect![[r#"
            trucks:1> +I[a, 1, 1.0, 1970-01-01T00:00:00Z]
            trucks:1> -U[null, -2, 0.5, 1970-01-01T00:00:01.000001Z]
            trucks:1> +U[c, d, null, 1e300, 1970-01-01T00:00:00.000005Z]
            trucks:1> -D[, 4, -0.0, 1970-01-02T00:00:00Z]
        "#]]
        .assert_eq(&text);
    }

    #[test]
    fn prefix_names_the_subtask_only_among_several() {
        let prefixes = [prefix(None, 0, 1), prefix(None, 1, 2), prefix(Some("x"), 0, 1), prefix(Some("x"), 0, 2)];
        assert_eq!(prefixes, ["", "2> ", "x> ", "x:1> "]);
    }
}
