//! Settings and splits of the source `fleet`. The registry holds the factory.

use std::collections::BTreeMap;
use std::sync::Arc;

use async_trait::async_trait;
use weir_core::settings::nearest;
use weir_core::{OperatorUid, Settings, SplitIndex, Value};
use weir_operator_api::connector::SourceProperties;
use weir_operator_api::{OperatorError, ReaderContext, Result, SourceFactory, SourceReader, Split};

use super::columns::{Column, schema_of};
use super::places::REGIONS;
use super::plan::{Fleet, FleetSettings, SECOND_MS, SILENCE_NEEDS_MS};
use super::reader::FleetReader;

const TRUCKS_DEFAULT: i64 = 1_000;
const INTERVAL_DEFAULT_MS: i64 = 10_000;
/// 2024-01-01T00:00:00Z. The wall clock is never asked: the same settings give the same stream.
const START_DEFAULT_UNIX_MS: i64 = 1_704_067_200_000;
const DURATION_DEFAULT_MS: i64 = 3_600 * SECOND_MS;
const DURATION_MAX_MS: i64 = 366 * 86_400 * SECOND_MS;
const REPORTS_MAX: i64 = 1_000_000_000_000;

impl FleetSettings {
    /// Reads the settings; `None` after recording problems.
    pub(super) fn read(settings: &Settings<'_>) -> Option<FleetSettings> {
        // Everything is read before the first problem counts, so that all problems come out together.
        let share = |field: &str, max: f64, default: f64| settings.number(field, 0.0..=max).unwrap_or(default);
        let [duplicates, stored_and_forwarded, malformed, silent, delayed] = [
            share("duplicates", 0.5, 0.01),
            share("stored_and_forwarded", 0.1, 0.01),
            share("malformed", 0.5, 0.001),
            share("silent", 1.0, 0.01),
            share("delayed", 1.0, 0.1),
        ];
        let seed = settings.integer("seed", 0..=i64::MAX).unwrap_or(1) as u64;
        let trucks = settings.integer("trucks", 1..=1_000_000).unwrap_or(TRUCKS_DEFAULT);
        let regions = read_regions(settings);
        let start_unix_ms = read_start(settings);
        let report_interval_ms = read_millis(settings, "report_interval", (1_000, 60_000), INTERVAL_DEFAULT_MS);
        let disorder_max_ms = read_millis(settings, "disorder_max", (0, 120_000), 30_000);
        let interval_ms = report_interval_ms.unwrap_or(INTERVAL_DEFAULT_MS);
        let duration_ms = read_duration(settings, trucks, interval_ms);
        let speedup = read_speedup(settings, trucks, interval_ms);
        let truth_path = settings.text("truth_path").filter(|path| !path.is_empty());
        let read = FleetSettings {
            seed,
            trucks: trucks as u32,
            regions: regions?,
            start_unix_ms: start_unix_ms?,
            duration_ms: duration_ms?,
            report_interval_ms: report_interval_ms?,
            disorder_max_ms: disorder_max_ms?,
            duplicates,
            stored_and_forwarded,
            malformed,
            silent,
            delayed,
            speedup: speedup?,
            truth_path,
        };
        if settings.has("silent") && read.silent > 0.0 && read.duration_ms < SILENCE_NEEDS_MS {
            let reason = "needs at least 40 min of event time: a silence begins after 10 min and must become known";
            settings.problem("silent", reason);
        }
        Some(read)
    }

    /// Reads settings that were accepted before.
    fn read_planned(uid: &OperatorUid, settings: &BTreeMap<String, Value>) -> Result<FleetSettings> {
        FleetSettings::read(&Settings::new(uid.as_str(), settings)).ok_or_else(|| {
            OperatorError::internal(format!("source '{uid}': its settings were accepted but cannot be read"))
        })
    }
}

fn read_millis(settings: &Settings<'_>, field: &str, (min, max): (i64, i64), default: i64) -> Option<i64> {
    if !settings.has(field) {
        return Some(default);
    }
    let millis = settings.duration(field)?.as_millis() as i64;
    if !(min..=max).contains(&millis) {
        settings.problem(field, format!("must be from {} s to {} s", min / SECOND_MS, max / SECOND_MS));
        return None;
    }
    Some(millis)
}

/// `regions` is a number of regions, or a list of names.
fn read_regions(settings: &Settings<'_>) -> Option<Vec<u8>> {
    let all = REGIONS.len() as u8;
    let names = match settings.get("regions") {
        None => return Some((0..all).collect()),
        Some(Value::Integer(count)) if (1..=i64::from(all)).contains(count) => {
            return Some((0..*count as u8).collect());
        }
        Some(Value::Text(text)) if text.parse().is_ok_and(|count: u8| (1..=all).contains(&count)) => {
            return text.parse().ok().map(|count: u8| (0..count).collect());
        }
        Some(Value::Integer(_)) => {
            settings.problem("regions", format!("must be a number from 1 to {all}, or a list of region names"));
            return None;
        }
        Some(_) => settings.required_texts("regions"),
    };
    let mut regions = Vec::new();
    let mut is_right = !names.is_empty();
    for name in &names {
        match REGIONS.iter().position(|(region, _)| region == name) {
            Some(index) if !regions.contains(&(index as u8)) => regions.push(index as u8),
            Some(_) => {
                settings.problem("regions", format!("names '{name}' twice"));
                is_right = false;
            }
            None => {
                let known = REGIONS.map(|(region, _)| region);
                let reason = format!("'{name}' is not a region; known are {}", known.join(", "));
                settings.problem_near("regions", reason, nearest(name, known));
                is_right = false;
            }
        }
    }
    is_right.then_some(regions)
}

fn read_start(settings: &Settings<'_>) -> Option<i64> {
    if !settings.has("start") {
        return Some(START_DEFAULT_UNIX_MS);
    }
    let text = settings.text("start")?;
    match chrono::DateTime::parse_from_rfc3339(&text) {
        Ok(start) if (0..7_258_118_400_000).contains(&start.timestamp_millis()) => Some(start.timestamp_millis()),
        _ => {
            let reason = format!("'{text}' is not a time from 1970 to 2199 like '2024-01-01T00:00:00Z'");
            settings.problem("start", reason);
            None
        }
    }
}

/// `duration`, or the event time in which the fleet sends about `reports`.
fn read_duration(settings: &Settings<'_>, trucks: i64, interval_ms: i64) -> Option<i64> {
    let duration_ms = match (settings.has("duration"), settings.has("reports")) {
        (true, true) => {
            settings.problem("reports", "cannot be set together with duration; leave one out");
            settings.allow("reports");
            return None;
        }
        (false, false) => DURATION_DEFAULT_MS,
        (true, false) => settings.required_duration("duration").as_millis() as i64,
        (false, true) => {
            let reports = settings.integer("reports", 1..=REPORTS_MAX)?;
            (i128::from(reports) * i128::from(interval_ms)).div_euclid(i128::from(trucks)).min(i128::from(i64::MAX))
                as i64
        }
    };
    if duration_ms > DURATION_MAX_MS {
        let field = if settings.has("reports") { "reports" } else { "duration" };
        settings.problem(field, "gives more than 366 days of event time; that is the most");
        return None;
    }
    Some(duration_ms.max(1))
}

/// `speedup`, or the one at which the fleet sends `pace` reports per second. The outer `None` is a problem.
fn read_speedup(settings: &Settings<'_>, trucks: i64, interval_ms: i64) -> Option<Option<f64>> {
    let number = |field: &str| settings.number(field, 0.0..=1e12).filter(|number| *number > 0.0);
    match (number("pace"), number("speedup")) {
        (Some(_), Some(_)) => {
            settings.problem("speedup", "cannot be set together with pace; leave one out");
            None
        }
        (Some(pace), None) => Some(Some(pace * interval_ms as f64 / 1_000.0 / trucks as f64)),
        (None, speedup) => Some(speedup),
    }
}

/// Makes `fleet` sources.
///
/// Settings, all optional: `seed` (1), `trucks` (1000; at most 1000000), `regions` (how many, or names; all 8), `duration`
/// of event time (1 h) or `reports` (about how many), `start` (`2024-01-01T00:00:00Z`), `report_interval` (10 s; 1 s to
/// 60 s), `disorder_max` (30 s; at most 120 s), the shares `duplicates` (0.01), `stored_and_forwarded` (0.01; at most
/// 0.1), `malformed` (0.001), each of reports, `silent` (0.01, of trucks), `delayed` (0.1, of shipments), `pace` (reports
/// per second) or `speedup` (event time per wall time), and `truth_path`.
///
/// - Reports of a split come in the order of `received_at`, which is at most `disorder_max` after `event_time`. Reports
///   from a dead zone are stored and arrive together with the first one after it, less than 10 minutes later.
/// - A duplicate is the same report once more; only its `received_at` is later.
/// - A malformed report leaves as a bad record with code `bad-record-fleet`.
/// - A silent truck sends nothing for 12 to 60 minutes or never again. The first 16 trucks never fall silent, and none
///   does in a stream shorter than 40 minutes.
/// - With `truth_path` set, the truth is written beside the stream, see [`super::truth`].
///
/// **Shapes**: one split per subtask; split i of P holds the trucks i, i + P, ... All columns are not null.
#[derive(Clone, Copy, Debug, Default)]
pub struct FleetSource;

#[async_trait]
impl SourceFactory for FleetSource {
    fn kind(&self) -> &'static str {
        "fleet"
    }

    fn describe(&self, settings: &Settings<'_>) -> Option<SourceProperties> {
        FleetSettings::read(settings)?;
        Some(SourceProperties {
            schema: schema_of(&Column::ALL),
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
                ("first_truck", Value::Integer(i64::from(index))),
                ("truck_stride", Value::Integer(i64::from(parallelism))),
            ]),
        };
        Ok((0..parallelism).map(split).collect())
    }

    async fn reader(&self, context: ReaderContext) -> Result<Box<dyn SourceReader>> {
        let settings = FleetSettings::read_planned(&context.uid, &context.settings)?;
        // A restored split makes the reports of some minutes anew, which may take a while.
        let opening = tokio::task::spawn_blocking(move || FleetReader::new(Arc::new(Fleet::new(settings)), context));
        let reader =
            opening.await.map_err(|error| OperatorError::internal("opening a fleet stopped").because(error))?;
        Ok(Box::new(reader?))
    }
}

/// Reads a split's description: its first truck and the distance to the next.
///
/// **Errors**: a description this source did not write.
pub(super) fn read_split(split: &Split) -> Result<(u32, u32)> {
    let number = |name: &str| match split.description.as_map().and_then(|fields| fields.get(name)) {
        Some(Value::Integer(number)) => u32::try_from(*number).ok(),
        _ => None,
    };
    match (number("first_truck"), number("truck_stride")) {
        (Some(first), Some(stride)) if stride > 0 => Ok((first, stride)),
        _ => Err(OperatorError::internal(format!("split {} is not one of fleet: {}", split.index, split.description))),
    }
}
