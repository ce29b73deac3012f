//! Rows of a section in as few bytes as their values need; `encode` writes and reads them. It knows nothing of state.
//!
//! A disk format. Few rows, or rows of which nothing can be packed, are one Arrow IPC stream with one batch. Others are two
//! streams, one behind the other:
//! ```text
//! frame   one row: for each column that is packed, a base that no value is below. Its field is named by the number of the
//!         column and has the column's type
//! rows    the rows: a packed column holds how far its values are above the base, as UInt8, UInt16, UInt32 or UInt64, or
//!         as Null (no bytes at all) when all are the same
//! ```
//! Whole numbers, times and decimals of 128 bits are packed, if no value is null and they become shorter.

use std::ops::{BitOr, BitXor};
use std::sync::Arc;

use arrow_array::types::{UInt8Type, UInt16Type, UInt32Type, UInt64Type};
use arrow_array::{
    Array, ArrayRef, ArrowPrimitiveType, NullArray, PrimitiveArray, RecordBatch, RecordBatchOptions, cast::AsArray,
    make_array,
};
use arrow_buffer::{ArrowNativeType, Buffer, ScalarBuffer};
use arrow_ipc::reader::StreamReader;
use arrow_ipc::writer::StreamWriter;
use arrow_schema::{ArrowError, DataType, Field, FieldRef, Schema};

/// Fewer rows are not worth a frame.
const PACKED_ROWS_MIN: usize = 1024;

/// Appends rows.
///
/// **Errors**: types that Arrow's streams do not know.
pub fn write(rows: &RecordBatch, to: &mut Vec<u8>) -> Result<(), ArrowError> {
    if rows.num_rows() < PACKED_ROWS_MIN {
        return write_stream(rows, to);
    }
    let (mut fields, mut columns) = (Vec::new(), Vec::new());
    let (mut frame_fields, mut frame) = (Vec::new(), Vec::new());
    for (index, (field, column)) in rows.schema_ref().fields().iter().zip(rows.columns()).enumerate() {
        let Some((least, packed)) = pack(column)? else {
            fields.push(FieldRef::clone(field));
            columns.push(ArrayRef::clone(column));
            continue;
        };
        frame_fields.push(Field::new(index.to_string(), field.data_type().clone(), field.is_nullable()));
        frame.push(least);
        let is_nullable = packed.data_type() == &DataType::Null || field.is_nullable();
        fields.push(Arc::new(
            field.as_ref().clone().with_data_type(packed.data_type().clone()).with_nullable(is_nullable),
        ));
        columns.push(packed);
    }
    if frame.is_empty() {
        return write_stream(rows, to);
    }
    write_stream(&RecordBatch::try_new(Arc::new(Schema::new(frame_fields)), frame)?, to)?;
    let schema = Schema::new_with_metadata(fields, rows.schema_ref().metadata().clone());
    let options = RecordBatchOptions::new().with_row_count(Some(rows.num_rows()));
    write_stream(&RecordBatch::try_new_with_options(Arc::new(schema), columns, &options)?, to)
}

/// The rows of a payload; `None` when it has none.
///
/// **Errors**: bytes that [`write`] does not write.
pub fn read(payload: &[u8]) -> Result<Option<RecordBatch>, ArrowError> {
    let mut rest = payload;
    let Some(first) = read_stream(&mut rest)? else { return Ok(None) };
    if rest.is_empty() {
        return Ok(Some(first));
    }
    let rows = read_stream(&mut rest)?.ok_or_else(|| wrong("a frame without rows"))?;
    if first.num_rows() != 1 || !rest.is_empty() {
        return Err(wrong("a frame of several rows, or more than rows behind it"));
    }
    let (mut fields, mut columns) = (rows.schema_ref().fields().to_vec(), rows.columns().to_vec());
    for (field, least) in first.schema_ref().fields().iter().zip(first.columns()) {
        let index = field.name().parse::<usize>().ok().filter(|index| *index < columns.len());
        let index = index.ok_or_else(|| wrong("a frame for a column that is not there"))?;
        columns[index] = unpack(least, &columns[index])?;
        let (data_type, is_nullable) = (field.data_type().clone(), field.is_nullable());
        fields[index] = Arc::new(fields[index].as_ref().clone().with_data_type(data_type).with_nullable(is_nullable));
    }
    let schema = Schema::new_with_metadata(fields, rows.schema_ref().metadata().clone());
    let options = RecordBatchOptions::new().with_row_count(Some(rows.num_rows()));
    RecordBatch::try_new_with_options(Arc::new(schema), columns, &options).map(Some)
}

fn write_stream(rows: &RecordBatch, to: &mut Vec<u8>) -> Result<(), ArrowError> {
    let mut stream = StreamWriter::try_new(to, rows.schema_ref())?;
    stream.write(rows)?;
    stream.finish()
}

/// The only batch of the stream that `bytes` begins with; they go on behind it.
fn read_stream(bytes: &mut &[u8]) -> Result<Option<RecordBatch>, ArrowError> {
    let mut stream = StreamReader::try_new(bytes, None)?;
    let rows = stream.next().transpose()?;
    match stream.next() {
        None => Ok(rows),
        Some(_) => Err(wrong("a stream of several batches")),
    }
}

fn wrong(what: &str) -> ArrowError {
    ArrowError::IpcError(format!("packed rows: {what}"))
}

/// How values of a type are counted from the least one.
trait Word: ArrowNativeType + Ord + BitOr<Output = Self> + BitXor<Output = Self> {
    /// So many low bits hold all that are set.
    fn low_bits(self) -> u32;
    /// Without the bits of a mask.
    fn without(self, mask: u64) -> Self;
    /// How far it is above `least`; `None` when 64 bits do not hold that.
    fn above(self, least: Self) -> Option<u64>;
    /// The low bits of [`Word::above`].
    fn offset(self, least: Self) -> u64;
    /// The value so far above.
    fn plus(self, offset: u64) -> Self;
}

macro_rules! words {
    ($($word:ty),*) => {$(
        impl Word for $word {
            fn low_bits(self) -> u32 {
                Self::BITS - self.leading_zeros()
            }

            #[allow(clippy::cast_possible_truncation, clippy::cast_possible_wrap, reason = "the mask is of low bits")]
            fn without(self, mask: u64) -> Self {
                self & !(mask as $word)
            }

            fn above(self, least: Self) -> Option<u64> {
                Some(self.offset(least))
            }

            #[inline]
            #[allow(clippy::cast_lossless, clippy::cast_sign_loss, reason = "what wraps in its own width is cut to it")]
            fn offset(self, least: Self) -> u64 {
                // The distance wraps in the width of the type, and is at least 0.
                (self.wrapping_sub(least) as u64) & (u64::MAX >> (64 - <$word>::BITS))
            }

            #[inline]
            #[allow(clippy::cast_possible_truncation, clippy::cast_possible_wrap, reason = "it wraps as it did")]
            fn plus(self, offset: u64) -> Self {
                self.wrapping_add(offset as $word)
            }
        }
    )*};
}

words!(i16, i32, i64, u16, u32, u64);

impl Word for i128 {
    fn low_bits(self) -> u32 {
        Self::BITS - self.leading_zeros()
    }

    fn without(self, mask: u64) -> Self {
        self & !i128::from(mask)
    }

    fn above(self, least: Self) -> Option<u64> {
        self.checked_sub(least).and_then(|distance| u64::try_from(distance).ok())
    }

    #[inline]
    fn offset(self, least: Self) -> u64 {
        self.wrapping_sub(least) as u64
    }

    #[inline]
    fn plus(self, offset: u64) -> Self {
        self.wrapping_add(i128::from(offset))
    }
}

/// Calls a function with the type that holds the values of a column; `None` for columns that are not packed.
macro_rules! with_word {
    ($data_type:expr, $function:ident($($argument:expr),*)) => {
        match $data_type {
            DataType::Int16 => Some($function::<i16>($($argument),*)),
            DataType::Int32 | DataType::Date32 | DataType::Time32(_) => Some($function::<i32>($($argument),*)),
            DataType::Int64
            | DataType::Date64
            | DataType::Time64(_)
            | DataType::Timestamp(_, _)
            | DataType::Duration(_) => Some($function::<i64>($($argument),*)),
            DataType::UInt16 => Some($function::<u16>($($argument),*)),
            DataType::UInt32 => Some($function::<u32>($($argument),*)),
            DataType::UInt64 => Some($function::<u64>($($argument),*)),
            DataType::Decimal128(_, _) => Some($function::<i128>($($argument),*)),
            _ => None,
        }
    };
}

/// The base of a column, and its values above that one; `None` when it stays as it is.
fn pack(column: &ArrayRef) -> Result<Option<(ArrayRef, ArrayRef)>, ArrowError> {
    if column.null_count() > 0 || column.is_empty() {
        return Ok(None);
    }
    with_word!(column.data_type(), pack_words(column)).unwrap_or(Ok(None))
}

fn pack_words<T: Word>(column: &ArrayRef) -> Result<Option<(ArrayRef, ArrayRef)>, ArrowError> {
    let data = column.to_data();
    let words = &data.buffer::<T>(0)[..data.len()];
    let Some((base, range)) = bounds(words) else { return Ok(None) };
    let bits = size_of::<T>() as u32 * 8;
    let packed: ArrayRef = match u64::BITS - range.leading_zeros() {
        0 => Arc::new(NullArray::new(words.len())),
        1..=8 if bits > 8 => narrow::<T, UInt8Type>(words, base, |offset| offset as u8),
        9..=16 if bits > 16 => narrow::<T, UInt16Type>(words, base, |offset| offset as u16),
        17..=32 if bits > 32 => narrow::<T, UInt32Type>(words, base, |offset| offset as u32),
        33..=64 if bits > 64 => narrow::<T, UInt64Type>(words, base, |offset| offset),
        _ => return Ok(None),
    };
    Ok(Some((of_words(column.as_ref(), vec![base])?, packed)))
}

/// A value below all others, and how far the others are above it at most.
fn bounds<T: Word>(words: &[T]) -> Option<(T, u64)> {
    // Which bits differ is found in one fast pass. Where half of them are the same in all values, counting from those is
    // about as good as from the least value.
    let bits = words.iter().fold(T::default(), |all, word| all | (*word ^ words[0])).low_bits();
    if bits <= size_of::<T>() as u32 * 4 {
        let mask = u64::MAX.checked_shr(u64::BITS - bits).unwrap_or(0);
        return Some((words[0].without(mask), mask));
    }
    let (mut least, mut greatest) = (words[0], words[0]);
    for word in words {
        (least, greatest) = (least.min(*word), greatest.max(*word));
    }
    greatest.above(least).map(|range| (least, range))
}

fn narrow<T: Word, N: ArrowPrimitiveType>(words: &[T], least: T, cut: impl Fn(u64) -> N::Native) -> ArrayRef {
    let values: Vec<N::Native> = words.iter().map(|word| cut(word.offset(least))).collect();
    Arc::new(PrimitiveArray::<N>::new(ScalarBuffer::from(values), None))
}

/// A column from its base and its values above that one.
fn unpack(least: &ArrayRef, packed: &ArrayRef) -> Result<ArrayRef, ArrowError> {
    if least.null_count() > 0 || packed.data_type() != &DataType::Null && packed.null_count() > 0 {
        return Err(wrong("a packed column with nulls"));
    }
    let unknown = || Err(wrong(&format!("a frame of {}", least.data_type())));
    with_word!(least.data_type(), unpack_words(least, packed)).unwrap_or_else(unknown)
}

fn unpack_words<T: Word>(least: &ArrayRef, packed: &ArrayRef) -> Result<ArrayRef, ArrowError> {
    let data = least.to_data();
    let base = *data.buffer::<T>(0).first().ok_or_else(|| wrong("a frame without a value"))?;
    let words: Vec<T> = match packed.data_type() {
        DataType::Null => vec![base; packed.len()],
        DataType::UInt8 => widen::<T, UInt8Type>(base, packed),
        DataType::UInt16 => widen::<T, UInt16Type>(base, packed),
        DataType::UInt32 => widen::<T, UInt32Type>(base, packed),
        DataType::UInt64 => widen::<T, UInt64Type>(base, packed),
        other => return Err(wrong(&format!("a column of {other}"))),
    };
    of_words(least.as_ref(), words)
}

fn widen<T: Word, N: ArrowPrimitiveType<Native: Into<u64>>>(base: T, packed: &ArrayRef) -> Vec<T> {
    packed.as_primitive::<N>().values().iter().map(|offset| base.plus((*offset).into())).collect()
}

/// A column of the type of another one.
fn of_words<T: Word>(like: &dyn Array, words: Vec<T>) -> Result<ArrayRef, ArrowError> {
    let data = like.to_data().into_builder().nulls(None).offset(0).len(words.len());
    data.buffers(vec![Buffer::from_vec(words)]).build().map(make_array)
}

#[cfg(test)]
mod tests;
