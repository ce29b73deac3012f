//! A job that is changed and goes on from its savepoint, on real processes: what state may follow gives the result of the
//! whole input, anything else is refused at submission.

#![allow(clippy::disallowed_methods, reason = "real processes live on the real clock")]

use std::collections::BTreeMap;
use std::fmt::Write;
use std::path::Path;
use std::time::Duration;

use weir_tests::{Cluster, defining, fail, succeed};

/// Rows per key.
const ROWS: i64 = 4000;
const KEYS: i64 = 5;

const JOB: &str = r#"
name: changing
parameters: {input: null, output: null}
operators:
  - {uid: rows, kind: file_source, path: "${input}", format: json, rate: 5000, schema: [k INT, v INT, t BIGINT]}
  - {uid: times, kind: watermark, input: rows, column: time, time: from_epoch_millis(t), max_out_of_orderness: 1 h}
  - uid: counts
    kind: window
    input: times
    key: [k]
    window: {type: tumble, size: 10 h}
    aggregates: [count(*) AS n, max(v) AS greatest, sum(v) AS total]
  - {uid: firsts, kind: first_by_key, input: times, key: [k]}
  - {uid: out, kind: file_sink, input: counts, path: "${output}/counts.csv", format: csv}
  - {uid: out-firsts, kind: file_sink, input: firsts, path: "${output}/firsts.csv", format: csv}
"#;

/// The job with wider numbers, one more aggregate and one more column; its sinks are new, for their rows are.
fn wider() -> String {
    JOB.replace("[k INT, v INT, t BIGINT]", "[k BIGINT, v BIGINT, t BIGINT, w STRING]")
        .replace("sum(v) AS total]", "sum(v) AS total, min(v) AS least]")
        .replace("uid: out", "uid: then")
}

fn write_input(path: &Path) {
    let mut text = String::new();
    for row in 0..ROWS * KEYS {
        let (key, value, time) = (row % KEYS, row / KEYS, 1_600_000_000_000 + row);
        writeln!(text, r#"{{"k": {key}, "v": {value}, "t": {time}, "w": "new"}}"#).expect("write to text");
    }
    std::fs::write(path, text).expect("write the input");
}

/// The rows of a CSV file: by header, sorted.
fn rows(path: &Path) -> Vec<BTreeMap<String, String>> {
    let text = std::fs::read_to_string(path).unwrap_or_else(|error| panic!("read {}: {error}", path.display()));
    let mut lines = text.lines().map(|line| line.split(',').map(str::to_owned).collect::<Vec<_>>());
    let header = lines.next().expect("a header");
    let mut rows: Vec<BTreeMap<String, String>> =
        lines.map(|line| header.iter().cloned().zip(line).collect()).collect();
    rows.sort_by_key(|row| row["k"].clone());
    rows
}

#[test]
fn changed_job_goes_on_from_its_state_or_is_refused_at_submission() {
    let directory = tempfile::tempdir().expect("a directory");
    let place = |name: &str| directory.path().join(name).display().to_string();
    let write = |name: &str, text: &str| {
        std::fs::write(place(name), text).expect("write the job");
        place(name)
    };
    let input = place("input.jsonl");
    write_input(Path::new(&input));
    let (before, after) = (place("before"), place("after"));
    let cluster = Cluster::start(1, 6);
    let definitions = [("input", input.as_str()), ("output", before.as_str())];
    let first = cluster.submit(&[&write("job.yaml", JOB), "-p", "2"], &definitions);
    cluster.wait_for(&first, "State      RUNNING");
    std::thread::sleep(Duration::from_millis(1500));
    let stopped = succeed(cluster.client(&["stop", "--savepointPath", &place("savepoints"), &first]));
    let mut words = stopped.split_whitespace().map(|word| word.trim_end_matches('.'));
    let savepoint = words.find(|word| word.contains("savepoint-")).expect("the path of the savepoint").to_owned();
    cluster.wait_for(&first, "State      FINISHED");

    // Refused before anything of it runs, with every place and cause.
    let other = wider().replace("[k BIGINT, v BIGINT,", "[k BIGINT, v STRING,").replace("sum(v) AS total, ", "");
    let other = write("other.yaml", &other.replace("10 h}", "5 h}"));
    let definitions = [("input", input.as_str()), ("output", after.as_str())];
    let again = |job: &str| {
        let arguments = ["run", "-d", job, "-p", "3", "-s", &savepoint, "--allowNonRestoredState"];
        defining(cluster.client(&arguments), &definitions)
    };
    let refusal = fail(again(&other));
    let expected = [
        "operator 'counts', window:",
        "operator 'counts', aggregates: state has the aggregate 'total' (sum(v) AS total)",
        "operator 'counts', aggregates: the aggregate 'greatest' is INT in state and STRING in the job",
        "operator 'firsts', v: the column 'v' of rows in state is INT and STRING in the job",
    ];
    for part in expected {
        assert!(refusal.contains(part), "{part} is not in:\n{refusal}");
    }
    let listed = succeed(cluster.client(&["list"]));
    assert_eq!(listed.lines().filter(|line| line.contains("changing")).count(), 1, "{listed}");

    // Taken over: the result is that of all rows, the new aggregate that of the rows since.
    let printed = succeed(again(&write("wider.yaml", &wider())));
    let second = printed.trim().rsplit(' ').next().expect("the job's id");
    cluster.wait_for(second, "State      FINISHED");
    let counts = rows(&directory.path().join("after/counts.csv"));
    assert_eq!(counts.len() as i64, KEYS, "{counts:?}");
    for row in &counts {
        assert_eq!(row["n"], ROWS.to_string(), "{row:?}");
        assert_eq!(row["greatest"], (ROWS - 1).to_string(), "{row:?}");
        assert_eq!(row["total"], (ROWS * (ROWS - 1) / 2).to_string(), "{row:?}");
        let least: i64 = row["least"].parse().expect("a number");
        assert!(least > 0 && least < ROWS, "some rows came before the savepoint, some behind: {row:?}");
    }
    let firsts = rows(&directory.path().join("after/firsts.csv"));
    let first_rows: Vec<_> = firsts.iter().map(|row| (row["v"].as_str(), row["w"].as_str())).collect();
    assert_eq!(first_rows, [("0", ""); KEYS as usize], "{firsts:?}");
}
