//! `first` and `last` by event time. On a tie `first` keeps the row that came first and `last` the one that came last.

use std::any::Any;

use arrow_array::cast::AsArray;
use arrow_array::types::TimestampMicrosecondType;
use arrow_array::{Array, ArrayRef, PrimitiveArray};
use arrow_schema::DataType;
use weir_core::batch::event_time_type;
use weir_operator_api::Result;

use super::cells::{Cells, cells};
use super::{Accumulator, Input, for_each_valid, same_kind, seen_nulls};

/// The accumulator of `first`.
pub(super) fn first(argument: &DataType) -> Box<dyn Accumulator> {
    Box::new(Edge::<false>::new(argument))
}

/// The accumulator of `last`.
pub(super) fn last(argument: &DataType) -> Box<dyn Accumulator> {
    Box::new(Edge::<true>::new(argument))
}

struct Edge<const LAST: bool> {
    /// Event time of the kept row. The empty group has the time that every sane time beats.
    times: Vec<i64>,
    cells: Box<dyn Cells>,
    /// Scratch: which groups take which rows.
    taken: (Vec<u32>, Vec<u32>),
}

impl<const LAST: bool> Edge<LAST> {
    const EMPTY: i64 = if LAST { i64::MIN } else { i64::MAX };

    fn new(argument: &DataType) -> Self {
        Edge { times: Vec::new(), cells: cells(argument), taken: Default::default() }
    }

    fn offer(times: &mut [i64], (ids, rows): &mut (Vec<u32>, Vec<u32>), id: usize, time: i64, row: usize) {
        if if LAST { time >= times[id] } else { time < times[id] } {
            times[id] = time;
            ids.push(id as u32);
            rows.push(row as u32);
        }
    }
}

impl<const LAST: bool> Accumulator for Edge<LAST> {
    fn resize(&mut self, groups: usize) {
        self.times.resize(groups, Self::EMPTY);
        self.cells.resize(groups);
    }

    fn update(&mut self, ids: &[u32], input: &Input, times: &[i64]) -> Result<()> {
        self.taken.0.clear();
        self.taken.1.clear();
        let (known, taken) = (&mut self.times, &mut self.taken);
        for_each_valid(ids, input.valid.as_ref(), |row, id| Self::offer(known, taken, id, times[row], row));
        self.cells.set(&self.taken.0, &self.taken.1, input.column())
    }

    fn merge(&mut self, ids: &[u32], other: &dyn Accumulator, from: &[u32]) -> Result<()> {
        let other: &Self = same_kind(other);
        self.taken.0.clear();
        self.taken.1.clear();
        for (id, from) in ids.iter().zip(from) {
            let time = other.times[*from as usize];
            if time != Self::EMPTY {
                Self::offer(&mut self.times, &mut self.taken, *id as usize, time, *from as usize);
            }
        }
        self.cells.copy(&self.taken.0, other.cells.as_ref(), &self.taken.1);
        Ok(())
    }

    fn absorb(&mut self, into: u32, from: u32) -> Result<()> {
        let (there, time) = (self.times[into as usize], self.times[from as usize]);
        if time != Self::EMPTY && if LAST { time >= there } else { time < there } {
            self.times[into as usize] = time;
            self.cells.move_one(into, from);
        }
        self.reset(from);
        Ok(())
    }

    fn merge_partial(&mut self, ids: &[u32], columns: &[ArrayRef]) -> Result<()> {
        let times = columns[1].as_primitive::<TimestampMicrosecondType>();
        self.taken.0.clear();
        self.taken.1.clear();
        let (known, taken) = (&mut self.times, &mut self.taken);
        for_each_valid(ids, times.nulls(), |row, id| Self::offer(known, taken, id, times.value(row), row));
        self.cells.set(&self.taken.0, &self.taken.1, &columns[0])
    }

    fn partial(&self, ids: &[u32]) -> Result<Vec<ArrayRef>> {
        let times = ids.iter().map(|id| self.times[*id as usize]).collect();
        let nulls = seen_nulls(ids, |id| self.times[id] != Self::EMPTY);
        let times = PrimitiveArray::<TimestampMicrosecondType>::new(times, nulls).with_data_type(event_time_type());
        Ok(vec![self.evaluate(ids)?, std::sync::Arc::new(times)])
    }

    fn evaluate(&self, ids: &[u32]) -> Result<ArrayRef> {
        self.cells.column(ids, &|id| self.times[id] != Self::EMPTY)
    }

    fn reset(&mut self, id: u32) {
        self.times[id as usize] = Self::EMPTY;
        self.cells.reset(id);
    }

    fn clear(&mut self) {
        self.times.clear();
        self.cells.clear();
    }

    fn size_bytes(&self) -> usize {
        self.times.capacity() * size_of::<i64>() + self.cells.size_bytes()
    }

    fn as_any(&self) -> &dyn Any {
        self
    }
}
