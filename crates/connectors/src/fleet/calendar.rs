//! Puts reports into the order of their arrival without a heap: a ring of buckets over arrival time, each sorted when its
//! time has come (pure). Memory follows the reports that are under way, not the length of the stream.

use std::collections::VecDeque;

use super::columns::Report;

/// Reports that are under way.
pub(super) struct Calendar {
    width_ms: i64,
    /// Number of the front bucket: it holds arrivals from `front * width_ms` on.
    front: i64,
    buckets: VecDeque<Vec<Report>>,
    /// Emptied buckets, to be used again.
    spare: Vec<Vec<Report>>,
    order: Vec<u64>,
    waiting: usize,
}

impl Calendar {
    pub(super) fn new(width_ms: i64) -> Self {
        Calendar { width_ms, front: 0, buckets: VecDeque::new(), spare: Vec::new(), order: Vec::new(), waiting: 0 }
    }

    /// A calendar for reports that arrive at `start_ms` or later.
    pub(super) fn starting_at(width_ms: i64, start_ms: i64) -> Self {
        Calendar { front: start_ms / width_ms, ..Calendar::new(width_ms) }
    }

    pub(super) fn width_ms(&self) -> i64 {
        self.width_ms
    }

    /// Adds a report. It must not arrive before the front bucket, whose reports are gone.
    #[inline]
    pub(super) fn push(&mut self, report: Report) {
        let place = (report.received_ms / self.width_ms - self.front) as usize;
        while self.buckets.len() <= place {
            self.buckets.push_back(self.spare.pop().unwrap_or_default());
        }
        self.buckets[place].push(report);
        self.waiting += 1;
    }

    /// Moves the front bucket to `out`, in the order of arrival, if nothing can be added to it any more: all reports
    /// still to be added arrive at `now_ms` or later.
    pub(super) fn pop(&mut self, now_ms: i64, out: &mut Vec<Report>) -> bool {
        let start_ms = self.front * self.width_ms;
        if self.waiting == 0 && now_ms < i64::MAX {
            // Nothing is under way: the calendar may jump.
            let front = now_ms / self.width_ms;
            let skipped = (front - self.front).max(0);
            self.front += skipped;
            let empty = self.buckets.drain(..self.buckets.len().min(skipped as usize));
            self.spare.extend(empty);
            return false;
        }
        if self.waiting == 0 || now_ms < start_ms + self.width_ms {
            return false;
        }
        self.front += 1;
        let Some(mut bucket) = self.buckets.pop_front() else { return false };
        // Sorting small keys beats sorting whole reports; equal arrivals stay in the order in which they were added.
        let key = |(place, report): (usize, &Report)| ((report.received_ms - start_ms) as u64) << 32 | place as u64;
        self.order.clear();
        self.order.extend(bucket.iter().enumerate().map(key));
        self.order.sort_unstable();
        out.extend(self.order.iter().map(|key| bucket[(*key & 0xFFFF_FFFF) as usize]));
        self.waiting -= bucket.len();
        bucket.clear();
        self.spare.push(bucket);
        true
    }

    /// Reports under way; for the bound on memory.
    #[cfg(test)]
    pub(super) fn waiting(&self) -> usize {
        self.waiting
    }
}
