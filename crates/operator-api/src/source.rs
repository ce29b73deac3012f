//! The contract of sources: splits decided once by the coordinator, read by subtasks.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use std::collections::BTreeMap;
use weir_core::{Batch, Clock, OperatorUid, SplitIndex, SubtaskIndex, Value};

use crate::bad_record::BadRecord;
use crate::{OperatorError, Result};

/// A part of a source that one subtask reads: plain data the connector understands.
#[derive(Clone, Debug, PartialEq)]
pub struct Split {
    /// Number over the whole source, from 0. The order of splits is the source's natural order.
    pub index: SplitIndex,
    /// What to read, in the connector's own words.
    pub description: Value,
    /// Where a restored job goes on, in the connector's own words; `None` at the beginning of the split.
    pub position: Option<Value>,
}

/// Where a reader stands in one split.
#[derive(Clone, Debug, PartialEq)]
pub struct SplitPosition {
    /// Which split.
    pub split: SplitIndex,
    /// What [`Split::position`] is to be when the job goes on after the last event handed out; `None` while nothing of
    /// the split was handed out.
    pub position: Option<Value>,
    /// Everything of the split was handed out, its `SplitFinished` too; a restored job does not get it again.
    pub is_finished: bool,
}

/// What a reader knows about its place.
#[derive(Clone, Debug)]
pub struct ReaderContext {
    /// Name of the source.
    pub uid: OperatorUid,
    /// The settings as submitted, already checked.
    pub settings: BTreeMap<String, Value>,
    /// Which subtask this is.
    pub subtask: SubtaskIndex,
    /// How many subtasks read.
    pub parallelism: u32,
    /// The splits this subtask reads.
    pub splits: Vec<Split>,
    /// How many splits the whole source has; a rate is shared in proportion.
    pub split_count: u32,
    /// Columns to produce, in this order; all when absent. Only for sources that said `can_project`.
    pub projection: Option<Vec<String>>,
    /// Rows per batch to aim at.
    pub batch_rows: usize,
    /// Longest time a row waits for its batch to fill when the source is slow (paced).
    pub flush_interval: Duration,
    /// The clock.
    pub clock: Arc<dyn Clock>,
}

/// What a reader gives.
#[derive(Debug)]
pub enum SourceEvent {
    /// Rows of one split ([`Batch::split`] must be set), oldest first; never empty.
    Batch(Batch),
    /// Records that could not be decoded.
    Bad(Vec<BadRecord>),
    /// A split is read to its end; it holds no watermark back any more.
    SplitFinished(SplitIndex),
    /// All splits are finished and no more will come.
    EndOfInput,
}

/// Reads the splits of one subtask. The task says `Added` for every split of the context to the chain before the first
/// call, so that no split is late because another was read first; a reader whose splits are known to follow each other
/// in event time can say otherwise by [`SourceReader::holds_watermark`].
#[async_trait]
pub trait SourceReader: Send {
    /// The next event; waits while there is none.
    ///
    /// **Cancel safety**: must be cancel safe: a dropped call loses no row. **Errors**: end the job.
    async fn next(&mut self) -> Result<SourceEvent>;

    /// Where the reader stands in each of its splits: after the last event that `next` gave, whatever it has read ahead.
    /// Called between two calls of `next`, at a barrier; must be quick.
    ///
    /// **Errors**: a source that cannot say so cannot take part in checkpoints.
    fn positions(&self) -> Result<Vec<SplitPosition>> {
        Err(OperatorError::user("checkpoint-source", "this source cannot be read again from where it stands"))
    }

    /// Whether a split that has not begun holds the watermark back. Asked once per split, before reading.
    fn holds_watermark(&self, _split: &Split) -> bool {
        true
    }
}
