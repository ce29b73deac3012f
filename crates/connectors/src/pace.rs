//! Pacing: how a source that could run at full speed is held to a rate or to the speed of event time.
//! Readers of files and generators use it; it must not know what the rows are.
//!
//! Row `k` of a subtask is due at `start + k / rate`, and a row of event time `t` at `start + (t - t0) / speedup`,
//! where `t0` is the anchor or the first event time seen. Due times hang on the start alone, so that neither a timer's
//! inaccuracy nor a stall adds up: who fell behind catches up. A piece holds the rows that are due within one flush
//! interval of its first row and leaves when the last of them is due: at low rates batches are small and early, at
//! high rates they fill.
//!
//! ```text
//! due times   |1|2|3|      |4|      |5|6|7|8|9|...
//! pieces      [1 2 3]      [4]      [5 6 7] [8 9 ..]      (flush interval = three marks)
//! ```

use std::time::Duration;

use weir_core::{Clock, Settings};
use weir_operator_api::ReaderContext;

/// How fast a whole source may be, as the user set it. The default is unlimited.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Pace {
    /// **Units**: records per second over all subtasks of the source.
    pub rate: Option<f64>,
    /// Speed of event time.
    pub event_time: Option<EventTimePace>,
}

/// Playing records at the speed of their event time.
#[derive(Clone, Debug, PartialEq)]
pub struct EventTimePace {
    /// The column that holds the event time: `TIMESTAMP`, or `BIGINT` with milliseconds. Empty for generators that
    /// know their event time.
    pub column: String,
    /// Seconds of event time per second of the clock.
    pub speedup: f64,
}

/// Greatest rate and speed-up that are read.
const SPEED_MAX: f64 = 1e12;

impl Pace {
    /// Reads the settings `rate` (records per second, 0 = unlimited) and `pace: {event_time, speedup}`.
    pub fn read(settings: &Settings<'_>) -> Pace {
        let rate = settings.number("rate", 0.0..=SPEED_MAX).filter(|rate| *rate > 0.0);
        let event_time = settings.nested("pace").map(|pace| {
            let column = pace.required_text("event_time");
            let speedup = pace.number("speedup", 1e-6..=SPEED_MAX).unwrap_or(1.0);
            settings.absorb(pace.finish());
            EventTimePace { column, speedup }
        });
        Pace { rate, event_time }
    }

    /// The pacer of one subtask: it gets the part of the rate that it has of the splits.
    pub fn pacer(&self, context: &ReaderContext) -> Pacer {
        let share = context.splits.len() as f64 / f64::from(context.split_count.max(1));
        Pacer::new(
            self.rate.map(|rate| rate * share),
            self.event_time.as_ref().map(|pace| pace.speedup),
            context.flush_interval,
        )
    }
}

/// Rows to emit together.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Piece {
    /// How many of the offered rows.
    pub rows: usize,
    /// How long to wait before.
    pub wait: Duration,
    newest_us: Option<i64>,
}

/// Decides when the rows of one subtask are emitted. The decision ([`Pacer::plan`]) is pure.
#[derive(Clone, Debug)]
pub struct Pacer {
    rate: Option<f64>,
    speedup: Option<f64>,
    flush_interval: Duration,
    started: Option<Duration>,
    anchor_us: Option<i64>,
    newest_us: Option<i64>,
    emitted_rows: u64,
}

impl Pacer {
    /// A pacer of `rate` records per second (of this subtask) and `speedup` times event time; each unlimited when absent.
    pub fn new(rate: Option<f64>, speedup: Option<f64>, flush_interval: Duration) -> Self {
        Pacer { rate, speedup, flush_interval, started: None, anchor_us: None, newest_us: None, emitted_rows: 0 }
    }

    /// Fixes the event time (microseconds) that is due at the start; otherwise it is the first one seen. Subtasks that
    /// share an anchor play in step.
    pub fn anchored_at(mut self, event_time_us: i64) -> Self {
        self.anchor_us = Some(event_time_us);
        self
    }

    /// Goes on after a restore: the newest event time that was given before is due at once, and so is what is older.
    pub fn resumed_at(mut self, newest_us: Option<i64>) -> Self {
        self.anchor_us = newest_us.or(self.anchor_us);
        self.newest_us = newest_us;
        self
    }

    /// The newest event time emitted so far. **Units**: microseconds.
    pub fn newest_us(&self) -> Option<i64> {
        self.newest_us
    }

    /// Whether nothing is ever held back.
    pub fn is_unlimited(&self) -> bool {
        self.rate.is_none() && self.speedup.is_none()
    }

    /// Plans the next piece of `rows_max` offered rows at time `now` of a monotonic clock. `event_time_us` gives the
    /// event time of an offered row in microseconds and is only asked when pacing by event time; rows without one go
    /// with those before them, as do rows older than an earlier row.
    ///
    /// **Shapes**: 1 to `rows_max` rows; 0 only when nothing is offered.
    pub fn plan(&mut self, rows_max: usize, event_time_us: impl Fn(usize) -> Option<i64>, now: Duration) -> Piece {
        if self.is_unlimited() || rows_max == 0 {
            return Piece { rows: rows_max, wait: Duration::ZERO, newest_us: None };
        }
        let start = *self.started.get_or_insert(now);
        let now = now.saturating_sub(start).as_secs_f64();
        let mut newest_us = self.newest_us;
        let mut horizon = f64::NEG_INFINITY;
        let mut piece = Piece { rows: 0, wait: Duration::ZERO, newest_us };
        let mut last_due = 0.0;
        for row in 0..rows_max {
            let mut due = self.rate.map_or(0.0, |rate| (self.emitted_rows + row as u64) as f64 / rate);
            if let Some(speedup) = self.speedup {
                newest_us = newest_us.max(event_time_us(row));
                if let Some(newest) = newest_us {
                    let anchor = *self.anchor_us.get_or_insert(newest);
                    due = due.max(newest.saturating_sub(anchor) as f64 / 1e6 / speedup);
                }
            }
            if row == 0 {
                horizon = now.max(due + self.flush_interval.as_secs_f64());
            } else if due > horizon {
                break;
            }
            last_due = due;
            piece.rows = row + 1;
            piece.newest_us = newest_us;
        }
        // A wait is at most a day, so that no extreme event time overflows a timer; the caller then plans again.
        piece.wait = Duration::from_secs_f64((last_due - now).clamp(0.0, 86_400.0));
        if last_due - now > 86_400.0 {
            piece.rows = 0;
        }
        piece
    }

    /// Notes that a planned piece was emitted.
    pub fn emitted(&mut self, piece: Piece) {
        self.emitted_rows += piece.rows as u64;
        self.newest_us = self.newest_us.max(piece.newest_us);
    }

    /// Waits until the next rows are due and says how many of the offered rows they are.
    ///
    /// **Cancel safety**: a dropped call changes nothing.
    pub async fn next_piece(
        &mut self,
        clock: &dyn Clock,
        rows_max: usize,
        event_time_us: impl Fn(usize) -> Option<i64>,
    ) -> usize {
        loop {
            let piece = self.plan(rows_max, &event_time_us, clock.monotonic());
            if !piece.wait.is_zero() {
                clock.sleep(piece.wait).await;
            }
            if piece.rows > 0 || rows_max == 0 {
                self.emitted(piece);
                return piece.rows;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const FLUSH: Duration = Duration::from_millis(5);

    /// Plays a pacer against a perfect timer; gives rows and emission time in milliseconds of each piece.
    fn play(mut pacer: Pacer, times_us: &[i64], stalls_ms: &[(usize, u64)]) -> Vec<(usize, u64)> {
        let (mut now, mut at, mut pieces) = (Duration::from_secs(1000), 0, Vec::new());
        let start = now;
        while at < times_us.len() {
            let piece = pacer.plan(times_us.len() - at, |row| Some(times_us[at + row]), now);
            now += piece.wait;
            pacer.emitted(piece);
            at += piece.rows;
            pieces.push((piece.rows, (now - start).as_micros() as u64 / 1000));
            now += stalls_ms.iter().filter(|s| s.0 == pieces.len()).map(|s| Duration::from_millis(s.1)).sum();
        }
        pieces
    }

    #[test]
    fn low_rate_gives_single_rows_in_time() {
        let pieces = play(Pacer::new(Some(10.0), None, FLUSH), &[0; 4], &[]);
        assert_eq!(pieces, [(1, 0), (1, 100), (1, 200), (1, 300)]);
    }

    #[test]
    fn high_rate_fills_one_flush_interval() {
        let pieces = play(Pacer::new(Some(1_000_000.0), None, FLUSH), &[0; 20_000], &[]);
        assert!(pieces.iter().all(|(rows, _)| (4_990..=5_010).contains(rows)), "{pieces:?}");
        assert_eq!(pieces.last().map(|last| last.1), Some(19), "20,000 rows at a million per second end after 20 ms");
    }

    #[test]
    fn stalled_reader_catches_up_without_drift() {
        let pieces = play(Pacer::new(Some(10.0), None, FLUSH), &[0; 10], &[(2, 450)]);
        assert_eq!(pieces, [(1, 0), (1, 100), (4, 550), (1, 600), (1, 700), (1, 800), (1, 900)]);
    }

    #[test]
    fn event_time_plays_at_its_speed_and_old_rows_go_along() {
        let second = 1_000_000;
        let times = [100 * second, 110 * second, 50 * second, 120 * second];
        let pieces = play(Pacer::new(None, Some(10.0), FLUSH), &times, &[]);
        assert_eq!(pieces, [(1, 0), (2, 1000), (1, 2000)]);
        let anchored = play(Pacer::new(None, Some(10.0), FLUSH).anchored_at(90 * second), &times, &[]);
        assert_eq!(anchored, [(1, 1000), (2, 2000), (1, 3000)]);
    }

    #[test]
    fn resumed_play_waits_for_nothing_that_was_due_before() {
        let second = 1_000_000;
        let times = [50 * second, 110 * second, 60 * second, 120 * second];
        let resumed = play(Pacer::new(None, Some(10.0), FLUSH).resumed_at(Some(110 * second)), &times, &[]);
        assert_eq!(resumed, [(3, 0), (1, 1000)]);
        let fresh = play(Pacer::new(None, Some(10.0), FLUSH).resumed_at(None), &times, &[]);
        assert_eq!(fresh, [(1, 0), (2, 6000), (1, 7000)]);
    }

    #[test]
    fn unlimited_offers_everything_at_once() {
        assert_eq!(play(Pacer::new(None, None, FLUSH), &[0; 9], &[]), [(9, 0)]);
    }

    #[test]
    fn extreme_event_times_do_not_overflow() {
        let mut pacer = Pacer::new(None, Some(1e-6), FLUSH).anchored_at(i64::MIN);
        let piece = pacer.plan(1, |_| Some(i64::MAX), Duration::ZERO);
        assert_eq!((piece.rows, piece.wait), (0, Duration::from_secs(86_400)));
    }
}
