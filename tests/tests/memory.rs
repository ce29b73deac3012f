//! State that is several times as large as a worker's memory: the same results, in bounded memory.

#![allow(clippy::disallowed_methods, reason = "real processes live on the real clock")]

use std::time::Duration;

use weir_tests::{Process, command, defining, root, sorted_lines};

/// Runs a job of the bench over so many events, of which three in fifty are auctions, each with an id of its own; its sink's
/// totals, and the most memory it held, in MiB.
fn run((name, events): (&str, &str), memory: &str) -> (String, u64) {
    let directory = tempfile::tempdir().expect("a directory for the job");
    let job = directory.path().join("job.yaml");
    let file = root().join("crates/bench/jobs").join(name);
    let text = std::fs::read_to_string(file).expect("the bench has the job");
    std::fs::write(&job, text.replace("kind: blackhole", "kind: hash")).expect("the job can be written");
    let summary = directory.path().join("summary.json");
    let (job, summary_path) = (job.display().to_string(), summary.display().to_string());
    let arguments = ["local", "run", &job, "-p", "2", "--memory", memory, "--summary", &summary_path];
    let mut process = Process::spawn(defining(command(&arguments), &[("events", events)]));
    let mut most = 0;
    while !process.has_ended() {
        most = most.max(process.peak_memory_mib());
        std::thread::sleep(Duration::from_millis(10));
    }
    assert!(process.wait(), "the job finishes");
    let summary = std::fs::read_to_string(&summary).expect("a summary is written");
    let totals = summary.lines().filter(|line| line.contains("\"hash_")).map(str::trim).collect::<Vec<_>>();
    assert!(!totals.is_empty(), "the sink tells its totals: {summary}");
    (totals.join(" "), most)
}

#[test]
fn windows_larger_than_memory_give_the_same_results_in_bounded_memory() {
    let job = ("keys_10m.yaml", "100000000");
    let (expected, in_memory) = run(job, "8GiB");
    let (found, on_disk) = run(job, "128MiB");
    assert_eq!(found, expected);
    assert!(on_disk < in_memory * 3 / 4, "{on_disk} MiB with 128 MiB of memory, {in_memory} MiB with plenty");
}

/// A fifth of the rows are of keys that come again, when their first rows have long left memory.
#[test]
fn first_rows_of_more_keys_than_memory_holds_are_the_same() {
    let job = ("first_again.yaml", "60000000");
    let (expected, _) = run(job, "8GiB");
    let (found, _) = run(job, "128MiB");
    assert_eq!(found, expected);
}

/// Windows of millions of keys; a row of 61 comes when its window was emitted and has left memory. One result of 509 is kept,
/// as its last version: how often one is sent again depends on how rows come in batches. Without checkpoints, which need
/// memory of their own while they are written.
const LATE: &str = r#"
name: late rows
parameters: {output: null}
config: {execution.checkpointing.interval: 0 s}
operators:
  - {uid: auctions, kind: nexmark, table: auction, events: 150000000}
  - uid: keys
    kind: project
    input: auctions
    columns:
      - (id * 7919) % 2500000 AS k
      - CASE WHEN id % 61 = 0 THEN dateTime - INTERVAL '12 minutes' ELSE dateTime END AS at
  - {uid: times, kind: watermark, input: keys, column: at, max_out_of_orderness: 4 s}
  - uid: counts
    kind: window
    input: times
    key: [k]
    window: {type: tumble, size: 8 min}
    allowed_lateness: 1 d
    aggregates: ["count(*) AS n", "max(at) AS latest"]
  - {uid: some, kind: filter, input: counts, predicate: k % 509 = 0}
  - {uid: out, kind: file_sink, input: some, path: "${output}", format: csv, upsert_key: [k, window_start]}
"#;

/// The last results of `LATE`, sorted, and the most memory it took, in MiB.
fn run_late(memory: &str) -> (Vec<String>, u64) {
    let directory = tempfile::tempdir().expect("a directory for the job");
    let (job, output) = (directory.path().join("job.yaml"), directory.path().join("results.csv"));
    std::fs::write(&job, LATE).expect("the job can be written");
    let (job, results) = (job.display().to_string(), output.display().to_string());
    let command = command(&["local", "run", &job, "-p", "2", "--memory", memory]);
    let mut process = Process::spawn(defining(command, &[("output", &results)]));
    let mut most = 0;
    while !process.has_ended() {
        most = most.max(process.peak_memory_mib());
        std::thread::sleep(Duration::from_millis(10));
    }
    assert!(process.wait(), "the job finishes");
    (sorted_lines(&output), most)
}

#[test]
fn late_rows_update_windows_larger_than_memory() {
    let (expected, in_memory) = run_late("8GiB");
    let (found, on_disk) = run_late("128MiB");
    assert!(expected.len() > 10_000, "{} results", expected.len());
    assert_eq!(found, expected);
    assert!(on_disk < in_memory * 3 / 4, "{on_disk} MiB with 128 MiB of memory, {in_memory} MiB with plenty");
}
