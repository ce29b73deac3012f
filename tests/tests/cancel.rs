//! Jobs that are cancelled at random moments: before they start, while they run, while they end. Nothing of them may
//! stay behind in the worker's process or in the output.

#![allow(clippy::disallowed_methods, reason = "real processes live on the real clock")]

use std::path::Path;
use std::time::{Duration, Instant};

use weir_tests::{Cluster, PATIENCE, files_below, run, succeed};

/// Counts bids per auction and second, into files; runs for a moment or for ever.
const JOB: &str = r#"
name: cancelled
parameters: {output: null, events: null, pace: null}
operators:
  - {uid: bids, kind: nexmark, table: bid, events: "${events}", pace: "${pace}"}
  - {uid: times, kind: watermark, input: bids, column: dateTime, max_out_of_orderness: 1 s}
  - uid: counts
    kind: window
    input: times
    key: [auction]
    window: {type: tumble, size: 1 s}
    aggregates: ["count(*) AS n"]
  - {uid: out, kind: file_sink, input: counts, path: "${output}", format: csv}
"#;

/// Threads and open files of a process.
fn usage(pid: u32) -> (usize, usize) {
    let count = |what: &str| std::fs::read_dir(format!("/proc/{pid}/{what}")).expect("the worker lives").count();
    (count("task"), count("fd"))
}

fn end_of(cluster: &Cluster, job: &str) -> String {
    let started = Instant::now();
    loop {
        let info = succeed(cluster.client(&["info", job]));
        if let Some(end) = ["CANCELED", "FINISHED"].into_iter().find(|end| info.contains(&format!("State      {end}")))
        {
            return end.to_owned();
        }
        assert!(!info.contains("FAILED"), "{info}");
        assert!(started.elapsed() < PATIENCE, "the job does not end:\n{info}");
        std::thread::sleep(Duration::from_millis(20));
    }
}

fn in_progress(directory: &Path) -> Vec<std::path::PathBuf> {
    files_below(directory).into_iter().filter(|path| path.to_string_lossy().contains("inprogress")).collect()
}

#[test]
fn job_cancelled_at_any_moment_leaves_no_thread_port_or_file() {
    let cluster = Cluster::start(1, 2);
    let worker = cluster.workers[0].id();
    let before = usage(worker);
    let directory = tempfile::tempdir().expect("a directory for the jobs");
    let file = directory.path().join("job.yaml");
    std::fs::write(&file, JOB).expect("write the job");
    let file = file.display().to_string();
    let mut canceled = 0;
    for n in 0u64..20 {
        // A multiplicative hash of n: moments from 0 to 150 ms, the same in every run.
        let delay_ms = (n.wrapping_mul(0x9E37_79B9_7F4A_7C15) >> 32) % 150;
        let output = directory.path().join(format!("out-{n}"));
        // Every second job comes to its end about then by itself.
        let (events, pace) = if n % 2 == 0 { ("1000000000", "20000") } else { ("40000", "400000") };
        let definitions = [("output", output.to_str().expect("a text path")), ("events", events), ("pace", pace)];
        let job = cluster.submit(&[&file, "-p", "2"], &definitions);
        std::thread::sleep(Duration::from_millis(delay_ms));
        // It may have ended already, and then the client says so.
        run(cluster.client(&["cancel", &job]));
        if end_of(&cluster, &job) == "CANCELED" {
            canceled += 1;
            assert_eq!(files_below(&output), Vec::<std::path::PathBuf>::new(), "job {n}, after {delay_ms} ms");
        }
        assert_eq!(in_progress(directory.path()), Vec::<std::path::PathBuf>::new(), "job {n}, after {delay_ms} ms");
    }
    assert!(canceled >= 10, "only {canceled} jobs were cancelled in time");
    // Idle threads for blocking work end after some seconds.
    let started = Instant::now();
    loop {
        let now = usage(worker);
        if now.0 <= before.0 && now.1 <= before.1 {
            return;
        }
        assert!(started.elapsed() < Duration::from_secs(40), "threads and files {before:?} before, {now:?} after");
        std::thread::sleep(Duration::from_millis(100));
    }
}
