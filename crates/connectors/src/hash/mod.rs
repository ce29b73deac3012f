//! The sink `hash`: row counts and an order-independent hash of the result, to compare runs and engines.
//!
//! The hash of a row is `mix(FNV-1a-64(text))`, where the text is its fields joined by `|`: timestamps as epoch
//! milliseconds, decimals with all digits of their scale, booleans and nulls as `true`, `false`, `null`, floats as the
//! shortest text that reads back the same (other engines may write floats otherwise: compare those only with Weir).
//! Hashes of rows are added modulo 2^64; rows taken back (`-U`, `-D`) are subtracted. No operator takes back what it
//! replaces yet, so a changing input is refused: the hash would count every version of a row.
//!
//! It reports `hash_inserts`, `hash_retracts` and `hash_value`, which count each row once whatever fails: they are part of
//! every checkpoint.

use std::collections::BTreeMap;

use arrow_schema::Schema;
use async_trait::async_trait;
use weir_core::batch::{CHANGE_COLUMN, is_changing};
use weir_core::{Batch, ChangeKind, Settings, Value};
use weir_operator_api::connector::SinkProperties;
use weir_operator_api::sink::{SinkCommitter, SinkReport};
use weir_operator_api::{BadRecord, Cut, PreparedOutput, Result, SinkContext, SinkFactory, SinkWriter};

use crate::format::text::{TimeStyle, can_write, text_columns};
use crate::nothing::NothingToCommit;
use crate::totals;

/// Makes hash sinks.
#[derive(Clone, Copy, Debug, Default)]
pub struct HashSink;

#[async_trait]
impl SinkFactory for HashSink {
    fn kind(&self) -> &'static str {
        "hash"
    }

    fn describe(&self, settings: &Settings<'_>, input: &Schema) -> Option<SinkProperties> {
        settings.text("label");
        if is_changing(input) {
            settings.problem(
                "",
                "the input sends new versions of rows (+U) without taking back the old ones, and a hash would count both: \
                 use file_sink with upsert_key, which keeps the last version",
            );
        }
        for field in input.fields().iter().filter(|field| !can_write(field.data_type())) {
            settings.problem("", format!("column '{}' of type {} has no text", field.name(), field.data_type()));
        }
        Some(SinkProperties { takes_changes: true, ..SinkProperties::default() })
    }

    async fn writer(&self, context: SinkContext) -> Result<Box<dyn SinkWriter>> {
        let totals = totals::restored(&context)?;
        let total = |name: &str| totals.get(name).copied().unwrap_or(0);
        let (inserts, retracts, value) = (total(INSERTS), total(RETRACTS), total(VALUE));
        Ok(Box::new(Writer { inserts, retracts, value, text: Vec::new() }))
    }

    async fn committer(&self, _settings: &BTreeMap<String, Value>) -> Result<Box<dyn SinkCommitter>> {
        Ok(Box::new(NothingToCommit))
    }
}

const INSERTS: &str = "hash_inserts";
const RETRACTS: &str = "hash_retracts";
const VALUE: &str = "hash_value";

/// 64-bit FNV-1a. **Source**: Fowler, Noll, Vo.
fn fnv_1a(bytes: &[u8]) -> u64 {
    bytes.iter().fold(0xcbf2_9ce4_8422_2325, |hash, byte| (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3))
}

/// Spreads a hash over all bits. **Source**: the finaliser of splitmix64.
fn mix(hash: u64) -> u64 {
    let hash = (hash ^ (hash >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    let hash = (hash ^ (hash >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    hash ^ (hash >> 31)
}

#[derive(Debug, Default)]
struct Writer {
    inserts: u64,
    retracts: u64,
    value: u64,
    text: Vec<u8>,
}

impl Writer {
    fn add(&mut self, batch: &Batch) -> Result<()> {
        let columns = text_columns(&batch.records, CHANGE_COLUMN)?;
        let changes = batch.changes();
        for row in 0..batch.num_rows() {
            self.text.clear();
            for (index, column) in columns.iter().enumerate() {
                if index > 0 {
                    self.text.push(b'|');
                }
                column.write(row, TimeStyle::EpochMillis, &mut self.text);
            }
            let hash = mix(fnv_1a(&self.text));
            let kind = changes.and_then(|kinds| ChangeKind::from_i8(kinds.value(row))).unwrap_or(ChangeKind::Insert);
            if kind.is_addition() {
                self.inserts += 1;
                self.value = self.value.wrapping_add(hash);
            } else {
                self.retracts += 1;
                self.value = self.value.wrapping_sub(hash);
            }
        }
        Ok(())
    }
}

#[async_trait]
impl SinkWriter for Writer {
    async fn write(&mut self, batch: Batch) -> Result<Vec<BadRecord>> {
        self.add(&batch)?;
        Ok(Vec::new())
    }

    async fn prepare(&mut self, _cut: Cut) -> Result<PreparedOutput> {
        Ok(PreparedOutput { values: vec![totals::to_value(&self.report())], ..PreparedOutput::default() })
    }

    fn report(&self) -> SinkReport {
        SinkReport::from([
            (INSERTS.to_owned(), self.inserts),
            (RETRACTS.to_owned(), self.retracts),
            (VALUE.to_owned(), self.value),
        ])
    }

    async fn abort(&mut self) {}
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use arrow_array::{ArrayRef, BooleanArray, Decimal128Array, Int8Array, Int64Array, RecordBatch, StringArray};
    use arrow_schema::{DataType, Field};
    use weir_core::batch::{EventTimeArray, change_field, event_time_type};

    use super::*;

    fn rows(kinds: Vec<i8>, numbers: Vec<i64>) -> Batch {
        let schema = Schema::new(vec![Field::new("n", DataType::Int64, false), change_field()]);
        let columns: Vec<ArrayRef> = vec![Arc::new(Int64Array::from(numbers)), Arc::new(Int8Array::from(kinds))];
        Batch::new(RecordBatch::try_new(Arc::new(schema), columns).expect("fits"), 0)
    }

    #[test]
    fn fields_are_hashed_as_their_text() {
        let schema = Schema::new(vec![
            Field::new("t", event_time_type(), true),
            Field::new("d", DataType::Decimal128(23, 3), true),
            Field::new("b", DataType::Boolean, true),
            Field::new("s", DataType::Utf8, true),
        ]);
        let decimal = Decimal128Array::from(vec![1500]).with_precision_and_scale(23, 3).expect("fits");
        let columns: Vec<ArrayRef> = vec![
            Arc::new(EventTimeArray::from(vec![1_700_000_000_123_000]).with_timezone("UTC")),
            Arc::new(decimal),
            Arc::new(BooleanArray::from(vec![true])),
            Arc::new(StringArray::from(vec![None::<&str>])),
        ];
        let batch = Batch::new(RecordBatch::try_new(Arc::new(schema), columns).expect("fits"), 0);
        let mut writer = Writer::default();
        writer.add(&batch).expect("hashes");
        assert_eq!(writer.text, b"1700000000123|1.500|true|null");
        assert_eq!(writer.value, mix(fnv_1a(b"1700000000123|1.500|true|null")));
    }

    #[test]
    fn hash_functions_keep_their_vectors() {
        assert_eq!(fnv_1a(b""), 0xcbf2_9ce4_8422_2325);
        assert_eq!(fnv_1a(b"a"), 0xaf63_dc4c_8601_ec8c);
        assert_eq!(fnv_1a(b"foobar"), 0x8594_4171_f739_67e8);
    }

    #[test]
    fn order_does_not_count_and_retracted_rows_vanish() {
        let hash = |batches: &[Batch]| {
            let mut writer = Writer::default();
            batches.iter().for_each(|batch| writer.add(batch).expect("hashes"));
            (writer.inserts, writer.retracts, writer.value)
        };
        let (_, _, plain) = hash(&[rows(vec![0, 0], vec![1, 2])]);
        assert_eq!(hash(&[rows(vec![0], vec![2]), rows(vec![0], vec![1])]), (2, 0, plain));
        assert_eq!(hash(&[rows(vec![0, 0, 1, 2, 0, 3], vec![1, 9, 9, 2, 7, 7])]), (4, 2, plain));
    }
}
