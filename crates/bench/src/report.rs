//! Prints results as a table and writes them as JSON.

use std::collections::BTreeMap;
use std::io::Write;
use std::path::Path;

use anyhow::Context;
use serde_json::Value;

use crate::measure::Measured;
use crate::scenario::RATIOS;

/// Events per CPU-second of another engine by query: the median of its runs.
pub fn read_peer(path: &Path) -> anyhow::Result<BTreeMap<String, f64>> {
    let text = std::fs::read_to_string(path).with_context(|| format!("read {}", path.display()))?;
    let mut runs: BTreeMap<String, Vec<f64>> = BTreeMap::new();
    for line in text.lines().filter(|line| !line.trim().is_empty()) {
        let run: Value = serde_json::from_str(line).with_context(|| format!("read a line of {}", path.display()))?;
        let name =
            run["query"].as_str().or(run["q"].as_str()).or(run["name"].as_str()).context("a line without query")?;
        runs.entry(name.to_owned()).or_default().push(run["evPerCpuS"].as_f64().context("a line without evPerCpuS")?);
    }
    Ok(runs
        .into_iter()
        .map(|(name, mut rates)| {
            rates.sort_by(f64::total_cmp);
            (name, rates[rates.len() / 2])
        })
        .collect())
}

/// Prints the table on standard output.
pub fn print(results: &[Measured], peer: &BTreeMap<String, f64>) -> anyhow::Result<()> {
    let mut out = std::io::stdout().lock();
    writeln!(
        out,
        "\n{:<16} {:>10} {:>10} {:>9} {:>9} {:>9} {:>7} {:>10} {:>9} {:>14} {:>11}",
        "scenario",
        "events",
        "M ev/s",
        "M ev/CPU",
        "least",
        "greatest",
        "floor",
        "source M/C",
        "rows/btch",
        "peak MB",
        "x peer"
    )?;
    for result in results {
        let millions = |rate: f64| format!("{:.2}", rate / 1e6);
        let latency = result.latency_ms.map(|(p50, p99)| format!("  latency p50 {p50:.1} ms, p99 {p99:.1} ms"));
        writeln!(
            out,
            "{:<16} {:>10} {:>10} {:>9} {:>9} {:>9} {:>7} {:>10} {:>9.0} {:>14.0} {:>11}{}",
            result.name,
            result.events,
            millions(result.events_per_s),
            millions(result.events_per_cpu_s),
            millions(result.range_per_cpu_s.0),
            millions(result.range_per_cpu_s.1),
            if result.floor_per_cpu_s > 0.0 { millions(result.floor_per_cpu_s) } else { "-".to_owned() },
            result.ceiling_per_cpu_s.map_or("-".to_owned(), millions),
            result.rows_per_batch,
            result.peak_mb,
            peer.get(&result.name).map_or("-".to_owned(), |rate| format!("{:.1}", result.events_per_cpu_s / rate)),
            latency.unwrap_or_default(),
        )?;
    }
    if let Some(share) = share_over_grpc(results) {
        writeln!(out, "\nq5 over two workers keeps {:.0} % of the per-core figure of one process", share * 100.0)?;
    }
    for (name, beside) in RATIOS {
        if let (Some(rate), Some(plain)) = (rate_of(results, name), rate_of(results, beside)) {
            writeln!(out, "{name} keeps {:.1} % of the rate of {beside}", rate / plain * 100.0)?;
        }
    }
    for Measured { name, checkpoints, .. } in results {
        let Some(taken) = checkpoints else { continue };
        writeln!(
            out,
            "{name}: {} checkpoints of {:.0} MB, {} more failed; p50 {:.0} ms; a task stood still for p50 {:.2}, p99 {:.2} ms",
            taken.count, taken.size_mb, taken.failed, taken.duration_p50_ms, taken.stall_p50_ms, taken.stall_p99_ms
        )?;
    }
    Ok(())
}

fn rate_of(results: &[Measured], name: &str) -> Option<f64> {
    results.iter().find(|result| result.name == name).map(|result| result.events_per_cpu_s)
}

fn share_over_grpc(results: &[Measured]) -> Option<f64> {
    Some(rate_of(results, "q5-two-workers")? / rate_of(results, "q5")?)
}

/// Writes all results as JSON.
pub fn write(results: &[Measured], path: &Path) -> anyhow::Result<()> {
    std::fs::write(path, serde_json::to_string_pretty(results)? + "\n")
        .with_context(|| format!("write {}", path.display()))?;
    eprintln!("==> results also in {}", path.display());
    Ok(())
}
