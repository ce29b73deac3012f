//! `numbers`: a source that counts, or fails on order. `collect`: a sink that keeps its rows for the test.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use arrow_array::cast::AsArray;
use arrow_array::types::Int64Type;
use arrow_array::{ArrayRef, Int64Array, RecordBatch};
use arrow_schema::{DataType, Field, Schema, SchemaRef};
use async_trait::async_trait;
use tokio::sync::watch;
use weir_core::{Batch, OperatorUid, Settings, SplitIndex, SubtaskIndex, Value};
use weir_operator_api::connector::{SinkProperties, SourceProperties};
use weir_operator_api::sink::SinkCommitter;
use weir_operator_api::{
    BadRecord, Committable, Cut, OperatorError, PreparedOutput, ReaderContext, Result, SinkContext, SinkFactory,
    SinkReport, SinkState, SinkWriter, SourceEvent, SourceFactory, SourceReader, Split, SplitPosition,
};

pub fn schema() -> SchemaRef {
    Arc::new(Schema::new(vec![Field::new("n", DataType::Int64, false)]))
}

/// Emits the numbers of its splits; split i of k has i, i + k, ... below `count`, each modulo `modulo`. It stands still
/// at the limit that the test sets, and goes on from where a checkpoint has left it.
#[derive(Clone)]
pub struct Numbers {
    pub limit: Arc<watch::Sender<i64>>,
}

impl Default for Numbers {
    fn default() -> Self {
        Numbers { limit: Arc::new(watch::Sender::new(i64::MAX)) }
    }
}

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
        let integer = |name: &str| match context.settings.get(name) {
            Some(Value::Integer(number)) => *number,
            _ => i64::MAX,
        };
        let (count, modulo) = (integer("count"), integer("modulo"));
        let at = context.splits.iter().map(|split| match split.position {
            Some(Value::Integer(next)) => At { split: split.index, next, has_begun: true, is_finished: false },
            _ => At { split: split.index, next: i64::from(split.index.0), has_begun: false, is_finished: false },
        });
        let at = at.collect();
        Ok(Box::new(NumbersReader { limit: self.limit.subscribe(), context, count, modulo, at, is_waiting: false }))
    }
}

struct At {
    split: SplitIndex,
    next: i64,
    has_begun: bool,
    is_finished: bool,
}

struct NumbersReader {
    context: ReaderContext,
    limit: watch::Receiver<i64>,
    count: i64,
    modulo: i64,
    at: Vec<At>,
    is_waiting: bool,
}

#[async_trait]
impl SourceReader for NumbersReader {
    async fn next(&mut self) -> Result<SourceEvent> {
        // The split that is furthest behind, so that they walk side by side.
        let Some(at) = self.at.iter_mut().filter(|at| !at.is_finished).min_by_key(|at| at.next) else {
            return Ok(SourceEvent::EndOfInput);
        };
        if self.is_waiting {
            std::future::pending::<()>().await;
        }
        if at.next >= self.count {
            at.is_finished = true;
            return Ok(SourceEvent::SplitFinished(at.split));
        }
        if self.context.settings.contains_key("panic") {
            panic!("numbers are gone");
        }
        if self.context.settings.contains_key("wait") {
            self.is_waiting = true;
        }
        let next = at.next;
        let limit = match self.limit.wait_for(|limit| next < *limit).await {
            Ok(limit) => (*limit).min(self.count),
            Err(_) => self.count,
        };
        let step = i64::from(self.context.split_count);
        let numbers: Vec<i64> = (0..self.context.batch_rows as i64)
            .map(|n| at.next.saturating_add(n * step))
            .take_while(|n| *n < limit)
            .collect();
        at.next = numbers.last().map_or(at.next, |last| last + step);
        at.has_begun = true;
        let column: ArrayRef = Arc::new(Int64Array::from_iter_values(numbers.into_iter().map(|n| n % self.modulo)));
        let records = RecordBatch::try_new(schema(), vec![column])?;
        Ok(SourceEvent::Batch(Batch { split: Some(at.split), ..Batch::new(records, 1) }))
    }

    fn positions(&self) -> Result<Vec<SplitPosition>> {
        if self.context.settings.contains_key("no_positions") {
            return Err(OperatorError::user("checkpoint-source", "numbers cannot be read again"));
        }
        let position = |at: &At| SplitPosition {
            split: at.split,
            position: at.has_begun.then_some(Value::Integer(at.next)),
            is_finished: at.is_finished,
        };
        Ok(self.at.iter().map(position).collect())
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
    /// Milliseconds that each write takes.
    pub pause_ms: Arc<AtomicU64>,
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
        // What all writers gave at the checkpoint: how many rows each had written by then.
        let rows_of = |state: &SinkState| match state.values.first() {
            Some(Value::Integer(rows)) => *rows,
            _ => 0,
        };
        let restored: i64 = context.restored.iter().map(rows_of).sum();
        let total = if context.subtask.0 == 0 { restored } else { 0 };
        Ok(Box::new(Writer { sink: self.clone(), context, since_cut: Vec::new(), cuts: 0, total }))
    }

    async fn committer(&self, _: &BTreeMap<String, Value>) -> Result<Box<dyn SinkCommitter>> {
        Ok(Box::new(Committer(self.clone())))
    }
}

struct Writer {
    sink: Collect,
    context: SinkContext,
    since_cut: Vec<i64>,
    cuts: i64,
    /// Rows written, over all attempts.
    total: i64,
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
        let pause_ms = self.sink.pause_ms.load(Ordering::Relaxed);
        if pause_ms > 0 {
            #[allow(clippy::disallowed_methods, reason = "whole workers live on the real clock")]
            tokio::time::sleep(Duration::from_millis(pause_ms)).await;
        }
        let numbers = batch.records.column(0).as_primitive::<Int64Type>().values().to_vec();
        self.since_cut.extend(&numbers);
        self.total += numbers.len() as i64;
        self.sink.seen(|seen| seen.rows.extend(numbers.into_iter().map(|n| (self.context.subtask, n))));
        Ok(Vec::new())
    }

    async fn prepare(&mut self, _cut: Cut) -> Result<PreparedOutput> {
        self.sink.seen(|seen| seen.prepared += 1);
        let rows: Vec<Value> = std::mem::take(&mut self.since_cut).into_iter().map(Value::Integer).collect();
        self.cuts += 1;
        let name = format!("{}-{}-{}", self.context.token.attempt, self.context.subtask, self.cuts);
        let description = Value::from([("name", Value::from(name.as_str())), ("rows", Value::from(rows))]);
        let sink = self.context.uid.clone();
        let committables = vec![Committable { sink, subtask: self.context.subtask, description }];
        Ok(PreparedOutput { committables, values: vec![Value::Integer(self.total)], tables: Vec::new() })
    }

    fn report(&self) -> SinkReport {
        BTreeMap::from([("sinks".to_owned(), 1), ("rows".to_owned(), self.total as u64)])
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
