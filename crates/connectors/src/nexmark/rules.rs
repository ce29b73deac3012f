//! The rules of the stream: random words, prices, pooled text, word lists (pure). The generator builds columns from them.
//!
//! **Source**: `testdata/nexmark/README.md`; the names here are the names there.

use std::sync::LazyLock;

/// Events in a block: one person, three auctions, 46 bids.
pub(super) const BLOCK_EVENTS: u64 = 50;
/// Event time of event 0. **Units**: milliseconds since 1970-01-01 UTC.
pub(super) const FIRST_TIME_MS: i64 = 1_700_000_000_000;
/// The first id of persons and of auctions.
pub(super) const FIRST_ID: u64 = 1_000;
/// The first category of auctions.
pub(super) const FIRST_CATEGORY: u64 = 10;
/// A person or auction whose number is a multiple of this is hot.
pub(super) const HOT_EVERY: u64 = 100;

const EVENT_STEP: u64 = 0x9E37_79B9_7F4A_7C15;
const WORD_STEP: u64 = 0xD1B5_4A32_D192_ED03;
const POOL_OFFSETS: usize = 1 << 20;
const POOL_BYTES: usize = POOL_OFFSETS + 1_024;
const POOL_SEED: u64 = 0x123_4567;

pub(super) const FIRST_NAMES: [&str; 11] =
    ["Peter", "Paul", "Luke", "John", "Saul", "Vicky", "Kate", "Julie", "Sarah", "Deiter", "Walter"];
pub(super) const LAST_NAMES: [&str; 9] =
    ["Shultz", "Abrams", "Spencer", "White", "Bartels", "Walton", "Smith", "Jones", "Noris"];
pub(super) const STATES: [&str; 6] = ["AZ", "CA", "ID", "OR", "WA", "WY"];
pub(super) const CITIES: [&str; 10] =
    ["Phoenix", "Los Angeles", "San Francisco", "Boise", "Portland", "Bend", "Redmond", "Seattle", "Kent", "Cheyenne"];
pub(super) const HOT_CHANNELS: [&str; 4] = ["Google", "Facebook", "Baidu", "Apple"];
pub(super) const HOT_URLS: [&str; 4] = [
    "https://www.nexmark.com/hot0/item.htm?query=1",
    "https://www.nexmark.com/hot1/item.htm?query=1",
    "https://www.nexmark.com/hot2/item.htm?query=1",
    "https://www.nexmark.com/hot3/item.htm?query=1",
];
/// Channels that are not hot are `channel-0` to `channel-9999`.
pub(super) const COLD_CHANNELS: usize = 10_000;
pub(super) const COLD_URL_PREFIX: &str = "https://www.nexmark.com/abc/def/ghi/item.htm?query=1&channel_id=";

/// The finaliser of SplitMix64. The stream has its own copy: it must not change when Weir's key hash does.
#[inline]
pub(super) fn mix(mut z: u64) -> u64 {
    z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    z ^ (z >> 31)
}

/// Random word `k` of event `n`.
#[inline]
pub(super) fn word(n: u64, k: u64) -> u64 {
    mix(n.wrapping_mul(EVENT_STEP).wrapping_add((k + 1).wrapping_mul(WORD_STEP)))
}

/// Uniform in `[0, bound)` from the upper half of a word; `bound` stays below 2^32.
#[inline]
pub(super) fn bounded(word: u64, bound: u64) -> u64 {
    (word >> 32).wrapping_mul(bound) >> 32
}

/// One of the newest thousand of the persons 0 to `last`, or one of ten that do not exist yet.
#[inline]
pub(super) fn recent(last: u64, word: u64) -> u64 {
    let active = (last + 1).min(1_000);
    last + 1 - active + bounded(word, active + 10)
}

/// Where pooled text of a word begins.
#[inline]
pub(super) fn text_offset(word: u64) -> usize {
    word as usize & (POOL_OFFSETS - 1)
}

/// Prices from 100 to 10^8, uniform in their logarithm: 1024 steps with the rise to the next one.
pub(super) struct Prices([(u64, u64); 1_024]);

impl Prices {
    fn new() -> Self {
        let step = |i: usize| (100.0 * 10f64.powf(6.0 * i as f64 / 1_024.0) + 0.5).floor() as u64;
        Prices(std::array::from_fn(|i| (step(i), step(i + 1) - step(i))))
    }

    /// The price that belongs to the low 30 bits of a word.
    #[inline]
    pub(super) fn of(&self, word: u64) -> u64 {
        let (start, rise) = self.0[(word >> 20) as usize & 1_023];
        start + ((rise * (word & 0xF_FFFF)) >> 20)
    }
}

/// Text that lies ready: made once per process and shared by all readers.
pub(super) struct Texts {
    /// Random letters; all free text is cut out of them.
    pub(super) pool: String,
    /// Names by number: every first name with every last name.
    pub(super) names: Vec<String>,
    /// Addresses that belong to the names.
    pub(super) email_addresses: Vec<String>,
    /// The numbers of cold channels as text.
    pub(super) numbers: Vec<String>,
}

impl Texts {
    fn new() -> Self {
        let mut state = POOL_SEED;
        let letters = (0..POOL_BYTES as u64).map(|i| {
            state = mix(state.wrapping_add(i));
            char::from(b'a' + ((state >> 1) % 26) as u8)
        });
        let both = || FIRST_NAMES.iter().flat_map(|first| LAST_NAMES.iter().map(move |last| (first, last)));
        Texts {
            pool: letters.collect(),
            names: both().map(|(first, last)| format!("{first} {last}")).collect(),
            email_addresses: both()
                .map(|(first, last)| format!("{}@{}.example", first.to_lowercase(), last.to_lowercase()))
                .collect(),
            numbers: (0..COLD_CHANNELS).map(|number| number.to_string()).collect(),
        }
    }
}

/// The price table.
pub(super) static PRICES: LazyLock<Prices> = LazyLock::new(Prices::new);
/// The texts.
pub(super) static TEXTS: LazyLock<Texts> = LazyLock::new(Texts::new);

/// Event times of one stream. **Units**: events per second of event time; results in microseconds.
#[derive(Clone, Copy, Debug)]
pub(super) struct EventTimes {
    rate: u64,
    step_ms: u64,
    step_rest: u64,
}

impl EventTimes {
    pub(super) fn new(rate: u64) -> Self {
        EventTimes { rate, step_ms: 1_000 / rate, step_rest: 1_000 % rate }
    }

    /// The longest an auction stays open, in milliseconds.
    pub(super) fn auction_length_ms(&self) -> u64 {
        (2 * ((HOT_EVERY * BLOCK_EVENTS / 3) * 1_000 / self.rate)).max(1)
    }

    /// Appends the times of the events `first..first + count`. One division for all; the rest is carried along.
    #[inline]
    pub(super) fn extend(&self, first: u64, count: usize, times: &mut Vec<i64>) {
        let scaled = first * 1_000;
        let (mut ms, mut rest) = (FIRST_TIME_MS + (scaled / self.rate) as i64, scaled % self.rate);
        times.extend((0..count).map(|_| {
            let time = ms * 1_000;
            rest += self.step_rest;
            let carry = u64::from(rest >= self.rate);
            rest -= carry * self.rate;
            ms += (self.step_ms + carry) as i64;
            time
        }));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn carried_times_are_the_divided_times(rate in 1u64..2_000_000, first in 0u64..10_000_000) {
            let mut times = Vec::new();
            EventTimes::new(rate).extend(first, 50, &mut times);
            let divided = (first..first + 50).map(|n| (FIRST_TIME_MS + (n * 1_000 / rate) as i64) * 1_000);
            prop_assert_eq!(times, divided.collect::<Vec<_>>());
        }
    }

    #[test]
    fn prices_run_from_a_hundred_to_a_hundred_million() {
        assert_eq!((PRICES.of(0), PRICES.of(u64::MAX)), (100, 99_999_998));
    }
}
