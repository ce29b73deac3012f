//! The final counters of a job as JSON, for `--summary`; and the lines of its `hash` sinks.

use serde_json::{Value, json};
use weir_proto::v1;

use crate::report::{run_time_ms, state_name};

/// The job as JSON: counters of each operator, totals of each sink.
pub fn json(job: &v1::JobDetails) -> Value {
    let summary = job.summary.clone().unwrap_or_default();
    let sinks = job.reports.iter().map(|report| {
        let mut totals: Vec<_> = report.totals.iter().collect();
        totals.sort();
        let totals: serde_json::Map<_, _> =
            totals.into_iter().map(|(name, total)| (name.clone(), json!(total))).collect();
        json!({"operator": report.operator, "kind": report.kind, "totals": totals})
    });
    json!({
        "job_id": summary.job_id,
        "name": summary.name,
        "state": state_name(summary.state()),
        "duration_ms": run_time_ms(&summary),
        "source_records": job.source_records,
        "late_records": job.late_records,
        "bad_records": job.bad_records,
        "operators": job.vertices.iter().flat_map(operators).collect::<Vec<_>>(),
        "sinks": sinks.collect::<Vec<_>>(),
        "checkpoints": job.checkpoints.as_ref().map(checkpoints),
        "failure": job.failure.as_ref().map(|failure| json!({
            "code": failure.code,
            "domain": failure.domain,
            "operator": failure.operator,
            "vertex": failure.vertex,
            "subtask_index": failure.subtask_index,
            "worker": failure.worker,
            "chain": failure.chain,
        })),
    })
}

/// The last ones, newest first; times are the greatest over the tasks.
fn checkpoints(overview: &v1::CheckpointOverview) -> Value {
    let one = |details: &v1::CheckpointDetails| {
        json!({
            "id": details.checkpoint_id,
            "is_completed": details.status() == v1::CheckpointStatus::Completed,
            "duration_us": details.duration_us,
            "alignment_us": details.alignment_us,
            "freeze_us": details.freeze_us,
            "write_us": details.write_us,
            "upload_us": details.upload_us,
            "commit_us": details.commit_us,
            "bytes": details.bytes,
            "new_bytes": details.new_bytes,
            "is_unaligned": details.is_unaligned,
        })
    };
    json!({
        "completed": overview.completed_count,
        "failed": overview.failed_count,
        "latest": overview.latest.iter().map(one).collect::<Vec<_>>(),
    })
}

fn operators(vertex: &v1::VertexDetails) -> Vec<Value> {
    let task = vertex.metrics.clone().unwrap_or_default();
    let row = |operator: &v1::OperatorMetrics| {
        json!({
            "vertex_id": vertex.vertex_id,
            "operator": operator.operator,
            "kind": operator.kind,
            "parallelism": vertex.parallelism,
            "records_in": operator.records_in,
            "records_out": operator.records_out,
            "bytes_in": operator.bytes_in,
            "bytes_out": operator.bytes_out,
            "batches_out": operator.batches_out,
            "late_records": operator.late_records,
            "bad_records": operator.bad_records,
            "busy_ms": task.busy_ms,
            "idle_ms": task.idle_ms,
            "back_pressured_ms": task.back_pressured_ms,
            "state_bytes": task.state_bytes,
        })
    };
    task.operators.iter().map(row).collect()
}

/// For each `hash` sink the line that golden files have: name, inserts, retractions, hash.
pub fn hash_lines(job: &v1::JobDetails) -> Vec<String> {
    let name = job.summary.as_ref().map_or("", |summary| summary.name.as_str());
    let sinks = job.reports.iter().filter(|report| report.kind == "hash");
    let total = |report: &v1::SinkReport, name: &str| report.totals.get(name).copied().unwrap_or(0);
    sinks
        .map(|sink| {
            let counts = (total(sink, "hash_inserts"), total(sink, "hash_retracts"));
            format!("{name} {} {} {:016x}", counts.0, counts.1, total(sink, "hash_value"))
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hash_sinks_print_golden_lines() {
        let totals = [("hash_inserts", 516), ("hash_retracts", 0), ("hash_value", 0x0c8d_77bc_410b_c345)];
        let report = |kind: &str| v1::SinkReport {
            operator: "out".into(),
            totals: totals.iter().map(|(name, total)| ((*name).to_owned(), *total)).collect(),
            kind: kind.into(),
        };
        let job = v1::JobDetails {
            summary: Some(v1::JobSummary { name: "q5".into(), ..Default::default() }),
            reports: vec![report("hash"), report("blackhole")],
            ..Default::default()
        };
        assert_eq!(hash_lines(&job), ["q5 516 0 0c8d77bc410bc345"]);
        assert_eq!(json(&job)["sinks"][1]["totals"]["hash_inserts"], 516);
    }
}
