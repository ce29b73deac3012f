//! When a checkpoint begins. Pure: told the time of what happened, it answers what is to begin now and when to ask again.
//!
//! One checkpoint at a time. What a user asks for comes first and waits for no pause; the job's own ones keep their
//! interval, counted from one beginning to the next, and the pause after an end. A checkpoint that takes longer than the
//! interval is followed by the next as soon as the pause is over.

use std::collections::VecDeque;
use std::time::Duration;

/// Checkpoints that users may have asked for and that wait; more are refused.
pub const WAITING_MAX: usize = 16;

/// What is to begin.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Begin<M> {
    /// A checkpoint of the job's own.
    Periodic,
    /// One that a user asked for.
    Manual(M),
}

/// Decides when checkpoints begin; `M` is what a user asked for.
#[derive(Debug)]
pub struct Trigger<M> {
    interval: Option<Duration>,
    min_pause: Duration,
    waiting: VecDeque<M>,
    is_running: bool,
    is_busy: bool,
    /// When the job's own next one is due, pauses aside.
    next_at: Duration,
    ended_at: Option<Duration>,
}

impl<M> Trigger<M> {
    /// No checkpoint begins before [`Trigger::job_runs`]. Without an `interval` only users begin any.
    pub fn new(interval: Option<Duration>, min_pause: Duration) -> Self {
        let next_at = Duration::ZERO;
        Trigger {
            interval,
            min_pause,
            waiting: VecDeque::new(),
            is_running: false,
            is_busy: false,
            next_at,
            ended_at: None,
        }
    }

    /// All tasks run: the first checkpoint is due after one interval.
    pub fn job_runs(&mut self, now: Duration) {
        self.is_running = true;
        self.is_busy = false;
        self.next_at = now + self.interval.unwrap_or_default();
    }

    /// The tasks are being stopped. What users asked for is given back: it cannot be had.
    pub fn job_stands(&mut self) -> Vec<M> {
        self.is_running = false;
        self.is_busy = false;
        self.waiting.drain(..).collect()
    }

    /// A user asks for a checkpoint; it is given back when too many wait already.
    pub fn ask(&mut self, manual: M) -> Result<(), M> {
        if self.waiting.len() >= WAITING_MAX {
            return Err(manual);
        }
        self.waiting.push_back(manual);
        Ok(())
    }

    /// What is to begin at `now`; it counts as begun.
    pub fn begin(&mut self, now: Duration) -> Option<Begin<M>> {
        if !self.is_running || self.is_busy {
            return None;
        }
        let begin = match self.waiting.pop_front() {
            Some(manual) => Begin::Manual(manual),
            None if self.due_at().is_some_and(|due| due <= now) => Begin::Periodic,
            None => return None,
        };
        self.is_busy = true;
        if let (Begin::Periodic, Some(interval)) = (&begin, self.interval) {
            self.next_at = now + interval;
        }
        Some(begin)
    }

    /// The checkpoint under way has ended, well or not.
    pub fn ended(&mut self, now: Duration) {
        self.is_busy = false;
        self.ended_at = Some(now);
    }

    /// When [`Trigger::begin`] may have something; `None` before something else happens.
    pub fn wake_at(&self) -> Option<Duration> {
        match self.is_running && !self.is_busy {
            true if !self.waiting.is_empty() => Some(Duration::ZERO),
            true => self.due_at(),
            false => None,
        }
    }

    fn due_at(&self) -> Option<Duration> {
        self.interval?;
        let after_pause = self.ended_at.map_or(Duration::ZERO, |ended| ended + self.min_pause);
        Some(self.next_at.max(after_pause))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn ms(ms: u64) -> Duration {
        Duration::from_millis(ms)
    }

    fn running(interval: u64, pause: u64) -> Trigger<u32> {
        let mut trigger = Trigger::new(Some(ms(interval)).filter(|interval| !interval.is_zero()), ms(pause));
        trigger.job_runs(ms(0));
        trigger
    }

    #[test]
    fn interval_counts_from_beginning_to_beginning() {
        let mut trigger = running(100, 0);
        assert_eq!(trigger.begin(ms(99)), None);
        assert_eq!(trigger.begin(ms(100)), Some(Begin::Periodic));
        trigger.ended(ms(130));
        assert_eq!(trigger.wake_at(), Some(ms(200)));
    }

    #[test]
    fn long_checkpoint_is_followed_after_the_pause() {
        let mut trigger = running(100, 30);
        trigger.begin(ms(100));
        assert_eq!(trigger.begin(ms(250)), None, "one at a time");
        trigger.ended(ms(250));
        assert_eq!(trigger.wake_at(), Some(ms(280)));
    }

    #[test]
    fn users_come_first_and_wait_for_no_pause() {
        let mut trigger = running(100, 1000);
        trigger.begin(ms(100));
        trigger.ask(7).expect("room");
        trigger.ask(8).expect("room");
        assert_eq!(trigger.wake_at(), None);
        trigger.ended(ms(110));
        assert_eq!(trigger.begin(ms(110)), Some(Begin::Manual(7)));
        assert_eq!(trigger.job_stands(), [8]);
        assert_eq!(trigger.begin(ms(9000)), None);
    }

    #[test]
    fn without_an_interval_only_users_begin_checkpoints() {
        let mut trigger = running(0, 0);
        assert_eq!((trigger.wake_at(), trigger.begin(ms(1_000_000))), (None, None));
        trigger.ask(1).expect("room");
        assert_eq!(trigger.begin(ms(0)), Some(Begin::Manual(1)));
    }

    proptest! {
        #[test]
        fn never_two_at_once_never_early_never_forgotten(
            interval in 1..200u64, pause in 0..200u64, steps in prop::collection::vec((0..60u64, 0..4u8), 1..200),
        ) {
            let mut trigger = running(interval, pause);
            let (mut now, mut is_busy, mut last_begin, mut last_end) = (0, false, 0u64, None::<u64>);
            for (gap, step) in steps {
                now += gap;
                match step {
                    0 => drop(trigger.ask(1)),
                    1 if is_busy => {
                        trigger.ended(ms(now));
                        (is_busy, last_end) = (false, Some(now));
                    }
                    _ => {
                        let asked = !trigger.waiting.is_empty();
                        let wake = trigger.wake_at();
                        let begun = trigger.begin(ms(now));
                        prop_assert_eq!(begun.is_some(), wake.is_some_and(|at| at <= ms(now)), "it says when to ask");
                        match begun {
                            Some(Begin::Periodic) => {
                                prop_assert!(!is_busy && !asked);
                                prop_assert!(now >= last_begin + interval);
                                prop_assert!(last_end.is_none_or(|end| now >= end + pause));
                                (is_busy, last_begin) = (true, now);
                            }
                            Some(Begin::Manual(_)) => {
                                prop_assert!(!is_busy && asked);
                                is_busy = true;
                            }
                            None => {
                                let is_due = now >= last_begin + interval && last_end.is_none_or(|end| now >= end + pause);
                                prop_assert!(is_busy || !(asked || is_due));
                            }
                        }
                    }
                }
            }
        }
    }
}
