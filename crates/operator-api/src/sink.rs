//! The contract of sinks: write, prepare, publish after the commit point. Nothing is visible to readers before
//! `publish`, and a second `publish` of the same committable changes nothing.

use std::collections::BTreeMap;
use std::sync::Arc;

use arrow_schema::SchemaRef;
use async_trait::async_trait;
use weir_core::{Batch, Clock, JobId, OperatorUid, SubtaskIndex, Value};

use crate::Result;
use crate::bad_record::BadRecord;

/// What a sink writer knows about its place.
#[derive(Clone, Debug)]
pub struct SinkContext {
    /// The job.
    pub job: JobId,
    /// Name of the job.
    pub job_name: String,
    /// Name of the sink.
    pub uid: OperatorUid,
    /// The settings as submitted, already checked.
    pub settings: BTreeMap<String, Value>,
    /// Which subtask this is.
    pub subtask: SubtaskIndex,
    /// How many subtasks write.
    pub parallelism: u32,
    /// Schema of the input.
    pub input: SchemaRef,
    /// The clock.
    pub clock: Arc<dyn Clock>,
}

/// Output that is written but not yet visible: plain data that outlives the writer and goes into the job's commit.
#[derive(Clone, Debug, PartialEq)]
pub struct Committable {
    /// The sink it belongs to.
    pub sink: OperatorUid,
    /// Which subtask wrote it.
    pub subtask: SubtaskIndex,
    /// What to publish, in the connector's own words.
    pub description: Value,
}

/// Named totals that a sink reports at its end; the job adds those of all subtasks (wrapping at 2^64).
pub type SinkReport = BTreeMap<String, u64>;

/// Writes the output of one subtask.
#[async_trait]
pub trait SinkWriter: Send {
    /// Takes rows. Waiting here is backpressure. Records the sink refuses are returned and go to the dead letters.
    async fn write(&mut self, batch: Batch) -> Result<Vec<BadRecord>>;

    /// Nothing came for a flush interval: hand on what is buffered where a person may be looking (print).
    async fn flush(&mut self) -> Result<()> {
        Ok(())
    }

    /// Makes everything written so far durable, still invisible, and says what to publish.
    async fn prepare(&mut self) -> Result<Vec<Committable>>;

    /// Totals so far; asked after the last `prepare`.
    fn report(&self) -> SinkReport {
        SinkReport::new()
    }

    /// The attempt is over without a commit: removes what was written and is not published. Must not fail half-way.
    async fn abort(&mut self);
}

/// Makes prepared output visible. Runs on a worker, after the commit point, in the order of commits.
#[async_trait]
pub trait SinkCommitter: Send {
    /// Publishes; doing it again changes nothing.
    async fn publish(&mut self, committables: Vec<Committable>) -> Result<()>;

    /// The job ended without committing these: removes them.
    async fn discard(&mut self, committables: Vec<Committable>) -> Result<()>;
}
