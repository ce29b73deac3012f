//! Decides watermarks and idleness from what the splits of a source subtask gave (pure). The watermark operator asks it.
//!
//! A split's watermark is its greatest event time less the allowed disorder less one microsecond; the subtask's is the
//! least over its splits that are neither finished nor idle. A split is idle when the source waited for rows longer
//! than the timeout and the split gave none. Only time that the source says it waited counts: time spent under
//! backpressure is unknown here, so it cannot make anything idle.
//! **Source**: as Flink's `WatermarkOutputMultiplexer` and `WatermarksWithIdleness`, but driven by reported waiting
//! instead of a clock.

use std::collections::BTreeSet;

use weir_core::{EventTime, SplitIndex};

/// What changed about idleness.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Idleness {
    /// Nothing.
    Unchanged,
    /// Every split is idle now.
    BecameIdle,
    /// A split is active again.
    BecameActive,
}

/// Watermarks of one source subtask.
#[derive(Debug)]
pub struct WatermarkTracker {
    disorder_us: i64,
    idle_timeout_us: Option<i64>,
    /// Splits that are not finished. Rows without a split count as one split, `None`.
    splits: Vec<Split>,
    finished: BTreeSet<SplitIndex>,
    last: EventTime,
    /// The greatest watermark any split ever had.
    greatest: EventTime,
    is_idle: bool,
}

#[derive(Debug)]
struct Split {
    index: Option<SplitIndex>,
    /// `MIN` until its first row: it holds the watermark back.
    watermark: EventTime,
    waited_us: i64,
    /// Whether rows came since the source last reported waiting.
    gave_rows: bool,
    is_idle: bool,
}

impl WatermarkTracker {
    /// A tracker without splits.
    ///
    /// **Units**: microseconds.
    pub fn new(disorder_us: i64, idle_timeout_us: Option<i64>) -> Self {
        WatermarkTracker {
            disorder_us: disorder_us.max(0),
            idle_timeout_us,
            splits: Vec::new(),
            finished: BTreeSet::new(),
            last: EventTime::MIN,
            greatest: EventTime::MIN,
            is_idle: false,
        }
    }

    /// A split will be read; from now on it holds the watermark, but never pulls it back.
    pub fn on_added(&mut self, index: SplitIndex) -> Idleness {
        self.find_or_add(Some(index));
        self.settle_idleness()
    }

    /// Everything of a split was read: it holds nothing back any more. After the last split the watermark stays.
    pub fn on_finished(&mut self, index: SplitIndex) -> Idleness {
        self.splits.retain(|split| split.index != Some(index));
        self.finished.insert(index);
        self.settle_idleness()
    }

    /// A split gave rows; `time_max` is the greatest event time among those that could be used, if any could.
    pub fn on_rows(&mut self, index: Option<SplitIndex>, time_max: Option<i64>) -> Idleness {
        if index.is_some_and(|index| self.finished.contains(&index)) {
            return Idleness::Unchanged;
        }
        let disorder_us = self.disorder_us;
        let at = self.find_or_add(index);
        let split = &mut self.splits[at];
        split.waited_us = 0;
        split.gave_rows = true;
        split.is_idle = false;
        if let Some(time_max) = time_max {
            // Plain saturation, so that not even a record at the end of time makes the last watermark.
            let watermark = EventTime(time_max.saturating_sub(disorder_us).saturating_sub(1));
            split.watermark = split.watermark.max(watermark);
            self.greatest = self.greatest.max(watermark);
        }
        self.settle_idleness()
    }

    /// The source was ready to read for `waited_us` and got nothing from any split but those that gave rows meanwhile.
    pub fn on_waited(&mut self, waited_us: i64) -> Idleness {
        let Some(timeout_us) = self.idle_timeout_us else { return Idleness::Unchanged };
        for split in &mut self.splits {
            if std::mem::take(&mut split.gave_rows) {
                continue;
            }
            split.waited_us = split.waited_us.saturating_add(waited_us.max(0));
            split.is_idle |= split.waited_us >= timeout_us;
        }
        self.settle_idleness()
    }

    /// The new watermark, if it is greater than the one this function gave before.
    pub fn advance(&mut self) -> Option<EventTime> {
        let active = self.splits.iter().filter(|split| !split.is_idle);
        let least = active.map(|split| split.watermark).min()?;
        if least <= self.last {
            return None;
        }
        self.last = least;
        Some(least)
    }

    /// No rows follow: the time the input ended at, which is the greatest watermark of any split, if that is news. It
    /// depends on the rows alone, not on which split was read to its end first.
    pub fn at_end(&mut self) -> Option<EventTime> {
        let is_news = self.greatest > self.last;
        self.last = self.last.max(self.greatest);
        is_news.then_some(self.greatest)
    }

    fn find_or_add(&mut self, index: Option<SplitIndex>) -> usize {
        if let Some(at) = self.splits.iter().position(|split| split.index == index) {
            return at;
        }
        let split = Split { index, watermark: EventTime::MIN, waited_us: 0, gave_rows: true, is_idle: false };
        self.splits.push(split);
        self.splits.len() - 1
    }

    fn settle_idleness(&mut self) -> Idleness {
        if self.splits.is_empty() {
            // Nothing is left to wait for: what was said last stays true until the end of the input.
            return Idleness::Unchanged;
        }
        let is_idle = self.splits.iter().all(|split| split.is_idle);
        match (std::mem::replace(&mut self.is_idle, is_idle), is_idle) {
            (false, true) => Idleness::BecameIdle,
            (true, false) => Idleness::BecameActive,
            _ => Idleness::Unchanged,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeMap;

    const A: SplitIndex = SplitIndex(0);
    const B: SplitIndex = SplitIndex(1);

    #[test]
    fn slowest_split_holds_the_watermark() {
        let mut tracker = WatermarkTracker::new(10, None);
        tracker.on_added(A);
        tracker.on_added(B);
        tracker.on_rows(Some(A), Some(100));
        assert_eq!(tracker.advance(), None);
        tracker.on_rows(Some(B), Some(50));
        assert_eq!(tracker.advance(), Some(EventTime(39)));
        tracker.on_finished(B);
        assert_eq!(tracker.advance(), Some(EventTime(89)));
        tracker.on_finished(A);
        assert_eq!(tracker.advance(), None);
        assert_eq!(tracker.at_end(), None);
    }

    #[test]
    fn input_ends_at_the_same_time_whichever_split_ends_first() {
        for finished in [[A, B], [B, A]] {
            let mut tracker = WatermarkTracker::new(10, None);
            tracker.on_rows(Some(A), Some(100));
            tracker.on_rows(Some(B), Some(50));
            let mut last = tracker.advance();
            for split in finished {
                tracker.on_finished(split);
                last = tracker.advance().or(last);
            }
            assert_eq!(tracker.at_end().or(last), Some(EventTime(89)), "finished in the order {finished:?}");
        }
    }

    #[test]
    fn late_split_does_not_pull_the_watermark_back() {
        let mut tracker = WatermarkTracker::new(0, None);
        tracker.on_rows(Some(A), Some(100));
        assert_eq!(tracker.advance(), Some(EventTime(99)));
        tracker.on_added(B);
        tracker.on_rows(Some(B), Some(20));
        assert_eq!(tracker.advance(), None);
        tracker.on_rows(Some(B), Some(120));
        assert_eq!(tracker.advance(), None);
        tracker.on_rows(Some(A), Some(130));
        assert_eq!(tracker.advance(), Some(EventTime(119)));
    }

    /// Carries d1: a split that wakes up neither stalls the watermark for good nor pulls it back.
    #[test]
    fn d1_split_that_wakes_up_holds_the_watermark_again() {
        let mut tracker = WatermarkTracker::new(0, Some(1000));
        tracker.on_added(A);
        tracker.on_added(B);
        tracker.on_rows(Some(A), Some(100));
        for _ in 0..3 {
            tracker.on_waited(500);
            tracker.on_rows(Some(A), Some(100));
        }
        assert_eq!(tracker.advance(), Some(EventTime(99)), "b is idle and holds nothing");
        assert_eq!(tracker.on_rows(Some(B), Some(10)), Idleness::Unchanged);
        tracker.on_rows(Some(A), Some(200));
        assert_eq!(tracker.advance(), None, "b is active and holds the watermark");
        tracker.on_rows(Some(B), Some(150));
        assert_eq!(tracker.advance(), Some(EventTime(149)));
    }

    #[test]
    fn idleness_is_told_when_all_splits_are_idle_and_when_one_wakes_up() {
        let mut tracker = WatermarkTracker::new(0, Some(1000));
        tracker.on_added(A);
        tracker.on_rows(Some(A), Some(100));
        assert_eq!(tracker.on_waited(2000), Idleness::Unchanged, "the rows came within that time");
        assert_eq!(tracker.on_waited(999), Idleness::Unchanged);
        assert_eq!(tracker.on_waited(1), Idleness::BecameIdle);
        assert_eq!(tracker.on_waited(1000), Idleness::Unchanged);
        assert_eq!(tracker.on_rows(Some(A), None), Idleness::BecameActive, "a bad row is a sign of life too");
    }

    /// Carries d3: a source that is held up by backpressure reports no waiting, however long it takes.
    #[test]
    fn d3_time_under_backpressure_makes_nothing_idle() {
        let mut tracker = WatermarkTracker::new(0, Some(1));
        tracker.on_added(A);
        tracker.on_added(B);
        for time in 0..1000 {
            assert_eq!(tracker.on_rows(Some(A), Some(time)), Idleness::Unchanged);
            assert_eq!(tracker.advance(), None, "b was never waited for, so it still counts");
        }
    }

    /// Carries d4: arithmetic at the ends of time neither wraps nor makes the last watermark.
    #[test]
    fn d4_extreme_times_saturate() {
        for time in [i64::MIN, i64::MIN + 1, -1, 0, i64::MAX - 1, i64::MAX] {
            for disorder in [0, 1, i64::MAX] {
                let mut tracker = WatermarkTracker::new(disorder, Some(i64::MAX));
                tracker.on_rows(None, Some(time));
                let watermark = tracker.advance();
                assert!(watermark.is_none_or(|watermark| watermark < EventTime::MAX && watermark.0 < time));
                tracker.on_waited(i64::MAX);
                tracker.on_waited(i64::MAX);
                tracker.on_waited(i64::MAX);
            }
        }
    }

    #[derive(Clone, Debug)]
    enum Event {
        Added(u32),
        Finished(u32),
        Rows(u32, Option<i64>),
        Waited(i64),
    }

    fn event() -> impl Strategy<Value = Event> {
        let time = prop_oneof![8 => (0i64..100).prop_map(Some), 1 => Just(None), 1 => any::<i64>().prop_map(Some)];
        prop_oneof![
            2 => (0u32..4).prop_map(Event::Added),
            1 => (0u32..4).prop_map(Event::Finished),
            8 => (0u32..4, time).prop_map(|(split, time)| Event::Rows(split, time)),
            4 => (0i64..60).prop_map(Event::Waited),
        ]
    }

    /// The definition, written down from the whole history each time.
    fn model(history: &[Event], disorder: i64, timeout: i64) -> (Option<i64>, bool) {
        let (mut alive, mut finished) = (BTreeSet::new(), BTreeSet::new());
        let (mut time_max, mut quiet) = (BTreeMap::new(), BTreeMap::new());
        let mut fresh = BTreeSet::new();
        for event in history {
            match *event {
                Event::Added(split) | Event::Rows(split, _)
                    if !finished.contains(&split) || matches!(event, Event::Added(_)) =>
                {
                    if alive.insert(split) {
                        quiet.insert(split, 0);
                        time_max.remove(&split);
                        fresh.insert(split);
                    }
                    if let Event::Rows(_, time) = event {
                        quiet.insert(split, 0);
                        fresh.insert(split);
                        if let Some(time) = time {
                            let greatest = time_max.entry(split).or_insert(*time);
                            *greatest = (*greatest).max(*time);
                        }
                    }
                }
                Event::Finished(split) => {
                    alive.remove(&split);
                    finished.insert(split);
                }
                Event::Waited(us) => {
                    for split in alive.iter().filter(|split| !fresh.contains(split)) {
                        *quiet.entry(*split).or_insert(0) += us;
                    }
                    fresh.clear();
                }
                _ => {}
            }
        }
        let active: Vec<_> = alive.iter().filter(|split| quiet[split] < timeout).collect();
        let watermark = |split: &u32| {
            time_max.get(split).map_or(i64::MIN, |time: &i64| time.saturating_sub(disorder).saturating_sub(1))
        };
        (active.iter().map(|split| watermark(split)).min(), !alive.is_empty() && active.is_empty())
    }

    proptest! {
        /// Carries d1: whatever splits do, the watermark is the greatest that the definition ever allowed, so it
        /// neither goes back nor stalls, and idleness is told exactly when it changes.
        #[test]
        fn d1_tracker_follows_the_definition(events in prop::collection::vec(event(), 0..60), disorder in 0i64..20) {
            const TIMEOUT: i64 = 100;
            let mut tracker = WatermarkTracker::new(disorder, Some(TIMEOUT));
            let (mut last, mut is_idle) = (i64::MIN, false);
            let mut readded = BTreeSet::new();
            for (count, event) in events.iter().enumerate() {
                // A finished split is not added again.
                if let Event::Finished(split) = event { readded.insert(*split); }
                if matches!(event, Event::Added(split) if readded.contains(split)) { return Ok(()); }
                let told = match *event {
                    Event::Added(split) => tracker.on_added(SplitIndex(split)),
                    Event::Finished(split) => tracker.on_finished(SplitIndex(split)),
                    Event::Rows(split, time) => tracker.on_rows(Some(SplitIndex(split)), time),
                    Event::Waited(us) => tracker.on_waited(us),
                };
                let (allowed, all_idle) = model(&events[..=count], disorder, TIMEOUT);
                let expected = allowed.filter(|allowed| *allowed > last);
                prop_assert_eq!(tracker.advance(), expected.map(EventTime));
                last = expected.unwrap_or(last);
                if allowed.is_some() || all_idle {
                    let expected = match (is_idle, all_idle) {
                        (false, true) => Idleness::BecameIdle,
                        (true, false) => Idleness::BecameActive,
                        _ => Idleness::Unchanged,
                    };
                    prop_assert_eq!(told, expected);
                    is_idle = all_idle;
                }
            }
        }
    }
}
