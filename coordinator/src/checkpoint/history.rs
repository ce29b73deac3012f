//! What is shown of a job's checkpoints: the last ones with their costs, and how many there were. Pure data.

use std::collections::VecDeque;

use weir_proto::v1::{CheckpointDetails, CheckpointOverview, CheckpointStats, CheckpointStatus};

use super::failure::CheckpointFailure;

/// Checkpoints that are remembered.
const SHOWN_MAX: usize = 100;

/// The checkpoints of one job.
#[derive(Debug, Default)]
pub(crate) struct History {
    completed_count: u64,
    failed_count: u64,
    swept_count: u64,
    /// Newest first.
    latest: VecDeque<CheckpointDetails>,
}

impl History {
    /// A history that goes on from these counts.
    pub(crate) fn of_counts(completed_count: u64, failed_count: u64) -> Self {
        History { completed_count, failed_count, ..History::default() }
    }

    /// A checkpoint has begun.
    pub(crate) fn begin(&mut self, checkpoint_id: u64, is_savepoint: bool, now_unix_ms: i64) {
        self.latest.truncate(SHOWN_MAX - 1);
        self.latest.push_front(CheckpointDetails {
            checkpoint_id,
            status: CheckpointStatus::InProgress.into(),
            is_savepoint,
            triggered_at_unix_ms: now_unix_ms,
            ..CheckpointDetails::default()
        });
    }

    /// All tasks have answered.
    pub(crate) fn answered(&mut self, checkpoint_id: u64, costs: &CheckpointStats) {
        self.with(checkpoint_id, |details| {
            details.start_delay_us = costs.start_delay_us;
            details.alignment_us = costs.alignment_us;
            details.freeze_us = costs.freeze_us;
            details.write_us = costs.write_us;
            details.upload_us = costs.upload_us;
            details.bytes = costs.bytes;
            details.new_bytes = costs.new_bytes;
            details.in_flight_bytes = costs.in_flight_bytes;
            details.is_unaligned = costs.is_unaligned;
        });
    }

    /// It is committed; times in microseconds.
    pub(crate) fn completed(&mut self, checkpoint_id: u64, path: &str, (duration_us, commit_us): (u64, u64)) {
        self.completed_count += 1;
        self.with(checkpoint_id, |details| {
            details.status = CheckpointStatus::Completed.into();
            details.path = path.to_owned();
            details.duration_us = duration_us;
            details.commit_us = commit_us;
        });
    }

    /// It has failed.
    pub(crate) fn failed(&mut self, checkpoint_id: u64, failure: &CheckpointFailure, duration_us: u64) {
        self.failed_count += 1;
        self.with(checkpoint_id, |details| {
            details.status = CheckpointStatus::Failed.into();
            details.failure_code = failure.code().to_owned();
            details.failure = failure.sentence();
            details.duration_us = duration_us;
        });
    }

    /// So many left-over objects were deleted.
    pub(crate) fn swept(&mut self, count: usize) {
        self.swept_count += count as u64;
    }

    /// How many have failed.
    pub(crate) fn failed_count(&self) -> u64 {
        self.failed_count
    }

    /// The last that was completed.
    pub(crate) fn last_completed(&self) -> Option<&CheckpointDetails> {
        self.latest.iter().find(|details| details.status() == CheckpointStatus::Completed)
    }

    /// All of it, as it travels.
    pub(crate) fn overview(&self) -> CheckpointOverview {
        CheckpointOverview {
            completed_count: self.completed_count,
            failed_count: self.failed_count,
            swept_count: self.swept_count,
            latest: self.latest.iter().cloned().collect(),
        }
    }

    fn with(&mut self, checkpoint_id: u64, change: impl FnOnce(&mut CheckpointDetails)) {
        self.latest.iter_mut().find(|details| details.checkpoint_id == checkpoint_id).map(change);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn last_ones_are_shown_newest_first_and_all_are_counted() {
        let mut history = History::default();
        for id in 1..=105 {
            history.begin(id, false, 0);
            match id % 3 {
                0 => history.failed(id, &CheckpointFailure::Interrupted, 5),
                _ => history.completed(id, "file:///chk", (9, 2)),
            }
        }
        let overview = history.overview();
        assert_eq!((overview.completed_count, overview.failed_count), (70, 35));
        let ids: Vec<u64> = overview.latest.iter().map(|details| details.checkpoint_id).collect();
        assert_eq!(ids, (6..=105).rev().collect::<Vec<_>>());
        assert_eq!(overview.latest[0].failure_code, "checkpoint-interrupted");
        assert_eq!(history.last_completed().map(|details| details.checkpoint_id), Some(104));
    }
}
