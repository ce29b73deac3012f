//! Whole workers under a coordinator that the test plays: jobs that finish, fail, stop and are cancelled.

mod support;

use std::collections::BTreeMap;

use support::cluster::{Cluster, Ends, patiently, refused_worker, token};
use support::plans::Shape;
use weir_core::Value;
use weir_graph::Partitioning;
use weir_proto::v1::coordinator_message::Message as Order;
use weir_proto::v1::worker_message::Message;
use weir_proto::v1::{self, TaskState};
use weir_worker::WorkerError;

fn states(ends: &Ends) -> Vec<TaskState> {
    ends.values().map(v1::TaskStateChanged::state).collect()
}

/// Runs a job to its end and checks that each number came exactly once, each to one subtask.
async fn check_all_rows_arrive(workers: usize, shape: Shape, count: i64) {
    let mut cluster = Cluster::start(workers).await;
    cluster.run(&shape.plan()).await;
    let ends = cluster.ends((shape.sources + shape.sinks) as usize).await;
    assert!(states(&ends).iter().all(|state| *state == TaskState::Finished), "{ends:?}");
    let mut numbers: Vec<i64> = cluster.sink.seen(|seen| seen.rows.iter().map(|(_, n)| *n).collect());
    numbers.sort_unstable();
    assert_eq!(numbers, (0..count).collect::<Vec<_>>());
    let taken: u64 = ends
        .iter()
        .filter(|((vertex, _), _)| *vertex == 1)
        .flat_map(|(_, end)| &end.metrics.as_ref().expect("final counters").operators)
        .map(|operator| operator.records_in)
        .sum();
    assert_eq!(taken, count as u64);
    assert_eq!(ends[&(1, 0)].committables.len(), 1);
    assert_eq!(ends[&(1, 0)].totals[0].totals["sinks"], 1);
    cluster.end().await;
}

/// Carries c3 of the failure list over the network too.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn c3_rows_cross_workers_once_with_the_smallest_buffers() {
    let shape = Shape {
        sources: 3,
        sinks: 4,
        source: vec![("count", Value::Integer(3000))],
        config: vec![
            ("execution.exchange.credit-bytes", Value::Integer(1)),
            ("execution.batch.target-rows", Value::Integer(7)),
            ("execution.buffer-timeout.interval", Value::from("0 ms")),
        ],
        ..Shape::default()
    };
    check_all_rows_arrive(2, shape, 3000).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn rows_arrive_by_every_way_of_partitioning() {
    for (partitioning, sinks) in [(Partitioning::Forward, 2), (Partitioning::Rebalance, 3), (Partitioning::Rescale, 1)]
    {
        let source = vec![("count", Value::Integer(20_000))];
        check_all_rows_arrive(2, Shape { partitioning, sinks, source, ..Shape::default() }, 20_000).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn keys_meet_in_one_subtask() {
    let mut cluster = Cluster::start(1).await;
    let shape = Shape { source: vec![("count", Value::Integer(5000))], sinks: 3, ..Shape::default() };
    cluster.run(&shape.plan()).await;
    cluster.ends(5).await;
    let mut owners = BTreeMap::new();
    for (subtask, number) in cluster.sink.seen(|seen| std::mem::take(&mut seen.rows)) {
        assert!(owners.insert(number, subtask).is_none(), "{number} came twice");
    }
    let subtasks: std::collections::BTreeSet<_> = owners.values().collect();
    assert_eq!((owners.len(), subtasks.len()), (5000, 3));
    cluster.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn cancel_leaves_nothing_behind() {
    let mut cluster = Cluster::start(2).await;
    cluster.run(&Shape::default().plan()).await;
    cluster.until_rows_flow().await;
    cluster.order_all(Order::Cancel(v1::Cancel { token: Some(token(1)) })).await;
    let ends = cluster.ends(4).await;
    // A task may see the neighbour's stream end before its own cancel.
    assert!(!states(&ends).contains(&TaskState::Finished), "{ends:?}");
    assert_eq!(cluster.sink.seen(|seen| (seen.aborted, seen.prepared)), (2, 0));
    cluster.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn cancel_reaches_tasks_that_wait() {
    for (source, sink) in [("wait", "count"), ("count", "wait")] {
        let mut cluster = Cluster::start(1).await;
        let endless = || Value::Integer(i64::MAX);
        let shape = Shape { source: vec![(source, endless())], sink: vec![(sink, endless())], ..Shape::default() };
        cluster.run(&shape.plan()).await;
        cluster.order_all(Order::Cancel(v1::Cancel { token: Some(token(1)) })).await;
        let ends = cluster.ends(4).await;
        assert_eq!(states(&ends), [TaskState::Canceled; 4]);
        cluster.end().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn stop_ends_an_endless_job_in_order() {
    let mut cluster = Cluster::start(2).await;
    // The rows travel in the last reports; the job is endless all the same.
    cluster.numbers.limit.send_replace(20_000);
    cluster.run(&Shape::default().plan()).await;
    cluster.until_rows_flow().await;
    cluster.order_all(Order::Stop(v1::Stop { token: Some(token(1)), drain: false })).await;
    let ends = cluster.ends(4).await;
    assert_eq!(states(&ends), [TaskState::Finished; 4]);
    for end in ends.values() {
        for operator in &end.metrics.as_ref().expect("final counters").operators {
            assert_ne!(operator.watermark_out_unix_us, i64::MAX, "a stop without drain sends no MAX");
        }
    }
    cluster.end().await;
}

/// One task fails with what is expected; the others go on until they are cancelled.
async fn check_failure(shape: Shape, code: &str, chain: &[&str]) {
    let mut cluster = Cluster::start(1).await;
    let plan = shape.plan();
    cluster.deploy(&plan, 1).await;
    cluster.order_all(Order::Start(v1::Start { token: Some(token(1)) })).await;
    let end = cluster.next_state(&[TaskState::Failed]).await;
    let failure = end.failure.expect("says why");
    assert_eq!(failure.code, code);
    assert_eq!(failure.chain, chain);
    assert_eq!(failure.worker, cluster.workers[0].register.worker);
    assert!(!failure.vertex.is_empty());
    cluster.order_all(Order::Cancel(v1::Cancel { token: Some(token(1)) })).await;
    cluster.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn failing_sink_fails_its_task_with_the_cause() {
    let shape = Shape { sink: vec![("fail", Value::Bool(true))], ..Shape::default() };
    check_failure(shape, "sink-io", &["cannot write", "disk on fire"]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn panic_is_caught_and_told() {
    let shape = Shape { source: vec![("panic", Value::Bool(true))], ..Shape::default() };
    check_failure(shape, "task-panic", &["the task panicked", "numbers are gone"]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn source_that_does_not_open_fails_its_task() {
    let shape = Shape { source: vec![("no_open", Value::Bool(true))], ..Shape::default() };
    check_failure(shape, "numbers-unreachable", &["cannot open the numbers"]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn lost_worker_fails_the_tasks_that_talk_to_it() {
    let mut cluster = Cluster::start(2).await;
    cluster.run(&Shape::default().plan()).await;
    cluster.until_rows_flow().await;
    let lost = cluster.workers.pop().expect("two workers");
    lost.shutdown.cancel();
    patiently("the lost worker's end", lost.running).await.expect("no panic").expect("an orderly end");
    let end = cluster.next_state(&[TaskState::Failed]).await;
    assert_eq!(end.failure.expect("says why").code, "exchange-lost");
    cluster.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn prepared_output_is_published_on_order() {
    let mut cluster = Cluster::start(1).await;
    cluster.run(&Shape { source: vec![("count", Value::Integer(10))], ..Shape::default() }.plan()).await;
    let ends = cluster.ends(4).await;
    let committables = ends.into_values().flat_map(|end| end.committables).collect();
    let publish = v1::Publish {
        token: Some(token(1)),
        operator: "out".to_owned(),
        kind: "collect".to_owned(),
        committables,
        ..v1::Publish::default()
    };
    cluster.order_all(Order::Publish(publish)).await;
    let published = loop {
        let (_, message) = patiently("Published", cluster.messages.recv()).await.expect("worker lives");
        if let Message::Published(published) = message {
            break published;
        }
    };
    assert_eq!(published.failure, None);
    assert_eq!(cluster.sink.seen(|seen| (seen.published, seen.aborted)), (2, 0));
    cluster.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn orders_of_an_older_attempt_are_refused() {
    let mut cluster = Cluster::start(1).await;
    let plan = Shape { source: vec![("wait", Value::Bool(true))], ..Shape::default() }.plan();
    cluster.deploy(&plan, 2).await;
    for _ in 0..4 {
        cluster.next_state(&[TaskState::Initializing]).await;
    }
    cluster.deploy(&plan, 1).await;
    cluster.order_all(Order::Cancel(v1::Cancel { token: Some(token(1)) })).await;
    cluster.order_all(Order::Start(v1::Start { token: Some(token(2)) })).await;
    let next = cluster.next_state(&[TaskState::Initializing, TaskState::Canceled, TaskState::Running]).await;
    assert_eq!((next.state(), next.token), (TaskState::Running, Some(token(2))));
    cluster.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn refused_worker_ends_with_the_reason() {
    match refused_worker("version 0.0.1 is not 0.1.0").await {
        Err(WorkerError::Refused { reason }) => assert_eq!(reason, "version 0.0.1 is not 0.1.0"),
        other => panic!("{other:?}"),
    }
}
