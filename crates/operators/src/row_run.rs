//! Rows of a keyed table that left memory: in the state store, by key group, so that a window larger than memory is
//! emitted key group by key group. Joins and top-N use it; it does not know what the rows mean.

use std::sync::Arc;

use arrow_array::RecordBatch;
use arrow_array::cast::AsArray;
use arrow_array::types::UInt32Type;
use arrow_select::interleave::interleave_record_batch;
use weir_operator_api::{OperatorError, Result};
use weir_state::{FrozenPiece, StateSpace, StateStores, rows_codec};

use crate::state_rows::BATCH_ROWS;

/// Rows of one value, at most: bounds the memory for reading it.
const VALUE_ROWS: usize = if cfg!(test) { 2 } else { 32 * 1024 };
/// Rows of one piece of a checkpoint, about.
const PIECE_ROWS: u32 = if cfg!(test) { 3 } else { BATCH_ROWS as u32 };

/// Writes the runs of one operator.
#[derive(Debug)]
pub(crate) struct RunWriter {
    stores: StateStores,
    /// Where runs lie, from the first on.
    space: Option<StateSpace>,
    /// Numbers values and pieces of checkpoints.
    next_number: u64,
}

/// Rows of one table; its values are deleted with it.
#[derive(Debug)]
pub(crate) struct RowRun {
    space: StateSpace,
    /// Each key group that has rows, in order.
    groups: Vec<GroupOfRun>,
}

#[derive(Clone, Copy, Debug)]
struct GroupOfRun {
    key_group: u32,
    rows: u32,
    /// Its values have the numbers from this one on; no other run of the operator has them.
    first_value: u64,
}

impl GroupOfRun {
    fn values(&self) -> std::ops::Range<u64> {
        self.first_value..self.first_value + u64::from(self.rows).div_ceil(VALUE_ROWS as u64)
    }
}

impl RunWriter {
    pub(crate) fn new(stores: StateStores) -> Self {
        RunWriter { stores, space: None, next_number: 0 }
    }

    /// Writes the rows of some batches of one keyed table, the key groups their first column.
    ///
    /// **Errors**: the store cannot write; nothing stays there then.
    pub(crate) fn write(&mut self, batches: &[RecordBatch]) -> Result<Arc<RowRun>> {
        let space = match &self.space {
            Some(space) => space.clone(),
            None => self.space.insert(self.stores.space()?).clone(),
        };
        let mut places = Vec::with_capacity(batches.iter().map(RecordBatch::num_rows).sum());
        for (batch, records) in batches.iter().enumerate() {
            let groups = records.column(0).as_primitive::<UInt32Type>().values();
            places.extend(groups.iter().zip(0u32..).map(|(group, row)| (*group, batch as u32, row)));
        }
        places.sort_unstable();
        let batches: Vec<&RecordBatch> = batches.iter().collect();
        let mut run = RowRun { space, groups: Vec::new() };
        for group in places.chunk_by(|a, b| a.0 == b.0) {
            // It is in the list before its values are written, so that a failure takes them back.
            let of_run = GroupOfRun { key_group: group[0].0, rows: group.len() as u32, first_value: self.next_number };
            self.next_number = of_run.values().end;
            run.groups.push(of_run);
            for (rows, number) in group.chunks(VALUE_ROWS).zip(of_run.values()) {
                let rows: Vec<(usize, usize)> = rows.iter().map(|at| (at.1 as usize, at.2 as usize)).collect();
                let value = rows_codec::encode(&interleave_record_batch(&batches, &rows)?)?;
                run.space.put(vec![(number.to_be_bytes().to_vec(), value)])?;
            }
        }
        Ok(Arc::new(run))
    }
}

impl RowRun {
    /// The key groups that have rows here, in order.
    pub(crate) fn key_groups(&self) -> impl Iterator<Item = u32> {
        self.groups.iter().map(|group| group.key_group)
    }

    /// The rows of one key group, value by value.
    pub(crate) fn read(&self, key_group: u32) -> impl Iterator<Item = Result<RecordBatch>> {
        let found = self.groups.binary_search_by_key(&key_group, |group| group.key_group);
        found.map(|at| &self.groups[at]).into_iter().flat_map(|group| self.read_group(group))
    }

    fn read_group(&self, group: &GroupOfRun) -> impl Iterator<Item = Result<RecordBatch>> {
        group.values().map(|number| {
            let value = self.space.get(&[number.to_be_bytes()])?.pop().flatten();
            Ok(rows_codec::decode(&value.ok_or_else(lost)?)?)
        })
    }

    /// The rows as pieces of a checkpoint, which keep them on disk until they are written.
    pub(crate) fn frozen(self: &Arc<Self>) -> Vec<FrozenPiece> {
        let (mut pieces, mut start) = (Vec::new(), 0);
        while start < self.groups.len() {
            let (mut end, mut rows) = (start, 0);
            while end < self.groups.len() && rows < PIECE_ROWS {
                rows += self.groups[end].rows;
                end += 1;
            }
            let (run, groups) = (Arc::clone(self), start..end);
            let read = move || {
                let groups = run.groups[groups.clone()].iter();
                Ok(groups.flat_map(|group| run.read_group(group)).collect::<Result<_>>()?)
            };
            pieces.push(FrozenPiece::Numbered(self.groups[start].first_value, Arc::new(read)));
            start = end;
        }
        pieces
    }
}

impl Drop for RowRun {
    fn drop(&mut self) {
        let numbers = self.groups.iter().flat_map(GroupOfRun::values);
        let keys: Vec<_> = numbers.map(u64::to_be_bytes).collect();
        // The space goes with the operator at the latest, and everything in it.
        if let Err(error) = self.space.delete(&keys) {
            tracing::warn!("rows of a finished window stay on disk: {error}");
        }
    }
}

/// The store does not hold what was put there.
pub(crate) fn lost() -> OperatorError {
    OperatorError::external("state-store", "state that was put on disk is no longer there")
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use arrow_array::types::Int64Type;
    use arrow_array::{ArrayRef, Int64Array};
    use arrow_schema::DataType;
    use proptest::prelude::*;

    use super::*;
    use crate::state_rows::{Column, Layout};

    proptest! {
        /// Rows come back by key group, once each, as long as somebody holds the run.
        #[test]
        fn rows_come_back_by_key_group_and_go_with_their_run(
            batches in prop::collection::vec(prop::collection::vec((0u32..9, any::<i64>()), 0..12), 1..6),
        ) {
            let layout = Layout::keyed("t", vec![Column::new("v", DataType::Int64)]);
            let batch = |rows: &Vec<(u32, i64)>| {
                let values: ArrayRef = Arc::new(rows.iter().map(|row| row.1).collect::<Int64Array>());
                layout.keyed_batch(rows.iter().map(|row| row.0).collect(), vec![values]).expect("columns fit")
            };
            let stores = StateStores::in_memory();
            let mut writer = RunWriter::new(stores.clone());
            let written: Vec<RecordBatch> = batches.iter().map(batch).collect();
            let run = writer.write(&written).expect("the store is there");
            let other = writer.write(&written).expect("the store is there");
            let mut expected: BTreeMap<u32, Vec<i64>> = BTreeMap::new();
            batches.iter().flatten().for_each(|(group, value)| expected.entry(*group).or_default().push(*value));
            prop_assert_eq!(run.key_groups().collect::<Vec<_>>(), expected.keys().copied().collect::<Vec<_>>());
            let values = |rows: &RecordBatch| rows.column(1).as_primitive::<Int64Type>().values().to_vec();
            for group in 0..9 {
                let found: Vec<i64> = run.read(group).flat_map(|rows| values(&rows.expect("it is there"))).collect();
                prop_assert_eq!(found, expected.get(&group).cloned().unwrap_or_default());
            }
            let pieces = run.frozen();
            drop(run);
            let frozen: Vec<RecordBatch> = pieces.iter().flat_map(|piece| piece.batches().expect("held")).collect();
            let found: Vec<i64> = frozen.iter().flat_map(values).collect();
            prop_assert_eq!(found, expected.into_values().flatten().collect::<Vec<_>>());
            drop((pieces, other));
            prop_assert_eq!(stores.size_bytes(), 0);
        }
    }
}
