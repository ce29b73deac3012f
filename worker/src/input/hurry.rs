//! When a task stops waiting for the elements in front of a barrier. The pure part is [`Announced`]: barriers and orders
//! in, a moment out. [`Hurry`] shares it between those who see a barrier come (the gate's senders, `agent` for a source)
//! and the task, which may wait for room downstream at that moment.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use parking_lot::Mutex;
use tokio::sync::Notify;
use weir_core::{Barrier, CheckpointId, Clock, Passage};

/// The barrier a task has not passed yet, though it has come. Pure.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Announced {
    current: Option<Coming>,
    /// The greatest checkpoint that was cut or given up.
    past: u64,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Coming {
    checkpoint: CheckpointId,
    came_at: Duration,
    due: Option<Duration>,
}

impl Announced {
    /// A barrier has come at `now`. The first of a checkpoint starts its time; one that overtakes ends it. A newer
    /// checkpoint takes the place of an older one; what is past says nothing.
    pub fn came(&mut self, barrier: Barrier, now: Duration, timeout: Option<Duration>) {
        let Barrier { checkpoint, passage } = barrier;
        if checkpoint.0 <= self.past || self.current.is_some_and(|current| current.checkpoint > checkpoint) {
            return;
        }
        let due = match passage {
            Passage::Waits => None,
            Passage::MayOvertake => timeout.map(|timeout| now + timeout),
            Passage::Overtakes => Some(now),
        };
        match self.current.as_mut().filter(|current| current.checkpoint == checkpoint) {
            Some(current) => current.due = [current.due, due].into_iter().flatten().min(),
            None => self.current = Some(Coming { checkpoint, came_at: now, due }),
        }
    }

    /// The checkpoint was cut or given up, and all before it.
    pub fn passed(&mut self, checkpoint: CheckpointId) {
        self.past = self.past.max(checkpoint.0);
        self.current = self.current.filter(|current| current.checkpoint.0 > self.past);
    }

    /// When the task stops waiting.
    pub fn due(&self) -> Option<Duration> {
        self.current.and_then(|current| current.due)
    }

    /// The checkpoint whose barrier is to overtake at `now`.
    pub fn overtaking(&self, now: Duration) -> Option<CheckpointId> {
        self.current.filter(|current| current.due.is_some_and(|due| due <= now)).map(|current| current.checkpoint)
    }

    /// When the first barrier of a checkpoint came.
    pub fn came_at(&self, checkpoint: CheckpointId) -> Option<Duration> {
        self.current.filter(|current| current.checkpoint == checkpoint).map(|current| current.came_at)
    }
}

/// No moment is set.
const NEVER: u64 = u64::MAX;

/// The moment at which one task stops waiting.
pub struct Hurry {
    clock: Arc<dyn Clock>,
    timeout: Option<Duration>,
    announced: Mutex<Announced>,
    /// `Announced::due` in microseconds, so that nobody takes the lock for nothing.
    due_us: AtomicU64,
    changed: Notify,
}

impl std::fmt::Debug for Hurry {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Hurry").field("timeout", &self.timeout).field("announced", &self.announced).finish()
    }
}

impl Hurry {
    /// Barriers may be waited for as long as `timeout`; `None` waits for ever.
    pub fn new(clock: Arc<dyn Clock>, timeout: Option<Duration>) -> Self {
        Hurry { clock, timeout, announced: Mutex::default(), due_us: AtomicU64::new(NEVER), changed: Notify::new() }
    }

    /// A barrier has come, perhaps behind other elements.
    pub fn came(&self, barrier: Barrier) {
        let now = self.clock.monotonic();
        self.change(|announced| announced.came(barrier, now, self.timeout));
    }

    /// The checkpoint was cut or given up.
    pub fn passed(&self, checkpoint: CheckpointId) {
        self.change(|announced| announced.passed(checkpoint));
    }

    fn change(&self, change: impl FnOnce(&mut Announced)) {
        let mut announced = self.announced.lock();
        let before = announced.due();
        change(&mut announced);
        let due = announced.due();
        if due != before {
            let due_us = due.map_or(NEVER, |due| u64::try_from(due.as_micros()).unwrap_or(NEVER));
            self.due_us.store(due_us, Ordering::Release);
            self.changed.notify_one();
        }
    }

    fn due(&self) -> Option<Duration> {
        let due_us = self.due_us.load(Ordering::Acquire);
        (due_us != NEVER).then(|| Duration::from_micros(due_us))
    }

    /// The checkpoint whose barrier is to overtake now.
    pub fn overtaking(&self) -> Option<CheckpointId> {
        self.due()?;
        let now = self.clock.monotonic();
        self.announced.lock().overtaking(now)
    }

    /// When the first barrier of a checkpoint came, monotonic.
    pub fn came_at(&self, checkpoint: CheckpointId) -> Option<Duration> {
        self.announced.lock().came_at(checkpoint)
    }

    /// Waits until the task is to stop waiting. For one waiter: the task. **Cancel safety**: loses nothing.
    pub async fn wait(&self) {
        loop {
            match self.due().map(|due| due.saturating_sub(self.clock.monotonic())) {
                Some(Duration::ZERO) => return,
                Some(left) => tokio::select! {
                    biased;
                    () = self.changed.notified() => {}
                    // The moment is kept in whole microseconds: never wake up in front of it.
                    () = self.clock.sleep(left + Duration::from_micros(1)) => {}
                },
                None => self.changed.notified().await,
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn ms(ms: u64) -> Duration {
        Duration::from_millis(ms)
    }

    fn barrier(checkpoint: u64, passage: Passage) -> Barrier {
        Barrier { checkpoint: CheckpointId(checkpoint), passage }
    }

    #[test]
    fn first_barrier_starts_the_time_and_one_that_overtakes_ends_it() {
        let mut announced = Announced::default();
        announced.came(barrier(1, Passage::MayOvertake), ms(5), Some(ms(100)));
        announced.came(barrier(1, Passage::MayOvertake), ms(50), Some(ms(100)));
        assert_eq!((announced.due(), announced.overtaking(ms(104))), (Some(ms(105)), None));
        announced.came(barrier(1, Passage::Overtakes), ms(60), Some(ms(100)));
        assert_eq!(announced.overtaking(ms(60)), Some(CheckpointId(1)));
        assert_eq!(announced.came_at(CheckpointId(1)), Some(ms(5)));
        announced.passed(CheckpointId(1));
        announced.came(barrier(1, Passage::Overtakes), ms(70), Some(ms(100)));
        assert_eq!(announced, Announced { current: None, past: 1 }, "its time is over");
    }

    #[test]
    fn barrier_that_waits_sets_no_moment() {
        let mut announced = Announced::default();
        announced.came(barrier(1, Passage::Waits), ms(0), Some(ms(1)));
        announced.came(barrier(2, Passage::MayOvertake), ms(0), None);
        assert_eq!((announced.due(), announced.came_at(CheckpointId(2))), (None, Some(ms(0))));
    }

    proptest! {
        /// Against the plainest model: all barriers that have come, each with its moment.
        #[test]
        fn moment_is_that_of_the_newest_checkpoint_that_is_not_past(
            events in prop::collection::vec((0..5u64, 0..4u8, 1..6u64), 0..40),
            timeout in prop::option::of(0..20u64),
        ) {
            let (mut announced, mut now, mut came, mut past) = (Announced::default(), 0, Vec::new(), 0);
            for (gap, kind, checkpoint) in events {
                now += gap;
                let passage = match kind {
                    0 => {
                        announced.passed(CheckpointId(checkpoint));
                        past = past.max(checkpoint);
                        None
                    }
                    1 => Some(Passage::Waits),
                    2 => Some(Passage::MayOvertake),
                    _ => Some(Passage::Overtakes),
                };
                if let Some(passage) = passage {
                    announced.came(barrier(checkpoint, passage), ms(now), timeout.map(ms));
                    let due = match passage {
                        Passage::Waits => None,
                        Passage::MayOvertake => timeout.map(|timeout| now + timeout),
                        Passage::Overtakes => Some(now),
                    };
                    // One that came behind a newer one has been taken for stale.
                    let is_stale = came.iter().any(|(newer, _)| *newer > checkpoint && *newer > past);
                    if !is_stale { came.push((checkpoint, due)); }
                }
                let newest = came.iter().map(|(checkpoint, _)| *checkpoint).max().filter(|newest| *newest > past);
                let due = newest.and_then(|newest| came.iter().filter(|(of, _)| *of == newest).filter_map(|(_, due)| *due).min());
                prop_assert_eq!(announced.due(), due.map(ms));
                let expected = newest.filter(|_| due.is_some_and(|due| due <= now)).map(CheckpointId);
                prop_assert_eq!(announced.overtaking(ms(now)), expected);
            }
        }
    }
}
