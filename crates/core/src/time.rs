//! Event time in microseconds. Used wherever a record's time, a window or a watermark is meant.

use std::fmt;

/// A point in event time: microseconds since 1970-01-01 UTC.
///
/// As a **watermark** of value `t` it promises that no element with a time `<= t` is expected any more
/// (Flink's meaning), so a window `[start, end)` is complete when the watermark reaches `end - 1`.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct EventTime(pub i64);

impl EventTime {
    /// The watermark before any record: nothing is promised.
    pub const MIN: EventTime = EventTime(i64::MIN);
    /// The watermark after the last record of a bounded input: everything is complete.
    pub const MAX: EventTime = EventTime(i64::MAX);

    /// Least time a record may carry: 0001-01-01. Below it a record is a bad record.
    pub const SANE_MIN: EventTime = EventTime(-62_135_596_800_000_000);
    /// Greatest time a record may carry: 9999-12-31T23:59:59.999999. Above it a record is a bad record.
    pub const SANE_MAX: EventTime = EventTime(253_402_300_799_999_999);

    /// Reads milliseconds; saturates at the ends.
    pub fn from_millis(millis: i64) -> Self {
        EventTime(millis.saturating_mul(1000))
    }

    /// Reads microseconds.
    pub fn from_micros(micros: i64) -> Self {
        EventTime(micros)
    }

    /// Whether a record may carry this time.
    pub fn is_sane(self) -> bool {
        (Self::SANE_MIN..=Self::SANE_MAX).contains(&self)
    }

    /// Subtracts, stopping at [`EventTime::MIN`]; `MAX` stays `MAX`.
    pub fn minus_micros(self, micros: i64) -> Self {
        if self == Self::MAX { self } else { EventTime(self.0.saturating_sub(micros)) }
    }

    /// Adds, stopping at [`EventTime::MAX`]; `MIN` stays `MIN`.
    pub fn plus_micros(self, micros: i64) -> Self {
        if self == Self::MIN { self } else { EventTime(self.0.saturating_add(micros)) }
    }
}

impl fmt::Debug for EventTime {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Self::MIN => f.write_str("MIN"),
            Self::MAX => f.write_str("MAX"),
            EventTime(micros) => write!(f, "{micros}us"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Carries d4 of the failure list: arithmetic at the ends must not wrap.
    #[test]
    fn d4_extremes_saturate() {
        assert_eq!(EventTime::MIN.minus_micros(1), EventTime::MIN);
        assert_eq!(EventTime::MAX.plus_micros(1), EventTime::MAX);
        assert_eq!(EventTime::MAX.minus_micros(5), EventTime::MAX);
        assert_eq!(EventTime::MIN.plus_micros(5), EventTime::MIN);
        assert_eq!(EventTime::from_millis(i64::MAX), EventTime::MAX);
        assert!(!EventTime::MAX.is_sane() && !EventTime::MIN.is_sane());
    }
}
