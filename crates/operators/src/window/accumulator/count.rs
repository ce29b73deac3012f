//! `count`: rows, or values that are not null.

use std::any::Any;
use std::ops::Range;
use std::sync::Arc;

use arrow_array::cast::AsArray;
use arrow_array::types::Int64Type;
use arrow_array::{ArrayRef, Int64Array};
use weir_operator_api::Result;

use super::{Accumulator, Input, for_each_valid, resize, same_kind};

#[derive(Default)]
pub(super) struct Count {
    counts: Vec<i64>,
}

impl Accumulator for Count {
    fn resize(&mut self, groups: usize) {
        resize(&mut self.counts, groups);
    }

    fn update(&mut self, ids: &[u32], input: &Input, _times: &[i64]) -> Result<()> {
        let counts = &mut self.counts[..];
        for_each_valid(ids, input.valid.as_ref(), |_, id| counts[id] += 1);
        Ok(())
    }

    fn merge(&mut self, ids: &[u32], other: &dyn Accumulator, from: &[u32]) -> Result<()> {
        let other: &Count = same_kind(other);
        for (id, from) in ids.iter().zip(from) {
            self.counts[*id as usize] += other.counts[*from as usize];
        }
        Ok(())
    }

    fn absorb(&mut self, into: u32, from: u32) -> Result<()> {
        self.counts[into as usize] += std::mem::take(&mut self.counts[from as usize]);
        Ok(())
    }

    fn merge_partial(&mut self, ids: &[u32], columns: &[ArrayRef]) -> Result<()> {
        for (id, count) in ids.iter().zip(columns[0].as_primitive::<Int64Type>().values()) {
            self.counts[*id as usize] += *count;
        }
        Ok(())
    }

    fn partial(&self, ids: &[u32]) -> Result<Vec<ArrayRef>> {
        Ok(vec![self.evaluate(ids)?])
    }

    fn evaluate(&self, ids: &[u32]) -> Result<ArrayRef> {
        Ok(Arc::new(Int64Array::from_iter_values(ids.iter().map(|id| self.counts[*id as usize]))))
    }

    fn reset(&mut self, id: u32) {
        self.counts[id as usize] = 0;
    }

    fn reset_range(&mut self, ids: Range<u32>) {
        self.counts[ids.start as usize..ids.end as usize].fill(0);
    }

    fn clear(&mut self) {
        self.counts.clear();
    }

    fn size_bytes(&self) -> usize {
        self.counts.capacity() * size_of::<i64>()
    }

    fn as_any(&self) -> &dyn Any {
        self
    }
}
