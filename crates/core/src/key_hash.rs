//! The hash of key columns. It decides which key group, and so which subtask and which part of the state, a row
//! belongs to: **a disk format**. It is held by test vectors and never changed silently.
//!
//! Integers of every width hash by their value as `i64`, so widening a key column keeps its groups; text and binary
//! hash by their bytes with XXH3-64 (seed 0); a null hashes to a constant; several columns are folded in order.

use arrow_array::cast::AsArray;
use arrow_array::types::*;
use arrow_array::{Array, ArrayRef};
use arrow_schema::{DataType, TimeUnit};
use xxhash_rust::xxh3::xxh3_64;

/// A key column of a type that has no stable hash.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("column of type {0} cannot be a key; use an integer, text, boolean, date, time, decimal or float column")]
pub struct NotAKey(pub DataType);

const NULL_HASH: u64 = 0x9AE1_6A3B_2F90_404F;

/// SplitMix64's finaliser: spreads every input bit over the whole word.
#[inline]
pub fn mix(mut z: u64) -> u64 {
    z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    z ^ (z >> 31)
}

/// Whether columns of this type may be keys.
pub fn is_key_type(data_type: &DataType) -> bool {
    use DataType::*;
    matches!(
        data_type,
        Boolean
            | Int8
            | Int16
            | Int32
            | Int64
            | UInt8
            | UInt16
            | UInt32
            | UInt64
            | Float32
            | Float64
            | Utf8
            | LargeUtf8
            | Utf8View
            | Binary
            | LargeBinary
            | Date32
            | Date64
            | Time32(_)
            | Time64(_)
            | Timestamp(_, _)
            | Decimal128(_, _)
    )
}

/// Hashes the key columns of a whole batch into `hashes` (cleared first), one word per row.
///
/// **Shapes**: all columns have the same length; no columns give nothing (a job without keys has one group).
/// **Errors**: [`NotAKey`] for nested and other unhashable types; refused at submission, so a running job never sees it.
pub fn hash_columns(columns: &[ArrayRef], hashes: &mut Vec<u64>) -> Result<(), NotAKey> {
    hashes.clear();
    let Some(first) = columns.first() else { return Ok(()) };
    hashes.resize(first.len(), 0);
    for (index, column) in columns.iter().enumerate() {
        hash_column(column.as_ref(), index == 0, hashes)?;
    }
    Ok(())
}

fn hash_column(column: &dyn Array, is_first: bool, hashes: &mut [u64]) -> Result<(), NotAKey> {
    macro_rules! numbers {
        ($type:ty) => {{
            let array = column.as_primitive::<$type>();
            fold(column, is_first, hashes, |row| mix(array.value(row) as i64 as u64))
        }};
    }
    macro_rules! bytes {
        ($array:expr) => {{
            let array = $array;
            fold(column, is_first, hashes, |row| xxh3_64(array.value(row).as_ref()))
        }};
    }
    use DataType::*;
    match column.data_type() {
        Int8 => numbers!(Int8Type),
        Int16 => numbers!(Int16Type),
        Int32 => numbers!(Int32Type),
        Int64 => numbers!(Int64Type),
        UInt8 => numbers!(UInt8Type),
        UInt16 => numbers!(UInt16Type),
        UInt32 => numbers!(UInt32Type),
        UInt64 => numbers!(UInt64Type),
        Date32 => numbers!(Date32Type),
        Date64 => numbers!(Date64Type),
        Time32(TimeUnit::Second) => numbers!(Time32SecondType),
        Time32(_) => numbers!(Time32MillisecondType),
        Time64(TimeUnit::Nanosecond) => numbers!(Time64NanosecondType),
        Time64(_) => numbers!(Time64MicrosecondType),
        Timestamp(TimeUnit::Second, _) => numbers!(TimestampSecondType),
        Timestamp(TimeUnit::Millisecond, _) => numbers!(TimestampMillisecondType),
        Timestamp(TimeUnit::Microsecond, _) => numbers!(TimestampMicrosecondType),
        Timestamp(TimeUnit::Nanosecond, _) => numbers!(TimestampNanosecondType),
        Decimal128(_, _) => {
            let array = column.as_primitive::<Decimal128Type>();
            fold(column, is_first, hashes, |row| {
                let value = array.value(row) as u128;
                mix(mix(value as u64) ^ (value >> 64) as u64)
            })
        }
        Float32 => {
            let array = column.as_primitive::<Float32Type>();
            fold(column, is_first, hashes, |row| mix(float_bits(f64::from(array.value(row)))))
        }
        Float64 => {
            let array = column.as_primitive::<Float64Type>();
            fold(column, is_first, hashes, |row| mix(float_bits(array.value(row))))
        }
        Boolean => {
            let array = column.as_boolean();
            fold(column, is_first, hashes, |row| mix(u64::from(array.value(row)) + 1))
        }
        Utf8 => bytes!(column.as_string::<i32>()),
        LargeUtf8 => bytes!(column.as_string::<i64>()),
        Utf8View => bytes!(column.as_string_view()),
        Binary => bytes!(column.as_binary::<i32>()),
        LargeBinary => bytes!(column.as_binary::<i64>()),
        other => return Err(NotAKey(other.clone())),
    }
    Ok(())
}

/// One bit pattern per number: `-0.0` is `0.0`, every NaN is the same NaN.
fn float_bits(value: f64) -> u64 {
    if value == 0.0 {
        0
    } else if value.is_nan() {
        f64::NAN.to_bits()
    } else {
        value.to_bits()
    }
}

#[inline]
fn fold(column: &dyn Array, is_first: bool, hashes: &mut [u64], hash: impl Fn(usize) -> u64) {
    let nulls = column.nulls().filter(|nulls| nulls.null_count() > 0);
    for (row, slot) in hashes.iter_mut().enumerate() {
        let word = match nulls {
            Some(nulls) if nulls.is_null(row) => NULL_HASH,
            _ => hash(row),
        };
        *slot = if is_first { word } else { mix(slot.rotate_left(23) ^ word) };
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use arrow_array::{Int32Array, Int64Array, StringArray};
    use std::sync::Arc;

    fn hash(columns: &[ArrayRef]) -> Vec<u64> {
        let mut hashes = Vec::new();
        hash_columns(columns, &mut hashes).expect("columns are keys");
        hashes
    }

    /// These numbers decide where state lies on disk. If they change, every savepoint is unreadable.
    #[test]
    fn test_vectors_hold() {
        let numbers: ArrayRef = Arc::new(Int64Array::from(vec![Some(0), Some(1), Some(-1), Some(1000), None]));
        let texts: ArrayRef =
            Arc::new(StringArray::from(vec![Some(""), Some("a"), Some("truck-17"), Some("Zürich"), None]));
        expect_test::expect_file!["../testdata/key_hash_vectors.txt"].assert_eq(&format!(
            "int64 {:016x?}\nutf8 {:016x?}\nint64,utf8 {:016x?}\n",
            hash(std::slice::from_ref(&numbers)),
            hash(std::slice::from_ref(&texts)),
            hash(&[numbers, texts])
        ));
    }

    #[test]
    fn widening_a_number_keeps_its_hash() {
        let narrow: ArrayRef = Arc::new(Int32Array::from(vec![7, -7]));
        let wide: ArrayRef = Arc::new(Int64Array::from(vec![7, -7]));
        assert_eq!(hash(&[narrow]), hash(&[wide]));
    }

    #[test]
    fn slices_hash_like_their_rows() {
        let whole: ArrayRef = Arc::new(StringArray::from(vec!["a", "b", "c"]));
        assert_eq!(hash(&[whole.slice(1, 2)]), hash(&[whole])[1..]);
    }
}
