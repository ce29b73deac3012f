//! Key groups: the hash buckets that keyed state and the exchange are cut by. A disk format, like the key hash.

/// One hash bucket of a job's keys, from 0 to the job's key-group count (its max parallelism).
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct KeyGroup(pub u16);

/// Key-group count of a job that sets none.
pub const KEY_GROUP_COUNT_DEFAULT: u32 = 128;
/// Greatest key-group count.
pub const KEY_GROUP_COUNT_MAX: u32 = 32_768;

impl KeyGroup {
    /// The group of a key hash: the hash range cut into `count` equal parts.
    #[inline]
    pub fn of(hash: u64, count: u32) -> KeyGroup {
        KeyGroup(((u128::from(hash) * u128::from(count)) >> 64) as u16)
    }

    /// The subtask that owns the group when `count` groups are dealt to `parallelism` subtasks.
    #[inline]
    pub fn subtask(self, parallelism: u32, count: u32) -> u32 {
        u32::from(self.0) * parallelism / count
    }
}

/// The groups `[start, end)` that one subtask owns.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct KeyGroupRange {
    /// First owned group.
    pub start: u32,
    /// First group no longer owned.
    pub end: u32,
}

impl KeyGroupRange {
    /// The range of one subtask.
    ///
    /// **Shapes**: over all subtasks the ranges are disjoint and cover `[0, count)`.
    pub fn of_subtask(subtask: u32, parallelism: u32, count: u32) -> Self {
        let start = |subtask: u32| (u64::from(subtask) * u64::from(count)).div_ceil(u64::from(parallelism)) as u32;
        KeyGroupRange { start: start(subtask), end: start(subtask + 1) }
    }

    /// Whether the subtask owns `group`.
    pub fn contains(&self, group: KeyGroup) -> bool {
        (self.start..self.end).contains(&u32::from(group.0))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        /// Carries c4 of the failure list: each key is owned by exactly one subtask, at every parallelism.
        #[test]
        fn c4_every_key_has_one_owner(hash in any::<u64>(), count in 1u32..=KEY_GROUP_COUNT_MAX, share in 0.0f64..1.0) {
            let parallelism = 1 + (share * f64::from(count - 1)) as u32;
            let group = KeyGroup::of(hash, count);
            prop_assert!(u32::from(group.0) < count);
            let owner = group.subtask(parallelism, count);
            for subtask in 0..parallelism {
                let owns = KeyGroupRange::of_subtask(subtask, parallelism, count).contains(group);
                prop_assert_eq!(owns, subtask == owner);
            }
        }

        #[test]
        fn ranges_cover_all_groups_once(count in 1u32..2000, parallelism in 1u32..200) {
            let parallelism = parallelism.min(count);
            let mut next = 0;
            for subtask in 0..parallelism {
                let range = KeyGroupRange::of_subtask(subtask, parallelism, count);
                prop_assert_eq!(range.start, next);
                prop_assert!(range.end > range.start);
                next = range.end;
            }
            prop_assert_eq!(next, count);
        }
    }

    #[test]
    fn groups_are_hash_ranges() {
        let groups: Vec<u16> = [0, u64::MAX / 2, u64::MAX].map(|hash| KeyGroup::of(hash, 128).0).into();
        assert_eq!(groups, [0, 63, 127]);
    }
}
