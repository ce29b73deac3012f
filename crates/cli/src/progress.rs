//! The status line of a job that is being followed: rewritten in place on a terminal, a line now and then otherwise.

use std::io::{IsTerminal, Write};
use std::time::Duration;

use weir_proto::v1;

use crate::output::{duration_ms, number, watermark_us};
use crate::report::state_name;

/// Time between two status lines on a terminal.
const INTERVAL_TERMINAL: Duration = Duration::from_secs(1);
/// Time between two status lines in a log.
const INTERVAL_LOG: Duration = Duration::from_secs(2);

/// Shows the progress of one job on standard error.
#[derive(Debug)]
pub struct Progress {
    is_terminal: bool,
    previous: Option<(Duration, u64)>,
    is_line_open: bool,
}

impl Progress {
    /// Looks at what standard error is.
    pub fn on_standard_error() -> Self {
        Progress { is_terminal: std::io::stderr().is_terminal(), previous: None, is_line_open: false }
    }

    /// How often an update is wanted.
    pub fn interval(&self) -> Duration {
        if self.is_terminal { INTERVAL_TERMINAL } else { INTERVAL_LOG }
    }

    /// Shows where the job stands at `now` (a monotonic time).
    pub fn show(&mut self, job: &v1::JobDetails, now: Duration) {
        let previous = self.previous.replace((now, job.source_records));
        let text = status(job, rate(previous, now, job.source_records));
        let says_nothing = job.source_records == 0 && job.waiting_for.is_empty();
        if says_nothing && !self.is_terminal {
            return;
        }
        if self.is_terminal {
            self.is_line_open = true;
            let _ = write!(std::io::stderr().lock(), "\r\x1b[K{text}");
        } else {
            eprintln!("{text}");
        }
    }

    /// Says something; a status line that is being rewritten gives way.
    pub fn say(&mut self, text: &str) {
        let clear = if std::mem::take(&mut self.is_line_open) { "\r\x1b[K" } else { "" };
        eprintln!("{clear}{}", text.trim_end());
    }

    /// Says how the job ended.
    pub fn end(&mut self, job: &v1::JobDetails) {
        let summary = job.summary.clone().unwrap_or_default();
        let ran = crate::report::run_time_ms(&summary).unwrap_or(0);
        let per_s = if ran == 0 { 0 } else { u128::from(job.source_records) * 1000 / u128::from(ran) };
        self.say(&format!(
            "Job {} ({}) is {} after {}: {} records in, {}/s, {} late, {} bad",
            summary.name,
            summary.job_id,
            state_name(summary.state()),
            duration_ms(ran),
            number(job.source_records),
            number(per_s as u64),
            number(job.late_records),
            number(job.bad_records)
        ));
    }
}

fn rate(previous: Option<(Duration, u64)>, now: Duration, records: u64) -> Option<u64> {
    let (then, before) = previous?;
    let seconds = now.saturating_sub(then).as_secs_f64();
    (seconds > 0.0).then(|| (records.saturating_sub(before) as f64 / seconds) as u64)
}

fn status(job: &v1::JobDetails, rate: Option<u64>) -> String {
    let summary = job.summary.clone().unwrap_or_default();
    let mut text = state_name(summary.state()).to_owned();
    if !job.waiting_for.is_empty() {
        return format!("{text}  {}", job.waiting_for);
    }
    text += &format!("  in {}  out {}", number(job.source_records), number(records_to_sinks(job)));
    if let Some(rate) = rate {
        text += &format!("  {}/s", number(rate));
    }
    if let Some(watermark) = watermark_at_sinks(job) {
        text += &format!("  watermark {}", watermark_us(watermark));
    }
    text + &format!("  late {}  bad {}", number(job.late_records), number(job.bad_records))
}

/// Operators that end the graph: what goes into them leaves the job.
fn sinks(job: &v1::JobDetails) -> impl Iterator<Item = &v1::OperatorMetrics> {
    let kinds = weir_connectors::registry().sink_kinds();
    let operators = job.vertices.iter().filter_map(|vertex| vertex.metrics.as_ref()).flat_map(|task| &task.operators);
    operators.filter(move |operator| kinds.contains(&operator.kind.as_str()))
}

fn records_to_sinks(job: &v1::JobDetails) -> u64 {
    sinks(job).map(|sink| sink.records_in).sum()
}

/// The least watermark that arrived at all sinks; nothing before the first, or in jobs without event time.
fn watermark_at_sinks(job: &v1::JobDetails) -> Option<i64> {
    sinks(job).map(|sink| sink.watermark_in_unix_us).min().filter(|watermark| *watermark != i64::MIN)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn job() -> v1::JobDetails {
        let operator = |kind: &str, records_in, watermark| v1::OperatorMetrics {
            kind: kind.into(),
            records_in,
            watermark_in_unix_us: watermark,
            ..Default::default()
        };
        let task = |operators| v1::VertexDetails {
            metrics: Some(v1::TaskMetrics { operators, ..Default::default() }),
            ..Default::default()
        };
        v1::JobDetails {
            summary: Some(v1::JobSummary { state: v1::JobState::Running.into(), ..Default::default() }),
            vertices: vec![
                task(vec![operator("nexmark", 0, i64::MIN), operator("window", 9_000, 5_000_000)]),
                task(vec![operator("hash", 1_000, 3_000_000)]),
            ],
            source_records: 9_000,
            late_records: 4,
            ..Default::default()
        }
    }

    #[test]
    fn status_counts_what_enters_and_what_leaves() {
        let text = status(&job(), Some(4_500));
        assert_eq!(text, "RUNNING  in 9,000  out 1,000  4,500/s  watermark 1970-01-01 00:00:03.000  late 4  bad 0");
    }

    #[test]
    fn waiting_job_says_what_it_waits_for() {
        let waiting = v1::JobDetails { waiting_for: "needs 4 slots, 2 are free".into(), ..job() };
        assert_eq!(status(&waiting, None), "RUNNING  needs 4 slots, 2 are free");
    }

    #[test]
    fn rate_needs_two_looks() {
        let second = Duration::from_secs(1);
        assert_eq!(rate(None, second, 10), None);
        assert_eq!(rate(Some((second, 10)), 3 * second, 110), Some(50));
        assert_eq!(rate(Some((second, 10)), second, 110), None);
    }
}
