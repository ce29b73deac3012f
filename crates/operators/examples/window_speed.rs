//! How fast the window operators are by themselves: rows per second of one core for NEXMark's q5 (hopping count per
//! auction) and q11 (sessions per bidder), in one phase and in two, and memory for ten million distinct keys. Rows are
//! made before the clock starts. Run with `cargo run --release -p weir-operators --example window_speed`, with the
//! names of cases to run only those.
#![allow(clippy::print_stdout, reason = "this is a tool that prints its figures")]

mod shared;

use std::sync::Arc;
use std::time::Instant;

use arrow_array::{ArrayRef, Int64Array, RecordBatch};
use weir_core::batch::EventTimeArray;
use weir_core::key_hash::mix;
use weir_core::{Batch, EventTime, KeyGroupRange, OperatorUid, SubtaskIndex};
use weir_graph::descriptor::WindowAggregate;
use weir_graph::window_schema::{output_schema, partial_schema};
use weir_graph::{Phase, WindowSpec};
use weir_operator_api::{Operator, OperatorContext, Progress, SystemClock};

use shared::{Sent, input};

const BATCH_ROWS: usize = 8192;
const SECOND: i64 = 1_000_000;

fn operator(window: WindowSpec, phase: Phase) -> Box<dyn Operator> {
    let descriptor = WindowAggregate {
        key: vec!["k".to_owned()],
        window,
        aggregates: vec!["count(*) AS n".to_owned()],
        allowed_lateness: 0,
        two_phase: true,
    };
    let keys = [input().field(0).clone()];
    let calls = [weir_expr::aggregate_call("count(*) AS n", &input()).expect("the call compiles").typed()];
    let partials = partial_schema(&keys, window, &calls).expect("counts have partials");
    let results = output_schema(&keys, &calls, 0);
    let context = OperatorContext {
        uid: OperatorUid::from("window"),
        subtask: SubtaskIndex(0),
        parallelism: 1,
        key_group_count: 128,
        key_groups: KeyGroupRange::of_subtask(0, 1, 128),
        inputs: vec![input(), partials.clone()],
        output: if phase == Phase::Local { partials } else { results },
        batch_rows: BATCH_ROWS,
        stores: weir_state::StateStores::in_memory(),
        clock: Arc::new(SystemClock::default()),
    };
    weir_operators::window::create(&descriptor, phase, &context).expect("the descriptor is right")
}

/// The bids among the first events of NEXMark at 100,000 events per second: key and time.
fn bids(count: usize, key: impl Fn(u64) -> i64) -> Vec<(i64, i64)> {
    let events = (0u64..).filter(|event| event % 50 >= 4);
    events.take(count).map(|event| (key(event), 1_700_000_000 * SECOND + event as i64 * 10)).collect()
}

fn random(event: u64, k: u64) -> u64 {
    mix(event.wrapping_mul(0x9E37_79B9_7F4A_7C15).wrapping_add((k + 1).wrapping_mul(0xD1B5_4A32_D192_ED03)))
}

fn bounded(x: u64, limit: u64) -> u64 {
    ((x >> 32) * limit) >> 32
}

fn auction(event: u64) -> i64 {
    let last = event / 50 * 3 + 2;
    let low = last.saturating_sub(100);
    let r = random(event, 0);
    (1000 + if r & 1 == 1 { last / 100 * 100 } else { low + bounded(r, last - low + 11) }) as i64
}

fn bidder(event: u64) -> i64 {
    let epoch = event / 50;
    let r = random(event, 1);
    let active = (epoch + 1).min(1000);
    (1000 + if r & 3 != 0 { epoch / 100 * 100 + 1 } else { epoch + 1 - active + bounded(r, active + 10) }) as i64
}

fn batches(rows: &[(i64, i64)]) -> Vec<Batch> {
    rows.chunks(BATCH_ROWS)
        .map(|rows| {
            let keys: ArrayRef = Arc::new(Int64Array::from_iter_values(rows.iter().map(|row| row.0)));
            let times = EventTimeArray::from_iter_values(rows.iter().map(|row| row.1)).with_timezone("UTC");
            Batch::new(RecordBatch::try_new(input(), vec![keys, Arc::new(times)]).expect("columns fit"), 0)
        })
        .collect()
}

fn finish(operator: &mut dyn Operator, mut progress: Progress, out: &mut Sent) {
    while progress == Progress::More {
        progress = operator.resume(out).expect("resume succeeds");
    }
}

fn watermark_after(batch: &Batch) -> EventTime {
    let times = batch.event_times().expect("the rows have a time");
    EventTime(times.value(times.len() - 1) - 4 * SECOND)
}

#[allow(clippy::disallowed_methods, reason = "a benchmark measures real time")]
fn measure(name: &str, rows: usize, run: impl FnOnce() -> usize) {
    let started = Instant::now();
    let results = run();
    let seconds = started.elapsed().as_secs_f64();
    println!("{name:24} {:7.1} M rows/s  {results:9} results", rows as f64 / seconds / 1e6);
}

fn whole(name: &str, window: WindowSpec, input: &[Batch]) {
    let rows = input.iter().map(Batch::num_rows).sum();
    measure(name, rows, || {
        let (mut operator, mut out) = (operator(window, Phase::Whole), Sent::default());
        for batch in input {
            let progress = operator.process(0, batch.clone(), &mut out).expect("process succeeds");
            finish(operator.as_mut(), progress, &mut out);
            let progress = operator.on_watermark(watermark_after(batch), &mut out).expect("on_watermark succeeds");
            finish(operator.as_mut(), progress, &mut out);
        }
        let progress = operator.on_watermark(EventTime::MAX, &mut out).expect("on_watermark succeeds");
        finish(operator.as_mut(), progress, &mut out);
        out.rows
    });
}

fn two_phases(name: &str, window: WindowSpec, input: &[Batch]) {
    let rows = input.iter().map(Batch::num_rows).sum();
    let mut sent = 0;
    measure(name, rows, || {
        let (mut local, mut last) = (operator(window, Phase::Local), operator(window, Phase::Final));
        let (mut between, mut out) = (Sent { keeps: true, ..Sent::default() }, Sent::default());
        let watermarks = input.iter().map(watermark_after).chain([EventTime::MAX]);
        for (index, watermark) in watermarks.enumerate() {
            if let Some(batch) = input.get(index) {
                let progress = local.process(0, batch.clone(), &mut between).expect("process succeeds");
                finish(local.as_mut(), progress, &mut between);
            }
            let progress = local.on_watermark(watermark, &mut between).expect("on_watermark succeeds");
            finish(local.as_mut(), progress, &mut between);
            for (input, batch) in between.kept.drain(..) {
                let progress = last.process(input, batch, &mut out).expect("process succeeds");
                finish(last.as_mut(), progress, &mut out);
            }
            let progress = last.on_watermark(watermark, &mut out).expect("on_watermark succeeds");
            finish(last.as_mut(), progress, &mut out);
        }
        sent = between.rows;
        out.rows
    });
    println!("{:24} {:7.1} % of the rows sent on", "", sent as f64 * 100.0 / rows as f64);
}

/// Peak memory of this process so far.
fn peak_mib() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap_or("0 kB");
    line.trim().trim_end_matches("kB").trim().parse::<u64>().unwrap_or(0) / 1024
}

fn ten_million_keys() {
    const KEYS: usize = 10_000_000;
    let before = peak_mib();
    let mut state = 0;
    measure("ten million keys", KEYS, || {
        let window = WindowSpec::Tumble { size: 3600 * SECOND, offset: 0 };
        let (mut operator, mut out) = (operator(window, Phase::Whole), Sent::default());
        for first in (0..KEYS).step_by(BATCH_ROWS) {
            // The rows of a batch are made here: all of them at once would be the larger part of the memory.
            let rows: Vec<(i64, i64)> =
                (first..KEYS.min(first + BATCH_ROWS)).map(|key| (mix(key as u64) as i64, SECOND)).collect();
            let batch = batches(&rows).remove(0);
            let progress = operator.process(0, batch, &mut out).expect("process succeeds");
            finish(operator.as_mut(), progress, &mut out);
        }
        state = operator.state_bytes();
        let progress = operator.on_watermark(EventTime::MAX, &mut out).expect("on_watermark succeeds");
        finish(operator.as_mut(), progress, &mut out);
        out.rows
    });
    println!("{:24} {:7} MiB of state, peak of the process {} MiB (was {before})", "", state >> 20, peak_mib());
}

fn main() {
    let wanted: Vec<String> = std::env::args().skip(1).collect();
    let is_wanted = |name: &str| wanted.is_empty() || wanted.iter().any(|wanted| wanted == name);
    if is_wanted("keys") {
        ten_million_keys();
    }
    if is_wanted("q5") {
        let rows = batches(&bids(8_000_000, auction));
        let window = WindowSpec::Hop { size: 10 * SECOND, slide: 2 * SECOND, offset: 0 };
        whole("q5 in one phase", window, &rows);
        two_phases("q5 in two phases", window, &rows);
    }
    if is_wanted("q11") {
        let rows = batches(&bids(8_000_000, bidder));
        let window = WindowSpec::Session { gap: 10 * SECOND };
        whole("q11 in one phase", window, &rows);
        two_phases("q11 in two phases", window, &rows);
    }
}
