//! Which row goes to which channel, a whole batch at a time. Pure; called by the writer.
//!
//! Hash: the key columns are hashed once per batch; a counting sort gives the order of rows by target; one `take`
//! brings all columns into that order; each target's rows are a slice of the result, without another copy.

use arrow_array::{RecordBatch, UInt32Array};
use arrow_select::take::take_record_batch;
use weir_core::KeyGroup;
use weir_core::key_hash::hash_columns;
use weir_graph::Partitioning;
use weir_operator_api::OperatorError;

/// Deals the rows of one sending subtask to its channels.
#[derive(Debug)]
pub struct Partitioner {
    way: Way,
    target_count: usize,
}

#[derive(Debug)]
enum Way {
    /// One channel.
    Single,
    /// Whole batches in turn.
    InTurn {
        next: usize,
    },
    Hash(HashWay),
}

#[derive(Debug)]
struct HashWay {
    columns: Vec<usize>,
    key_group_count: u32,
    hashes: Vec<u64>,
    targets: Vec<u32>,
    starts: Vec<usize>,
}

impl Partitioner {
    /// Deals to `target_count` channels. `first` is where a sender begins that deals in turn: senders begin at
    /// different targets, so that short streams spread too.
    pub fn new(partitioning: &Partitioning, target_count: usize, key_group_count: u32, first: usize) -> Self {
        let way = match partitioning {
            _ if target_count == 1 => Way::Single,
            Partitioning::Forward | Partitioning::Rescale => Way::Single,
            Partitioning::Rebalance => Way::InTurn { next: first % target_count },
            Partitioning::Hash { columns } => Way::Hash(HashWay {
                columns: columns.clone(),
                key_group_count,
                hashes: Vec::new(),
                targets: Vec::new(),
                starts: Vec::new(),
            }),
        };
        Partitioner { way, target_count }
    }

    /// Calls `send` with each target that gets rows, and its rows, in their order.
    ///
    /// **Errors**: a key column without a hash; refused at submission.
    pub fn split(
        &mut self,
        records: RecordBatch,
        mut send: impl FnMut(usize, RecordBatch),
    ) -> Result<(), OperatorError> {
        match &mut self.way {
            Way::Single => send(0, records),
            Way::InTurn { next } => {
                send(*next, records);
                *next = (*next + 1) % self.target_count;
            }
            Way::Hash(way) => way.split(records, self.target_count, send)?,
        }
        Ok(())
    }
}

impl HashWay {
    fn split(
        &mut self,
        records: RecordBatch,
        target_count: usize,
        mut send: impl FnMut(usize, RecordBatch),
    ) -> Result<(), OperatorError> {
        let columns: Vec<_> = self.columns.iter().map(|index| records.column(*index).clone()).collect();
        hash_columns(&columns, &mut self.hashes)?;
        if self.hashes.is_empty() {
            // No key columns: all rows are of one key, and its group is that of the hash 0.
            send(
                KeyGroup::of(0, self.key_group_count).subtask(target_count as u32, self.key_group_count) as usize,
                records,
            );
            return Ok(());
        }
        let (groups, parallelism) = (self.key_group_count, target_count as u32);
        self.targets.clear();
        self.targets.extend(self.hashes.iter().map(|hash| KeyGroup::of(*hash, groups).subtask(parallelism, groups)));
        // starts[t] is where the rows of target t begin once sorted; starts[t + 1] where they end.
        self.starts.clear();
        self.starts.resize(target_count + 1, 0);
        for target in &self.targets {
            self.starts[*target as usize + 1] += 1;
        }
        if let Some(only) = (0..target_count).find(|target| self.starts[target + 1] == records.num_rows()) {
            send(only, records);
            return Ok(());
        }
        for target in 0..target_count {
            self.starts[target + 1] += self.starts[target];
        }
        let mut places = self.starts.clone();
        let mut order = vec![0u32; records.num_rows()];
        for (row, target) in self.targets.iter().enumerate() {
            let place = &mut places[*target as usize];
            order[*place] = row as u32;
            *place += 1;
        }
        let sorted = take_record_batch(&records, &UInt32Array::from(order))?;
        for target in 0..target_count {
            let (start, end) = (self.starts[target], self.starts[target + 1]);
            if end > start {
                send(target, sorted.slice(start, end - start));
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::sync::Arc;

    use arrow_array::cast::AsArray;
    use arrow_array::types::Int64Type;
    use arrow_array::{ArrayRef, Int64Array};
    use proptest::prelude::*;
    use weir_core::KeyGroupRange;

    use super::*;

    fn rows(keys: &[i64]) -> RecordBatch {
        let numbers: ArrayRef = Arc::new(Int64Array::from_iter_values(0..keys.len() as i64));
        let keys: ArrayRef = Arc::new(Int64Array::from(keys.to_vec()));
        RecordBatch::try_from_iter([("key", keys), ("n", numbers)]).expect("columns fit")
    }

    fn column(records: &RecordBatch, index: usize) -> Vec<i64> {
        records.column(index).as_primitive::<Int64Type>().values().to_vec()
    }

    proptest! {
        #[test]
        fn each_row_goes_to_one_channel_and_each_key_to_its_owner(
            keys in prop::collection::vec(0i64..50, 1..300),
            targets in 1usize..9,
        ) {
            let mut partitioner = Partitioner::new(&Partitioning::Hash { columns: vec![0] }, targets, 128, 0);
            let mut seen = BTreeMap::new();
            let mut ok = true;
            partitioner.split(rows(&keys), |target, part| {
                let numbers = column(&part, 1);
                ok &= numbers.is_sorted();
                let mut hashes = Vec::new();
                hash_columns(&part.columns()[..1], &mut hashes).expect("hashes");
                let owned = KeyGroupRange::of_subtask(target as u32, targets as u32, 128);
                ok &= hashes.iter().all(|hash| owned.contains(KeyGroup::of(*hash, 128)));
                for (n, key) in numbers.iter().zip(column(&part, 0)) {
                    ok &= seen.insert(*n, key).is_none();
                }
            }).expect("splits");
            prop_assert!(ok, "order, owner or uniqueness broken");
            prop_assert_eq!(seen.into_values().collect::<Vec<_>>(), keys);
        }
    }

    #[test]
    fn batches_are_dealt_in_turn_from_the_senders_own_start() {
        let mut partitioner = Partitioner::new(&Partitioning::Rebalance, 3, 128, 4);
        let mut targets = Vec::new();
        for _ in 0..4 {
            partitioner.split(rows(&[1]), |target, _| targets.push(target)).expect("splits");
        }
        assert_eq!(targets, [1, 2, 0, 1]);
    }
}
