//! Which keys were surely never put away: a few bits per key instead of a look-up on disk (pure). `disk_rows` asks it.
//!
//! Layers of a blocked Bloom filter, each twice as large as the one before, since a filter cannot grow. The last one takes
//! whatever comes: it answers "perhaps" ever more often then, which costs look-ups and no more memory.
//!
//! **Source**: F. Putze, P. Sanders, J. Singler, "Cache-, hash- and space-efficient Bloom filters" (2007).

use weir_core::key_hash::mix;

/// Bits of one block: a cache line, so that a question costs one miss per layer.
const BLOCK_BITS: usize = 512;
const BLOCK_WORDS: usize = BLOCK_BITS / 64;
/// Keys of one block, on average, when its layer is full.
const BLOCK_KEYS: usize = 64;
/// Bits that a key sets.
const KEY_BITS: u32 = 4;
/// Blocks of the first layer.
const FIRST_BLOCKS: usize = if cfg!(test) { 2 } else { 1024 };
/// Layers, at most: 16 MiB for 16 million keys.
const LAYERS_MAX: usize = if cfg!(test) { 3 } else { 8 };

/// Keys by their hashes.
#[derive(Debug, Default)]
pub(crate) struct KeyFilter {
    layers: Vec<Layer>,
}

#[derive(Debug)]
struct Layer {
    words: Vec<u64>,
    /// Keys until it is full.
    left: usize,
}

/// Where the bits of a key lie: a place that any number of blocks is scaled to, and bits in the block.
#[derive(Clone, Copy)]
struct Place {
    block: u64,
    bits: u64,
}

impl Place {
    /// Keys of one subtask have hashes in common, so these are stirred first.
    #[inline]
    fn of(hash: u64) -> Self {
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
    /// Takes the hash of a key. One that seems to be there takes no room, so that keys may come again and again.
    pub(crate) fn insert(&mut self, hash: u64) {
        if self.may_hold(hash) {
            return;
        }
        let is_full = self.layers.last().is_none_or(|layer| layer.left == 0);
        if is_full && self.layers.len() < LAYERS_MAX {
            let blocks = FIRST_BLOCKS << self.layers.len();
            self.layers.push(Layer { words: vec![0; blocks * BLOCK_WORDS], left: blocks * BLOCK_KEYS });
        }
        let Some(layer) = self.layers.last_mut() else { return };
        layer.left = layer.left.saturating_sub(1);
        Place::of(hash).bits_in(layer.words.len()).for_each(|(word, bit)| layer.words[word] |= bit);
    }

    /// Whether the hash may have been taken; `false` is certain.
    #[inline]
    pub(crate) fn may_hold(&self, hash: u64) -> bool {
        let place = Place::of(hash);
        let holds = |layer: &Layer| place.bits_in(layer.words.len()).all(|(word, bit)| layer.words[word] & bit != 0);
        self.layers.iter().any(holds)
    }

    /// Bytes of memory held.
    pub(crate) fn size_bytes(&self) -> usize {
        self.layers.iter().map(|layer| layer.words.capacity() * size_of::<u64>()).sum()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        /// Whatever was taken is there, also when the last layer holds far more than it is made for.
        #[test]
        fn keys_that_were_taken_are_never_denied(hashes in prop::collection::vec(any::<u64>(), 0..3000)) {
            let mut filter = KeyFilter::default();
            for (taken, hash) in hashes.iter().enumerate() {
                filter.insert(*hash);
                prop_assert!(filter.may_hold(hashes[taken / 2]));
            }
            prop_assert!(hashes.iter().all(|hash| filter.may_hold(*hash)));
            prop_assert!(filter.layers.len() <= LAYERS_MAX);
        }
    }

    #[test]
    fn most_other_keys_are_denied_while_layers_are_not_full() {
        let keys = (FIRST_BLOCKS * BLOCK_KEYS) as u64;
        let mut filter = KeyFilter::default();
        // Hashes as one subtask of many sees them: alike in their high bits.
        (0..keys).for_each(|key| filter.insert(mix(key) >> 8));
        assert_eq!(filter.layers.len(), 1);
        let wrong = (keys..101 * keys).filter(|key| filter.may_hold(mix(*key) >> 8)).count();
        assert!(wrong as u64 <= 6 * keys, "{wrong} of {} are wrong", 100 * keys);
        (0..keys).for_each(|key| filter.insert(mix(key) >> 8));
        assert_eq!(filter.layers.len(), 1);
        (keys..2 * keys).for_each(|key| filter.insert(mix(key) >> 8));
        assert_eq!(filter.layers.len(), 2);
        assert_eq!(filter.size_bytes(), (1 + 2) * FIRST_BLOCKS * BLOCK_BITS / 8);
    }
}
