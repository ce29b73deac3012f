//! The reports of one split in the order of their arrival (pure). The reader takes them from here.
//!
//! All trucks report at the same interval, so one sweep over the trucks in the order of their phases, again and again,
//! visits the reports in the order of event time; the calendar turns that into the order of arrival. A truck in a dead
//! zone is passed over and catches up at its first report after it: what it holds back is two numbers, whatever the
//! length of the zone.

use std::sync::Arc;

use super::calendar::Calendar;
use super::columns::Report;
use super::plan::{Fleet, SILENT_AFTER_MS, between};
use super::truck::Truck;

/// Reports per bucket of the calendar to aim at.
const BUCKET_REPORTS: i64 = 4_096;

/// The stream of the trucks `first`, `first + stride`, ...
pub(super) struct SplitStream {
    fleet: Arc<Fleet>,
    /// In the order of their phases.
    trucks: Vec<Truck>,
    /// Number of the report whose turn it is, and the truck.
    round: i64,
    turn: usize,
    calendar: Calendar,
}

impl SplitStream {
    pub(super) fn new(fleet: Arc<Fleet>, first: u32, stride: u32) -> Self {
        let numbers = (first..fleet.settings.trucks).step_by(stride as usize);
        let mut trucks: Vec<Truck> = numbers.map(|number| Truck::new(&fleet, number)).collect();
        trucks.sort_by_key(|truck| (truck.phase_ms, truck.number));
        let width_ms = BUCKET_REPORTS * fleet.settings.report_interval_ms / (trucks.len() as i64).max(1);
        SplitStream { calendar: Calendar::new(width_ms.clamp(5, 1_000)), fleet, trucks, round: 0, turn: 0 }
    }

    /// The same stream from its first report that arrives at `received_ms` or later, exactly as it would have come: the
    /// sweep begins so much earlier that all reports still under way then are made again, and those that were stored in
    /// a dead zone which began before are none of them.
    pub(super) fn starting_at(
        fleet: Arc<Fleet>,
        first: u32,
        stride: u32,
        received_ms: i64,
        out: &mut Vec<Report>,
    ) -> Self {
        let mut stream = SplitStream::new(fleet, first, stride);
        let settings = &stream.fleet.settings;
        // A dead zone, the greatest delay and four intervals together are as long as a silence; two more for the ends.
        let back_ms = SILENT_AFTER_MS.max(settings.disorder_max_ms) + 2 * settings.report_interval_ms;
        let from_ms = (received_ms - back_ms).max(0);
        stream.round = from_ms / settings.report_interval_ms;
        let width_ms = stream.calendar.width_ms();
        stream.calendar = Calendar::starting_at(width_ms, stream.round * settings.report_interval_ms);
        while out.is_empty() && stream.take(1, out) {
            out.retain(|report| report.received_ms >= received_ms);
        }
        stream
    }

    /// Appends the next reports, at least `wanted` unless the stream ends. False when nothing follows.
    pub(super) fn take(&mut self, wanted: usize, out: &mut Vec<Report>) -> bool {
        while out.len() < wanted {
            let now_ms = self.now_ms();
            if self.calendar.pop(now_ms, out) {
                continue;
            }
            if now_ms == i64::MAX {
                return false;
            }
            self.visit();
        }
        true
    }

    /// Event time of the next visit; the end of time when no visit follows.
    fn now_ms(&self) -> i64 {
        let end_ms = self.fleet.settings.duration_ms;
        // One more round than there are reports: trucks that end inside a dead zone catch up.
        let last_round = end_ms / self.fleet.settings.report_interval_ms + 1;
        match self.trucks.get(self.turn) {
            Some(truck) if self.round <= last_round => truck.report_ms(&self.fleet, self.round),
            _ => i64::MAX,
        }
    }

    fn visit(&mut self) {
        let (fleet, k) = (self.fleet.as_ref(), self.round);
        let truck = &mut self.trucks[self.turn];
        let time_ms = truck.report_ms(fleet, k);
        let is_over = time_ms >= fleet.settings.duration_ms;
        if is_over || !truck.silence.contains(time_ms) {
            if !is_over && truck.zone_at(fleet, time_ms).contains(time_ms) {
                truck.stored_from.get_or_insert(k);
            } else {
                let delay_ms = truck.delay_ms(fleet, k);
                if let Some(from) = truck.stored_from.take() {
                    for stored in from..k {
                        self.calendar.push(Report::new(fleet, truck, stored, time_ms + delay_ms));
                    }
                }
                if !is_over {
                    let report = Report::new(fleet, truck, k, time_ms + delay_ms);
                    self.calendar.push(report);
                    if let Some(again_ms) = truck.second_delay_ms(fleet, k, delay_ms).filter(|_| !report.is_broken()) {
                        self.calendar.push(Report { received_ms: time_ms + again_ms, ..report });
                    }
                }
            }
        }
        self.turn += 1;
        if self.turn == self.trucks.len() {
            (self.turn, self.round) = (0, k + 1);
        }
    }

    /// Reports that were made and not taken yet; for the bound on memory.
    #[cfg(test)]
    pub(super) fn waiting(&self) -> usize {
        self.calendar.waiting()
    }
}

impl Report {
    /// Report `k` of a truck, which must not have moved past it.
    #[inline]
    fn new(fleet: &Fleet, truck: &mut Truck, k: i64, received_ms: i64) -> Report {
        let event_ms = truck.report_ms(fleet, k);
        truck.move_to(fleet, event_ms);
        let reading = truck.read(fleet, event_ms);
        let (lat, lon) = fleet.routes.get(truck.region, truck.leg.from, truck.leg.to).position(reading.travelled_m);
        // The instrument is off by up to 2 km/h while the truck moves.
        let noise = if reading.speed_kmh > 0 { between(truck.noise(k) << 32, -20, 21) } else { 0 };
        Report {
            received_ms,
            event_ms,
            planned_arrival_ms: truck.leg.planned_arrival_ms,
            lat,
            lon,
            truck: truck.number,
            leg: truck.leg.number,
            remaining_m: reading.remaining_m as u32,
            speed_tenths: (reading.speed_kmh * 10 + noise).max(0) as u16,
            cut: truck.breaks(fleet, k).map_or(0, |chance| between(chance, 1, 256) as u8),
            region: truck.region,
            to: truck.leg.to,
            cruise_kmh: truck.cruise_kmh as u8,
            status: reading.status,
        }
    }
}
