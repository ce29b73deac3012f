//! Checkpoints and restarts as clients and workers see them, over loopback, with workers that only speak the protocol.

mod support;

use std::path::{Path, PathBuf};
use std::time::Duration;

use support::*;
use weir_checkpoint::{Manifest, OperatorTaskState, SubtaskState, TaskState as KeptState};
use weir_core::{SubtaskIndex, Value};
use weir_proto::v1::coordinator_message::Message as Order;
use weir_proto::v1::worker_message::Message as Report;
use weir_proto::v1::{self, CheckpointStatus, JobState, TaskState};
use weir_testkit::clock::FakeClock;

fn nothing(_: &FakeClock) {}

fn a_little(clock: &FakeClock) {
    clock.advance(Duration::from_millis(1));
}

/// Asks the coordinator something again and again until something is so on the disk.
async fn until_on_disk(served: &mut Served, is_so: impl Fn() -> bool) {
    for _ in 0..100_000 {
        if is_so() {
            return;
        }
        served.list().await;
    }
    panic!("it does not become so");
}

/// Time until the next checkpoint of a job's own.
fn interval(served: &Served) {
    served.clock.advance(Duration::from_secs(10));
}

/// The file in which a coordinator keeps a job.
fn job_file(dir: &Path, job: &str) -> PathBuf {
    dir.join("jobs").join(format!("{job}.job"))
}

fn says(path: &Path, text: &str) -> bool {
    let bytes = std::fs::read(path).unwrap_or_default();
    bytes.windows(text.len()).any(|window| window == text.as_bytes())
}

/// All manifests below a directory.
fn manifests(dir: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    let mut open = vec![dir.to_owned()];
    while let Some(next) = open.pop() {
        for entry in std::fs::read_dir(&next).into_iter().flatten() {
            let path = entry.expect("readable").path();
            if path.is_dir() {
                open.push(path);
            } else if path.file_name().is_some_and(|name| name == "manifest") {
                found.push(path);
            }
        }
    }
    found.sort();
    found
}

fn statuses(details: &v1::JobDetails) -> Vec<(u64, CheckpointStatus, String)> {
    let latest = &details.checkpoints.as_ref().expect("checkpoints").latest;
    latest.iter().map(|one| (one.checkpoint_id, one.status(), one.failure_code.clone())).collect()
}

fn has_checkpoint(id: u64, status: CheckpointStatus) -> impl Fn(&v1::JobDetails) -> bool {
    move |details| statuses(details).iter().any(|(known, is, _)| (*known, *is) == (id, status))
}

/// Positions of the splits that a deployment hands to its tasks, by index.
fn positions(deploy: &v1::Deploy) -> Vec<(u32, Option<i64>)> {
    let position = |split: &v1::Split| {
        let value = split.position.clone().map(|value| weir_proto::convert::value_from_proto(value).expect("readable"));
        match value {
            Some(weir_core::Value::Integer(position)) => Some(position),
            _ => None,
        }
    };
    let splits = deploy.splits.iter().flat_map(|assignment| &assignment.splits);
    let mut all: Vec<_> = splits.map(|split| (split.index, position(split))).collect();
    all.sort_unstable();
    all
}

#[tokio::test]
async fn checkpoint_is_complete_when_all_have_answered_and_only_then_published() {
    let dir = tempfile::tempdir().expect("a directory");
    let mut served = Served::start_mortal(dir.path()).await;
    let mut workers = [FakeWorker::attach(&served, "a", 1).await, FakeWorker::attach(&served, "b", 1).await];
    served.until_workers(2).await;
    let id = served.submit(job(2, 3)).await;
    let deploys = [workers[0].deploy().await, workers[1].deploy().await];
    let setup = deploys[0].checkpoints.clone().expect("a store");
    assert!(setup.store.starts_with("file:///") && setup.store.ends_with("/checkpoints"), "{}", setup.store);
    assert_eq!((deploys[0].restores.len(), setup.incarnation.len()), (0, 32));
    for (worker, deploy) in workers.iter_mut().zip(&deploys) {
        worker.report_all(deploy, TaskState::Initializing).await;
    }
    for (worker, deploy) in workers.iter_mut().zip(&deploys) {
        worker.start().await;
        worker.report_all(deploy, TaskState::Running).await;
    }
    served.until_state(&id, JobState::Running, nothing).await;
    interval(&served);
    assert_eq!((workers[0].trigger().await.checkpoint_id, workers[1].trigger().await.checkpoint_id), (1, 1));
    workers[0].acknowledge(&deploys[0], 1).await;
    // Of another checkpoint, another attempt, another worker's task: none of them counts.
    workers[1].acknowledge(&deploys[1], 2).await;
    workers[0].acknowledge(&deploys[1], 1).await;
    served.until(&id, has_checkpoint(1, CheckpointStatus::InProgress), nothing).await;
    assert_eq!(manifests(dir.path()), Vec::<PathBuf>::new());
    workers[1].acknowledge(&deploys[1], 1).await;
    let publish = workers[0].publish().await;
    assert!(says(&job_file(dir.path(), &id), "chk-1/manifest"), "the pointer is durable before anything is published");
    assert_eq!((publish.checkpoint_id, parts(&publish)), (1, vec!["0-1".to_owned(), "1-1".to_owned()]));
    workers[0].answer(&publish, None).await;
    assert_eq!((workers[0].completed().await, workers[1].completed().await), (1, 1));
    let details = served.details(&id).await;
    let overview = details.checkpoints.clone().expect("checkpoints");
    let last = &overview.latest[0];
    assert_eq!((overview.completed_count, last.bytes, last.new_bytes, last.freeze_us), (1, 20, 10, 7));
    assert!(last.path.ends_with("/chk-1"), "{}", last.path);
    let manifest = std::fs::read(&manifests(dir.path())[0]).expect("a manifest");
    let manifest = Manifest::decode(&manifest, "chk-1").expect("whole");
    let splits: usize = manifest.operators[0].subtasks.iter().map(|subtask| subtask.splits.len()).sum();
    assert_eq!((manifest.checkpoint.0, splits), (1, 3));
    served.ended().await;
}

/// Carries a11 of the failure list: the commit comes before the publication, never after.
#[tokio::test]
async fn a11_nothing_is_published_when_the_commit_cannot_be_written_down() {
    let dir = tempfile::tempdir().expect("a directory");
    let mut served = Served::start_mortal(dir.path()).await;
    let mut worker = FakeWorker::attach(&served, "a", 1).await;
    let id = served.submit(job(1, 1)).await;
    let deploy = worker.run_alone().await;
    served.until_state(&id, JobState::Running, nothing).await;
    let obstacle = dir.path().join("jobs").join(format!("{id}.tmp"));
    std::fs::create_dir(&obstacle).expect("a directory where the file beside is written");
    interval(&served);
    assert_eq!(worker.trigger().await.checkpoint_id, 1);
    worker.acknowledge(&deploy, 1).await;
    assert_eq!(worker.aborted().await, 1, "the very next order: nothing was published");
    let details = served.details(&id).await;
    assert_eq!(statuses(&details), [(1, CheckpointStatus::Failed, "checkpoint-metadata".to_owned())]);
    std::fs::remove_dir(&obstacle).expect("remove");
    served.clock.advance(Duration::from_secs(1));
    interval(&served);
    assert_eq!(worker.checkpoint(&deploy).await, 2, "the next one commits, with the output of both");
    assert!(!says(&job_file(dir.path(), &id), "chk-1/manifest"));
    served.ended().await;
}

#[tokio::test]
async fn declined_and_late_checkpoints_cost_nothing_else() {
    let dir = tempfile::tempdir().expect("a directory");
    let mut served = Served::start_mortal(dir.path()).await;
    let mut worker = FakeWorker::attach(&served, "a", 1).await;
    let id = served.submit(job_with(1, 1, &[("execution.checkpointing.timeout", "2 s")])).await;
    let deploy = worker.run_alone().await;
    served.until_state(&id, JobState::Running, nothing).await;
    interval(&served);
    let trigger = worker.trigger().await;
    let declined = v1::CheckpointDeclined {
        token: trigger.token.clone(),
        task: Some(deploy.tasks[0]),
        checkpoint_id: trigger.checkpoint_id,
        failure: Some(failure("checkpoint-store-full", "external")),
    };
    worker.send(Report::CheckpointDeclined(declined)).await;
    assert_eq!(worker.aborted().await, 1);
    interval(&served);
    assert_eq!(worker.trigger().await.checkpoint_id, 2);
    served.until(&id, has_checkpoint(2, CheckpointStatus::Failed), a_little).await;
    assert_eq!(worker.aborted().await, 2);
    // An answer that comes too late is no answer.
    worker.acknowledge(&deploy, 2).await;
    let details = served.details(&id).await;
    let known = statuses(&details);
    assert_eq!((known[0].2.as_str(), known[1].2.as_str()), ("checkpoint-timeout", "checkpoint-store-full"));
    let latest = &details.checkpoints.as_ref().expect("checkpoints").latest;
    assert!(latest[0].failure.contains("no answer from subtask 0 of 'in -> out'"), "{}", latest[0].failure);
    assert_eq!((details.restart_count, served.state(&id).await), (0, JobState::Running));
    interval(&served);
    assert_eq!(worker.checkpoint(&deploy).await, 3);
    served.ended().await;
}

#[tokio::test]
async fn too_many_failed_checkpoints_restart_the_job_when_it_asks_for_that() {
    let dir = tempfile::tempdir().expect("a directory");
    let mut served = Served::start_mortal(dir.path()).await;
    let mut worker = FakeWorker::attach(&served, "a", 1).await;
    let config = [("execution.checkpointing.tolerable-failed-checkpoints", "0"), NO_RESTART];
    let id = served.submit(job_with(1, 1, &config)).await;
    let deploy = worker.run_alone().await;
    served.until_state(&id, JobState::Running, nothing).await;
    interval(&served);
    let trigger = worker.trigger().await;
    let mut wrong = acknowledgement(&deploy, &deploy.tasks[0], trigger.checkpoint_id);
    wrong.state.pop();
    worker.send(Report::CheckpointAcknowledged(wrong)).await;
    assert_eq!(worker.aborted().await, 1);
    worker.cancel().await;
    worker.report_all(&deploy, TaskState::Canceled).await;
    served.until_state(&id, JobState::Failed, nothing).await;
    assert_eq!(served.details(&id).await.failure.expect("a failure").code, "checkpoint-failures");
    served.ended().await;
}

#[tokio::test]
async fn lost_worker_restarts_the_job_from_its_last_checkpoint() {
    let dir = tempfile::tempdir().expect("a directory");
    let mut served = Served::start_mortal(dir.path()).await;
    let mut worker = FakeWorker::attach(&served, "a", 1).await;
    let id = served.submit(job(1, 2)).await;
    let deploy = worker.run_alone().await;
    assert_eq!(positions(&deploy), [(0, None), (1, None)]);
    served.until_state(&id, JobState::Running, nothing).await;
    interval(&served);
    // Committed, and the worker dies before it has published.
    let trigger = worker.trigger().await;
    worker.acknowledge(&deploy, trigger.checkpoint_id).await;
    worker.publish().await;
    drop(worker);
    served.until_state(&id, JobState::Restarting, a_little).await;
    let mut next = FakeWorker::attach(&served, "b", 1).await;
    let publish = tokio::select! {
        publish = next.publish() => publish,
        _ = served.until(&id, |_| false, a_little) => panic!("nothing is published"),
    };
    assert_eq!((publish.checkpoint_id, parts(&publish)), (1, vec!["0-1".to_owned()]), "before anything runs");
    assert_eq!(publish.token.as_ref().map(|token| token.attempt), Some(2));
    next.answer(&publish, None).await;
    let again = next.run_alone().await;
    assert_eq!(again.token.as_ref().map(|token| token.attempt), Some(2));
    assert_eq!(positions(&again), [(0, Some(1)), (1, Some(1))]);
    let restore = &again.restores[0];
    assert_eq!((restore.checkpoint_id, restore.store.as_str()), (1, ""));
    let state = KeptState::decode(&restore.state, "restore").expect("whole");
    assert_eq!(state.operators[0].state.counters["records_out"], 1);
    assert!(state.operators.iter().all(|operator| operator.state.committables.is_empty()));
    served.until_state(&id, JobState::Running, nothing).await;
    let details = served.details(&id).await;
    assert_eq!((details.restart_count, details.restored_checkpoint_id), (1, 1));
    assert_eq!(details.last_restart_cause.expect("a cause").code, "worker-lost");
    assert!(details.failure.is_none());
    interval(&served);
    assert_eq!(next.checkpoint(&again).await, 2);
    served.ended().await;
}

/// Objects that an attempt wrote for a checkpoint that nobody completed belong to nobody.
#[tokio::test]
async fn left_over_objects_of_an_earlier_attempt_are_deleted_when_they_are_old() {
    let dir = tempfile::tempdir().expect("a directory");
    let mut served = Served::start_mortal(dir.path()).await;
    let mut worker = FakeWorker::attach(&served, "a", 1).await;
    let id = served.submit(job(1, 1)).await;
    let deploy = worker.run_alone().await;
    served.until_state(&id, JobState::Running, nothing).await;
    interval(&served);
    worker.checkpoint(&deploy).await;
    let found = manifests(dir.path());
    let token = deploy.token.clone().expect("a token");
    let data = found[0].parent().and_then(Path::parent).expect("<incarnation>/chk-1/manifest").join("data");
    let directory = data.join(format!("{}-{}", token.term, token.attempt));
    std::fs::create_dir_all(&directory).expect("a directory");
    let orphan = |last: u32| directory.join(format!("00000000-0000-4000-8000-00000000000{last}"));
    for last in 1..=2 {
        std::fs::write(orphan(last), "left over").expect("written");
    }
    let file = std::fs::File::options().write(true).open(orphan(1)).expect("it is there");
    file.set_modified(std::time::UNIX_EPOCH + Duration::from_secs(86_400)).expect("made old");
    drop(worker);
    served.until_state(&id, JobState::Restarting, a_little).await;
    let mut next = FakeWorker::attach(&served, "b", 1).await;
    let again = next.run_alone().await;
    served.until_state(&id, JobState::Running, nothing).await;
    assert!(orphan(1).exists(), "no checkpoint yet");
    interval(&served);
    next.checkpoint(&again).await;
    until_on_disk(&mut served, || !orphan(1).exists()).await;
    assert!(orphan(2).exists(), "it is young");
    let details =
        served.until(&id, |details| details.checkpoints.as_ref().is_some_and(|all| all.swept_count > 0), nothing).await;
    assert_eq!(details.checkpoints.expect("checkpoints").swept_count, 1);
    served.ended().await;
}

/// Carries a12 of the failure list: what was committed is published, whoever dies in between.
#[tokio::test]
async fn a12_killed_coordinator_goes_on_where_it_committed() {
    let dir = tempfile::tempdir().expect("a directory");
    let mut served = Served::start_mortal(dir.path()).await;
    let mut worker = FakeWorker::attach(&served, "a", 1).await;
    let id = served.submit(job(1, 2)).await;
    let deploy = worker.run_alone().await;
    served.until_state(&id, JobState::Running, nothing).await;
    interval(&served);
    worker.trigger().await;
    worker.acknowledge(&deploy, 1).await;
    worker.publish().await;
    served.kill();
    let mut served = Served::start_mortal(dir.path()).await;
    served.until_state(&id, JobState::Restarting, nothing).await;
    let mut worker = FakeWorker::attach(&served, "b", 1).await;
    let publish = worker.publish().await;
    assert_eq!(parts(&publish), ["0-1"]);
    assert_eq!(publish.token.as_ref().map(|token| (token.term, token.attempt)), Some((2, 2)));
    worker.answer(&publish, None).await;
    let again = worker.run_alone().await;
    assert_eq!((positions(&again), again.restores[0].checkpoint_id), (vec![(0, Some(1)), (1, Some(1))], 1));
    served.until_state(&id, JobState::Running, nothing).await;
    interval(&served);
    let next = worker.checkpoint(&again).await;
    assert!(next > 1, "no id is given twice");
    assert_eq!(served.details(&id).await.checkpoints.expect("checkpoints").completed_count, 2);
    served.kill();
    let served = Served::start_mortal(dir.path()).await;
    let mut worker = FakeWorker::attach(&served, "c", 1).await;
    let last = match worker.next().await {
        Some(Order::Deploy(deploy)) => deploy,
        // The confirmation was on its way to the disk: publishing again changes nothing.
        Some(Order::Publish(publish)) => {
            assert_eq!(publish.checkpoint_id, next);
            worker.answer(&publish, None).await;
            worker.deploy().await
        }
        other => panic!("came {other:?}"),
    };
    assert_eq!(positions(&last), [(0, Some(next as i64)), (1, Some(next as i64))]);
    served.kill();
}

/// Carries a8 of the failure list: the last output of a bounded job is published, though everything dies at the end.
#[tokio::test]
async fn a8_end_that_was_committed_is_published_by_the_next_coordinator() {
    let dir = tempfile::tempdir().expect("a directory");
    let mut served = Served::start_mortal(dir.path()).await;
    let mut worker = FakeWorker::attach(&served, "a", 1).await;
    let id = served.submit(job(1, 1)).await;
    let deploy = worker.run_alone().await;
    worker.report(finished(&deploy, &deploy.tasks[0], 5)).await;
    let publish = worker.publish().await;
    assert_eq!(publish.checkpoint_id, 0);
    served.kill();
    let mut served = Served::start_mortal(dir.path()).await;
    let mut worker = FakeWorker::attach(&served, "b", 1).await;
    let again = tokio::select! {
        again = worker.publish() => again,
        _ = served.until(&id, |_| false, a_little) => panic!("nothing is published"),
    };
    assert_eq!((again.checkpoint_id, &again.committables), (0, &publish.committables));
    worker.answer(&again, None).await;
    served.until_state(&id, JobState::Finished, nothing).await;
    until_on_disk(&mut served, || !job_file(dir.path(), &id).exists()).await;
    served.ended().await;
}

#[tokio::test]
async fn finished_task_counts_for_all_later_checkpoints_and_is_deployed_again_after_a_failure() {
    let dir = tempfile::tempdir().expect("a directory");
    let mut served = Served::start_mortal(dir.path()).await;
    let mut worker = FakeWorker::attach(&served, "a", 2).await;
    let id = served.submit(job(2, 2)).await;
    let deploy = worker.run_alone().await;
    served.until_state(&id, JobState::Running, nothing).await;
    let mut state = kept(&deploy, &deploy.tasks[0], 0, &["end"]);
    state.operators[0].state.splits[0].is_finished = true;
    let report = v1::TaskStateChanged {
        final_state: state.encode().expect("right").to_vec(),
        ..change(&deploy, &deploy.tasks[0], TaskState::Finished)
    };
    worker.report(report).await;
    for checkpoint in 1..=2 {
        interval(&served);
        assert_eq!(worker.trigger().await.checkpoint_id, checkpoint);
        let answer = acknowledgement(&deploy, &deploy.tasks[1], checkpoint);
        worker.send(Report::CheckpointAcknowledged(answer)).await;
        let publish = worker.publish().await;
        // What a finished task leaves is published with the first checkpoint behind its end, and not again.
        let own = format!("1-{checkpoint}");
        assert_eq!(parts(&publish), if checkpoint == 1 { vec!["end".to_owned(), own] } else { vec![own] });
        worker.answer(&publish, None).await;
        worker.completed().await;
    }
    let failed = v1::TaskStateChanged {
        failure: Some(failure("sink-io", "external")),
        ..change(&deploy, &deploy.tasks[1], TaskState::Failed)
    };
    worker.report(failed).await;
    worker.cancel().await;
    served.until_state(&id, JobState::Restarting, nothing).await;
    let again = tokio::select! {
        again = worker.deploy() => again,
        _ = served.until(&id, |_| false, a_little) => panic!("nothing is deployed"),
    };
    assert_eq!(again.tasks.len(), 2, "finished ones too");
    assert_eq!(positions(&again), [(1, Some(2))], "a split that was read to its end is nobody's");
    assert_eq!(again.splits[0].split_count, 2);
    served.kill();
}

#[tokio::test]
async fn task_that_could_not_leave_its_state_costs_the_checkpoints_not_the_job() {
    let dir = tempfile::tempdir().expect("a directory");
    let mut served = Served::start_mortal(dir.path()).await;
    let mut worker = FakeWorker::attach(&served, "a", 2).await;
    let id = served.submit(job(2, 2)).await;
    let deploy = worker.run_alone().await;
    served.until_state(&id, JobState::Running, nothing).await;
    worker.report(finished(&deploy, &deploy.tasks[0], 1)).await;
    served.until(&id, |details| details.reports.iter().any(|sink| sink.totals.get("rows") == Some(&1)), nothing).await;
    interval(&served);
    assert_eq!(worker.aborted().await, 1, "nobody is asked for his part");
    assert_eq!(statuses(&served.details(&id).await)[0].2, "checkpoint-invalid");
    worker.report(finished(&deploy, &deploy.tasks[1], 1)).await;
    let publish = worker.publish().await;
    assert_eq!((publish.checkpoint_id, publish.committables.len()), (0, 2));
    worker.answer(&publish, None).await;
    served.until_state(&id, JobState::Finished, nothing).await;
    served.ended().await;
}

/// Carries b1 and b3 of the failure list: only what no retained checkpoint needs is deleted, and only by the coordinator.
#[tokio::test]
async fn b1_retention_keeps_what_is_retained_and_a_finished_job_keeps_nothing() {
    let dir = tempfile::tempdir().expect("a directory");
    let mut served = Served::start_mortal(dir.path()).await;
    let mut worker = FakeWorker::attach(&served, "a", 1).await;
    let id = served.submit(job_with(1, 1, &[("execution.checkpointing.num-retained", "2")])).await;
    let deploy = worker.run_alone().await;
    served.until_state(&id, JobState::Running, nothing).await;
    for _ in 0..4 {
        interval(&served);
        worker.checkpoint(&deploy).await;
    }
    let ends_with = |names: &[&str]| {
        let found = manifests(dir.path());
        found.len() == names.len() && found.iter().zip(names).all(|(path, name)| path.ends_with(name))
    };
    until_on_disk(&mut served, || ends_with(&["chk-3/manifest", "chk-4/manifest"])).await;
    worker.report(finished(&deploy, &deploy.tasks[0], 1)).await;
    let publish = worker.publish().await;
    worker.answer(&publish, None).await;
    served.until_state(&id, JobState::Finished, nothing).await;
    until_on_disk(&mut served, || manifests(dir.path()).is_empty()).await;
    served.ended().await;
}

/// Carries b6 of the failure list: an unreadable newest checkpoint is shown, never skipped for an older one.
#[tokio::test]
async fn b6_damaged_checkpoint_fails_the_job_loudly() {
    let dir = tempfile::tempdir().expect("a directory");
    let mut served = Served::start_mortal(dir.path()).await;
    let mut worker = FakeWorker::attach(&served, "a", 1).await;
    let id = served.submit(job_with(1, 1, &[("execution.checkpointing.num-retained", "2")])).await;
    let deploy = worker.run_alone().await;
    served.until_state(&id, JobState::Running, nothing).await;
    for _ in 0..2 {
        interval(&served);
        worker.checkpoint(&deploy).await;
    }
    served.kill();
    let newest = manifests(dir.path()).pop().expect("two manifests");
    let mut bytes = std::fs::read(&newest).expect("read");
    let last = bytes.len() - 1;
    bytes[last] ^= 1;
    std::fs::write(&newest, bytes).expect("damage");
    let mut served = Served::start_mortal(dir.path()).await;
    served.until_state(&id, JobState::Failed, nothing).await;
    let failure = served.details(&id).await.failure.expect("a failure");
    assert_eq!(failure.code, "checkpoint-checksum");
    assert!(failure.chain[0].contains("chk-2/manifest"), "{:?}", failure.chain);
    assert_eq!(manifests(dir.path()).len(), 2, "a failed job keeps its checkpoints");
    served.ended().await;
}

#[tokio::test]
async fn shutdown_suspends_jobs_and_the_next_start_goes_on() {
    let dir = tempfile::tempdir().expect("a directory");
    let mut served = Served::start_mortal(dir.path()).await;
    let mut worker = FakeWorker::attach(&served, "a", 1).await;
    let id = served.submit(job(1, 1)).await;
    let deploy = worker.run_alone().await;
    served.until_state(&id, JobState::Running, nothing).await;
    interval(&served);
    worker.checkpoint(&deploy).await;
    served.begin_shutdown();
    worker.cancel().await;
    worker.report_all(&deploy, TaskState::Canceled).await;
    served.ended().await;
    let mut again = Served::start_mortal(dir.path()).await;
    again.until_state(&id, JobState::Restarting, nothing).await;
    let mut worker = FakeWorker::attach(&again, "b", 1).await;
    let deploy = worker.run_alone().await;
    assert_eq!(positions(&deploy), [(0, Some(1))]);
    again.until_state(&id, JobState::Running, nothing).await;
    let orders = worker;
    drop(orders);
    again.kill();
}

#[tokio::test]
async fn restart_waits_for_the_pause_of_its_strategy() {
    let dir = tempfile::tempdir().expect("a directory");
    let mut served = Served::start_mortal(dir.path()).await;
    let mut worker = FakeWorker::attach(&served, "a", 1).await;
    let config = [("restart-strategy.type", "fixed-delay"), ("restart-strategy.fixed-delay.delay", "1 h")];
    let id = served.submit(job_with(1, 1, &config)).await;
    let deploy = worker.run_alone().await;
    let failed = |deploy: &v1::Deploy| v1::TaskStateChanged {
        failure: Some(failure("exchange-lost", "external")),
        ..change(deploy, &deploy.tasks[0], TaskState::Failed)
    };
    worker.report(failed(&deploy)).await;
    worker.cancel().await;
    served.until_state(&id, JobState::Restarting, nothing).await;
    let beat = |sequence| Report::Heartbeat(v1::Heartbeat { sequence, tasks: Vec::new() });
    for sequence in 0..2 {
        served.clock.advance(Duration::from_secs(1));
        worker.send(beat(sequence)).await;
        assert_eq!(served.state(&id).await, JobState::Restarting);
    }
    served.clock.advance(Duration::from_secs(3600));
    let again = worker.deploy().await;
    assert_eq!(again.restores, [], "no checkpoint was taken: it starts afresh");
    worker.report(failed(&again)).await;
    let order = worker.next().await;
    assert!(matches!(order, Some(Order::Cancel(_))), "{order:?}");
    served.until_state(&id, JobState::Failed, nothing).await;
    served.ended().await;
}

#[tokio::test]
async fn savepoint_is_the_users_and_a_new_job_goes_on_from_it() {
    let dir = tempfile::tempdir().expect("a directory");
    let target = tempfile::tempdir().expect("a directory for savepoints");
    let mut served = Served::start_mortal(dir.path()).await;
    let mut worker = FakeWorker::attach(&served, "a", 2).await;
    let id = served.submit(job(1, 2)).await;
    let take = |directory: &Path| v1::TakeCheckpointRequest {
        job_id: id.clone(),
        savepoint: true,
        directory: directory.display().to_string(),
    };
    let refused = served.client.take_checkpoint(take(target.path())).await.expect_err("it does not run yet");
    assert!(refused.message().contains("RUNNING"), "{}", refused.message());
    let deploy = worker.run_alone().await;
    served.until_state(&id, JobState::Running, nothing).await;
    let unnamed = served.client.take_checkpoint(take(Path::new(""))).await.expect_err("no directory");
    assert!(unnamed.message().contains("savepoint-dir"), "{}", unnamed.message());
    let mut client = served.client.clone();
    let request = take(target.path());
    let taking = tokio::spawn(async move { client.take_checkpoint(request).await });
    let trigger = worker.trigger().await;
    let name = trigger.savepoint_directory.rsplit('/').next().expect("a name").to_owned();
    assert!(name.starts_with(&format!("savepoint-{}-", &id[..6])) && name.len() == 29, "{name}");
    worker.acknowledge(&deploy, trigger.checkpoint_id).await;
    let taken = taking.await.expect("no panic").expect("taken").into_inner();
    assert_eq!((taken.checkpoint_id, &taken.path), (1, &trigger.savepoint_directory));
    assert_eq!(manifests(target.path()).len(), 1);
    // It commits nothing of the job's own: the output travels with the next checkpoint.
    interval(&served);
    assert_eq!(worker.checkpoint(&deploy).await, 2);
    // Another job, at another parallelism, from the savepoint: its output first, then its places.
    let request = v1::SubmitJobRequest {
        job: Some(job(1, 2)),
        restore_path: target.path().join(&name).display().to_string(),
        allow_non_restored_state: false,
    };
    let answer = served.client.submit_job(request.clone()).await.expect("an answer").into_inner();
    assert_eq!(answer.problems, []);
    let publish = worker.publish().await;
    assert_eq!((publish.checkpoint_id, parts(&publish)), (1, vec!["0-1".to_owned()]));
    worker.answer(&publish, None).await;
    let restored = worker.deploy().await;
    assert_eq!(positions(&restored), [(0, Some(1)), (1, Some(1))]);
    assert_eq!(restored.restores[0].store, taken.path);
    let incarnation = |deploy: &v1::Deploy| deploy.checkpoints.clone().expect("a store").incarnation;
    assert_ne!(incarnation(&restored), incarnation(&deploy));
    // A job that does not fit, and a path that leads nowhere, are refused with reasons.
    let mut other = job(1, 2);
    other.operators[0].uid = "other".to_owned();
    other.operators[1].inputs = vec!["other".to_owned()];
    let submit = v1::SubmitJobRequest { job: Some(other), ..request.clone() };
    let problems = served.client.submit_job(submit.clone()).await.expect("an answer").into_inner().problems;
    assert_eq!(problems.iter().map(|problem| problem.operator.as_str()).collect::<Vec<_>>(), ["in"]);
    let nowhere = v1::SubmitJobRequest { restore_path: "/nowhere".to_owned(), ..request };
    let problems = served.client.submit_job(nowhere).await.expect("an answer").into_inner().problems;
    assert!(problems[0].reason.contains("[checkpoint-not-found]"), "{}", problems[0].reason);
    served.kill();
}

/// `in` -> `times` -> `firsts` (first_by_key) -> `out`: the smallest job with state of rows.
fn keyed_job(key: &str) -> v1::JobGraph {
    let settings = |fields: &[(&str, &str)]| {
        let fields = fields.iter().map(|(name, text)| ((*name).to_owned(), Value::from(*text))).collect();
        Some(weir_proto::convert::map_to_struct(&fields))
    };
    let operator = |uid: &str, kind: &str, input: &str, fields: &[(&str, &str)]| v1::Operator {
        uid: uid.to_owned(),
        kind: kind.to_owned(),
        inputs: vec![input.to_owned()],
        settings: settings(fields),
        ..v1::Operator::default()
    };
    let mut job = job(1, 2);
    let time = [("column", "t"), ("time", "from_epoch_millis(n)")];
    job.operators.insert(1, operator("times", "watermark", "in", &time));
    job.operators.insert(2, operator("firsts", "first_by_key", "times", &[("key", key)]));
    job.operators[3].inputs = vec!["firsts".to_owned()];
    job
}

#[tokio::test]
async fn state_that_a_changed_job_cannot_take_over_is_refused_at_submission() {
    let dir = tempfile::tempdir().expect("a directory");
    let mut served = Served::start_mortal(dir.path()).await;
    let mut worker = FakeWorker::attach(&served, "a", 2).await;
    let id = served.submit(keyed_job("n")).await;
    let deploy = worker.run_alone().await;
    served.until_state(&id, JobState::Running, nothing).await;
    let mut client = served.client.clone();
    let request = v1::TakeCheckpointRequest {
        job_id: id.clone(),
        savepoint: true,
        directory: dir.path().join("savepoints").display().to_string(),
    };
    let taking = tokio::spawn(async move { client.take_checkpoint(request).await });
    let trigger = worker.trigger().await;
    for task in &deploy.tasks {
        let mut state = kept(&deploy, task, trigger.checkpoint_id, &[]);
        for uid in ["times", "firsts"] {
            let (uid, subtask) = (uid.into(), SubtaskIndex(task.subtask_index));
            state.operators.push(OperatorTaskState { uid, state: SubtaskState::new(subtask) });
        }
        let acknowledged = v1::CheckpointAcknowledged {
            state: state.encode().expect("right").to_vec(),
            ..acknowledgement(&deploy, task, trigger.checkpoint_id)
        };
        worker.send(Report::CheckpointAcknowledged(acknowledged)).await;
    }
    let path = taking.await.expect("no panic").expect("taken").into_inner().path;
    let submit = |job: v1::JobGraph| v1::SubmitJobRequest {
        job: Some(job),
        restore_path: path.clone(),
        allow_non_restored_state: false,
    };
    let refused = served.client.submit_job(submit(keyed_job("t"))).await.expect("an answer").into_inner();
    let found: Vec<_> =
        refused.problems.iter().map(|problem| (problem.operator.as_str(), problem.field.as_str())).collect();
    assert_eq!(found, [("firsts", "key")]);
    assert!(refused.problems[0].reason.contains("kept with [n], the job has [t]"), "{}", refused.problems[0].reason);
    assert_eq!(served.list().await.len(), 1, "what is refused is no job");
    let taken = served.client.submit_job(submit(keyed_job("n"))).await.expect("an answer").into_inner();
    assert_eq!(taken.problems, []);
    served.kill();
}

#[tokio::test]
async fn stop_with_savepoint_ends_the_job_and_answers_with_the_path() {
    let dir = tempfile::tempdir().expect("a directory");
    let target = tempfile::tempdir().expect("a directory for savepoints");
    let mut served = Served::start_mortal(dir.path()).await;
    let mut worker = FakeWorker::attach(&served, "a", 1).await;
    let savepoints = target.path().display().to_string();
    let id = served.submit(job_with(1, 1, &[("execution.checkpointing.savepoint-dir", &savepoints)])).await;
    let deploy = worker.run_alone().await;
    served.until_state(&id, JobState::Running, nothing).await;
    let stop =
        |drain| v1::StopJobRequest { job_id: id.clone(), drain, savepoint: true, ..v1::StopJobRequest::default() };
    // One that fails leaves the job running, from its last checkpoint, as if nobody had asked.
    let (mut client, request) = (served.client.clone(), stop(false));
    let stopping = tokio::spawn(async move { client.stop_job(request).await });
    let trigger = worker.trigger().await;
    assert_eq!(trigger.after_barrier(), v1::AfterBarrier::Stop);
    let declined = v1::CheckpointDeclined {
        token: trigger.token.clone(),
        task: Some(deploy.tasks[0]),
        checkpoint_id: trigger.checkpoint_id,
        failure: Some(failure("checkpoint-store-full", "external")),
    };
    worker.send(Report::CheckpointDeclined(declined)).await;
    let refused = stopping.await.expect("no panic").expect_err("no savepoint, no stop");
    assert!(refused.message().contains("checkpoint-store-full happened"), "{}", refused.message());
    assert_eq!(worker.aborted().await, 1);
    worker.cancel().await;
    worker.report_all(&deploy, TaskState::Canceled).await;
    let deploy = worker.run_alone().await;
    served.until_state(&id, JobState::Running, nothing).await;
    assert_eq!(served.details(&id).await.restart_count, 0);
    // One that succeeds.
    let (mut client, request) = (served.client.clone(), stop(true));
    let stopping = tokio::spawn(async move { client.stop_job(request).await });
    let trigger = worker.trigger().await;
    assert_eq!(trigger.after_barrier(), v1::AfterBarrier::Drain);
    worker.acknowledge(&deploy, trigger.checkpoint_id).await;
    worker.report(finished(&deploy, &deploy.tasks[0], 1)).await;
    let publish = worker.publish().await;
    assert_eq!(publish.checkpoint_id, 0, "the end commits what the savepoint did not");
    worker.answer(&publish, None).await;
    let path = stopping.await.expect("no panic").expect("stopped").into_inner().savepoint_path;
    assert_eq!(path, trigger.savepoint_directory);
    served.until_state(&id, JobState::Finished, nothing).await;
    assert_eq!(manifests(target.path()).len(), 1, "a savepoint outlives its job");
    served.ended().await;
}

#[tokio::test]
async fn rescale_goes_on_from_a_checkpoint_of_its_own() {
    let dir = tempfile::tempdir().expect("a directory");
    let mut served = Served::start_mortal(dir.path()).await;
    let mut worker = FakeWorker::attach(&served, "a", 2).await;
    let id = served.submit(job(1, 3)).await;
    let deploy = worker.run_alone().await;
    served.until_state(&id, JobState::Running, nothing).await;
    let rescale = |parallelism| v1::RescaleJobRequest { job_id: id.clone(), parallelism };
    let refused = served.client.rescale_job(rescale(3)).await.expect_err("there are two slots");
    assert!(refused.message().contains("needs 3 slots, 2 are free"), "{}", refused.message());
    let (mut client, request) = (served.client.clone(), rescale(2));
    let rescaling = tokio::spawn(async move { client.rescale_job(request).await });
    assert_eq!(worker.trigger().await.checkpoint_id, 1);
    worker.acknowledge(&deploy, 1).await;
    let publish = worker.publish().await;
    worker.cancel().await;
    served.clock.advance(Duration::from_millis(40));
    // The publication was on its way when the tasks were stopped: it counts all the same.
    worker.answer(&publish, None).await;
    assert_eq!(worker.completed().await, 1);
    worker.report_all(&deploy, TaskState::Canceled).await;
    let again = worker.run_alone().await;
    assert_eq!((again.tasks.len(), again.restores.len()), (2, 2));
    assert_eq!(positions(&again), [(0, Some(1)), (1, Some(1)), (2, Some(1))]);
    let rescaled = rescaling.await.expect("no panic").expect("rescaled").into_inner();
    assert_eq!((rescaled.checkpoint_id, rescaled.pause_ms), (1, 40));
    let details = served.details(&id).await;
    assert_eq!((details.vertices[0].parallelism, details.restart_count), (2, 0));
    assert_eq!(details.config["parallelism.default"], "2");
    served.kill();
    // The next coordinator knows the new parallelism.
    let mut served = Served::start_mortal(dir.path()).await;
    served.until_state(&id, JobState::Restarting, nothing).await;
    assert_eq!(served.details(&id).await.vertices[0].parallelism, 2);
    served.kill();
}
