//! A record that kills the task it comes to: after the third time it lies in the dead-letter output, and the job goes on
//! with all the others.

use std::fmt::Write;

use weir_tests::{Cluster, command, defining, fail, sorted_lines, succeed};

/// Sessions whose sum one record makes too great: the task dies of that record, wherever it is started again.
const JOB: &str = r"
name: poison
parameters: {input: null, output: null, dead: null, rate: 0}
operators:
  - {uid: reports, kind: file_source, path: '${input}', format: json, rate: '${rate}', schema: [k STRING, ms BIGINT, v BIGINT]}
  - {uid: times, kind: watermark, input: reports, column: event_time, time: from_epoch_millis(ms), max_out_of_orderness: 1 s}
  - {uid: sessions, kind: window, input: times, key: [k], window: {type: session, gap: 10 min}, two_phase: false, aggregates: [sum(v) AS total, count(*) AS n]}
  - {uid: rows, kind: project, input: sessions, columns: [k, total, n]}
  - {uid: output, kind: file_sink, input: rows, path: '${output}', format: csv}
  - {uid: dead, kind: file_sink, input: sessions.dead_letter, path: '${dead}', format: csv}
";

const KEYS: usize = 7;
const ROWS: usize = 40_000;

struct Workspace {
    directory: tempfile::TempDir,
}

impl Workspace {
    /// Rows of seven keys; those at `poison` are greater than any sum can hold beside another.
    fn new(poison: &[usize]) -> Workspace {
        let directory = tempfile::tempdir().expect("a directory");
        let mut lines = String::new();
        for row in 0..ROWS {
            let value = if poison.contains(&row) { i64::MAX } else { 1 };
            writeln!(lines, r#"{{"k":"k{}","ms":{},"v":{value}}}"#, row % KEYS, row * 10).expect("a line");
        }
        std::fs::write(directory.path().join("input.jsonl"), lines).expect("write the input");
        std::fs::write(directory.path().join("job.yaml"), JOB).expect("write the job");
        Workspace { directory }
    }

    fn path(&self, name: &str) -> String {
        self.directory.path().join(name).display().to_string()
    }

    fn definitions(&self) -> Vec<(&'static str, String)> {
        vec![
            ("input", self.path("input.jsonl")),
            ("output", self.path("out.csv")),
            ("dead", self.path("dead.csv")),
            ("execution.checkpointing.interval", "100 ms".to_owned()),
            ("restart-strategy.exponential-delay.initial-backoff", "50 ms".to_owned()),
        ]
    }

    /// The result is that of the other rows, and the dead letters hold exactly these.
    fn check(&self, poison: &[usize]) {
        let mut expected: Vec<String> = (0..KEYS)
            .map(|key| {
                let all = (0..ROWS).filter(|row| row % KEYS == key && !poison.contains(row)).count();
                format!("k{key},{all},{all}")
            })
            .collect();
        expected.insert(0, "k,total,n".to_owned());
        assert_eq!(sorted_lines(self.path("out.csv").as_ref()), expected);
        let dead = std::fs::read_to_string(self.path("dead.csv")).expect("dead letters");
        assert_eq!(dead.lines().count(), 1 + poison.len(), "{dead}");
        for row in poison {
            let original = format!(r#"""k"":""k{}"",""ms"":{}"#, row % KEYS, row * 10);
            let line = dead.lines().find(|line| line.contains(&original)).unwrap_or_else(|| panic!("{row}: {dead}"));
            assert!(line.starts_with("poison-record,sessions,"), "{line}");
            assert!(line.contains("does not fit") && line.contains(&i64::MAX.to_string()), "{line}");
        }
    }
}

fn borrowed<'a>(definitions: &'a [(&'static str, String)]) -> Vec<(&'a str, &'a str)> {
    definitions.iter().map(|(name, value)| (*name, value.as_str())).collect()
}

#[test]
fn d10_record_that_kills_three_times_lies_in_the_dead_letters_and_the_job_goes_on() {
    let poison = [20_011, 33_333];
    let work = Workspace::new(&poison);
    let definitions = work.definitions();
    let run = command(&["local", "run", &work.path("job.yaml"), "-p", "2"]);
    succeed(defining(run, &borrowed(&definitions)));
    work.check(&poison);
}

#[test]
fn d10_over_two_workers_each_kill_is_a_restart() {
    let poison = [11_111];
    let work = Workspace::new(&poison);
    let mut definitions = work.definitions();
    definitions.push(("rate", "20000".to_owned()));
    let cluster = Cluster::start(2, 2);
    let id = cluster.submit(&[&work.path("job.yaml"), "-p", "3"], &borrowed(&definitions));
    let info = cluster.wait_for(&id, "State      FINISHED");
    work.check(&poison);
    assert!(info.contains("Restarts   3"), "{info}");
}

#[test]
fn d10_strategy_that_does_not_restart_ends_the_job_with_the_cause() {
    let work = Workspace::new(&[20_011]);
    let mut definitions = work.definitions();
    definitions.push(("restart-strategy.type", "none".to_owned()));
    let run = command(&["local", "run", &work.path("job.yaml"), "-p", "2"]);
    let said = fail(defining(run, &borrowed(&definitions)));
    assert!(said.contains("sum-overflow") && said.contains("does not fit"), "{said}");
}
