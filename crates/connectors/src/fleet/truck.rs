//! One truck: its legs, dead zones and silence, and what it reports at a given time (pure). The stream sweeps over
//! trucks, the truth asks the same truck what could be known.
//!
//! ```text
//! leg:  |loading |departure ... driving ... [incident] ... driving ... arrival| delivered |next leg
//! ```
//! A truck moves through time in one direction: questions must be asked in the order of time.

use super::places::{CITIES_PER_REGION, Route};
use super::plan::{
    Fleet, LATE_AFTER_MS, MINUTE_MS, NEVER_SILENT_TRUCKS, Purpose, SECOND_MS, ZONE_SLOT_MS, between, word,
};

/// What a truck is doing.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Status {
    Loading,
    Driving,
    Stopped,
    Delivered,
}

impl Status {
    pub(super) fn name(self) -> &'static str {
        match self {
            Status::Loading => "loading",
            Status::Driving => "driving",
            Status::Stopped => "stopped",
            Status::Delivered => "delivered",
        }
    }
}

/// A stretch of time `[start, end)`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Span {
    pub(super) start_ms: i64,
    pub(super) end_ms: i64,
}

impl Span {
    /// Holds no time at all.
    pub(super) const NONE: Span = Span { start_ms: i64::MAX, end_ms: i64::MAX };

    #[inline]
    pub(super) fn contains(self, time_ms: i64) -> bool {
        self.start_ms <= time_ms && time_ms < self.end_ms
    }
}

/// One shipment's way. **Units**: milliseconds since the start of the stream.
#[derive(Clone, Copy, Debug)]
pub(super) struct Leg {
    pub(super) number: u32,
    pub(super) from: u8,
    pub(super) to: u8,
    pub(super) departure_ms: i64,
    pub(super) planned_arrival_ms: i64,
    pub(super) arrival_ms: i64,
    /// When the truck begins with its next shipment.
    pub(super) end_ms: i64,
    drive_ms: i64,
    pub(super) incident: Span,
    /// Eighths of the speed that the incident takes; 8 is a stop.
    lost_eighths: i64,
    /// Whether the incident is long enough to make the shipment late.
    pub(super) is_delayed: bool,
}

impl Leg {
    fn status(&self, time_ms: i64) -> Status {
        if time_ms < self.departure_ms {
            Status::Loading
        } else if time_ms >= self.arrival_ms {
            Status::Delivered
        } else if self.lost_eighths == 8 && self.incident.contains(time_ms) {
            Status::Stopped
        } else {
            Status::Driving
        }
    }

    fn travelled_m(&self, time_ms: i64, cruise_kmh: i64, route: &Route) -> i64 {
        let in_incident = time_ms.min(self.incident.end_ms) - self.incident.start_ms;
        let lost_ms = in_incident.max(0) * self.lost_eighths / 8;
        let driven_ms = (time_ms - self.departure_ms - lost_ms).clamp(0, self.drive_ms);
        // 1 km/h is one metre in 3600 ms.
        (driven_ms * cruise_kmh / 3_600).min(route.length_m)
    }
}

/// What a truck says about itself at one time.
#[derive(Clone, Copy, Debug)]
pub(super) struct Reading {
    pub(super) status: Status,
    pub(super) travelled_m: i64,
    pub(super) remaining_m: i64,
    /// Before the noise of the instrument.
    pub(super) speed_kmh: i64,
}

/// One truck at some point of its life.
#[derive(Clone, Debug)]
pub(super) struct Truck {
    pub(super) number: u32,
    pub(super) region: u8,
    pub(super) cruise_kmh: i64,
    /// Time of report 0; the others follow every interval.
    pub(super) phase_ms: i64,
    seed: u64,
    pub(super) leg: Leg,
    pub(super) silence: Span,
    zone: Span,
    zone_slot: i64,
    /// The first report of the dead zone the truck is in, which waits in the unit's memory.
    pub(super) stored_from: Option<i64>,
}

impl Truck {
    /// The truck at the start of the stream, somewhere on a leg.
    pub(super) fn new(fleet: &Fleet, number: u32) -> Truck {
        let seed = fleet.truck_seed(number);
        let chance = |n: u64| word(seed, Purpose::Truck, n);
        let regions = &fleet.settings.regions;
        let mut truck = Truck {
            number,
            region: regions[between(chance(0), 0, regions.len() as i64) as usize],
            cruise_kmh: between(chance(1), 62, 89),
            phase_ms: between(chance(2), 0, fleet.settings.report_interval_ms),
            seed,
            leg: Leg {
                number: 0,
                from: 0,
                to: between(chance(3), 0, CITIES_PER_REGION as i64) as u8,
                departure_ms: 0,
                planned_arrival_ms: 0,
                arrival_ms: 0,
                // Legs take an hour to half a day; the first one began some time within the last six hours.
                end_ms: -between(chance(4), 0, 6 * 60 * MINUTE_MS),
                drive_ms: 0,
                incident: Span::NONE,
                lost_eighths: 8,
                is_delayed: false,
            },
            silence: Span::NONE,
            zone: Span::NONE,
            zone_slot: -1,
            stored_from: None,
        };
        truck.silence = truck.draw_silence(fleet);
        truck.next_leg(fleet);
        truck.move_to(fleet, 0);
        truck
    }

    /// Time of report `k`.
    #[inline]
    pub(super) fn report_ms(&self, fleet: &Fleet, k: i64) -> i64 {
        k * fleet.settings.report_interval_ms + self.phase_ms
    }

    /// The first report at or after a time.
    pub(super) fn first_report_from(&self, fleet: &Fleet, time_ms: i64) -> i64 {
        let interval_ms = fleet.settings.report_interval_ms;
        (time_ms - self.phase_ms + interval_ms - 1).div_euclid(interval_ms).max(0)
    }

    /// Goes on to the leg that holds `time_ms`.
    #[inline]
    pub(super) fn move_to(&mut self, fleet: &Fleet, time_ms: i64) {
        while time_ms >= self.leg.end_ms {
            self.next_leg(fleet);
        }
    }

    /// What the truck says about itself; it must have moved there.
    #[inline]
    pub(super) fn read(&self, fleet: &Fleet, time_ms: i64) -> Reading {
        let route = fleet.routes.get(self.region, self.leg.from, self.leg.to);
        let status = self.leg.status(time_ms);
        let travelled_m = match status {
            Status::Loading => 0,
            Status::Delivered => route.length_m,
            Status::Driving | Status::Stopped => self.leg.travelled_m(time_ms, self.cruise_kmh, route),
        };
        let speed_kmh = match status {
            Status::Driving if self.leg.incident.contains(time_ms) => self.cruise_kmh * (8 - self.leg.lost_eighths) / 8,
            Status::Driving => self.cruise_kmh,
            _ => 0,
        };
        Reading { status, travelled_m, remaining_m: route.length_m - travelled_m, speed_kmh }
    }

    /// How far the estimated arrival lies behind the planned one, by the arithmetic a job uses: whole seconds of
    /// driving from whole metres at cruising speed.
    pub(super) fn estimated_delay_ms(&self, fleet: &Fleet, time_ms: i64) -> i64 {
        let driving_s = self.read(fleet, time_ms).remaining_m * 36 / (self.cruise_kmh * 10);
        time_ms + driving_s * SECOND_MS - self.leg.planned_arrival_ms
    }

    /// How long report `k` takes to arrive when it is not stored: most a second or two, a few up to the greatest
    /// disorder.
    #[inline]
    pub(super) fn delay_ms(&self, fleet: &Fleet, k: i64) -> i64 {
        let chance = word(self.seed, Purpose::Delay, k as u64);
        let max = fleet.settings.disorder_max_ms;
        match chance & 127 {
            0 => between(chance, 0, max + 1),
            1..=12 => between(chance, 0, max.min(8_000) + 1),
            _ => between(chance, max.min(50), max.min(2_000) + 1),
        }
    }

    /// When report `k` arrives a second time, if it does: after the first time and within the greatest disorder.
    #[inline]
    pub(super) fn second_delay_ms(&self, fleet: &Fleet, k: i64, delay_ms: i64) -> Option<i64> {
        let chance = word(self.seed, Purpose::Fault, 2 * k as u64);
        fleet.duplicate.hits(chance).then(|| between(chance, delay_ms, fleet.settings.disorder_max_ms + 1))
    }

    /// The chance behind a broken report, if report `k` breaks on its way.
    #[inline]
    pub(super) fn breaks(&self, fleet: &Fleet, k: i64) -> Option<u64> {
        if k & 1 == 0 {
            return None;
        }
        let chance = word(self.seed, Purpose::Fault, 2 * k as u64 + 1);
        fleet.malformed.hits(chance).then_some(chance)
    }

    /// A word for the noise of report `k`.
    #[inline]
    pub(super) fn noise(&self, k: i64) -> u64 {
        word(self.seed, Purpose::Delay, k as u64) >> 7
    }

    /// The dead zone around a time; one that does not contain it when the truck is reachable.
    #[inline]
    pub(super) fn zone_at(&mut self, fleet: &Fleet, time_ms: i64) -> Span {
        if time_ms >= (self.zone_slot + 1) * ZONE_SLOT_MS {
            self.zone_slot = time_ms / ZONE_SLOT_MS;
            self.zone = self.draw_zone(fleet, self.zone_slot);
        }
        self.zone
    }

    fn draw_zone(&self, fleet: &Fleet, slot: i64) -> Span {
        let (first, second) =
            (word(self.seed, Purpose::Zone, 2 * slot as u64), word(self.seed, Purpose::Zone, 2 * slot as u64 + 1));
        if !fleet.zone.hits(first) {
            return Span::NONE;
        }
        // Reports get through between two zones, and around a silence.
        let guard_ms = 4 * fleet.settings.report_interval_ms;
        let length_ms = between(first, fleet.zone_max_ms / 2, fleet.zone_max_ms + 1);
        let start_ms = slot * ZONE_SLOT_MS + between(second, guard_ms, ZONE_SLOT_MS - length_ms - guard_ms);
        let zone = Span { start_ms, end_ms: start_ms + length_ms };
        let is_clear_of_silence = zone.end_ms.saturating_add(guard_ms) <= self.silence.start_ms
            || zone.start_ms >= self.silence.end_ms.saturating_add(guard_ms);
        if is_clear_of_silence { zone } else { Span::NONE }
    }

    fn draw_silence(&self, fleet: &Fleet) -> Span {
        let chance = |n: u64| word(self.seed, Purpose::Silence, n);
        if self.number < NEVER_SILENT_TRUCKS || !fleet.silent.hits(chance(0)) {
            return Span::NONE;
        }
        let start_ms = between(chance(1), 10 * MINUTE_MS, fleet.settings.duration_ms - 20 * MINUTE_MS);
        let is_for_ever = chance(2) & 1 == 0;
        let end_ms = if is_for_ever { i64::MAX } else { start_ms + between(chance(3), 12 * MINUTE_MS, 60 * MINUTE_MS) };
        Span { start_ms, end_ms }
    }

    fn next_leg(&mut self, fleet: &Fleet) {
        let (number, seed) = (self.leg.number + 1, self.seed);
        let chance = |n: u64| word(seed, Purpose::Leg, u64::from(number) * 8 + n);
        let from = self.leg.to;
        let to = (i64::from(from) + between(chance(0), 1, CITIES_PER_REGION as i64)) as u8 % CITIES_PER_REGION as u8;
        let departure_ms = self.leg.end_ms + between(chance(1), 15 * MINUTE_MS, 45 * MINUTE_MS);
        let length_m = fleet.routes.get(self.region, from, to).length_m;
        let drive_ms = (length_m * 3_600 + self.cruise_kmh - 1) / self.cruise_kmh;
        // Plans are made in whole minutes and leave some air.
        let air_ms = between(chance(2), 8 * MINUTE_MS, 20 * MINUTE_MS);
        let planned_arrival_ms = (departure_ms + drive_ms + air_ms).div_euclid(MINUTE_MS) * MINUTE_MS + MINUTE_MS;
        let slack_ms = planned_arrival_ms - departure_ms - drive_ms;
        self.leg = Leg {
            number,
            from,
            to,
            departure_ms,
            planned_arrival_ms,
            arrival_ms: departure_ms + drive_ms,
            end_ms: 0,
            drive_ms,
            incident: Span::NONE,
            lost_eighths: 8,
            is_delayed: fleet.delayed.hits(chance(3)),
        };
        self.draw_incident(slack_ms);
        self.leg.end_ms = self.leg.arrival_ms + between(chance(4), 10 * MINUTE_MS, 20 * MINUTE_MS);
    }

    /// A delayed leg loses 20 to 90 minutes more than its slack; three of ten others lose less than their slack.
    fn draw_incident(&mut self, slack_ms: i64) {
        let (number, seed) = (self.leg.number, self.seed);
        let chance = |n: u64| word(seed, Purpose::Stop, u64::from(number) * 8 + n);
        let lost_ms = if self.leg.is_delayed {
            slack_ms + LATE_AFTER_MS + between(chance(0), 5 * MINUTE_MS, 75 * MINUTE_MS)
        } else if between(chance(1), 0, 10) < 3 {
            between(chance(0), 2 * MINUTE_MS, slack_ms * 9 / 10)
        } else {
            return;
        };
        let into_ms = between(chance(2), self.leg.drive_ms / 10, self.leg.drive_ms * 6 / 10);
        let eighths = between(chance(3), 6, 9);
        let crawled_ms = lost_ms * (8 - eighths) / eighths;
        // Crawling must not bring the truck to its goal.
        self.leg.lost_eighths = if into_ms + crawled_ms < self.leg.drive_ms * 9 / 10 { eighths } else { 8 };
        let length_ms = (lost_ms * 8 + self.leg.lost_eighths - 1) / self.leg.lost_eighths;
        let start_ms = self.leg.departure_ms + into_ms;
        self.leg.incident = Span { start_ms, end_ms: start_ms + length_ms };
        self.leg.arrival_ms += length_ms * self.leg.lost_eighths / 8;
    }
}
