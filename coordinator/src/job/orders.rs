//! What users ask of a running job beyond its end: checkpoints, savepoints, a stop with a savepoint, another parallelism.
//! Each waits for a checkpoint of its own (`checkpoint/trigger.rs`) and is answered exactly once.

use std::time::Duration;

use tokio::sync::oneshot;

use super::submit::PreparedJob;
use crate::worker_link::Drain;

/// Where the answer to a user goes; the error is a sentence.
pub(crate) type Answer<T> = oneshot::Sender<Result<T, String>>;

/// A checkpoint or savepoint that is complete.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Taken {
    /// Which.
    pub(crate) checkpoint_id: u64,
    /// Its directory.
    pub(crate) path: String,
    /// From the trigger to the commit.
    pub(crate) duration: Duration,
}

/// A job that runs at another parallelism.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Rescaled {
    /// The checkpoint it went on from.
    pub(crate) checkpoint_id: u64,
    /// No task processed for so long.
    pub(crate) pause: Duration,
}

/// What a user asked for and waits for.
#[derive(Debug)]
pub(crate) enum Manual {
    /// A checkpoint ahead of time.
    Checkpoint(Answer<Taken>),
    /// A savepoint below a directory.
    Savepoint(String, Answer<Taken>),
    /// A savepoint below a directory, then the end; the answer is its path.
    Stop(String, Drain, Answer<String>),
    /// Another parallelism.
    Rescale(Box<PreparedJob>, Answer<Rescaled>),
}

impl Manual {
    /// The directory below which a savepoint is made.
    pub(crate) fn directory(&self) -> Option<&str> {
        match self {
            Manual::Savepoint(directory, _) | Manual::Stop(directory, _, _) => Some(directory),
            Manual::Checkpoint(_) | Manual::Rescale(..) => None,
        }
    }

    /// Tells the user that it cannot be had. One who no longer waits has lost nothing.
    pub(crate) fn refuse(self, why: &str) {
        let why = why.to_owned();
        match self {
            Manual::Checkpoint(answer) | Manual::Savepoint(_, answer) => drop(answer.send(Err(why))),
            Manual::Stop(_, _, answer) => drop(answer.send(Err(why))),
            Manual::Rescale(_, answer) => drop(answer.send(Err(why))),
        }
    }
}

/// A stop whose savepoint is complete, on its way to the end of the job.
#[derive(Debug)]
pub(crate) struct Stopping {
    /// Where the savepoint is.
    pub(crate) path: String,
    /// Who waits.
    pub(crate) answer: Answer<String>,
}

/// A rescale whose checkpoint is complete, on its way to running tasks.
#[derive(Debug)]
pub(crate) struct Rescaling {
    /// The checkpoint.
    pub(crate) checkpoint_id: u64,
    /// When the tasks were stopped.
    pub(crate) since: Duration,
    /// Who waits.
    pub(crate) answer: Answer<Rescaled>,
}
