//! Bad records made of rows: the row itself as JSON text is the original. Used by the operators that evaluate
//! expressions or check times, and by tasks that set a row aside; it must not know which.

use arrow_array::builder::BooleanBufferBuilder;
use arrow_array::{BooleanArray, RecordBatch, UInt32Array};
use arrow_json::LineDelimitedWriter;
use arrow_json::writer::{LineDelimited, WriterBuilder};
use arrow_schema::ArrowError;
use arrow_select::filter::filter_record_batch;
use arrow_select::take::take_record_batch;
use weir_core::Batch;
use weir_expr::Expression;
use weir_operator_api::{BadRecord, Output, Result};

/// An expression failed on this record.
pub(crate) const BAD_EXPRESSION: &str = "bad-record-expression";

/// Makes bad records of `(row, what is wrong)`, in the order given.
pub(crate) fn bad_rows(code: &'static str, records: &RecordBatch, bad: Vec<(u32, String)>) -> Result<Vec<BadRecord>> {
    let indices = UInt32Array::from_iter_values(bad.iter().map(|(row, _)| *row));
    let taken = take_record_batch(records, &indices)?;
    // A row that has no JSON form is still reported, only without its original.
    let originals = json_lines(&taken).unwrap_or_default();
    let mut originals = originals.split(|byte| *byte == b'\n');
    let bad_record = |(_, message)| {
        let original = originals.next().filter(|line| !line.is_empty()).map(BadRecord::original_text);
        BadRecord { code, message, source: None, position: None, original }
    };
    Ok(bad.into_iter().map(bad_record).collect())
}

/// Each row as JSON text; `None` when the rows have no such form.
pub fn row_texts(records: &RecordBatch) -> Option<Vec<Vec<u8>>> {
    let lines = json_lines(records).ok()?;
    let texts: Vec<Vec<u8>> =
        lines.split(|byte| *byte == b'\n').filter(|line| !line.is_empty()).map(<[u8]>::to_vec).collect();
    (texts.len() == records.num_rows()).then_some(texts)
}

fn json_lines(records: &RecordBatch) -> Result<Vec<u8>, ArrowError> {
    let mut writer: LineDelimitedWriter<Vec<u8>> =
        WriterBuilder::new().with_explicit_nulls(true).build::<_, LineDelimited>(Vec::new());
    writer.write(records)?;
    writer.finish()?;
    Ok(writer.into_inner())
}

/// Keeps the rows on which all expressions succeed and reports the others; `None` when no row is left. Called only
/// after an expression failed on the batch.
pub(crate) fn isolate<'a>(
    expressions: impl Iterator<Item = &'a Expression>,
    batch: &Batch,
    out: &mut dyn Output,
) -> Result<Option<Batch>> {
    let mut is_good = BooleanBufferBuilder::new(batch.num_rows());
    is_good.append_n(batch.num_rows(), true);
    let mut bad: Vec<(u32, String)> = Vec::new();
    for expression in expressions {
        for (row, message) in expression.evaluate_rows(&batch.records).bad {
            // A row is reported once, with its first failure.
            if is_good.get_bit(row as usize) {
                is_good.set_bit(row as usize, false);
                bad.push((row, message));
            }
        }
    }
    bad.sort_by_key(|(row, _)| *row);
    out.bad(bad_rows(BAD_EXPRESSION, &batch.records, bad)?);
    let good = filter_record_batch(&batch.records, &BooleanArray::new(is_good.finish(), None))?;
    Ok((good.num_rows() > 0).then(|| batch.with_records(good)))
}
