//! Lives of jobs as clients and workers see them, over loopback, with workers that only speak the protocol.

mod support;

use std::time::Duration;

use support::*;
use tonic::Code;
use weir_coordinator::{AtShutdown, CoordinatorConfig};
use weir_proto::v1::coordinator_message::Message as Order;
use weir_proto::v1::worker_message::Message as Report;
use weir_proto::v1::{self, JobState, TaskState};

fn nothing(_: &weir_testkit::clock::FakeClock) {}

fn half_a_second(clock: &weir_testkit::clock::FakeClock) {
    clock.advance(Duration::from_millis(500));
}

#[tokio::test]
async fn job_runs_on_two_workers_is_published_and_outlives_the_coordinator() {
    let dir = tempfile::tempdir().expect("a directory");
    let mut served = Served::start(dir.path()).await;
    let mut workers = [FakeWorker::attach(&served, "a", 1).await, FakeWorker::attach(&served, "b", 1).await];
    served.until_workers(2).await;
    let id = served.submit(job(2, 5)).await;
    let mut deploys = Vec::new();
    for (index, worker) in (0..).zip(&mut workers) {
        let deploy = worker.deploy().await;
        assert_eq!(deploy.locations.len(), 2);
        assert_eq!(deploy.tasks, [v1::TaskId { vertex_id: 0, subtask_index: index }]);
        let splits: Vec<u32> = deploy.splits[0].splits.iter().map(|split| split.index).collect();
        assert_eq!((splits, deploy.splits[0].split_count), (if index == 0 { vec![0, 2, 4] } else { vec![1, 3] }, 5));
        worker.report_all(&deploy, TaskState::Initializing).await;
        deploys.push(deploy);
    }
    assert_eq!(served.state(&id).await, JobState::Created);
    for (worker, deploy) in workers.iter_mut().zip(&deploys) {
        worker.start().await;
        worker.report_all(deploy, TaskState::Running).await;
    }
    served.until_state(&id, JobState::Running, nothing).await;
    for (worker, deploy) in workers.iter().zip(&deploys) {
        worker.report(finished(deploy, &deploy.tasks[0], u64::MAX / 2 + 2)).await;
    }
    let publish = workers[0].publish().await;
    assert!(!publish.discard);
    let subtasks: Vec<u32> = publish.committables.iter().map(|committable| committable.subtask_index).collect();
    assert_eq!((publish.kind.as_str(), subtasks), ("fake_sink", vec![0, 1]));
    assert_eq!(served.state(&id).await, JobState::Running);
    workers[0].answer(&publish, None).await;
    served.until_state(&id, JobState::Finished, nothing).await;
    let details = served.details(&id).await;
    assert_eq!(details.bad_records, 2);
    assert_eq!(details.reports[0].totals["rows"], 2, "totals wrap around");
    assert_eq!(details.vertices[0].name, "in -> out");
    served.ended().await;
    let mut again = Served::start(dir.path()).await;
    assert_eq!(again.details(&id).await, details);
    let list = again.client.list_jobs(v1::ListJobsRequest {}).await.expect("list").into_inner();
    assert_eq!(list.jobs, [details.summary.expect("a summary")]);
    again.ended().await;
}

#[tokio::test]
async fn failed_task_stops_the_others_and_the_first_failure_is_shown_with_its_place() {
    let dir = tempfile::tempdir().expect("a directory");
    let mut served = Served::start(dir.path()).await;
    let mut worker = FakeWorker::attach(&served, "a", 3).await;
    let id = served.submit(job_with(3, 3, &[NO_RESTART])).await;
    let deploy = worker.run_alone().await;
    let task = |index: usize| &deploy.tasks[index];
    worker.report(finished(&deploy, task(0), 1)).await;
    let failed = |index: usize, code: &str| v1::TaskStateChanged {
        failure: Some(failure(code, "external")),
        ..change(&deploy, task(index), TaskState::Failed)
    };
    worker.report(failed(2, "sink-io")).await;
    worker.cancel().await;
    assert_eq!(served.state(&id).await, JobState::Failing);
    worker.report(failed(1, "second")).await;
    let discard = worker.publish().await;
    assert!(discard.discard);
    assert_eq!(discard.committables.len(), 1);
    worker.answer(&discard, None).await;
    served.until_state(&id, JobState::Failed, nothing).await;
    let failure = served.details(&id).await.failure.expect("a failure");
    assert_eq!((failure.code.as_str(), failure.vertex.as_str(), failure.subtask_index), ("sink-io", "in -> out", 2));
    assert_eq!((failure.worker.as_str(), failure.chain.len()), ("a", 2));
    let cluster = served.client.get_cluster(v1::GetClusterRequest {}).await.expect("cluster").into_inner();
    assert_eq!(cluster.slots_available, 3, "slots are given back");
    served.ended().await;
}

#[tokio::test]
async fn vanished_worker_fails_its_job() {
    let dir = tempfile::tempdir().expect("a directory");
    let mut served = Served::start(dir.path()).await;
    let mut workers = [FakeWorker::attach(&served, "a", 1).await, FakeWorker::attach(&served, "b", 1).await];
    served.until_workers(2).await;
    let id = served.submit(job_with(2, 2, &[NO_RESTART])).await;
    let deploy = workers[0].deploy().await;
    workers[1].deploy().await;
    let [survivor, vanishing] = workers;
    drop(vanishing);
    let alive = async {
        // The survivor beats on; it stops its task when told.
        let mut survivor = survivor;
        loop {
            tokio::select! {
                order = survivor.next() => match order {
                    Some(Order::Cancel(_)) => survivor.report_all(&deploy, TaskState::Canceled).await,
                    _ => return,
                },
                () = tokio::task::yield_now() => survivor.send(Report::Heartbeat(v1::Heartbeat::default())).await,
            }
        }
    };
    tokio::select! {
        () = alive => panic!("the survivor is not lost"),
        () = served.until_state(&id, JobState::Failed, |clock| clock.advance(Duration::from_millis(5))) => {}
    }
    let failure = served.details(&id).await.failure.expect("a failure");
    assert_eq!((failure.code.as_str(), failure.worker.as_str()), ("worker-lost", "b"));
    assert!(failure.chain[0].contains("its connection broke"), "{:?}", failure.chain);
    served.ended().await;
}

#[tokio::test]
async fn silent_worker_is_given_up_after_the_lease_and_its_stream_is_closed() {
    let dir = tempfile::tempdir().expect("a directory");
    let mut served = Served::start(dir.path()).await;
    let mut worker = FakeWorker::attach(&served, "a", 1).await;
    let id = served.submit(job_with(1, 1, &[NO_RESTART])).await;
    worker.run_alone().await;
    served.until_state(&id, JobState::Running, nothing).await;
    served.until_state(&id, JobState::Failed, half_a_second).await;
    let failure = served.details(&id).await.failure.expect("a failure");
    assert!(failure.chain[0].contains("no sign of life for 3000 ms"), "{:?}", failure.chain);
    while worker.next().await.is_some() {}
    served.ended().await;
}

#[tokio::test]
async fn stale_messages_change_nothing() {
    let dir = tempfile::tempdir().expect("a directory");
    let mut served = Served::start(dir.path()).await;
    let mut worker = FakeWorker::attach(&served, "a", 1).await;
    let stranger = FakeWorker::attach(&served, "b", 1).await;
    let id = served.submit(job(1, 1)).await;
    let deploy = worker.run_alone().await;
    let token = deploy.token.clone().expect("a token");
    let failed = |token: v1::FencingToken| v1::TaskStateChanged {
        token: Some(token),
        ..change(&deploy, &deploy.tasks[0], TaskState::Failed)
    };
    worker.report(failed(v1::FencingToken { attempt: 2, ..token.clone() })).await;
    worker.report(failed(v1::FencingToken { term: token.term + 1, ..token.clone() })).await;
    worker.report(failed(v1::FencingToken { job_id: "0".repeat(32), ..token.clone() })).await;
    stranger.report(failed(token.clone())).await;
    let unknown = v1::TaskId { vertex_id: 7, subtask_index: 7 };
    worker.report(change(&deploy, &unknown, TaskState::Failed)).await;
    let task = v1::TaskReport { token: Some(token), task: Some(deploy.tasks[0]), metrics: Some(counted(9)) };
    worker.send(Report::Heartbeat(v1::Heartbeat { sequence: 1, tasks: vec![task] })).await;
    // Messages of one stream are taken in order: when the counters are seen, the stale ones were too.
    while served.details(&id).await.source_records != 9 {}
    assert_eq!(served.state(&id).await, JobState::Running);
    served.ended().await;
}

#[tokio::test]
async fn second_job_waits_for_the_slots_of_the_first() {
    let dir = tempfile::tempdir().expect("a directory");
    let mut served = Served::start(dir.path()).await;
    let mut worker = FakeWorker::attach(&served, "a", 3).await;
    let first = served.submit(job(2, 2)).await;
    let first_deploy = worker.run_alone().await;
    let second = served.submit(job(2, 2)).await;
    served.until_state(&second, JobState::Created, nothing).await;
    assert_eq!(served.details(&second).await.waiting_for, "needs 2 slots, 1 is free");
    let third = served.submit(job(4, 2)).await;
    let cancel = v1::CancelJobRequest { job_id: first.clone() };
    served.client.cancel_job(cancel).await.expect("cancel");
    worker.cancel().await;
    worker.report_all(&first_deploy, TaskState::Canceled).await;
    let second_deploy = worker.run_alone().await;
    assert_eq!(second_deploy.token.as_ref().map(|token| token.job_id.clone()), Some(second.clone()));
    served.until_state(&first, JobState::Canceled, nothing).await;
    served.until_state(&second, JobState::Running, nothing).await;
    assert_eq!(served.details(&second).await.waiting_for, "");
    assert_eq!(served.state(&third).await, JobState::Created);
    let list = served.client.list_jobs(v1::ListJobsRequest {}).await.expect("list").into_inner();
    assert_eq!(list.jobs.len(), 3);
    served.ended().await;
}

#[tokio::test]
async fn job_without_slots_fails_after_its_timeout() {
    let dir = tempfile::tempdir().expect("a directory");
    let mut served = Served::start(dir.path()).await;
    let mut graph = job(2, 2);
    graph.config.insert("slot.request.timeout".to_owned(), "10 s".to_owned());
    let id = served.submit(graph).await;
    served.until_state(&id, JobState::Failed, half_a_second).await;
    let failure = served.details(&id).await.failure.expect("a failure");
    assert_eq!(failure.code, "no-slots");
    assert!(failure.chain[0].starts_with("needs 2 slots, 0 are free after 10 s"), "{:?}", failure.chain);
    served.ended().await;
}

#[tokio::test]
async fn stop_reaches_the_workers_of_a_running_job_only() {
    let dir = tempfile::tempdir().expect("a directory");
    let mut served = Served::start(dir.path()).await;
    let id = served.submit(job(1, 1)).await;
    let stop = |id: &str| v1::StopJobRequest { job_id: id.to_owned(), drain: true, ..v1::StopJobRequest::default() };
    let refused = served.client.stop_job(stop(&id)).await.expect_err("the job waits");
    assert_eq!(refused.code(), Code::FailedPrecondition);
    let mut worker = FakeWorker::attach(&served, "a", 1).await;
    let deploy = worker.run_alone().await;
    served.until_state(&id, JobState::Running, nothing).await;
    served.client.stop_job(stop(&id)).await.expect("stop");
    let order = worker.next().await;
    assert!(matches!(&order, Some(Order::Stop(stop)) if stop.drain), "{order:?}");
    worker.report_all(&deploy, TaskState::Finished).await;
    served.until_state(&id, JobState::Finished, nothing).await;
    let refused = served.client.stop_job(stop(&id)).await.expect_err("the job has ended");
    assert_eq!(refused.code(), Code::FailedPrecondition);
    let unknown = served.client.stop_job(stop(&"0".repeat(32))).await.expect_err("unknown");
    assert_eq!(unknown.code(), Code::NotFound);
    let malformed = served.client.stop_job(stop("x")).await.expect_err("malformed");
    assert_eq!(malformed.code(), Code::InvalidArgument);
    served.ended().await;
}

#[tokio::test]
async fn failing_publish_is_tried_again_and_then_fails_the_job() {
    let dir = tempfile::tempdir().expect("a directory");
    let mut served = Served::start(dir.path()).await;
    let mut worker = FakeWorker::attach(&served, "a", 1).await;
    let id = served.submit(job_with(1, 1, &[NO_RESTART])).await;
    let deploy = worker.run_alone().await;
    worker.report(finished(&deploy, &deploy.tasks[0], 1)).await;
    for _ in 0..3 {
        let publish = tokio::select! {
            publish = worker.publish() => publish,
            () = served.until_state(&id, JobState::Failed, |clock| clock.advance(Duration::from_micros(500))) => {
                panic!("failed before all tries")
            }
        };
        assert!(!publish.discard);
        worker.answer(&publish, Some(failure("sink-io", "external"))).await;
    }
    // The end was committed: its output is not visible, and it is not removed either.
    served.until_state(&id, JobState::Failed, nothing).await;
    assert_eq!(served.details(&id).await.failure.expect("a failure").code, "sink-io");
    served.ended().await;
}

#[tokio::test]
async fn watcher_sees_the_job_to_its_end() {
    let dir = tempfile::tempdir().expect("a directory");
    let mut served = Served::start(dir.path()).await;
    let id = served.submit(job(1, 1)).await;
    let request = v1::WatchJobRequest { job_id: id.clone(), interval_ms: 0 };
    let mut watched = served.client.watch_job(request).await.expect("watch").into_inner();
    watched.message().await.expect("a stream").expect("the job at once");
    let cancel = v1::CancelJobRequest { job_id: id.clone() };
    served.client.cancel_job(cancel.clone()).await.expect("cancel");
    let mut last = None;
    while let Some(details) = watched.message().await.expect("a stream") {
        last = details.summary.map(|summary| summary.state());
    }
    assert_eq!(last, Some(JobState::Canceled));
    let refused = served.client.cancel_job(cancel).await.expect_err("it has ended");
    assert_eq!(refused.code(), Code::FailedPrecondition);
    served.ended().await;
}

#[tokio::test]
async fn shutdown_that_cancels_jobs_keeps_their_ends() {
    let dir = tempfile::tempdir().expect("a directory");
    let cancel = |config: &mut CoordinatorConfig| config.at_shutdown = AtShutdown::Cancel;
    let mut served = Served::start_with(dir.path(), cancel).await;
    let mut worker = FakeWorker::attach(&served, "a", 1).await;
    let id = served.submit(job(1, 1)).await;
    let deploy = worker.run_alone().await;
    served.until_state(&id, JobState::Running, nothing).await;
    served.begin_shutdown();
    worker.cancel().await;
    worker.report_all(&deploy, TaskState::Canceled).await;
    served.ended().await;
    let mut again = Served::start(dir.path()).await;
    assert_eq!(again.state(&id).await, JobState::Canceled);
    again.ended().await;
}
