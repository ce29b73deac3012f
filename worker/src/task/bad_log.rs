//! Logs bad records at a bounded rate: one line per second and operator, with the number that stayed silent. Pure.

use std::time::Duration;

const INTERVAL: Duration = Duration::from_secs(1);

/// When the last line was written and what has come since.
#[derive(Debug, Default)]
pub(crate) struct BadLog {
    last: Option<Duration>,
    suppressed: usize,
}

impl BadLog {
    /// Counts `count` records at `now`; gives the number suppressed before, when a line is due.
    pub(crate) fn on_bad(&mut self, count: usize, now: Duration) -> Option<usize> {
        if self.last.is_some_and(|last| now < last + INTERVAL) {
            self.suppressed += count;
            return None;
        }
        self.last = Some(now);
        let before = std::mem::take(&mut self.suppressed);
        self.suppressed = count.saturating_sub(1);
        Some(before)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_line_per_second_and_nothing_uncounted() {
        let mut log = BadLog::default();
        assert_eq!(log.on_bad(3, Duration::ZERO), Some(0));
        assert_eq!(log.on_bad(5, Duration::from_millis(999)), None);
        assert_eq!(log.on_bad(1, Duration::from_secs(1)), Some(7), "two of the first line and five after it");
    }
}
