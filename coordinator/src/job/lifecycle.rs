//! The life of one job as a state machine. Pure: the job's master tells it what happened, with the time and a random
//! number, and does what it answers.
//!
//! ```text
//! accepted -> recovering -> waiting for slots -> republishing -> deploying -> starting -> running
//!                 ^   \                                                                      |  all tasks finished
//!                 |    \-- the end was committed before ------------------> publishing <- committing
//!                 |                                                           |
//!      backing off <- stopping <- failure, and the strategy says restart      +-> over (FINISHED)
//!                        \------- the strategy gives up, or a cancel -> discarding -> over (FAILED, CANCELED)
//!                         \------ the coordinator ends -> over (SUSPENDED: the next coordinator goes on)
//! ```
//! Four rules hold always: a final state is final; the first reason to end a job for good is the one that counts; a new
//! attempt begins only when every task of the old one has ended or was given up; the output of the job's end is published
//! only when every task has finished and that is durable, and then no cancel takes it back.

use std::collections::BTreeMap;
use std::time::Duration;

use weir_core::{ErrorDomain, WorkerId};
use weir_proto::v1::Failure;

use super::state::{JobState, TaskKey, TaskState};
use crate::recovery::strategy::{Restarts, Verdict};

/// What a job waits for.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Stage {
    /// For its master.
    Accepted,
    /// For the state it begins with.
    Recovering,
    /// For slots.
    WaitingForSlots,
    /// For output of the checkpoint it goes on from, which may not be published yet.
    Republishing,
    /// For all tasks to be reachable.
    Deploying,
    /// For all tasks to run.
    Starting,
    /// For all tasks to finish.
    Running,
    /// For the end to be durable.
    Committing,
    /// For all sinks to be published.
    Publishing,
    /// For all tasks to end, after a failure or cancel.
    Stopping,
    /// For the time of the next attempt.
    BackingOff,
    /// For unpublished output to be removed.
    Discarding,
    /// For nothing.
    Over,
}

/// Something that happened to a job.
#[derive(Clone, Debug)]
pub enum Event {
    /// The master runs.
    Begun,
    /// What the attempt begins with is known, and with it its tasks.
    StateFound(Vec<TaskKey>),
    /// The end of the job was committed by an earlier attempt: only its output may be unpublished.
    EndFound,
    /// What the attempt is to begin with cannot be had.
    StateLost(Failure),
    /// Slots were given; this is where each task goes.
    Placed(BTreeMap<TaskKey, WorkerId>),
    /// The output of the checkpoint that the attempt goes on from is published.
    Republished,
    /// A worker reports a task.
    TaskChanged {
        /// Which task.
        task: TaskKey,
        /// Who reports.
        worker: WorkerId,
        /// What it is now.
        state: TaskState,
        /// Why, for [`TaskState::Failed`] and for [`TaskState::Canceled`] that nobody ordered.
        failure: Failure,
    },
    /// A worker is gone, with all that ran on it.
    WorkerLost {
        /// The worker.
        worker: WorkerId,
        /// What to tell the user.
        failure: Failure,
    },
    /// Something else broke the attempt: too many failed checkpoints, an end that cannot be made durable.
    Broken(Failure),
    /// A user wants the end.
    CancelRequested,
    /// The coordinator ends; the job does not.
    SuspendRequested,
    /// The tasks are to be deployed anew from the last checkpoint, at once: at another parallelism, or because an order
    /// that ended them could not be carried out to its end.
    RedeployRequested,
    /// The end is durable.
    EndCommitted,
    /// All sinks are published.
    Published,
    /// Some sink cannot be published.
    PublishFailed(Failure),
    /// Nothing unpublished is left.
    Discarded,
    /// What the job waits for took too long; the pause is over.
    Expired(Failure),
}

/// When something happened.
#[derive(Clone, Copy, PartialEq, Debug)]
pub struct Moment {
    /// Monotonic time.
    pub now: Duration,
    /// Uniform in `[0, 1)`, for the jitter of a restart.
    pub draw: f64,
}

/// What the master has to do.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Action {
    /// Find what the attempt begins with; answered by `StateFound`, `EndFound` or `StateLost`.
    Recover,
    /// Ask for slots.
    RequestSlots,
    /// Publish what the restored checkpoint committed; answered by `Republished` or `PublishFailed`.
    Republish,
    /// Send every task to its worker.
    Deploy,
    /// Let all tasks process.
    Start,
    /// Stop all tasks on all workers.
    CancelTasks,
    /// Give the slots back; a request for slots is withdrawn.
    ReleaseSlots,
    /// Make the end durable; answered by `EndCommitted` or `Broken`.
    CommitEnd,
    /// Make the output visible; answered by `Published` or `PublishFailed`.
    Publish,
    /// Remove the output that is not committed; answered by `Discarded`.
    Discard,
    /// The job is over: keep what is known of it.
    End,
}

/// Answer to an event.
#[derive(Debug, Default)]
pub struct Reaction {
    /// Whether the event meant something; a stale or impossible report does not.
    pub is_accepted: bool,
    /// What to do, in this order.
    pub actions: Vec<Action>,
    /// Tasks whose state changed.
    pub changed: Vec<TaskKey>,
}

/// Why tasks are stopped, and what follows.
#[derive(Clone, Debug)]
enum Ending {
    Canceled,
    Failed(Failure),
    Suspended,
    /// Another attempt, after this pause.
    Restart(Duration),
}

#[derive(Clone, Debug)]
struct Task {
    state: TaskState,
    worker: Option<WorkerId>,
}

/// Whether a job begins or goes on.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Birth {
    /// It was just accepted.
    New,
    /// An earlier coordinator ran it.
    Recovered,
}

/// The state machine of one job.
#[derive(Debug)]
pub struct Lifecycle {
    stage: Stage,
    ending: Option<Ending>,
    restarts: Restarts,
    restart_count: u32,
    restart_cause: Option<Failure>,
    has_earlier_attempts: bool,
    tasks: BTreeMap<TaskKey, Task>,
    state_count: [usize; TaskState::COUNT],
}

impl Lifecycle {
    /// A job that was just accepted, or that an earlier coordinator left.
    pub fn new(birth: Birth, restarts: Restarts) -> Self {
        Lifecycle {
            stage: Stage::Accepted,
            ending: None,
            restarts,
            restart_count: 0,
            restart_cause: None,
            has_earlier_attempts: birth == Birth::Recovered,
            tasks: BTreeMap::new(),
            state_count: [0; TaskState::COUNT],
        }
    }

    /// Where the job stands, as users see it.
    pub fn state(&self) -> JobState {
        match (self.stage, &self.ending) {
            (Stage::Over, None) => JobState::Finished,
            (Stage::Over, Some(Ending::Failed(_))) => JobState::Failed,
            (Stage::Over, Some(Ending::Canceled)) => JobState::Canceled,
            (Stage::Over | Stage::Stopping | Stage::Discarding, Some(Ending::Suspended)) => JobState::Suspended,
            (Stage::Over, Some(Ending::Restart(_))) => JobState::Failed,
            (Stage::Stopping | Stage::BackingOff, Some(Ending::Restart(_))) => JobState::Restarting,
            (Stage::Stopping | Stage::BackingOff | Stage::Discarding, Some(Ending::Failed(_))) => JobState::Failing,
            (Stage::Stopping | Stage::BackingOff | Stage::Discarding, _) => JobState::Cancelling,
            (Stage::Running | Stage::Committing | Stage::Publishing, _) => JobState::Running,
            (Stage::Accepted, _) => JobState::Initializing,
            _ if self.has_earlier_attempts => JobState::Restarting,
            _ => JobState::Created,
        }
    }

    /// What the job waits for.
    pub fn stage(&self) -> Stage {
        self.stage
    }

    /// The failure that ended the job.
    pub fn failure(&self) -> Option<&Failure> {
        match &self.ending {
            Some(Ending::Failed(failure)) => Some(failure),
            _ => None,
        }
    }

    /// Restarts after failures, since this value was made.
    pub fn restart_count(&self) -> u32 {
        self.restart_count
    }

    /// The last failure that led to a restart.
    pub fn restart_cause(&self) -> Option<&Failure> {
        self.restart_cause.as_ref()
    }

    /// Whether an attempt was made before the present one.
    pub fn has_earlier_attempts(&self) -> bool {
        self.has_earlier_attempts
    }

    /// The pause before the next attempt, while the job backs off.
    pub fn pause(&self) -> Duration {
        match &self.ending {
            Some(Ending::Restart(pause)) => *pause,
            _ => Duration::ZERO,
        }
    }

    /// State of a task; `None` when the job has no such task.
    pub fn task_state(&self, task: TaskKey) -> Option<TaskState> {
        self.tasks.get(&task).map(|task| task.state)
    }

    /// All tasks and their states.
    pub fn tasks(&self) -> impl Iterator<Item = (TaskKey, TaskState)> + '_ {
        self.tasks.iter().map(|(key, task)| (*key, task.state))
    }

    /// Whether a report of `worker` about a task would be taken: it is that worker's task, and it may get there.
    pub fn admits(&self, task: TaskKey, worker: &WorkerId, state: TaskState) -> bool {
        let needs_start = matches!(state, TaskState::Running | TaskState::Finished);
        let is_premature = needs_start && self.stage < Stage::Starting;
        let fits = |task: &Task| task.worker.as_ref() == Some(worker) && task.state.may_become(state);
        !is_premature && self.tasks.get(&task).is_some_and(fits)
    }

    /// How many tasks are in `state`.
    pub fn count(&self, state: TaskState) -> usize {
        self.state_count[state as usize]
    }

    /// How many tasks there are.
    pub fn task_count(&self) -> usize {
        self.tasks.len()
    }

    /// Takes an event and decides.
    pub fn on(&mut self, event: Event, moment: Moment) -> Reaction {
        let mut reaction = Reaction::default();
        let r = &mut reaction;
        let is_accepted = match event {
            Event::Begun => self.step(Stage::Accepted, Stage::Recovering, &[Action::Recover], r),
            Event::StateFound(tasks) => self.state_found(tasks, r),
            Event::EndFound => self.step(Stage::Recovering, Stage::Publishing, &[Action::Publish], r),
            Event::StateLost(failure) => self.stage == Stage::Recovering && self.fail(failure, moment, r),
            Event::Placed(placement) => self.place(placement, r),
            Event::Republished => self.republished(r),
            Event::TaskChanged { task, worker, state, failure } => {
                self.task_changed((task, worker), state, (failure, moment), r)
            }
            Event::WorkerLost { worker, failure } => self.worker_lost(&worker, (failure, moment), r),
            Event::Broken(failure) => self.fail(failure, moment, r),
            Event::CancelRequested => self.end_by(Ending::Canceled, r),
            Event::SuspendRequested => self.end_by(Ending::Suspended, r),
            Event::RedeployRequested => self.redeploy(r),
            Event::EndCommitted => self.step(Stage::Committing, Stage::Publishing, &[Action::Publish], r),
            Event::Published => self.stage == Stage::Publishing && self.over(r),
            Event::PublishFailed(failure) => self.publish_failed(failure, moment, r),
            Event::Discarded => self.stage == Stage::Discarding && self.over(r),
            Event::Expired(failure) => self.expired(failure, moment, r),
        };
        reaction.is_accepted = is_accepted;
        self.settle(&mut reaction);
        reaction
    }

    fn step(&mut self, from: Stage, to: Stage, actions: &[Action], reaction: &mut Reaction) -> bool {
        if self.stage != from {
            return false;
        }
        self.stage = to;
        reaction.actions.extend(actions);
        true
    }

    fn state_found(&mut self, tasks: Vec<TaskKey>, reaction: &mut Reaction) -> bool {
        if !self.step(Stage::Recovering, Stage::WaitingForSlots, &[Action::RequestSlots], reaction) {
            return false;
        }
        reaction.changed.extend(&tasks);
        let created = |task| (task, Task { state: TaskState::Created, worker: None });
        self.tasks = tasks.into_iter().map(created).collect();
        self.state_count = [0; TaskState::COUNT];
        self.state_count[TaskState::Created as usize] = self.tasks.len();
        true
    }

    fn place(&mut self, placement: BTreeMap<TaskKey, WorkerId>, reaction: &mut Reaction) -> bool {
        if !self.step(Stage::WaitingForSlots, Stage::Republishing, &[Action::Republish], reaction) {
            return false;
        }
        for (task, worker) in placement {
            if let Some(known) = self.tasks.get_mut(&task) {
                known.worker = Some(worker);
                self.set(task, TaskState::Scheduled, reaction);
            }
        }
        true
    }

    fn republished(&mut self, reaction: &mut Reaction) -> bool {
        if !self.step(Stage::Republishing, Stage::Deploying, &[Action::Deploy], reaction) {
            return false;
        }
        let tasks: Vec<TaskKey> = self.tasks.keys().copied().collect();
        tasks.into_iter().for_each(|task| self.set(task, TaskState::Deploying, reaction));
        true
    }

    fn task_changed(
        &mut self,
        (key, worker): (TaskKey, WorkerId),
        state: TaskState,
        (failure, moment): (Failure, Moment),
        reaction: &mut Reaction,
    ) -> bool {
        if !self.admits(key, &worker, state) {
            return false;
        }
        let Some(task) = self.tasks.get(&key) else { return false };
        let was_ordered = task.state == TaskState::Canceling;
        self.set(key, state, reaction);
        if state == TaskState::Failed || (state == TaskState::Canceled && !was_ordered) {
            self.fail(failure, moment, reaction);
        }
        true
    }

    fn worker_lost(
        &mut self,
        worker: &WorkerId,
        (failure, moment): (Failure, Moment),
        reaction: &mut Reaction,
    ) -> bool {
        let is_lost = |task: &Task| task.worker.as_ref() == Some(worker) && !task.state.is_final();
        let lost: Vec<(TaskKey, TaskState)> =
            self.tasks.iter().filter(|(_, task)| is_lost(task)).map(|(key, task)| (*key, task.state)).collect();
        for (task, state) in &lost {
            let next = if *state == TaskState::Canceling { TaskState::Canceled } else { TaskState::Failed };
            self.set(*task, next, reaction);
        }
        if !lost.is_empty() {
            self.fail(failure, moment, reaction);
        }
        !lost.is_empty()
    }

    /// The attempt is broken: asks the strategy. A failure while it is being stopped anyway changes nothing.
    fn fail(&mut self, failure: Failure, moment: Moment, reaction: &mut Reaction) -> bool {
        if self.ending.is_some() || !(Stage::Recovering..=Stage::Committing).contains(&self.stage) {
            return false;
        }
        let ending = self.judge(failure, moment);
        self.end_attempt(ending, reaction);
        true
    }

    fn judge(&mut self, failure: Failure, moment: Moment) -> Ending {
        // What is the user's to mend fails again, however often it is tried; a single record can be set aside.
        let is_hopeless = failure.domain == ErrorDomain::User.to_string() && !failure.may_be_one_record;
        let verdict = match failure.code.as_str() {
            _ if is_hopeless => Verdict::GiveUp,
            // The first to notice is often the other end of a stream.
            "worker-lost" | "exchange-lost" => self.restarts.lost(moment.now, moment.draw),
            _ => self.restarts.failed(moment.now, moment.draw),
        };
        match verdict {
            Verdict::GiveUp => Ending::Failed(failure),
            Verdict::Restart(pause) => {
                self.restart_count = self.restart_count.saturating_add(1);
                self.restart_cause = Some(failure);
                Ending::Restart(pause)
            }
        }
    }

    /// The end of the job, or of this coordinator. It takes the place of a restart, never of another end. The decision to
    /// publish the end is not taken back.
    fn end_by(&mut self, ending: Ending, reaction: &mut Reaction) -> bool {
        match (&self.ending, self.stage) {
            (_, Stage::Committing | Stage::Publishing | Stage::Over) => false,
            (None, _) => {
                self.end_attempt(ending, reaction);
                true
            }
            (Some(Ending::Restart(_)), Stage::Stopping) => {
                self.ending = Some(ending);
                true
            }
            (Some(Ending::Restart(_)), Stage::BackingOff) => {
                self.ending = Some(ending);
                self.stage = Stage::Stopping;
                true
            }
            // A discarded job has been ended by a user or a failure; there is nothing to go on with.
            _ => false,
        }
    }

    fn redeploy(&mut self, reaction: &mut Reaction) -> bool {
        let is_time = matches!(self.stage, Stage::Running | Stage::Committing) && self.ending.is_none();
        if is_time {
            self.end_attempt(Ending::Restart(Duration::ZERO), reaction);
        }
        is_time
    }

    fn end_attempt(&mut self, ending: Ending, reaction: &mut Reaction) {
        self.ending = Some(ending);
        let was_deployed = (Stage::Deploying..=Stage::Committing).contains(&self.stage);
        self.stage = Stage::Stopping;
        let live: Vec<TaskKey> =
            self.tasks.iter().filter(|(_, task)| !task.state.is_final()).map(|(key, _)| *key).collect();
        for task in live {
            self.set(task, if was_deployed { TaskState::Canceling } else { TaskState::Canceled }, reaction);
        }
        if was_deployed {
            reaction.actions.push(Action::CancelTasks);
        }
    }

    fn publish_failed(&mut self, failure: Failure, moment: Moment, reaction: &mut Reaction) -> bool {
        if self.stage != Stage::Publishing {
            return self.fail(failure, moment, reaction);
        }
        // All tasks have finished and the end is durable: nothing is stopped or discarded. Either it is published again
        // after a pause, or the job has failed with its output committed and not visible.
        match self.judge(failure, moment) {
            Ending::Failed(failure) => {
                self.ending = Some(Ending::Failed(failure));
                self.over(reaction)
            }
            ending => {
                self.ending = Some(ending);
                self.stage = Stage::BackingOff;
                true
            }
        }
    }

    fn expired(&mut self, failure: Failure, moment: Moment, reaction: &mut Reaction) -> bool {
        match self.stage {
            Stage::WaitingForSlots | Stage::Republishing | Stage::Deploying | Stage::Starting => {
                self.fail(failure, moment, reaction)
            }
            Stage::Publishing => self.publish_failed(failure, moment, reaction),
            Stage::Stopping => {
                let live: Vec<TaskKey> =
                    self.tasks.iter().filter(|(_, task)| !task.state.is_final()).map(|(key, _)| *key).collect();
                live.into_iter().for_each(|task| self.set(task, TaskState::Canceled, reaction));
                true
            }
            Stage::BackingOff => {
                self.ending = None;
                self.has_earlier_attempts = true;
                self.step(Stage::BackingOff, Stage::Recovering, &[Action::Recover], reaction)
            }
            Stage::Discarding => self.over(reaction),
            Stage::Accepted | Stage::Recovering | Stage::Running | Stage::Committing | Stage::Over => false,
        }
    }

    fn over(&mut self, reaction: &mut Reaction) -> bool {
        self.stage = Stage::Over;
        reaction.actions.push(Action::End);
        true
    }

    /// Goes on to the next stage when nothing is left to wait for in this one.
    fn settle(&mut self, reaction: &mut Reaction) {
        let all = self.tasks.len();
        if self.stage == Stage::Deploying && self.count(TaskState::Initializing) == all {
            self.stage = Stage::Starting;
            reaction.actions.push(Action::Start);
        }
        let finished = self.count(TaskState::Finished);
        if self.stage == Stage::Starting && self.count(TaskState::Running) + finished == all {
            self.stage = Stage::Running;
        }
        if self.stage == Stage::Running && finished == all {
            self.stage = Stage::Committing;
            reaction.actions.extend([Action::ReleaseSlots, Action::CommitEnd]);
        }
        let ended = finished + self.count(TaskState::Canceled) + self.count(TaskState::Failed);
        if self.stage == Stage::Stopping && ended == all {
            reaction.actions.push(Action::ReleaseSlots);
            match &self.ending {
                Some(Ending::Restart(_)) => self.stage = Stage::BackingOff,
                Some(Ending::Suspended) => {
                    self.over(reaction);
                }
                _ => {
                    self.stage = Stage::Discarding;
                    reaction.actions.push(Action::Discard);
                }
            }
        }
    }

    fn set(&mut self, key: TaskKey, state: TaskState, reaction: &mut Reaction) {
        if let Some(task) = self.tasks.get_mut(&key) {
            self.state_count[task.state as usize] -= 1;
            self.state_count[state as usize] += 1;
            task.state = state;
            reaction.changed.push(key);
        }
    }
}

#[cfg(test)]
mod tests;
