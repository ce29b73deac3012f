//! What every state store keeps to, in memory and on RocksDB, against a map.

use std::collections::BTreeMap;
use std::sync::Arc;

use proptest::prelude::*;
use proptest::test_runner::TestRunner;
use weir_state::StateStores;
use weir_state::store::{MemoryStore, StateStore};

fn stores() -> Vec<(&'static str, Arc<dyn StateStore>, Option<tempfile::TempDir>)> {
    #[allow(unused_mut, reason = "a build without RocksDB has one store only")]
    let mut stores: Vec<(_, Arc<dyn StateStore>, _)> = vec![("memory", Arc::new(MemoryStore::default()), None)];
    #[cfg(feature = "rocksdb")]
    {
        let directory = tempfile::tempdir().expect("a directory for the store");
        let rocks = weir_state::store::rocks::RocksStore::open(&directory.path().join("s"), 1 << 20).expect("it opens");
        stores.push(("rocksdb", Arc::new(rocks), Some(directory)));
    }
    stores
}

#[derive(Clone, Debug)]
enum Call {
    Put(Vec<(Vec<u8>, Vec<u8>)>),
    Get(Vec<Vec<u8>>),
    Range(Vec<u8>, Vec<u8>, usize),
    Delete(Vec<Vec<u8>>),
    DeleteRange(Vec<u8>, Vec<u8>),
}

fn key() -> impl Strategy<Value = Vec<u8>> {
    prop::collection::vec(prop_oneof![Just(0u8), Just(1), Just(255)], 0..4)
}

fn call() -> impl Strategy<Value = Call> {
    // Some values are large enough for a blob file.
    let value = prop_oneof![prop::collection::vec(any::<u8>(), 0..4), Just(vec![7; 5000])];
    prop_oneof![
        4 => prop::collection::vec((key(), value), 0..6).prop_map(Call::Put),
        2 => prop::collection::vec(key(), 0..6).prop_map(Call::Get),
        2 => (key(), key(), 0usize..5).prop_map(|(from, to, count)| Call::Range(from, to, count)),
        1 => prop::collection::vec(key(), 0..3).prop_map(Call::Delete),
        1 => (key(), key()).prop_map(|(from, to)| Call::DeleteRange(from, to)),
    ]
}

fn play(store: &dyn StateStore, model: &mut BTreeMap<Vec<u8>, Vec<u8>>, call: &Call) {
    let is_within = |key: &[u8], from: &[u8], to: &[u8]| from <= key && key < to;
    match call {
        Call::Put(entries) => {
            store.put(entries).expect("put");
            model.extend(entries.iter().cloned());
        }
        Call::Get(keys) => {
            let found = store.get(keys).expect("get");
            let expected: Vec<_> = keys.iter().map(|key| model.get(key).cloned()).collect();
            assert_eq!(found, expected);
        }
        Call::Range(from, to, count) => {
            let found = store.range(from, to, *count).expect("range");
            let within = model.iter().filter(|(key, _)| is_within(key, from, to)).take(*count);
            assert_eq!(found, within.map(|(key, value)| (key.clone(), value.clone())).collect::<Vec<_>>());
        }
        Call::Delete(keys) => {
            store.delete(keys).expect("delete");
            keys.iter().for_each(|key| _ = model.remove(key));
        }
        Call::DeleteRange(from, to) => {
            store.delete_range(from, to).expect("delete a range");
            model.retain(|key, _| !is_within(key, from, to));
        }
    }
}

#[test]
fn stores_answer_like_a_map() {
    for (name, store, _directory) in stores() {
        let mut runner = TestRunner::new(ProptestConfig::with_cases(64));
        let checked = runner.run(&prop::collection::vec(call(), 1..40), |calls| {
            store.delete_range(&[], &[255; 8]).expect("delete everything");
            let mut model = BTreeMap::new();
            calls.iter().for_each(|call| play(store.as_ref(), &mut model, call));
            let all = store.range(&[], &[255; 8], usize::MAX).expect("range");
            prop_assert_eq!(all, model.into_iter().collect::<Vec<_>>());
            Ok(())
        });
        checked.unwrap_or_else(|error| panic!("{name}: {error}"));
    }
}

#[test]
fn spaces_do_not_see_each_other_and_go_with_their_last_handle() {
    for (name, store, _directory) in stores() {
        let shared = Arc::clone(&store);
        let all = StateStores::new(move || Ok(Arc::clone(&shared)));
        let (one, other) = (all.space().expect("it opens"), all.space().expect("it opens"));
        for (space, value) in [(&one, 1u8), (&other, 2)] {
            space.put(vec![(vec![255; 3], vec![value]), (vec![], vec![value])]).expect("put");
        }
        assert_eq!(one.get(&[[255u8; 3]]).expect("get"), [Some(vec![1])], "{name}");
        let range = one.range(&[], None, 9).expect("range");
        assert_eq!(range, [(vec![], vec![1]), (vec![255; 3], vec![1])], "{name}");
        let reader = one.clone();
        drop(one);
        assert_eq!(reader.get(&[[255u8; 3]]).expect("get"), [Some(vec![1])], "{name}: whoever reads keeps it");
        drop(reader);
        assert_eq!(store.range(&[], &[255; 12], 9).expect("range").len(), 2, "{name}: only the other's are left");
        drop(other);
        assert!(store.range(&[], &[255; 12], 9).expect("range").is_empty(), "{name}");
    }
}

#[cfg(feature = "rocksdb")]
#[test]
fn store_on_disk_begins_empty_and_names_its_place_when_it_cannot() {
    use weir_state::store::rocks::RocksStore;
    let directory = tempfile::tempdir().expect("a directory for the store");
    let place = directory.path().join("store");
    let store = RocksStore::open(&place, 1 << 20).expect("it opens");
    store.put(&vec![(vec![1], vec![1])]).expect("put");
    let mut file = store.file().expect("it is made");
    file.append(b"rows").expect("it is written");
    let taken = RocksStore::open(&place, 1 << 20).err().expect("another one has it").to_string();
    assert!(taken.contains(&place.display().to_string()), "{taken}");
    file.read_at(0, &mut [0; 4]).expect("whoever cannot open it leaves its files alone");
    // As after a crash: nobody deletes it.
    std::mem::forget(file);
    drop(store);
    let again = RocksStore::open(&place, 1 << 20).expect("it opens again");
    assert!(again.range(&[], &[255], 9).expect("range").is_empty(), "what an earlier process left is gone");
    assert_eq!(std::fs::read_dir(place.join("files")).expect("it is there").count(), 0);
    let file = directory.path().join("file");
    std::fs::write(&file, "no directory").expect("it can be written");
    assert!(RocksStore::open(&file.join("below"), 1 << 20).is_err());
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]
    /// Files hold what was written to them, each for itself, and go when they are dropped.
    #[test]
    fn files_are_read_at_any_place(
        parts in prop::collection::vec((0usize..3, prop::collection::vec(any::<u8>(), 0..600)), 0..12),
        reads in prop::collection::vec((0usize..3, 0usize..3000, 0usize..900), 0..20),
    ) {
        for (name, store, _directory) in stores() {
            let mut files: Vec<_> = (0..3).map(|_| store.file().expect("it is made")).collect();
            let mut model = vec![Vec::new(); 3];
            let before = store.size_bytes();
            for (file, bytes) in &parts {
                files[*file].append(bytes).expect("it is written");
                model[*file].extend_from_slice(bytes);
            }
            let size: usize = model.iter().map(Vec::len).sum();
            prop_assert_eq!(store.size_bytes() - before, size as u64, "{}", name);
            for (file, at, length) in &reads {
                let mut found = vec![0; *length];
                let is_read = files[*file].read_at(*at as u64, &mut found).is_ok();
                let expected = model[*file].get(*at..at + length);
                // Nothing may be read from anywhere.
                prop_assert!(is_read == expected.is_some() || *length == 0, "{}", name);
                if let Some(expected) = expected {
                    prop_assert_eq!(&found, expected, "{}", name);
                }
            }
            drop(files);
            prop_assert_eq!(store.size_bytes(), before, "{}", name);
        }
    }
}
