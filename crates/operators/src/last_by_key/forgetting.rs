//! Which keys `last_by_key` with `state_ttl` still remembers: decided row by row, before rows are compared (pure).
//!
//! A key has the time of its newest row. A row that comes more than the time to live behind that one begins anew, as if the
//! key had never been there. A row that is further than the time to live before it takes no part; neither does one that the
//! watermark has outlived, which is late. A key goes when the watermark has outlived its newest row: whatever is not late is
//! then newer than what was forgotten, so that nothing old ever takes the place of something newer.

use std::cmp::Ordering;

use arrow_array::cast::AsArray;
use arrow_array::types::TimestampMicrosecondType;
use arrow_array::{Array, ArrayRef};
use weir_core::batch::EventTimeArray;

use crate::expiry::{Expiry, STEP_KEYS};

/// What becomes of a row.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Verdict {
    /// It is compared with what is known of its key.
    Compared,
    /// Nothing is known of its key.
    Begins,
    /// It takes no part.
    PassedOver,
    /// It takes no part, and is late.
    Late,
}

/// The newest time of each key.
#[derive(Debug)]
pub(super) struct Forgetting {
    ttl_us: i64,
    /// Where the event time stands in a row.
    time_column: usize,
    /// Per key the time of its newest row; [`NEVER`] for a key that is not held.
    touched: Vec<i64>,
    expiry: Expiry,
    pub(super) watermark: i64,
    /// One for each row of the batch at hand.
    pub(super) verdicts: Vec<Verdict>,
}

const NEVER: i64 = i64::MIN;

impl Forgetting {
    pub(super) fn new(ttl_us: i64, time_column: usize) -> Self {
        let (touched, verdicts) = (Vec::new(), Vec::new());
        Forgetting { ttl_us, time_column, touched, expiry: Expiry::default(), watermark: i64::MIN, verdicts }
    }

    /// Judges the rows of a batch with these columns and keys. Gives the late rows, and keys that are held for nothing.
    pub(super) fn judge(&mut self, columns: &[ArrayRef], ids: &[u32]) -> (Vec<u32>, Vec<u32>) {
        let times = columns[self.time_column].as_primitive::<TimestampMicrosecondType>();
        let bound = ids.iter().map(|id| *id as usize + 1).max().unwrap_or(0).max(self.touched.len());
        self.touched.resize(bound, NEVER);
        self.verdicts.clear();
        let (mut late, mut strangers) = (Vec::new(), Vec::new());
        for (row, id) in ids.iter().enumerate() {
            // A row without a time is as old as the watermark.
            let time = if times.is_null(row) { self.watermark } else { times.value(row) };
            let verdict = self.verdict(*id, time);
            match verdict {
                Verdict::Late => {
                    late.push(row as u32);
                    strangers.push(*id);
                }
                Verdict::PassedOver => {}
                Verdict::Begins | Verdict::Compared => {
                    let touched = &mut self.touched[*id as usize];
                    *touched = time.max(*touched).max(NEVER + 1);
                    self.expiry.set(*id, touched.saturating_add(self.ttl_us));
                }
            }
            self.verdicts.push(verdict);
        }
        strangers.sort_unstable();
        strangers.dedup();
        strangers.retain(|id| self.touched[*id as usize] == NEVER);
        (late, strangers)
    }

    fn verdict(&self, id: u32, time: i64) -> Verdict {
        let touched = self.touched[id as usize];
        let end = time.saturating_add(self.ttl_us);
        if end <= self.watermark {
            Verdict::Late
        } else if touched == NEVER || time > touched.saturating_add(self.ttl_us) {
            Verdict::Begins
        } else if end < touched {
            Verdict::PassedOver
        } else {
            Verdict::Compared
        }
    }

    /// The next keys to be forgotten, and whether there are more.
    pub(super) fn forget(&mut self) -> (Vec<u32>, bool) {
        let mut gone = Vec::new();
        for _ in 0..STEP_KEYS {
            let Some(id) = self.expiry.ring(self.watermark) else { break };
            let touched = &mut self.touched[id as usize];
            let end = touched.saturating_add(self.ttl_us);
            if *touched == NEVER {
                continue;
            }
            if end <= self.watermark {
                *touched = NEVER;
                gone.push(id);
            } else {
                self.expiry.set(id, end);
            }
        }
        (gone, self.expiry.is_due(self.watermark))
    }

    /// The newest times of these keys, as a column.
    pub(super) fn state(&self, ids: &[u32]) -> EventTimeArray {
        EventTimeArray::from_iter_values(ids.iter().map(|id| self.touched[*id as usize])).with_timezone("UTC")
    }

    /// Takes back the newest time of a key, which may be known already by another row of it. Says how the two rows meet.
    pub(super) fn restore(&mut self, id: u32, time: i64) -> Verdict {
        let bound = self.touched.len().max(id as usize + 1);
        self.touched.resize(bound, NEVER);
        let (touched, time) = (&mut self.touched[id as usize], time.max(NEVER + 1));
        let verdict = match time.cmp(touched) {
            Ordering::Less => return Verdict::PassedOver,
            Ordering::Equal => Verdict::Compared,
            Ordering::Greater => Verdict::Begins,
        };
        *touched = time;
        self.expiry.set(id, time.saturating_add(self.ttl_us));
        verdict
    }

    /// Whether a key with this newest time is forgotten.
    pub(super) fn is_over(&self, touched: i64) -> bool {
        touched.saturating_add(self.ttl_us) <= self.watermark
    }

    /// When all of these keys are forgotten.
    pub(super) fn end_of(&self, ids: &[u32]) -> i64 {
        let last = ids.iter().map(|id| self.touched[*id as usize]).max();
        last.map_or(NEVER, |touched| touched.saturating_add(self.ttl_us))
    }

    /// Whether the key is held.
    pub(super) fn holds(&self, id: u32) -> bool {
        self.touched.get(id as usize).is_some_and(|touched| *touched != NEVER)
    }

    /// Numbers the keys anew, those of `live` in that order.
    pub(super) fn renumber(&mut self, live: &[u32]) {
        let times: Vec<i64> = live.iter().map(|id| self.touched[*id as usize]).collect();
        (self.touched, self.verdicts) = (Vec::new(), Vec::new());
        self.expiry.clear();
        (0u32..).zip(times).for_each(|(id, time)| _ = self.restore(id, time));
    }

    pub(super) fn size_bytes(&self) -> usize {
        self.touched.capacity() * size_of::<i64>() + self.expiry.size_bytes() + self.verdicts.capacity()
    }
}

#[cfg(test)]
mod tests;
