//! `tally`: counts rows per key and holds its output back for a while. `pass`: passes rows on, of any input. All other
//! kinds are those of the product.

use std::collections::BTreeMap;
use std::sync::Arc;

use arrow_array::cast::AsArray;
use arrow_array::types::Int64Type;
use arrow_array::{ArrayRef, Int64Array, RecordBatch};
use weir_core::key_hash::hash_columns;
use weir_core::{Batch, EventTime, KeyGroup};
use weir_graph::PlannedOperator;
use weir_operator_api::{Operator, OperatorContext, Output, Progress, Result};
use weir_state::StateTable;

use super::connectors::schema;

/// What a count is multiplied with: a row out is key * this + how often the key had come.
pub const FACTOR: i64 = 1_000_000;
const HELD_MAX: usize = 300;
const PIECE: usize = 50;

pub fn create(planned: &PlannedOperator, context: OperatorContext) -> Result<Box<dyn Operator>> {
    match planned.kind.as_str() {
        "tally" => Ok(Box::new(Tally { context, counts: BTreeMap::new(), held: Vec::new() })),
        "pass" => Ok(Box::new(Pass)),
        _ => weir_operators::create(planned, context),
    }
}

struct Pass;

impl Operator for Pass {
    fn process(&mut self, _: usize, batch: Batch, out: &mut dyn Output) -> Result<Progress> {
        out.emit(batch);
        Ok(Progress::Done)
    }
}

struct Tally {
    context: OperatorContext,
    counts: BTreeMap<i64, i64>,
    held: Vec<i64>,
}

impl Tally {
    fn send(&mut self, count: usize, out: &mut dyn Output) -> Result<Progress> {
        let rest = self.held.split_off(count.min(self.held.len()));
        let numbers: ArrayRef = Arc::new(Int64Array::from(std::mem::replace(&mut self.held, rest)));
        out.emit(Batch::new(RecordBatch::try_new(schema(), vec![numbers])?, 1));
        Ok(if self.held.is_empty() { Progress::Done } else { Progress::More })
    }
}

impl Operator for Tally {
    fn process(&mut self, _: usize, batch: Batch, out: &mut dyn Output) -> Result<Progress> {
        for key in batch.records.column(0).as_primitive::<Int64Type>().values() {
            let count = self.counts.entry(*key).or_default();
            *count += 1;
            self.held.push(key * FACTOR + *count);
        }
        if self.held.len() >= HELD_MAX { self.send(usize::MAX, out) } else { Ok(Progress::Done) }
    }

    fn on_barrier(&mut self, out: &mut dyn Output) -> Result<Progress> {
        self.send(PIECE, out)
    }

    fn resume(&mut self, out: &mut dyn Output) -> Result<Progress> {
        self.send(PIECE, out)
    }

    fn on_end(&mut self, out: &mut dyn Output) -> Result<Progress> {
        self.send(PIECE, out)
    }

    fn snapshot(&mut self) -> Result<Vec<StateTable>> {
        let keys: ArrayRef = Arc::new(Int64Array::from_iter_values(self.counts.keys().copied()));
        let counts: ArrayRef = Arc::new(Int64Array::from_iter_values(self.counts.values().copied()));
        let mut hashes = Vec::new();
        hash_columns(&[Arc::clone(&keys)], &mut hashes)?;
        let groups = hashes.iter().map(|hash| u32::from(KeyGroup::of(*hash, self.context.key_group_count).0)).collect();
        Ok(vec![StateTable::keyed("counts", 1, groups, vec![("key", keys), ("count", counts)])?])
    }

    fn restore(&mut self, tables: Vec<StateTable>, _: EventTime) -> Result<()> {
        for batch in tables.iter().flat_map(|table| &table.batches) {
            let column = |index: usize| batch.column(index).as_primitive::<Int64Type>().values();
            for (key, count) in column(1).iter().zip(column(2)) {
                assert!(self.counts.insert(*key, *count).is_none(), "key {key} came twice");
            }
        }
        Ok(())
    }
}
