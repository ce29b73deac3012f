//! States of jobs and tasks, with Flink's names, and which may follow which. Pure.

use weir_core::{SubtaskIndex, VertexId};
use weir_proto::v1;

/// Where a job stands.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum JobState {
    /// Accepted; waiting for its master.
    Initializing,
    /// Waiting for slots, or being deployed.
    Created,
    /// All tasks were started.
    Running,
    /// A failure happened; the other tasks are being stopped.
    Failing,
    /// Ended by a failure.
    Failed,
    /// A user asked for the end; tasks are being stopped.
    Cancelling,
    /// Ended by a user.
    Canceled,
    /// Ended by itself, all output published.
    Finished,
    /// A task was lost; the tasks are stopped and will be deployed again.
    Restarting,
    /// Its coordinator ends; the next one goes on with it.
    Suspended,
}

impl JobState {
    /// All states.
    pub const ALL: [JobState; 10] = [
        JobState::Initializing,
        JobState::Created,
        JobState::Running,
        JobState::Failing,
        JobState::Failed,
        JobState::Cancelling,
        JobState::Canceled,
        JobState::Finished,
        JobState::Restarting,
        JobState::Suspended,
    ];

    /// Whether nothing follows, in this coordinator.
    pub fn is_final(self) -> bool {
        matches!(self, JobState::Failed | JobState::Canceled | JobState::Finished | JobState::Suspended)
    }

    /// Whether a job may go from here to `next`.
    pub fn may_become(self, next: JobState) -> bool {
        use JobState::*;
        matches!(
            (self, next),
            (Initializing, Created | Restarting | Running | Failing | Cancelling | Suspended)
                | (Created, Running | Restarting | Failing | Cancelling | Suspended)
                | (Running, Restarting | Failing | Failed | Cancelling | Finished | Suspended)
                | (Restarting, Running | Failing | Cancelling | Suspended)
                | (Failing, Failed)
                | (Cancelling, Canceled)
        )
    }

    /// Flink's name.
    pub fn name(self) -> &'static str {
        match self {
            JobState::Initializing => "INITIALIZING",
            JobState::Created => "CREATED",
            JobState::Running => "RUNNING",
            JobState::Failing => "FAILING",
            JobState::Failed => "FAILED",
            JobState::Cancelling => "CANCELLING",
            JobState::Canceled => "CANCELED",
            JobState::Finished => "FINISHED",
            JobState::Restarting => "RESTARTING",
            JobState::Suspended => "SUSPENDED",
        }
    }
}

impl From<JobState> for v1::JobState {
    fn from(state: JobState) -> Self {
        match state {
            JobState::Initializing => v1::JobState::Initializing,
            JobState::Created => v1::JobState::Created,
            JobState::Running => v1::JobState::Running,
            JobState::Failing => v1::JobState::Failing,
            JobState::Failed => v1::JobState::Failed,
            JobState::Cancelling => v1::JobState::Cancelling,
            JobState::Canceled => v1::JobState::Canceled,
            JobState::Finished => v1::JobState::Finished,
            JobState::Restarting => v1::JobState::Restarting,
            JobState::Suspended => v1::JobState::Suspended,
        }
    }
}

/// Where a task (one attempt of one subtask) stands.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum TaskState {
    /// Known, not placed.
    Created,
    /// Placed on a worker.
    Scheduled,
    /// Sent to its worker.
    Deploying,
    /// Its channels can be reached; it waits for the start.
    Initializing,
    /// Processes records.
    Running,
    /// All input processed, output prepared.
    Finished,
    /// Being stopped.
    Canceling,
    /// Stopped.
    Canceled,
    /// Ended by an error.
    Failed,
}

impl TaskState {
    /// How many states there are.
    pub const COUNT: usize = 9;

    /// Whether nothing follows.
    pub fn is_final(self) -> bool {
        matches!(self, TaskState::Finished | TaskState::Canceled | TaskState::Failed)
    }

    /// Whether a task may go from here to `next`. A task that is being stopped may still end by itself first.
    pub fn may_become(self, next: TaskState) -> bool {
        use TaskState::*;
        match (self, next) {
            (Created, Scheduled) | (Scheduled, Deploying) | (Deploying, Initializing) => true,
            // A task with little to do may finish before its worker got round to reporting that it ran.
            (Initializing, Running) | (Initializing | Running | Canceling, Finished) => true,
            (from, Canceling) => !from.is_final() && from != Canceling,
            (from, Canceled | Failed) => !from.is_final(),
            _ => false,
        }
    }
}

impl From<TaskState> for v1::TaskState {
    fn from(state: TaskState) -> Self {
        match state {
            TaskState::Created => v1::TaskState::Created,
            TaskState::Scheduled => v1::TaskState::Scheduled,
            TaskState::Deploying => v1::TaskState::Deploying,
            TaskState::Initializing => v1::TaskState::Initializing,
            TaskState::Running => v1::TaskState::Running,
            TaskState::Finished => v1::TaskState::Finished,
            TaskState::Canceling => v1::TaskState::Canceling,
            TaskState::Canceled => v1::TaskState::Canceled,
            TaskState::Failed => v1::TaskState::Failed,
        }
    }
}

/// The states a worker may report; `None` for any other.
pub fn reported_state(state: v1::TaskState) -> Option<TaskState> {
    match state {
        v1::TaskState::Initializing => Some(TaskState::Initializing),
        v1::TaskState::Running => Some(TaskState::Running),
        v1::TaskState::Finished => Some(TaskState::Finished),
        v1::TaskState::Canceled => Some(TaskState::Canceled),
        v1::TaskState::Failed => Some(TaskState::Failed),
        _ => None,
    }
}

/// One task of a job's attempt.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct TaskKey {
    /// The vertex.
    pub vertex: VertexId,
    /// Which of its subtasks.
    pub subtask: SubtaskIndex,
}

impl TaskKey {
    /// Names a task.
    pub fn new(vertex: u32, subtask: u32) -> Self {
        TaskKey { vertex: VertexId(vertex), subtask: SubtaskIndex(subtask) }
    }
}

impl From<TaskKey> for v1::TaskId {
    fn from(task: TaskKey) -> Self {
        v1::TaskId { vertex_id: task.vertex.0, subtask_index: task.subtask.0 }
    }
}

impl From<v1::TaskId> for TaskKey {
    fn from(task: v1::TaskId) -> Self {
        TaskKey::new(task.vertex_id, task.subtask_index)
    }
}
