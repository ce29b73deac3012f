//! Keys that are forgotten, in a whole job on real processes that lose a worker: the results are those of a simple model.

#![allow(clippy::disallowed_methods, reason = "real processes live on the real clock")]

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write;
use std::time::Duration;

use nix::sys::signal::Signal;
use weir_tests::{Cluster, sorted_lines};

const JOB: &str = r#"
name: forgetting
parameters: {input: null, output: null}
operators:
  - {uid: rows, kind: file_source, path: "${input}", format: json, rate: 10000, schema: [k BIGINT, v BIGINT, t BIGINT]}
  - {uid: times, kind: watermark, input: rows, column: time, time: from_epoch_millis(t), max_out_of_orderness: 1 s}
  - {uid: firsts, kind: first_by_key, input: times, key: [k], state_ttl: 3 s}
  - {uid: lasts, kind: last_by_key, input: times, key: [k], state_ttl: 3 s}
  - {uid: first-rows, kind: project, input: firsts, columns: [k, v, t]}
  - {uid: last-rows, kind: project, input: lasts, columns: [k, v, t]}
  - {uid: out, kind: file_sink, input: first-rows, path: "${output}/firsts.csv", format: csv}
  - {uid: out-lasts, kind: file_sink, input: last-rows, path: "${output}/lasts.csv", format: csv, upsert_key: [k]}
"#;

const ROWS: u64 = 30_000;
const TTL_MS: i64 = 3000;

/// Key, value and time of the rows: keys come and go, times are up to 900 ms out of order.
fn rows() -> Vec<(i64, i64, i64)> {
    let mix = |number: u64| number.wrapping_mul(0x9E37_79B9_7F4A_7C15) >> 33;
    let row = |number: u64| {
        let key = number / 3000 * 200 + mix(number) % 700;
        let time = 1_600_000_000_000 + number * 10 - mix(number + 7) % 90 * 10;
        (key as i64, number as i64, time as i64)
    };
    (0..ROWS).map(row).collect()
}

#[test]
fn c6_forgotten_keys_begin_anew_also_when_a_worker_is_killed() {
    let directory = tempfile::tempdir().expect("a directory");
    let place = |name: &str| directory.path().join(name);
    let (mut input, mut times, mut lasts) = (String::new(), BTreeMap::new(), BTreeMap::new());
    for (key, value, time) in rows() {
        writeln!(input, r#"{{"k": {key}, "v": {value}, "t": {time}}}"#).expect("write to text");
        times.entry(key).or_insert_with(BTreeMap::new).entry(time).or_insert(value);
        let newest: &mut (i64, i64) = lasts.entry(key).or_insert((time, value));
        *newest = (*newest).max((time, value));
    }
    let mut firsts = BTreeSet::new();
    for (key, times) in &times {
        let is_first = |time: &i64| times.range(time - TTL_MS..*time).next().is_none();
        firsts.extend(
            times.iter().filter(|(time, _)| is_first(time)).map(|(time, value)| format!("{key},{value},{time}")),
        );
    }
    assert!(firsts.len() > times.len() * 3 / 2, "many keys are forgotten and come again");
    std::fs::write(place("input.jsonl"), input).expect("write the input");
    std::fs::write(place("job.yaml"), JOB).expect("write the job");
    let [job, input, output] = ["job.yaml", "input.jsonl", "out"].map(|name| place(name).display().to_string());

    let mut cluster = Cluster::start(2, 4);
    let interval = ("execution.checkpointing.interval", "100 ms");
    let definitions = [("input", input.as_str()), ("output", output.as_str()), interval];
    let id = cluster.submit(&[&job, "-p", "3"], &definitions);
    cluster.wait_for(&id, "State      RUNNING");
    std::thread::sleep(Duration::from_millis(1300));
    cluster.workers[0].signal(Signal::SIGKILL);
    cluster.add_worker(4);
    cluster.wait_for(&id, "State      FINISHED");
    let found = sorted_lines(&place("out/firsts.csv"));
    assert_eq!(found[1..].iter().cloned().collect::<BTreeSet<_>>(), firsts);
    assert_eq!(found.len() - 1, firsts.len());
    let lasts: BTreeSet<String> = lasts.iter().map(|(key, (time, value))| format!("{key},{value},{time}")).collect();
    let found = sorted_lines(&place("out/lasts.csv"));
    assert_eq!(found[1..].iter().cloned().collect::<BTreeSet<_>>(), lasts);
    assert_eq!(found.len() - 1, lasts.len());
}
