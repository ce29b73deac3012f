//! Packed rows come back as they were, whatever is in them, and the format stays what it is.

use arrow_array::types::{Int16Type, Int64Type, TimestampMicrosecondType, UInt32Type};
use arrow_array::{Decimal128Array, Int16Array, Int64Array, StringArray, TimestampMicrosecondArray, UInt64Array};
use arrow_schema::SchemaRef;
use proptest::prelude::*;

use super::*;

fn batch(columns: Vec<(&str, ArrayRef)>) -> RecordBatch {
    let fields: Vec<_> = columns
        .iter()
        .map(|(name, column)| Field::new(*name, column.data_type().clone(), column.null_count() > 0))
        .collect();
    let schema = Schema::new_with_metadata(fields, [("of".to_owned(), "test".to_owned())].into());
    RecordBatch::try_new(Arc::new(schema), columns.into_iter().map(|(_, column)| column).collect()).expect("one length")
}

fn written(rows: &RecordBatch) -> Vec<u8> {
    let mut bytes = b"before".to_vec();
    write(rows, &mut bytes).expect("it can be written");
    assert_eq!(&bytes[..6], b"before", "it is appended");
    bytes.split_off(6)
}

fn back(bytes: &[u8]) -> RecordBatch {
    read(bytes).expect("it can be read").expect("there are rows")
}

/// The types of the columns as they lie on disk.
fn packed_types(bytes: &[u8]) -> Vec<DataType> {
    let mut rest = bytes;
    read_stream(&mut rest).expect("a stream");
    let schema: SchemaRef = StreamReader::try_new(rest, None).expect("a second stream").schema();
    schema.fields().iter().map(|field| field.data_type().clone()).collect()
}

fn rows_of_a_window(rows: i64) -> RecordBatch {
    let times = TimestampMicrosecondArray::from(vec![1_700_000_000_000_000; rows as usize]).with_timezone("UTC");
    batch(vec![
        ("key_group", Arc::new(PrimitiveArray::<UInt32Type>::from_iter_values((0..rows).map(|n| (n % 128) as u32)))),
        ("key", Arc::new(PrimitiveArray::<Int64Type>::from_iter_values((0..rows).map(|n| 7_000_000_000 + n * 31)))),
        ("start", Arc::new(times)),
        ("count", Arc::new(PrimitiveArray::<Int64Type>::from_iter_values((0..rows).map(|n| n % 300 - 5)))),
        ("text", Arc::new(StringArray::from_iter_values((0..rows).map(|n| format!("{n}"))))),
    ])
}

#[test]
fn columns_take_the_bytes_their_values_need() {
    let rows = rows_of_a_window(10_000);
    let bytes = written(&rows);
    let expected = [DataType::UInt8, DataType::UInt32, DataType::Null, DataType::UInt16, DataType::Utf8];
    assert_eq!(packed_types(&bytes), expected);
    assert_eq!(back(&bytes), rows);
    let numbers = rows.project(&[0, 1, 2, 3]).expect("they are there");
    assert!(written(&numbers).len() < 10_000 * 7 + 4096, "{}", written(&numbers).len());
}

#[test]
fn few_rows_and_rows_that_cannot_be_packed_are_one_stream() {
    let rows = rows_of_a_window(PACKED_ROWS_MIN as i64 - 1);
    let mut stream = StreamWriter::try_new(Vec::new(), rows.schema_ref()).expect("a stream");
    stream.write(&rows).expect("it can be written");
    assert_eq!(written(&rows), stream.into_inner().expect("a buffer"), "as in earlier versions");
    assert_eq!(back(&written(&rows)), rows);
    let spread: ArrayRef = Arc::new(Int64Array::from_iter_values((0..2000).map(|n| n << 40)));
    let nulls: ArrayRef = Arc::new((0..2000).map(|n| (n > 0).then_some(1)).collect::<Int64Array>());
    let rows = batch(vec![("spread", spread), ("nulls", nulls)]);
    assert_eq!(back(&written(&rows)), rows);
    let mut rest = &written(&rows)[..];
    assert_eq!(read_stream(&mut rest).expect("a stream"), Some(rows));
    assert!(rest.is_empty());
}

#[test]
fn slices_and_the_ends_of_types_come_back() {
    let wide: ArrayRef =
        Arc::new(Int64Array::from_iter_values((0..4000).map(|n| if n == 7 { i64::MIN } else { i64::MAX })));
    let short: ArrayRef = Arc::new(Int16Array::from_iter_values((0..4000).map(|n| i16::MIN + (n % 256) as i16)));
    let ends: ArrayRef = Arc::new(UInt64Array::from_iter_values((0..4000).map(|n| u64::MAX - n % 2)));
    let decimals = Decimal128Array::from_iter_values((0..4000).map(|n| i128::from(i64::MAX) * 4 + n));
    let decimals: ArrayRef = Arc::new(decimals.with_precision_and_scale(38, 2).expect("it fits"));
    let rows = batch(vec![("wide", wide), ("short", short), ("ends", ends), ("decimals", decimals)]);
    let slice = rows.slice(1500, 2500);
    let expected = [DataType::Null, DataType::UInt8, DataType::UInt8, DataType::UInt16];
    assert_eq!(packed_types(&written(&slice)), expected, "only what the slice holds counts");
    assert_eq!(back(&written(&slice)), slice);
    assert_eq!(back(&written(&rows)), rows);
    assert_eq!(packed_types(&written(&rows))[0], DataType::Int64);
}

/// The disk format. When this fails, old state can no longer be read: make a new version instead.
#[test]
fn golden_bytes() {
    let rows = batch(vec![("n", Arc::new(Int64Array::from_iter_values((0..1024).map(|n| 5 - n % 3))) as ArrayRef)]);
    let bytes = written(&rows);
    assert_eq!((bytes.len(), format!("{:032x}", xxhash_rust::xxh3::xxh3_128(&bytes)).as_str()), GOLDEN);
    assert_eq!(back(&bytes), rows);
}

/// Length and xxh3-128 of the golden rows.
const GOLDEN: (usize, &str) = (1808, "829984aa186167b21d8bb1727d8db8f9");

/// Carries b7 of the failure list: what is cut, or is not such a payload, is an error and no panic. Flipped bits are found
/// before, by the checksum of the section.
#[test]
fn b7_payloads_that_are_cut_or_strange_are_errors() {
    let rows = rows_of_a_window(1100).project(&[0, 1, 2, 3]).expect("they are there");
    let bytes = written(&rows);
    let whole = |cut: &[u8]| read(cut).is_ok_and(|found| found.as_ref() == Some(&rows));
    // The last eight bytes only say that nothing follows.
    assert!((0..bytes.len() - 8).all(|end| !whole(&bytes[..end])));
    let frame = batch(vec![("9", Arc::new(Int64Array::from(vec![1])) as ArrayRef)]);
    let mut other = Vec::new();
    write_stream(&frame, &mut other).expect("it can be written");
    write_stream(&rows, &mut other).expect("it can be written");
    assert!(read(&other).expect_err("there is no tenth column").to_string().contains("packed rows"));
}

proptest! {
    #[test]
    fn rows_come_back(
        base in any::<i64>(), bits in 0u32..64, seed in any::<u64>(), nulls in any::<bool>(), rows in 1020usize..1200,
    ) {
        let mut state = seed;
        let mut next = || {
            state = weir_core::key_hash::mix(state.wrapping_add(0x9e37_79b9_7f4a_7c15));
            state
        };
        let range = u64::MAX >> (64 - bits.max(1)) >> u32::from(bits == 0);
        let numbers: Vec<i64> = (0..rows).map(|_| base.wrapping_add((next() & range) as i64)).collect();
        let with_nulls: Int64Array = numbers.iter().map(|n| (!nulls || n % 3 != 0).then_some(*n)).collect();
        let short = PrimitiveArray::<Int16Type>::from_iter_values(numbers.iter().map(|n| *n as i16));
        let times = PrimitiveArray::<TimestampMicrosecondType>::from_iter_values(numbers.iter().copied());
        let rows = batch(vec![
            ("numbers", Arc::new(Int64Array::from(numbers)) as ArrayRef),
            ("nulls", Arc::new(with_nulls)),
            ("short", Arc::new(short)),
            ("times", Arc::new(times)),
        ]);
        prop_assert_eq!(back(&written(&rows)), rows);
    }
}
