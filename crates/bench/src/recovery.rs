//! How long no new result comes when a worker is killed or frozen under a live stream with much state: real processes, the
//! default settings, a table. Called by `weir-bench --recovery`.

#![allow(clippy::disallowed_methods, reason = "it measures real processes on the real clock")]

use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Child, ChildStdout, Command, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use anyhow::{Context, bail, ensure};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde::Serialize;

/// Records per second of the live stream.
const RECORDS_PER_S: u64 = 100_000;
/// Three of fifty events of the stream are auctions.
const EVENTS_PER_RECORD: f64 = 50.0 / 3.0;
/// Results that were on their way when the worker was lost are no more than so much newer than the last one seen.
const ON_THE_WAY_MS: i64 = 150;
/// Longest time anything may take.
const PATIENCE: Duration = Duration::from_secs(120);
/// Time between two checkpoints: the default.
const INTERVAL_MS: u64 = 10_000;

/// Something that happens to a worker.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Loss {
    Killed,
    Frozen,
}

struct Case {
    name: &'static str,
    loss: Loss,
    /// Keys in the state.
    keys: u64,
    runs: usize,
    /// Seconds: for the middle run, and for the slowest.
    goals: (Option<f64>, Option<f64>),
}

const CASES: [Case; 4] = [
    Case { name: "kill -9, no state", loss: Loss::Killed, keys: 1_000, runs: 10, goals: (Some(1.5), Some(3.0)) },
    Case { name: "kill -9, 100 MB", loss: Loss::Killed, keys: 3_600_000, runs: 20, goals: (Some(1.5), Some(3.0)) },
    Case { name: "kill -9, 1 GB", loss: Loss::Killed, keys: 36_000_000, runs: 8, goals: (Some(4.0), None) },
    Case { name: "frozen, 100 MB", loss: Loss::Frozen, keys: 3_600_000, runs: 10, goals: (Some(4.0), None) },
];

/// What one case gave. **Units**: seconds from the loss to the first new result.
#[derive(Serialize)]
pub struct Recovered {
    name: &'static str,
    runs: usize,
    least_s: f64,
    p50_s: f64,
    p99_s: f64,
    greatest_s: f64,
    /// Bytes of checkpoints on disk before the loss, in the last run.
    state_bytes: u64,
    /// Restarts of the job per loss, in all runs.
    restarts: u64,
}

/// Measures all cases whose names contain `only`, prints them and writes them as JSON.
///
/// **Errors**: processes that do not do what they must.
pub fn measure(weir: &Path, out: &Path, only: &str, runs: Option<usize>) -> anyhow::Result<()> {
    let mut table = Vec::new();
    for case in CASES.iter().filter(|case| case.name.contains(only)) {
        eprintln!("==> recovery, {}: {} records per second on two workers", case.name, RECORDS_PER_S);
        table.push(measure_case(weir, out, case, runs.unwrap_or(case.runs))?);
    }
    let mut stdout = std::io::stdout().lock();
    writeln!(
        stdout,
        "\n{:<20} {:>5} {:>9} {:>8} {:>8} {:>8} {:>8} {:>9}  goal",
        "worker lost", "runs", "state MB", "least s", "p50 s", "p99 s", "most s", "restarts"
    )?;
    for row in &table {
        let goals = CASES.iter().find(|case| case.name == row.name).map(|case| case.goals).unwrap_or_default();
        let goal = |of: &str, goal: Option<f64>| goal.map(|goal| format!("{of} {goal} s")).unwrap_or_default();
        writeln!(
            stdout,
            "{:<20} {:>5} {:>9.0} {:>8.2} {:>8.2} {:>8.2} {:>8.2} {:>9}  {} {}",
            row.name,
            row.runs,
            row.state_bytes as f64 / 1e6,
            row.least_s,
            row.p50_s,
            row.p99_s,
            row.greatest_s,
            row.restarts,
            goal("p50", goals.0),
            goal("p99", goals.1)
        )?;
    }
    std::fs::write(out.join("recovery.json"), serde_json::to_string_pretty(&table)?).context("write recovery.json")
}

fn measure_case(weir: &Path, out: &Path, case: &Case, runs: usize) -> anyhow::Result<Recovered> {
    let (mut seconds, mut state_bytes, mut restarts) = (Vec::new(), 0, 0);
    for run in 0..runs.max(1) {
        let lost = lose_a_worker(weir, &out.join("recovery"), case, run)
            .with_context(|| format!("{}, run {run}", case.name))?;
        eprintln!("    run {run}: {:.2} s", lost.pause.as_secs_f64());
        seconds.push(lost.pause.as_secs_f64());
        state_bytes = lost.state_bytes;
        restarts += lost.restarts;
    }
    seconds.sort_by(f64::total_cmp);
    let at = |share: f64| seconds[((seconds.len() - 1) as f64 * share).ceil() as usize];
    let (least_s, p50_s, p99_s, greatest_s) = (at(0.0), at(0.5), at(0.99), at(1.0));
    Ok(Recovered { name: case.name, runs: seconds.len(), least_s, p50_s, p99_s, greatest_s, state_bytes, restarts })
}

struct Lost {
    pause: Duration,
    state_bytes: u64,
    restarts: u64,
}

fn lose_a_worker(weir: &Path, directory: &Path, case: &Case, run: usize) -> anyhow::Result<Lost> {
    let _ = std::fs::remove_dir_all(directory);
    let cluster = Cluster::start(weir, directory)?;
    let since_ms = unix_ms()? - (case.keys * 1000 / RECORDS_PER_S) as i64;
    let pace = (RECORDS_PER_S as f64 * EVENTS_PER_RECORD) as u64;
    let events = (case.keys as f64 * EVENTS_PER_RECORD) as u64 + pace * 600;
    let submitted = cluster.client(&[
        "run",
        "-d",
        "crates/bench/jobs/recovery.yaml",
        "-p",
        "2",
        "-D",
        &format!("events={}", events / 50 * 50),
        "-D",
        &format!("keys={}", case.keys),
        "-D",
        &format!("pace={pace}"),
        "-D",
        &format!("since_ms={since_ms}"),
        "-D",
        &format!("execution.checkpointing.interval={INTERVAL_MS} ms"),
    ])?;
    let job = submitted.trim().rsplit(' ').next().context("the job's id")?.to_owned();
    let mut results = Results::default();
    // Until it has caught up with what had come before it was started.
    results.read_until(&cluster.lines, |results, _| {
        let (Some(first), Some(newest)) = (results.first_ms, results.newest_ms) else { return false };
        unix_ms().is_ok_and(|now| now - since_ms - (newest - first) < 500)
    })?;
    cluster.client(&["checkpoint", &job])?;
    // Any moment between two checkpoints.
    let moment = Duration::from_millis(INTERVAL_MS / 20 + (run as u64 * 3_700) % INTERVAL_MS);
    let until = Instant::now() + moment;
    results.read_until(&cluster.lines, |_, now| now >= until)?;
    let state_bytes = size_of(&directory.join("coordinator"));
    let victim = &cluster.processes[1 + run % 2];
    let signal = if case.loss == Loss::Killed { Signal::SIGKILL } else { Signal::SIGSTOP };
    let lost_at = Instant::now();
    kill(Pid::from_raw(victim.id() as i32), signal)?;
    let before_ms = results.newest_ms.context("no result before the loss")?;
    let came_at = results.read_until(&cluster.lines, |results, _| {
        results.newest_ms.is_some_and(|newest| newest > before_ms + ON_THE_WAY_MS)
    })?;
    let info = cluster.client(&["info", &job])?;
    let restarts = info.lines().find_map(|line| line.strip_prefix("Restarts"));
    let restarts = restarts.and_then(|rest| rest.trim().split([',', ' ']).next()?.parse().ok()).unwrap_or(0);
    Ok(Lost { pause: came_at - lost_at, state_bytes, restarts })
}

/// The moments that were printed.
#[derive(Default)]
struct Results {
    first_ms: Option<i64>,
    newest_ms: Option<i64>,
}

impl Results {
    /// Reads lines until `is_enough`; when the last of them came.
    fn read_until(
        &mut self,
        lines: &Receiver<(Instant, String)>,
        is_enough: impl Fn(&Results, Instant) -> bool,
    ) -> anyhow::Result<Instant> {
        let until = Instant::now() + PATIENCE;
        loop {
            let now = match lines.recv_timeout(Duration::from_millis(20)) {
                Ok((came_at, line)) => {
                    // `+I[1700000000050, 5000]`
                    let moment = line.split_once("+I[").and_then(|(_, row)| row.split(',').next()?.parse().ok());
                    if let Some(moment) = moment {
                        self.first_ms.get_or_insert(moment);
                        self.newest_ms = self.newest_ms.max(Some(moment));
                    }
                    came_at
                }
                Err(RecvTimeoutError::Timeout) => Instant::now(),
                Err(RecvTimeoutError::Disconnected) => bail!("all workers have ended"),
            };
            if is_enough(self, now) {
                return Ok(now);
            }
            ensure!(now < until, "no end after {PATIENCE:?}; the newest result is {:?}", self.newest_ms);
        }
    }
}

/// A coordinator and two workers with two slots each.
struct Cluster<'a> {
    weir: &'a Path,
    address: String,
    processes: Vec<Child>,
    lines: Receiver<(Instant, String)>,
}

impl<'a> Cluster<'a> {
    fn start(weir: &'a Path, directory: &Path) -> anyhow::Result<Cluster<'a>> {
        let spawn = |arguments: &[&str], name: &str| {
            let mut command = Command::new(weir);
            command.args(arguments).args(["--http", "127.0.0.1:0"]).arg("--data-dir").arg(directory.join(name));
            let child = command.stdout(Stdio::piped()).stderr(Stdio::null()).stdin(Stdio::null()).spawn();
            child.context("start a process of the cluster")
        };
        let (sender, lines) = channel();
        let mut cluster = Cluster { weir, address: String::new(), processes: Vec::new(), lines };
        cluster.processes.push(spawn(&["coordinator", "--listen", "127.0.0.1:0"], "coordinator")?);
        let stdout = cluster.processes[0].stdout.take().context("the coordinator has no output")?;
        let mut line = String::new();
        BufReader::new(stdout).read_line(&mut line)?;
        cluster.address = line.trim().rsplit(' ').next().unwrap_or_default().to_owned();
        ensure!(cluster.address.contains(':'), "the coordinator did not print its address: {line:?}");
        for name in ["worker-1", "worker-2"] {
            let mut worker = spawn(&["worker", "--coordinator", &cluster.address, "--slots", "2"], name)?;
            let stdout = worker.stdout.take().context("a worker has no output")?;
            cluster.processes.push(worker);
            read_lines(stdout, sender.clone());
            // Its first line says that it is registered.
            cluster.lines.recv_timeout(PATIENCE).context("a worker does not come up")?;
        }
        Ok(cluster)
    }

    /// Runs a client command; its standard output.
    fn client(&self, arguments: &[&str]) -> anyhow::Result<String> {
        let mut command = Command::new(self.weir);
        command.args(&arguments[..1]).args(["-m", &self.address]).args(&arguments[1..]);
        let output = command.stdin(Stdio::null()).output().context("run a client command")?;
        ensure!(output.status.success(), "{command:?}: {}", String::from_utf8_lossy(&output.stderr));
        Ok(String::from_utf8_lossy(&output.stdout).into_owned())
    }
}

impl Drop for Cluster<'_> {
    fn drop(&mut self) {
        for process in &mut self.processes {
            // A killed one is gone already, and a frozen one ends by this too.
            let _ = process.kill();
            let _ = process.wait();
        }
    }
}

fn read_lines(stdout: ChildStdout, lines: Sender<(Instant, String)>) {
    std::thread::spawn(move || {
        for line in BufReader::new(stdout).lines().map_while(Result::ok) {
            if lines.send((Instant::now(), line)).is_err() {
                return;
            }
        }
    });
}

fn unix_ms() -> anyhow::Result<i64> {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).context("a clock before 1970")?;
    Ok(i64::try_from(since.as_millis())?)
}

/// Bytes of all files below a directory.
fn size_of(directory: &Path) -> u64 {
    let Ok(entries) = std::fs::read_dir(directory) else { return 0 };
    let size = |entry: std::fs::DirEntry| match entry.metadata() {
        Ok(metadata) if metadata.is_dir() => size_of(&entry.path()),
        Ok(metadata) => metadata.len(),
        Err(_) => 0,
    };
    entries.filter_map(Result::ok).map(size).sum()
}
