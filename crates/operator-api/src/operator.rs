//! The contract of operators: synchronous, one batch at a time, driven by the chain of a task.

use std::sync::Arc;

use arrow_schema::SchemaRef;
pub use weir_core::element::OutputTag;
use weir_core::{Batch, Clock, EventTime, KeyGroupRange, OperatorUid, SplitIndex, SubtaskIndex};

use weir_state::{FrozenTable, StateStores, StateTable};

use crate::bad_record::BadRecord;
use crate::{OperatorError, Result};

/// Where an operator's results go. The chain implements it; calls never block and never fail: what does not fit
/// downstream waits in the task, which stops giving input until it is gone.
pub trait Output {
    /// Sends rows of the main output. Empty batches are dropped.
    fn emit(&mut self, batch: Batch) {
        self.emit_to(OutputTag::Main, batch);
    }

    /// Sends rows of any output. Rows for [`OutputTag::Late`] are counted as late, connected or not.
    fn emit_to(&mut self, tag: OutputTag, batch: Batch);

    /// Sends bad records: counted, logged at a bounded rate, and put into the dead-letter output if it is connected.
    fn bad(&mut self, bad: Vec<BadRecord>);

    /// Whether anyone reads this output; rows for others need not be built (late rows must still be emitted: they are
    /// counted here).
    fn is_connected(&self, tag: OutputTag) -> bool;

    /// Sends a watermark down the main output (all connected outputs get it).
    fn watermark(&mut self, watermark: EventTime);

    /// Tells everyone downstream that this stream is idle, or active again.
    fn idle(&mut self, is_idle: bool);

    /// Tells chained operators about a split (only reaches operators in the source's own chain).
    fn split(&mut self, event: SplitEvent);
}

/// Whether a call is finished.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[must_use]
pub enum Progress {
    /// Everything that follows from the call has been emitted.
    Done,
    /// There is more to emit: the task first gets rid of what was emitted, then calls [`Operator::resume`] until it is
    /// `Done`; no other input comes in between. So a window with ten million keys is emitted piece by piece.
    More,
}

/// What a source says about its splits.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum SplitEvent {
    /// The subtask will read this split; until it is finished or idle it holds the watermark back.
    Added(SplitIndex),
    /// Everything of the split was read.
    Finished(SplitIndex),
    /// `waited_us` microseconds passed in which the source was ready to read but had nothing (time under backpressure
    /// does not count). Sent about every `pipeline.auto-watermark-interval` while waiting.
    Waited {
        /// **Units**: microseconds since the last such event.
        waited_us: i64,
    },
}

/// What an operator knows about its place.
#[derive(Clone, Debug)]
pub struct OperatorContext {
    /// Name of the operator.
    pub uid: OperatorUid,
    /// Which subtask this is.
    pub subtask: SubtaskIndex,
    /// How many subtasks there are.
    pub parallelism: u32,
    /// Key groups of the job.
    pub key_group_count: u32,
    /// The key groups this subtask owns.
    pub key_groups: KeyGroupRange,
    /// Schema of each input.
    pub inputs: Vec<SchemaRef>,
    /// Schema of the main output.
    pub output: SchemaRef,
    /// Rows per emitted batch to aim at.
    pub batch_rows: usize,
    /// The clock.
    pub clock: Arc<dyn Clock>,
    /// Where state goes that memory does not hold.
    pub stores: StateStores,
}

/// One step of a job, in one subtask. Synchronous and single-threaded; it must not block.
///
/// Watermarks never go back: the task drops one that would. After `on_watermark(EventTime::MAX)` comes nothing but
/// `on_end`.
pub trait Operator: Send {
    /// Takes rows of one input (counted from 0).
    ///
    /// **Errors**: end the job. A row that cannot be processed is no error: it goes to [`Output::bad`].
    fn process(&mut self, input: usize, batch: Batch, out: &mut dyn Output) -> Result<Progress>;

    /// The minimum over all inputs has reached `watermark`. The operator emits what is now complete and then passes the
    /// watermark on with [`Output::watermark`] (after the last `resume`, if it needs several steps).
    fn on_watermark(&mut self, watermark: EventTime, out: &mut dyn Output) -> Result<Progress> {
        out.watermark(watermark);
        Ok(Progress::Done)
    }

    /// Goes on after [`Progress::More`].
    fn resume(&mut self, _out: &mut dyn Output) -> Result<Progress> {
        Ok(Progress::Done)
    }

    /// All inputs became idle, or one became active again.
    fn on_idle(&mut self, is_idle: bool, out: &mut dyn Output) -> Result<()> {
        out.idle(is_idle);
        Ok(())
    }

    /// News about splits; only operators in a source's chain hear it.
    fn on_split(&mut self, event: SplitEvent, out: &mut dyn Output) -> Result<Progress> {
        out.split(event);
        Ok(Progress::Done)
    }

    /// No input follows. What a `MAX` watermark did not make complete and is still to be emitted goes out now.
    /// A stop without drain comes here without a `MAX` watermark: open windows are not results and stay silent.
    fn on_end(&mut self, _out: &mut dyn Output) -> Result<Progress> {
        Ok(Progress::Done)
    }

    /// A barrier has come on all inputs: whatever is held back for efficiency only (partials, a batch that is being
    /// filled) goes out now, in front of the barrier, so that it is not state. [`Operator::snapshot`] follows after the
    /// last `resume`.
    fn on_barrier(&mut self, _out: &mut dyn Output) -> Result<Progress> {
        Ok(Progress::Done)
    }

    /// The state at a barrier. Called on the task's thread, so it only copies; encoding and uploading happen beside the
    /// stream. An operator whose `snapshot` and `restore` are not written has no state.
    fn snapshot(&mut self) -> Result<Vec<StateTable>> {
        Ok(Vec::new())
    }

    /// As [`Operator::snapshot`], for operators with so much state that even copying it would hold the stream up: what
    /// they give may share memory with them and is put together beside the stream.
    fn freeze(&mut self) -> Result<Vec<FrozenTable>> {
        Ok(self.snapshot()?.into_iter().map(FrozenTable::from).collect())
    }

    /// The worker's memory is used up and this operator holds a good part of it: puts what it can into the state store.
    /// Called between two inputs, never between the pieces of a result.
    fn spill(&mut self) -> Result<()> {
        Ok(())
    }

    /// Takes back the state of a checkpoint, before any input; in one call or, when there is much of it, in several: the
    /// first has all shared tables, each has some rows of the keyed ones. [`Operator::spill`] may come in between. Keyed tables hold the rows of this subtask's key groups
    /// and no others, whichever subtasks had them; shared tables hold the rows of all subtasks. `watermark` is the
    /// input watermark at the barrier (the least over subtasks): what it closed then is closed, and does not fire again.
    ///
    /// **Errors**: a table, version or schema that this operator cannot read.
    fn restore(&mut self, tables: Vec<StateTable>, _watermark: EventTime) -> Result<()> {
        match tables.first() {
            Some(table) => {
                Err(OperatorError::internal(format!("the operator has no state and got the table '{}'", table.name)))
            }
            None => Ok(()),
        }
    }

    /// Bytes of state held now, roughly; for metrics and limits.
    fn state_bytes(&self) -> usize {
        0
    }
}
