//! The life of one job as a state machine. Pure: the job's master tells it what happened and does what it answers.
//!
//! ```text
//! accepted -> waiting for slots -> deploying -> starting -> running -> publishing -> over (FINISHED)
//!     \______________\________________\____________\___________\___________/
//!                                      |  first failure, or a user's cancel
//!                                  stopping -> discarding -> over (FAILED, CANCELED)
//! ```
//! Three rules hold always: the first reason to end a job is the one that counts; a final state is final; output is
//! published only when every task has finished, and never after a reason to end the job came first.

use std::collections::BTreeMap;

use weir_core::WorkerId;
use weir_proto::v1::Failure;

use super::state::{JobState, TaskKey, TaskState};

/// What a job waits for.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Stage {
    /// For its master.
    Accepted,
    /// For slots.
    WaitingForSlots,
    /// For all tasks to be reachable.
    Deploying,
    /// For all tasks to run.
    Starting,
    /// For all tasks to finish.
    Running,
    /// For all sinks to be published.
    Publishing,
    /// For all tasks to end, after a failure or cancel.
    Stopping,
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
    /// Slots were given; this is where each task goes.
    Placed(BTreeMap<TaskKey, WorkerId>),
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
    /// A user wants the end.
    CancelRequested,
    /// All sinks are published.
    Published,
    /// Some sink cannot be published.
    PublishFailed(Failure),
    /// Nothing unpublished is left.
    Discarded,
    /// What the job waits for took too long.
    Expired(Failure),
}

/// What the master has to do.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Action {
    /// Ask for slots.
    RequestSlots,
    /// Send every task to its worker.
    Deploy,
    /// Let all tasks process.
    Start,
    /// Stop all tasks on all workers.
    CancelTasks,
    /// Give the slots back; a request for slots is withdrawn.
    ReleaseSlots,
    /// Make the output visible; answered by `Published` or `PublishFailed`.
    Publish,
    /// Remove the output that finished tasks prepared; answered by `Discarded`.
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

#[derive(Clone, Debug)]
enum Ending {
    Canceled,
    Failed(Failure),
}

#[derive(Clone, Debug)]
struct Task {
    state: TaskState,
    worker: Option<WorkerId>,
}

/// The state machine of one job.
#[derive(Debug)]
pub struct Lifecycle {
    stage: Stage,
    ending: Option<Ending>,
    tasks: BTreeMap<TaskKey, Task>,
    state_count: [usize; TaskState::COUNT],
}

impl Lifecycle {
    /// A job with these tasks, just accepted.
    pub fn new(tasks: impl IntoIterator<Item = TaskKey>) -> Self {
        let created = |task| (task, Task { state: TaskState::Created, worker: None });
        let tasks: BTreeMap<_, _> = tasks.into_iter().map(created).collect();
        let mut state_count = [0; TaskState::COUNT];
        state_count[TaskState::Created as usize] = tasks.len();
        Lifecycle { stage: Stage::Accepted, ending: None, tasks, state_count }
    }

    /// Where the job stands, as users see it.
    pub fn state(&self) -> JobState {
        match (self.stage, &self.ending) {
            (Stage::Accepted, _) => JobState::Initializing,
            (Stage::WaitingForSlots | Stage::Deploying | Stage::Starting, _) => JobState::Created,
            (Stage::Running | Stage::Publishing, _) => JobState::Running,
            (Stage::Over, None) => JobState::Finished,
            (Stage::Over, Some(Ending::Canceled)) => JobState::Canceled,
            (Stage::Over, Some(Ending::Failed(_))) => JobState::Failed,
            (Stage::Stopping | Stage::Discarding, Some(Ending::Failed(_))) => JobState::Failing,
            (Stage::Stopping | Stage::Discarding, _) => JobState::Cancelling,
        }
    }

    /// What the job waits for.
    pub fn stage(&self) -> Stage {
        self.stage
    }

    /// The first failure.
    pub fn failure(&self) -> Option<&Failure> {
        match &self.ending {
            Some(Ending::Failed(failure)) => Some(failure),
            _ => None,
        }
    }

    /// State of a task; `None` when the job has no such task.
    pub fn task_state(&self, task: TaskKey) -> Option<TaskState> {
        self.tasks.get(&task).map(|task| task.state)
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
    pub fn on(&mut self, event: Event) -> Reaction {
        let mut reaction = Reaction::default();
        reaction.is_accepted = match event {
            Event::Begun => self.begin(&mut reaction),
            Event::Placed(placement) => self.place(placement, &mut reaction),
            Event::TaskChanged { task, worker, state, failure } => {
                self.task_changed((task, worker), state, failure, &mut reaction)
            }
            Event::WorkerLost { worker, failure } => self.worker_lost(&worker, failure, &mut reaction),
            Event::CancelRequested => self.end_by(Ending::Canceled, &mut reaction),
            Event::Published => self.published(&mut reaction),
            Event::PublishFailed(failure) => self.publish_failed(failure, &mut reaction),
            Event::Discarded => self.discarded(&mut reaction),
            Event::Expired(failure) => self.expired(failure, &mut reaction),
        };
        self.settle(&mut reaction);
        reaction
    }

    fn begin(&mut self, reaction: &mut Reaction) -> bool {
        if self.stage != Stage::Accepted {
            return false;
        }
        self.stage = Stage::WaitingForSlots;
        reaction.actions.push(Action::RequestSlots);
        true
    }

    fn place(&mut self, placement: BTreeMap<TaskKey, WorkerId>, reaction: &mut Reaction) -> bool {
        if self.stage != Stage::WaitingForSlots {
            return false;
        }
        self.stage = Stage::Deploying;
        for (task, worker) in placement {
            if let Some(known) = self.tasks.get_mut(&task) {
                known.worker = Some(worker);
                self.set(task, TaskState::Scheduled, reaction);
                self.set(task, TaskState::Deploying, reaction);
            }
        }
        reaction.actions.push(Action::Deploy);
        true
    }

    fn task_changed(
        &mut self,
        (key, worker): (TaskKey, WorkerId),
        state: TaskState,
        failure: Failure,
        reaction: &mut Reaction,
    ) -> bool {
        if !self.admits(key, &worker, state) {
            return false;
        }
        let Some(task) = self.tasks.get(&key) else { return false };
        let was_ordered = task.state == TaskState::Canceling;
        self.set(key, state, reaction);
        if state == TaskState::Failed || (state == TaskState::Canceled && !was_ordered) {
            self.end_by(Ending::Failed(failure), reaction);
        }
        true
    }

    fn worker_lost(&mut self, worker: &WorkerId, failure: Failure, reaction: &mut Reaction) -> bool {
        let is_lost = |task: &Task| task.worker.as_ref() == Some(worker) && !task.state.is_final();
        let lost: Vec<(TaskKey, TaskState)> =
            self.tasks.iter().filter(|(_, task)| is_lost(task)).map(|(key, task)| (*key, task.state)).collect();
        for (task, state) in &lost {
            let next = if *state == TaskState::Canceling { TaskState::Canceled } else { TaskState::Failed };
            self.set(*task, next, reaction);
        }
        if !lost.is_empty() {
            self.end_by(Ending::Failed(failure), reaction);
        }
        !lost.is_empty()
    }

    /// The one way to an early end. While publishing only [`Lifecycle::publish_failed`] leads here: the decision to
    /// publish is not taken back.
    fn end_by(&mut self, ending: Ending, reaction: &mut Reaction) -> bool {
        if self.ending.is_some() || self.stage >= Stage::Publishing {
            return false;
        }
        self.ending = Some(ending);
        let was_deployed = self.stage >= Stage::Deploying;
        self.stage = Stage::Stopping;
        let live: Vec<TaskKey> =
            self.tasks.iter().filter(|(_, task)| !task.state.is_final()).map(|(key, _)| *key).collect();
        for task in live {
            self.set(task, if was_deployed { TaskState::Canceling } else { TaskState::Canceled }, reaction);
        }
        if was_deployed {
            reaction.actions.push(Action::CancelTasks);
        }
        true
    }

    fn published(&mut self, reaction: &mut Reaction) -> bool {
        self.stage == Stage::Publishing && self.over(reaction)
    }

    fn publish_failed(&mut self, failure: Failure, reaction: &mut Reaction) -> bool {
        if self.stage != Stage::Publishing {
            return false;
        }
        self.ending = Some(Ending::Failed(failure));
        self.stage = Stage::Discarding;
        reaction.actions.push(Action::Discard);
        true
    }

    fn discarded(&mut self, reaction: &mut Reaction) -> bool {
        self.stage == Stage::Discarding && self.over(reaction)
    }

    fn expired(&mut self, failure: Failure, reaction: &mut Reaction) -> bool {
        match self.stage {
            Stage::WaitingForSlots | Stage::Deploying | Stage::Starting => {
                self.end_by(Ending::Failed(failure), reaction)
            }
            Stage::Publishing => self.publish_failed(failure, reaction),
            Stage::Stopping => {
                let live: Vec<TaskKey> =
                    self.tasks.iter().filter(|(_, task)| !task.state.is_final()).map(|(key, _)| *key).collect();
                live.into_iter().for_each(|task| self.set(task, TaskState::Canceled, reaction));
                true
            }
            Stage::Discarding => self.over(reaction),
            Stage::Accepted | Stage::Running | Stage::Over => false,
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
            self.stage = Stage::Publishing;
            reaction.actions.extend([Action::ReleaseSlots, Action::Publish]);
        }
        let ended = finished + self.count(TaskState::Canceled) + self.count(TaskState::Failed);
        if self.stage == Stage::Stopping && ended == all {
            self.stage = Stage::Discarding;
            reaction.actions.extend([Action::ReleaseSlots, Action::Discard]);
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
mod tests {
    use proptest::prelude::*;

    use super::*;

    const TASKS: [(u32, u32); 4] = [(0, 0), (0, 1), (1, 0), (1, 1)];

    fn worker_of(task: TaskKey) -> WorkerId {
        WorkerId(format!("w{}", task.subtask))
    }

    fn tasks() -> Vec<TaskKey> {
        TASKS.iter().map(|(vertex, subtask)| TaskKey::new(*vertex, *subtask)).collect()
    }

    fn failure(code: &str) -> Failure {
        Failure { code: code.to_owned(), ..Failure::default() }
    }

    fn placement() -> BTreeMap<TaskKey, WorkerId> {
        tasks().into_iter().map(|task| (task, worker_of(task))).collect()
    }

    fn report(task: TaskKey, state: TaskState) -> Event {
        Event::TaskChanged { task, worker: worker_of(task), state, failure: failure("task") }
    }

    /// Plays events and prints the job's state and the actions after each that did something.
    fn play(job: &mut Lifecycle, events: impl IntoIterator<Item = Event>) -> Vec<String> {
        let mut lines = Vec::new();
        for event in events {
            let reaction = job.on(event);
            if !reaction.actions.is_empty() {
                lines.push(format!("{} {:?}", job.state().name(), reaction.actions));
            }
        }
        lines
    }

    fn reports(state: TaskState) -> Vec<Event> {
        tasks().into_iter().map(|task| report(task, state)).collect()
    }

    fn running_job() -> Lifecycle {
        let mut job = Lifecycle::new(tasks());
        play(&mut job, [Event::Begun, Event::Placed(placement())]);
        play(&mut job, reports(TaskState::Initializing));
        play(&mut job, reports(TaskState::Running));
        assert_eq!(job.state(), JobState::Running);
        job
    }

    #[test]
    fn job_walks_from_acceptance_to_finish() {
        let mut job = Lifecycle::new(tasks());
        let mut lines = play(&mut job, [Event::Begun, Event::Placed(placement())]);
        lines.extend(play(&mut job, reports(TaskState::Initializing)));
        lines.extend(play(&mut job, reports(TaskState::Running)));
        lines.extend(play(&mut job, reports(TaskState::Finished)));
        lines.extend(play(&mut job, [Event::Published]));
        let expected = [
            "CREATED [RequestSlots]",
            "CREATED [Deploy]",
            "CREATED [Start]",
            "RUNNING [ReleaseSlots, Publish]",
            "FINISHED [End]",
        ];
        assert_eq!(lines, expected);
    }

    #[test]
    fn first_failure_is_kept_and_others_are_stopped() {
        let mut job = running_job();
        let [first, second] = [tasks()[1], tasks()[2]];
        let change = |task, code: &str| Event::TaskChanged {
            task,
            worker: worker_of(task),
            state: TaskState::Failed,
            failure: failure(code),
        };
        let lines = play(&mut job, [change(first, "first"), change(second, "second")]);
        assert_eq!(lines, ["FAILING [CancelTasks]"]);
        let lines = play(&mut job, reports(TaskState::Canceled));
        assert_eq!(lines, ["FAILING [ReleaseSlots, Discard]"]);
        assert_eq!(play(&mut job, [Event::Discarded]), ["FAILED [End]"]);
        assert_eq!(job.failure().map(|failure| failure.code.as_str()), Some("first"));
    }

    #[test]
    fn cancel_while_waiting_for_slots_ends_without_touching_workers() {
        let mut job = Lifecycle::new(tasks());
        let lines = play(&mut job, [Event::Begun, Event::CancelRequested, Event::Discarded]);
        assert_eq!(lines, ["CREATED [RequestSlots]", "CANCELLING [ReleaseSlots, Discard]", "CANCELED [End]"]);
    }

    #[test]
    fn failure_during_cancel_leaves_the_job_canceled() {
        let mut job = running_job();
        play(&mut job, [Event::CancelRequested]);
        play(&mut job, reports(TaskState::Failed));
        assert_eq!(play(&mut job, [Event::Discarded]), ["CANCELED [End]"]);
        assert!(job.failure().is_none());
    }

    #[test]
    fn worker_lost_with_only_finished_tasks_is_no_failure() {
        let mut job = running_job();
        let of_first = tasks().into_iter().filter(|task| task.subtask.0 == 0);
        play(&mut job, of_first.map(|task| report(task, TaskState::Finished)));
        let reaction = job.on(Event::WorkerLost { worker: "w0".into(), failure: failure("lost") });
        assert!(!reaction.is_accepted);
        assert_eq!(job.state(), JobState::Running);
        job.on(Event::WorkerLost { worker: "w1".into(), failure: failure("lost") });
        assert_eq!(job.state(), JobState::Failing);
    }

    #[test]
    fn silent_workers_do_not_hold_up_the_end() {
        let mut job = running_job();
        let lines = play(&mut job, [Event::CancelRequested, Event::Expired(failure("")), Event::Expired(failure(""))]);
        assert_eq!(lines, ["CANCELLING [CancelTasks]", "CANCELLING [ReleaseSlots, Discard]", "CANCELED [End]"]);
    }

    #[test]
    fn cancel_after_the_decision_to_publish_comes_too_late() {
        let mut job = running_job();
        play(&mut job, reports(TaskState::Finished));
        assert!(!job.on(Event::CancelRequested).is_accepted);
        assert_eq!(play(&mut job, [Event::Published]), ["FINISHED [End]"]);
    }

    #[test]
    fn unordered_cancel_of_a_task_is_a_failure() {
        let mut job = running_job();
        play(&mut job, [report(tasks()[0], TaskState::Canceled)]);
        assert_eq!(job.state(), JobState::Failing);
    }

    #[test]
    fn report_of_another_worker_is_refused() {
        let mut job = running_job();
        let task = tasks()[0];
        let stranger = Event::TaskChanged {
            task,
            worker: "stranger".into(),
            state: TaskState::Failed,
            failure: failure("stranger"),
        };
        assert!(!job.on(stranger).is_accepted);
        assert_eq!(job.state(), JobState::Running);
    }

    #[test]
    fn finish_that_overtakes_the_report_of_running_counts() {
        let mut job = Lifecycle::new(tasks());
        play(&mut job, [Event::Begun, Event::Placed(placement())]);
        let mut initializing = reports(TaskState::Initializing);
        let last = initializing.pop().expect("four tasks");
        play(&mut job, initializing);
        assert!(!job.on(report(tasks()[0], TaskState::Finished)).is_accepted, "nothing finishes before the start");
        play(&mut job, [last]);
        let lines = play(&mut job, reports(TaskState::Finished));
        assert_eq!(lines, ["RUNNING [ReleaseSlots, Publish]"]);
        assert!(!job.on(report(tasks()[0], TaskState::Running)).is_accepted);
    }

    fn any_event() -> impl Strategy<Value = Event> {
        let task = (0..4usize).prop_map(|index| tasks()[index]);
        let state = prop_oneof![
            6 => Just(TaskState::Initializing),
            6 => Just(TaskState::Running),
            6 => Just(TaskState::Finished),
            1 => Just(TaskState::Canceled),
            1 => Just(TaskState::Failed)
        ];
        prop_oneof![
            2 => Just(Event::Begun),
            2 => Just(Event::Placed(placement())),
            30 => (task, state).prop_map(|(task, state)| report(task, state)),
            1 => (0..2u32).prop_map(|n| Event::WorkerLost {
                worker: WorkerId(format!("w{n}")),
                failure: failure("lost"),
            }),
            1 => Just(Event::CancelRequested),
            1 => Just(Event::Published),
            1 => Just(Event::PublishFailed(failure("publish"))),
            1 => Just(Event::Discarded),
            1 => Just(Event::Expired(failure("expired"))),
        ]
    }

    proptest! {
        #[test]
        fn transitions_are_legal_and_ends_are_final(events in prop::collection::vec(any_event(), 0..200)) {
            let mut job = Lifecycle::new(tasks());
            let mut seen: Vec<Action> = Vec::new();
            let mut first_failure: Option<String> = None;
            for event in events {
                let before = job.state();
                let before_tasks: Vec<_> = tasks().into_iter().map(|task| job.task_state(task)).collect();
                let reaction = job.on(event);
                let after = job.state();
                prop_assert!(before == after || before.may_become(after), "{before:?} -> {after:?}");
                prop_assert!(!before.is_final() || (reaction.actions.is_empty() && reaction.changed.is_empty()));
                for (task, was) in tasks().into_iter().zip(before_tasks) {
                    let is_final = was.is_some_and(TaskState::is_final);
                    prop_assert!(!is_final || job.task_state(task) == was, "a final task state is final");
                }
                if let Some(first) = &first_failure {
                    prop_assert_eq!(job.failure().map(|failure| &failure.code), Some(first));
                }
                first_failure = job.failure().map(|failure| failure.code.clone());
                if reaction.actions.contains(&Action::Publish) {
                    prop_assert_eq!(job.count(TaskState::Finished), tasks().len());
                    prop_assert!(!seen.contains(&Action::CancelTasks));
                }
                seen.extend(reaction.actions);
            }
            for once in [Action::RequestSlots, Action::Deploy, Action::Start, Action::Publish, Action::CancelTasks,
                Action::Discard, Action::ReleaseSlots, Action::End] {
                prop_assert!(seen.iter().filter(|action| **action == once).count() <= 1, "{once:?} twice");
            }
            prop_assert_eq!(job.state().is_final(), seen.contains(&Action::End));
            prop_assert!(!job.state().is_final() || seen.contains(&Action::ReleaseSlots));
        }
    }
}
