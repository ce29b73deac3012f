//! The sink `blackhole`: counts rows and how old they are, and forgets them. For measuring what comes before it.
//!
//! It reports `rows` and a histogram of the latency from entering the job to the sink: `latency_us_le_<bound>` is the
//! number of rows with a latency of at most `bound` microseconds and more than the bound before. Bounds are powers of two
//! with four steps each (8, 10, 12, 14, 16, 20, ...), so the counts of all subtasks add up and a percentile read from
//! them is at most a quarter too high. All rows of a batch count with the age of its oldest. The counts are part of every
//! checkpoint, so each row counts once whatever fails.

use std::collections::BTreeMap;
use std::sync::Arc;

use arrow_schema::Schema;
use async_trait::async_trait;
use weir_core::{Batch, Clock, Settings, Value};
use weir_operator_api::connector::SinkProperties;
use weir_operator_api::sink::{SinkCommitter, SinkReport};
use weir_operator_api::{BadRecord, Cut, PreparedOutput, Result, SinkContext, SinkFactory, SinkWriter};

use crate::nothing::NothingToCommit;
use crate::totals;

/// Makes blackhole sinks.
#[derive(Clone, Copy, Debug, Default)]
pub struct BlackholeSink;

#[async_trait]
impl SinkFactory for BlackholeSink {
    fn kind(&self) -> &'static str {
        "blackhole"
    }

    fn describe(&self, _settings: &Settings<'_>, _input: &Schema) -> Option<SinkProperties> {
        Some(SinkProperties { takes_changes: true, ..SinkProperties::default() })
    }

    async fn writer(&self, context: SinkContext) -> Result<Box<dyn SinkWriter>> {
        let totals = totals::restored(&context)?;
        let latencies = std::array::from_fn(|bucket| totals.get(&name_of(bucket)).copied().unwrap_or(0));
        let rows = totals.get(ROWS).copied().unwrap_or(0);
        Ok(Box::new(Writer { clock: context.clock, rows, latencies }))
    }

    async fn committer(&self, _settings: &BTreeMap<String, Value>) -> Result<Box<dyn SinkCommitter>> {
        Ok(Box::new(NothingToCommit))
    }
}

const ROWS: &str = "rows";

/// Bounds up to 2^40 microseconds, which is twelve days; older rows count in the last.
const BUCKETS: usize = 4 * 39;

struct Writer {
    clock: Arc<dyn Clock>,
    rows: u64,
    latencies: [u64; BUCKETS],
}

/// The least bound that is not below a latency, by its index.
fn bucket_of(latency_us: u64) -> usize {
    if latency_us <= 4 {
        return 0;
    }
    // The bound is (4 + step + 1) * 2^(power - 2) for a latency above (4 + step) * 2^(power - 2).
    let below = latency_us - 1;
    let power = below.ilog2();
    let step = (below >> (power - 2)) & 3;
    let index = (power as usize - 2) * 4 + step as usize + 1;
    index.min(BUCKETS - 1)
}

/// The bound of a bucket in microseconds.
fn bound_of(bucket: usize) -> u64 {
    match bucket.checked_sub(1) {
        None => 4,
        Some(index) => (4 + (index as u64 % 4) + 1) << (index / 4),
    }
}

/// What a bucket is called in reports and checkpoints.
fn name_of(bucket: usize) -> String {
    format!("latency_us_le_{}", bound_of(bucket))
}

#[async_trait]
impl SinkWriter for Writer {
    async fn write(&mut self, batch: Batch) -> Result<Vec<BadRecord>> {
        let rows = batch.num_rows() as u64;
        // A wall clock may jump back; a negative age is no age.
        let latency_us = self.clock.wall_unix_us().saturating_sub(batch.origin_us).max(0) as u64;
        self.rows += rows;
        self.latencies[bucket_of(latency_us)] += rows;
        Ok(Vec::new())
    }

    async fn prepare(&mut self, _cut: Cut) -> Result<PreparedOutput> {
        Ok(PreparedOutput { values: vec![totals::to_value(&self.report())], ..PreparedOutput::default() })
    }

    fn report(&self) -> SinkReport {
        let counts = self.latencies.iter().enumerate().filter(|(_, count)| **count > 0);
        let latencies = counts.map(|(bucket, count)| (name_of(bucket), *count));
        latencies.chain([(ROWS.to_owned(), self.rows)]).collect()
    }

    async fn abort(&mut self) {}
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn bounds_are_powers_of_two_in_four_steps() {
        let bounds: Vec<u64> = (0..12).map(bound_of).collect();
        assert_eq!(bounds, [4, 5, 6, 7, 8, 10, 12, 14, 16, 20, 24, 28]);
        assert!(bound_of(BUCKETS - 1) > 1 << 39);
    }

    proptest! {
        #[test]
        fn each_latency_falls_under_its_bound_and_over_the_one_before(latency in 0u64..1 << 39) {
            let bucket = bucket_of(latency);
            prop_assert!(latency <= bound_of(bucket));
            prop_assert!(bucket == 0 || latency > bound_of(bucket - 1));
        }
    }
}
