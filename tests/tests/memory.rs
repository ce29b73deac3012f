//! State that is several times as large as a worker's memory: the same results, in bounded memory.

#![allow(clippy::disallowed_methods, reason = "real processes live on the real clock")]

use std::path::Path;
use std::process::Command;
use std::time::Duration;

use weir_tests::{Process, command, defining, root, sorted_lines};

/// Runs a job, which must finish; the most memory it held, in MiB.
fn run_to_its_end(command: Command) -> u64 {
    let mut process = Process::spawn(command);
    let mut most = 0;
    while !process.has_ended() {
        most = most.max(process.peak_memory_mib());
        std::thread::sleep(Duration::from_millis(10));
    }
    assert!(process.wait(), "the job finishes");
    most
}

/// Runs a job of the bench over so many events, of which three in fifty are auctions, each with an id of its own. Gives what
/// it sent into `sink`, the kind of a sink and its settings, and the most memory it held, in MiB.
fn run_into(sink: &str, (name, definitions): (&str, &[(&str, &str)]), memory: &str) -> (Vec<String>, u64) {
    let directory = tempfile::tempdir().expect("a directory for the job");
    let job = directory.path().join("job.yaml");
    let file = root().join("crates/bench/jobs").join(name);
    let text = std::fs::read_to_string(file).expect("the bench has the job");
    let out = directory.path().join("out");
    let sink = sink.replace("OUT", &out.display().to_string());
    std::fs::write(&job, text.replace("kind: blackhole", &sink)).expect("the job can be written");
    let summary = directory.path().join("summary.json");
    let (job, summary_path) = (job.display().to_string(), summary.display().to_string());
    let arguments = ["local", "run", &job, "-p", "2", "--memory", memory, "--summary", &summary_path];
    let most = run_to_its_end(defining(command(&arguments), definitions));
    let read = |path: &Path| std::fs::read_to_string(path).expect("it can be read");
    let mut sent: Vec<String> = match out.exists() {
        true => {
            let files =
                std::fs::read_dir(&out).expect("it is a directory").map(|file| file.expect("it is there").path());
            files.flat_map(|file| read(&file).lines().skip(1).map(str::to_owned).collect::<Vec<_>>()).collect()
        }
        false => {
            read(&summary).lines().filter(|line| line.contains("\"hash_")).map(|line| line.trim().into()).collect()
        }
    };
    assert!(!sent.is_empty(), "the sink tells what it got");
    sent.sort_unstable();
    (sent, most)
}

/// As [`run_into`], into a sink that tells totals.
fn run((name, events): (&str, &str), memory: &str) -> (Vec<String>, u64) {
    run_into("kind: hash", (name, &[("events", events)]), memory)
}

#[test]
fn windows_larger_than_memory_give_the_same_results_in_bounded_memory() {
    let job = ("keys_10m.yaml", "200000000");
    let (expected, in_memory) = run(job, "8GiB");
    let (found, on_disk) = run(job, "128MiB");
    assert_eq!(found, expected);
    assert!(on_disk < in_memory * 3 / 4, "{on_disk} MiB with 128 MiB of memory, {in_memory} MiB with plenty");
}

/// A sixth of the rows are of keys that come again, when their first rows have long left memory, which holds a tenth of them.
#[test]
fn first_rows_of_more_keys_than_memory_holds_are_the_same_in_bounded_memory() {
    let job: (&str, &[_]) = ("first_again.yaml", &[("events", "200000000"), ("keys", "10000000")]);
    let (expected, in_memory) = run_into("kind: hash", job, "8GiB");
    let (found, on_disk) = run_into("kind: hash", job, "128MiB");
    assert_eq!(found, expected);
    assert!(on_disk < in_memory * 2 / 3, "{on_disk} MiB with 128 MiB of memory, {in_memory} MiB with plenty");
}

/// Each key has two rows, of which the second, which comes when the first has long left memory, is often the smaller one.
#[test]
fn newest_rows_of_more_keys_than_memory_holds_are_the_same() {
    let sink = "kind: file_sink, path: OUT, format: csv, upsert_key: [k]";
    let job: (&str, &[_]) = ("last_again.yaml", &[("events", "66000000"), ("keys", "2000000")]);
    let (expected, _) = run_into(sink, job, "8GiB");
    let (found, _) = run_into(sink, job, "128MiB");
    assert_eq!(expected.len(), 40_000, "one key in fifty");
    assert!(found == expected, "{} rows, {} expected, or others", found.len(), expected.len());
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
    let most = run_to_its_end(defining(command, &[("output", &results)]));
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
