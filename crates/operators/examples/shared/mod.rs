//! What the examples of this crate share: their input, and an end for what an operator sends.

use std::hint::black_box;

use arrow_schema::{DataType, Field, Schema, SchemaRef};
use weir_core::batch::{event_time_type, with_event_time};
use weir_core::{Batch, EventTime, OutputTag};
use weir_operator_api::{BadRecord, Output, SplitEvent};

/// Takes what an operator sends; batches for the next phase are kept until they are fetched.
#[derive(Default)]
pub struct Sent {
    /// Rows so far.
    pub rows: usize,
    /// Batches, each with the number of its output.
    pub kept: Vec<(usize, Batch)>,
    /// Whether they are kept.
    pub keeps: bool,
}

impl Output for Sent {
    fn emit_to(&mut self, tag: OutputTag, batch: Batch) {
        self.rows += batch.num_rows();
        if self.keeps {
            self.kept.push((usize::from(tag == OutputTag::Main), batch));
        } else {
            black_box(batch);
        }
    }
    fn bad(&mut self, bad: Vec<BadRecord>) {
        panic!("{bad:?}");
    }
    fn is_connected(&self, _tag: OutputTag) -> bool {
        true
    }
    fn watermark(&mut self, _watermark: EventTime) {}
    fn idle(&mut self, _is_idle: bool) {}
    fn split(&mut self, _event: SplitEvent) {}
}

/// Rows with a key and a time.
pub fn input() -> SchemaRef {
    let fields = vec![Field::new("k", DataType::Int64, false), Field::new("t", event_time_type(), false)];
    with_event_time(&Schema::new(fields), Some("t"))
}
