//! Checkpoints whose barriers overtake what is in flight, in whole jobs on real processes: a job that goes on from one, as
//! it was or at another parallelism, gives what the undisturbed run gives.

#![allow(clippy::disallowed_methods, reason = "real processes live on the real clock")]

use std::time::{Duration, Instant};

use weir_tests::{Cluster, PATIENCE, succeed};

const SETTINGS: [(&str, &str); 4] = [
    ("execution.checkpointing.interval", "30 ms"),
    ("execution.checkpointing.aligned-checkpoint-timeout", "1 ms"),
    ("execution.checkpointing.num-retained", "1000"),
    ("execution.batch.target-rows", "512"),
];

/// The directory of a completed checkpoint that has something in flight, if `info` shows one.
fn overtaken(info: &str) -> Option<String> {
    let newest = info.split("the newest at ").nth(1)?.lines().next()?;
    let parent = newest.rsplit_once("/chk-")?.0;
    let rows = info.lines().filter(|line| line.contains(" checkpoint ") && line.contains("COMPLETED"));
    let mut in_flight = rows.filter(|line| !line.trim_end().ends_with(" -") && !line.trim_end().ends_with(" 0 B"));
    let id = in_flight.next()?.split_whitespace().next()?;
    Some(format!("{parent}/chk-{id}"))
}

/// The result of a query: its totals, in one line.
fn result(info: &str) -> String {
    info.lines().find(|line| line.contains("hash_value")).expect("the sink's totals").to_owned()
}

/// Runs a query until a barrier has overtaken something, cancels it, and goes on from there at this parallelism.
fn check(query: &str, parallelism: &str) {
    let job = format!("examples/nexmark/{query}.yaml");
    check_changed(query, &job, &job, parallelism);
}

/// As [`check`]; what goes on is another job, which has the same result.
fn check_changed(query: &str, job: &str, then: &str, parallelism: &str) {
    let cluster = Cluster::start(2, 2);
    let mut definitions = vec![("events", "6000000"), ("rate", "1000")];
    definitions.extend(SETTINGS);
    let straight = cluster.submit(&[job, "-p", "3"], &definitions);
    let expected = result(&cluster.wait_for(&straight, "State      FINISHED"));
    let started = Instant::now();
    let path = loop {
        assert!(started.elapsed() < PATIENCE, "{query}: no barrier overtakes");
        let id = cluster.submit(&[job, "-p", "3"], &definitions);
        let (info, found) = loop {
            let info = succeed(cluster.client(&["info", &id]));
            let found = overtaken(&info);
            if found.is_some() || info.contains("State      FINISHED") {
                break (info, found);
            }
            std::thread::sleep(Duration::from_millis(5));
        };
        // Too late, when the job has finished meanwhile: it keeps no checkpoint.
        let is_cancelled =
            !info.contains("FINISHED") && weir_tests::run(cluster.client(&["cancel", &id])).status.success();
        if let (true, Some(path)) = (is_cancelled, found) {
            cluster.wait_for(&id, "State      CANCELED");
            break path;
        }
    };
    let id = cluster.submit(&[then, "-p", parallelism, "-s", &path], &definitions);
    let info = cluster.wait_for(&id, "State      FINISHED");
    let operators = info.lines().filter(|line| line.contains(" window "));
    let tasks: Vec<Option<&str>> = operators.map(|line| line.split_whitespace().nth(3)).collect();
    assert!(tasks.contains(&Some(parallelism)), "it runs at parallelism {parallelism} in the end:\n{info}");
    assert_eq!(result(&info), expected, "from {path} at parallelism {parallelism}:\n{info}");
}

#[test]
fn job_goes_on_from_what_barriers_overtook() {
    check("q5", "3");
    check("q11", "3");
}

/// Carries c2 of the failure list: what is in flight is settled by the tasks it was meant for, then others go on.
#[test]
fn c2_job_goes_on_from_what_barriers_overtook_at_another_parallelism() {
    check("q5", "2");
    check("q11", "4");
    check("q5", "1");
}

/// What is in flight has the columns of the job as it was: it is settled before the job goes on with other columns.
#[test]
fn job_goes_on_from_what_barriers_overtook_with_one_more_aggregate() {
    let job = weir_tests::root().join("examples/nexmark/q11.yaml");
    let text = std::fs::read_to_string(&job).expect("the query");
    let more = text.replace("[count(*) AS bid_count]", "[count(*) AS bid_count, max(price) AS highest]");
    assert_ne!(text, more, "the query has its aggregate where it is looked for");
    let directory = tempfile::tempdir().expect("a directory for the job");
    let then = directory.path().join("q11.yaml");
    std::fs::write(&then, more).expect("write the job");
    check_changed("q11", &job.display().to_string(), &then.display().to_string(), "3");
}
