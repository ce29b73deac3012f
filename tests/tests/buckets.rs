//! File sinks whose processes are killed, and jobs that are cancelled in the middle: on disk and in a bucket of a real S3
//! server, with the checkpoints in the same bucket. Results are those of an undisturbed run, and nothing else is left.

#![allow(clippy::disallowed_methods, reason = "real processes live on the real clock")]

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::time::Duration;

use nix::sys::signal::Signal;
use weir_testkit::S3Server;
use weir_testkit::s3_server::BUCKET;
use weir_tests::{Cluster, assert_same, files_below, root, sorted_lines, succeed};

/// Counts bids per auction and second for ever, into files.
const JOB: &str = r#"
name: endless
parameters: {output: null}
operators:
  - {uid: bids, kind: nexmark, table: bid, events: 1000000000, rate: 1000, pace: 40000}
  - {uid: times, kind: watermark, input: bids, column: dateTime, max_out_of_orderness: 1 s}
  - uid: counts
    kind: window
    input: times
    key: [auction]
    window: {type: tumble, size: 1 s}
    aggregates: ["count(*) AS n"]
  - {uid: out, kind: file_sink, input: counts, path: "${output}", format: csv}
"#;

fn server() -> S3Server {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    runtime.block_on(S3Server::start())
}

/// The settings that lead a job to a server.
fn settings(server: &S3Server) -> Vec<(String, String)> {
    let pairs = [
        ("s3.endpoint", format!("http://{}", server.address())),
        ("s3.path-style-access", "true".to_owned()),
        ("execution.checkpointing.dir", format!("s3://{BUCKET}/state")),
        ("execution.checkpointing.interval", "200 ms".to_owned()),
        ("restart-strategy.exponential-delay.initial-backoff", "50 ms".to_owned()),
    ];
    pairs.map(|(key, value)| (key.to_owned(), value)).into()
}

fn borrowed(pairs: &[(String, String)]) -> Vec<(&str, &str)> {
    pairs.iter().map(|(key, value)| (key.as_str(), value.as_str())).collect()
}

/// Files of uploads that are open: the server keeps them beside the objects.
fn open_uploads(server: &S3Server) -> Vec<PathBuf> {
    files_below(&server.file(".sgwtmp"))
}

#[test]
fn files_in_a_bucket_survive_kills() {
    let server = server();
    for (run, (query, moment)) in [("tumble_1m_by_vehicle", 1500), ("latest_by_vehicle", 900)].into_iter().enumerate() {
        let mut cluster = Cluster::start(2, 2);
        let input = root().join("testdata/positions/positions.jsonl.gz").display().to_string();
        let output = format!("s3://{BUCKET}/results-{run}/out.csv");
        let settings = settings(&server);
        let mut definitions = borrowed(&settings);
        definitions.extend([("input", input.as_str()), ("output", output.as_str()), ("rate", "40000")]);
        let id = cluster.submit(&[&format!("examples/positions/{query}.yaml"), "-p", "2"], &definitions);
        std::thread::sleep(Duration::from_millis(moment));
        cluster.workers[run % 2].signal(Signal::SIGKILL);
        cluster.add_worker(2);
        cluster.wait_for(&id, "State      FINISHED");
        let expected = sorted_lines(&root().join(format!("testdata/positions/expected/{query}.csv")));
        let result = server.file(&format!("results-{run}/out.csv"));
        assert_same(&sorted_lines(&result), &expected, query);
        assert_eq!(files_below(&server.file(&format!("results-{run}"))), [result], "nothing but the result is left");
        assert_eq!(open_uploads(&server), Vec::<PathBuf>::new());
    }
}

/// Runs the endless job, kills a worker under it, cancels it at once, and gives its visible files.
fn killed_and_cancelled(output: &str, definitions: &[(&str, &str)]) {
    let mut cluster = Cluster::start(2, 2);
    let directory = tempfile::tempdir().expect("a directory for the job");
    let file = directory.path().join("job.yaml");
    std::fs::write(&file, JOB).expect("write the job");
    let definitions = [definitions, &[("output", output)]].concat();
    let id = cluster.submit(&[&file.display().to_string(), "-p", "4"], &definitions);
    cluster.wait_for(&id, "State      RUNNING");
    std::thread::sleep(Duration::from_millis(1700));
    // What the killed one was writing is nobody's now.
    cluster.workers[0].signal(Signal::SIGKILL);
    succeed(cluster.client(&["cancel", &id]));
    cluster.wait_for(&id, "State      CANCELED");
    cluster.workers.clear();
}

/// Checks that the visible files are whole, and that no window is in them twice.
fn check_rows(files: &[PathBuf]) {
    let mut seen = BTreeSet::new();
    for file in files {
        let text = std::fs::read_to_string(file).expect("reads");
        let mut lines = text.split_inclusive('\n');
        assert_eq!(lines.next(), Some("auction,window_start,window_end,window_time,n\n"), "{}", file.display());
        for line in lines {
            assert!(line.ends_with('\n') && line.split(',').count() == 5, "{}: {line}", file.display());
            let key: Vec<&str> = line.split(',').take(2).collect();
            assert!(seen.insert(key.join(",")), "{line} is there twice");
        }
    }
    assert!(!seen.is_empty(), "something was published");
}

#[test]
fn job_that_is_cancelled_after_a_kill_leaves_only_finished_files() {
    let directory = tempfile::tempdir().expect("a directory for the result");
    let output = directory.path().join("out");
    let interval = ("execution.checkpointing.interval", "200 ms");
    killed_and_cancelled(output.to_str().expect("a text path"), &[interval]);
    let files = files_below(directory.path());
    assert!(files.iter().all(|file| !file.to_string_lossy().contains("inprogress")), "{files:?}");
    check_rows(&files);

    let server = server();
    killed_and_cancelled(&format!("s3://{BUCKET}/out"), &borrowed(&settings(&server)));
    check_rows(&files_below(&server.file("out")));
    assert_eq!(open_uploads(&server), Vec::<PathBuf>::new());
}

#[test]
fn single_file_of_a_cancelled_job_stays_with_its_checkpoint_and_goes_with_it() {
    let interval = ("execution.checkpointing.interval", "200 ms");
    let key = "execution.checkpointing.externalized-checkpoint-retention";
    for (retention, is_kept) in [("RETAIN_ON_CANCELLATION", true), ("DELETE_ON_CANCELLATION", false)] {
        let directory = tempfile::tempdir().expect("a directory for the result");
        let output = directory.path().join("out.csv");
        killed_and_cancelled(output.to_str().expect("a text path"), &[interval, (key, retention)]);
        let left = files_below(directory.path());
        assert_eq!(!left.is_empty(), is_kept, "{retention}: {left:?}");
        assert!(!output.exists(), "nothing is shown before the end");
    }
}

/// The path that `weir stop` or `weir savepoint` prints at the end of a line.
fn savepoint_in(text: &str) -> String {
    let words = text.split_whitespace().rev();
    words.map(|word| word.trim_end_matches('.')).find(|word| word.contains("savepoint-")).expect("a path").to_owned()
}

#[test]
fn stopped_job_goes_on_from_its_savepoint_and_shows_the_whole_result_in_the_end() {
    let server = server();
    let query = "tumble_1m_by_vehicle";
    let expected = sorted_lines(&root().join(format!("testdata/positions/expected/{query}.csv")));
    let job = format!("examples/positions/{query}.yaml");
    let input = root().join("testdata/positions/positions.jsonl.gz").display().to_string();
    for is_in_bucket in [false, true] {
        let directory = tempfile::tempdir().expect("a directory for the result");
        let (output, result, savepoints) = match is_in_bucket {
            true => (
                format!("s3://{BUCKET}/stopped/out.csv"),
                server.file("stopped/out.csv"),
                format!("s3://{BUCKET}/savepoints"),
            ),
            false => {
                let result = directory.path().join("out.csv");
                let savepoints = directory.path().join("savepoints");
                (result.display().to_string(), result, savepoints.display().to_string())
            }
        };
        let cluster = Cluster::start(1, 4);
        let settings = settings(&server);
        let mut definitions = borrowed(&settings);
        definitions.extend([("input", input.as_str()), ("output", output.as_str()), ("rate", "40000")]);
        let first = cluster.submit(&[&job, "-p", "2"], &definitions);
        cluster.wait_for(&first, "State      RUNNING");
        std::thread::sleep(Duration::from_millis(1200));
        let savepoint = savepoint_in(&succeed(cluster.client(&["stop", "--savepointPath", &savepoints, &first])));
        cluster.wait_for(&first, "State      FINISHED");
        assert!(sorted_lines(&result).len() < expected.len(), "it was stopped before its end");
        let second = cluster.submit(&[&job, "-p", "3", "-s", &savepoint], &definitions);
        cluster.wait_for(&second, "State      FINISHED");
        assert_same(&sorted_lines(&result), &expected, &output);
    }
}
