//! Whole rows as bytes and back, for operators that keep single rows of many batches. The bytes compare like the rows
//! (arrow's row format), which gives ties a fixed order. **Source**: arrow-row.

use arrow_array::{ArrayRef, RecordBatch, UInt32Array};
use arrow_row::{RowConverter, RowParser, Rows, SortField};
use arrow_schema::Schema;
use arrow_select::take::take_record_batch;
use weir_operator_api::Result;

/// Converts rows of one schema.
#[derive(Debug)]
pub(crate) struct RowCodec {
    converter: RowConverter,
    parser: RowParser,
}

impl RowCodec {
    /// A codec for rows of this schema.
    pub(crate) fn new(schema: &Schema) -> Result<Self> {
        let fields = schema.fields().iter().map(|field| SortField::new(field.data_type().clone())).collect();
        let converter = RowConverter::new(fields)?;
        let parser = converter.parser();
        Ok(RowCodec { converter, parser })
    }

    /// Encodes some rows of a batch, in the order of `rows`.
    pub(crate) fn encode(&self, records: &RecordBatch, rows: &[u32]) -> Result<Rows> {
        let taken = take_record_batch(records, &UInt32Array::from(rows.to_vec()))?;
        Ok(self.converter.convert_columns(taken.columns())?)
    }

    /// Encodes all rows of a batch.
    pub(crate) fn encode_all(&self, records: &RecordBatch) -> Result<Rows> {
        Ok(self.converter.convert_columns(records.columns())?)
    }

    /// Encodes some columns.
    pub(crate) fn encode_columns(&self, columns: &[ArrayRef]) -> Result<Rows> {
        Ok(self.converter.convert_columns(columns)?)
    }

    /// Decodes rows into columns.
    pub(crate) fn decode<'a>(&self, rows: impl IntoIterator<Item = &'a [u8]>) -> Result<Vec<ArrayRef>> {
        Ok(self.converter.convert_rows(rows.into_iter().map(|row| self.parser.parse(row)))?)
    }
}
