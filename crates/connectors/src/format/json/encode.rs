//! Encodes rows as JSON lines. Called by sinks, batch by batch.
//!
//! Every column is written, nulls as `null`. Timestamps are RFC 3339 texts, decimals are numbers with all digits of
//! their scale, dates are texts, bytes are hexadecimal texts. `NaN` and infinities, which JSON cannot write as numbers,
//! are texts of these names. The decoder reads all of it back.

use arrow_array::RecordBatch;
use arrow_schema::Schema;
use weir_operator_api::Result;

use crate::format::Encode;
use crate::format::text::{TextColumn, TimeStyle, list_range};

/// Encodes rows of one schema as JSON lines.
pub struct Encoder {
    /// Per column: `{"name":` or `,"name":`.
    keys: Vec<Vec<u8>>,
}

impl Encoder {
    /// An encoder of rows of `schema`.
    pub fn new(schema: &Schema) -> Self {
        let keys = schema.fields().iter().enumerate().map(|(index, field)| {
            let mut key = vec![if index == 0 { b'{' } else { b',' }];
            write_quoted(field.name(), &mut key);
            key.push(b':');
            key
        });
        Encoder { keys: keys.collect() }
    }
}

impl Encode for Encoder {
    fn header(&mut self, _out: &mut Vec<u8>) {}

    fn rows(&mut self, rows: &RecordBatch, out: &mut Vec<u8>) -> Result<()> {
        let columns = rows.columns().iter().map(TextColumn::new).collect::<std::result::Result<Vec<_>, _>>()?;
        for row in 0..rows.num_rows() {
            if columns.is_empty() {
                out.push(b'{');
            }
            for (key, column) in self.keys.iter().zip(&columns) {
                out.extend_from_slice(key);
                write_value(column, row, out);
            }
            out.extend_from_slice(b"}\n");
        }
        Ok(())
    }
}

fn write_value(column: &TextColumn, row: usize, out: &mut Vec<u8>) {
    if column.is_null(row) {
        out.extend_from_slice(b"null");
        return;
    }
    let quoted = |out: &mut Vec<u8>| {
        out.push(b'"');
        column.write(row, TimeStyle::Rfc3339, out);
        out.push(b'"');
    };
    match column {
        TextColumn::Text(array) => write_quoted(array.value(row), out),
        TextColumn::Bytes(_) | TextColumn::Date(_) | TextColumn::Timestamp(_) => quoted(out),
        TextColumn::Float32(array) if !array.value(row).is_finite() => quoted(out),
        TextColumn::Float64(array) if !array.value(row).is_finite() => quoted(out),
        TextColumn::List(array, items) => {
            out.push(b'[');
            for (index, item) in list_range(array, row).enumerate() {
                if index > 0 {
                    out.push(b',');
                }
                write_value(items, item, out);
            }
            out.push(b']');
        }
        TextColumn::Row(_, columns) => {
            out.push(b'{');
            for (index, (name, column)) in columns.iter().enumerate() {
                if index > 0 {
                    out.push(b',');
                }
                write_quoted(name, out);
                out.push(b':');
                write_value(column, row, out);
            }
            out.push(b'}');
        }
        _ => column.write(row, TimeStyle::Rfc3339, out),
    }
}

/// Appends a JSON string. Only quotes, backslashes and control characters need escapes.
fn write_quoted(text: &str, out: &mut Vec<u8>) {
    out.push(b'"');
    let bytes = text.as_bytes();
    let mut written = 0;
    for (at, byte) in bytes.iter().enumerate().filter(|(_, byte)| matches!(byte, b'"' | b'\\' | 0..=0x1f)) {
        out.extend_from_slice(&bytes[written..at]);
        written = at + 1;
        match byte {
            b'"' | b'\\' => out.extend_from_slice(&[b'\\', *byte]),
            b'\n' => out.extend_from_slice(b"\\n"),
            b'\r' => out.extend_from_slice(b"\\r"),
            b'\t' => out.extend_from_slice(b"\\t"),
            other => out.extend_from_slice(format!("\\u{other:04x}").as_bytes()),
        }
    }
    out.extend_from_slice(&bytes[written..]);
    out.push(b'"');
}
