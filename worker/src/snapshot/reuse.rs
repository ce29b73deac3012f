//! What an earlier checkpoint of a task has written and a later one may name again: an incremental checkpoint. Decisions are
//! pure; `upload` asks.
//!
//! Rows with a number are written once, as long as their object is worth keeping. An object of which less than half is
//! still named is not worth its space, and many small ones are not worth their number: what is left of them is written
//! again. So a checkpoint takes at most twice its size, and few objects.

use std::collections::{BTreeMap, BTreeSet};

use weir_checkpoint::SectionRef;
use weir_core::{CheckpointId, OperatorUid};

/// Objects beside those that are full, before the small ones are written together.
const SMALL_OBJECTS_MAX: usize = 8;
/// Checkpoints that are remembered: the base, and those that were written behind it and are not confirmed.
const REMEMBERED_MAX: usize = 4;

/// Names rows of one operator: table and number.
pub type PieceKey = (OperatorUid, String, u64);

/// What a checkpoint of one task names, by the numbers of the rows.
pub type Pieces = BTreeMap<PieceKey, Vec<SectionRef>>;

/// The checkpoints of one task that it remembers.
#[derive(Debug, Default)]
pub struct Memory {
    checkpoints: BTreeMap<CheckpointId, Pieces>,
}

impl Memory {
    /// What may be named again in a checkpoint on top of `base`. What is older than it is forgotten. Objects are full with
    /// `full_bytes`.
    pub fn reusable(&mut self, base: CheckpointId, full_bytes: u64) -> Pieces {
        self.checkpoints = self.checkpoints.split_off(&base);
        let Some(pieces) = self.checkpoints.get(&base) else { return Pieces::new() };
        let kept = worth_keeping(pieces.values().flatten(), full_bytes);
        let is_kept = |sections: &Vec<SectionRef>| sections.iter().all(|section| kept.contains(&section.object.path));
        pieces
            .iter()
            .filter(|(_, sections)| is_kept(sections))
            .map(|(key, pieces)| (key.clone(), pieces.clone()))
            .collect()
    }

    /// A checkpoint was written.
    pub fn wrote(&mut self, checkpoint: CheckpointId, pieces: Pieces) {
        self.checkpoints.insert(checkpoint, pieces);
        while self.checkpoints.len() > REMEMBERED_MAX {
            self.checkpoints.pop_first();
        }
    }
}

/// The paths of the objects that are worth keeping, for these sections.
fn worth_keeping<'a>(sections: impl Iterator<Item = &'a SectionRef>, full_bytes: u64) -> BTreeSet<String> {
    let mut named: BTreeMap<&str, (u64, u64)> = BTreeMap::new();
    for section in sections {
        let (live, length) = named.entry(&section.object.path).or_default();
        *live += section.length;
        *length = section.object.length;
    }
    named.retain(|_, (live, length)| *live * 2 >= *length);
    let is_small = |length: u64| length < full_bytes / 2;
    if named.values().filter(|(_, length)| is_small(*length)).count() > SMALL_OBJECTS_MAX {
        named.retain(|_, (_, length)| !is_small(*length));
    }
    named.into_keys().map(str::to_owned).collect()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use weir_checkpoint::ObjectRef;

    use super::*;

    const FULL_BYTES: u64 = 32 << 20;

    fn section(object: u64, object_length: u64, length: u64) -> SectionRef {
        let object = ObjectRef { path: format!("o{object}"), length: object_length, checksum: 0 };
        SectionRef { object, offset: 0, length, checksum: 0, rows: 1, first_key_group: 0, last_key_group: 0 }
    }

    fn key(number: u64) -> PieceKey {
        (OperatorUid::from("op"), "t".to_owned(), number)
    }

    #[test]
    fn only_the_base_counts_and_older_ones_are_forgotten() {
        let mut memory = Memory::default();
        for id in 1..4 {
            memory.wrote(CheckpointId(id), Pieces::from([(key(id), vec![section(id, 100, 90)])]));
        }
        assert_eq!(memory.reusable(CheckpointId(2), FULL_BYTES).into_keys().collect::<Vec<_>>(), [key(2)]);
        assert!(memory.reusable(CheckpointId(1), FULL_BYTES).is_empty(), "nothing behind a base comes back");
        assert!(memory.reusable(CheckpointId(9), FULL_BYTES).is_empty(), "a base of another attempt");
    }

    proptest! {
        /// However pieces come, change and go over many checkpoints, what is named takes at most twice its size (and what
        /// one checkpoint changes), and lies in few objects.
        #[test]
        fn space_and_objects_stay_bounded(
            changes in prop::collection::vec(prop::collection::btree_set(0u64..40, 0..40), 1..60), large in any::<bool>(),
        ) {
            let length = if large { 8 << 20 } else { 1000 };
            let (mut memory, mut numbers, mut next) = (Memory::default(), BTreeMap::new(), 0);
            for (id, changed) in (1u64..).zip(changes) {
                for piece in changed {
                    next += 1;
                    numbers.insert(piece, next);
                }
                let reusable = memory.reusable(CheckpointId(id - 1), FULL_BYTES);
                let known = |number: &u64| reusable.get(&key(*number)).cloned();
                let fresh: Vec<u64> = numbers.values().copied().filter(|number| known(number).is_none()).collect();
                let object_length = fresh.len() as u64 * length;
                let place = |number: u64| known(&number).unwrap_or_else(|| vec![section(id, object_length, length)]);
                let pieces: Pieces = numbers.values().map(|number| (key(*number), place(*number))).collect();
                let objects: BTreeMap<_, _> =
                    pieces.values().flatten().map(|section| (section.object.path.clone(), section.object.length)).collect();
                let full = numbers.len() as u64 * length;
                prop_assert!(objects.values().sum::<u64>() <= 3 * full, "{objects:?} for {full} bytes");
                let large_count = objects.values().filter(|length| **length >= FULL_BYTES / 2).count();
                prop_assert!(objects.len() - large_count <= SMALL_OBJECTS_MAX + 1, "{objects:?}");
                memory.wrote(CheckpointId(id), pieces);
            }
        }
    }
}
