//! Decides whether aggregating before the exchange pays, from what it did lately (pure).
//!
//! A sample of rows is aggregated; if it gave more than half as many groups, rows are passed on as they are for a
//! while, and then the next sample is taken.

/// Rows of one sample.
const SAMPLE_ROWS: usize = 64 * 1024;
/// Rows passed on after a sample that did not pay: sampling then costs at most a sixteenth of the rows.
const PASS_ROWS: usize = 16 * SAMPLE_ROWS;

/// The account of one local phase.
#[derive(Debug, Default)]
pub(crate) struct Worth {
    rows: usize,
    groups: usize,
    /// Rows still to be passed on.
    passing: usize,
}

impl Worth {
    /// Whether the next `rows` should be aggregated; those that should not are counted as passed on.
    pub(crate) fn wants(&mut self, rows: usize) -> bool {
        let is_passing = self.passing > 0;
        self.passing = self.passing.saturating_sub(rows);
        !is_passing
    }

    /// Notes that `rows` gave `groups` new groups; whether to go on.
    pub(crate) fn aggregated(&mut self, rows: usize, groups: usize) -> bool {
        self.rows += rows;
        self.groups += groups;
        if self.rows < SAMPLE_ROWS {
            return true;
        }
        let pays = self.groups * 2 <= self.rows;
        *self = Worth { rows: 0, groups: 0, passing: if pays { 0 } else { PASS_ROWS } };
        pays
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_pass_when_aggregation_gives_nothing_and_are_tried_again() {
        let mut worth = Worth::default();
        let mut aggregated = 0;
        for _ in 0..10_000 {
            if worth.wants(1024) {
                aggregated += 1;
                worth.aggregated(1024, 900);
            }
        }
        assert!((500..700).contains(&aggregated), "{aggregated}");
        let mut pays = Worth::default();
        assert!((0..10_000).all(|_| pays.wants(1024) && pays.aggregated(1024, 500)));
    }
}
