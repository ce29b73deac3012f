//! The contract of sinks: write, prepare, publish after the commit point. Nothing is visible to readers before
//! `publish`, and a second `publish` of the same committable changes nothing.

use std::collections::BTreeMap;
use std::sync::Arc;

use arrow_schema::SchemaRef;
use async_trait::async_trait;
use weir_core::{Batch, CheckpointId, Clock, FencingToken, JobId, KeyGroupRange, OperatorUid, SubtaskIndex, Value};
use weir_state::StateTable;

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
    /// Key groups of the job.
    pub key_group_count: u32,
    /// Those whose rows come to this subtask, if the sink has its input spread by key.
    pub key_groups: KeyGroupRange,
    /// Schema of the input.
    pub input: SchemaRef,
    /// Coordinator's term and attempt of the job: no two attempts may write to one hidden file.
    pub token: FencingToken,
    /// The state that all subtasks of this sink gave at the checkpoint the job is restored from; each subtask gets all
    /// of it, with the number of the subtask that gave it. Empty when the job starts afresh.
    pub restored: Vec<SinkState>,
    /// The clock.
    pub clock: Arc<dyn Clock>,
}

/// What one sink subtask gave at a checkpoint.
#[derive(Clone, Debug)]
pub struct SinkState {
    /// Which subtask.
    pub subtask: SubtaskIndex,
    /// Plain values, in the connector's own words.
    pub values: Vec<Value>,
    /// Rows.
    pub tables: Vec<StateTable>,
}

/// Why output is prepared.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Cut {
    /// A checkpoint: what was written since the last cut is committed with it, and writing goes on.
    Checkpoint(CheckpointId),
    /// The end of the input: everything that is still to be committed is committed with the end of the job.
    End,
}

/// What a sink writer has prepared at a cut.
#[derive(Clone, Debug, Default)]
pub struct PreparedOutput {
    /// Output to publish once the cut is committed: that since the last cut, nothing twice.
    pub committables: Vec<Committable>,
    /// State to go on with after a restore from this cut, plain values.
    pub values: Vec<Value>,
    /// State to go on with after a restore from this cut, rows.
    pub tables: Vec<StateTable>,
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

    /// Makes everything written so far durable, still invisible, and says what to publish. After a checkpoint more rows
    /// follow; after the end nothing does. Waiting here holds up the stream.
    async fn prepare(&mut self, cut: Cut) -> Result<PreparedOutput>;

    /// Totals so far; asked after the last `prepare`.
    fn report(&self) -> SinkReport {
        SinkReport::new()
    }

    /// The attempt is over without a commit: removes what was written since the last cut. What was prepared before may
    /// be part of a checkpoint and is left alone. Must not fail half-way.
    async fn abort(&mut self);
}

/// Makes prepared output visible. Runs on a worker, after the commit point, in the order of commits.
#[async_trait]
pub trait SinkCommitter: Send {
    /// Publishes the output of one cut, in the order given; cuts come in order. Doing it again changes nothing, also
    /// after later cuts were published.
    async fn publish(&mut self, committables: Vec<Committable>) -> Result<()>;

    /// A savepoint of the job may count on hidden forms of what is published from now on: they are left.
    fn keep(&mut self) {}

    /// The job ended without committing these: removes them.
    async fn discard(&mut self, committables: Vec<Committable>) -> Result<()>;

    /// The job has ended without reaching its end: removes what its sink left hidden, of all attempts, also what nobody
    /// has a committable of. Only called of sinks that [`crate::SinkFactory::leaves_output`].
    async fn sweep(&mut self, _leftovers: Leftovers) -> Result<()> {
        Ok(())
    }
}

/// What a job leaves that has ended without reaching its end.
#[derive(Clone, Debug)]
pub struct Leftovers {
    /// The job.
    pub job: JobId,
    /// The sink.
    pub sink: OperatorUid,
    /// The plain values that the sink's subtasks gave at checkpoints and savepoints that are kept: what these count on
    /// stays.
    pub kept: Vec<SinkState>,
}
