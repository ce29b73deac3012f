//! `weir local run` as a user meets it: exit code, standard output, standard error.

use std::process::{Command, Output, Stdio};

const JOB: &str = r#"
name: small
parameters: {events: 1000}
operators:
  - {uid: bids, kind: nexmark, table: bid, events: "${events}"}
  - {uid: dear, kind: filter, input: bids, predicate: price > 0}
  - {uid: out, kind: hash, input: dear}
"#;

fn weir(job: &str, arguments: &[&str]) -> Output {
    let directory = tempfile::tempdir().expect("a directory for the job");
    let file = directory.path().join("job.yaml");
    std::fs::write(&file, job).expect("write the job");
    let mut command = Command::new(env!("CARGO_BIN_EXE_weir"));
    command.args(["local", "run"]).arg(&file).args(arguments).env_remove("RUST_LOG").stdin(Stdio::null());
    command.output().expect("weir runs")
}

#[test]
fn finished_job_prints_its_hash_line_and_nothing_else() {
    let print = |arguments: &[&str]| {
        let output = weir(JOB, arguments);
        let errors = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(output.status.success(), "{errors}");
        assert!(errors.contains("FINISHED"), "{errors}");
        String::from_utf8(output.stdout).expect("text")
    };
    let alone = print(&["-p", "1"]);
    let words: Vec<&str> = alone.trim_end().split(' ').collect();
    assert_eq!((words[0], words[1], words[2], words[3].len()), ("small", "920", "0", 16), "{alone}");
    assert_eq!(print(&["-p", "4"]), alone);
}

#[test]
fn refused_job_lists_its_problems_and_fails() {
    let job = JOB.replace("price > 0", "prise > 0").replace("kind: hash", "kind: hasch");
    let output = weir(&job, &[]);
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(!output.status.success() && output.stdout.is_empty(), "{errors}");
    for part in ["2 problems", "operator 'dear', predicate", "did you mean 'hash'?"] {
        assert!(errors.contains(part), "{part} is not in:\n{errors}");
    }
    let output = weir(JOB, &["-D", "evnets=5"]);
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(!output.status.success() && errors.contains("did you mean 'events'?"), "{errors}");
}
