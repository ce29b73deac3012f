//! What tasks tell the coordinator: states, failures, prepared output. One bounded queue that the session empties.

use tokio::sync::mpsc;
use weir_checkpoint::TaskState as Snapshot;
use weir_core::{Clock, WorkerId};
use weir_proto::convert;
use weir_proto::v1::worker_message::Message;
use weir_proto::v1::{self, TaskState};

use crate::error::TaskError;
use crate::exchange::AttemptKey;
use crate::snapshot::OperatorSnapshot;
use crate::snapshot::upload::without_sections;
use crate::task::TaskKey;
use crate::task::runner::Prepared;
use crate::task::supervise::Outcome;
use crate::task::suspects::SuspectRows;

/// Reports that may wait for the network; senders wait when it is full.
const REPORTS_MAX: usize = 1024;

/// Sends reports; cheap to clone.
#[derive(Clone, Debug)]
pub(crate) struct Reporter {
    queue: mpsc::Sender<Message>,
}

impl Reporter {
    /// A reporter and the queue it fills.
    pub(crate) fn new() -> (Self, mpsc::Receiver<Message>) {
        let (queue, reports) = mpsc::channel(REPORTS_MAX);
        (Reporter { queue }, reports)
    }

    /// Sends a report; waits for room. Without a session nobody wants it any more.
    pub(crate) async fn send(&self, message: Message) {
        let _ = self.queue.send(message).await;
    }

    /// Sends a report without waiting; `false` when there is no room.
    pub(crate) fn try_send(&self, message: Message) -> bool {
        self.queue.try_send(message).is_ok()
    }
}

/// Which task a report is about.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Subject {
    pub(crate) attempt: AttemptKey,
    pub(crate) task: TaskKey,
}

impl Subject {
    /// The token as it travels.
    pub(crate) fn token(&self) -> v1::FencingToken {
        convert::token_to_proto(self.attempt.job, self.attempt.token)
    }

    /// The task as it travels.
    pub(crate) fn task(&self) -> v1::TaskId {
        convert::task_to_proto(self.task.vertex, self.task.subtask)
    }

    /// A state on the way.
    pub(crate) fn state(&self, state: TaskState) -> Message {
        Message::TaskStateChanged(self.changed(state))
    }

    fn changed(&self, state: TaskState) -> v1::TaskStateChanged {
        v1::TaskStateChanged {
            token: Some(self.token()),
            task: Some(self.task()),
            state: state as i32,
            ..v1::TaskStateChanged::default()
        }
    }

    /// How the task ended.
    pub(crate) fn outcome(&self, outcome: Outcome, place: Place<'_>, metrics: v1::TaskMetrics) -> Message {
        let metrics = Some(metrics);
        Message::TaskStateChanged(match outcome {
            Outcome::Canceled => v1::TaskStateChanged { metrics, ..self.changed(TaskState::Canceled) },
            Outcome::Failed(error) => v1::TaskStateChanged {
                metrics,
                failure: Some(failure(&error, place)),
                suspects: error.suspects.as_deref().map(suspects),
                ..self.changed(TaskState::Failed)
            },
            Outcome::Finished(Prepared { committables, totals, operators }) => v1::TaskStateChanged {
                metrics,
                final_state: final_state(operators),
                committables: committables
                    .iter()
                    .map(|item| convert::committable_to_proto(&item.sink, item.subtask, &item.description))
                    .collect(),
                totals: totals
                    .into_iter()
                    .map(|(sink, totals)| v1::SinkTotals { operator: sink.0, totals: totals.into_iter().collect() })
                    .collect(),
                ..self.changed(TaskState::Finished)
            },
        })
    }
}

/// What a finished task leaves to later checkpoints. Its rows are gone into results; what sinks keep as rows must be
/// committed with the end of the job.
fn final_state(operators: Vec<OperatorSnapshot>) -> Vec<u8> {
    let state = Snapshot { operators: operators.into_iter().map(without_sections).collect() };
    match state.encode() {
        Ok(bytes) => bytes.to_vec(),
        Err(error) => {
            tracing::error!("the last state of a task cannot be written: {error}");
            Vec::new()
        }
    }
}

/// Where something failed.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Place<'a> {
    pub(crate) worker: &'a WorkerId,
    /// Name of the vertex, empty when no task failed.
    pub(crate) vertex: &'a str,
    pub(crate) subtask_index: u32,
    pub(crate) clock: &'a dyn Clock,
}

/// Rows under suspicion as they travel.
pub(crate) fn suspects(rows: &SuspectRows) -> v1::SuspectRows {
    v1::SuspectRows { operator_index: rows.operator as u32, rows: rows.rows.clone() }
}

/// A failure as it travels.
pub(crate) fn failure(error: &TaskError, place: Place<'_>) -> v1::Failure {
    v1::Failure {
        code: error.code.to_owned(),
        domain: error.domain.to_string(),
        chain: error.chain.clone(),
        operator: error.operator.as_ref().map(|uid| uid.0.clone()).unwrap_or_default(),
        vertex: place.vertex.to_owned(),
        subtask_index: place.subtask_index,
        worker: place.worker.0.clone(),
        failed_at_unix_ms: place.clock.wall_unix_us() / 1000,
        may_be_one_record: false,
    }
}
