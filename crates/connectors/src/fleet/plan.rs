//! What holds for the whole fleet: the settings turned into numbers, and where chance comes from (pure).
//!
//! Times inside the generator are milliseconds since the start of the stream.

use super::places::Routes;

pub(super) const SECOND_MS: i64 = 1_000;
pub(super) const MINUTE_MS: i64 = 60 * SECOND_MS;

/// A shipment is late when its estimated arrival is further than this behind the planned one.
pub(super) const LATE_AFTER_MS: i64 = 15 * MINUTE_MS;
/// A truck is silent when nothing was heard from it for this long.
pub(super) const SILENT_AFTER_MS: i64 = 10 * MINUTE_MS;
/// A report that took longer from truck to receiver was stored and forwarded, and tells nothing in time.
pub(super) const TIMELY_MS: i64 = 30 * SECOND_MS;
/// A dead zone lies inside one slot of this length.
pub(super) const ZONE_SLOT_MS: i64 = 20 * MINUTE_MS;
/// Shortest event time of a stream in which trucks may fall silent: silences begin well after the start and are known
/// well before the end.
pub(super) const SILENCE_NEEDS_MS: i64 = 40 * MINUTE_MS;
/// The first trucks never fall silent. So every split (up to this parallelism) has a truck that reports to the end, the
/// watermark reaches the end of the stream, and every silence becomes known.
pub(super) const NEVER_SILENT_TRUCKS: u32 = 16;

/// What a user says about the fleet.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct FleetSettings {
    pub(super) seed: u64,
    pub(super) trucks: u32,
    /// Indexes into the built-in regions.
    pub(super) regions: Vec<u8>,
    /// Start of the stream. **Units**: milliseconds since 1970-01-01 UTC.
    pub(super) start_unix_ms: i64,
    pub(super) duration_ms: i64,
    pub(super) report_interval_ms: i64,
    pub(super) disorder_max_ms: i64,
    /// Shares of reports, trucks and shipments, from 0 to 1.
    pub(super) duplicates: f64,
    pub(super) stored_and_forwarded: f64,
    pub(super) malformed: f64,
    pub(super) silent: f64,
    pub(super) delayed: f64,
    /// Event time per wall time; not paced when absent.
    pub(super) speedup: Option<f64>,
    pub(super) truth_path: Option<String>,
}

/// A share, ready to be compared with the lower half of a random word.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Chance(u64);

impl Chance {
    pub(super) fn of(share: f64) -> Chance {
        Chance((share.clamp(0.0, 1.0) * (1u64 << 32) as f64) as u64)
    }

    #[inline]
    pub(super) fn hits(self, word: u64) -> bool {
        word & 0xFFFF_FFFF < self.0
    }
}

/// What holds for the whole fleet.
pub(super) struct Fleet {
    pub(super) settings: FleetSettings,
    pub(super) routes: Routes,
    pub(super) duplicate: Chance,
    /// Only reports of odd number may be malformed, so that two never follow each other; hence twice the share.
    pub(super) malformed: Chance,
    pub(super) silent: Chance,
    pub(super) delayed: Chance,
    /// Whether a slot of a truck has a dead zone.
    pub(super) zone: Chance,
    /// Longest dead zone. With lost reports on both sides the truck is still heard in less than ten minutes.
    pub(super) zone_max_ms: i64,
}

impl Fleet {
    pub(super) fn new(settings: FleetSettings) -> Fleet {
        let zone_max_ms = SILENT_AFTER_MS - settings.disorder_max_ms - 4 * settings.report_interval_ms;
        let zone_mean_ms = zone_max_ms - zone_max_ms / 4;
        let zone = settings.stored_and_forwarded * ZONE_SLOT_MS as f64 / zone_mean_ms as f64;
        let silent = if settings.duration_ms < SILENCE_NEEDS_MS { 0.0 } else { settings.silent };
        Fleet {
            duplicate: Chance::of(settings.duplicates),
            malformed: Chance::of(2.0 * settings.malformed),
            silent: Chance::of(silent),
            delayed: Chance::of(settings.delayed),
            zone: Chance::of(zone),
            zone_max_ms,
            routes: Routes::new(),
            settings,
        }
    }

    /// The word all chance of a truck starts from.
    pub(super) fn truck_seed(&self, truck: u32) -> u64 {
        mix(mix(self.settings.seed).wrapping_add(u64::from(truck).wrapping_mul(0x9E37_79B9_7F4A_7C15)))
    }
}

/// What a random word is for; each purpose has its own sequence.
#[derive(Clone, Copy)]
pub(super) enum Purpose {
    Truck = 1,
    Silence,
    Leg,
    Stop,
    Zone,
    Delay,
    Fault,
}

/// Random word `n` of a truck for a purpose.
#[inline]
pub(super) fn word(truck_seed: u64, purpose: Purpose, n: u64) -> u64 {
    mix((truck_seed ^ ((purpose as u64) << 56)).wrapping_add(n.wrapping_mul(0xD1B5_4A32_D192_ED03)))
}

/// Uniform in `[low, high)` from the upper half of a word; `low` when the range is empty.
#[inline]
pub(super) fn between(word: u64, low: i64, high: i64) -> i64 {
    low + (((u128::from(word >> 32)) * (high - low).max(0) as u128) >> 32) as i64
}

/// The finaliser of SplitMix64. The fleet has its own copy: its stream must not change when Weir's key hash does.
#[inline]
pub(super) fn mix(mut z: u64) -> u64 {
    z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    z ^ (z >> 31)
}
