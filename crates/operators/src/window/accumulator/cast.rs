//! Runs an accumulator over another type than its argument's, for types that are rare enough not to have their own.

use std::any::Any;

use arrow_array::ArrayRef;
use arrow_cast::cast;
use arrow_schema::DataType;
use weir_operator_api::Result;

use super::{Accumulator, Input, same_kind};

/// Values go in as `inside` and come out as `outside`; the accumulator's partial is one column of that type.
pub(super) struct Cast {
    accumulator: Box<dyn Accumulator>,
    inside: DataType,
    outside: DataType,
}

impl Cast {
    pub(super) fn new(accumulator: Box<dyn Accumulator>, inside: DataType, outside: DataType) -> Self {
        Cast { accumulator, inside, outside }
    }
}

impl Accumulator for Cast {
    fn resize(&mut self, groups: usize) {
        self.accumulator.resize(groups);
    }

    fn update(&mut self, ids: &[u32], input: &Input, times: &[i64]) -> Result<()> {
        let values = Some(cast(input.column(), &self.inside)?);
        self.accumulator.update(ids, &Input { values, valid: input.valid.clone() }, times)
    }

    fn merge(&mut self, ids: &[u32], other: &dyn Accumulator, from: &[u32]) -> Result<()> {
        self.accumulator.merge(ids, same_kind::<Self>(other).accumulator.as_ref(), from)
    }

    fn absorb(&mut self, into: u32, from: u32) -> Result<()> {
        self.accumulator.absorb(into, from)
    }

    fn merge_partial(&mut self, ids: &[u32], columns: &[ArrayRef]) -> Result<()> {
        self.accumulator.merge_partial(ids, &[cast(&columns[0], &self.inside)?])
    }

    fn partial(&self, ids: &[u32]) -> Result<Vec<ArrayRef>> {
        Ok(vec![self.evaluate(ids)?])
    }

    fn evaluate(&self, ids: &[u32]) -> Result<ArrayRef> {
        Ok(cast(&self.accumulator.evaluate(ids)?, &self.outside)?)
    }

    fn reset(&mut self, id: u32) {
        self.accumulator.reset(id);
    }

    fn clear(&mut self) {
        self.accumulator.clear();
    }

    fn size_bytes(&self) -> usize {
        self.accumulator.size_bytes()
    }

    fn as_any(&self) -> &dyn Any {
        self
    }
}
