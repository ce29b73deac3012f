//! Tasks that come back to their worker read their state from its own disk: shown by taking the state away from the store.

#![allow(clippy::disallowed_methods, reason = "real processes live on the real clock")]

use std::time::Duration;

use weir_testkit::S3Server;
use weir_testkit::s3_server::BUCKET;
use weir_tests::{Cluster, files_below, root, succeed};

/// Runs q5 on one worker with checkpoints in a bucket, takes one, removes all state objects from the bucket, and starts the
/// coordinator anew: what `weir info` says at the end.
fn without_state_in_the_store(local_backup: &str, awaited: &[&str]) -> String {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    let server = runtime.block_on(S3Server::start());
    let (endpoint, directory) = (format!("http://{}", server.address()), format!("s3://{BUCKET}/state"));
    let definitions = [
        ("events", "1000000"),
        ("rate", "1000"),
        ("pace", "250000"),
        ("s3.endpoint", endpoint.as_str()),
        ("s3.path-style-access", "true"),
        ("execution.checkpointing.dir", directory.as_str()),
        ("execution.checkpointing.interval", "10 min"),
        ("execution.checkpointing.local-backup.enabled", local_backup),
        ("restart-strategy.exponential-delay.initial-backoff", "50 ms"),
    ];
    let mut cluster = Cluster::start(1, 2);
    let id = cluster.submit(&["examples/nexmark/q5.yaml", "-p", "2"], &definitions);
    cluster.wait_for(&id, "State      RUNNING");
    std::thread::sleep(Duration::from_millis(1500));
    succeed(cluster.client(&["checkpoint", &id]));
    let in_store = files_below(&server.file("state"));
    let objects: Vec<_> = in_store.iter().filter(|path| path.to_string_lossy().contains("/data/")).collect();
    assert!(!objects.is_empty(), "the state lies in objects: {in_store:?}");
    objects.iter().for_each(|path| std::fs::remove_file(path).expect("an object can be removed"));
    cluster.restart_coordinator();
    cluster.wait_for_any(&id, awaited)
}

#[test]
fn copies_serve_a_task_that_comes_back_to_its_worker() {
    let info = without_state_in_the_store("true", &["State      FINISHED", "checkpoint-not-found"]);
    assert!(info.contains("State      FINISHED"), "{info}");
    let golden =
        std::fs::read_to_string(root().join("testdata/nexmark/golden-1M-rate1000.txt")).expect("golden results");
    let mut words = golden.lines().find(|line| line.starts_with("q5 ")).expect("a golden line").split(' ').skip(1);
    let mut word = || words.next().expect("a golden line has four words").to_owned();
    let (inserts, retracts, hash) = (word(), word(), word());
    let hash = u64::from_str_radix(&hash, 16).expect("a hash");
    for (name, value) in [("hash_inserts", inserts), ("hash_retracts", retracts), ("hash_value", hash.to_string())] {
        assert!(info.contains(&format!("{name} {value}")), "{name} {value}: {info}");
    }
}

#[test]
fn b6_without_copies_state_that_the_store_has_lost_is_missed_by_name() {
    let info = without_state_in_the_store("false", &["State      FINISHED", "checkpoint-not-found"]);
    assert!(info.contains("State      RESTARTING") && info.contains("checkpoint-not-found"), "{info}");
    assert!(info.contains("/data/") && info.contains("does not exist"), "{info}");
}
