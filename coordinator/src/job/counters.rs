//! Sums of what tasks count. Pure. Counts come over the network: sums end at the greatest number instead of breaking.

use weir_proto::v1::{OperatorMetrics, TaskMetrics};

/// Counters of a task that has reported nothing yet: all operators, nothing counted.
pub(crate) fn none_yet<'a>(operators: impl IntoIterator<Item = (&'a str, &'a str)>) -> TaskMetrics {
    let zero = |(uid, kind): (&str, &str)| OperatorMetrics {
        operator: uid.to_owned(),
        kind: kind.to_owned(),
        watermark_in_unix_us: i64::MIN,
        watermark_out_unix_us: i64::MIN,
        ..OperatorMetrics::default()
    };
    TaskMetrics { operators: operators.into_iter().map(zero).collect(), ..TaskMetrics::default() }
}

/// Sum over the subtasks of a vertex; a watermark is the least of all.
pub(crate) fn sum<'a>(subtasks: impl IntoIterator<Item = &'a TaskMetrics>) -> TaskMetrics {
    let mut subtasks = subtasks.into_iter();
    let mut total = subtasks.next().cloned().unwrap_or_default();
    for subtask in subtasks {
        total.busy_ms = total.busy_ms.saturating_add(subtask.busy_ms);
        total.idle_ms = total.idle_ms.saturating_add(subtask.idle_ms);
        total.back_pressured_ms = total.back_pressured_ms.saturating_add(subtask.back_pressured_ms);
        total.state_bytes = total.state_bytes.saturating_add(subtask.state_bytes);
        for (into, from) in total.operators.iter_mut().zip(&subtask.operators) {
            add(into, from);
        }
    }
    total
}

/// Sum of counts.
pub(crate) fn total(counts: impl IntoIterator<Item = u64>) -> u64 {
    counts.into_iter().fold(0, u64::saturating_add)
}

fn add(into: &mut OperatorMetrics, from: &OperatorMetrics) {
    into.records_in = into.records_in.saturating_add(from.records_in);
    into.records_out = into.records_out.saturating_add(from.records_out);
    into.bytes_in = into.bytes_in.saturating_add(from.bytes_in);
    into.bytes_out = into.bytes_out.saturating_add(from.bytes_out);
    into.batches_out = into.batches_out.saturating_add(from.batches_out);
    into.late_records = into.late_records.saturating_add(from.late_records);
    into.bad_records = into.bad_records.saturating_add(from.bad_records);
    into.watermark_in_unix_us = into.watermark_in_unix_us.min(from.watermark_in_unix_us);
    into.watermark_out_unix_us = into.watermark_out_unix_us.min(from.watermark_out_unix_us);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counters_add_up_and_the_least_watermark_holds() {
        let task = |records_in, watermark_in_unix_us| TaskMetrics {
            busy_ms: 10,
            operators: vec![OperatorMetrics { records_in, watermark_in_unix_us, ..OperatorMetrics::default() }],
            ..TaskMetrics::default()
        };
        let total = sum([&task(1, 70), &task(2, 50), &task(3, 60)]);
        assert_eq!((total.busy_ms, total.operators[0].records_in), (30, 6));
        assert_eq!(total.operators[0].watermark_in_unix_us, 50);
    }

    #[test]
    fn subtask_without_a_report_holds_the_watermark_at_the_beginning() {
        let silent = none_yet([("f", "filter")]);
        let mut reported = silent.clone();
        reported.operators[0].watermark_in_unix_us = 9;
        assert_eq!(sum([&reported, &silent]).operators[0].watermark_in_unix_us, i64::MIN);
    }
}
