//! `sum` and `avg`. Whole numbers and decimals are added exactly and an overflow ends the job; floats carry a
//! compensation term, so that the order of rows changes no digit a user would look at.
//!
//! **Source**: A. Neumaier, Rundungsfehleranalyse einiger Verfahren zur Summation endlicher Summen, 1974.

use std::any::Any;
use std::marker::PhantomData;
use std::sync::Arc;

use arrow_array::cast::AsArray;
use arrow_array::types::*;
use arrow_array::{Array, ArrayRef, Float64Array, Int64Array, PrimitiveArray};
use arrow_schema::DataType;
use weir_operator_api::{OperatorError, Result};

use super::{Accumulator, Input, for_each_valid, same_kind, seen_nulls};

/// The accumulator of `sum` over this type, if there is one.
pub(super) fn sum(argument: &DataType, name: Arc<str>) -> Option<Box<dyn Accumulator>> {
    match argument {
        t if t.is_integer() => Some(Box::new(ExactSum::<Int64Type>::new(DataType::Int64, name))),
        DataType::Decimal128(_, scale) => {
            Some(Box::new(ExactSum::<Decimal128Type>::new(DataType::Decimal128(38, *scale), name)))
        }
        DataType::Float32 | DataType::Float64 => Some(Box::new(FloatSum::new(Finish::Sum))),
        _ => None,
    }
}

/// The accumulator of `avg` over this type, if there is one.
pub(super) fn average(argument: &DataType) -> Option<Box<dyn Accumulator>> {
    let scale = match argument {
        DataType::Decimal128(_, scale) => 10f64.powi(i32::from(*scale)),
        t if t.is_integer() || matches!(t, DataType::Float32 | DataType::Float64) => 1.0,
        _ => return None,
    };
    Some(Box::new(FloatSum::new(Finish::Average { scale })))
}

/// Totals that are exact or an error.
trait Total: ArrowPrimitiveType + Send + Sync {
    /// Adds; false when the result has no place in the output type.
    fn add(total: &mut Self::Native, value: Self::Native) -> bool;
}

impl Total for Int64Type {
    #[inline]
    fn add(total: &mut i64, value: i64) -> bool {
        let (sum, is_over) = total.overflowing_add(value);
        *total = sum;
        !is_over
    }
}

/// What `DECIMAL(38)` can hold is a little less than what 128 bits can.
const DECIMAL_END: i128 = 10i128.pow(38);

impl Total for Decimal128Type {
    #[inline]
    fn add(total: &mut i128, value: i128) -> bool {
        // Two numbers of 38 digits may add up to 2 * 10^38, and i128::MAX is 1.7 * 10^38: both ends are checked.
        let (sum, is_over) = total.overflowing_add(value);
        *total = sum;
        !is_over && -DECIMAL_END < sum && sum < DECIMAL_END
    }
}

struct ExactSum<T: Total> {
    totals: Vec<T::Native>,
    seen: Vec<bool>,
    output: DataType,
    name: Arc<str>,
    kind: PhantomData<T>,
}

impl<T: Total> ExactSum<T> {
    fn new(output: DataType, name: Arc<str>) -> Self {
        ExactSum { totals: Vec::new(), seen: Vec::new(), output, name, kind: PhantomData }
    }

    fn check(&self, fits: bool) -> Result<()> {
        if fits {
            return Ok(());
        }
        let message = format!("the sum '{}' of one group does not fit {}", self.name, self.output);
        Err(OperatorError::user("sum-overflow", message))
    }

    #[inline]
    fn add(&mut self, id: usize, value: T::Native) -> bool {
        self.seen[id] = true;
        T::add(&mut self.totals[id], value)
    }

    fn add_column<A: ArrowPrimitiveType>(
        &mut self,
        ids: &[u32],
        input: &Input,
        convert: impl Fn(A::Native) -> Option<T::Native>,
    ) -> Result<()> {
        let values = input.column().as_primitive::<A>().values();
        let mut fits = true;
        for_each_valid(ids, input.valid.as_ref(), |row, id| match convert(values[row]) {
            Some(value) => fits &= self.add(id, value),
            None => fits = false,
        });
        self.check(fits)
    }
}

/// How a sum reads the columns it takes.
trait ReadColumn {
    fn read_column(&mut self, ids: &[u32], input: &Input) -> Result<()>;
}

impl ReadColumn for ExactSum<Int64Type> {
    fn read_column(&mut self, ids: &[u32], input: &Input) -> Result<()> {
        match input.column().data_type() {
            DataType::Int8 => self.add_column::<Int8Type>(ids, input, |v| Some(v.into())),
            DataType::Int16 => self.add_column::<Int16Type>(ids, input, |v| Some(v.into())),
            DataType::Int32 => self.add_column::<Int32Type>(ids, input, |v| Some(v.into())),
            DataType::UInt8 => self.add_column::<UInt8Type>(ids, input, |v| Some(v.into())),
            DataType::UInt16 => self.add_column::<UInt16Type>(ids, input, |v| Some(v.into())),
            DataType::UInt32 => self.add_column::<UInt32Type>(ids, input, |v| Some(v.into())),
            DataType::UInt64 => self.add_column::<UInt64Type>(ids, input, |v| i64::try_from(v).ok()),
            _ => self.add_column::<Int64Type>(ids, input, Some),
        }
    }
}

impl ReadColumn for ExactSum<Decimal128Type> {
    fn read_column(&mut self, ids: &[u32], input: &Input) -> Result<()> {
        self.add_column::<Decimal128Type>(ids, input, Some)
    }
}

impl<T: Total> Accumulator for ExactSum<T>
where
    ExactSum<T>: ReadColumn,
{
    fn resize(&mut self, groups: usize) {
        self.totals.resize(groups, T::Native::default());
        self.seen.resize(groups, false);
    }

    fn update(&mut self, ids: &[u32], input: &Input, _times: &[i64]) -> Result<()> {
        self.read_column(ids, input)
    }

    fn merge(&mut self, ids: &[u32], other: &dyn Accumulator, from: &[u32]) -> Result<()> {
        let other: &Self = same_kind(other);
        let mut fits = true;
        for (id, from) in ids.iter().zip(from) {
            if other.seen[*from as usize] {
                fits &= self.add(*id as usize, other.totals[*from as usize]);
            }
        }
        self.check(fits)
    }

    fn absorb(&mut self, into: u32, from: u32) -> Result<()> {
        if !self.seen[from as usize] {
            return Ok(());
        }
        let fits = self.add(into as usize, self.totals[from as usize]);
        self.reset(from);
        self.check(fits)
    }

    fn merge_partial(&mut self, ids: &[u32], columns: &[ArrayRef]) -> Result<()> {
        let sums = columns[0].as_primitive::<T>();
        let mut fits = true;
        for_each_valid(ids, sums.nulls(), |row, id| fits &= self.add(id, sums.value(row)));
        self.check(fits)
    }

    fn partial(&self, ids: &[u32]) -> Result<Vec<ArrayRef>> {
        Ok(vec![self.evaluate(ids)?])
    }

    fn evaluate(&self, ids: &[u32]) -> Result<ArrayRef> {
        let totals = ids.iter().map(|id| self.totals[*id as usize]).collect();
        let sums = PrimitiveArray::<T>::new(totals, seen_nulls(ids, |id| self.seen[id]));
        Ok(Arc::new(sums.with_data_type(self.output.clone())))
    }

    fn reset(&mut self, id: u32) {
        self.totals[id as usize] = T::Native::default();
        self.seen[id as usize] = false;
    }

    fn clear(&mut self) {
        self.totals.clear();
        self.seen.clear();
    }

    fn size_bytes(&self) -> usize {
        self.totals.capacity() * size_of::<T::Native>() + self.seen.capacity()
    }

    fn as_any(&self) -> &dyn Any {
        self
    }
}

/// A float sum: what was added, what rounding lost, and how many values.
#[derive(Clone, Copy, Default)]
struct Compensated {
    sum: f64,
    lost: f64,
    count: i64,
}

impl Compensated {
    #[inline]
    fn add(&mut self, value: f64) {
        let sum = self.sum + value;
        self.lost += if self.sum.abs() >= value.abs() { (self.sum - sum) + value } else { (value - sum) + self.sum };
        self.sum = sum;
    }

    fn absorb(&mut self, other: Compensated) {
        self.add(other.sum);
        self.lost += other.lost;
        self.count += other.count;
    }

    /// Infinities and NaN make the lost part meaningless.
    fn total(&self) -> f64 {
        if self.sum.is_finite() { self.sum + self.lost } else { self.sum }
    }
}

enum Finish {
    Sum,
    /// Decimals are added unscaled and divided once.
    Average {
        scale: f64,
    },
}

struct FloatSum {
    sums: Vec<Compensated>,
    finish: Finish,
}

impl FloatSum {
    fn new(finish: Finish) -> Self {
        FloatSum { sums: Vec::new(), finish }
    }

    #[inline]
    fn add_column<A: ArrowPrimitiveType>(&mut self, ids: &[u32], input: &Input, convert: impl Fn(A::Native) -> f64) {
        let values = input.column().as_primitive::<A>().values();
        let sums = &mut self.sums[..];
        for_each_valid(ids, input.valid.as_ref(), |row, id| {
            sums[id].add(convert(values[row]));
            sums[id].count += 1;
        });
    }

    fn floats(&self, ids: &[u32], value: impl Fn(&Compensated) -> f64) -> ArrayRef {
        let values = ids.iter().map(|id| value(&self.sums[*id as usize])).collect();
        Arc::new(Float64Array::new(values, seen_nulls(ids, |id| self.sums[id].count > 0)))
    }
}

impl Accumulator for FloatSum {
    fn resize(&mut self, groups: usize) {
        self.sums.resize(groups, Compensated::default());
    }

    fn update(&mut self, ids: &[u32], input: &Input, _times: &[i64]) -> Result<()> {
        match input.column().data_type() {
            DataType::Int8 => self.add_column::<Int8Type>(ids, input, f64::from),
            DataType::Int16 => self.add_column::<Int16Type>(ids, input, f64::from),
            DataType::Int32 => self.add_column::<Int32Type>(ids, input, f64::from),
            DataType::Int64 => self.add_column::<Int64Type>(ids, input, |v| v as f64),
            DataType::UInt8 => self.add_column::<UInt8Type>(ids, input, f64::from),
            DataType::UInt16 => self.add_column::<UInt16Type>(ids, input, f64::from),
            DataType::UInt32 => self.add_column::<UInt32Type>(ids, input, f64::from),
            DataType::UInt64 => self.add_column::<UInt64Type>(ids, input, |v| v as f64),
            DataType::Float32 => self.add_column::<Float32Type>(ids, input, f64::from),
            DataType::Decimal128(_, _) => self.add_column::<Decimal128Type>(ids, input, |v| v as f64),
            _ => self.add_column::<Float64Type>(ids, input, |v| v),
        }
        Ok(())
    }

    fn merge(&mut self, ids: &[u32], other: &dyn Accumulator, from: &[u32]) -> Result<()> {
        let other: &Self = same_kind(other);
        for (id, from) in ids.iter().zip(from) {
            self.sums[*id as usize].absorb(other.sums[*from as usize]);
        }
        Ok(())
    }

    fn absorb(&mut self, into: u32, from: u32) -> Result<()> {
        let from = std::mem::take(&mut self.sums[from as usize]);
        self.sums[into as usize].absorb(from);
        Ok(())
    }

    fn merge_partial(&mut self, ids: &[u32], columns: &[ArrayRef]) -> Result<()> {
        let [sums, lost] = [0, 1].map(|column: usize| columns[column].as_primitive::<Float64Type>());
        // A sum travels without its count: one stands for "not empty".
        let counts = columns.get(2).map(|counts| counts.as_primitive::<Int64Type>());
        for_each_valid(ids, sums.nulls(), |row, id| {
            let count = counts.map_or(1, |counts| counts.value(row));
            self.sums[id].absorb(Compensated { sum: sums.value(row), lost: lost.value(row), count });
        });
        Ok(())
    }

    fn partial(&self, ids: &[u32]) -> Result<Vec<ArrayRef>> {
        let mut columns = vec![self.floats(ids, |sum| sum.sum), self.floats(ids, |sum| sum.lost)];
        if let Finish::Average { .. } = self.finish {
            columns.push(Arc::new(Int64Array::from_iter_values(ids.iter().map(|id| self.sums[*id as usize].count))));
        }
        Ok(columns)
    }

    fn evaluate(&self, ids: &[u32]) -> Result<ArrayRef> {
        Ok(match self.finish {
            Finish::Sum => self.floats(ids, Compensated::total),
            Finish::Average { scale } => self.floats(ids, |sum| sum.total() / sum.count as f64 / scale),
        })
    }

    fn reset(&mut self, id: u32) {
        self.sums[id as usize] = Compensated::default();
    }

    fn clear(&mut self) {
        self.sums.clear();
    }

    fn size_bytes(&self) -> usize {
        self.sums.capacity() * size_of::<Compensated>()
    }

    fn as_any(&self) -> &dyn Any {
        self
    }
}
