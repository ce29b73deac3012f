//! Where a reader stands in a split of the fleet, as it goes into a checkpoint (pure).
//!
//! Reports come in the order of their arrival, and those that arrive in the same millisecond in a fixed order: so the
//! time of the last one given and the number of those of that time are a place in the stream.

use std::collections::BTreeMap;

use weir_core::Value;
use weir_operator_api::{OperatorError, Result, Split};

use super::columns::Report;

/// A place between two reports.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Place {
    /// When the last report given arrived. **Units**: milliseconds since the start of the stream.
    pub(super) received_ms: i64,
    /// How many reports of that time were given; 0 at the beginning of the split.
    pub(super) count: u64,
}

impl Place {
    /// The place after some more reports.
    pub(super) fn after(self, reports: &[Report]) -> Place {
        let Some(last) = reports.last() else { return self };
        let same = reports.iter().rev().take_while(|report| report.received_ms == last.received_ms).count() as u64;
        // Those given before count if all of these have their time.
        let before = if last.received_ms == self.received_ms { self.count } else { 0 };
        Place { received_ms: last.received_ms, count: before + same }
    }
}

/// Where a reader stands in one split.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct FleetPosition {
    pub(super) place: Place,
    /// Reports after the place of which the whole ones were given and the broken ones were not.
    pub(super) without_bad: u64,
}

impl FleetPosition {
    /// Puts it into the words of a checkpoint; `None` at the beginning of the split.
    pub(super) fn to_value(self) -> Option<Value> {
        (self != FleetPosition::default()).then(|| {
            Value::from([
                ("received_ms", Value::Integer(self.place.received_ms)),
                ("count", Value::Integer(self.place.count as i64)),
                ("without_bad", Value::Integer(self.without_bad as i64)),
            ])
        })
    }

    /// Reads the position of a split.
    ///
    /// **Errors**: internal, when the words are not ours.
    pub(super) fn of_split(split: &Split) -> Result<FleetPosition> {
        let Some(value) = &split.position else { return Ok(FleetPosition::default()) };
        let position = value.as_map().and_then(FleetPosition::of_map);
        position.ok_or_else(|| {
            OperatorError::internal(format!("split {} has a position not of fleet: {value}", split.index))
        })
    }

    fn of_map(map: &BTreeMap<String, Value>) -> Option<FleetPosition> {
        let number = |name: &str| match map.get(name) {
            Some(Value::Integer(number)) if *number >= 0 => Some(*number),
            _ => None,
        };
        let (received_ms, count) = (number("received_ms")?, number("count")? as u64);
        Some(FleetPosition { place: Place { received_ms, count }, without_bad: number("without_bad")? as u64 })
    }
}
