//! Tests of the key table against an ordered map.

use super::*;
use arrow_array::{BooleanArray, Float64Array, Int32Array, Int64Array, StringArray, StringViewArray};
use proptest::prelude::*;
use std::collections::BTreeMap;
use std::sync::Arc;
use weir_core::key_hash::hash_columns;

fn intern(table: &mut KeyTable, columns: &[ArrayRef]) -> Vec<u32> {
    let (mut hashes, mut ids) = (Vec::new(), Vec::new());
    hash_columns(columns, &mut hashes).expect("columns are keys");
    table.intern(columns, &hashes, &mut ids).expect("columns have the table's types");
    ids
}

/// The row of a batch in a form that can be ordered and compared.
type Key = (Option<i64>, Option<String>);

#[derive(Clone, Copy, Debug)]
enum Shape {
    Long,
    Int,
    Text,
    View,
    Both,
    Flag,
}

fn columns(shape: Shape, keys: &[Key]) -> Vec<ArrayRef> {
    let long: ArrayRef = Arc::new(keys.iter().map(|key| key.0).collect::<Int64Array>());
    let text: ArrayRef = Arc::new(keys.iter().map(|key| key.1.clone()).collect::<StringArray>());
    match shape {
        Shape::Long => vec![long],
        Shape::Int => vec![Arc::new(keys.iter().map(|key| key.0.map(|n| n as i32)).collect::<Int32Array>())],
        Shape::Text => vec![text],
        Shape::View => vec![Arc::new(keys.iter().map(|key| key.1.clone()).collect::<StringViewArray>())],
        Shape::Both => vec![long, text],
        Shape::Flag => vec![Arc::new(keys.iter().map(|key| key.0.map(|n| n % 2 == 0)).collect::<BooleanArray>())],
    }
}

/// What remains of a key in columns of this shape.
fn seen(shape: Shape, key: &Key) -> Key {
    match shape {
        Shape::Long | Shape::Int => (key.0, None),
        Shape::Text | Shape::View => (None, key.1.clone()),
        Shape::Both => key.clone(),
        Shape::Flag => (key.0.map(|n| i64::from(n % 2 == 0)), None),
    }
}

fn shape() -> impl Strategy<Value = Shape> {
    prop_oneof![
        Just(Shape::Long),
        Just(Shape::Int),
        Just(Shape::Text),
        Just(Shape::View),
        Just(Shape::Both),
        Just(Shape::Flag)
    ]
}

fn key() -> impl Strategy<Value = Key> {
    (prop::option::weighted(0.9, -20i64..20), prop::option::weighted(0.9, "[a-c]{0,3}"))
}

proptest! {
    #[test]
    fn table_agrees_with_a_map(
        shape in shape(),
        batches in prop::collection::vec((prop::collection::vec(key(), 1..100), prop::collection::vec(key(), 0..10)), 1..8),
    ) {
        let types: Vec<DataType> = columns(shape, &[]).iter().map(|column| column.data_type().clone()).collect();
        let mut table = KeyTable::new(&types).expect("types are keys");
        let mut model: BTreeMap<Key, u32> = BTreeMap::new();
        for (rows, removals) in &batches {
            let ids = intern(&mut table, &columns(shape, rows));
            for (row, id) in rows.iter().zip(&ids) {
                let known = *model.entry(seen(shape, row)).or_insert(*id);
                prop_assert_eq!(known, *id, "one key, one id");
            }
            for key in removals {
                if let Some(id) = model.remove(&seen(shape, key)) {
                    table.remove(id);
                }
            }
            prop_assert_eq!(table.len(), model.len());
            let mut ids: Vec<u32> = model.values().copied().collect();
            let expected: Vec<Key> = model.keys().cloned().collect();
            let read = table.columns(&ids).expect("keys can be read");
            let again = columns(shape, &expected.iter().map(|key| match shape {
                Shape::Flag => (key.0.map(|flag| 1 - flag), None),
                _ => key.clone(),
            }).collect::<Vec<_>>());
            prop_assert_eq!(&read, &again);
            ids.sort_unstable();
            ids.dedup();
            prop_assert_eq!(ids.len(), model.len(), "different keys, different ids");
            let mut hashes = Vec::new();
            hash_columns(&read, &mut hashes).expect("columns are keys");
            let ids: Vec<u32> = model.values().copied().collect();
            prop_assert_eq!(&table.map_hashes(&ids, |hash| hash), &hashes);
            prop_assert_eq!(ids.iter().map(|id| table.hash_of(*id)).collect::<Vec<_>>(), hashes);
        }
    }

    #[test]
    fn tables_merge_without_hashing(shape in shape(), a in prop::collection::vec(key(), 1..60), b in prop::collection::vec(key(), 1..60)) {
        let types: Vec<DataType> = columns(shape, &[]).iter().map(|column| column.data_type().clone()).collect();
        let (mut left, mut right) = (KeyTable::new(&types).expect("types"), KeyTable::new(&types).expect("types"));
        intern(&mut left, &columns(shape, &a));
        intern(&mut right, &columns(shape, &b));
        let all: Vec<u32> = (0..right.id_bound() as u32).collect();
        let mut found = Vec::new();
        left.find_table(&right, &all, &mut found);
        if left.can_find() {
            let (columns, mut hashes, mut by_rows) = (columns(shape, &b), Vec::new(), Vec::new());
            hash_columns(&columns, &mut hashes).expect("columns are keys");
            left.find(&columns, &hashes, &mut by_rows);
            let of_right: Vec<u32> = intern(&mut right, &columns).iter().map(|id| found[*id as usize]).collect();
            prop_assert_eq!(by_rows, of_right);
        }
        let known = left.id_bound() as u32;
        let mut ids = Vec::new();
        left.intern_table(&right, &all, &mut ids);
        for (id, found) in ids.iter().zip(&found) {
            prop_assert_eq!(*found == NO_ID, *id >= known);
            prop_assert!(*found == NO_ID || found == id);
        }
        prop_assert_eq!(left.columns(&ids).expect("read"), right.columns(&all).expect("read"));
        prop_assert_eq!(intern(&mut left, &columns(shape, &b)), intern(&mut right, &columns(shape, &b)).iter().map(|id| ids[*id as usize]).collect::<Vec<_>>());
    }
}

#[test]
fn every_zero_is_one_key_and_every_nan_another() {
    let mut table = KeyTable::new(&[DataType::Float64]).expect("floats are keys");
    let column: ArrayRef = Arc::new(Float64Array::from(vec![0.0, -0.0, f64::NAN, -f64::NAN, 1.0]));
    assert_eq!(intern(&mut table, &[column]), [0, 0, 1, 1, 2]);
}

#[test]
fn rows_without_key_columns_share_one_entry() {
    let mut table = KeyTable::new(&[]).expect("no columns are a key");
    let mut ids = Vec::new();
    table.intern(&[], &[0; 3], &mut ids).expect("nothing to encode");
    assert_eq!((ids.as_slice(), table.len()), ([0, 0, 0].as_slice(), 1));
    assert_eq!(table.ids_of_key_groups(KeyGroupRange { start: 0, end: 128 }, 128), [0]);
    table.remove(0);
    assert!(table.is_empty());
}

#[test]
fn nested_columns_are_refused() {
    let list = DataType::new_list(DataType::Int64, true);
    assert!(KeyTable::new(&[DataType::Int64, list]).is_err());
}

#[test]
fn key_groups_part_the_keys() {
    let mut table = KeyTable::new(&[DataType::Int64]).expect("integers are keys");
    let column: ArrayRef = Arc::new((0..1000).map(Some).chain([None]).collect::<Int64Array>());
    intern(&mut table, &[column]);
    let halves = [(0, 64), (64, 128)].map(|(start, end)| table.ids_of_key_groups(KeyGroupRange { start, end }, 128));
    assert!(halves.iter().all(|half| half.len() > 400));
    let mut all = halves.concat();
    all.sort_unstable();
    assert_eq!(all, (0..1001).collect::<Vec<u32>>());
}

#[test]
fn memory_does_not_grow_with_the_keys_of_the_past() {
    let mut table = KeyTable::new(&[DataType::Utf8]).expect("text is a key");
    let mut sizes = Vec::new();
    for round in 0..200 {
        let column: ArrayRef =
            Arc::new(StringArray::from_iter_values((0..1000).map(|n| format!("vehicle {round} {n}"))));
        for id in intern(&mut table, &[column]) {
            table.remove(id);
        }
        sizes.push(table.size_bytes());
    }
    assert!(table.is_empty());
    let peak = sizes.iter().max();
    assert!(peak < Some(&300_000), "{peak:?}");
}
