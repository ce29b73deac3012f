//! One value of any type per group, set many at a time: what `first`, `last` and the extremes of texts keep.

use std::any::Any;
use std::sync::Arc;

use arrow_array::cast::AsArray;
use arrow_array::types::*;
use arrow_array::{Array, ArrayRef, GenericByteArray, PrimitiveArray, UInt32Array, new_null_array};
use arrow_buffer::{Buffer, OffsetBuffer};
use arrow_schema::{DataType, TimeUnit};
use weir_operator_api::Result;

use super::{seen_nulls, with_primitive_type};

/// Values by group. Which groups hold one the owner knows.
pub(super) trait Cells: Send + Sync {
    fn resize(&mut self, groups: usize);

    /// Puts the values of `rows` into groups `ids`; the last of several for one group stays.
    fn set(&mut self, ids: &[u32], rows: &[u32], values: &ArrayRef) -> Result<()>;

    /// Copies groups `from` of other cells of the same type.
    fn copy(&mut self, ids: &[u32], other: &dyn Cells, from: &[u32]);

    fn move_one(&mut self, into: u32, from: u32);

    /// The values of some groups; null where `has` says no.
    fn column(&self, ids: &[u32], has: &dyn Fn(usize) -> bool) -> Result<ArrayRef>;

    fn reset(&mut self, id: u32);

    fn clear(&mut self);

    fn size_bytes(&self) -> usize;

    fn as_any(&self) -> &dyn Any;
}

/// The cells for values of a type.
pub(super) fn cells(data_type: &DataType) -> Box<dyn Cells> {
    macro_rules! numbers {
        ($type:ty) => {
            Box::new(Numbers::<$type> { values: Vec::new(), data_type: data_type.clone() })
        };
    }
    with_primitive_type!(
        data_type,
        numbers,
        match data_type {
            DataType::Utf8 => Box::new(Texts::<Utf8Type>::default()),
            DataType::LargeUtf8 => Box::new(Texts::<LargeUtf8Type>::default()),
            DataType::Binary => Box::new(Texts::<BinaryType>::default()),
            DataType::LargeBinary => Box::new(Texts::<LargeBinaryType>::default()),
            _ => Box::new(Rest { values: Vec::new(), data_type: data_type.clone() }),
        }
    )
}

struct Numbers<T: ArrowPrimitiveType> {
    values: Vec<T::Native>,
    data_type: DataType,
}

impl<T: ArrowPrimitiveType> Cells for Numbers<T> {
    fn resize(&mut self, groups: usize) {
        self.values.resize(groups, T::Native::default());
    }

    fn set(&mut self, ids: &[u32], rows: &[u32], values: &ArrayRef) -> Result<()> {
        let values = values.as_primitive::<T>().values();
        for (id, row) in ids.iter().zip(rows) {
            self.values[*id as usize] = values[*row as usize];
        }
        Ok(())
    }

    fn copy(&mut self, ids: &[u32], other: &dyn Cells, from: &[u32]) {
        let other: &Self = other.as_any().downcast_ref().expect("cells of one call have one type");
        for (id, from) in ids.iter().zip(from) {
            self.values[*id as usize] = other.values[*from as usize];
        }
    }

    fn move_one(&mut self, into: u32, from: u32) {
        self.values[into as usize] = self.values[from as usize];
    }

    fn column(&self, ids: &[u32], has: &dyn Fn(usize) -> bool) -> Result<ArrayRef> {
        let values = ids.iter().map(|id| self.values[*id as usize]).collect();
        let column = PrimitiveArray::<T>::new(values, seen_nulls(ids, has));
        Ok(Arc::new(column.with_data_type(self.data_type.clone())))
    }

    fn reset(&mut self, _id: u32) {}

    fn clear(&mut self) {
        self.values.clear();
    }

    fn size_bytes(&self) -> usize {
        self.values.capacity() * size_of::<T::Native>()
    }

    fn as_any(&self) -> &dyn Any {
        self
    }
}

/// Texts and binary values; a cell keeps its memory when its value changes.
pub(super) struct Texts<T: ByteArrayType> {
    values: Vec<Vec<u8>>,
    kind: std::marker::PhantomData<T>,
}

impl<T: ByteArrayType> Default for Texts<T> {
    fn default() -> Self {
        Texts { values: Vec::new(), kind: std::marker::PhantomData }
    }
}

impl<T: ByteArrayType> Texts<T> {
    pub(super) fn get(&self, id: usize) -> &[u8] {
        &self.values[id]
    }

    pub(super) fn put(&mut self, id: usize, value: &[u8]) {
        let cell = &mut self.values[id];
        cell.clear();
        cell.extend_from_slice(value);
    }
}

impl<T: ByteArrayType> Cells for Texts<T> {
    fn resize(&mut self, groups: usize) {
        self.values.resize(groups, Vec::new());
    }

    fn set(&mut self, ids: &[u32], rows: &[u32], values: &ArrayRef) -> Result<()> {
        let values = values.as_bytes::<T>();
        for (id, row) in ids.iter().zip(rows) {
            self.put(*id as usize, values.value(*row as usize).as_ref());
        }
        Ok(())
    }

    fn copy(&mut self, ids: &[u32], other: &dyn Cells, from: &[u32]) {
        let other: &Self = other.as_any().downcast_ref().expect("cells of one call have one type");
        for (id, from) in ids.iter().zip(from) {
            self.put(*id as usize, other.get(*from as usize));
        }
    }

    fn move_one(&mut self, into: u32, from: u32) {
        self.values[into as usize] = std::mem::take(&mut self.values[from as usize]);
    }

    fn column(&self, ids: &[u32], has: &dyn Fn(usize) -> bool) -> Result<ArrayRef> {
        let lengths = ids.iter().map(|id| self.get(*id as usize).len());
        let mut data = Vec::with_capacity(lengths.clone().sum());
        ids.iter().for_each(|id| data.extend_from_slice(self.get(*id as usize)));
        let offsets = OffsetBuffer::from_lengths(lengths);
        Ok(Arc::new(GenericByteArray::<T>::try_new(offsets, Buffer::from_vec(data), seen_nulls(ids, has))?))
    }

    fn reset(&mut self, id: u32) {
        self.values[id as usize] = Vec::new();
    }

    fn clear(&mut self) {
        self.values.clear();
    }

    fn size_bytes(&self) -> usize {
        // Summing all lengths would cost more than the figure is worth; 16 bytes stand for a text.
        self.values.capacity() * size_of::<Vec<u8>>() + self.values.len() * 16
    }

    fn as_any(&self) -> &dyn Any {
        self
    }
}

/// Values of the rarer types (booleans, lists, structs), each an array of one row. Slow but complete.
struct Rest {
    values: Vec<Option<ArrayRef>>,
    data_type: DataType,
}

impl Cells for Rest {
    fn resize(&mut self, groups: usize) {
        self.values.resize(groups, None);
    }

    fn set(&mut self, ids: &[u32], rows: &[u32], values: &ArrayRef) -> Result<()> {
        for (id, row) in ids.iter().zip(rows) {
            // `take` copies the row: a slice would keep its whole batch alive.
            let row = UInt32Array::from(vec![*row]);
            self.values[*id as usize] = Some(arrow_select::take::take(values, &row, None)?);
        }
        Ok(())
    }

    fn copy(&mut self, ids: &[u32], other: &dyn Cells, from: &[u32]) {
        let other: &Self = other.as_any().downcast_ref().expect("cells of one call have one type");
        for (id, from) in ids.iter().zip(from) {
            self.values[*id as usize] = other.values[*from as usize].clone();
        }
    }

    fn move_one(&mut self, into: u32, from: u32) {
        self.values[into as usize] = self.values[from as usize].take();
    }

    fn column(&self, ids: &[u32], has: &dyn Fn(usize) -> bool) -> Result<ArrayRef> {
        let null = new_null_array(&self.data_type, 1);
        let rows: Vec<&dyn Array> = ids
            .iter()
            .map(|id| match &self.values[*id as usize] {
                Some(value) if has(*id as usize) => value.as_ref(),
                _ => null.as_ref(),
            })
            .collect();
        Ok(if rows.is_empty() { null.slice(0, 0) } else { arrow_select::concat::concat(&rows)? })
    }

    fn reset(&mut self, id: u32) {
        self.values[id as usize] = None;
    }

    fn clear(&mut self) {
        self.values.clear();
    }

    fn size_bytes(&self) -> usize {
        self.values.capacity() * size_of::<ArrayRef>() + self.values.len() * 128
    }

    fn as_any(&self) -> &dyn Any {
        self
    }
}
