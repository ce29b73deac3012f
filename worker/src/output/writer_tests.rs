//! Tests of the writer against what went in: nothing lost, nothing reordered, watermarks behind their rows.

use std::sync::Arc;

use arrow_array::cast::AsArray;
use arrow_array::types::Int64Type;
use arrow_array::{ArrayRef, Int64Array};
use futures::FutureExt;
use proptest::prelude::*;
use weir_core::{EdgeId, SubtaskIndex};
use weir_graph::Partitioning;

use super::*;
use crate::exchange::ChannelKey;
use crate::input::Gate;
use crate::input::gate::ChannelInput;

#[derive(Clone, Debug)]
enum Step {
    Rows(usize),
    Watermark,
    Wait(u64),
    Idle,
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        4 => (1usize..20).prop_map(Step::Rows),
        2 => Just(Step::Watermark),
        1 => (0u64..4).prop_map(Step::Wait),
        1 => Just(Step::Idle),
    ]
}

fn numbers(from: i64, count: usize) -> Batch {
    let column: ArrayRef = Arc::new(Int64Array::from_iter_values(from..from + count as i64));
    Batch::new(RecordBatch::try_from_iter([("n", column)]).expect("one column"), from)
}

fn writer(targets: usize, options: WriterOptions) -> (EdgeWriter, Vec<Gate>) {
    let schema = numbers(0, 1).records.schema();
    let (mut gates, mut channels) = (Vec::new(), Vec::new());
    for target in 0..targets {
        let mut gate = Gate::default();
        let input = ChannelInput { input: 0, schema: schema.clone(), edge: "e".into(), sender: SubtaskIndex(0) };
        let sender = gate.open_local(input, 1 << 30);
        let key = ChannelKey { edge: EdgeId(0), source: SubtaskIndex(0), target: SubtaskIndex(target as u32) };
        channels.push(ChannelSender::local(key, sender));
        gates.push(gate);
    }
    let partitioner = Partitioner::new(&Partitioning::Hash { columns: vec![0] }, targets, 128, 0);
    (EdgeWriter::new(partitioner, channels, options), gates)
}

/// There is always room in these tests, so that nothing waits.
fn now_or_never<T>(future: impl Future<Output = Result<T, TaskError>>) -> T {
    future.now_or_never().expect("there is room").expect("no channel breaks")
}

proptest! {
    #[test]
    fn nothing_is_lost_and_no_watermark_overtakes_rows(
        steps in prop::collection::vec(step(), 0..60),
        targets in 1usize..5,
        batch_rows in 1usize..30,
        flush_ms in 0u64..5,
    ) {
        let options = WriterOptions { batch_rows, flush_interval: Duration::from_millis(flush_ms) };
        let (mut writer, mut gates) = writer(targets, options);
        // The watermark n promises that all numbers up to n have been sent: it must not come before them.
        let (mut next, mut now) = (0, Duration::ZERO);
        for step in steps {
            match step {
                Step::Rows(count) => {
                    now_or_never(writer.write(StreamElement::Batch(numbers(next, count)), now, None));
                    next += count as i64;
                }
                Step::Watermark => now_or_never(writer.write(StreamElement::Watermark(EventTime(next - 1)), now, None)),
                Step::Idle => now_or_never(writer.write(StreamElement::Idle, now, None)),
                Step::Wait(ms) => {
                    now += Duration::from_millis(ms);
                    now_or_never(writer.flush_due(now, None));
                    prop_assert!(writer.deadline().is_none_or(|deadline| deadline > now));
                }
            }
        }
        now_or_never(writer.write(StreamElement::EndOfInput, now, None));
        prop_assert_eq!(writer.deadline(), None);
        let mut all = Vec::new();
        for gate in &mut gates {
            let (mut last, mut promised, mut has_ended) = (-1, -1, false);
            while let Some(received) = gate.try_next().expect("no channel breaks") {
                prop_assert!(!has_ended, "something came after the end");
                match received.element {
                    StreamElement::Batch(batch) => {
                        let values = batch.records.column(0).as_primitive::<Int64Type>().values().to_vec();
                        prop_assert!(values.is_sorted() && values[0] > last, "order within a channel is broken");
                        prop_assert!(values[0] > promised, "a watermark overtook its rows");
                        prop_assert!(batch.origin_us <= values[0]);
                        last = values[values.len() - 1];
                        all.extend(values);
                    }
                    StreamElement::Watermark(EventTime(time)) => promised = time,
                    StreamElement::EndOfInput => has_ended = true,
                    _ => {}
                }
            }
            prop_assert!(has_ended);
        }
        all.sort_unstable();
        prop_assert_eq!(all, (0..next).collect::<Vec<_>>());
    }
}

#[test]
fn small_pieces_leave_as_one_batch_when_it_is_full() {
    let options = WriterOptions { batch_rows: 100, flush_interval: Duration::from_millis(5) };
    let (mut writer, mut gates) = writer(1, options);
    for n in 0..9 {
        now_or_never(writer.write(StreamElement::Batch(numbers(n * 11, 11)), Duration::ZERO, None));
    }
    assert!(gates[0].try_next().expect("no channel breaks").is_none(), "99 rows wait");
    now_or_never(writer.write(StreamElement::Watermark(EventTime(98)), Duration::ZERO, None));
    now_or_never(writer.write(StreamElement::Batch(numbers(99, 11)), Duration::ZERO, None));
    let mut next = || gates[0].try_next().expect("no channel breaks").map(|received| received.element);
    assert!(matches!(next(), Some(StreamElement::Batch(batch)) if batch.num_rows() == 110 && batch.origin_us == 0));
    assert!(matches!(next(), Some(StreamElement::Watermark(EventTime(98)))), "it only came later");
}

#[test]
fn last_time_before_the_end_is_not_swallowed_by_the_end() {
    let options = WriterOptions { batch_rows: 8192, flush_interval: Duration::from_millis(5) };
    let (mut writer, mut gates) = writer(2, options);
    for watermark in [EventTime(5), EventTime(7), EventTime::MAX] {
        now_or_never(writer.write(StreamElement::Watermark(watermark), Duration::ZERO, None));
    }
    for gate in &mut gates {
        let mut watermarks = Vec::new();
        while let Some(received) = gate.try_next().expect("no channel breaks") {
            if let StreamElement::Watermark(watermark) = received.element {
                watermarks.push(watermark);
            }
        }
        assert_eq!(watermarks, [EventTime(7), EventTime::MAX]);
    }
}
