//! Where a key table keeps its keys: as words, as bytes, or as encoded rows, by the types of the key columns.
//! [`crate::KeyTable`] uses it; it knows nothing of hashing.

use std::sync::Arc;

use arrow_array::cast::AsArray;
use arrow_array::types::*;
use arrow_array::{Array, ArrayRef, GenericByteArray, PrimitiveArray, StringViewArray};
use arrow_buffer::{Buffer, NullBuffer, OffsetBuffer, ScalarBuffer};
use arrow_row::{RowConverter, Rows, SortField};
use arrow_schema::{ArrowError, DataType, TimeUnit};

/// Applies a macro to the Arrow type behind every key type that fits a word and compares by it.
macro_rules! with_word_type {
    ($data_type:expr, $then:ident, $otherwise:expr) => {
        match $data_type {
            DataType::Int8 => $then!(Int8Type),
            DataType::Int16 => $then!(Int16Type),
            DataType::Int32 => $then!(Int32Type),
            DataType::Int64 => $then!(Int64Type),
            DataType::UInt8 => $then!(UInt8Type),
            DataType::UInt16 => $then!(UInt16Type),
            DataType::UInt32 => $then!(UInt32Type),
            DataType::UInt64 => $then!(UInt64Type),
            DataType::Date32 => $then!(Date32Type),
            DataType::Date64 => $then!(Date64Type),
            DataType::Time32(TimeUnit::Second) => $then!(Time32SecondType),
            DataType::Time32(_) => $then!(Time32MillisecondType),
            DataType::Time64(TimeUnit::Nanosecond) => $then!(Time64NanosecondType),
            DataType::Time64(_) => $then!(Time64MicrosecondType),
            DataType::Timestamp(TimeUnit::Second, _) => $then!(TimestampSecondType),
            DataType::Timestamp(TimeUnit::Millisecond, _) => $then!(TimestampMillisecondType),
            DataType::Timestamp(TimeUnit::Microsecond, _) => $then!(TimestampMicrosecondType),
            DataType::Timestamp(TimeUnit::Nanosecond, _) => $then!(TimestampNanosecondType),
            _ => $otherwise,
        }
    };
}

/// Keys by id, filled from batches that look like `B`. Ids are given by the table: the next one, or one that was
/// removed before.
pub(crate) trait Store<B: ?Sized> {
    /// Whether entry `id` holds the key of `row`.
    fn is_equal(&self, id: u32, batch: &B, row: usize) -> bool;

    /// Puts the key of `row` at `id`.
    fn put(&mut self, id: u32, batch: &B, row: usize);
}

/// One column of whole numbers, dates or times, each widened to 64 bits.
#[derive(Clone, Debug, Default)]
pub(crate) struct Words {
    pub(crate) values: Vec<i64>,
}

impl Words {
    pub(crate) fn holds(data_type: &DataType) -> bool {
        macro_rules! yes {
            ($type:ty) => {
                true
            };
        }
        with_word_type!(data_type, yes, false)
    }

    /// The column as words; without copying where it has 64 bits.
    pub(crate) fn read(column: &dyn Array) -> ScalarBuffer<i64> {
        macro_rules! widen {
            ($type:ty) => {{
                let values = column.as_primitive::<$type>().values();
                if size_of::<<$type as ArrowPrimitiveType>::Native>() == size_of::<i64>() {
                    ScalarBuffer::new(values.inner().clone(), 0, values.len())
                } else {
                    values.iter().map(|value| *value as i64).collect()
                }
            }};
        }
        with_word_type!(column.data_type(), widen, unreachable!("only word columns come here"))
    }

    /// The entries as a column of `data_type`.
    pub(crate) fn write(&self, ids: &[u32], nulls: Option<NullBuffer>, data_type: &DataType) -> ArrayRef {
        macro_rules! narrow {
            ($type:ty) => {{
                type Native = <$type as ArrowPrimitiveType>::Native;
                let values: ScalarBuffer<Native> = ids.iter().map(|id| self.values[*id as usize] as Native).collect();
                Arc::new(PrimitiveArray::<$type>::new(values, nulls).with_data_type(data_type.clone()))
            }};
        }
        with_word_type!(data_type, narrow, unreachable!("only word columns come here"))
    }
}

impl Store<[i64]> for Words {
    #[inline]
    fn is_equal(&self, id: u32, batch: &[i64], row: usize) -> bool {
        self.values[id as usize] == batch[row]
    }

    #[inline]
    fn put(&mut self, id: u32, batch: &[i64], row: usize) {
        if id as usize == self.values.len() {
            self.values.push(batch[row]);
        } else {
            self.values[id as usize] = batch[row];
        }
    }
}

/// Where the bytes of a key lie.
#[derive(Clone, Copy, Debug, Default)]
struct Span {
    start: usize,
    len: u32,
}

/// Keys of any length, one after the other. Removed keys leave holes that [`Bytes::compact`] closes.
#[derive(Clone, Debug, Default)]
pub(crate) struct Bytes {
    data: Vec<u8>,
    spans: Vec<Span>,
    hole_bytes: usize,
}

/// Access to the bytes of each row of a batch.
pub(crate) trait ByteRows {
    fn bytes(&self, row: usize) -> &[u8];
}

/// Text or binary columns: offsets into one buffer.
pub(crate) struct Spelled<'a, O> {
    pub(crate) offsets: &'a [O],
    pub(crate) data: &'a [u8],
}

impl<O: arrow_buffer::ArrowNativeType> ByteRows for Spelled<'_, O> {
    #[inline]
    fn bytes(&self, row: usize) -> &[u8] {
        &self.data[self.offsets[row].as_usize()..self.offsets[row + 1].as_usize()]
    }
}

impl ByteRows for StringViewArray {
    #[inline]
    fn bytes(&self, row: usize) -> &[u8] {
        self.value(row).as_bytes()
    }
}

impl ByteRows for Rows {
    #[inline]
    fn bytes(&self, row: usize) -> &[u8] {
        self.row(row).data()
    }
}

/// Entries of another store, row by id.
impl ByteRows for Bytes {
    #[inline]
    fn bytes(&self, row: usize) -> &[u8] {
        self.get(row as u32)
    }
}

impl Bytes {
    #[inline]
    pub(crate) fn get(&self, id: u32) -> &[u8] {
        let span = self.spans[id as usize];
        &self.data[span.start..span.start + span.len as usize]
    }

    #[inline]
    pub(crate) fn put_bytes(&mut self, id: u32, bytes: &[u8]) {
        let len = u32::try_from(bytes.len()).expect("a batch is far smaller than 4 GiB");
        let span = Span { start: self.data.len(), len };
        self.data.extend_from_slice(bytes);
        if id as usize == self.spans.len() {
            self.spans.push(span);
        } else {
            self.spans[id as usize] = span;
        }
    }

    pub(crate) fn remove(&mut self, id: u32) {
        let span = std::mem::take(&mut self.spans[id as usize]);
        self.hole_bytes += span.len as usize;
    }

    /// Whether more than half of a sizeable arena is holes.
    pub(crate) fn needs_compaction(&self) -> bool {
        self.hole_bytes > 64 * 1024 && self.hole_bytes * 2 > self.data.len()
    }

    /// Closes the holes. Entries that were removed have no bytes.
    pub(crate) fn compact(&mut self) {
        let mut data = Vec::with_capacity(self.data.len() - self.hole_bytes);
        for span in &mut self.spans {
            let start = data.len();
            data.extend_from_slice(&self.data[span.start..span.start + span.len as usize]);
            span.start = start;
        }
        (self.data, self.hole_bytes) = (data, 0);
    }

    pub(crate) fn clear(&mut self) {
        self.data.clear();
        self.spans.clear();
        self.hole_bytes = 0;
    }

    pub(crate) fn size_bytes(&self) -> usize {
        self.data.capacity() + self.spans.capacity() * size_of::<Span>()
    }

    /// The entries as a text or binary column.
    pub(crate) fn write(
        &self,
        ids: &[u32],
        nulls: Option<NullBuffer>,
        data_type: &DataType,
    ) -> Result<ArrayRef, ArrowError> {
        let size = ids.iter().map(|id| self.spans[*id as usize].len as usize).sum();
        let mut data = Vec::with_capacity(size);
        ids.iter().for_each(|id| data.extend_from_slice(self.get(*id)));
        let lengths = ids.iter().map(|id| self.spans[*id as usize].len as usize);
        let data = Buffer::from_vec(data);
        macro_rules! column {
            ($type:ty) => {
                GenericByteArray::<$type>::try_new(OffsetBuffer::from_lengths(lengths), data, nulls)?
            };
        }
        Ok(match data_type {
            DataType::Utf8 => Arc::new(column!(Utf8Type)),
            DataType::LargeUtf8 => Arc::new(column!(LargeUtf8Type)),
            DataType::Binary => Arc::new(column!(BinaryType)),
            DataType::LargeBinary => Arc::new(column!(LargeBinaryType)),
            DataType::Utf8View => Arc::new(StringViewArray::from(&column!(Utf8Type))),
            other => return Err(ArrowError::InvalidArgumentError(format!("{other} is neither text nor binary"))),
        })
    }
}

impl<B: ByteRows> Store<B> for Bytes {
    #[inline]
    fn is_equal(&self, id: u32, batch: &B, row: usize) -> bool {
        self.get(id) == batch.bytes(row)
    }

    #[inline]
    fn put(&mut self, id: u32, batch: &B, row: usize) {
        self.put_bytes(id, batch.bytes(row));
    }
}

/// Keys of several columns, or of a type without a faster form, in arrow-row's encoding.
pub(crate) struct Encoded {
    pub(crate) converter: RowConverter,
    pub(crate) rows: Rows,
    pub(crate) bytes: Bytes,
}

impl Encoded {
    pub(crate) fn new(types: &[DataType]) -> Result<Self, ArrowError> {
        let converter = RowConverter::new(types.iter().cloned().map(SortField::new).collect())?;
        let rows = converter.empty_rows(0, 0);
        Ok(Encoded { converter, rows, bytes: Bytes::default() })
    }

    /// Encodes the columns of a batch into `rows`.
    pub(crate) fn encode(&mut self, columns: &[ArrayRef]) -> Result<(), ArrowError> {
        self.rows.clear();
        if columns.iter().any(|column| column.data_type().is_floating()) {
            let columns: Vec<ArrayRef> = columns.iter().map(one_pattern_per_number).collect();
            self.converter.append(&mut self.rows, &columns)
        } else {
            self.converter.append(&mut self.rows, columns)
        }
    }

    /// The entries as columns.
    pub(crate) fn write(&self, ids: &[u32]) -> Result<Vec<ArrayRef>, ArrowError> {
        let parser = self.converter.parser();
        self.converter.convert_rows(ids.iter().map(|id| parser.parse(self.bytes.get(*id))))
    }
}

/// `-0.0` becomes `0.0` and every NaN the same NaN, as the key hash has it.
fn one_pattern_per_number(column: &ArrayRef) -> ArrayRef {
    match column.data_type() {
        DataType::Float32 => Arc::new(
            column
                .as_primitive::<Float32Type>()
                .unary::<_, Float32Type>(|value| if value.is_nan() { f32::NAN } else { value + 0.0 }),
        ),
        DataType::Float64 => Arc::new(
            column
                .as_primitive::<Float64Type>()
                .unary::<_, Float64Type>(|value| if value.is_nan() { f64::NAN } else { value + 0.0 }),
        ),
        _ => column.clone(),
    }
}
