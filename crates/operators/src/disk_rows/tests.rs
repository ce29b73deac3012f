//! Tests of `disk_rows.rs`: against a map, with every number of runs, and what is left on disk.

use std::collections::{BTreeMap, BTreeSet};

use arrow_array::Int64Array;
use arrow_array::cast::AsArray;
use arrow_array::types::Int64Type;
use arrow_schema::{DataType, Field};
use proptest::prelude::*;
use weir_core::KeyGroupRange;

use super::*;
use crate::state_rows::{Column, Layout};

const GROUPS: u32 = 5;

/// Keys with a number each, which is their end too.
struct Table {
    keys: KeyIds,
    disk: DiskRows,
}

impl Table {
    fn new(stores: &StateStores) -> Self {
        let layout = Layout::keyed("t", ["key.k", "v"].map(|name| Column::new(name, DataType::Int64)).to_vec());
        let (mut context, _) = weir_testkit::context(vec![layout.schema().clone()], layout.schema().clone());
        (context.stores, context.key_group_count) = (stores.clone(), GROUPS);
        context.key_groups = KeyGroupRange::of_subtask(0, 1, GROUPS);
        let disk = DiskRows::new(&context, &layout, 1).expect("the types are keys");
        let keys = KeyIds::new(&["k".to_owned()], &Schema::new(vec![Field::new("k", DataType::Int64, true)]));
        Table { keys: keys.expect("the type is a key"), disk }
    }

    fn intern(&mut self, keys: impl Iterator<Item = i64>) -> Vec<u32> {
        let keys: ArrayRef = Arc::new(keys.collect::<Int64Array>());
        self.keys.intern_keys(std::slice::from_ref(&keys), keys.len()).expect("the type is a key").to_vec()
    }

    fn put(&mut self, rows: &BTreeMap<i64, i64>) -> Result<()> {
        let ids = self.intern(rows.keys().copied());
        let value: BTreeMap<u32, i64> = ids.iter().copied().zip(rows.values().copied()).collect();
        let rest = |ids: &[u32]| {
            let values: ArrayRef = Arc::new(ids.iter().map(|id| value[id]).collect::<Int64Array>());
            Ok(vec![values])
        };
        let end = rows.values().max().copied().unwrap_or(i64::MIN);
        self.disk.put(&self.keys, ids.iter().copied(), rest, end)
    }

    fn find(&mut self, keys: &BTreeSet<i64>) -> BTreeMap<i64, i64> {
        let keys: Vec<i64> = keys.iter().copied().collect();
        let ids = self.intern(keys.iter().copied());
        let found = self.disk.find(&self.keys, ids.iter().copied()).expect("the store is there");
        if found.ids.is_empty() {
            return BTreeMap::new();
        }
        let key = |id: &u32| keys[ids.iter().position(|known| known == id).expect("it was asked for")];
        let values = found.rest[0].as_primitive::<Int64Type>().values();
        found.ids.iter().map(key).zip(values.iter().copied()).collect()
    }

    fn tidy(&mut self, now: i64) {
        let is_over = |rest: &[ArrayRef], row: usize| rest[0].as_primitive::<Int64Type>().value(row) <= now;
        self.disk.tidy(now, is_over).expect("the store is there");
    }

    /// What a checkpoint holds, the greatest number per key.
    fn frozen(&self) -> BTreeMap<i64, i64> {
        let mut rows: BTreeMap<i64, i64> = BTreeMap::new();
        for batch in self.disk.frozen().iter().flat_map(|piece| piece.batches().expect("it is there")) {
            let column = |column: usize| batch.column(column).as_primitive::<Int64Type>().values().to_vec();
            for (key, value) in column(1).into_iter().zip(column(2)) {
                let greatest = rows.entry(key).or_insert(value);
                *greatest = value.max(*greatest);
            }
        }
        rows
    }

    /// Rows on disk, older ones of the same keys with them.
    fn row_count(&self) -> usize {
        self.disk.shards.iter().flat_map(|shard| &shard.runs).map(|run| run.run.row_count()).sum()
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(128))]
    /// Rounds of keys that come back, change, and go to disk with new ones: like a map, whatever was written anew.
    #[test]
    fn rows_come_back_as_they_were_put_last(
        rounds in prop::collection::vec((prop::collection::btree_set(0i64..40, 1..12), any::<bool>()), 1..40),
    ) {
        let mut table = Table::new(&StateStores::in_memory());
        let mut model: BTreeMap<i64, i64> = BTreeMap::new();
        for (round, (keys, is_tidy)) in (1i64..).zip(rounds) {
            let expected: BTreeMap<i64, i64> =
                keys.iter().filter_map(|key| Some((*key, *model.get(key)?))).collect();
            prop_assert_eq!(table.find(&keys), expected);
            let rows: BTreeMap<i64, i64> = keys.iter().map(|key| (*key, round)).collect();
            table.put(&rows).expect("the store is there");
            model.extend(rows);
            if is_tidy {
                table.tidy(0);
                prop_assert!(table.row_count() <= 4 * model.len(), "{} for {}", table.row_count(), model.len());
                table.disk.to_merge = usize::MAX;
                table.tidy(0);
                prop_assert!(table.row_count() <= 2 * model.len(), "{} for {}", table.row_count(), model.len());
            }
            prop_assert_eq!(table.frozen(), model.clone());
        }
    }

    /// What is merged at once is in proportion to what was put away, and still enough.
    #[test]
    fn merging_keeps_up_step_by_step(
        rounds in prop::collection::vec(prop::collection::btree_set(0i64..1000, 20..30), 100..120),
    ) {
        let mut table = Table::new(&StateStores::in_memory());
        let mut keys_so_far = BTreeSet::new();
        for keys in rounds {
            table.put(&keys.iter().map(|key| (*key, 1)).collect()).expect("the store is there");
            keys_so_far.extend(keys);
            let next = table.disk.next_piece;
            table.tidy(0);
            // One shard more than the bound says, at most.
            let merged: usize = table.disk.shards.iter().flat_map(|shard| &shard.runs)
                .filter(|run| run.first_piece >= next).map(|run| run.run.row_count()).sum();
            prop_assert!(merged <= MERGED_PER_ROW * 30 + 1000, "{} rows at once", merged);
            prop_assert!(table.row_count() <= 3 * keys_so_far.len() + 30);
            prop_assert!(table.disk.shards.iter().all(|shard| shard.runs.len() <= 10));
        }
    }

    /// What is over leaves the disk, and nothing else does.
    #[test]
    fn rows_that_are_over_leave_the_disk(
        rounds in prop::collection::vec(prop::collection::btree_set(0i64..1000, 1..12), 1..20),
        back in 0i64..6,
    ) {
        let stores = StateStores::in_memory();
        let mut table = Table::new(&stores);
        let mut model: BTreeMap<i64, i64> = BTreeMap::new();
        let last = rounds.len() as i64;
        for (round, keys) in (1i64..).zip(rounds) {
            table.find(&keys);
            let rows: BTreeMap<i64, i64> = keys.iter().map(|key| (*key, round)).collect();
            table.put(&rows).expect("the store is there");
            model.extend(rows);
        }
        let now = last - back;
        table.tidy(now);
        model.retain(|_, round| *round > now);
        prop_assert_eq!(table.frozen().into_iter().filter(|row| row.1 > now).collect::<BTreeMap<_, _>>(), model.clone());
        table.tidy(last);
        prop_assert_eq!(table.frozen(), BTreeMap::new());
        prop_assert!(table.disk.is_empty());
        prop_assert_eq!(stores.size_bytes(), 0);
    }

    /// Runs that are merged are the last ones, few are left, and no row is written again much more often than they double.
    #[test]
    fn runs_stay_few(sizes in prop::collection::vec(1usize..1000, 1..200)) {
        let mut runs: Vec<usize> = Vec::new();
        let mut written = 0;
        for size in &sizes {
            runs.push(*size);
            let first = small_ones(&runs);
            prop_assert!(first + 1 != runs.len(), "one run is not merged");
            if first < runs.len() {
                let joined = runs.drain(first..).sum();
                written += joined;
                runs.push(joined);
            }
            prop_assert!((1..runs.len()).all(|at| runs[at - 1] > runs[at..].iter().sum()), "{:?}", runs);
        }
        let rows: usize = sizes.iter().sum();
        let doublings = rows.ilog2() as usize + 1;
        prop_assert!(runs.len() <= doublings, "{:?}", runs);
        prop_assert!(written <= doublings * rows, "{} of {} rows were written again", written, rows);
    }
}

/// Refuses to write while it is full.
struct Limited {
    store: weir_state::store::MemoryStore,
    is_full: Arc<std::sync::atomic::AtomicBool>,
}

/// A file of such a store.
struct LimitedFile {
    file: Box<dyn weir_state::store::StateFile>,
    is_full: Arc<std::sync::atomic::AtomicBool>,
}

fn no_room() -> weir_state::StateStoreError {
    weir_state::StateStoreError { place: "here".to_owned(), doing: "write", reason: "it is full".to_owned() }
}

impl weir_state::store::StateFile for LimitedFile {
    fn append(&mut self, bytes: &[u8]) -> std::result::Result<(), weir_state::StateStoreError> {
        if self.is_full.load(std::sync::atomic::Ordering::Relaxed) {
            return Err(no_room());
        }
        self.file.append(bytes)
    }

    fn read_at(&self, at: u64, into: &mut [u8]) -> std::result::Result<(), weir_state::StateStoreError> {
        self.file.read_at(at, into)
    }
}

#[test]
fn what_cannot_be_written_stays_as_it_was() {
    use std::sync::atomic::Ordering::Relaxed;
    let limited = Arc::new(Limited { store: Default::default(), is_full: Arc::new(false.into()) });
    let shared = limited.clone();
    let mut table = Table::new(&StateStores::new(move || Ok(shared.clone())));
    let rows = |keys: std::ops::Range<i64>, value: i64| keys.map(|key| (key, value)).collect::<BTreeMap<_, _>>();
    table.put(&rows(0..20, 1)).expect("there is room");
    let before = table.frozen();
    limited.is_full.store(true, Relaxed);
    table.find(&(10..20).collect());
    table.put(&rows(10..30, 2)).expect_err("there is no room");
    assert_eq!(table.frozen(), before);
    limited.is_full.store(false, Relaxed);
    table.put(&rows(10..30, 3)).expect("there is room again");
    table.tidy(0);
    assert_eq!(table.frozen(), rows(0..10, 1).into_iter().chain(rows(10..30, 3)).collect());
    assert_eq!(table.find(&(0..40).collect()), table.frozen());
}

impl weir_state::store::StateStore for Limited {
    fn put(&self, entries: &weir_state::store::Entries) -> std::result::Result<(), weir_state::StateStoreError> {
        self.store.put(entries)
    }

    fn get(&self, keys: &[Vec<u8>]) -> std::result::Result<Vec<Option<Vec<u8>>>, weir_state::StateStoreError> {
        self.store.get(keys)
    }

    fn range(
        &self,
        from: &[u8],
        to: &[u8],
        count: usize,
    ) -> std::result::Result<weir_state::store::Entries, weir_state::StateStoreError> {
        self.store.range(from, to, count)
    }

    fn delete(&self, keys: &[Vec<u8>]) -> std::result::Result<(), weir_state::StateStoreError> {
        self.store.delete(keys)
    }

    fn delete_range(&self, from: &[u8], to: &[u8]) -> std::result::Result<(), weir_state::StateStoreError> {
        self.store.delete_range(from, to)
    }

    fn file(&self) -> std::result::Result<Box<dyn weir_state::store::StateFile>, weir_state::StateStoreError> {
        Ok(Box::new(LimitedFile { file: self.store.file()?, is_full: self.is_full.clone() }))
    }

    fn size_bytes(&self) -> u64 {
        self.store.size_bytes()
    }
}
