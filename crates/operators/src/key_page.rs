//! Some rows of a keyed table as the bytes of one page, in order of the hashes of their keys (pure). `key_run` writes and
//! reads them; it does not know what the bytes of a row mean.
//!
//! ```text
//! page     checksum (u64, little-endian as all numbers), of all that follows: count, width of a key, width of the rest (u32
//!          each), count hashes (u64), ends, bytes
//! ends     only where rows differ in width (the width of a key is u32::MAX then): per row where its key and its rest end
//! bytes    per row its key, and the rest
//! ```
//! Scratch of one process, no format that lasts.

use weir_core::key_hash::mix;
use weir_operator_api::{OperatorError, Result};

/// Stands for the width of keys that differ in it.
const VARYING: u32 = u32::MAX;
const CHECKSUM_BYTES: usize = size_of::<u64>();
const HEADER_BYTES: usize = CHECKSUM_BYTES + 12;
const HASH_BYTES: usize = size_of::<u64>();
const ENDS_BYTES: usize = 2 * size_of::<u32>();

/// A row: the hash of its key, its key, and what is behind it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Entry<'a> {
    pub(crate) hash: u64,
    pub(crate) key: &'a [u8],
    pub(crate) rest: &'a [u8],
}

/// Takes a word into a sum. An odd factor and a turn lose nothing, so a single change is never lost either.
#[inline(always)]
fn add(sum: u64, word: &[u8]) -> u64 {
    let word = word.first_chunk().map_or(0, |word| u64::from_le_bytes(*word));
    (sum ^ word).wrapping_mul(0x9E37_79B9_7F4A_7C15).rotate_left(29)
}

/// Tells bytes from almost all others: a disk that gives back something else is found out.
fn checksum(bytes: &[u8]) -> u64 {
    let steps = bytes.chunks_exact(4 * size_of::<u64>());
    let last = steps.remainder();
    // Four sums, so that the processor need not wait for one.
    let (mut a, mut b, mut c, mut d) = (1, 2, 3, 4);
    for step in steps {
        (a, b, c, d) = (add(a, step), add(b, &step[8..]), add(c, &step[16..]), add(d, &step[24..]));
    }
    let sum = [a, b, c, d].iter().fold(bytes.len() as u64, |sum, part| mix(sum ^ part));
    last.iter().fold(sum, |sum, byte| mix(sum ^ u64::from(*byte)))
}

/// Collects the rows of a page.
#[derive(Debug, Default)]
pub(crate) struct PageWriter {
    hashes: Vec<u64>,
    ends: Vec<(u32, u32)>,
    bytes: Vec<u8>,
    /// The widths of key and rest, if all rows have the same.
    widths: Option<(u32, u32)>,
}

impl PageWriter {
    /// Adds a row behind the others.
    pub(crate) fn push(&mut self, entry: Entry<'_>) {
        let widths = (entry.key.len() as u32, entry.rest.len() as u32);
        match self.hashes.is_empty() {
            true => self.widths = Some(widths),
            false => self.widths = self.widths.filter(|known| *known == widths),
        }
        self.hashes.push(entry.hash);
        self.bytes.extend_from_slice(entry.key);
        let key_end = self.bytes.len() as u32;
        self.bytes.extend_from_slice(entry.rest);
        self.ends.push((key_end, self.bytes.len() as u32));
    }

    /// How large the page is, about.
    #[inline]
    pub(crate) fn size(&self) -> usize {
        HEADER_BYTES + self.hashes.len() * HASH_BYTES + self.bytes.len()
    }

    /// The hash of the first row.
    pub(crate) fn first(&self) -> Option<u64> {
        self.hashes.first().copied()
    }

    /// Writes the page, after which the next one begins.
    pub(crate) fn finish(&mut self, page: &mut Vec<u8>) {
        let start = page.len();
        page.extend_from_slice(&[0; CHECKSUM_BYTES]);
        let (key_width, rest_width) = self.widths.unwrap_or((VARYING, 0));
        [self.hashes.len() as u32, key_width, rest_width].iter().for_each(|n| page.extend_from_slice(&n.to_le_bytes()));
        self.hashes.iter().for_each(|hash| page.extend_from_slice(&hash.to_le_bytes()));
        if key_width == VARYING {
            let ends = self.ends.iter().flat_map(|(key, rest)| [key, rest]);
            ends.for_each(|end| page.extend_from_slice(&end.to_le_bytes()));
        }
        page.extend_from_slice(&self.bytes);
        let checksum = checksum(&page[start + CHECKSUM_BYTES..]).to_le_bytes();
        page[start..start + CHECKSUM_BYTES].copy_from_slice(&checksum);
        self.hashes.clear();
        self.ends.clear();
        self.bytes.clear();
    }
}

/// The rows of a page.
#[derive(Debug)]
pub(crate) struct Page<B> {
    page: B,
    count: usize,
    /// Widths of key and rest.
    widths: Option<(usize, usize)>,
    /// Where the bytes of rows begin.
    start: usize,
}

#[inline]
fn u32_at(bytes: &[u8], at: usize) -> usize {
    bytes[at..].first_chunk().map_or(0, |word| u32::from_le_bytes(*word) as usize)
}

impl<B: AsRef<[u8]>> Page<B> {
    /// Reads what [`PageWriter::finish`] made.
    ///
    /// **Errors**: anything else.
    pub(crate) fn read(page: B) -> Result<Self> {
        let damaged = || {
            OperatorError::external("state-store", "rows on disk are not as they were written; is the disk damaged?")
        };
        let bytes = page.as_ref();
        let sum = bytes.first_chunk().map(|sum| u64::from_le_bytes(*sum));
        if bytes.len() < HEADER_BYTES || sum != Some(checksum(&bytes[CHECKSUM_BYTES..])) {
            return Err(damaged());
        }
        let [count, key_width, rest_width] = [0, 4, 8].map(|at| u32_at(bytes, CHECKSUM_BYTES + at));
        let widths = Some((key_width, rest_width)).filter(|_| key_width != VARYING as usize);
        let of_row = if widths.is_some() { HASH_BYTES } else { HASH_BYTES + ENDS_BYTES };
        let start = HEADER_BYTES + count * of_row;
        Ok(Page { page, count, widths, start })
    }

    /// How many rows there are, at least one.
    pub(crate) fn len(&self) -> usize {
        self.count
    }

    #[inline]
    fn hash(&self, row: usize) -> u64 {
        let bytes = &self.page.as_ref()[HEADER_BYTES + row * HASH_BYTES..];
        bytes.first_chunk().map_or(0, |hash| u64::from_le_bytes(*hash))
    }

    /// Where the ends of a row stand, in a page that has them.
    #[inline]
    fn ends_at(&self, row: usize) -> usize {
        HEADER_BYTES + self.count * HASH_BYTES + row * ENDS_BYTES
    }

    /// Where the bytes of a row end.
    #[inline]
    fn end(&self, row: usize) -> usize {
        match self.widths {
            Some((key, rest)) => self.start + (row + 1) * (key + rest),
            None => self.start + u32_at(self.page.as_ref(), self.ends_at(row) + size_of::<u32>()),
        }
    }

    /// A row.
    #[inline]
    pub(crate) fn entry(&self, row: usize) -> Entry<'_> {
        let bytes = self.page.as_ref();
        let (start, end) = (if row == 0 { self.start } else { self.end(row - 1) }, self.end(row));
        let middle = match self.widths {
            Some((key, _)) => start + key,
            None => self.start + u32_at(bytes, self.ends_at(row)),
        };
        Entry { hash: self.hash(row), key: &bytes[start..middle], rest: &bytes[middle..end] }
    }

    /// All rows.
    pub(crate) fn entries(&self) -> impl Iterator<Item = Entry<'_>> {
        (0..self.count).map(|row| self.entry(row))
    }

    /// What is behind a key, if it is here.
    #[inline]
    pub(crate) fn find(&self, hash: u64, key: &[u8]) -> Option<&[u8]> {
        let (mut low, mut high) = (0, self.count);
        while low < high {
            let middle = low.midpoint(high);
            if self.hash(middle) < hash { low = middle + 1 } else { high = middle }
        }
        // Different keys may have one hash.
        let same = (low..self.count).map(|row| self.entry(row)).take_while(|entry| entry.hash == hash);
        same.into_iter().find(|entry| entry.key == key).map(|entry| entry.rest)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::*;

    proptest! {
        /// Rows come back as they were written and are found by hash and key, with one width or many, and hashes that meet; a
        /// page that is cut or changed is refused.
        #[test]
        fn rows_are_found_as_they_were_written(
            rows in prop::collection::btree_map((0u64..9, prop::collection::vec(0u8..3, 0..4)), prop::collection::vec(any::<u8>(), 0..3), 1..40),
            width in prop_oneof![Just(None), Just(Some(3usize))],
            (at, bit) in (any::<prop::sample::Index>(), 0u32..8),
        ) {
            let fit = |bytes: &[u8]| bytes.iter().chain(&[0; 3]).take(width.unwrap_or(bytes.len())).copied().collect::<Vec<u8>>();
            let rows: BTreeMap<(u64, Vec<u8>), Vec<u8>> =
                rows.iter().map(|((hash, key), rest)| ((*hash, fit(key)), fit(rest))).collect();
            let mut writer = PageWriter::default();
            for round in 0..2 {
                rows.iter().for_each(|((hash, key), rest)| writer.push(Entry { hash: *hash, key, rest }));
                let mut bytes = Vec::new();
                writer.finish(&mut bytes);
                let page = Page::read(bytes.as_slice()).expect("it was written so");
                let expected: Vec<Entry<'_>> =
                    rows.iter().map(|((hash, key), rest)| Entry { hash: *hash, key, rest }).collect();
                prop_assert_eq!(page.entries().collect::<Vec<_>>(), expected, "round {}", round);
                for ((hash, key), rest) in &rows {
                    prop_assert_eq!(page.find(*hash, key), Some(rest.as_slice()));
                    prop_assert_eq!(page.find(*hash + 100, key), None);
                    prop_assert_eq!(page.find(*hash, &[7; 5]), None);
                }
                let length = bytes.len();
                prop_assert!(Page::read(&bytes[..length - 1]).is_err());
                bytes[at.index(length)] ^= 1 << bit;
                prop_assert!(Page::read(&bytes[..]).is_err());
            }
        }
    }
}
