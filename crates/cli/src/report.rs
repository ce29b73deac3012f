//! Jobs as text for people: `weir list`, `weir info`, and the failure of a job (pure).

use weir_proto::v1;

use crate::output::{bytes, duration_ms, duration_us, number, wall_ms, watermark_us};
use crate::table::{Align, Table};

/// Flink's name of a state: `RUNNING`.
pub fn state_name(state: v1::JobState) -> &'static str {
    let name = state.as_str_name();
    name.strip_prefix("JOB_STATE_").unwrap_or(name)
}

/// Whether nothing more comes of a job in this state, as long as its coordinator lives.
pub fn is_terminal(state: v1::JobState) -> bool {
    use v1::JobState::{Canceled, Failed, Finished, Suspended};
    matches!(state, Failed | Canceled | Finished | Suspended)
}

/// All jobs: those that live and those that have ended, newest first.
pub fn list(jobs: &[v1::JobSummary]) -> String {
    let (ended, living): (Vec<_>, Vec<_>) = jobs.iter().partition(|job| is_terminal(job.state()));
    let line = |job: &&v1::JobSummary| {
        let tasks = match is_terminal(job.state()) {
            true => String::new(),
            false => format!(", {} of {} tasks running", job.running_task_count, job.task_count),
        };
        let submitted = wall_ms(job.submitted_at_unix_ms);
        format!("{submitted} : {} : {} ({}{tasks})\n", job.job_id, job.name, state_name(job.state()))
    };
    let section = |title: &str, none: &str, jobs: &[&v1::JobSummary]| match jobs {
        [] => format!("{none}\n"),
        jobs => format!("{title:-^63}\n{}{:-^63}\n", jobs.iter().map(line).collect::<String>(), ""),
    };
    section(" Running/Scheduled Jobs ", "No running or scheduled jobs.", &living)
        + &section(" Terminated Jobs ", "No terminated jobs.", &ended)
}

/// One job in full.
pub fn info(job: &v1::JobDetails) -> String {
    let summary = job.summary.clone().unwrap_or_default();
    let mut text = format!("Job        {}\nJobID      {}\n", summary.name, summary.job_id);
    text +=
        &format!("State      {}, submitted {} UTC", state_name(summary.state()), wall_ms(summary.submitted_at_unix_ms));
    if let Some(ran) = run_time_ms(&summary) {
        text += &format!(", ran {}", duration_ms(ran));
    }
    text += &format!("\nTasks      {} of {} running\n", summary.running_task_count, summary.task_count);
    if !job.waiting_for.is_empty() {
        text += &format!("Waiting    {}\n", job.waiting_for);
    }
    text += &format!(
        "Records    {} from the sources, {} late, {} bad\n",
        number(job.source_records),
        number(job.late_records),
        number(job.bad_records)
    );
    for report in &job.reports {
        let mut totals: Vec<_> = report.totals.iter().map(|(name, total)| format!("{name} {total}")).collect();
        totals.sort();
        text += &format!("Sink       {} ({}): {}\n", report.operator, report.kind, totals.join(", "));
    }
    text += &restarts(job);
    if let Some(failure) = &job.failure {
        text.push('\n');
        text += &self::failure(failure);
    }
    if let Some(overview) = &job.checkpoints {
        text += &checkpoints(overview);
    }
    text.push('\n');
    text + &operators(&job.vertices)
}

/// How often the job restarted, why the last time, and what it went on from; empty when it runs as submitted.
fn restarts(job: &v1::JobDetails) -> String {
    let mut text = String::new();
    if job.restart_count > 0 {
        text += &format!("Restarts   {}", job.restart_count);
        if let Some(cause) = &job.last_restart_cause {
            let when = wall_ms(cause.failed_at_unix_ms);
            text += &format!(", the last after {} at {when} UTC: {}", cause.code, cause.chain.join(": "));
        }
        text.push('\n');
    }
    if job.restored_checkpoint_id > 0 {
        text += &format!("Restored   from checkpoint {}\n", job.restored_checkpoint_id);
    }
    text
}

/// Checkpoints that a person looks at; `--summary` has more.
const CHECKPOINTS_SHOWN: usize = 10;

/// The last checkpoints with their phases; empty when there was none.
fn checkpoints(overview: &v1::CheckpointOverview) -> String {
    if overview.latest.is_empty() && overview.completed_count + overview.failed_count == 0 {
        return String::new();
    }
    use Align::{Left, Right};
    let mut table = Table::new(&[
        ("Checkpoint", Right),
        ("Kind", Left),
        ("Status", Left),
        ("Triggered", Left),
        ("Duration", Right),
        ("Trigger", Right),
        ("Alignment", Right),
        ("Freeze", Right),
        ("Write", Right),
        ("Upload", Right),
        ("Commit", Right),
        ("Size", Right),
        ("New", Right),
        ("In flight", Right),
    ]);
    let mut remarks = String::new();
    for one in overview.latest.iter().take(CHECKPOINTS_SHOWN) {
        let status = one.status().as_str_name().trim_start_matches("CHECKPOINT_STATUS_").to_owned();
        let kind = if one.is_savepoint { "savepoint" } else { "checkpoint" };
        let mut row = vec![one.checkpoint_id.to_string(), kind.to_owned(), status, wall_ms(one.triggered_at_unix_ms)];
        let phases = [one.start_delay_us, one.alignment_us, one.freeze_us, one.write_us, one.upload_us, one.commit_us];
        row.push(duration_us(one.duration_us));
        row.extend(phases.map(duration_us));
        row.extend([one.bytes, one.new_bytes].map(bytes));
        // Nothing is shown where every barrier waited for what was in front of it.
        row.push(if one.is_unaligned { bytes(one.in_flight_bytes) } else { "-".to_owned() });
        table.row(row);
        if !one.failure.is_empty() {
            remarks += &format!("  {} failed, {}: {}\n", one.checkpoint_id, one.failure_code, one.failure);
        } else if one.is_savepoint && !one.path.is_empty() {
            remarks += &format!("  {} is at {}\n", one.checkpoint_id, one.path);
        }
    }
    let mut counts =
        format!("{} completed, {} failed", number(overview.completed_count), number(overview.failed_count));
    if overview.swept_count > 0 {
        counts += &format!(", {} left-over objects deleted", number(overview.swept_count));
    }
    let newest = overview.latest.iter().find(|one| !one.path.is_empty());
    let newest = newest.map_or_else(String::new, |one| format!("; the newest at {}", one.path));
    format!("\nCheckpoints {counts}{newest}\n{}{remarks}", table.text())
}

/// From acceptance to end, once it has ended.
pub fn run_time_ms(summary: &v1::JobSummary) -> Option<u64> {
    (summary.ended_at_unix_ms > 0).then(|| (summary.ended_at_unix_ms - summary.submitted_at_unix_ms).max(0) as u64)
}

fn operators(vertices: &[v1::VertexDetails]) -> String {
    use Align::{Left, Right};
    let mut table = Table::new(&[
        ("Vertex", Right),
        ("Operator", Left),
        ("Kind", Left),
        ("Tasks", Right),
        ("Records in", Right),
        ("Records out", Right),
        ("Bytes in", Right),
        ("Bytes out", Right),
        ("Late", Right),
        ("Bad", Right),
        ("Watermark", Left),
        ("Busy", Right),
        ("Idle", Right),
        ("Backpressured", Right),
    ]);
    for vertex in vertices {
        let metrics = vertex.metrics.clone().unwrap_or_default();
        for operator in &metrics.operators {
            let mut row = vec![vertex.vertex_id.to_string(), operator.operator.clone(), operator.kind.clone()];
            row.push(vertex.parallelism.to_string());
            row.extend([operator.records_in, operator.records_out].map(number));
            row.extend([operator.bytes_in, operator.bytes_out].map(bytes));
            row.extend([operator.late_records, operator.bad_records].map(number));
            row.push(watermark_us(operator.watermark_out_unix_us));
            row.extend(shares(&metrics));
            table.row(row);
        }
        if metrics.operators.is_empty() {
            let mut row = vec![vertex.vertex_id.to_string(), vertex.name.clone(), "-".to_owned()];
            row.push(vertex.parallelism.to_string());
            row.resize(14, "-".to_owned());
            table.row(row);
        }
    }
    table.text()
}

/// Busy, idle and backpressured shares of a chain's time; operators of one chain share their time.
fn shares(metrics: &v1::TaskMetrics) -> [String; 3] {
    let total = metrics.busy_ms + metrics.idle_ms + metrics.back_pressured_ms;
    [metrics.busy_ms, metrics.idle_ms, metrics.back_pressured_ms].map(|part| match total {
        0 => "-".to_owned(),
        total => format!("{:.0} %", part as f64 * 100.0 / total as f64),
    })
}

/// A failure: code, place, chain of errors, where to read on.
pub fn failure(failure: &v1::Failure) -> String {
    let mut places = Vec::new();
    if !failure.operator.is_empty() {
        places.push(format!("operator '{}'", failure.operator));
    }
    if !failure.vertex.is_empty() {
        places.push(format!("subtask {} of '{}'", failure.subtask_index, failure.vertex));
    }
    if !failure.worker.is_empty() {
        places.push(format!("worker {}", failure.worker));
    }
    let place = if places.is_empty() { String::new() } else { format!(" in {}", places.join(", ")) };
    let mut text = format!("Failure    {}{place}, {} UTC\n", failure.code, wall_ms(failure.failed_at_unix_ms));
    for (depth, link) in failure.chain.iter().enumerate() {
        let cause = if depth == 0 { "" } else { "caused by: " };
        text += &format!("             {cause}{link}\n");
    }
    text + &format!("             whose fault: {}; what to do: docs/errors/{}.md\n", failure.domain, failure.code)
}

#[cfg(test)]
mod tests {
    use expect_test::expect;

    use super::*;

    fn summary(state: v1::JobState, ended_at_unix_ms: i64) -> v1::JobSummary {
        v1::JobSummary {
            job_id: "00000000000000000000000000000abc".into(),
            name: "counts".into(),
            state: state.into(),
            submitted_at_unix_ms: 1_000,
            ended_at_unix_ms,
            running_task_count: 1,
            task_count: 2,
        }
    }

    #[test]
    fn jobs_are_listed_by_whether_they_live() {
        expect![[r#"
            ------------------- Running/Scheduled Jobs --------------------
            1970-01-01 00:00:01 : 00000000000000000000000000000abc : counts (RUNNING, 1 of 2 tasks running)
            ---------------------------------------------------------------
            No terminated jobs.
        "#]]
        .assert_eq(&list(&[summary(v1::JobState::Running, 0)]));
    }

    fn two_checkpoints() -> v1::CheckpointOverview {
        let completed = v1::CheckpointDetails {
            checkpoint_id: 7,
            status: v1::CheckpointStatus::Completed.into(),
            triggered_at_unix_ms: 3_000,
            duration_us: 12_300,
            start_delay_us: 400,
            freeze_us: 1_500,
            upload_us: 6_000,
            commit_us: 3_000,
            bytes: 5_000,
            new_bytes: 400,
            in_flight_bytes: 300,
            is_unaligned: true,
            path: "file:///chk/j/i/chk-7".into(),
            ..Default::default()
        };
        let failed = v1::CheckpointDetails {
            checkpoint_id: 8,
            status: v1::CheckpointStatus::Failed.into(),
            triggered_at_unix_ms: 13_000,
            duration_us: 2_500_000,
            failure_code: "checkpoint-store-full".into(),
            failure: "operator 'out' of subtask 0 of 'out' could not write its part: no space left".into(),
            ..Default::default()
        };
        v1::CheckpointOverview { completed_count: 7, failed_count: 1, swept_count: 3, latest: vec![failed, completed] }
    }

    #[test]
    #[allow(clippy::too_many_lines, reason = "the picture is long")]
    fn a_job_is_shown_with_its_operators_and_its_failure() {
        let operator = v1::OperatorMetrics {
            operator: "reports".into(),
            kind: "file_source".into(),
            records_out: 1_234,
            bytes_out: 5_000,
            bad_records: 2,
            watermark_out_unix_us: i64::MIN,
            ..Default::default()
        };
        let metrics = v1::TaskMetrics { busy_ms: 3, idle_ms: 1, operators: vec![operator], ..Default::default() };
        let running =
            v1::VertexDetails { name: "reports".into(), parallelism: 2, metrics: Some(metrics), ..Default::default() };
        let silent = v1::VertexDetails { vertex_id: 1, name: "out".into(), parallelism: 1, ..Default::default() };
        let failure = v1::Failure {
            code: "sink-io".into(),
            domain: "external".into(),
            chain: vec!["cannot write 'out.csv'".into(), "no space left".into()],
            operator: "out".into(),
            vertex: "out".into(),
            worker: "w1".into(),
            failed_at_unix_ms: 2_000,
            ..Default::default()
        };
        let job = v1::JobDetails {
            summary: Some(summary(v1::JobState::Failed, 13_500)),
            vertices: vec![running, silent],
            failure: Some(failure),
            bad_records: 2,
            source_records: 1_234,
            checkpoints: Some(two_checkpoints()),
            restart_count: 2,
            restored_checkpoint_id: 6,
            last_restart_cause: Some(v1::Failure {
                code: "worker-lost".into(),
                chain: vec!["worker w1 was lost: it gave no sign of life".into()],
                failed_at_unix_ms: 1_500,
                ..Default::default()
            }),
            ..Default::default()
        };
        expect![[r#"
            Job        counts
            JobID      00000000000000000000000000000abc
            State      FAILED, submitted 1970-01-01 00:00:01 UTC, ran 12.5 s
            Tasks      1 of 2 running
            Records    1,234 from the sources, 0 late, 2 bad
            Restarts   2, the last after worker-lost at 1970-01-01 00:00:01 UTC: worker w1 was lost: it gave no sign of life
            Restored   from checkpoint 6

            Failure    sink-io in operator 'out', subtask 0 of 'out', worker w1, 1970-01-01 00:00:02 UTC
                         cannot write 'out.csv'
                         caused by: no space left
                         whose fault: external; what to do: docs/errors/sink-io.md

            Checkpoints 7 completed, 1 failed, 3 left-over objects deleted; the newest at file:///chk/j/i/chk-7
            Checkpoint  Kind        Status     Triggered            Duration  Trigger  Alignment  Freeze  Write  Upload  Commit    Size    New  In flight
                     8  checkpoint  FAILED     1970-01-01 00:00:13    2.50 s     0 us       0 us    0 us   0 us    0 us    0 us     0 B    0 B          -
                     7  checkpoint  COMPLETED  1970-01-01 00:00:03   12.3 ms   400 us       0 us  1.5 ms   0 us  6.0 ms  3.0 ms  5.0 kB  400 B      300 B
              8 failed, checkpoint-store-full: operator 'out' of subtask 0 of 'out' could not write its part: no space left

            Vertex  Operator  Kind         Tasks  Records in  Records out  Bytes in  Bytes out  Late  Bad  Watermark  Busy  Idle  Backpressured
                 0  reports   file_source      2           0        1,234       0 B     5.0 kB     0    2  -          75 %  25 %            0 %
                 1  out       -                1           -            -         -          -     -    -  -             -     -              -
        "#]].assert_eq(&info(&job));
    }
}
