//! The truth about a fleet: what a job that watches the stream should find, computed from the plan and not from the
//! stream. Written as two CSV files by the reader of the first split; a pure function of the settings.
//!
//! - `<truth_path>`: the shipments that will be late. `known_at` is the event time of the first report, by event time,
//!   that arrives whole and in time (`received_at - event_time <= 30 s`), is not yet `delivered`, and puts the estimated
//!   arrival more than 15 minutes after the planned one:
//!   `event_time + remaining_m * 36 / (cruise_kmh * 10) s > planned_arrival + 15 min`, in whole seconds.
//! - `<truth_path>.silent.csv`: trucks from which nothing is heard for ten minutes or more, with the event times of the
//!   last report before and the first one after (empty: none).

use std::fs::File;
use std::io::{self, BufWriter, Write};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};

use super::columns::{shipment_id, truck_id};
use super::plan::{Fleet, LATE_AFTER_MS, SECOND_MS, TIMELY_MS};
use super::truck::{Leg, Truck};

/// A shipment that will be late. **Units**: times in milliseconds since the start of the stream, delays in seconds.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct LateShipment {
    pub(super) truck: u32,
    pub(super) leg: u32,
    pub(super) known_at_ms: i64,
    pub(super) estimated_delay_s: i64,
    /// How late it really arrives; `None` beyond the end of the stream.
    pub(super) final_delay_s: Option<i64>,
}

/// A truck that falls silent. **Units**: milliseconds since the start of the stream.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct SilentTruck {
    pub(super) truck: u32,
    pub(super) last_report_ms: i64,
    pub(super) next_report_ms: Option<i64>,
}

/// The late shipments of a truck that can be known.
pub(super) fn late_shipments(fleet: &Fleet, number: u32) -> Vec<LateShipment> {
    let mut truck = Truck::new(fleet, number);
    let mut late = Vec::new();
    while truck.leg.departure_ms < fleet.settings.duration_ms {
        // Only the incident of a delayed leg can push the estimate over the threshold.
        if truck.leg.is_delayed {
            late.extend(late_shipment(fleet, &mut truck));
        }
        let end_ms = truck.leg.end_ms;
        truck.move_to(fleet, end_ms);
    }
    late
}

fn late_shipment(fleet: &Fleet, truck: &mut Truck) -> Option<LateShipment> {
    let Leg { number: leg, incident, arrival_ms, planned_arrival_ms, .. } = truck.leg;
    let end_ms = arrival_ms.min(fleet.settings.duration_ms);
    let mut k = truck.first_report_from(fleet, incident.start_ms);
    loop {
        let time_ms = truck.report_ms(fleet, k);
        if time_ms >= end_ms {
            return None;
        }
        let delay_ms = truck.estimated_delay_ms(fleet, time_ms);
        if delay_ms > LATE_AFTER_MS && is_heard_in_time(fleet, truck, k) {
            let is_within = arrival_ms < fleet.settings.duration_ms;
            return Some(LateShipment {
                truck: truck.number,
                leg,
                known_at_ms: time_ms,
                estimated_delay_s: delay_ms / SECOND_MS,
                final_delay_s: is_within.then_some((arrival_ms - planned_arrival_ms) / SECOND_MS),
            });
        }
        k += 1;
    }
}

/// Whether report `k` arrives whole and in time.
fn is_heard_in_time(fleet: &Fleet, truck: &mut Truck, k: i64) -> bool {
    let time_ms = truck.report_ms(fleet, k);
    if truck.silence.contains(time_ms) || truck.breaks(fleet, k).is_some() {
        return false;
    }
    let zone = truck.zone_at(fleet, time_ms);
    // A stored report arrives with the first one after the dead zone, or after the end of the stream.
    let with = if zone.contains(time_ms) {
        truck.first_report_from(fleet, zone.end_ms.min(fleet.settings.duration_ms))
    } else {
        k
    };
    truck.report_ms(fleet, with) + truck.delay_ms(fleet, with) - time_ms <= TIMELY_MS
}

/// The silence of a truck, if it falls silent.
pub(super) fn silent_truck(fleet: &Fleet, number: u32) -> Option<SilentTruck> {
    let truck = Truck::new(fleet, number);
    let silence = truck.silence;
    if silence.start_ms == i64::MAX {
        return None;
    }
    // Dead zones keep away from silences, so only broken reports stand between; never two of them in a row.
    let is_whole = |k: &i64| truck.breaks(fleet, *k).is_none();
    let last = (0..truck.first_report_from(fleet, silence.start_ms)).rev().find(is_whole)?;
    let next = (silence.end_ms < fleet.settings.duration_ms)
        .then(|| truck.first_report_from(fleet, silence.end_ms))
        .and_then(|first| (first..first + 2).find(is_whole))
        .map(|k| truck.report_ms(fleet, k))
        .filter(|time_ms| *time_ms < fleet.settings.duration_ms);
    Some(SilentTruck { truck: number, last_report_ms: truck.report_ms(fleet, last), next_report_ms: next })
}

/// Where the silences are written.
pub(super) fn silent_path(path: &Path) -> PathBuf {
    with_suffix(path, ".silent.csv")
}

fn with_suffix(path: &Path, suffix: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(suffix);
    PathBuf::from(name)
}

/// Writes both files; each appears under its name only when it is complete. Stops without a trace when told to.
///
/// **Errors**: those of the file system.
pub(super) fn write(fleet: &Fleet, path: &Path, stop: &AtomicBool) -> io::Result<()> {
    if let Some(parent) = path.parent().filter(|parent| !parent.as_os_str().is_empty()) {
        std::fs::create_dir_all(parent)?;
    }
    write_file(path, stop, |out| write_late(fleet, out, stop))?;
    write_file(&silent_path(path), stop, |out| write_silent(fleet, out, stop))
}

fn write_file(
    path: &Path,
    stop: &AtomicBool,
    content: impl FnOnce(&mut BufWriter<File>) -> io::Result<()>,
) -> io::Result<()> {
    // A name of its own: the writer of an attempt that was given up may still be at work, or about to clean up.
    static WRITERS: AtomicU64 = AtomicU64::new(0);
    let writer = format!(".{}-{}.inprogress", std::process::id(), WRITERS.fetch_add(1, Relaxed));
    let unfinished = with_suffix(path, &writer);
    let written = File::create(&unfinished).and_then(|file| {
        let mut out = BufWriter::new(file);
        content(&mut out)?;
        out.flush()
    });
    match written {
        Ok(()) if !stop.load(Relaxed) => std::fs::rename(&unfinished, path),
        other => {
            // The first error counts; the file may not even exist.
            let _ = std::fs::remove_file(&unfinished);
            other
        }
    }
}

fn write_late(fleet: &Fleet, out: &mut impl Write, stop: &AtomicBool) -> io::Result<()> {
    writeln!(out, "shipment_id,truck_id,known_at,estimated_delay_s,final_delay_s")?;
    for truck in (0..fleet.settings.trucks).take_while(|_| !stop.load(Relaxed)) {
        for late in late_shipments(fleet, truck) {
            let known_at = fleet.settings.start_unix_ms + late.known_at_ms;
            let final_delay = late.final_delay_s.map(|delay| delay.to_string()).unwrap_or_default();
            let (shipment, truck) = (shipment_id(truck, late.leg), truck_id(truck));
            writeln!(out, "{shipment},{truck},{known_at},{},{final_delay}", late.estimated_delay_s)?;
        }
    }
    Ok(())
}

fn write_silent(fleet: &Fleet, out: &mut impl Write, stop: &AtomicBool) -> io::Result<()> {
    writeln!(out, "truck_id,last_report,next_report")?;
    let unix_ms = |time_ms: i64| fleet.settings.start_unix_ms + time_ms;
    for truck in (0..fleet.settings.trucks).take_while(|_| !stop.load(Relaxed)) {
        if let Some(silent) = silent_truck(fleet, truck) {
            let next = silent.next_report_ms.map(|time_ms| unix_ms(time_ms).to_string()).unwrap_or_default();
            writeln!(out, "{},{},{next}", truck_id(truck), unix_ms(silent.last_report_ms))?;
        }
    }
    Ok(())
}
