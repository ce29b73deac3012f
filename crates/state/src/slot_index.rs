//! A hash index from hashes to dense ids, for tables that keep their entries in vectors of their own (pure).
//!
//! Open addressing with linear probing. One word per slot: the low 32 bits of the hash and the id, so that a probe
//! reads one cache line, compares an entry only when 32 bits of hash agree, and growing needs no hash from outside.
//! The home of an entry is given by the **upper** of the 32 bits: growing then reads and writes memory in order.
//! Deleting shifts followers back, so there are no tombstones. (hashbrown needs two lines per probe, control byte and
//! id, and the entries' hashes to grow.)
//!
//! **Source**: Knuth, The Art of Computer Programming 3, 6.4, algorithms L and R.

/// Slots of an index that holds anything: 64 slots are four cache lines.
const SLOTS_MIN: usize = 64;

/// An index of ids by hash. Ids are dense, below `u32::MAX`; equality is decided by the caller.
#[derive(Clone, Debug, Default)]
pub struct SlotIndex {
    /// 0 is empty; otherwise the low half of the hash above the id plus one. Zeroed memory comes untouched from the
    /// operating system, so a large empty index costs nothing.
    slots: Vec<u64>,
    /// 32 minus the binary logarithm of the number of slots.
    shift: u32,
    len: usize,
}

#[inline]
fn word(hash: u64, id: u32) -> u64 {
    (hash << 32) | (u64::from(id) + 1)
}

#[inline]
fn id_of(slot: u64) -> u32 {
    (slot as u32).wrapping_sub(1)
}

impl SlotIndex {
    /// Number of entries.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether there are no entries.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Bytes of memory held.
    pub fn size_bytes(&self) -> usize {
        self.slots.capacity() * size_of::<u64>()
    }

    /// Whether the index is too large to stay in a core's own cache, so that looking ahead pays.
    #[inline]
    pub fn is_large(&self) -> bool {
        self.slots.len() > 32 * 1024
    }

    /// Makes room for `additional` entries; at most 7/10 of the slots are ever used.
    ///
    /// **Panics**: at 2^32 slots, more than ids can number.
    pub fn reserve(&mut self, additional: usize) {
        let needed = self.len + additional;
        if needed * 10 > self.slots.len() * 7 {
            self.grow((needed * 10 / 7 + 1).next_power_of_two().max(SLOTS_MIN));
        }
    }

    #[cold]
    fn grow(&mut self, slot_count: usize) {
        assert!(slot_count <= 1 << 31, "an index holds at most 2^31 slots");
        let old = std::mem::replace(&mut self.slots, vec![0; slot_count]);
        self.shift = 32 - slot_count.trailing_zeros();
        let mask = slot_count - 1;
        for slot in old.into_iter().filter(|slot| *slot != 0) {
            let mut at = self.home(slot);
            while self.slots[at] != 0 {
                at = (at + 1) & mask;
            }
            self.slots[at] = slot;
        }
    }

    #[inline]
    fn home(&self, slot: u64) -> usize {
        ((slot >> 32) as u32 >> self.shift) as usize
    }

    /// What stands at the home of `hash`: a guess for [`SlotIndex::find_from`]. Reading many guesses before using any
    /// lets the processor wait for all their cache lines at once. Needs room, see [`SlotIndex::reserve`].
    #[inline]
    pub fn guess(&self, hash: u64) -> u64 {
        self.slots[(hash as u32 >> self.shift) as usize]
    }

    /// The id that a guess names, when its hash agrees with `hash`; the caller still compares the entries.
    #[inline]
    pub fn guessed_id(guess: u64, hash: u64) -> Option<u32> {
        (guess != 0 && (guess >> 32) as u32 == hash as u32).then(|| id_of(guess))
    }

    /// Finds the entry of `hash` for which `is_equal` holds.
    #[inline]
    pub fn find(&self, hash: u64, mut is_equal: impl FnMut(u32) -> bool) -> Option<u32> {
        if self.slots.is_empty() {
            return None;
        }
        let mask = self.slots.len() - 1;
        let mut at = (hash as u32 >> self.shift) as usize;
        loop {
            let slot = self.slots[at & mask];
            if slot == 0 {
                return None;
            }
            if (slot >> 32) as u32 == hash as u32 && is_equal(id_of(slot)) {
                return Some(id_of(slot));
            }
            at += 1;
        }
    }

    /// Finds the entry of `hash` for which `is_equal` holds, or puts in the id that `new_id` makes. Needs room, see
    /// [`SlotIndex::reserve`].
    #[inline]
    pub fn find_or_insert(
        &mut self,
        hash: u64,
        mut is_equal: impl FnMut(u32) -> bool,
        new_id: impl FnOnce() -> u32,
    ) -> u32 {
        let mask = self.slots.len() - 1;
        let mut at = (hash as u32 >> self.shift) as usize;
        loop {
            let slot = self.slots[at & mask];
            if slot == 0 {
                let id = new_id();
                self.slots[at & mask] = word(hash, id);
                self.len += 1;
                return id;
            }
            if (slot >> 32) as u32 == hash as u32 && is_equal(id_of(slot)) {
                return id_of(slot);
            }
            at += 1;
        }
    }

    /// Takes out the entry `id` of `hash`; whether it was there.
    pub fn remove(&mut self, hash: u64, id: u32) -> bool {
        if self.slots.is_empty() {
            return false;
        }
        let mask = self.slots.len() - 1;
        let (wanted, mut hole) = (word(hash, id), (hash as u32 >> self.shift) as usize);
        while self.slots[hole] != wanted {
            if self.slots[hole] == 0 {
                return false;
            }
            hole = (hole + 1) & mask;
        }
        let mut next = (hole + 1) & mask;
        while self.slots[next] != 0 {
            let home = self.home(self.slots[next]);
            // The follower may move into the hole if the hole lies on its way from its home.
            if next.wrapping_sub(home) & mask >= next.wrapping_sub(hole) & mask {
                self.slots[hole] = self.slots[next];
                hole = next;
            }
            next = (next + 1) & mask;
        }
        self.slots[hole] = 0;
        self.len -= 1;
        true
    }

    /// All ids, in no useful order.
    pub fn ids(&self) -> impl Iterator<Item = u32> {
        self.slots.iter().filter(|slot| **slot != 0).map(|slot| id_of(*slot))
    }

    /// Forgets all entries and keeps the memory.
    pub fn clear(&mut self) {
        if self.len > 0 {
            self.slots.fill(0);
            self.len = 0;
        }
    }

    /// Forgets all entries and gives the memory back.
    pub fn release(&mut self) {
        *self = SlotIndex::default();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeMap;

    proptest! {
        /// Keys from a small range and hashes with few bits: long runs that wrap around the end, and many removals.
        #[test]
        fn index_agrees_with_a_map(steps in prop::collection::vec((0u64..200, any::<bool>()), 1..400), bits in 0u32..33) {
            let hash = |key: u64| weir_core::key_hash::mix(key) << (32 - bits.min(32)) | (key & 1);
            let (mut index, mut model, mut keys) = (SlotIndex::default(), BTreeMap::new(), Vec::new());
            for (key, is_insert) in steps {
                let expected = model.get(&key).copied();
                prop_assert_eq!(index.find(hash(key), |id| keys[id as usize] == key), expected);
                if is_insert {
                    index.reserve(1);
                    let next = keys.len() as u32;
                    let id = index.find_or_insert(hash(key), |id| keys[id as usize] == key, || next);
                    prop_assert_eq!(id, expected.unwrap_or(next));
                    if expected.is_none() {
                        keys.push(key);
                        model.insert(key, id);
                    }
                } else if let Some(id) = model.remove(&key) {
                    prop_assert!(index.remove(hash(key), id));
                    prop_assert!(!index.remove(hash(key), id));
                }
                prop_assert_eq!(index.len(), model.len());
            }
            let mut ids: Vec<u32> = index.ids().collect();
            ids.sort_unstable();
            let mut expected: Vec<u32> = model.values().copied().collect();
            expected.sort_unstable();
            prop_assert_eq!(ids, expected);
        }
    }
}
