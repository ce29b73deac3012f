//! `numbers`: a source that counts, or fails on order. `collect`: a sink that keeps its rows for the test.

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Arc, Mutex};

use arrow_array::cast::AsArray;
use arrow_array::types::Int64Type;
use arrow_array::{ArrayRef, Int64Array, RecordBatch};
use arrow_schema::{DataType, Field, Schema, SchemaRef};
use async_trait::async_trait;
use weir_core::{Batch, OperatorUid, Settings, SplitIndex, SubtaskIndex, Value};
use weir_operator_api::connector::{SinkProperties, SourceProperties};
use weir_operator_api::sink::SinkCommitter;
use weir_operator_api::{
    BadRecord, Committable, Cut, OperatorError, PreparedOutput, ReaderContext, Result, SinkContext, SinkFactory,
    SinkReport, SinkWriter, SourceEvent, SourceFactory, SourceReader, Split,
};

pub fn schema() -> SchemaRef {
    Arc::new(Schema::new(vec![Field::new("n", DataType::Int64, false)]))
}

/// Emits the numbers of its splits; split i of k has i, i + k, ... below `count`.
pub struct Numbers;

#[async_trait]
impl SourceFactory for Numbers {
    fn kind(&self) -> &'static str {
        "numbers"
    }

    fn describe(&self, _: &Settings<'_>) -> Option<SourceProperties> {
        None
    }

    async fn enumerate(&self, _: &OperatorUid, _: &BTreeMap<String, Value>, _: u32) -> Result<Vec<Split>> {
        Ok(Vec::new())
    }

    async fn reader(&self, context: ReaderContext) -> Result<Box<dyn SourceReader>> {
        if context.settings.contains_key("no_open") {
            return Err(OperatorError::external("numbers-unreachable", "cannot open the numbers"));
        }
        let count = match context.settings.get("count") {
            Some(Value::Integer(count)) => *count,
            _ => i64::MAX,
        };
        let splits: VecDeque<u32> = context.splits.iter().map(|split| split.index.0).collect();
        let next = splits.front().map_or(0, |split| i64::from(*split));
        Ok(Box::new(NumbersReader { context, count, splits, next, is_waiting: false }))
    }
}

struct NumbersReader {
    context: ReaderContext,
    count: i64,
    splits: VecDeque<u32>,
    next: i64,
    is_waiting: bool,
}

#[async_trait]
impl SourceReader for NumbersReader {
    async fn next(&mut self) -> Result<SourceEvent> {
        let Some(split) = self.splits.front().copied() else {
            return Ok(SourceEvent::EndOfInput);
        };
        if self.is_waiting {
            std::future::pending::<()>().await;
        }
        if self.next >= self.count {
            self.splits.pop_front();
            self.next = self.splits.front().map_or(0, |split| i64::from(*split));
            return Ok(SourceEvent::SplitFinished(SplitIndex(split)));
        }
        if self.context.settings.contains_key("panic") {
            panic!("numbers are gone");
        }
        if self.context.settings.contains_key("wait") {
            self.is_waiting = true;
        }
        let step = i64::from(self.context.split_count);
        let numbers: Vec<i64> = (0..self.context.batch_rows as i64)
            .map(|n| self.next.saturating_add(n * step))
            .take_while(|n| *n < self.count)
            .collect();
        self.next = numbers.last().map_or(self.next, |last| last + step);
        let column: ArrayRef = Arc::new(Int64Array::from(numbers));
        let records = RecordBatch::try_new(schema(), vec![column])?;
        Ok(SourceEvent::Batch(Batch { split: Some(SplitIndex(split)), ..Batch::new(records, 1) }))
    }
}

/// What all sinks of a test have seen.
#[derive(Debug, Default)]
pub struct Seen {
    pub rows: Vec<(SubtaskIndex, i64)>,
    pub open: i64,
    pub aborted: usize,
    pub prepared: usize,
    pub published: usize,
    pub discarded: usize,
}

/// Collects rows; `fail` lets the first write fail, `wait` lets it wait for ever.
#[derive(Clone, Default)]
pub struct Collect {
    pub seen: Arc<Mutex<Seen>>,
}

impl Collect {
    pub fn seen<T>(&self, look: impl FnOnce(&mut Seen) -> T) -> T {
        look(&mut self.seen.lock().expect("no holder of the lock panics"))
    }
}

#[async_trait]
impl SinkFactory for Collect {
    fn kind(&self) -> &'static str {
        "collect"
    }

    fn describe(&self, _: &Settings<'_>, _: &Schema) -> Option<SinkProperties> {
        None
    }

    async fn writer(&self, context: SinkContext) -> Result<Box<dyn SinkWriter>> {
        self.seen(|seen| seen.open += 1);
        Ok(Box::new(Writer { sink: self.clone(), context }))
    }

    async fn committer(&self, _: &BTreeMap<String, Value>) -> Result<Box<dyn SinkCommitter>> {
        Ok(Box::new(Committer(self.clone())))
    }
}

struct Writer {
    sink: Collect,
    context: SinkContext,
}

impl Drop for Writer {
    fn drop(&mut self) {
        self.sink.seen(|seen| seen.open -= 1);
    }
}

#[async_trait]
impl SinkWriter for Writer {
    async fn write(&mut self, batch: Batch) -> Result<Vec<BadRecord>> {
        if self.context.settings.contains_key("fail") {
            return Err(OperatorError::external("sink-io", "cannot write").because("disk on fire"));
        }
        if self.context.settings.contains_key("wait") {
            std::future::pending::<()>().await;
        }
        let numbers = batch.records.column(0).as_primitive::<Int64Type>().values().to_vec();
        self.sink.seen(|seen| seen.rows.extend(numbers.into_iter().map(|n| (self.context.subtask, n))));
        Ok(Vec::new())
    }

    async fn prepare(&mut self, _cut: Cut) -> Result<PreparedOutput> {
        self.sink.seen(|seen| seen.prepared += 1);
        let description = Value::from([("subtask", Value::Integer(i64::from(self.context.subtask.0)))]);
        let sink = self.context.uid.clone();
        let committables = vec![Committable { sink, subtask: self.context.subtask, description }];
        Ok(PreparedOutput { committables, ..PreparedOutput::default() })
    }

    fn report(&self) -> SinkReport {
        BTreeMap::from([("sinks".to_owned(), 1)])
    }

    async fn abort(&mut self) {
        self.sink.seen(|seen| seen.aborted += 1);
    }
}

struct Committer(Collect);

#[async_trait]
impl SinkCommitter for Committer {
    async fn publish(&mut self, committables: Vec<Committable>) -> Result<()> {
        self.0.seen(|seen| seen.published += committables.len());
        Ok(())
    }

    async fn discard(&mut self, committables: Vec<Committable>) -> Result<()> {
        self.0.seen(|seen| seen.discarded += committables.len());
        Ok(())
    }
}
