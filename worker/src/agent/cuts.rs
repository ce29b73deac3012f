//! Carries what tasks freeze at barriers to the checkpoint store, on the control threads, and answers the coordinator.

use std::sync::Arc;

use parking_lot::Mutex;
use tokio_util::task::TaskTracker;
use weir_core::CheckpointId;
use weir_proto::v1;
use weir_proto::v1::worker_message::Message;

use super::Worker;
use super::reports::{Place, Reporter, Subject, failure, suspects};
use crate::error::TaskError;
use crate::snapshot::reuse::Memory;
use crate::snapshot::{Checkpointing, TaskSnapshot};
use crate::task::runner::Cuts;

/// The way of one task's cuts.
pub(crate) struct TaskCuts {
    pub(crate) worker: Worker,
    pub(crate) reporter: Reporter,
    pub(crate) subject: Subject,
    /// Name of the vertex.
    pub(crate) vertex: String,
    pub(crate) checkpointing: Checkpointing,
    /// What earlier checkpoints of the task have written.
    pub(crate) memory: Arc<Mutex<Memory>>,
    /// Answers on their way. The task's end is reported behind them: to the coordinator, a task that has ended without an
    /// answer has not seen the barrier.
    pub(crate) answers: TaskTracker,
}

impl Cuts for TaskCuts {
    fn taken(&self, snapshot: TaskSnapshot) {
        let checkpoint = snapshot.checkpoint;
        let (checkpointing, reporter) = (self.checkpointing.clone(), self.reporter.clone());
        let memory = Arc::clone(&self.memory);
        let passed = snapshot.passed.iter().map(suspects).collect();
        let (acknowledged, declining) = (self.acknowledged(checkpoint, passed), self.declining(checkpoint));
        let work = async move {
            let answer = match checkpointing.write(snapshot, &memory).await {
                // Nobody waits for it any more.
                None => return,
                Some(Ok(written)) => match written.state.encode() {
                    Ok(state) => acknowledged(state.to_vec(), written.stats),
                    Err(error) => declining(crate::snapshot::encode::of_store(&error)),
                },
                Some(Err(error)) => declining(error),
            };
            reporter.send(answer).await;
        };
        let work = self.answers.track_future(work);
        self.worker.spawned.spawn_on(work, &self.worker.environment.control);
    }

    fn declined(&self, checkpoint: CheckpointId, error: TaskError) {
        let (answer, reporter) = (self.declining(checkpoint)(error), self.reporter.clone());
        let work = self.answers.track_future(async move { reporter.send(answer).await });
        self.worker.spawned.spawn_on(work, &self.worker.environment.control);
    }
}

impl TaskCuts {
    fn acknowledged(
        &self,
        checkpoint: CheckpointId,
        passed: Vec<v1::SuspectRows>,
    ) -> impl FnOnce(Vec<u8>, v1::CheckpointStats) -> Message + Send + use<> {
        let (token, task) = (self.subject.token(), self.subject.task());
        move |state, stats| {
            Message::CheckpointAcknowledged(v1::CheckpointAcknowledged {
                token: Some(token),
                task: Some(task),
                checkpoint_id: checkpoint.0,
                state,
                stats: Some(stats),
                passed,
            })
        }
    }

    fn declining(&self, checkpoint: CheckpointId) -> impl FnOnce(TaskError) -> Message + Send + use<> {
        let (token, task) = (self.subject.token(), self.subject.task());
        let (worker, vertex) = (self.worker.clone(), self.vertex.clone());
        let subtask_index = self.subject.task.subtask.0;
        move |error| {
            let clock = worker.environment.clock.as_ref();
            let place = Place { worker: &worker.id, vertex: &vertex, subtask_index, clock };
            tracing::warn!(
                checkpoint = checkpoint.0,
                vertex,
                subtask_index,
                code = error.code,
                "checkpoint declined: {error}"
            );
            Message::CheckpointDeclined(v1::CheckpointDeclined {
                token: Some(token),
                task: Some(task),
                checkpoint_id: checkpoint.0,
                failure: Some(failure(&error, place)),
            })
        }
    }
}
