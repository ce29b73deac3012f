//! Columnar accumulators: the state of one aggregate call for many groups, indexed by the ids of a key table.
//! Window operators feed them whole batches; they know nothing of windows, keys or SQL.
//!
//! Each function takes values, other accumulators of its kind (slices into windows, sessions into each other) and
//! partials of a local phase or a checkpoint, in the layout of [`Call::partial_fields`].

use std::any::Any;
use std::ops::Range;
use std::sync::Arc;

use arrow_array::{Array, ArrayRef, BooleanArray, UInt32Array};
use arrow_buffer::NullBuffer;
use arrow_schema::{DataType, Field};
use weir_core::AggregateFunction;
use weir_operator_api::{OperatorError, Result};

mod cast;
mod cells;
mod count;
mod distinct;
mod edge;
mod extreme;
mod sum;

#[cfg(test)]
mod tests;

/// The values of one aggregate call for the rows of a batch.
#[derive(Clone, Debug, Default)]
pub struct Input {
    /// The argument; `None` for `count(*)`.
    pub values: Option<ArrayRef>,
    /// Which rows count: the argument is not null and the filter is true. `None` when all do.
    pub valid: Option<NullBuffer>,
}

impl Input {
    /// Joins an argument and a filter; a row whose filter is null does not count.
    pub fn new(values: Option<ArrayRef>, filter: Option<&BooleanArray>) -> Input {
        let passed = filter.map(|filter| match filter.nulls() {
            Some(nulls) => NullBuffer::new(filter.values() & nulls.inner()),
            None => NullBuffer::new(filter.values().clone()),
        });
        let present = values.as_ref().and_then(|values| values.logical_nulls());
        let valid = NullBuffer::union(present.as_ref(), passed.as_ref()).filter(|valid| valid.null_count() > 0);
        Input { values, valid }
    }

    /// Some rows in a row, without copying.
    pub fn slice(&self, offset: usize, len: usize) -> Input {
        Input {
            values: self.values.as_ref().map(|values| values.slice(offset, len)),
            valid: self.valid.as_ref().map(|valid| valid.slice(offset, len)),
        }
    }

    /// The rows at `indices`.
    pub fn take(&self, indices: &UInt32Array) -> Result<Input> {
        let values = match &self.values {
            Some(values) => Some(arrow_select::take::take(values, indices, None)?),
            None => None,
        };
        let valid =
            self.valid.as_ref().map(|valid| indices.values().iter().map(|row| valid.is_valid(*row as usize)).collect());
        Ok(Input { values, valid })
    }

    fn column(&self) -> &ArrayRef {
        self.values.as_ref().expect("only count takes no argument")
    }
}

/// The state of one aggregate call, group by group.
///
/// **Shapes**: all slices of ids and columns of one call have the same length; ids are below the last `resize`.
pub trait Accumulator: Send + Sync {
    /// Makes room for groups below `groups`; new ones are empty.
    fn resize(&mut self, groups: usize);

    /// Adds the rows of a batch; `times` are their event times.
    ///
    /// **Errors**: `sum-overflow`.
    fn update(&mut self, ids: &[u32], input: &Input, times: &[i64]) -> Result<()>;

    /// Adds groups `from` of another accumulator of the same call to groups `ids`.
    fn merge(&mut self, ids: &[u32], other: &dyn Accumulator, from: &[u32]) -> Result<()>;

    /// Adds one group to another of this accumulator, and leaves it empty.
    fn absorb(&mut self, into: u32, from: u32) -> Result<()>;

    /// Adds partials. A partial of nulls, and of null or 0 for `count`, adds nothing.
    fn merge_partial(&mut self, ids: &[u32], columns: &[ArrayRef]) -> Result<()>;

    /// The partials of some groups; merged into an empty group they make the same state again.
    fn partial(&self, ids: &[u32]) -> Result<Vec<ArrayRef>>;

    /// The results of some groups.
    fn evaluate(&self, ids: &[u32]) -> Result<ArrayRef>;

    /// Empties one group.
    fn reset(&mut self, id: u32);

    /// Empties some groups in a row.
    fn reset_range(&mut self, ids: Range<u32>) {
        ids.for_each(|id| self.reset(id));
    }

    /// Forgets all groups and keeps the memory.
    fn clear(&mut self);

    /// Bytes of memory held.
    fn size_bytes(&self) -> usize;

    /// For [`Accumulator::merge`] to find its own kind.
    fn as_any(&self) -> &dyn Any;
}

/// What an accumulator computes.
#[derive(Clone, Debug, PartialEq)]
pub struct Call {
    /// Name of the result, for messages.
    pub name: String,
    /// The function.
    pub function: AggregateFunction,
    /// Type of the argument; `None` for `count(*)`.
    pub argument: Option<DataType>,
}

impl Call {
    /// The columns of its partial: what the local phase sends, and what a checkpoint keeps. Sets of distinct values, which
    /// are never aggregated in two phases, are one column of lists.
    pub fn partial_fields(&self) -> Vec<Field> {
        let argument = self.argument.as_ref();
        self.function.partial_fields(&self.name, argument).unwrap_or_else(|| {
            let lists = argument.map(|argument| DataType::new_list(argument.clone(), true));
            lists.map(|lists| Field::new(&self.name, lists, true)).into_iter().collect()
        })
    }

    /// Makes the accumulator of this call, without groups.
    ///
    /// **Errors**: when the function does not take the argument's type, which the planner refuses.
    pub fn accumulator(&self) -> Result<Box<dyn Accumulator>> {
        use AggregateFunction::*;
        let name: Arc<str> = self.name.as_str().into();
        let Some(argument) = &self.argument else {
            return match self.function {
                Count => Ok(Box::new(count::Count::default())),
                other => Err(OperatorError::internal(format!("aggregate '{name}': {other} needs an argument"))),
            };
        };
        let made = match self.function {
            Count => Some(Box::new(count::Count::default()) as Box<dyn Accumulator>),
            CountDistinct => distinct::Distinct::new(argument).map(|made| Box::new(made) as Box<dyn Accumulator>),
            Sum => sum::sum(argument, name),
            Avg => sum::average(argument),
            Min => extreme::least(argument),
            Max => extreme::greatest(argument),
            First => Some(edge::first(argument)),
            Last => Some(edge::last(argument)),
        };
        made.ok_or_else(|| {
            OperatorError::internal(format!("aggregate '{}': {} does not take {argument}", self.name, self.function))
        })
    }
}

/// Makes room for groups; memory that is new comes from the system as zeros, and is not touched before it is used.
fn resize<T: Clone + Default>(values: &mut Vec<T>, groups: usize) {
    if values.capacity() == 0 {
        *values = vec![T::default(); groups];
    } else {
        values.resize(groups, T::default());
    }
}

/// Runs `each(row, group)` for the rows that count.
#[inline]
fn for_each_valid(ids: &[u32], valid: Option<&NullBuffer>, mut each: impl FnMut(usize, usize)) {
    match valid {
        None => ids.iter().enumerate().for_each(|(row, id)| each(row, *id as usize)),
        Some(valid) => valid.valid_indices().for_each(|row| each(row, ids[row] as usize)),
    }
}

/// The validity of results: groups that have seen a value.
fn seen_nulls(ids: &[u32], seen: impl Fn(usize) -> bool) -> Option<NullBuffer> {
    let nulls: NullBuffer = ids.iter().map(|id| seen(*id as usize)).collect();
    (nulls.null_count() > 0).then_some(nulls)
}

/// Finds the accumulator of the same kind behind the trait.
fn same_kind<A: 'static>(other: &dyn Accumulator) -> &A {
    other.as_any().downcast_ref().expect("accumulators of one call have one type")
}

/// Applies a macro to the Arrow type behind every type whose values are single numbers; `$otherwise` for the rest.
macro_rules! with_primitive_type {
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
            DataType::Float32 => $then!(Float32Type),
            DataType::Float64 => $then!(Float64Type),
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
            DataType::Decimal128(_, _) => $then!(Decimal128Type),
            _ => $otherwise,
        }
    };
}
use with_primitive_type;
