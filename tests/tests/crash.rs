//! Jobs whose processes are killed while they run: the results must be those of an undisturbed run, to the row.
//!
//! Each run kills something at a moment of its own, from the run's number alone, and a third of them move the job to another
//! parallelism behind it. The short form runs here; `WEIR_CRASH_RUNS`
//! sets how many runs each test makes (`make crash` makes many). A failure names the run, which can be repeated with
//! `WEIR_CRASH_FIRST`.

#![allow(clippy::disallowed_methods, reason = "real processes live on the real clock")]

use std::time::{Duration, Instant};

use nix::sys::signal::Signal;
use weir_tests::{Cluster, PATIENCE, assert_same, root, run, sorted_lines, succeed};

const SETTINGS: [(&str, &str); 2] =
    [("execution.checkpointing.interval", "200 ms"), ("restart-strategy.exponential-delay.initial-backoff", "50 ms")];

/// A multiplicative hash: the same moments in every run.
struct Dice(u64);

impl Dice {
    fn below(&mut self, bound: u64) -> u64 {
        self.0 = self.0.wrapping_mul(0xD134_2543_DE82_EF95).wrapping_add(0x9E37_79B9_7F4A_7C15);
        (self.0 >> 33) % bound
    }
}

fn runs(short: u64) -> std::ops::Range<u64> {
    let number = |name: &str| std::env::var(name).ok().and_then(|text| text.parse::<u64>().ok());
    let first = number("WEIR_CRASH_FIRST").unwrap_or(0);
    first..first + number("WEIR_CRASH_RUNS").unwrap_or(short)
}

/// What is done to a cluster.
#[derive(Debug)]
enum Fault {
    KillWorker(usize),
    KillAllWorkers,
    KillCoordinator,
    PauseWorker(usize),
}

impl Fault {
    fn draw(dice: &mut Dice) -> Fault {
        match dice.below(4) {
            0 => Fault::KillWorker(dice.below(2) as usize),
            1 => Fault::KillAllWorkers,
            2 => Fault::KillCoordinator,
            _ => Fault::PauseWorker(dice.below(2) as usize),
        }
    }

    /// Does it, and brings back as many processes as died.
    fn strike(&self, cluster: &mut Cluster) {
        match self {
            Fault::KillWorker(index) => {
                cluster.workers[*index].signal(Signal::SIGKILL);
                cluster.add_worker(2);
            }
            Fault::KillAllWorkers => {
                cluster.workers.iter().take(2).for_each(|worker| worker.signal(Signal::SIGKILL));
                cluster.add_worker(2);
                cluster.add_worker(2);
            }
            Fault::KillCoordinator => cluster.restart_coordinator(),
            // Longer than its lease: it is given up, and must not write when it wakes up.
            Fault::PauseWorker(index) => {
                cluster.workers[*index].signal(Signal::SIGSTOP);
                std::thread::sleep(Duration::from_millis(4500));
                cluster.workers[*index].signal(Signal::SIGCONT);
            }
        }
    }
}

/// Runs a job under one fault to its end.
fn under_fault(run: u64, job: &str, mut definitions: Vec<(&str, &str)>) -> (Cluster, String, Fault) {
    let mut dice = Dice(run.wrapping_add(1));
    let fault = Fault::draw(&mut dice);
    let parallelism = (1 + dice.below(4)).to_string();
    let moment = Duration::from_millis(300 + dice.below(2500));
    let mut cluster = Cluster::start(2, 2);
    definitions.extend(SETTINGS);
    let id = cluster.submit(&[job, "-p", &parallelism], &definitions);
    std::thread::sleep(moment);
    eprintln!("run {run}: {fault:?} after {moment:?}, parallelism {parallelism}, {job}");
    fault.strike(&mut cluster);
    if run % 3 == 2 {
        rescale(&cluster, &id, 1 + dice.below(4));
    }
    cluster.wait_for(&id, "State      FINISHED");
    (cluster, id, fault)
}

/// Moves the job to another parallelism, from a checkpoint of its own; what has ended before needs it no more. A job that is
/// just coming back from the fault is asked again.
fn rescale(cluster: &Cluster, job: &str, parallelism: u64) {
    let started = Instant::now();
    loop {
        cluster.wait_for_any(job, &["State      RUNNING", "State      FINISHED"]);
        let output = run(cluster.client(&["rescale", job, "-p", &parallelism.to_string()]));
        let said = String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
        eprintln!("rescale to {parallelism}: {}", said.trim());
        if output.status.success() || succeed(cluster.client(&["info", job])).contains("State      FINISHED") {
            return;
        }
        assert!(started.elapsed() < PATIENCE, "the job is not rescaled: {said}");
        std::thread::sleep(Duration::from_millis(100));
    }
}

#[test]
fn hashes_survive_kills() {
    let golden =
        std::fs::read_to_string(root().join("testdata/nexmark/golden-1M-rate1000.txt")).expect("golden results");
    for run in runs(4) {
        let query = ["q5", "q8", "q11"][run as usize % 3];
        let expected = golden.lines().find(|line| line.split(' ').next() == Some(query)).expect("a golden line");
        let job = format!("examples/nexmark/{query}.yaml");
        let definitions = vec![("events", "1000000"), ("rate", "1000"), ("pace", "250000")];
        let (cluster, id, fault) = under_fault(run, &job, definitions);
        let info = succeed(cluster.client(&["info", &id]));
        let total = |name: &str| -> u64 {
            let behind = info.split(&format!("{name} ")).nth(1).expect("the sink's totals");
            behind
                .split(|letter: char| !letter.is_ascii_digit())
                .next()
                .and_then(|text| text.parse().ok())
                .expect("a number")
        };
        let line = format!("{query} {} {} {:016x}", total("hash_inserts"), total("hash_retracts"), total("hash_value"));
        assert_eq!(line, expected, "run {run}, {fault:?}");
    }
}

#[test]
fn files_survive_kills() {
    for run in runs(4) {
        let query = ["tumble_1m_by_vehicle", "hop_5m_1m_by_cell", "session_10m_by_vehicle", "latest_by_vehicle"]
            [run as usize % 4];
        let directory = tempfile::tempdir().expect("a directory for the result");
        let output = directory.path().join("out.csv");
        let job = format!("examples/positions/{query}.yaml");
        let input = root().join("testdata/positions/positions.jsonl.gz").display().to_string();
        let definitions =
            vec![("input", input.as_str()), ("output", output.to_str().expect("a text path")), ("rate", "40000")];
        let (_cluster, _, fault) = under_fault(run + 100, &job, definitions);
        let expected = sorted_lines(&root().join(format!("testdata/positions/expected/{query}.csv")));
        assert_same(&sorted_lines(&output), &expected, &format!("run {run}, {fault:?}, {query}"));
        let left = weir_tests::files_below(directory.path());
        assert_eq!(left, [output], "run {run}, {fault:?}: nothing but the result is left");
    }
}
