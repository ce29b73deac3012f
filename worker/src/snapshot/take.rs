//! What a task holds still at a barrier: plain data, handed from the task's thread to the uploader.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use weir_checkpoint::SplitState;
use weir_core::{CheckpointId, EventTime, OperatorUid, SubtaskIndex, Value};
use weir_operator_api::OperatorMetrics;
use weir_state::{FrozenShare, FrozenTable};

use crate::input::InFlight;
use crate::task::suspects::SuspectRows;

/// State of one operator of a chain at a barrier.
#[derive(Clone, Debug)]
pub struct OperatorSnapshot {
    /// Which operator.
    pub uid: OperatorUid,
    /// Which subtask.
    pub subtask: SubtaskIndex,
    /// Nothing more comes out of it.
    pub has_ended: bool,
    /// Input watermark.
    pub watermark_in: EventTime,
    /// Output watermark.
    pub watermark_out: EventTime,
    /// Counts that go on after a restore.
    pub counters: BTreeMap<String, u64>,
    /// Rows of state.
    pub tables: Vec<FrozenTable>,
    /// Places in splits, of a source.
    pub splits: Vec<SplitState>,
    /// What a sink needs to go on.
    pub sink_states: Vec<Value>,
    /// Output that the checkpoint commits.
    pub committables: Vec<Value>,
}

/// A task at a barrier.
#[derive(Debug)]
pub struct TaskSnapshot {
    /// Of which checkpoint.
    pub checkpoint: CheckpointId,
    /// The operators in chain order.
    pub operators: Vec<OperatorSnapshot>,
    /// When the first barrier came, monotonic.
    pub began_at: Duration,
    /// From the first barrier to the last.
    pub alignment: Duration,
    /// The task stood still.
    pub freeze: Duration,
    /// What the barrier has overtaken in the gate.
    pub in_flight: Option<InFlight>,
    /// Rows that were under suspicion and need no care behind this cut.
    pub passed: Vec<SuspectRows>,
    /// What the state counts when it leaves the task before it is written.
    pub held: Arc<FrozenShare>,
}

/// Names of the counters that go on after a restore, with what they count.
type Counter = (&'static str, fn(&OperatorMetrics) -> &std::sync::atomic::AtomicU64);

const COUNTERS: [Counter; 7] = [
    ("records-in", |metrics| &metrics.records_in),
    ("bytes-in", |metrics| &metrics.bytes_in),
    ("records-out", |metrics| &metrics.records_out),
    ("bytes-out", |metrics| &metrics.bytes_out),
    ("batches-out", |metrics| &metrics.batches_out),
    ("late-records", |metrics| &metrics.late_records),
    ("bad-records", |metrics| &metrics.bad_records),
];

/// The counters of an operator, those that are not zero.
pub fn counters(metrics: &OperatorMetrics) -> BTreeMap<String, u64> {
    let counts = COUNTERS.iter().map(|(name, counter)| ((*name).to_owned(), counter(metrics).load(Relaxed)));
    counts.filter(|(_, count)| *count > 0).collect()
}

/// Lets the counters of an operator go on from these.
pub fn resume_counters(metrics: &OperatorMetrics, counts: &BTreeMap<String, u64>) {
    for (name, counter) in COUNTERS {
        if let Some(count) = counts.get(name) {
            counter(metrics).fetch_add(*count, Relaxed);
        }
    }
}
