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

/// What a checkpoint keeps of one split that is not finished.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct SplitState {
    /// Which split; `None` for rows without.
    pub index: Option<SplitIndex>,
    /// The split's watermark.
    pub watermark: EventTime,
    /// The watermark that its subtask had given last: rows up to it are late already.
    pub said: EventTime,
    /// **Units**: microseconds without rows that the source waited for.
    pub waited_us: i64,
    /// Whether rows came since the source last reported waiting.
    pub gave_rows: bool,
    /// Whether it counts as idle.
    pub is_idle: bool,
}

impl SplitState {
    /// What counts when several subtasks had a split of this index: rows without a split.
    fn join(&mut self, other: &SplitState) {
        self.watermark = self.watermark.min(other.watermark);
        self.said = self.said.min(other.said);
        self.waited_us = self.waited_us.min(other.waited_us);
        self.gave_rows |= other.gave_rows;
        self.is_idle &= other.is_idle;
    }
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
    /// The greatest watermark that a finished split had.
    ended: EventTime,
    is_idle: bool,
    /// Splits of a checkpoint that nothing was heard of yet: another subtask may read them now. They are no part of the
    /// next checkpoint, so that copies do not multiply.
    unclaimed: Vec<SplitState>,
    /// While it is being told which splits are its own: the least of what their subtasks had said.
    settling: Option<EventTime>,
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
            ended: EventTime::MIN,
            is_idle: false,
            unclaimed: Vec::new(),
            settling: None,
        }
    }

    /// What a checkpoint keeps: the splits that are not finished, and the greatest watermark of those that are.
    pub fn snapshot(&self) -> (Vec<SplitState>, EventTime) {
        let state = |split: &Split| SplitState {
            index: split.index,
            watermark: split.watermark,
            said: self.last,
            waited_us: split.waited_us,
            gave_rows: split.gave_rows,
            is_idle: split.is_idle,
        };
        (self.splits.iter().map(state).collect(), self.ended)
    }

    /// Goes on from a checkpoint with the splits of all subtasks. Its own are those that are added next; then
    /// [`WatermarkTracker::settle`] ends the beginning.
    pub fn restore(&mut self, splits: Vec<SplitState>, ended: EventTime) {
        for split in splits {
            match self.unclaimed.iter_mut().find(|other| other.index == split.index) {
                Some(other) => other.join(&split),
                None => self.unclaimed.push(split),
            }
        }
        self.ended = self.ended.max(ended);
        self.greatest = self.greatest.max(self.ended);
        self.last = self.unclaimed.iter().map(|split| split.said).min().unwrap_or(EventTime::MIN);
        self.settling = Some(EventTime::MAX);
    }

    /// Before anything but an added split: gives the watermark that was said before the checkpoint, the first time.
    pub fn settle(&mut self) -> Option<EventTime> {
        let said = self.settling.take()?;
        if said < EventTime::MAX {
            self.last = self.last.max(said);
        }
        (self.last > EventTime::MIN).then_some(self.last)
    }

    /// A split will be read; from now on it holds the watermark, but never pulls it back.
    pub fn on_added(&mut self, index: SplitIndex) -> Idleness {
        self.find_or_add(Some(index));
        if self.splits.iter().all(|split| split.is_idle) {
            // A split of a checkpoint comes as idle as it was. Others may follow that are not, so it is not told yet.
            return Idleness::Unchanged;
        }
        self.settle_idleness()
    }

    /// Everything of a split was read: it holds nothing back any more. After the last split the watermark stays.
    pub fn on_finished(&mut self, index: SplitIndex) -> Idleness {
        let at = self.find_or_add(Some(index));
        let split = self.splits.swap_remove(at);
        self.ended = self.ended.max(split.watermark);
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
        if waited_us <= 0 {
            return self.settle_idleness();
        }
        for split in &mut self.splits {
            if std::mem::take(&mut split.gave_rows) {
                continue;
            }
            split.waited_us = split.waited_us.saturating_add(waited_us);
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
        let split = self.unclaimed_or_new(index);
        self.splits.push(split);
        self.splits.len() - 1
    }

    fn unclaimed_or_new(&mut self, index: Option<SplitIndex>) -> Split {
        let Some(at) = self.unclaimed.iter().position(|split| split.index == index) else {
            return Split { index, watermark: EventTime::MIN, waited_us: 0, gave_rows: true, is_idle: false };
        };
        let SplitState { watermark, said, waited_us, gave_rows, is_idle, .. } = self.unclaimed.swap_remove(at);
        self.greatest = self.greatest.max(watermark);
        self.settling = self.settling.map(|least| least.min(said));
        Split { index, watermark, waited_us, gave_rows, is_idle }
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
mod tests;
