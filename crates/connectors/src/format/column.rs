//! Growing columns that can take back the last row: what decoders write into. One bad field undoes its row with
//! [`Column::truncate`], so a batch never holds half a record. It must not know any text format.

use std::sync::Arc;

use arrow_array::types::{
    ArrowPrimitiveType, Date32Type, Decimal128Type, Float32Type, Float64Type, Int8Type, Int16Type, Int32Type,
    Int64Type, TimestampMicrosecondType,
};
use arrow_array::{ArrayRef, BooleanArray, ListArray, PrimitiveArray, StringArray, StructArray};
use arrow_buffer::{BooleanBufferBuilder, Buffer, NullBufferBuilder, OffsetBuffer, ScalarBuffer};
use arrow_schema::{ArrowError, DataType, FieldRef, Fields, TimeUnit};

/// Values of a primitive type.
pub struct Numbers<T: ArrowPrimitiveType> {
    values: Vec<T::Native>,
    nulls: NullBufferBuilder,
    data_type: DataType,
}

impl<T: ArrowPrimitiveType> Numbers<T> {
    fn new(data_type: &DataType) -> Self {
        Numbers { values: Vec::new(), nulls: NullBufferBuilder::new(0), data_type: data_type.clone() }
    }

    /// Adds a value.
    #[inline]
    pub fn push(&mut self, value: T::Native) {
        self.values.push(value);
        self.nulls.append_non_null();
    }

    fn push_null(&mut self) {
        self.values.push(T::Native::default());
        self.nulls.append_null();
    }

    fn truncate(&mut self, rows: usize) {
        self.values.truncate(rows);
        self.nulls.truncate(rows);
    }

    fn finish(&mut self) -> Result<ArrayRef, ArrowError> {
        let fresh = Vec::with_capacity(self.values.len());
        let values = ScalarBuffer::from(std::mem::replace(&mut self.values, fresh));
        let array = PrimitiveArray::<T>::try_new(values, self.nulls.finish())?;
        Ok(Arc::new(array.with_data_type(self.data_type.clone())))
    }
}

/// Values of type `STRING`.
pub struct Texts {
    bytes: Vec<u8>,
    ends: Vec<i32>,
    nulls: NullBufferBuilder,
}

impl Texts {
    fn new() -> Self {
        Texts { bytes: Vec::new(), ends: vec![0], nulls: NullBufferBuilder::new(0) }
    }

    /// Adds a value that is UTF-8.
    #[inline]
    pub fn push(&mut self, text: &[u8]) {
        self.bytes.extend_from_slice(text);
        self.close();
    }

    /// The bytes so far; what is appended becomes the next value with [`Texts::close`].
    pub fn open(&mut self) -> &mut Vec<u8> {
        &mut self.bytes
    }

    /// Ends the value whose bytes were appended.
    #[inline]
    pub fn close(&mut self) {
        self.ends.push(self.bytes.len() as i32);
        self.nulls.append_non_null();
    }

    fn push_null(&mut self) {
        self.ends.push(self.bytes.len() as i32);
        self.nulls.append_null();
    }

    fn truncate(&mut self, rows: usize) {
        self.ends.truncate(rows + 1);
        self.bytes.truncate(self.ends.last().map_or(0, |end| *end as usize));
        self.nulls.truncate(rows);
    }

    fn finish(&mut self) -> Result<ArrayRef, ArrowError> {
        let mut fresh = Vec::with_capacity(self.ends.len());
        fresh.push(0);
        let ends = std::mem::replace(&mut self.ends, fresh);
        let room = self.bytes.len() + self.bytes.len() / 8;
        let bytes = std::mem::replace(&mut self.bytes, Vec::with_capacity(room));
        let offsets = OffsetBuffer::new(ScalarBuffer::from(ends));
        Ok(Arc::new(StringArray::try_new(offsets, Buffer::from_vec(bytes), self.nulls.finish())?))
    }
}

/// Values of type `BOOLEAN`.
pub struct Booleans {
    values: BooleanBufferBuilder,
    nulls: NullBufferBuilder,
}

impl Booleans {
    /// Adds a value.
    #[inline]
    pub fn push(&mut self, value: bool) {
        self.values.append(value);
        self.nulls.append_non_null();
    }
}

/// Values of type `ARRAY`.
pub struct Lists {
    field: FieldRef,
    ends: Vec<i32>,
    nulls: NullBufferBuilder,
    /// The items of all lists; what is appended belongs to the next list that is closed.
    pub items: Box<Column>,
}

impl Lists {
    /// Ends the list whose items were appended.
    pub fn close(&mut self) {
        self.ends.push(self.items.len() as i32);
        self.nulls.append_non_null();
    }
}

/// Values of type `ROW`.
pub struct Rows {
    fields: Fields,
    /// One per field.
    pub columns: Vec<Column>,
    nulls: NullBufferBuilder,
}

impl Rows {
    /// Index of the field of that name.
    pub fn index_of(&self, name: &[u8]) -> Option<usize> {
        self.fields.iter().position(|field| field.name().as_bytes() == name)
    }

    /// Number of rows closed.
    pub fn closed(&self) -> usize {
        self.nulls.len()
    }

    /// Ends the row whose fields were appended; fields without a value are null.
    pub fn close(&mut self) {
        let rows = self.closed() + 1;
        for column in &mut self.columns {
            if column.len() < rows {
                column.push_null();
            }
        }
        self.nulls.append_non_null();
    }
}

/// A growing column of one of the types users can declare.
pub enum Column {
    /// `BOOLEAN`
    Boolean(Booleans),
    /// `TINYINT`
    Int8(Numbers<Int8Type>),
    /// `SMALLINT`
    Int16(Numbers<Int16Type>),
    /// `INT`
    Int32(Numbers<Int32Type>),
    /// `BIGINT`
    Int64(Numbers<Int64Type>),
    /// `FLOAT`
    Float32(Numbers<Float32Type>),
    /// `DOUBLE`
    Float64(Numbers<Float64Type>),
    /// `DECIMAL(p,s)` with its precision and scale
    Decimal(Numbers<Decimal128Type>, u8, u8),
    /// `STRING`
    Text(Texts),
    /// `DATE`
    Date(Numbers<Date32Type>),
    /// `TIMESTAMP`
    Timestamp(Numbers<TimestampMicrosecondType>),
    /// `ARRAY`
    List(Lists),
    /// `ROW`
    Row(Rows),
}

impl Column {
    /// An empty column; `None` for types that no text format can read.
    pub fn new(data_type: &DataType) -> Option<Column> {
        Some(match data_type {
            DataType::Boolean => {
                Column::Boolean(Booleans { values: BooleanBufferBuilder::new(0), nulls: NullBufferBuilder::new(0) })
            }
            DataType::Int8 => Column::Int8(Numbers::new(data_type)),
            DataType::Int16 => Column::Int16(Numbers::new(data_type)),
            DataType::Int32 => Column::Int32(Numbers::new(data_type)),
            DataType::Int64 => Column::Int64(Numbers::new(data_type)),
            DataType::Float32 => Column::Float32(Numbers::new(data_type)),
            DataType::Float64 => Column::Float64(Numbers::new(data_type)),
            DataType::Decimal128(precision, scale @ 0..) => {
                Column::Decimal(Numbers::new(data_type), *precision, *scale as u8)
            }
            DataType::Utf8 => Column::Text(Texts::new()),
            DataType::Date32 => Column::Date(Numbers::new(data_type)),
            DataType::Timestamp(TimeUnit::Microsecond, _) => Column::Timestamp(Numbers::new(data_type)),
            DataType::List(field) => Column::List(Lists {
                field: Arc::clone(field),
                ends: vec![0],
                nulls: NullBufferBuilder::new(0),
                items: Box::new(Column::new(field.data_type())?),
            }),
            DataType::Struct(fields) => Column::Row(Rows {
                fields: fields.clone(),
                columns: fields.iter().map(|field| Column::new(field.data_type())).collect::<Option<_>>()?,
                nulls: NullBufferBuilder::new(0),
            }),
            _ => return None,
        })
    }

    /// Number of values.
    pub fn len(&self) -> usize {
        match self {
            Column::Boolean(column) => column.values.len(),
            Column::Int8(column) => column.values.len(),
            Column::Int16(column) => column.values.len(),
            Column::Int32(column) => column.values.len(),
            Column::Int64(column) => column.values.len(),
            Column::Float32(column) => column.values.len(),
            Column::Float64(column) => column.values.len(),
            Column::Decimal(column, _, _) => column.values.len(),
            Column::Text(column) => column.ends.len() - 1,
            Column::Date(column) => column.values.len(),
            Column::Timestamp(column) => column.values.len(),
            Column::List(column) => column.ends.len() - 1,
            Column::Row(column) => column.closed(),
        }
    }

    /// Whether there are no values.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Adds a null.
    pub fn push_null(&mut self) {
        match self {
            Column::Boolean(column) => {
                column.values.append(false);
                column.nulls.append_null();
            }
            Column::Int8(column) => column.push_null(),
            Column::Int16(column) => column.push_null(),
            Column::Int32(column) => column.push_null(),
            Column::Int64(column) => column.push_null(),
            Column::Float32(column) => column.push_null(),
            Column::Float64(column) => column.push_null(),
            Column::Decimal(column, _, _) => column.push_null(),
            Column::Text(column) => column.push_null(),
            Column::Date(column) => column.push_null(),
            Column::Timestamp(column) => column.push_null(),
            Column::List(column) => {
                column.ends.push(column.items.len() as i32);
                column.nulls.append_null();
            }
            Column::Row(column) => {
                column.columns.iter_mut().for_each(Column::push_null);
                column.nulls.append_null();
            }
        }
    }

    /// Drops every value from `rows` on, also half-written ones.
    pub fn truncate(&mut self, rows: usize) {
        match self {
            Column::Boolean(column) => {
                column.values.truncate(rows);
                column.nulls.truncate(rows);
            }
            Column::Int8(column) => column.truncate(rows),
            Column::Int16(column) => column.truncate(rows),
            Column::Int32(column) => column.truncate(rows),
            Column::Int64(column) => column.truncate(rows),
            Column::Float32(column) => column.truncate(rows),
            Column::Float64(column) => column.truncate(rows),
            Column::Decimal(column, _, _) => column.truncate(rows),
            Column::Text(column) => column.truncate(rows),
            Column::Date(column) => column.truncate(rows),
            Column::Timestamp(column) => column.truncate(rows),
            Column::List(column) => {
                column.ends.truncate(rows + 1);
                column.items.truncate(column.ends.last().map_or(0, |end| *end as usize));
                column.nulls.truncate(rows);
            }
            Column::Row(column) => {
                column.columns.iter_mut().for_each(|column| column.truncate(rows));
                column.nulls.truncate(rows);
            }
        }
    }

    /// Takes all values as an array; the column is empty afterwards and keeps its size as a hint.
    pub fn finish(&mut self) -> Result<ArrayRef, ArrowError> {
        Ok(match self {
            Column::Boolean(column) => {
                let values = column.values.finish();
                Arc::new(BooleanArray::new(values, column.nulls.finish()))
            }
            Column::Int8(column) => column.finish()?,
            Column::Int16(column) => column.finish()?,
            Column::Int32(column) => column.finish()?,
            Column::Int64(column) => column.finish()?,
            Column::Float32(column) => column.finish()?,
            Column::Float64(column) => column.finish()?,
            Column::Decimal(column, _, _) => column.finish()?,
            Column::Text(column) => column.finish()?,
            Column::Date(column) => column.finish()?,
            Column::Timestamp(column) => column.finish()?,
            Column::List(column) => {
                let ends = std::mem::replace(&mut column.ends, vec![0]);
                let offsets = OffsetBuffer::new(ScalarBuffer::from(ends));
                let items = column.items.finish()?;
                Arc::new(ListArray::try_new(Arc::clone(&column.field), offsets, items, column.nulls.finish())?)
            }
            Column::Row(column) => {
                let len = column.closed();
                let arrays = column.columns.iter_mut().map(Column::finish).collect::<Result<Vec<_>, _>>()?;
                let nulls = column.nulls.finish();
                Arc::new(StructArray::try_new_with_length(column.fields.clone(), arrays, nulls, len)?)
            }
        })
    }
}
