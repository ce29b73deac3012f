//! One memory budget per worker: tasks say what they hold and are told when to put state on disk and how slowly to read.
//! Tasks and operators use it; it knows nothing of what the memory is for.
//!
//! Decisions are pure functions of the sums, so that no two tasks wait for each other: [`must_spill`] always names at
//! least one task while the budget is exceeded, and [`pause`] slows sources the more, the further it is exceeded.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::time::Duration;

/// Less than this is not worth a trip to the disk.
const SPILL_BYTES_MIN: usize = 1 << 20;
/// While checkpoints hold state that has left its task, this part of the limit is: what comes meanwhile is to make large
/// pieces on the disk all the same.
const SPILL_PART_MIN: usize = 16;
/// Above this share of the limit sources slow down; spilling has had its chance below it.
const SLOW_PERCENT: usize = 110;

/// Memory for state, shared by all tasks of a worker.
#[derive(Debug)]
pub struct MemoryBudget {
    limit: usize,
    used: AtomicUsize,
    holders: AtomicUsize,
    /// State that has left its task while a checkpoint reads it.
    frozen: AtomicUsize,
}

impl MemoryBudget {
    /// A budget.
    ///
    /// **Units**: `limit` in bytes.
    pub fn new(limit: usize) -> Arc<Self> {
        let (used, holders, frozen) = (AtomicUsize::new(0), AtomicUsize::new(0), AtomicUsize::new(0));
        Arc::new(MemoryBudget { limit, used, holders, frozen })
    }

    /// A budget that is never exceeded.
    pub fn unlimited() -> Arc<Self> {
        MemoryBudget::new(usize::MAX)
    }

    /// What may be held. **Units**: bytes.
    pub fn limit(&self) -> usize {
        self.limit
    }

    /// What is held. **Units**: bytes.
    pub fn used(&self) -> usize {
        self.used.load(Relaxed) + self.frozen.load(Relaxed)
    }

    /// How long a source waits before it reads its next batch.
    pub fn pause(&self) -> Option<Duration> {
        pause(self.used(), self.limit)
    }

    /// A part of the budget for one task, at first empty.
    pub fn share(self: &Arc<Self>) -> MemoryShare {
        MemoryShare { budget: Arc::clone(self), own: 0 }
    }
}

/// What one task holds of a budget; given back when it is dropped.
#[derive(Debug)]
pub struct MemoryShare {
    budget: Arc<MemoryBudget>,
    own: usize,
}

impl MemoryShare {
    /// The task holds this much now. **Units**: bytes.
    pub fn set(&mut self, bytes: usize) {
        let budget = &self.budget;
        if bytes >= self.own {
            budget.used.fetch_add(bytes - self.own, Relaxed);
        } else {
            budget.used.fetch_sub(self.own - bytes, Relaxed);
        }
        match (self.own > 0, bytes > 0) {
            (false, true) => _ = budget.holders.fetch_add(1, Relaxed),
            (true, false) => _ = budget.holders.fetch_sub(1, Relaxed),
            _ => {}
        }
        self.own = bytes;
    }

    /// What the task holds. **Units**: bytes.
    pub fn bytes(&self) -> usize {
        self.own
    }

    /// What a checkpoint of the task reads: all it holds now.
    pub fn frozen(&self) -> FrozenShare {
        FrozenShare { budget: Arc::clone(&self.budget), most: self.own, left: AtomicUsize::new(0) }
    }

    /// How long a source of this worker waits before its next batch.
    pub fn pause(&self) -> Option<Duration> {
        self.budget.pause()
    }

    /// Whether this task is to put state on disk now.
    pub fn must_spill(&self) -> bool {
        let budget = &self.budget;
        let (used, frozen) = (budget.used.load(Relaxed), budget.frozen.load(Relaxed));
        let limit = budget.limit.saturating_sub(frozen);
        let is_worth_it = frozen == 0 || self.own >= budget.limit / SPILL_PART_MIN;
        is_worth_it && must_spill(self.own, used, limit, budget.holders.load(Relaxed))
    }
}

/// State that a checkpoint reads. As long as the task has it too it counts once; what leaves the task counts here, until
/// this is dropped.
#[derive(Debug)]
pub struct FrozenShare {
    budget: Arc<MemoryBudget>,
    most: usize,
    left: AtomicUsize,
}

impl FrozenShare {
    /// The task holds so much less than before. One task calls this. **Units**: bytes.
    pub fn has_left(&self, bytes: usize) {
        let left = self.left.load(Relaxed);
        let more = bytes.min(self.most - left);
        self.left.store(left + more, Relaxed);
        self.budget.frozen.fetch_add(more, Relaxed);
    }
}

impl Drop for FrozenShare {
    fn drop(&mut self) {
        self.budget.frozen.fetch_sub(self.left.load(Relaxed), Relaxed);
    }
}

impl Drop for MemoryShare {
    fn drop(&mut self) {
        self.set(0);
    }
}

/// Whether a task that holds `own` of `used` bytes spills, one of `holders` that hold something.
pub fn must_spill(own: usize, used: usize, limit: usize, holders: usize) -> bool {
    used > limit && own >= SPILL_BYTES_MIN && own as u128 * holders.max(1) as u128 >= used as u128
}

/// How long a source waits before each batch: nothing up to a tenth above the limit, then twice as long with every
/// twentieth more. So slow that memory no longer grows to speak of, and never for ever: watermarks still come, and they
/// are what empties windows.
pub fn pause(used: usize, limit: usize) -> Option<Duration> {
    let percent = (used as u128 * 100 / limit.max(1) as u128) as usize;
    let steps = percent.checked_sub(SLOW_PERCENT)? / 5;
    Some(Duration::from_millis(1 << steps.min(10)))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn over_the_limit_somebody_spills_and_below_it_nobody(
            held in prop::collection::vec(0usize..64 << 20, 1..12), limit in 0usize..256 << 20,
        ) {
            let budget = MemoryBudget::new(limit);
            let mut shares: Vec<_> = held.iter().map(|_| budget.share()).collect();
            shares.iter_mut().zip(&held).for_each(|(share, bytes)| share.set(*bytes));
            let used: usize = held.iter().sum();
            prop_assert_eq!(budget.used(), used);
            let spilling = shares.iter().filter(|share| share.must_spill()).count();
            let is_worth_it = held.iter().any(|bytes| *bytes >= SPILL_BYTES_MIN);
            prop_assert_eq!(spilling > 0, used > limit && is_worth_it);
            drop(shares);
            prop_assert_eq!((budget.used(), budget.holders.load(Relaxed)), (0, 0));
        }

        /// What leaves a task while a checkpoint reads it counts until it is written: neither twice nor not at all.
        #[test]
        fn state_that_a_checkpoint_holds_counts_once(
            own in 0usize..64 << 20, later in prop::collection::vec(0usize..64 << 20, 0..6), limit in 0usize..64 << 20,
        ) {
            let budget = MemoryBudget::new(limit);
            let mut share = budget.share();
            share.set(own);
            let frozen = share.frozen();
            let (mut before, mut left) = (own, 0);
            for bytes in later {
                frozen.has_left(before.saturating_sub(bytes));
                share.set(bytes);
                left = (left + before.saturating_sub(bytes)).min(own);
                before = bytes;
                prop_assert_eq!(budget.used(), bytes + left);
                prop_assert_eq!(share.must_spill(), budget.used() > limit
                    && bytes >= SPILL_BYTES_MIN && (left == 0 || bytes >= limit / SPILL_PART_MIN));
            }
            drop(frozen);
            prop_assert_eq!(budget.used(), before);
        }

        #[test]
        fn sources_slow_down_the_more_the_further_the_budget_is_exceeded(used in 0usize..1 << 30, more in 0usize..1 << 30) {
            let limit = 100 << 20;
            prop_assert!(pause(used, limit) <= pause(used + more, limit));
            prop_assert_eq!(pause(used, limit).is_some(), used * 100 / limit >= SLOW_PERCENT);
            prop_assert!(pause(used + more, limit) <= Some(Duration::from_secs(2)));
        }
    }
}
