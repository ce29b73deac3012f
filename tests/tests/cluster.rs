//! A cluster of real processes: what a user does with it, and what happens when parts of it die.

#![allow(clippy::disallowed_methods, reason = "real processes live on the real clock")]

use std::time::Duration;

use nix::sys::signal::Signal;
use weir_core::planted;
use weir_tests::{Cluster, ClusterOptions, command, defining, fail, root, succeed};

/// A job that runs until it is stopped: bids at a few thousand per second, counted per window, into files.
const ENDLESS: &str = r#"
name: endless
parameters: {output: null}
operators:
  - {uid: bids, kind: nexmark, table: bid, events: 1000000000, pace: 20000}
  - {uid: times, kind: watermark, input: bids, column: dateTime, max_out_of_orderness: 1 s}
  - uid: counts
    kind: window
    input: times
    key: [auction]
    window: {type: tumble, size: 1 s}
    aggregates: ["count(*) AS n"]
  - {uid: out, kind: file_sink, input: counts, path: "${output}", format: csv}
"#;

struct Job {
    file: String,
    output: String,
    directory: tempfile::TempDir,
}

fn endless() -> Job {
    let directory = tempfile::tempdir().expect("a directory for the job");
    let file = directory.path().join("job.yaml");
    std::fs::write(&file, ENDLESS).expect("write the job");
    let output = directory.path().join("out").display().to_string();
    Job { file: file.display().to_string(), output, directory }
}

impl Job {
    fn submit(&self, cluster: &Cluster, parallelism: &str) -> String {
        cluster.submit(&[&self.file, "-p", parallelism], &[("output", &self.output)])
    }

    fn files(&self) -> Vec<std::path::PathBuf> {
        let all = weir_tests::files_below(self.directory.path());
        all.into_iter().filter(|path| !path.ends_with("job.yaml")).collect()
    }
}

#[test]
fn jobs_share_a_cluster_and_one_failing_does_not_hold_up_another() {
    let cluster = Cluster::start(2, 2);
    let job = endless();
    let running = job.submit(&cluster, "2");
    cluster.wait_for(&running, "RUNNING");
    let failing = tempfile::tempdir().expect("a directory");
    let file = failing.path().join("failing.yaml");
    let overflow =
        ENDLESS.replace("count(*) AS n", "sum(price + 9223372036854775807) AS n").replace("endless", "failing");
    std::fs::write(&file, overflow).expect("write the job");
    let output = failing.path().join("out").display().to_string();
    let failed = cluster.submit(&[file.to_str().expect("a text path"), "-p", "2"], &[("output", &output)]);
    // Overflowing rows are bad records, not a failure: the job runs and counts them.
    cluster.wait_for(&failed, "RUNNING");
    succeed(cluster.client(&["cancel", &failed]));
    cluster.wait_for(&failed, "CANCELED");
    assert!(succeed(cluster.client(&["info", &running])).contains("RUNNING"));
    let list = succeed(cluster.client(&["list"]));
    assert!(list.contains(&running) && list.contains(&failed), "{list}");
    succeed(cluster.client(&["cancel", &running]));
    cluster.wait_for(&running, "CANCELED");
    assert_eq!(job.files(), Vec::<std::path::PathBuf>::new(), "a cancelled job leaves no file");
}

#[test]
fn stop_with_drain_publishes_what_was_read() {
    let cluster = Cluster::start(1, 2);
    let job = endless();
    let id = job.submit(&cluster, "2");
    cluster.wait_for(&id, "RUNNING");
    succeed(cluster.client(&["stop", "--drain", &id]));
    let info = cluster.wait_for(&id, "FINISHED");
    assert!(!info.contains("Failure"), "{info}");
    let files = job.files();
    assert!(!files.is_empty() && files.iter().all(|path| !path.to_string_lossy().contains("inprogress")), "{files:?}");
}

#[test]
fn killed_worker_restarts_its_jobs_with_cause_and_place() {
    let mut cluster = Cluster::start(2, 1);
    let job = endless();
    let id = job.submit(&cluster, "2");
    cluster.wait_for(&id, "RUNNING");
    cluster.workers[1].signal(Signal::SIGKILL);
    let info = cluster.wait_for(&id, "RESTARTING");
    let is_named = info.contains("worker-lost") || info.contains("exchange-lost");
    assert!(is_named && info.contains("Restarts   1"), "{info}");
    // The slots of the surviving worker are free again: a job that fits runs.
    let again = endless();
    let next = again.submit(&cluster, "1");
    cluster.wait_for(&next, "RUNNING");
    succeed(cluster.client(&["cancel", &next]));
    cluster.wait_for(&next, "CANCELED");
    cluster.add_worker(1);
    cluster.wait_for(&id, "RUNNING");
    cluster.workers[0].signal(Signal::SIGTERM);
    assert!(cluster.workers[0].wait(), "SIGTERM ends a worker in order");
    cluster.coordinator.signal(Signal::SIGTERM);
    assert!(cluster.coordinator.wait(), "SIGTERM ends a coordinator in order");
}

#[test]
fn job_waits_for_slots_and_starts_when_they_come() {
    let mut cluster = Cluster::start(1, 1);
    let job = endless();
    let id = job.submit(&cluster, "2");
    cluster.wait_for(&id, "slots");
    cluster.add_worker(1);
    cluster.wait_for(&id, "RUNNING");
    succeed(cluster.client(&["cancel", &id]));
    cluster.wait_for(&id, "CANCELED");
}

#[test]
fn refused_job_lists_all_problems_and_exits_with_failure() {
    let job = endless();
    let text = ENDLESS
        .replace("key: [auction]", "key: [auctoin]")
        .replace("size: 1 s", "size: 1")
        .replace("column: dateTime", "column: datetime");
    std::fs::write(&job.file, text).expect("write the job");
    let errors = fail(defining(command(&["local", "run", &job.file]), &[("output", &job.output)]));
    for part in ["window.size", "dateTime"] {
        assert!(errors.contains(part), "{part} is not in:\n{errors}");
    }
    let errors = fail(defining(command(&["local", "run", &job.file]), &[("outputs", "x")]));
    assert!(errors.contains("outputs") && errors.contains("output"), "{errors}");
}

#[test]
fn client_without_coordinator_says_what_to_do() {
    let errors = fail(command(&["list", "-m", "127.0.0.1:1"]));
    assert!(errors.contains("127.0.0.1:1") && errors.contains("weir coordinator"), "{errors}");
}

/// A coordinator is one process for many jobs: a mistake in one must not leave it hanging, nor end the others.
#[test]
fn job_whose_master_panics_goes_on_from_its_last_checkpoint() {
    let environment = vec![(planted::VARIABLE.to_owned(), planted::MASTER_PANICS.to_owned())];
    let cluster = Cluster::with(1, 2, ClusterOptions { environment, ..ClusterOptions::default() });
    let definitions =
        [("events", "1000000"), ("rate", "1000"), ("pace", "250000"), ("execution.checkpointing.interval", "200 ms")];
    let id = cluster.submit(&["examples/nexmark/q5.yaml", "-p", "2"], &definitions);
    cluster.wait_for(&id, "State      RUNNING");
    std::thread::sleep(Duration::from_millis(1000));
    fail(cluster.client(&["savepoint", &id]));
    let info = cluster.wait_for_any(&id, &["State      FINISHED", "State      FAILED"]);
    let golden =
        std::fs::read_to_string(root().join("testdata/nexmark/golden-1M-rate1000.txt")).expect("golden results");
    let inserts = golden.lines().find_map(|line| line.strip_prefix("q5 ")?.split(' ').next()).expect("a golden line");
    assert!(info.contains(&format!("hash_inserts {inserts}")) && info.contains("Restored   from"), "{info}");
    // Again and again: the job fails with a sentence, and the coordinator lives.
    let endless = [("events", "1000000000"), ("rate", "1000"), ("pace", "20000")];
    let id = cluster.submit(&["examples/nexmark/q5.yaml", "-p", "2"], &endless);
    for _ in 0..4 {
        cluster.wait_for(&id, "State      RUNNING");
        fail(cluster.client(&["savepoint", &id]));
    }
    let info = cluster.wait_for(&id, "State      FAILED");
    assert!(info.contains("panicked again and again"), "{info}");
}
