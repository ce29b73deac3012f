//! `count distinct`: one flat set of (group, value) for all groups, so that a million groups with one value and one
//! group with a million values both cost a few words per pair.
//!
//! Values are interned once for all groups. The pairs of a group are a linked list, so that one group can be read or
//! emptied without looking at the others.

use std::any::Any;
use std::sync::Arc;

use arrow_array::cast::AsArray;
use arrow_array::{Array, ArrayRef, Int64Array, ListArray, UInt32Array};
use arrow_buffer::OffsetBuffer;
use arrow_schema::{DataType, Field};
use arrow_select::filter::filter;
use arrow_select::take::take;
use weir_core::key_hash::{hash_columns, mix};
use weir_operator_api::Result;
use weir_state::{KeyTable, SlotIndex};

use super::{Accumulator, Input, same_kind};

/// Ends a list of pairs.
const END: u32 = u32::MAX;

#[derive(Clone, Copy)]
struct Pair {
    group: u32,
    value: u32,
    /// The next pair of the same group.
    next: u32,
}

pub(super) struct Distinct {
    values: KeyTable,
    /// How many pairs hold each value; at none the value is forgotten.
    holders: Vec<u32>,
    index: SlotIndex,
    pairs: Vec<Pair>,
    free: Vec<u32>,
    groups: Vec<Group>,
    hashes: Vec<u64>,
    value_ids: Vec<u32>,
}

#[derive(Clone, Copy)]
struct Group {
    first: u32,
    count: u32,
}

const EMPTY: Group = Group { first: END, count: 0 };

fn pair_hash(group: u32, value: u32) -> u64 {
    mix((u64::from(group) << 32) | u64::from(value))
}

impl Distinct {
    /// `None` for types without equality.
    pub(super) fn new(argument: &DataType) -> Option<Self> {
        Some(Distinct {
            values: KeyTable::new(std::slice::from_ref(argument)).ok()?,
            holders: Vec::new(),
            index: SlotIndex::default(),
            pairs: Vec::new(),
            free: Vec::new(),
            groups: Vec::new(),
            hashes: Vec::new(),
            value_ids: Vec::new(),
        })
    }

    fn insert(&mut self, group: u32, value: u32) {
        self.index.reserve(1);
        let (pairs, free) = (&self.pairs, &mut self.free);
        let mut is_new = false;
        let id = self.index.find_or_insert(
            pair_hash(group, value),
            |id| (pairs[id as usize].group, pairs[id as usize].value) == (group, value),
            || {
                is_new = true;
                free.pop().unwrap_or(pairs.len() as u32)
            },
        );
        if !is_new {
            return;
        }
        let Group { first, count } = self.groups[group as usize];
        let pair = Pair { group, value, next: first };
        if id as usize == self.pairs.len() {
            self.pairs.push(pair);
        } else {
            self.pairs[id as usize] = pair;
        }
        self.groups[group as usize] = Group { first: id, count: count + 1 };
        if self.holders.len() < self.values.id_bound() {
            self.holders.resize(self.values.id_bound(), 0);
        }
        self.holders[value as usize] += 1;
    }

    fn values_of(&self, group: u32) -> impl Iterator<Item = u32> {
        let pair = |id: u32| (id != END).then(|| self.pairs[id as usize]);
        std::iter::successors(pair(self.groups[group as usize].first), move |before| pair(before.next))
            .map(|pair| pair.value)
    }
}

impl Accumulator for Distinct {
    fn resize(&mut self, groups: usize) {
        self.groups.resize(groups, EMPTY);
    }

    fn update(&mut self, ids: &[u32], input: &Input, _times: &[i64]) -> Result<()> {
        let (column, ids) = match &input.valid {
            None => (Arc::clone(input.column()), ids.to_vec()),
            Some(valid) => {
                let keep = arrow_array::BooleanArray::new(valid.inner().clone(), None);
                (filter(input.column(), &keep)?, valid.valid_indices().map(|row| ids[row]).collect())
            }
        };
        let columns = [column];
        hash_columns(&columns, &mut self.hashes)?;
        let mut value_ids = std::mem::take(&mut self.value_ids);
        self.values.intern(&columns, &self.hashes, &mut value_ids)?;
        for (group, value) in ids.iter().zip(&value_ids) {
            self.insert(*group, *value);
        }
        self.value_ids = value_ids;
        Ok(())
    }

    fn merge(&mut self, ids: &[u32], other: &dyn Accumulator, from: &[u32]) -> Result<()> {
        let other: &Self = same_kind(other);
        let (mut there, mut here) = (Vec::new(), Vec::new());
        for (id, from) in ids.iter().zip(from) {
            there.clear();
            there.extend(other.values_of(*from));
            self.values.intern_table(&other.values, &there, &mut here);
            here.iter().for_each(|value| self.insert(*id, *value));
        }
        Ok(())
    }

    fn absorb(&mut self, into: u32, from: u32) -> Result<()> {
        let values: Vec<u32> = self.values_of(from).collect();
        values.iter().for_each(|value| self.insert(into, *value));
        self.reset(from);
        Ok(())
    }

    fn merge_partial(&mut self, ids: &[u32], columns: &[ArrayRef]) -> Result<()> {
        let lists = columns[0].as_list::<i32>();
        let (mut groups, mut places): (Vec<u32>, Vec<u32>) = (Vec::new(), Vec::new());
        for (row, id) in ids.iter().enumerate().filter(|(row, _)| lists.is_valid(*row)) {
            let (start, end) = (lists.value_offsets()[row] as u32, lists.value_offsets()[row + 1] as u32);
            places.extend(start..end);
            groups.resize(places.len(), *id);
        }
        let values = take(lists.values(), &UInt32Array::from(places), None)?;
        self.update(&groups, &Input { values: Some(values), valid: None }, &[])
    }

    fn partial(&self, ids: &[u32]) -> Result<Vec<ArrayRef>> {
        let mut values = Vec::new();
        ids.iter().for_each(|id| values.extend(self.values_of(*id)));
        let values = self.values.columns(&values)?.remove(0);
        let offsets = OffsetBuffer::from_lengths(ids.iter().map(|id| self.groups[*id as usize].count as usize));
        let item = Arc::new(Field::new_list_field(values.data_type().clone(), true));
        Ok(vec![Arc::new(ListArray::try_new(item, offsets, values, None)?)])
    }

    fn evaluate(&self, ids: &[u32]) -> Result<ArrayRef> {
        let counts = ids.iter().map(|id| i64::from(self.groups[*id as usize].count));
        Ok(Arc::new(Int64Array::from_iter_values(counts)))
    }

    fn reset(&mut self, id: u32) {
        let mut at = std::mem::replace(&mut self.groups[id as usize], EMPTY).first;
        while at != END {
            let Pair { value, next, .. } = self.pairs[at as usize];
            self.index.remove(pair_hash(id, value), at);
            self.free.push(at);
            self.holders[value as usize] -= 1;
            if self.holders[value as usize] == 0 {
                self.values.remove(value);
            }
            at = next;
        }
    }

    fn clear(&mut self) {
        self.values.clear();
        self.holders.clear();
        self.index.clear();
        self.pairs.clear();
        self.free.clear();
        self.groups.clear();
    }

    fn size_bytes(&self) -> usize {
        self.values.size_bytes()
            + self.index.size_bytes()
            + self.pairs.capacity() * size_of::<Pair>()
            + self.groups.capacity() * size_of::<Group>()
            + (self.free.capacity() + self.holders.capacity()) * size_of::<u32>()
    }

    fn as_any(&self) -> &dyn Any {
        self
    }
}
