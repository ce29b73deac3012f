//! Tests of the state machine of one job.

use proptest::prelude::*;
use weir_graph::config::RestartStrategy;

use super::*;

const TASKS: [(u32, u32); 4] = [(0, 0), (0, 1), (1, 0), (1, 1)];
const AT_ZERO: Moment = Moment { now: Duration::ZERO, draw: 0.5 };
const PAUSE: Duration = Duration::from_secs(3);

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
        let reaction = job.on(event, AT_ZERO);
        if !reaction.actions.is_empty() {
            lines.push(format!("{} {:?}", job.state().name(), reaction.actions));
        }
    }
    lines
}

fn reports(state: TaskState) -> Vec<Event> {
    tasks().into_iter().map(|task| report(task, state)).collect()
}

fn new_job(attempts: u32) -> Lifecycle {
    let strategy = match attempts {
        0 => RestartStrategy::None,
        attempts => RestartStrategy::FixedDelay { attempts, delay: PAUSE },
    };
    Lifecycle::new(Birth::New, Restarts::new(strategy))
}

fn to_deployed() -> [Event; 4] {
    [Event::Begun, Event::StateFound(tasks()), Event::Placed(placement()), Event::Republished]
}

fn running_job(attempts: u32) -> Lifecycle {
    let mut job = new_job(attempts);
    play(&mut job, to_deployed());
    play(&mut job, reports(TaskState::Initializing));
    play(&mut job, reports(TaskState::Running));
    assert_eq!(job.state(), JobState::Running);
    job
}

#[test]
fn job_walks_from_acceptance_to_finish() {
    let mut job = new_job(0);
    let mut lines = play(&mut job, to_deployed());
    lines.extend(play(&mut job, reports(TaskState::Initializing)));
    lines.extend(play(&mut job, reports(TaskState::Running)));
    lines.extend(play(&mut job, reports(TaskState::Finished)));
    lines.extend(play(&mut job, [Event::EndCommitted, Event::Published]));
    let expected = [
        "CREATED [Recover]",
        "CREATED [RequestSlots]",
        "CREATED [Republish]",
        "CREATED [Deploy]",
        "CREATED [Start]",
        "RUNNING [ReleaseSlots, CommitEnd]",
        "RUNNING [Publish]",
        "FINISHED [End]",
    ];
    assert_eq!(lines, expected);
}

#[test]
fn first_failure_is_kept_and_others_are_stopped() {
    let mut job = running_job(0);
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
fn failure_restarts_the_job_when_all_tasks_have_ended() {
    let mut job = running_job(1);
    // A task that has finished is deployed again all the same.
    play(&mut job, [report(tasks()[0], TaskState::Finished)]);
    let lost = Event::WorkerLost { worker: "w1".into(), failure: failure("lost") };
    assert_eq!(play(&mut job, [lost.clone()]), ["RESTARTING [CancelTasks]"]);
    assert_eq!(play(&mut job, [report(tasks()[2], TaskState::Canceled)]), ["RESTARTING [ReleaseSlots]"]);
    assert_eq!((job.stage(), job.pause()), (Stage::BackingOff, PAUSE));
    let mut lines = play(&mut job, [Event::Expired(failure("")), Event::StateFound(tasks())]);
    assert!(tasks().into_iter().all(|task| job.task_state(task) == Some(TaskState::Created)));
    lines.extend(play(&mut job, [Event::Placed(placement()), Event::Republished]));
    lines.extend(play(&mut job, reports(TaskState::Initializing)));
    let expected = ["[Recover]", "[RequestSlots]", "[Republish]", "[Deploy]", "[Start]"];
    assert_eq!(lines, expected.map(|actions| format!("RESTARTING {actions}")));
    play(&mut job, reports(TaskState::Running));
    assert_eq!((job.state(), job.restart_count()), (JobState::Running, 1));
    assert_eq!(job.restart_cause().map(|cause| cause.code.as_str()), Some("lost"));
    assert_eq!(play(&mut job, [lost]), ["FAILING [CancelTasks]"], "the strategy allowed one");
}

#[test]
fn what_the_user_must_mend_is_not_tried_again() {
    let mut job = running_job(9);
    let failure = Failure { domain: ErrorDomain::User.to_string(), ..failure("file-not-found") };
    let failed = Event::TaskChanged { task: tasks()[0], worker: "w0".into(), state: TaskState::Failed, failure };
    assert_eq!(play(&mut job, [failed]), ["FAILING [CancelTasks]"]);
}

#[test]
fn cancel_takes_the_place_of_a_restart() {
    let mut job = running_job(1);
    play(&mut job, [report(tasks()[0], TaskState::Failed), Event::CancelRequested]);
    let lines = play(&mut job, reports(TaskState::Canceled));
    assert_eq!(lines, ["CANCELLING [ReleaseSlots, Discard]"]);
    let mut job = running_job(1);
    play(&mut job, [report(tasks()[0], TaskState::Failed)]);
    play(&mut job, reports(TaskState::Canceled));
    assert_eq!(play(&mut job, [Event::CancelRequested]), ["CANCELLING [ReleaseSlots, Discard]"]);
}

#[test]
fn suspended_job_leaves_everything_to_the_next_coordinator() {
    let mut job = running_job(1);
    assert_eq!(play(&mut job, [Event::SuspendRequested]), ["SUSPENDED [CancelTasks]"]);
    assert_eq!(play(&mut job, reports(TaskState::Canceled)), ["SUSPENDED [ReleaseSlots, End]"]);
    let mut next = Lifecycle::new(Birth::Recovered, Restarts::new(RestartStrategy::None));
    assert_eq!(play(&mut next, [Event::Begun]), ["RESTARTING [Recover]"]);
    assert_eq!(play(&mut next, [Event::EndFound, Event::Published]), ["RUNNING [Publish]", "FINISHED [End]"]);
}

#[test]
fn redeployment_asks_no_strategy() {
    let mut job = running_job(0);
    assert_eq!(play(&mut job, [Event::RedeployRequested]), ["RESTARTING [CancelTasks]"]);
    play(&mut job, reports(TaskState::Canceled));
    assert_eq!((job.stage(), job.pause(), job.restart_count()), (Stage::BackingOff, Duration::ZERO, 0));
    let fewer = vec![tasks()[0]];
    play(&mut job, [Event::Expired(failure("")), Event::StateFound(fewer)]);
    assert_eq!(job.task_count(), 1);
}

#[test]
fn committed_end_is_published_again_and_never_discarded() {
    let mut job = running_job(1);
    play(&mut job, reports(TaskState::Finished));
    play(&mut job, [Event::EndCommitted, Event::PublishFailed(failure("sink-io"))]);
    assert_eq!((job.stage(), job.state()), (Stage::BackingOff, JobState::Restarting));
    let lines = play(&mut job, [Event::Expired(failure("")), Event::EndFound]);
    assert_eq!(lines, ["RESTARTING [Recover]", "RUNNING [Publish]"]);
    assert_eq!(play(&mut job, [Event::PublishFailed(failure("sink-io"))]), ["FAILED [End]"]);
}

#[test]
fn cancel_while_waiting_for_slots_ends_without_touching_workers() {
    let mut job = new_job(1);
    let lines = play(&mut job, [Event::Begun, Event::StateFound(tasks()), Event::CancelRequested, Event::Discarded]);
    assert_eq!(lines[1..], ["CREATED [RequestSlots]", "CANCELLING [ReleaseSlots, Discard]", "CANCELED [End]"]);
}

#[test]
fn failure_during_cancel_leaves_the_job_canceled() {
    let mut job = running_job(1);
    play(&mut job, [Event::CancelRequested]);
    play(&mut job, reports(TaskState::Failed));
    play(&mut job, [Event::Discarded]);
    assert_eq!(job.state(), JobState::Canceled);
    assert!(job.failure().is_none());
}

#[test]
fn loss_of_a_worker_with_finished_tasks_is_no_failure() {
    let mut job = running_job(0);
    let of_first = tasks().into_iter().filter(|task| task.subtask.0 == 0);
    play(&mut job, of_first.map(|task| report(task, TaskState::Finished)));
    let reaction = job.on(Event::WorkerLost { worker: "w0".into(), failure: failure("lost") }, AT_ZERO);
    assert!(!reaction.is_accepted);
    assert_eq!(job.state(), JobState::Running);
    job.on(Event::WorkerLost { worker: "w1".into(), failure: failure("lost") }, AT_ZERO);
    assert_eq!(job.state(), JobState::Failing);
}

#[test]
fn silent_workers_do_not_hold_up_the_end() {
    let mut job = running_job(0);
    let lines = play(&mut job, [Event::CancelRequested, Event::Expired(failure("")), Event::Expired(failure(""))]);
    assert_eq!(lines, ["CANCELLING [CancelTasks]", "CANCELLING [ReleaseSlots, Discard]", "CANCELED [End]"]);
}

#[test]
fn cancel_after_the_decision_to_publish_comes_too_late() {
    let mut job = running_job(0);
    play(&mut job, reports(TaskState::Finished));
    assert!(!job.on(Event::CancelRequested, AT_ZERO).is_accepted);
    play(&mut job, [Event::EndCommitted]);
    assert!(!job.on(Event::CancelRequested, AT_ZERO).is_accepted);
    assert_eq!(play(&mut job, [Event::Published]), ["FINISHED [End]"]);
}

#[test]
fn unordered_cancel_of_a_task_is_a_failure() {
    let mut job = running_job(0);
    play(&mut job, [report(tasks()[0], TaskState::Canceled)]);
    assert_eq!(job.state(), JobState::Failing);
}

#[test]
fn report_of_another_worker_is_refused() {
    let mut job = running_job(0);
    let stranger = Event::TaskChanged {
        task: tasks()[0],
        worker: "stranger".into(),
        state: TaskState::Failed,
        failure: failure("stranger"),
    };
    assert!(!job.on(stranger, AT_ZERO).is_accepted);
    assert_eq!(job.state(), JobState::Running);
}

#[test]
fn finish_that_overtakes_the_report_of_running_counts() {
    let mut job = new_job(0);
    play(&mut job, to_deployed());
    let mut initializing = reports(TaskState::Initializing);
    let last = initializing.pop().expect("four tasks");
    play(&mut job, initializing);
    let early = job.on(report(tasks()[0], TaskState::Finished), AT_ZERO);
    assert!(!early.is_accepted, "nothing finishes before the start");
    play(&mut job, [last]);
    let lines = play(&mut job, reports(TaskState::Finished));
    assert_eq!(lines, ["RUNNING [ReleaseSlots, CommitEnd]"]);
    assert!(!job.on(report(tasks()[0], TaskState::Running), AT_ZERO).is_accepted);
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
        4 => Just(Event::StateFound(tasks())),
        1 => Just(Event::EndFound),
        1 => Just(Event::StateLost(failure("lost"))),
        4 => Just(Event::Placed(placement())),
        4 => Just(Event::Republished),
        40 => (task, state).prop_map(|(task, state)| report(task, state)),
        1 => (0..2u32).prop_map(|n| Event::WorkerLost {
            worker: WorkerId(format!("w{n}")),
            failure: failure("lost"),
        }),
        1 => Just(Event::Broken(failure("broken"))),
        1 => Just(Event::CancelRequested),
        1 => Just(Event::SuspendRequested),
        1 => Just(Event::RedeployRequested),
        2 => Just(Event::EndCommitted),
        1 => Just(Event::Published),
        1 => Just(Event::PublishFailed(failure("publish"))),
        1 => Just(Event::Discarded),
        4 => Just(Event::Expired(failure("expired"))),
    ]
}

proptest! {
    #[test]
    fn transitions_are_legal_and_ends_are_final(events in prop::collection::vec(any_event(), 0..300), attempts in 0..4u32) {
        let mut job = new_job(attempts);
        let mut seen: Vec<Action> = Vec::new();
        let mut first_failure: Option<String> = None;
        for event in events {
            let before = job.state();
            let (attempt_before, stage_before) = (seen.len(), job.stage());
            let before_tasks: Vec<_> = tasks().into_iter().map(|task| job.task_state(task)).collect();
            let is_new_attempt = matches!(&event, Event::StateFound(_)) && stage_before == Stage::Recovering;
            let reaction = job.on(event, AT_ZERO);
            let after = job.state();
            prop_assert!(before == after || before.may_become(after), "{before:?} -> {after:?}");
            prop_assert!(stage_before != Stage::Over || (reaction.actions.is_empty() && reaction.changed.is_empty()));
            for (task, was) in tasks().into_iter().zip(before_tasks) {
                let is_final = was.is_some_and(TaskState::is_final);
                prop_assert!(!is_final || is_new_attempt || job.task_state(task) == was, "a final task state is final");
                prop_assert!(!is_new_attempt || was.is_none_or(TaskState::is_final), "the old attempt has ended");
            }
            if let Some(first) = &first_failure {
                prop_assert_eq!(job.failure().map(|failure| &failure.code), Some(first));
            }
            first_failure = job.failure().map(|failure| failure.code.clone());
            if reaction.actions.contains(&Action::CommitEnd) {
                prop_assert_eq!(job.count(TaskState::Finished), tasks().len());
            }
            if reaction.actions.contains(&Action::Publish) {
                prop_assert!(matches!(stage_before, Stage::Committing | Stage::Recovering));
            }
            seen.extend(reaction.actions);
            prop_assert!(seen.len() - attempt_before <= 3);
        }
        // Within an attempt (from one Recover to the next) everything is ordered once.
        for attempt in seen.split(|action| *action == Action::Recover) {
            for once in [Action::RequestSlots, Action::Republish, Action::Deploy, Action::Start, Action::CommitEnd,
                Action::Publish, Action::CancelTasks, Action::Discard, Action::End] {
                prop_assert!(attempt.iter().filter(|action| **action == once).count() <= 1, "{once:?} twice");
            }
        }
        prop_assert!(job.restart_count() <= attempts);
        prop_assert_eq!(job.stage() == Stage::Over, seen.contains(&Action::End));
    }
}
