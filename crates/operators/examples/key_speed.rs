//! How fast rows are looked up by key when memory holds a tenth of the keys: rows per second of `last_by_key` and
//! `first_by_key` over ten million keys that come again and again, in no order, with their rows in a state store on disk.
//! The clock of a case starts when all keys have been there once. Run with
//! `cargo run --release -p weir-operators --example key_speed -- DIRECTORY`, with the names of cases to run only those;
//! DIRECTORY takes the state, and is emptied.
#![allow(clippy::print_stdout, reason = "this is a tool that prints its figures")]
#![allow(clippy::disallowed_methods, reason = "a benchmark measures real time")]

mod shared;

use std::path::Path;
use std::sync::Arc;
use std::time::Instant;

use arrow_array::{ArrayRef, Int64Array, RecordBatch};
use arrow_schema::{DataType, Field, Schema, SchemaRef};
use weir_core::batch::EventTimeArray;
use weir_core::key_hash::mix;
use weir_core::{Batch, EventTime, KeyGroupRange, OperatorUid, SubtaskIndex};
use weir_graph::descriptor::{FirstByKey, LastByKey};
use weir_operator_api::{Operator, OperatorContext, Progress, SystemClock};
use weir_operators::{first_by_key, last_by_key};
use weir_state::StateStores;

use shared::{Sent, input};

const BATCH_ROWS: usize = 8192;
const KEYS: u64 = 10_000_000;
/// Rows after the first one of each key.
const AGAIN: u64 = 10_000_000;
/// What a task of two holds in a worker with 128 MiB, and what the store does there. **Units**: bytes.
const TABLE_BYTES: usize = 38 << 20;
const STORE_BYTES: usize = 16 << 20;

fn context(stores: StateStores, output: SchemaRef) -> OperatorContext {
    OperatorContext {
        uid: OperatorUid::from("by-key"),
        subtask: SubtaskIndex(0),
        parallelism: 1,
        key_group_count: 128,
        key_groups: KeyGroupRange::of_subtask(0, 1, 128),
        inputs: vec![input()],
        output,
        batch_rows: BATCH_ROWS,
        stores,
        clock: Arc::new(SystemClock::default()),
    }
}

/// Rows of these keys, one microsecond apart from `start_us` on.
fn batch(keys: Vec<i64>, start_us: i64) -> Batch {
    let times = EventTimeArray::from_iter_values((start_us..).take(keys.len())).with_timezone("UTC");
    let keys: ArrayRef = Arc::new(Int64Array::from(keys));
    Batch::new(RecordBatch::try_new(input(), vec![keys, Arc::new(times)]).expect("columns fit"), 0)
}

/// Feeds one row per number to an operator; whatever it holds beyond its memory goes to disk.
fn feed(operator: &mut dyn Operator, rows: std::ops::Range<u64>, key: impl Fn(u64) -> u64, out: &mut Sent) {
    let mut start = rows.start;
    while start < rows.end {
        let end = rows.end.min(start + BATCH_ROWS as u64);
        let keys = (start..end).map(|row| key(row) as i64).collect();
        let mut progress = operator.process(0, batch(keys, start as i64), out).expect("process succeeds");
        while progress == Progress::More {
            progress = operator.resume(out).expect("resume succeeds");
        }
        let mut progress = operator.on_watermark(EventTime(end as i64 - 1), out).expect("on_watermark succeeds");
        while progress == Progress::More {
            progress = operator.resume(out).expect("resume succeeds");
        }
        if operator.state_bytes() > TABLE_BYTES {
            operator.spill().expect("the disk takes state");
        }
        start = end;
    }
}

/// Time on all cores of this process, that of the store's threads included. **Units**: seconds.
fn cpu_seconds() -> f64 {
    let stat = std::fs::read_to_string("/proc/self/stat").expect("Linux tells");
    let fields: Vec<&str> = stat.rsplit(')').next().expect("a name").split_whitespace().collect();
    let ticks: f64 = [fields[11], fields[12]].iter().map(|ticks| ticks.parse::<f64>().expect("a number")).sum();
    ticks / 100.0
}

/// What the process holds now. **Units**: MiB.
fn resident_mib() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").expect("Linux tells");
    let line = status.lines().find(|line| line.starts_with("VmRSS:")).expect("the size");
    line.split_whitespace().nth(1).and_then(|size| size.parse::<u64>().ok()).expect("a number") / 1024
}

fn measure(name: &str, operator: &mut dyn Operator, stores: &StateStores) {
    let mut out = Sent::default();
    let mut phase = |what: &str, rows: std::ops::Range<u64>, key: &dyn Fn(u64) -> u64| {
        let (started, cpu, count) = (Instant::now(), cpu_seconds(), (rows.end - rows.start) as f64);
        feed(operator, rows, key, &mut out);
        let (wall, cpu) = (started.elapsed().as_secs_f64(), cpu_seconds() - cpu);
        let (memory, disk) = (resident_mib(), stores.size_bytes() >> 20);
        println!(
            "{name:6} {what:6} {:8.0} rows/s {:8.0} rows/CPU-s {:4} MiB in tables {memory:4} MiB resident {disk:5} MiB on disk",
            count / wall,
            count / cpu,
            operator.state_bytes() >> 20,
        );
    };
    // An odd factor numbers all keys in an order that knows no neighbours.
    phase("first", 0..KEYS, &|row| row * 7_654_321 % KEYS);
    phase("again", KEYS..KEYS + AGAIN, &|row| mix(row) % KEYS);
    println!("{name:6} {} rows sent", out.rows);
}

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let (directory, names) = arguments.split_first().expect("usage: key_speed DIRECTORY [last] [first]");
    let is_wanted = |name: &str| names.is_empty() || names.iter().any(|wanted| wanted == name);
    let stores = |name: &str| StateStores::on_disk(Path::new(directory).join(name), STORE_BYTES);
    if is_wanted("last") {
        let stores = stores("last");
        let last = LastByKey { key: vec!["k".to_owned()], order_by: Vec::new(), state_ttl: None };
        let mut fields = input().fields().to_vec();
        fields.push(Arc::new(Field::new("kind", DataType::Int8, false)));
        let output = Arc::new(Schema::new_with_metadata(fields, input().metadata().clone()));
        let mut operator =
            last_by_key::create(&last, &context(stores.clone(), output)).expect("the descriptor is right");
        measure("last", operator.as_mut(), &stores);
    }
    if is_wanted("first") {
        let stores = stores("first");
        let first = FirstByKey { key: vec!["k".to_owned()], state_ttl: None };
        let mut operator =
            first_by_key::create(&first, &context(stores.clone(), input())).expect("the descriptor is right");
        measure("first", operator.as_mut(), &stores);
    }
}
