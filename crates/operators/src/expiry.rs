//! When keys are to be looked at again: one timer per key, for operators that forget keys (pure).
//!
//! A timer may ring too early, since rows that come do not move it; its owner then sets it anew. So a key costs one step per
//! time to live, not one per row.

use std::cmp::Reverse;
use std::collections::BinaryHeap;

/// Name of the column with the time of a key's last row, in tables of operators that forget keys.
pub(crate) const TOUCHED: &str = "touched";

/// Keys that are forgotten in one step: bounds how long a task is away for it.
pub(crate) const STEP_KEYS: usize = if cfg!(test) { 3 } else { 16 * 1024 };

/// Later than any time.
const NO_TIMER: i64 = i64::MAX;

/// Timers of keys by their ids.
#[derive(Debug, Default)]
pub(crate) struct Expiry {
    heap: BinaryHeap<Reverse<(i64, u32)>>,
    /// Per key the time of the timer that counts. Others of the key in the heap are passed over.
    timers: Vec<i64>,
}

impl Expiry {
    /// Makes sure that the key is looked at, at this time at the latest.
    #[inline]
    pub(crate) fn set(&mut self, id: u32, time: i64) {
        let slot = id as usize;
        if slot >= self.timers.len() {
            self.timers.resize(slot + 1, NO_TIMER);
        }
        if time < self.timers[slot] {
            self.timers[slot] = time;
            self.heap.push(Reverse((time, id)));
        }
    }

    /// The next key whose timer rings at `now` or before; it has no timer then.
    pub(crate) fn ring(&mut self, now: i64) -> Option<u32> {
        while let Some(Reverse((time, id))) = self.heap.peek().copied() {
            if time > now {
                return None;
            }
            self.heap.pop();
            let timer = &mut self.timers[id as usize];
            if *timer == time {
                *timer = NO_TIMER;
                return Some(id);
            }
        }
        None
    }

    /// Whether a timer rings at `now` or before.
    pub(crate) fn is_due(&self, now: i64) -> bool {
        self.heap.peek().is_some_and(|Reverse((time, _))| *time <= now)
    }

    /// Forgets all timers and gives their memory back.
    pub(crate) fn clear(&mut self) {
        *self = Expiry::default();
    }

    /// Bytes of memory held.
    pub(crate) fn size_bytes(&self) -> usize {
        self.heap.capacity() * size_of::<(i64, u32)>() + self.timers.capacity() * size_of::<i64>()
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::*;

    proptest! {
        /// Against a map of the earliest time per key: every key rings once, when its time has come.
        #[test]
        fn every_key_rings_once_at_its_earliest_time(
            steps in prop::collection::vec((0u32..6, 0i64..40, prop::option::of(0i64..50)), 1..80),
        ) {
            let (mut expiry, mut model) = (Expiry::default(), BTreeMap::new());
            for (id, time, now) in steps {
                expiry.set(id, time);
                let earliest = model.entry(id).or_insert(time);
                *earliest = time.min(*earliest);
                let Some(now) = now else { continue };
                let mut rung: Vec<u32> = std::iter::from_fn(|| expiry.ring(now)).collect();
                rung.sort_unstable();
                let due: Vec<u32> = model.iter().filter(|(_, time)| **time <= now).map(|(id, _)| *id).collect();
                prop_assert_eq!(&rung, &due);
                model.retain(|_, time| *time > now);
                prop_assert!(!expiry.is_due(now));
            }
        }
    }
}
