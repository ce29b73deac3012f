//! Encodes rows as CSV. Called by sinks, batch by batch.
//!
//! Nulls are empty, empty texts are `""`, fields are quoted where they must be. Floats are the shortest text that reads
//! back the same, always with a fraction (`38000.0`); decimals keep all digits of their scale (`438.535000`); timestamps
//! are RFC 3339. Lines end with a single newline.

use arrow_array::RecordBatch;
use arrow_schema::Schema;
use weir_operator_api::Result;

use crate::format::Encode;
use crate::format::text::{TextColumn, TimeStyle};

/// Whether the first line names the columns.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Header {
    /// The first line names the columns.
    #[default]
    Names,
    /// The first line is the first row.
    None,
}

/// Encodes rows of one schema as CSV.
pub struct Encoder {
    header: Header,
    names: Vec<String>,
    scratch: Vec<u8>,
}

impl Encoder {
    /// An encoder of rows of `schema`.
    pub fn new(schema: &Schema, header: Header) -> Self {
        let names = schema.fields().iter().map(|field| field.name().clone()).collect();
        Encoder { header, names, scratch: Vec::new() }
    }
}

impl Encode for Encoder {
    fn header(&mut self, out: &mut Vec<u8>) {
        if self.header == Header::None {
            return;
        }
        for (index, name) in self.names.iter().enumerate() {
            if index > 0 {
                out.push(b',');
            }
            write_field(name.as_bytes(), out);
        }
        out.push(b'\n');
    }

    fn rows(&mut self, rows: &RecordBatch, out: &mut Vec<u8>) -> Result<()> {
        let columns = rows.columns().iter().map(TextColumn::new).collect::<std::result::Result<Vec<_>, _>>()?;
        let is_single = columns.len() == 1;
        for row in 0..rows.num_rows() {
            for (index, column) in columns.iter().enumerate() {
                if index > 0 {
                    out.push(b',');
                }
                if column.is_null(row) {
                    if is_single {
                        // An empty line would be no record at all; a reader takes it for one with an empty text.
                        out.extend_from_slice(b"\"\"");
                    }
                    continue;
                }
                match column {
                    TextColumn::Text(array) => write_field(array.value(row).as_bytes(), out),
                    TextColumn::List(..) | TextColumn::Row(..) => {
                        self.scratch.clear();
                        column.write(row, TimeStyle::Rfc3339, &mut self.scratch);
                        write_field(&self.scratch, out);
                    }
                    _ => column.write(row, TimeStyle::Rfc3339, out),
                }
            }
            out.push(b'\n');
        }
        Ok(())
    }
}

fn write_field(field: &[u8], out: &mut Vec<u8>) {
    let needs_quotes = field.is_empty() || field.iter().any(|byte| matches!(byte, b',' | b'"' | b'\n' | b'\r'));
    if !needs_quotes {
        out.extend_from_slice(field);
        return;
    }
    out.push(b'"');
    for byte in field {
        if *byte == b'"' {
            out.push(b'"');
        }
        out.push(*byte);
    }
    out.push(b'"');
}
