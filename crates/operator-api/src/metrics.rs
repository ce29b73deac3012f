//! Counters of one operator in one subtask. The worker creates and reads them; the chain counts rows, late and bad
//! records at the outputs, so operator code cannot forget to.

use std::sync::atomic::{AtomicI64, AtomicU64, Ordering::Relaxed};

/// Counters of one operator instance. They only grow (the watermark too) while the attempt lives.
#[derive(Debug)]
pub struct OperatorMetrics {
    /// Rows in.
    pub records_in: AtomicU64,
    /// Bytes in.
    pub bytes_in: AtomicU64,
    /// Rows out by the main output.
    pub records_out: AtomicU64,
    /// Bytes out by the main output.
    pub bytes_out: AtomicU64,
    /// Batches out by the main output.
    pub batches_out: AtomicU64,
    /// Rows that came after their window had closed.
    pub late_records: AtomicU64,
    /// Records that could not be used.
    pub bad_records: AtomicU64,
    /// Event time of the last watermark that went in, microseconds; `i64::MIN` before the first.
    pub watermark_in: AtomicI64,
    /// Event time of the last watermark that went out, microseconds; `i64::MIN` before the first.
    pub watermark_out: AtomicI64,
}

impl Default for OperatorMetrics {
    fn default() -> Self {
        OperatorMetrics {
            records_in: AtomicU64::new(0),
            bytes_in: AtomicU64::new(0),
            records_out: AtomicU64::new(0),
            bytes_out: AtomicU64::new(0),
            batches_out: AtomicU64::new(0),
            late_records: AtomicU64::new(0),
            bad_records: AtomicU64::new(0),
            watermark_in: AtomicI64::new(i64::MIN),
            watermark_out: AtomicI64::new(i64::MIN),
        }
    }
}

impl OperatorMetrics {
    /// Adds to a counter. One writer per counter at a time, so relaxed order is enough.
    pub fn add(counter: &AtomicU64, amount: usize) {
        counter.fetch_add(amount as u64, Relaxed);
    }
}
