//! Why a checkpoint failed: a code and a sentence for each, as `weir info` and the answers to users show them. Codes are
//! pages in `docs/errors`.

use std::time::Duration;

use weir_checkpoint::CheckpointError;
use weir_core::error::report;
use weir_proto::v1::Failure;

use crate::job::failure::seconds;
use crate::job::state::TaskKey;

/// A checkpoint took too long.
const TIMEOUT: &str = "checkpoint-timeout";
/// A task could not write its part and gave no code.
const DECLINED: &str = "checkpoint-declined";
/// The attempt ended meanwhile.
const INTERRUPTED: &str = "checkpoint-interrupted";
/// A task's answer is not what it should be.
const INVALID: &str = "checkpoint-invalid";
/// The coordinator's own directory cannot be written.
const METADATA: &str = "checkpoint-metadata";

/// Why a checkpoint failed.
#[derive(Debug)]
pub enum CheckpointFailure {
    /// Tasks had not answered in time.
    TimedOut {
        /// The limit.
        timeout: Duration,
        /// Who had not answered, by name; the first few.
        owing: Vec<String>,
        /// How many had not.
        owing_count: usize,
    },
    /// A task could not write its part.
    Declined {
        /// The task, by name.
        task: String,
        /// Why.
        failure: Box<Failure>,
    },
    /// A task failed, a worker was lost, or the job was ended while it was under way.
    Interrupted,
    /// A task's answer cannot be read, or leaves something out.
    Invalid {
        /// Which and what.
        reason: String,
    },
    /// The manifest could not be written or read.
    Store(CheckpointError),
    /// The commit could not be made durable.
    Metadata(String),
}

impl CheckpointFailure {
    /// Page in `docs/errors`.
    pub fn code(&self) -> &str {
        match self {
            CheckpointFailure::TimedOut { .. } => TIMEOUT,
            CheckpointFailure::Declined { failure, .. } if !failure.code.is_empty() => &failure.code,
            CheckpointFailure::Declined { .. } => DECLINED,
            CheckpointFailure::Interrupted => INTERRUPTED,
            CheckpointFailure::Invalid { .. } => INVALID,
            CheckpointFailure::Store(error) => error.code(),
            CheckpointFailure::Metadata(_) => METADATA,
        }
    }

    /// Whether it speaks against the store or the job, rather than of an attempt that ended anyway.
    pub fn counts(&self) -> bool {
        !matches!(self, CheckpointFailure::Interrupted)
    }

    /// The whole story in a sentence.
    pub fn sentence(&self) -> String {
        match self {
            CheckpointFailure::TimedOut { timeout, owing, owing_count } => {
                let more = owing_count.saturating_sub(owing.len());
                let more = if more == 0 { String::new() } else { format!(" and {more} more") };
                format!("not complete after {}: no answer from {}{more}", seconds(*timeout), owing.join(", "))
            }
            CheckpointFailure::Declined { task, failure } => {
                let operator = match failure.operator.as_str() {
                    "" => String::new(),
                    operator => format!("operator '{operator}' of "),
                };
                let why =
                    if failure.chain.is_empty() { "it gave no reason".to_owned() } else { failure.chain.join(": ") };
                format!("{operator}{task} could not write its part: {why}")
            }
            CheckpointFailure::Interrupted => "the job's tasks were stopped while it was under way".to_owned(),
            CheckpointFailure::Invalid { reason } => reason.clone(),
            CheckpointFailure::Store(error) => report(error),
            CheckpointFailure::Metadata(reason) => format!("the commit could not be written down: {reason}"),
        }
    }
}

/// A task as people find it: `subtask 1 of 'reports -> counts'`.
pub fn task_name(vertex: &str, task: TaskKey) -> String {
    format!("subtask {} of '{vertex}'", task.subtask)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn failures_name_who_is_to_blame() {
        let timed_out = CheckpointFailure::TimedOut {
            timeout: Duration::from_secs(600),
            owing: vec![task_name("a -> b", TaskKey::new(0, 1))],
            owing_count: 3,
        };
        assert_eq!(timed_out.sentence(), "not complete after 600 s: no answer from subtask 1 of 'a -> b' and 2 more");
        let failure = Failure {
            code: "checkpoint-store-full".to_owned(),
            operator: "counts".to_owned(),
            chain: vec!["no space".to_owned(), "quota".to_owned()],
            ..Failure::default()
        };
        let declined = CheckpointFailure::Declined { task: "subtask 0 of 'b'".to_owned(), failure: Box::new(failure) };
        let sentence = declined.sentence();
        assert_eq!(sentence, "operator 'counts' of subtask 0 of 'b' could not write its part: no space: quota");
        assert_eq!(declined.code(), "checkpoint-store-full");
        let silent = CheckpointFailure::Declined { task: "t".to_owned(), failure: Box::default() };
        assert_eq!(silent.code(), "checkpoint-declined");
    }
}
