//! Tests of `disk_rows.rs`: against a map, with every number of parts, and what is left on disk.

use std::collections::{BTreeMap, BTreeSet};

use arrow_array::Int64Array;
use arrow_array::cast::AsArray;
use arrow_array::types::Int64Type;
use arrow_schema::{DataType, Field};
use proptest::prelude::*;

use super::*;
use crate::state_rows::{Column, Layout};

const GROUPS: u32 = 5;

/// Keys with a number each, which is their end too.
struct Table {
    layout: Layout,
    keys: KeyIds,
    disk: DiskRows,
}

impl Table {
    fn new(stores: &StateStores) -> Self {
        let layout = Layout::keyed("t", ["key.k", "v"].map(|name| Column::new(name, DataType::Int64)).to_vec());
        let disk = DiskRows::new(stores.clone(), layout.schema(), 1).expect("the types are keys");
        let keys = KeyIds::new(&["k".to_owned()], &Schema::new(vec![Field::new("k", DataType::Int64, true)]));
        Table { layout, keys: keys.expect("the type is a key"), disk }
    }

    fn intern(&mut self, keys: impl Iterator<Item = i64>) -> Vec<u32> {
        let keys: ArrayRef = Arc::new(keys.collect::<Int64Array>());
        self.keys.intern_keys(std::slice::from_ref(&keys), keys.len()).expect("the type is a key").to_vec()
    }

    fn put(&mut self, rows: &BTreeMap<i64, i64>) -> Result<()> {
        let ids = self.intern(rows.keys().copied());
        let (groups, mut columns) = self.keys.keys(&ids, GROUPS).expect("the keys are held");
        columns.push(Arc::new(rows.values().copied().collect::<Int64Array>()));
        let batch = self.layout.keyed_batch(groups, columns).expect("columns fit");
        let hashes = ids.iter().map(|id| self.keys.hash_of(*id));
        self.disk.put(std::iter::once(Ok(batch)), hashes, rows.values().max().copied().unwrap_or(i64::MIN))
    }

    fn take(&mut self, keys: &BTreeSet<i64>) -> BTreeMap<i64, i64> {
        let keys: Vec<i64> = keys.iter().copied().collect();
        let ids = self.intern(keys.iter().copied());
        let found = self.disk.take(&self.keys, ids.iter().copied()).expect("the store is there");
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

    fn entries(&self) -> usize {
        let index = self.disk.index.as_ref().expect("something was put away");
        index.range(&[], None, usize::MAX).expect("the store is there").len()
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
            prop_assert_eq!(table.take(&keys), expected);
            let rows: BTreeMap<i64, i64> = keys.iter().map(|key| (*key, round)).collect();
            table.put(&rows).expect("the store is there");
            model.extend(rows);
            if is_tidy {
                table.tidy(0);
                let rows: usize = table.disk.parts.iter().map(|part| part.row_count).sum();
                prop_assert!(rows <= 2 * model.len(), "{} rows for {} keys", rows, model.len());
            }
            prop_assert_eq!(table.frozen(), model.clone());
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
            table.take(&keys);
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
        prop_assert_eq!(table.entries(), 0);
        prop_assert_eq!(stores.size_bytes(), 0);
    }

    /// Parts that are joined are the last ones, of a size together, and there are few others.
    #[test]
    fn parts_stay_few(sizes in prop::collection::vec(1usize..=PART_ROWS, 1..200)) {
        let mut parts: Vec<usize> = Vec::new();
        let mut written = 0;
        for size in &sizes {
            parts.push(*size);
            let first = small_ones(&parts);
            if first < parts.len() {
                let joined = parts.drain(first..).sum();
                written += joined;
                prop_assert!(joined <= PART_ROWS);
                parts.push(joined);
            }
        }
        let rows: usize = sizes.iter().sum();
        let levels = PART_ROWS.ilog2() as usize + 1;
        prop_assert!(parts.len() <= 4 * rows / PART_ROWS + levels + 1, "{parts:?}");
        prop_assert!(written <= 2 * levels * rows, "{} of {} rows were written again", written, rows);
    }
}

/// Refuses to write while it is full.
struct Limited {
    store: weir_state::store::MemoryStore,
    is_full: std::sync::atomic::AtomicBool,
}

#[test]
fn what_cannot_be_written_stays_as_it_was() {
    use std::sync::atomic::Ordering::Relaxed;
    let limited = Arc::new(Limited { store: Default::default(), is_full: false.into() });
    let shared = limited.clone();
    let mut table = Table::new(&StateStores::new(move || Ok(shared.clone())));
    let rows = |keys: std::ops::Range<i64>, value: i64| keys.map(|key| (key, value)).collect::<BTreeMap<_, _>>();
    table.put(&rows(0..20, 1)).expect("there is room");
    let before = table.frozen();
    limited.is_full.store(true, Relaxed);
    table.take(&(10..20).collect());
    table.put(&rows(10..30, 2)).expect_err("there is no room");
    assert_eq!(table.frozen(), before);
    limited.is_full.store(false, Relaxed);
    table.put(&rows(10..30, 3)).expect("there is room again");
    table.tidy(0);
    assert_eq!(table.frozen(), rows(0..10, 1).into_iter().chain(rows(10..30, 3)).collect());
    assert_eq!(table.take(&(0..40).collect()), table.frozen());
}

impl weir_state::store::StateStore for Limited {
    fn put(&self, entries: &weir_state::store::Entries) -> std::result::Result<(), weir_state::StateStoreError> {
        if self.is_full.load(std::sync::atomic::Ordering::Relaxed) {
            let (place, reason) = ("here".to_owned(), "it is full".to_owned());
            return Err(weir_state::StateStoreError { place, doing: "write", reason });
        }
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

    fn size_bytes(&self) -> u64 {
        self.store.size_bytes()
    }
}
