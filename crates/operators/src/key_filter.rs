//! Which keys are surely not in a run: a few bits per key instead of a look-up on disk (pure). `key_run` asks it.
//!
//! A blocked Bloom filter, made for so many keys. Beyond the most that it takes it answers "perhaps" ever more often, which
//! costs look-ups and no more memory.
//!
//! **Source**: F. Putze, P. Sanders, J. Singler, "Cache-, hash- and space-efficient Bloom filters" (2007).

use weir_core::key_hash::mix;

/// Bits of one block: a cache line, so that a question costs one miss.
const BLOCK_BITS: usize = 512;
const BLOCK_WORDS: usize = BLOCK_BITS / 64;
/// Keys of one block, on average, while there is room.
const BLOCK_KEYS: usize = 64;
/// Bits that a key sets.
const KEY_BITS: u32 = 4;
/// Blocks, at most: 512 KiB for half a million keys.
const BLOCKS_MAX: usize = if cfg!(test) { 4 } else { 8 * 1024 };

/// Keys by their hashes.
#[derive(Debug, Default)]
pub(crate) struct KeyFilter {
    words: Vec<u64>,
}

/// Where the bits of a key lie: a place that any number of blocks is scaled to, and bits in the block.
#[derive(Clone, Copy)]
pub(crate) struct Place {
    block: u64,
    bits: u64,
}

impl Place {
    /// Keys of one subtask have hashes in common, so these are stirred first.
    #[inline]
    pub(crate) fn of(hash: u64) -> Self {
        let block = mix(hash ^ 0x9E37_79B9_7F4A_7C15);
        Place { block, bits: mix(block) }
    }

    #[inline]
    fn bits_in(self, words: usize) -> impl Iterator<Item = (usize, u64)> {
        let blocks = (words / BLOCK_WORDS) as u128;
        let first = ((u128::from(self.block) * blocks) >> 64) as usize * BLOCK_WORDS;
        (0..KEY_BITS).map(move |bit| {
            let bit = (self.bits >> (bit * BLOCK_BITS.ilog2())) as usize % BLOCK_BITS;
            (first + bit / 64, 1 << (bit % 64))
        })
    }
}

impl KeyFilter {
    /// A filter for at most so many keys.
    pub(crate) fn for_keys(count: usize) -> Self {
        // A power of two, so that it can be halved.
        let blocks = count.div_ceil(BLOCK_KEYS).next_power_of_two().min(BLOCKS_MAX);
        KeyFilter { words: vec![0; blocks * BLOCK_WORDS] }
    }

    /// Takes the hash of a key.
    #[inline]
    pub(crate) fn insert(&mut self, hash: u64) {
        Place::of(hash).bits_in(self.words.len()).for_each(|(word, bit)| self.words[word] |= bit);
    }

    /// Whether the key may have been taken; `false` is certain.
    #[inline]
    pub(crate) fn may_hold(&self, place: Place) -> bool {
        place.bits_in(self.words.len()).all(|(word, bit)| self.words[word] & bit != 0)
    }

    /// Gives back what more memory it has than so many keys need, which are all that were taken.
    pub(crate) fn shrink(&mut self, count: usize) {
        // Places are scaled, so a block of a filter half as large is two neighbours of this one.
        while self.words.len() >= 2 * BLOCK_WORDS && self.words.len() / BLOCK_WORDS / 2 * BLOCK_KEYS >= count {
            let pairs = self.words.chunks_exact(2 * BLOCK_WORDS);
            self.words = pairs.flat_map(|pair| (0..BLOCK_WORDS).map(|at| pair[at] | pair[BLOCK_WORDS + at])).collect();
        }
    }

    /// Bytes of memory held.
    pub(crate) fn size_bytes(&self) -> usize {
        self.words.capacity() * size_of::<u64>()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        /// Whatever was taken is there, also when the filter holds far more than it is made for, or was halved.
        #[test]
        fn keys_that_were_taken_are_never_denied(
            hashes in prop::collection::vec(any::<u64>(), 0..1000),
            expected in 0usize..1000,
        ) {
            let mut filter = KeyFilter::for_keys(expected);
            hashes.iter().for_each(|hash| filter.insert(*hash));
            prop_assert!(hashes.iter().all(|hash| filter.may_hold(Place::of(*hash))));
            filter.shrink(hashes.len());
            prop_assert!(hashes.iter().all(|hash| filter.may_hold(Place::of(*hash))));
            prop_assert!(filter.size_bytes() <= BLOCKS_MAX * BLOCK_BITS / 8);
        }
    }

    #[test]
    fn most_other_keys_are_denied() {
        let keys = (2 * BLOCK_KEYS) as u64;
        let filter_for = |count: usize| {
            let mut filter = KeyFilter::for_keys(count);
            // Hashes as one subtask of many sees them: alike in their high bits.
            (0..keys).for_each(|key| filter.insert(mix(key) >> 8));
            filter
        };
        let wrong = |filter: &KeyFilter| {
            (keys..101 * keys).filter(|key| filter.may_hold(Place::of(mix(*key) >> 8))).count() as u64
        };
        let mut large = filter_for(2 * keys as usize);
        large.shrink(keys as usize);
        for filter in [filter_for(keys as usize), large] {
            assert_eq!(filter.size_bytes(), 2 * BLOCK_BITS / 8);
            assert!(wrong(&filter) <= 6 * keys, "{} of {} are wrong", wrong(&filter), 100 * keys);
        }
    }
}
