//! Settings and splits of the source `nexmark`. The registry holds the factory.

use std::collections::BTreeMap;

use async_trait::async_trait;
use weir_core::{OperatorUid, Settings, SplitIndex, Value};
use weir_operator_api::connector::SourceProperties;
use weir_operator_api::{OperatorError, ReaderContext, Result, SourceFactory, SourceReader, Split};

use super::reader::NexmarkReader;
use super::rules::BLOCK_EVENTS;
use super::tables::Table;

/// Events per second of event time when nothing is said.
const RATE_DEFAULT: u64 = 100_000;
/// Most events of a stream: their times stay far inside the sane range of event time.
const EVENTS_MAX: i64 = 1_000_000_000_000;
/// The year 9999.
const LIVE_SINCE_MAX_MS: i64 = 253_402_300_799_999;
/// Longest event time of a stream: a hundred years.
const SPAN_SECONDS_MAX: u64 = 36_525 * 86_400;

/// What a user says about the stream.
#[derive(Clone, Debug)]
pub(super) struct NexmarkSettings {
    pub(super) table: Table,
    /// Blocks of 50 events.
    pub(super) blocks: u64,
    /// Events per second of event time.
    pub(super) rate: u64,
    /// Events per second of wall time; not paced when absent.
    pub(super) pace: Option<f64>,
    /// When the stream began, on the wall clock; a paced stream begins with its reader when absent. **Units**:
    /// microseconds since 1970-01-01 UTC.
    pub(super) live_since_us: Option<i64>,
}

impl NexmarkSettings {
    /// Reads the settings; `None` after recording problems.
    pub(super) fn read(settings: &Settings<'_>) -> Option<NexmarkSettings> {
        if !settings.has("table") {
            settings.problem("table", format!("is missing: expected one of {}", Table::NAMES.join(", ")));
        }
        let table = settings.choice("table", &Table::NAMES).and_then(Table::from_name);
        if !settings.has("events") {
            settings.problem("events", "is missing: expected how many events of all tables, a multiple of 50");
        }
        let events = settings.integer("events", 0..=EVENTS_MAX).map(|events| events as u64);
        let rate = settings.integer("rate", 1..=1_000_000_000).map_or(RATE_DEFAULT, |rate| rate as u64);
        let pace = settings.number("pace", 0.0..=1e12).filter(|pace| *pace > 0.0);
        let live_since_ms = settings.integer("live_since_ms", 0..=LIVE_SINCE_MAX_MS).filter(|since| *since > 0);
        if live_since_ms.is_some() && pace.is_none() {
            settings.problem("live_since_ms", "is only for a stream with a pace: give pace too, or leave it out");
        }
        let events = events?;
        if !events.is_multiple_of(BLOCK_EVENTS) {
            let lower = events - events % BLOCK_EVENTS;
            let cure = format!("take {lower} or {}", lower + BLOCK_EVENTS);
            settings
                .problem("events", format!("must be a multiple of 50, as the stream comes in blocks of 50: {cure}"));
            return None;
        }
        if events / rate > SPAN_SECONDS_MAX {
            settings.problem("rate", "spreads the events over more than 100 years of event time; take a higher rate");
            return None;
        }
        let live_since_us = live_since_ms.map(|since| since * 1000);
        Some(NexmarkSettings { table: table?, blocks: events / BLOCK_EVENTS, rate, pace, live_since_us })
    }

    /// Reads settings that were accepted before.
    fn read_planned(uid: &OperatorUid, settings: &BTreeMap<String, Value>) -> Result<NexmarkSettings> {
        NexmarkSettings::read(&Settings::new(uid.as_str(), settings)).ok_or_else(|| {
            OperatorError::internal(format!("source '{uid}': its settings were accepted but cannot be read"))
        })
    }
}

/// Makes `nexmark` sources.
///
/// Settings: `table` (`person`, `auction` or `bid`), `events` (of all tables together, a multiple of 50), `rate` (events
/// per second of event time, default 100000), `pace` (events of all tables per second of wall time; 0 or absent: as fast
/// as possible), `live_since_ms` (when a paced stream began; 0 or absent: with its reader).
///
/// **Shapes**: one split per subtask; split i of P holds the blocks of 50 events i, i + P, ... All columns are not null.
#[derive(Clone, Copy, Debug, Default)]
pub struct NexmarkSource;

#[async_trait]
impl SourceFactory for NexmarkSource {
    fn kind(&self) -> &'static str {
        "nexmark"
    }

    fn describe(&self, settings: &Settings<'_>) -> Option<SourceProperties> {
        let read = NexmarkSettings::read(settings)?;
        Some(SourceProperties {
            schema: read.table.schema(),
            is_bounded: true,
            can_project: true,
            parallelism_max: None,
        })
    }

    async fn enumerate(
        &self,
        _uid: &OperatorUid,
        _settings: &BTreeMap<String, Value>,
        parallelism: u32,
    ) -> Result<Vec<Split>> {
        let split = |index: u32| Split {
            index: SplitIndex(index),
            position: None,
            description: Value::from([
                ("first_block", Value::Integer(i64::from(index))),
                ("block_stride", Value::Integer(i64::from(parallelism))),
            ]),
        };
        Ok((0..parallelism).map(split).collect())
    }

    async fn reader(&self, context: ReaderContext) -> Result<Box<dyn SourceReader>> {
        let settings = NexmarkSettings::read_planned(&context.uid, &context.settings)?;
        Ok(Box::new(NexmarkReader::new(settings, context)?))
    }
}

/// Reads a split's position: how many of its rows were given; 0 at its beginning.
///
/// **Errors**: a position this source did not write.
pub(super) fn read_position(split: &Split) -> Result<u64> {
    match &split.position {
        None => Ok(0),
        Some(Value::Integer(rows)) if *rows >= 0 => Ok(*rows as u64),
        Some(other) => {
            Err(OperatorError::internal(format!("split {} has a position not of nexmark: {other}", split.index)))
        }
    }
}

/// Reads a split's description: its first block and the distance to the next.
///
/// **Errors**: a description this source did not write.
pub(super) fn read_split(split: &Split) -> Result<(u64, u64)> {
    let number = |name: &str| match split.description.as_map().and_then(|fields| fields.get(name)) {
        Some(Value::Integer(number)) if *number >= 0 => Some(*number as u64),
        _ => None,
    };
    match (number("first_block"), number("block_stride")) {
        (Some(first), Some(stride)) if stride > 0 => Ok((first, stride)),
        _ => {
            Err(OperatorError::internal(format!("split {} is not one of nexmark: {}", split.index, split.description)))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn problems(fields: &[(&str, Value)]) -> String {
        let fields = fields.iter().map(|(name, value)| ((*name).to_owned(), value.clone())).collect();
        let settings = Settings::new("bids", &fields);
        NexmarkSource.describe(&settings);
        settings.finish().iter().map(|problem| format!("{problem}\n")).collect()
    }

    #[test]
    fn wrong_settings_are_answered_all_at_once_with_the_cure() {
        expect_test::expect![[r#"
            operator 'bids', table: 'bids' is not one of person, auction, bid; did you mean 'bid'?
            operator 'bids', events: must be a multiple of 50, as the stream comes in blocks of 50: take 100 or 150
            operator 'bids', speed: unknown field; known here: events, live_since_ms, pace, rate, table
        "#]]
        .assert_eq(&problems(&[("table", "bids".into()), ("events", 120.into()), ("speed", 1.into())]));
        expect_test::expect![[r#"
            operator 'bids', table: is missing: expected one of person, auction, bid
            operator 'bids', events: is missing: expected how many events of all tables, a multiple of 50
        "#]]
        .assert_eq(&problems(&[]));
        assert_eq!(problems(&[("table", "bid".into()), ("events", 100.into()), ("pace", 0.into())]), "");
    }
}
