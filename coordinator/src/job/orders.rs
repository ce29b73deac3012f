//! What users ask of a running job beyond its end: checkpoints, savepoints, a stop with a savepoint, another parallelism.
//! Each waits for a checkpoint of its own (`checkpoint/trigger.rs`) and is answered exactly once.

use std::time::Duration;

use tokio::sync::oneshot;
use weir_core::Problem;

use super::failure;
use super::lifecycle::Stage;
use super::master::{Master, Signal};
use super::submit::{PreparedJob, plan};
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

impl Master {
    /// A user asks for something that needs a checkpoint.
    pub(super) fn ask(&mut self, manual: Manual) {
        if self.lifecycle.stage() != Stage::Running || self.stopping.is_some() {
            let state = self.lifecycle.state().name();
            return manual.refuse(&format!("the job is {state}: only a RUNNING job whose tasks have all started can"));
        }
        if let Err(manual) = self.trigger.ask(manual) {
            manual.refuse("too many checkpoints are waiting already");
        }
    }

    pub(super) fn ask_savepoint(&mut self, directory: Option<String>, answer: Answer<Taken>) {
        match self.savepoint_directory(directory) {
            Ok(directory) => self.ask(Manual::Savepoint(directory, answer)),
            Err(why) => drop(answer.send(Err(why))),
        }
    }

    pub(super) fn ask_stop(&mut self, directory: Option<String>, drain: Drain, answer: Answer<String>) {
        match self.savepoint_directory(directory) {
            Ok(directory) => self.ask(Manual::Stop(directory, drain, answer)),
            Err(why) => drop(answer.send(Err(why))),
        }
    }

    fn savepoint_directory(&self, directory: Option<String>) -> Result<String, String> {
        let own = || self.job.plan.options.checkpoints.savepoint_dir.clone();
        directory
            .filter(|directory| !directory.is_empty())
            .or_else(own)
            .ok_or_else(|| "no directory: name one, or set execution.checkpointing.savepoint-dir in the job".to_owned())
    }

    /// A user wants another parallelism: plans the job anew, which takes a while.
    pub(super) fn replan(&mut self, parallelism: u32, answer: Answer<Rescaled>) {
        let mut graph = self.settling.as_deref().unwrap_or(&self.job).graph.clone();
        graph.config.insert("parallelism.default".to_owned(), parallelism.to_string());
        let around = self.around.clone();
        self.later(async move { Signal::Replanned(Box::new(plan(graph, &around).await), answer) });
    }

    pub(super) fn replanned(&mut self, result: Result<PreparedJob, Vec<Problem>>, answer: Answer<Rescaled>) {
        match result {
            Err(problems) => drop(answer.send(Err(failure::listed(&problems)))),
            Ok(job) => {
                let needed = job.plan.slots_needed();
                let room = self.around.cluster.free_slots() + self.job.plan.slots_needed();
                if needed > room {
                    let why = failure::waiting_for(needed, room);
                    return drop(answer.send(Err(format!("the job {why}: start more workers first"))));
                }
                self.ask(Manual::Rescale(Box::new(job), answer));
            }
        }
    }

    /// All tasks run: a rescale is complete.
    pub(super) fn rescaled(&mut self) {
        if let Some(rescaling) = self.rescaling.take() {
            let pause = self.around.clock.monotonic().saturating_sub(rescaling.since);
            let _ = rescaling.answer.send(Ok(Rescaled { checkpoint_id: rescaling.checkpoint_id, pause }));
        }
    }
}
