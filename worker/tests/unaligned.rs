//! Barriers that overtake, on whole workers under a coordinator that the test plays: checkpoints complete under
//! backpressure on every kind of edge, and an attempt that goes on from one gives exactly the output of the straight run.

mod support;

use std::collections::BTreeMap;
use std::sync::atomic::Ordering;

use support::checkpoints::{Job, Taken};
use support::cluster::Cluster;
use support::operators::FACTOR;
use support::plans::{Step, plan_of};
use weir_core::random::SplitMix64;
use weir_core::{Random, Value};
use weir_graph::plan::PlannedRole;
use weir_graph::{JobPlan, Partitioning};
use weir_proto::v1::{self, AfterBarrier};

const KEYS: i64 = 50;

fn hash() -> Partitioning {
    Partitioning::Hash { columns: vec![0] }
}

fn step(uid: &str, kind: &'static str, parallelism: u32, inputs: Option<Vec<(u32, Partitioning)>>) -> Step {
    let role = match kind {
        "numbers" => PlannedRole::Source,
        "collect" => PlannedRole::Sink,
        _ => PlannedRole::Operator,
    };
    Step { uid: uid.to_owned(), kind, role, settings: Vec::new(), parallelism, inputs }
}

fn source(parallelism: u32, count: i64) -> Step {
    let mut source = step("numbers", "numbers", parallelism, Some(Vec::new()));
    source.settings = vec![("count", Value::Integer(count)), ("modulo", Value::Integer(KEYS))];
    source
}

fn config(credit_bytes: i64) -> [(&'static str, Value); 3] {
    [
        ("execution.batch.target-rows", Value::Integer(7)),
        ("execution.exchange.credit-bytes", Value::Integer(credit_bytes)),
        ("execution.buffer-timeout.interval", Value::from("1 ms")),
    ]
}

/// numbers -> tally -> out, at parallelism 2, by this way to `out`.
fn tally_plan(way: Partitioning, outs: u32, count: i64, credit_bytes: i64) -> JobPlan {
    let steps = [
        source(2, count),
        step("tally", "tally", 2, Some(vec![(0, hash())])),
        step("out", "collect", outs, Some(vec![(1, way)])),
    ];
    plan_of(&steps, &config(credit_bytes))
}

/// What `tally_plan` gives: each key once with each count.
fn tallied(count: i64) -> Vec<i64> {
    let mut counts = BTreeMap::new();
    let row = |n: i64| {
        let times: &mut i64 = counts.entry(n % KEYS).or_default();
        *times += 1;
        (n % KEYS) * FACTOR + *times
    };
    let mut rows: Vec<i64> = (0..count).map(row).collect();
    rows.sort_unstable();
    rows
}

fn job(splits: u32, aligned_timeout_ms: u32) -> Job {
    Job { aligned_timeout_ms, ..Job::new(splits) }
}

fn in_flight(stats: &BTreeMap<(u32, u32), v1::CheckpointStats>) -> u64 {
    stats.values().map(|stats| stats.in_flight_bytes).sum()
}

/// Takes checkpoints in front of a slow sink until one has overtaken, goes on from it, and compares.
async fn check_way(way: Partitioning, outs: u32, credit_bytes: i64) {
    let count = 12_000;
    let plan = tally_plan(way.clone(), outs, count, credit_bytes);
    let mut cluster = Cluster::start(2).await;
    cluster.sink.pause_ms.store(40, Ordering::Relaxed);
    let mut job = job(3, 20);
    job.run(&mut cluster, &plan).await;
    cluster.until_rows_flow().await;
    let overtaken = loop {
        let checkpoint = job.trigger(&cluster, AfterBarrier::GoOn, "").await;
        match job.gather(&mut cluster, &plan, checkpoint).await {
            Taken::Complete(stats) if in_flight(&stats) > 0 => break stats,
            Taken::Complete(_) => assert!(job.ends.is_empty(), "{way:?}: no barrier overtook"),
            other => panic!("{way:?}: {other:?}"),
        }
    };
    assert!(overtaken.values().any(|stats| stats.is_unaligned) && job.is_unaligned());
    job.cancel(&mut cluster, &plan).await;
    cluster.sink.pause_ms.store(0, Ordering::Relaxed);
    job.run(&mut cluster, &plan).await;
    job.finish(&mut cluster, &plan).await;
    let (visible, expected) = (job.visible_rows(), tallied(count));
    assert_eq!(visible.len(), expected.len(), "{way:?}");
    assert!(visible == expected, "{way:?}: other rows");
    cluster.end().await;
}

/// Carries c1 of the failure list: much in flight on each kind of edge, in front of a sink that is slow.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn c1_what_is_overtaken_comes_back_on_every_kind_of_edge() {
    for (way, outs) in
        [(Partitioning::Forward, 2), (hash(), 3), (Partitioning::Rebalance, 3), (Partitioning::Rescale, 1)]
    {
        check_way(way, outs, 1 << 12).await;
    }
}

/// The same with room for one element per channel: senders wait for room when the barrier comes.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn c3_barrier_does_not_wait_for_room() {
    check_way(hash(), 2, 1).await;
}

/// How often a random test runs; `WEIR_UNALIGNED_RUNS` says otherwise.
fn runs(short: u64) -> u64 {
    std::env::var("WEIR_UNALIGNED_RUNS").ok().and_then(|text| text.parse().ok()).unwrap_or(short)
}

/// A random graph: each step takes from one or two earlier ones. Gives how often each number arrives at the end.
fn random_plan(random: &mut SplitMix64, count: i64, credit_bytes: i64) -> (JobPlan, i64) {
    let mut first = source(1 + random.below(3) as u32, count);
    first.settings.retain(|(name, _)| *name != "modulo");
    let mut steps = vec![first];
    let mut ways = vec![1i64];
    let mut is_read = vec![false];
    let edge = |from: usize, to: u32, way: u64, steps: &[Step], is_read: &mut [bool]| {
        is_read[from] = true;
        let partitioning = match way {
            0 => hash(),
            1 if steps[from].parallelism == to => Partitioning::Forward,
            2 => Partitioning::Rescale,
            _ => Partitioning::Rebalance,
        };
        (from as u32, partitioning)
    };
    for index in 1..=(1 + random.below(3)) as usize {
        let parallelism = 1 + random.below(3) as u32;
        let mut inputs = Vec::new();
        for _ in 0..=random.below(2) {
            let (from, way) = (random.below(index as u64) as usize, random.below(4));
            inputs.push(edge(from, parallelism, way, &steps, &mut is_read));
        }
        ways.push(inputs.iter().map(|(from, _)| ways[*from as usize]).sum());
        is_read.push(false);
        steps.push(step(&format!("pass-{index}"), "pass", parallelism, Some(inputs)));
    }
    let leaves: Vec<usize> = (0..steps.len()).filter(|index| !is_read[*index]).collect();
    let inputs = leaves.iter().map(|leaf| edge(*leaf, 2, random.below(4), &steps, &mut is_read)).collect();
    let total = leaves.iter().map(|leaf| ways[*leaf]).sum();
    steps.push(step("out", "collect", 2, Some(inputs)));
    (plan_of(&steps, &config(credit_bytes)), total)
}

/// One job on a random graph over some attempts, with checkpoints at random moments, aborted ones and slow sinks. Gives
/// how many checkpoints had something in flight.
async fn check_attempts(seed: u64) -> u64 {
    let (mut random, count) = (SplitMix64::new(seed), 1500);
    let credit_bytes = [1, 2000, 1 << 15][random.below(3) as usize];
    let (plan, ways) = random_plan(&mut random, count, credit_bytes);
    let mut cluster = Cluster::start(1 + random.below(2) as usize).await;
    let mut job = job(1 + random.below(4) as u32, 1 + random.below(20) as u32);
    let (attempts, mut overtaken) = (1 + random.below(3), 0);
    for attempt in 0..=attempts {
        cluster.sink.pause_ms.store(random.below(4), Ordering::Relaxed);
        job.run(&mut cluster, &plan).await;
        for _ in 0..1 + random.below(3) {
            for _ in 0..random.below(3) {
                job.until_beat(&mut cluster).await;
            }
            let checkpoint = job.trigger(&cluster, AfterBarrier::GoOn, "").await;
            match random.below(4) {
                0 => job.abort(&cluster, checkpoint).await,
                confirm => match job.gather(&mut cluster, &plan, checkpoint).await {
                    Taken::Complete(stats) => {
                        overtaken += u64::from(in_flight(&stats) > 0);
                        // The news of a commit may be lost.
                        if confirm > 1 {
                            job.confirm(&cluster, checkpoint).await;
                        }
                    }
                    other => panic!("seed {seed}: {other:?}"),
                },
            }
        }
        if attempt < attempts {
            job.cancel(&mut cluster, &plan).await;
        } else {
            cluster.sink.pause_ms.store(0, Ordering::Relaxed);
            job.finish(&mut cluster, &plan).await;
        }
    }
    let mut arrived: BTreeMap<i64, i64> = BTreeMap::new();
    job.visible_rows().into_iter().for_each(|row| *arrived.entry(row).or_default() += 1);
    assert_eq!(arrived.len(), count as usize, "seed {seed}");
    assert!(arrived.values().all(|times| *times == ways), "seed {seed}: {ways} ways");
    cluster.end().await;
    overtaken
}

/// Carries c1, c2 and c3 of the failure list.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn c1_random_graphs_give_the_output_of_the_straight_run() {
    let mut overtaken = 0;
    for seed in 0..runs(20) {
        overtaken += check_attempts(seed).await;
    }
    assert!(overtaken > 0, "no barrier overtook anything");
}

/// Carries c2 of the failure list: after barriers have overtaken, an aligned checkpoint waits for what is in flight, so
/// that the job goes on from it at any parallelism.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn c2_aligned_checkpoint_after_unaligned_ones_restores_at_another_parallelism() {
    let count = 12_000;
    let mut cluster = Cluster::start(2).await;
    cluster.sink.pause_ms.store(20, Ordering::Relaxed);
    let (mut job, plan) = (job(3, 20), tally_plan(hash(), 2, count, 4000));
    job.run(&mut cluster, &plan).await;
    for is_aligned in [false, false, true] {
        cluster.until_rows_flow().await;
        job.is_aligned = is_aligned;
        let checkpoint = job.trigger(&cluster, AfterBarrier::GoOn, "").await;
        let taken = job.gather(&mut cluster, &plan, checkpoint).await;
        let Taken::Complete(stats) = taken else { panic!("{taken:?}") };
        assert!(!is_aligned || in_flight(&stats) == 0 && !job.is_unaligned());
    }
    job.cancel(&mut cluster, &plan).await;
    cluster.sink.pause_ms.store(0, Ordering::Relaxed);
    let plan = tally_plan(hash(), 3, count, 4000);
    job.run(&mut cluster, &plan).await;
    job.finish(&mut cluster, &plan).await;
    assert!(job.visible_rows() == tallied(count), "other rows");
    cluster.end().await;
}
