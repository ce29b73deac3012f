//! Record formats: bytes to rows and rows to bytes. Systems (`files`) use them; formats do not know each other, nor
//! where the bytes come from. What they share stands beside them: column builders and the text of single values.

pub mod column;
pub mod csv;
pub mod json;
pub mod text;

use arrow_array::RecordBatch;
use arrow_schema::{DataType, Schema};
use weir_operator_api::Result;

/// Where a decoder stands: bytes into the block it was given, and lines since the start of the split.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Place {
    /// Byte in the block.
    pub at: usize,
    /// Lines before `at`.
    pub lines: u64,
}

/// A text that is no record.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BadText {
    /// Page in `docs/errors`.
    pub code: &'static str,
    /// What is wrong, for a person.
    pub message: String,
    /// Where it starts.
    pub place: Place,
    /// Its length in the block.
    pub len: usize,
}

/// Decodes records from blocks of text into rows of one schema.
pub trait Decode: Send {
    /// Reads whole records of `block` from `place` on, until `rows_max` rows are buffered, or the block ends, or the
    /// buffered rows are so large that they should be taken, or [`BAD_TEXTS_MAX`] texts are bad. A block ends at the end
    /// of a record or of the input.
    fn decode(&mut self, block: &[u8], place: &mut Place, rows_max: usize, bad: &mut Vec<BadText>) -> Result<()>;

    /// Rows buffered.
    fn rows(&self) -> usize;

    /// Whether the buffered rows are so large that they should be taken although they are few.
    fn is_large(&self) -> bool;

    /// Takes the buffered rows.
    fn take(&mut self) -> Result<RecordBatch>;
}

/// Encodes rows as text, one record after the other.
pub trait Encode: Send {
    /// Appends what stands before the first row.
    fn header(&mut self, out: &mut Vec<u8>);

    /// Appends all rows; the batch has exactly the columns of the schema the encoder was made for.
    fn rows(&mut self, rows: &RecordBatch, out: &mut Vec<u8>) -> Result<()>;
}

/// Bytes of input after which buffered rows are taken: keeps batches of long records small (offsets are 32 bits).
pub const BATCH_BYTES_MAX: usize = 8 * 1024 * 1024;

/// Bad texts after which decoding pauses, so that a file full of them does not fill the memory.
pub const BAD_TEXTS_MAX: usize = 1_000;

/// Says that a record is too long.
pub fn too_long(len: u64, line_bytes_max: usize) -> String {
    format!("the line has {len} bytes, more than {line_bytes_max} (max_line_bytes)")
}

/// Says which columns a text format cannot read, as (column, reason).
pub fn unreadable_columns(schema: &Schema) -> Vec<(String, String)> {
    let bytes = schema.fields().iter().filter(|field| holds_bytes(field.data_type()));
    bytes
        .map(|field| {
            let reason = format!("column '{}': BYTES cannot be read from text: declare it as STRING", field.name());
            (field.name().clone(), reason)
        })
        .collect()
}

fn holds_bytes(data_type: &DataType) -> bool {
    match data_type {
        DataType::Binary | DataType::LargeBinary => true,
        DataType::List(item) => holds_bytes(item.data_type()),
        DataType::Struct(fields) => fields.iter().any(|field| holds_bytes(field.data_type())),
        _ => false,
    }
}
