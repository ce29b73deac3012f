//! Counters of a task: how it spent its time and what its operators have seen. Written by the task, read at each
//! heartbeat by `agent`.

use std::future::Future;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, AtomicU64, Ordering::Relaxed};

use weir_core::{Clock, OperatorUid, SubtaskIndex, VertexId};
use weir_operator_api::OperatorMetrics;
use weir_proto::v1;

/// Names a task within an attempt.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct TaskKey {
    /// Which chain.
    pub vertex: VertexId,
    /// Which subtask of it.
    pub subtask: SubtaskIndex,
}

/// What a task is doing.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u8)]
pub enum Doing {
    /// Processing.
    Busy = 0,
    /// Waiting for input.
    Idle = 1,
    /// Waiting for room downstream.
    BackPressured = 2,
}

/// Counters of one operator of a chain.
#[derive(Clone, Debug)]
pub struct OperatorCounters {
    /// Which operator.
    pub uid: OperatorUid,
    /// Its kind.
    pub kind: String,
    /// The counters.
    pub metrics: Arc<OperatorMetrics>,
}

/// Counters of one task. The three times add up to the time since it started.
#[derive(Debug)]
pub struct TaskCounters {
    clock: Arc<dyn Clock>,
    spent_us: [AtomicU64; 3],
    doing: AtomicU8,
    since_us: AtomicU64,
    /// Bytes of operator state, roughly.
    pub state_bytes: AtomicU64,
    /// Per operator, in chain order.
    pub operators: Vec<OperatorCounters>,
}

impl TaskCounters {
    /// Counters of a task that begins to count now, busy.
    pub fn new(clock: Arc<dyn Clock>, operators: Vec<OperatorCounters>) -> Self {
        let counters = TaskCounters {
            spent_us: Default::default(),
            doing: AtomicU8::new(Doing::Busy as u8),
            since_us: AtomicU64::new(0),
            state_bytes: AtomicU64::new(0),
            operators,
            clock,
        };
        counters.since_us.store(counters.now_us(), Relaxed);
        counters
    }

    fn now_us(&self) -> u64 {
        self.clock.monotonic().as_micros() as u64
    }

    /// From now on the task does `doing`. Called by the task alone.
    pub fn enter(&self, doing: Doing) {
        let before = self.doing.load(Relaxed);
        if before != doing as u8 {
            let now_us = self.now_us();
            let spent_us = now_us.saturating_sub(self.since_us.swap(now_us, Relaxed));
            self.spent_us[usize::from(before)].fetch_add(spent_us, Relaxed);
            self.doing.store(doing as u8, Relaxed);
        }
    }

    /// Runs a future; the time in which it waits counts as `waiting`, the rest as busy. **Cancel safety**: that of the
    /// future.
    pub async fn watch<F: Future>(&self, waiting: Doing, future: F) -> F::Output {
        let mut future = pin!(future);
        std::future::poll_fn(|context| {
            self.enter(Doing::Busy);
            let poll = future.as_mut().poll(context);
            if poll.is_pending() {
                self.enter(waiting);
            }
            poll
        })
        .await
    }

    /// Starts the times at zero: the task begins to run.
    pub fn restart(&self) {
        self.enter(Doing::Busy);
        self.spent_us.iter().for_each(|spent| spent.store(0, Relaxed));
        self.since_us.store(self.now_us(), Relaxed);
    }

    /// The counters as they travel.
    pub fn snapshot(&self) -> v1::TaskMetrics {
        let doing = usize::from(self.doing.load(Relaxed));
        let running_us = self.now_us().saturating_sub(self.since_us.load(Relaxed));
        let spent_ms = |which: usize| {
            let running_us = if which == doing { running_us } else { 0 };
            (self.spent_us[which].load(Relaxed) + running_us) / 1000
        };
        v1::TaskMetrics {
            busy_ms: spent_ms(0),
            idle_ms: spent_ms(1),
            back_pressured_ms: spent_ms(2),
            operators: self.operators.iter().map(OperatorCounters::snapshot).collect(),
            state_bytes: self.state_bytes.load(Relaxed),
        }
    }
}

impl OperatorCounters {
    fn snapshot(&self) -> v1::OperatorMetrics {
        let metrics = &self.metrics;
        v1::OperatorMetrics {
            operator: self.uid.0.clone(),
            records_in: metrics.records_in.load(Relaxed),
            records_out: metrics.records_out.load(Relaxed),
            bytes_in: metrics.bytes_in.load(Relaxed),
            bytes_out: metrics.bytes_out.load(Relaxed),
            batches_out: metrics.batches_out.load(Relaxed),
            late_records: metrics.late_records.load(Relaxed),
            bad_records: metrics.bad_records.load(Relaxed),
            watermark_in_unix_us: metrics.watermark_in.load(Relaxed),
            watermark_out_unix_us: metrics.watermark_out.load(Relaxed),
            kind: self.kind.clone(),
        }
    }
}
