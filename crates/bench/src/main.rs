//! `weir-bench`: measures Weir from outside. Runs the release binary on known jobs, accounts CPU, memory and latency of
//! the whole process, prints a table and writes JSON. Called by `make bench`. It must not know Weir's internals.

use std::path::PathBuf;

use anyhow::Context;
use clap::Parser;

mod measure;
mod prepare;
mod recovery;
mod report;
mod scenario;

/// Measures throughput per CPU-second, memory and latency of the release build.
#[derive(Parser)]
struct Arguments {
    /// The `weir` binary to measure.
    #[arg(long, default_value = "target/release/weir")]
    weir: PathBuf,
    /// Only scenarios whose name contains this text.
    #[arg(long, default_value = "")]
    only: String,
    /// Runs of each scenario (3); the median by events per CPU-second is reported. With --recovery, workers that are lost.
    #[arg(long)]
    runs: Option<usize>,
    /// Measures how long no new result comes when a worker is lost, and nothing else.
    #[arg(long)]
    recovery: bool,
    /// Divides the size of every scenario, for a quick look.
    #[arg(long, default_value_t = 1)]
    shrink: u64,
    /// Where results, inputs and job files go.
    #[arg(long, default_value = "target/bench")]
    out: PathBuf,
    /// JSON lines of another engine over the same queries (`{"query": "q5", "evPerCpuS": 580000}`), for ratios.
    #[arg(long)]
    peer: Option<PathBuf>,
}

fn main() -> anyhow::Result<()> {
    let arguments = Arguments::parse();
    std::fs::create_dir_all(&arguments.out).with_context(|| format!("create {}", arguments.out.display()))?;
    if arguments.recovery {
        return recovery::measure(&arguments.weir, &arguments.out, &arguments.only, arguments.runs);
    }
    let bench = measure::Bench { weir: arguments.weir.clone(), out: arguments.out.clone() };
    let peer = arguments.peer.as_deref().map(report::read_peer).transpose()?.unwrap_or_default();
    let mut results = Vec::new();
    for scenario in scenario::all(arguments.shrink) {
        if !scenario.name.contains(&arguments.only) {
            continue;
        }
        eprintln!("==> {}: {}", scenario.name, scenario.what);
        let input = prepare::input(&scenario, &bench)?;
        results.push(bench.measure(&scenario, input.as_deref(), arguments.runs.unwrap_or(3))?);
    }
    report::print(&results, &peer)?;
    report::write(&results, &arguments.out.join("results.json"))
}
