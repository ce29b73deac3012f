//! `min` and `max` over numbers, decimals, dates, times, booleans, text and binary. Among floats NaN is the greatest.

use std::any::Any;
use std::sync::Arc;

use arrow_array::cast::AsArray;
use arrow_array::types::*;
use arrow_array::{Array, ArrayRef, ArrowNativeTypeOp, PrimitiveArray};
use arrow_schema::{DataType, TimeUnit};
use weir_operator_api::Result;

use super::cast::Cast;
use super::cells::{Cells, Texts};
use super::{Accumulator, Input, for_each_valid, same_kind, seen_nulls, with_primitive_type};

/// The accumulator of `min` over this type, if there is one.
pub(super) fn least(argument: &DataType) -> Option<Box<dyn Accumulator>> {
    extreme::<false>(argument)
}

/// The accumulator of `max` over this type, if there is one.
pub(super) fn greatest(argument: &DataType) -> Option<Box<dyn Accumulator>> {
    extreme::<true>(argument)
}

fn extreme<const MAX: bool>(argument: &DataType) -> Option<Box<dyn Accumulator>> {
    macro_rules! numbers {
        ($type:ty) => {
            Some(Box::new(Numbers::<$type, MAX> { values: Vec::new(), seen: Vec::new(), data_type: argument.clone() }))
        };
    }
    let by_way_of = |inner: DataType| {
        let accumulator = extreme::<MAX>(&inner)?;
        Some(Box::new(Cast::new(accumulator, inner, argument.clone())) as Box<dyn Accumulator>)
    };
    with_primitive_type!(
        argument,
        numbers,
        match argument {
            DataType::Utf8 => Some(Box::new(Spelled::<Utf8Type, MAX>::default())),
            DataType::LargeUtf8 => Some(Box::new(Spelled::<LargeUtf8Type, MAX>::default())),
            DataType::Binary => Some(Box::new(Spelled::<BinaryType, MAX>::default())),
            DataType::LargeBinary => Some(Box::new(Spelled::<LargeBinaryType, MAX>::default())),
            DataType::Utf8View => by_way_of(DataType::Utf8),
            DataType::Boolean => by_way_of(DataType::UInt8),
            _ => None,
        }
    )
}

struct Numbers<T: ArrowPrimitiveType, const MAX: bool> {
    values: Vec<T::Native>,
    seen: Vec<bool>,
    data_type: DataType,
}

impl<T: ArrowPrimitiveType, const MAX: bool> Numbers<T, MAX> {
    #[inline]
    fn offer(values: &mut [T::Native], seen: &mut [bool], id: usize, value: T::Native) {
        let is_better = if MAX { value.is_gt(values[id]) } else { value.is_lt(values[id]) };
        if is_better || !seen[id] {
            values[id] = value;
            seen[id] = true;
        }
    }
}

/// One NaN, the positive one: in the total order of bits it comes after every number.
fn one_nan(column: &ArrayRef) -> ArrayRef {
    match column.data_type() {
        DataType::Float32 => Arc::new(
            column.as_primitive::<Float32Type>().unary::<_, Float32Type>(|v| if v.is_nan() { f32::NAN } else { v }),
        ),
        DataType::Float64 => Arc::new(
            column.as_primitive::<Float64Type>().unary::<_, Float64Type>(|v| if v.is_nan() { f64::NAN } else { v }),
        ),
        _ => Arc::clone(column),
    }
}

impl<T: ArrowPrimitiveType, const MAX: bool> Accumulator for Numbers<T, MAX> {
    fn resize(&mut self, groups: usize) {
        self.values.resize(groups, T::Native::default());
        self.seen.resize(groups, false);
    }

    fn update(&mut self, ids: &[u32], input: &Input, _times: &[i64]) -> Result<()> {
        let column = one_nan(input.column());
        let column = column.as_primitive::<T>().values();
        let (values, seen) = (&mut self.values[..], &mut self.seen[..]);
        for_each_valid(ids, input.valid.as_ref(), |row, id| Self::offer(values, seen, id, column[row]));
        Ok(())
    }

    fn merge(&mut self, ids: &[u32], other: &dyn Accumulator, from: &[u32]) -> Result<()> {
        let other: &Self = same_kind(other);
        for (id, from) in ids.iter().zip(from) {
            if other.seen[*from as usize] {
                Self::offer(&mut self.values, &mut self.seen, *id as usize, other.values[*from as usize]);
            }
        }
        Ok(())
    }

    fn absorb(&mut self, into: u32, from: u32) -> Result<()> {
        if std::mem::take(&mut self.seen[from as usize]) {
            let value = self.values[from as usize];
            Self::offer(&mut self.values, &mut self.seen, into as usize, value);
        }
        Ok(())
    }

    fn merge_partial(&mut self, ids: &[u32], columns: &[ArrayRef]) -> Result<()> {
        let input = Input { values: Some(Arc::clone(&columns[0])), valid: columns[0].nulls().cloned() };
        self.update(ids, &input, &[])
    }

    fn partial(&self, ids: &[u32]) -> Result<Vec<ArrayRef>> {
        Ok(vec![self.evaluate(ids)?])
    }

    fn evaluate(&self, ids: &[u32]) -> Result<ArrayRef> {
        let values = ids.iter().map(|id| self.values[*id as usize]).collect();
        let column = PrimitiveArray::<T>::new(values, seen_nulls(ids, |id| self.seen[id]));
        Ok(Arc::new(column.with_data_type(self.data_type.clone())))
    }

    fn reset(&mut self, id: u32) {
        self.seen[id as usize] = false;
    }

    fn clear(&mut self) {
        self.values.clear();
        self.seen.clear();
    }

    fn size_bytes(&self) -> usize {
        self.values.capacity() * size_of::<T::Native>() + self.seen.capacity()
    }

    fn as_any(&self) -> &dyn Any {
        self
    }
}

struct Spelled<T: ByteArrayType, const MAX: bool> {
    cells: Texts<T>,
    seen: Vec<bool>,
}

impl<T: ByteArrayType, const MAX: bool> Default for Spelled<T, MAX> {
    fn default() -> Self {
        Spelled { cells: Texts::default(), seen: Vec::new() }
    }
}

impl<T: ByteArrayType, const MAX: bool> Spelled<T, MAX> {
    #[inline]
    fn offer(&mut self, id: usize, value: &[u8]) {
        let known = self.cells.get(id);
        if !self.seen[id] || if MAX { value > known } else { value < known } {
            self.cells.put(id, value);
            self.seen[id] = true;
        }
    }
}

impl<T: ByteArrayType, const MAX: bool> Accumulator for Spelled<T, MAX> {
    fn resize(&mut self, groups: usize) {
        self.cells.resize(groups);
        self.seen.resize(groups, false);
    }

    fn update(&mut self, ids: &[u32], input: &Input, _times: &[i64]) -> Result<()> {
        let column = input.column().as_bytes::<T>();
        for_each_valid(ids, input.valid.as_ref(), |row, id| self.offer(id, column.value(row).as_ref()));
        Ok(())
    }

    fn merge(&mut self, ids: &[u32], other: &dyn Accumulator, from: &[u32]) -> Result<()> {
        let other: &Self = same_kind(other);
        for (id, from) in ids.iter().zip(from) {
            if other.seen[*from as usize] {
                self.offer(*id as usize, other.cells.get(*from as usize));
            }
        }
        Ok(())
    }

    fn absorb(&mut self, into: u32, from: u32) -> Result<()> {
        if self.seen[from as usize] {
            let value = self.cells.get(from as usize).to_vec();
            self.offer(into as usize, &value);
            self.reset(from);
        }
        Ok(())
    }

    fn merge_partial(&mut self, ids: &[u32], columns: &[ArrayRef]) -> Result<()> {
        let input = Input { values: Some(Arc::clone(&columns[0])), valid: columns[0].nulls().cloned() };
        self.update(ids, &input, &[])
    }

    fn partial(&self, ids: &[u32]) -> Result<Vec<ArrayRef>> {
        Ok(vec![self.evaluate(ids)?])
    }

    fn evaluate(&self, ids: &[u32]) -> Result<ArrayRef> {
        self.cells.column(ids, &|id| self.seen[id])
    }

    fn reset(&mut self, id: u32) {
        self.cells.reset(id);
        self.seen[id as usize] = false;
    }

    fn clear(&mut self) {
        self.cells.clear();
        self.seen.clear();
    }

    fn size_bytes(&self) -> usize {
        self.cells.size_bytes() + self.seen.capacity()
    }

    fn as_any(&self) -> &dyn Any {
        self
    }
}
