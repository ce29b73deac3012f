//! The watermark of a task over its channels. Pure; called by the operator task for every control element.
//!
//! The watermark is the minimum over the channels that are active; it never goes back. Idle and ended channels do not
//! hold it back. `MAX` is no time but the promise that nothing follows, so it passes only when all channels have made
//! it: a channel that merely ended (a stop without drain) leaves open windows open. Before it passes, the watermark rises
//! to the greatest time that any channel has reached: so the last time before the end depends on the rows alone, not on
//! which channel ended first.
//!
//! **Source**: as Flink's StatusWatermarkValve, but a channel that wakes up behind holds the watermark at once; there
//! it is left out until it has caught up, which makes its records late.

use weir_core::EventTime;

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Status {
    Active,
    Idle,
    Ended,
}

/// What a control element of one channel means for the task.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Change {
    /// The input became active or idle; comes before the watermark when active, after it when idle.
    pub is_idle: Option<bool>,
    /// The time at which the input ended; comes before `watermark`, which is `MAX` then.
    pub end_time: Option<EventTime>,
    /// The watermark rose to this.
    pub watermark: Option<EventTime>,
    /// All channels have ended.
    pub has_ended: bool,
}

/// Watermark, idleness and end over all channels of a task.
#[derive(Clone, Debug)]
pub struct WatermarkValve {
    channels: Vec<(EventTime, Status)>,
    watermark: EventTime,
    /// The greatest time of any channel that is not the end.
    greatest: EventTime,
    is_idle: bool,
}

impl WatermarkValve {
    /// All channels are active and have promised nothing.
    pub fn new(channel_count: usize) -> Self {
        WatermarkValve {
            channels: vec![(EventTime::MIN, Status::Active); channel_count],
            watermark: EventTime::MIN,
            greatest: EventTime::MIN,
            is_idle: false,
        }
    }

    /// The same, after a restore: the watermark had come this far and does not go back.
    pub fn restored(channel_count: usize, watermark: EventTime) -> Self {
        WatermarkValve { watermark, greatest: watermark, ..Self::new(channel_count) }
    }

    /// The same, with the channels as they were: each is active and has promised this much.
    pub fn continued(channels: &[EventTime], watermark: EventTime) -> Self {
        let times = channels.iter().copied().filter(|time| *time < EventTime::MAX);
        WatermarkValve {
            channels: channels.iter().map(|time| (*time, Status::Active)).collect(),
            watermark,
            greatest: times.max().unwrap_or(watermark).max(watermark),
            is_idle: false,
        }
    }

    /// What each channel has promised.
    pub fn channel_watermarks(&self) -> Vec<EventTime> {
        self.channels.iter().map(|(time, _)| *time).collect()
    }

    /// A channel's watermark; one that goes back is ignored.
    pub fn on_watermark(&mut self, channel: usize, watermark: EventTime) -> Change {
        let (last, _) = &mut self.channels[channel];
        *last = watermark.max(*last);
        if watermark < EventTime::MAX {
            self.greatest = self.greatest.max(watermark);
        }
        self.change()
    }

    /// A channel became idle.
    pub fn on_idle(&mut self, channel: usize) -> Change {
        self.set(channel, Status::Idle)
    }

    /// A channel became active again.
    pub fn on_active(&mut self, channel: usize) -> Change {
        self.set(channel, Status::Active)
    }

    /// A channel has ended.
    pub fn on_end(&mut self, channel: usize) -> Change {
        let mut change = self.set(channel, Status::Ended);
        change.has_ended = self.channels.iter().all(|(_, status)| *status == Status::Ended);
        change
    }

    fn set(&mut self, channel: usize, status: Status) -> Change {
        let (_, current) = &mut self.channels[channel];
        if *current != Status::Ended {
            *current = status;
        }
        self.change()
    }

    fn change(&mut self) -> Change {
        let mut change = Change::default();
        let least_of = |wanted: Status| {
            let open = self.channels.iter().filter(move |(time, status)| *status == wanted && *time < EventTime::MAX);
            open.map(|(time, _)| *time)
        };
        let (least_active, greatest_idle) = (least_of(Status::Active).min(), least_of(Status::Idle).max());
        let is_complete = self.channels.iter().all(|(time, _)| *time == EventTime::MAX);
        let is_idle = least_active.is_none() && greatest_idle.is_some();
        // When the last active channel goes idle, the channels that were idle before it are all that is left. Taking
        // the greatest makes the result independent of the order in which they fell idle.
        let reached = if is_complete { Some(EventTime::MAX) } else { least_active.or(greatest_idle) };
        if let Some(reached) = reached.filter(|reached| *reached > self.watermark) {
            if reached == EventTime::MAX {
                change.end_time = Some(self.greatest).filter(|end_time| *end_time > self.watermark);
            }
            self.watermark = reached;
            change.watermark = Some(reached);
        }
        if is_idle != self.is_idle && !self.channels.iter().all(|(_, status)| *status == Status::Ended) {
            self.is_idle = is_idle;
            change.is_idle = Some(is_idle);
        }
        change
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Clone, Copy, Debug)]
    enum Event {
        Watermark(i64),
        Idle,
        Active,
        End,
    }

    fn apply(valve: &mut WatermarkValve, channel: usize, event: Event) -> Change {
        match event {
            Event::Watermark(time) => valve.on_watermark(channel, EventTime(time)),
            Event::Idle => valve.on_idle(channel),
            Event::Active => valve.on_active(channel),
            Event::End => valve.on_end(channel),
        }
    }

    #[test]
    fn watermark_is_the_minimum_over_active_channels() {
        let mut valve = WatermarkValve::new(2);
        assert_eq!(valve.on_watermark(0, EventTime(10)).watermark, None);
        assert_eq!(valve.on_watermark(1, EventTime(5)).watermark, Some(EventTime(5)));
        assert_eq!(valve.on_idle(1).watermark, Some(EventTime(10)));
        assert_eq!(valve.on_active(1), Change::default(), "the watermark does not go back");
        assert_eq!(valve.on_watermark(0, EventTime(20)).watermark, None, "the woken channel holds it back");
        assert_eq!(valve.on_watermark(1, EventTime(15)).watermark, Some(EventTime(15)));
    }

    #[test]
    fn max_passes_only_when_all_channels_made_it() {
        let mut valve = WatermarkValve::new(2);
        valve.on_watermark(0, EventTime(7));
        assert_eq!(valve.on_watermark(1, EventTime::MAX).watermark, Some(EventTime(7)));
        assert!(!valve.on_end(1).has_ended);
        assert_eq!(valve.on_end(0), Change { has_ended: true, ..Change::default() }, "stopped without drain");
        let mut valve = WatermarkValve::new(2);
        valve.on_watermark(0, EventTime::MAX);
        valve.on_end(0);
        assert_eq!(valve.on_watermark(1, EventTime::MAX).watermark, Some(EventTime::MAX));
        assert!(valve.on_end(1).has_ended);
    }

    #[test]
    fn input_ends_at_the_greatest_time_of_any_channel() {
        for order in [[0, 1], [1, 0]] {
            let mut valve = WatermarkValve::new(2);
            valve.on_watermark(0, EventTime(7));
            valve.on_watermark(1, EventTime(5));
            valve.on_watermark(order[0], EventTime::MAX);
            let mut end = valve.clone();
            let change = end.on_watermark(order[1], EventTime::MAX);
            assert_eq!(change.watermark, Some(EventTime::MAX));
            assert_eq!(change.end_time.unwrap_or(valve.watermark), EventTime(7), "ended in the order {order:?}");
        }
    }

    /// Carries d1 of the failure list: every sequence of four events over three channels, against what must hold.
    #[test]
    fn d1_watermark_is_never_lost_nor_goes_back_exhaustively() {
        let events = [
            Event::Watermark(1),
            Event::Watermark(2),
            Event::Watermark(i64::MAX),
            Event::Idle,
            Event::Active,
            Event::End,
        ];
        let choices: Vec<(usize, Event)> =
            (0..3).flat_map(|channel| events.iter().map(move |event| (channel, *event))).collect();
        let mut stack = vec![(WatermarkValve::new(3), 0)];
        while let Some((valve, depth)) = stack.pop() {
            if depth == 4 {
                continue;
            }
            for (channel, event) in &choices {
                if valve.channels[*channel].1 == Status::Ended {
                    continue;
                }
                let mut next = valve.clone();
                let change = apply(&mut next, *channel, *event);
                check(&valve, &next, change);
                stack.push((next, depth + 1));
            }
        }
    }

    fn check(before: &WatermarkValve, after: &WatermarkValve, change: Change) {
        let open = |valve: &WatermarkValve, wanted: Status| -> Vec<EventTime> {
            let of = valve.channels.iter().filter(|(time, status)| *status == wanted && *time < EventTime::MAX);
            of.map(|(time, _)| *time).collect()
        };
        let active = open(after, Status::Active);
        assert!(after.watermark >= before.watermark, "went back: {before:?} {after:?}");
        if let Some(watermark) = change.watermark {
            assert!(watermark > before.watermark);
            let reached = change.end_time.unwrap_or(before.watermark);
            assert!(watermark < EventTime::MAX || reached == before.greatest.max(before.watermark), "{change:?}");
            assert!(change.end_time.is_none_or(|end_time| end_time > before.watermark && end_time < watermark));
            assert!(active.iter().all(|time| watermark <= *time), "passed an active channel: {after:?}");
        }
        if let Some(least) = active.iter().min() {
            assert!(after.watermark >= *least, "lost: {before:?} {after:?}");
        }
        let all_max = after.channels.iter().all(|(time, _)| *time == EventTime::MAX);
        assert_eq!(after.watermark == EventTime::MAX, all_max, "{after:?}");
        let all_ended = after.channels.iter().all(|(_, status)| *status == Status::Ended);
        if !all_ended {
            assert_eq!(after.is_idle, active.is_empty() && !open(after, Status::Idle).is_empty(), "{after:?}");
        }
    }
}
