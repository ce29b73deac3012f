//! An output that keeps everything in order and holds the operator to its contract: watermarks never go back, nothing
//! follows the last one, no empty schema surprises. The script runner and tests of operators use it.

use std::collections::BTreeSet;

use arrow_array::RecordBatch;
use arrow_schema::SchemaRef;
use weir_core::batch::EVENT_TIME_KEY;
use weir_core::{Batch, EventTime, OutputTag};
use weir_operator_api::{BadRecord, Output, SplitEvent};

use crate::rows::{header, print_rows, seconds};

/// One thing an operator did.
#[derive(Clone, Debug)]
pub enum Recorded {
    /// Sent rows.
    Batch(OutputTag, Batch),
    /// Sent bad records.
    Bad(Vec<BadRecord>),
    /// Sent a watermark.
    Watermark(EventTime),
    /// Said it is idle, or active again.
    Idle(bool),
    /// Passed on news about a split.
    Split(SplitEvent),
    /// Asked to be resumed.
    More,
}

/// An output that records. All outputs are connected until [`Recorder::disconnect`].
#[derive(Debug, Default)]
pub struct Recorder {
    elements: Vec<Recorded>,
    disconnected: BTreeSet<OutputTag>,
    expected_schema: Option<SchemaRef>,
    watermark: Option<EventTime>,
    headers: BTreeSet<OutputTag>,
}

impl Recorder {
    /// A recorder that refuses main rows of any other schema (names, types, nullability, event-time column).
    pub fn expecting(schema: SchemaRef) -> Self {
        Recorder { expected_schema: Some(schema), ..Recorder::default() }
    }

    /// Makes an output one that nobody reads.
    pub fn disconnect(&mut self, tag: OutputTag) {
        self.disconnected.insert(tag);
    }

    /// Everything since the last [`Recorder::take`], in order.
    pub fn elements(&self) -> &[Recorded] {
        &self.elements
    }

    /// Takes everything recorded so far.
    pub fn take(&mut self) -> Vec<Recorded> {
        std::mem::take(&mut self.elements)
    }

    /// The last watermark.
    pub fn last_watermark(&self) -> Option<EventTime> {
        self.watermark
    }

    /// All rows sent by one output and not yet taken, batch by batch.
    pub fn batches(&self, tag: OutputTag) -> Vec<RecordBatch> {
        let batches = self.elements.iter().filter_map(|element| match element {
            Recorded::Batch(to, batch) if *to == tag => Some(batch.records.clone()),
            _ => None,
        });
        batches.collect()
    }

    /// All rows sent by one output and not yet taken, as text.
    pub fn rows(&self, tag: OutputTag) -> Vec<String> {
        self.batches(tag).iter().flat_map(print_rows).collect()
    }

    /// All bad records not yet taken.
    pub fn bad_records(&self) -> Vec<BadRecord> {
        let bad = self.elements.iter().filter_map(|element| match element {
            Recorded::Bad(bad) => Some(bad.clone()),
            _ => None,
        });
        bad.flatten().collect()
    }

    /// Notes that a call returned `More`.
    pub(crate) fn more(&mut self) {
        self.elements.push(Recorded::More);
    }

    /// Takes everything recorded as text, one line per row or event; the column names come before the first rows.
    pub fn transcript(&mut self) -> String {
        let mut text = String::new();
        for element in self.take() {
            self.print(&element, &mut text);
        }
        text
    }

    fn print(&mut self, element: &Recorded, text: &mut String) {
        let mut line = |content: String| {
            text.push_str("  ");
            text.push_str(&content);
            text.push('\n');
        };
        match element {
            Recorded::Batch(tag, batch) => {
                let name = tag_name(*tag);
                if self.headers.insert(*tag) {
                    line(format!("{name} ({})", header(batch.records.schema_ref())));
                }
                print_rows(&batch.records).into_iter().for_each(|row| line(format!("{name} {row}")));
            }
            Recorded::Bad(bad) => bad.iter().for_each(|bad| {
                line(format!("bad {}: {} <- {}", bad.code, bad.message, bad.original.as_deref().unwrap_or("-")));
            }),
            Recorded::Watermark(watermark) => line(format!("wm {}", seconds(watermark.0))),
            Recorded::Idle(true) => line("idle".to_owned()),
            Recorded::Idle(false) => line("active".to_owned()),
            Recorded::Split(event) => line(format!("{event:?}")),
            Recorded::More => line("(more)".to_owned()),
        }
    }
}

pub(crate) fn tag_name(tag: OutputTag) -> &'static str {
    match tag {
        OutputTag::Main => "main",
        OutputTag::Late => "late",
        OutputTag::DeadLetter => "dead",
        OutputTag::Raw => "raw",
    }
}

impl Output for Recorder {
    fn emit_to(&mut self, tag: OutputTag, batch: Batch) {
        if batch.num_rows() == 0 {
            return;
        }
        assert_ne!(
            self.watermark,
            Some(EventTime::MAX),
            "rows after the last watermark: {:?}",
            print_rows(&batch.records)
        );
        if let (OutputTag::Main, Some(expected)) = (tag, &self.expected_schema) {
            let found = batch.records.schema_ref();
            assert_eq!(found.fields(), expected.fields(), "main rows have another schema than planned");
            let event_time = |schema: &SchemaRef| schema.metadata().get(EVENT_TIME_KEY).cloned();
            assert_eq!(
                event_time(found),
                event_time(expected),
                "main rows name another event-time column than planned"
            );
        }
        self.elements.push(Recorded::Batch(tag, batch));
    }

    fn bad(&mut self, bad: Vec<BadRecord>) {
        if !bad.is_empty() {
            self.elements.push(Recorded::Bad(bad));
        }
    }

    fn is_connected(&self, tag: OutputTag) -> bool {
        !self.disconnected.contains(&tag)
    }

    fn watermark(&mut self, watermark: EventTime) {
        if let Some(last) = self.watermark {
            assert!(watermark >= last, "watermark went back from {last:?} to {watermark:?}");
            assert!(last < EventTime::MAX, "a watermark came after the last one");
        }
        self.watermark = Some(watermark);
        self.elements.push(Recorded::Watermark(watermark));
    }

    fn idle(&mut self, is_idle: bool) {
        self.elements.push(Recorded::Idle(is_idle));
    }

    fn split(&mut self, event: SplitEvent) {
        self.elements.push(Recorded::Split(event));
    }
}
