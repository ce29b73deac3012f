//! Runs `weir` as a user would and accounts what the whole process cost: CPU by the operating system, peak memory,
//! counters and latency from the job's own summary.

#![allow(clippy::disallowed_methods, reason = "it measures real processes on the real clock")]

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Instant;

use anyhow::{Context, ensure};
use nix::sys::resource::{UsageWho, getrusage};
use serde::Serialize;
use serde_json::Value;

use crate::scenario::{Mode, Scenario};

/// Where to find the binary and where to put files.
pub struct Bench {
    /// The binary.
    pub weir: PathBuf,
    /// Directory for inputs, outputs and results.
    pub out: PathBuf,
}

/// What one scenario gave: the run in the middle by events per CPU-second.
#[derive(Serialize, Clone)]
pub struct Measured {
    /// Scenario.
    pub name: String,
    /// Events per second of the job's own run time.
    pub events_per_s: f64,
    /// Events per CPU-second of all processes, start-up included.
    pub events_per_cpu_s: f64,
    /// The same for the source alone, if measured.
    pub ceiling_per_cpu_s: Option<f64>,
    /// Rows per batch that left the sources.
    pub rows_per_batch: f64,
    /// Peak resident memory of the largest process, MB (10^6).
    pub peak_mb: f64,
    /// Latency from source to sink in milliseconds: p50, p99; where the sink measures it.
    pub latency_ms: Option<(f64, f64)>,
    /// Events of one run.
    pub events: u64,
    /// Least and greatest events per CPU-second over the runs.
    pub range_per_cpu_s: (f64, f64),
    /// The floor, events per CPU-second; 0 for none.
    pub floor_per_cpu_s: f64,
    /// The completed checkpoints of all runs; absent when there were none.
    pub checkpoints: Option<Checkpoints>,
}

/// What checkpoints cost. **Units**: milliseconds, of the task for which it was longest.
#[derive(Serialize, Clone)]
pub struct Checkpoints {
    /// How many.
    pub count: usize,
    /// How many more have failed.
    pub failed: u64,
    /// Median from trigger to commit.
    pub duration_p50_ms: f64,
    /// Median of how long the stream of a task stood still.
    pub stall_p50_ms: f64,
    /// The same, for all but one in a hundred.
    pub stall_p99_ms: f64,
    /// Median bytes, MB (10^6).
    pub size_mb: f64,
}

struct Run {
    seconds: f64,
    cpu_seconds: f64,
    peak_mb: f64,
    summary: Value,
}

impl Bench {
    /// Measures one scenario and its ceiling.
    pub fn measure(&self, scenario: &Scenario, input: Option<&Path>, runs: usize) -> anyhow::Result<Measured> {
        let mut measured: Vec<Run> = (0..runs.max(1))
            .map(|_| self.run(scenario, scenario.job, input))
            .collect::<anyhow::Result<_>>()
            .with_context(|| format!("measure {}", scenario.name))?;
        let checkpoints = checkpoints(measured.iter().map(|run| &run.summary));
        measured.sort_by(|a, b| b.cpu_seconds.total_cmp(&a.cpu_seconds));
        let rate = |run: &Run| scenario.events as f64 / run.cpu_seconds;
        let range = (rate(&measured[0]), rate(&measured[measured.len() - 1]));
        let median = &measured[measured.len() / 2];
        let ceiling = match scenario.ceiling {
            Some(job) => Some(scenario.events as f64 / self.run(scenario, job, input)?.cpu_seconds),
            None => None,
        };
        Ok(Measured {
            name: scenario.name.to_owned(),
            events_per_s: scenario.events as f64 / median.seconds,
            events_per_cpu_s: rate(median),
            ceiling_per_cpu_s: ceiling,
            rows_per_batch: rows_per_batch(&median.summary),
            peak_mb: median.peak_mb,
            latency_ms: latency(&median.summary),
            events: scenario.events,
            range_per_cpu_s: range,
            floor_per_cpu_s: scenario.floor * 1e6,
            checkpoints,
        })
    }

    fn run(&self, scenario: &Scenario, job: &str, input: Option<&Path>) -> anyhow::Result<Run> {
        let summary_path = self.out.join(format!("{}.summary.json", scenario.name));
        let cluster = match scenario.mode {
            Mode::Local => None,
            Mode::TwoWorkers => Some(Cluster::start(self)?),
        };
        let mut command = Command::new(&self.weir);
        match &cluster {
            None => command.args(["local", "run"]),
            Some(cluster) => command.args(["run", "-m", &cluster.address]),
        };
        if let Some(memory) = scenario.memory {
            command.args(["--memory", memory]);
        }
        command.arg(job).arg("-p").arg(scenario.parallelism.to_string()).arg("--summary").arg(&summary_path);
        let text = std::fs::read_to_string(job).with_context(|| format!("read {job}"))?;
        let output = self.out.join(format!("{}.out.csv", scenario.name));
        let defined = [
            ("events", Some(scenario.events.to_string())),
            ("input", input.map(|path| path.display().to_string())),
            ("output", Some(output.display().to_string())),
        ];
        let given = scenario.definitions.iter().map(|(name, value)| (*name, Some((*value).to_owned())));
        for (name, value) in defined.into_iter().chain(given) {
            // Names with dots are configuration keys.
            if let Some(value) = value.filter(|_| name.contains('.') || text.contains(&format!("${{{name}}}"))) {
                command.arg("-D").arg(format!("{name}={value}"));
            }
        }
        let before = children_cpu_seconds()?;
        let mut child = command.stdout(Stdio::null()).stderr(Stdio::piped()).spawn().context("start weir")?;
        let stderr = child.stderr.take().map(|pipe| std::thread::spawn(move || std::io::read_to_string(pipe)));
        let (status, mut peak_mb) = watch(&mut child)?;
        let log = stderr.and_then(|thread| thread.join().ok()).and_then(Result::ok).unwrap_or_default();
        ensure!(status.success(), "weir {status} on {job}:\n{log}");
        if let Some(cluster) = cluster {
            peak_mb = cluster.stop()?;
        }
        let summary: Value =
            serde_json::from_str(&std::fs::read_to_string(&summary_path)?).context("read the summary")?;
        let seconds = summary["duration_ms"].as_f64().unwrap_or(0.0).max(1.0) / 1e3;
        Ok(Run { seconds, cpu_seconds: children_cpu_seconds()? - before, peak_mb, summary })
    }
}

/// A coordinator and two workers as processes of their own.
struct Cluster {
    address: String,
    processes: Vec<Child>,
}

impl Cluster {
    fn start(bench: &Bench) -> anyhow::Result<Cluster> {
        let data = bench.out.join("cluster");
        let spawn = |arguments: &[&str], directory: &str| {
            let mut command = Command::new(&bench.weir);
            command.args(arguments).arg("--data-dir").arg(data.join(directory)).stderr(Stdio::null());
            command.stdout(Stdio::piped()).spawn().context("start a process of the cluster")
        };
        let mut coordinator =
            spawn(&["coordinator", "--listen", "127.0.0.1:0", "--http", "127.0.0.1:0"], "coordinator")?;
        let stdout = coordinator.stdout.take().context("coordinator has no output")?;
        let mut line = String::new();
        BufReader::new(stdout).read_line(&mut line)?;
        let address = line.trim().rsplit(' ').next().unwrap_or_default().to_owned();
        ensure!(address.contains(':'), "the coordinator did not print its address: {line:?}");
        let mut processes = vec![coordinator];
        for name in ["worker-1", "worker-2"] {
            let worker = ["worker", "--coordinator", &address, "--slots", "1", "--http", "127.0.0.1:0"];
            processes.push(spawn(&worker, name)?);
        }
        Ok(Cluster { address, processes })
    }

    /// Ends all processes in order; the peak memory of the largest, MB.
    fn stop(mut self) -> anyhow::Result<f64> {
        let mut peak = 0.0f64;
        for process in self.processes.iter_mut().rev() {
            peak = peak.max(peak_mb(process.id()).unwrap_or(0.0));
            let pid = nix::unistd::Pid::from_raw(process.id() as i32);
            nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGTERM)?;
            process.wait()?;
        }
        self.processes.clear();
        Ok(peak)
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        for process in &mut self.processes {
            // Only on the way out of an error; the process may be gone already.
            let _ = process.kill();
            let _ = process.wait();
        }
    }
}

/// Waits for a process, looking at its peak memory meanwhile (it is gone with the process).
fn watch(child: &mut Child) -> anyhow::Result<(std::process::ExitStatus, f64)> {
    let mut peak = 0.0f64;
    let started = Instant::now();
    loop {
        peak = peak.max(peak_mb(child.id()).unwrap_or(0.0));
        if let Some(status) = child.try_wait()? {
            return Ok((status, peak));
        }
        ensure!(started.elapsed().as_secs() < 600, "no end after 600 s");
        std::thread::sleep(std::time::Duration::from_millis(20));
    }
}

fn peak_mb(pid: u32) -> Option<f64> {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    let line = status.lines().find(|line| line.starts_with("VmHWM:"))?;
    let kib: f64 = line.split_whitespace().nth(1)?.parse().ok()?;
    Some(kib * 1024.0 / 1e6)
}

fn children_cpu_seconds() -> anyhow::Result<f64> {
    let usage = getrusage(UsageWho::RUSAGE_CHILDREN)?;
    let seconds = |time: nix::sys::time::TimeVal| time.tv_sec() as f64 + time.tv_usec() as f64 / 1e6;
    Ok(seconds(usage.user_time()) + seconds(usage.system_time()))
}

fn checkpoints<'a>(summaries: impl Iterator<Item = &'a Value>) -> Option<Checkpoints> {
    let (mut durations, mut stalls, mut sizes, mut failed) = (Vec::new(), Vec::new(), Vec::new(), 0);
    for summary in summaries {
        failed += summary["checkpoints"]["failed"].as_u64().unwrap_or(0);
        for one in summary["checkpoints"]["latest"].as_array().into_iter().flatten() {
            if one["is_completed"] == true {
                durations.push(one["duration_us"].as_f64()? / 1e3);
                stalls.push(one["freeze_us"].as_f64()? / 1e3);
                sizes.push(one["bytes"].as_f64()? / 1e6);
            }
        }
    }
    [&mut durations, &mut stalls, &mut sizes].into_iter().for_each(|values| values.sort_by(f64::total_cmp));
    let at =
        |values: &[f64], share: f64| values.get(((values.len().max(1) - 1) as f64 * share).ceil() as usize).copied();
    Some(Checkpoints {
        count: durations.len(),
        failed,
        duration_p50_ms: at(&durations, 0.5)?,
        stall_p50_ms: at(&stalls, 0.5)?,
        stall_p99_ms: at(&stalls, 0.99)?,
        size_mb: at(&sizes, 0.5)?,
    })
}

fn rows_per_batch(summary: &Value) -> f64 {
    let sum = |field: &str| -> f64 {
        let sources =
            summary["operators"].as_array().into_iter().flatten().filter(|operator| operator["records_in"] == 0);
        sources.filter_map(|operator| operator[field].as_f64()).sum()
    };
    sum("records_out") / sum("batches_out").max(1.0)
}

/// Percentiles of the latency histogram that a blackhole sink reports (`latency_us_le_<bound>`: rows up to that bound).
fn latency(summary: &Value) -> Option<(f64, f64)> {
    let mut buckets: BTreeMap<u64, u64> = BTreeMap::new();
    for sink in summary["sinks"].as_array()? {
        for (name, count) in sink["totals"].as_object()? {
            if let Some(bound) = name.strip_prefix("latency_us_le_").and_then(|bound| bound.parse().ok()) {
                *buckets.entry(bound).or_default() += count.as_u64()?;
            }
        }
    }
    let total: u64 = buckets.values().sum();
    let percentile = |share: f64| {
        let mut seen = 0;
        let bound = buckets.iter().find(|(_, count)| {
            seen += **count;
            seen as f64 >= total as f64 * share
        });
        bound.map(|(bound, _)| *bound as f64 / 1e3)
    };
    Some((percentile(0.5)?, percentile(0.99)?))
}
