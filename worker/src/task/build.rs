//! Builds a task: creates its operators, opens its reader and writers. Opening touches the outside world and may wait:
//! it runs on the control threads, everything of a task at once, for a bounded time.

use std::collections::{BTreeMap, VecDeque};
use std::future::Future;
use std::sync::{Arc, Weak};
use std::time::Duration;

use futures::stream::{BoxStream, StreamExt};
use tokio::runtime::Handle;
use weir_checkpoint::{CheckpointStore, TaskState};
use weir_core::planted::{self, planted};
use weir_core::{Clock, EdgeId, FencingToken, JobId, KeyGroupRange, OperatorUid};
use weir_graph::plan::PlannedRole;
use weir_graph::{JobPlan, Phase, PlannedOperator, Vertex};
use weir_operator_api::{
    Operator, OperatorContext, OperatorError, ReaderContext, Registry, SinkContext, SinkWriter, SourceReader, Split,
};

use weir_state::{MemoryBudget, StateStores, StateTable};

use super::chain::{Body, Chain};
use super::counters::{TaskCounters, TaskKey};
use super::runner::{Cuts, Runner, Sink};
use super::source_task::Source;
use super::suspects::Careful;
use crate::error::{DEPLOY_INVALID, OPEN_TIMEOUT, TaskError};
use crate::input::{Gate, Hurry};
use crate::output::EdgeWriter;
use crate::snapshot::restore::{self, KeyedRows, RestoredTask};

/// Makes an operator from its description; `weir_operators::create` outside of tests.
pub type CreateOperator = fn(&PlannedOperator, OperatorContext) -> Result<Box<dyn Operator>, OperatorError>;

/// The splits of one source task.
#[derive(Clone, Debug, Default)]
pub struct SourcePart {
    /// Splits of this task.
    pub splits: Vec<Split>,
    /// Splits of the whole source.
    pub split_count: u32,
}

/// What a process gives to all its tasks.
#[derive(Clone)]
pub struct Environment {
    /// Sources and sinks.
    pub registry: Registry,
    /// Operators.
    pub create: CreateOperator,
    /// The clock.
    pub clock: Arc<dyn Clock>,
    /// Threads for what waits on the outside world.
    pub control: Handle,
    /// Longest time that a reader or writer may take to open.
    pub open_timeout: Duration,
    /// Memory for the state of all tasks.
    pub budget: Arc<MemoryBudget>,
    /// Where state goes that does not fit.
    pub stores: StateStores,
}

/// Everything a task is built from.
pub struct TaskParts {
    /// Of the process.
    pub environment: Environment,
    /// The job.
    pub job: JobId,
    /// Coordinator's term and attempt.
    pub token: FencingToken,
    /// Its plan.
    pub plan: Arc<JobPlan>,
    /// Which task.
    pub key: TaskKey,
    /// Splits, when the head is a source.
    pub source: SourcePart,
    /// Channels in.
    pub gate: Gate,
    /// Channels out.
    pub writers: BTreeMap<EdgeId, EdgeWriter>,
    /// Counters, one entry per operator.
    pub counters: Arc<TaskCounters>,
    /// Where cuts go; absent when the job takes no checkpoints.
    pub cuts: Option<Arc<dyn Cuts>>,
    /// When the task stops waiting for room, because a barrier has waited long enough.
    pub hurry: Arc<Hurry>,
    /// What the task takes back, and from where.
    pub restore: Option<(TaskState, Arc<dyn CheckpointStore>)>,
    /// Operators of the chain that are to be careful, by their place in it.
    pub careful: Vec<(usize, Careful)>,
}

/// A task ready to run.
pub struct Built {
    /// Chain, edges and sinks.
    pub runner: Runner,
    /// Where its input comes from.
    pub head: Head,
}

/// Keyed rows of operators that are being taken back, section by section.
type RestoredRows = BoxStream<'static, Result<(OperatorUid, StateTable), TaskError>>;

impl Built {
    async fn restore(&mut self, restored: RestoredTask, mut rows: RestoredRows) -> Result<(), TaskError> {
        self.runner.chain.restore(restored)?;
        while let Some((operator, table)) = rows.next().await.transpose()? {
            self.runner.restore_rows(&operator, table)?;
            // Tasks share threads; each gets its turn.
            tokio::task::yield_now().await;
        }
        Ok(())
    }
}

/// Local phases have no keyed rows of their own: those under their name are the final phase's.
fn keyed_rows_of(planned: &PlannedOperator) -> KeyedRows {
    match (planned.role, planned.phase) {
        (PlannedRole::Operator, Phase::Local) => KeyedRows::NotHere,
        (PlannedRole::Operator, _) => KeyedRows::Follow,
        (PlannedRole::Source | PlannedRole::Sink, _) => KeyedRows::AtOnce,
    }
}

/// Where the input of a task comes from.
pub enum Head {
    /// A source.
    Source(Box<Source>),
    /// Exchanges.
    Gate(Gate),
}

enum Opened {
    Operator(Box<dyn Operator>),
    Reader(Box<dyn SourceReader>),
    Writer(Box<dyn SinkWriter>),
}

impl TaskParts {
    fn vertex(&self) -> &Vertex {
        &self.plan.vertices[self.key.vertex.index()]
    }

    /// Opens everything.
    ///
    /// **Errors**: the first operator that does not open; sinks that did open are aborted.
    pub async fn build(mut self) -> Result<Built, TaskError> {
        let planned = self.vertex().operators.clone();
        let (mut restored, rows) = self.begin_restore(&planned).await?;
        let head = restored.get_mut(&planned[0].uid);
        self.gate.take_back(head.map(|head| std::mem::take(&mut head.in_flight)).unwrap_or_default())?;
        let opening: Vec<_> = planned.iter().map(|operator| self.open(operator, &restored)).collect();
        let opened = futures::future::join_all(opening).await;
        if opened.iter().any(Result::is_err) {
            return Err(close(opened).await);
        }
        let opened = opened.into_iter().flatten().collect();
        let mut built = self.assemble(&planned, opened);
        if let Err(error) = built.restore(restored, rows).await {
            built.runner.abort().await;
            return Err(error);
        }
        Ok(built)
    }

    /// Fetches what the task takes back at once, on the control threads.
    async fn begin_restore(&mut self, planned: &[PlannedOperator]) -> Result<(RestoredTask, RestoredRows), TaskError> {
        let Some((state, store)) = self.restore.take() else {
            return Ok((RestoredTask::new(), Box::pin(futures::stream::empty())));
        };
        let groups = self.plan.options.key_group_count;
        let mut range = KeyGroupRange::of_subtask(self.key.subtask.0, self.vertex().parallelism, groups);
        if planted(planted::KEY_GROUP_OFF_BY_ONE) {
            range.start += u32::from(range.start > 0);
            range.end += u32::from(range.end < groups);
        }
        let keyed_rows = planned.iter().map(|planned| (planned.uid.clone(), keyed_rows_of(planned))).collect();
        let (control, schemas) = (&self.environment.control, self.gate.schemas());
        let beginning = control.spawn(restore::begin(state, Arc::clone(&store), range, (keyed_rows, schemas)));
        let gone = |error: tokio::task::JoinError| match error.try_into_panic() {
            Ok(payload) => TaskError::panic(payload.as_ref()),
            Err(_) => TaskError::external(OPEN_TIMEOUT, "the worker is shutting down"),
        };
        let (restored, sections) = beginning.await.map_err(gone)??;
        Ok((restored, Box::pin(restore::keyed_rows(sections, store, range, control.clone()))))
    }

    async fn open(&self, planned: &PlannedOperator, restored: &RestoredTask) -> Result<Opened, TaskError> {
        let unknown = |what: &str| {
            let message =
                format!("this worker has no {what} of kind '{}'; are all processes of one version?", planned.kind);
            TaskError { operator: Some(planned.uid.clone()), ..TaskError::internal(DEPLOY_INVALID, message) }
        };
        let registry = &self.environment.registry;
        match planned.role {
            PlannedRole::Operator => (self.environment.create)(planned, self.operator_context(planned))
                .map(Opened::Operator)
                .map_err(|error| TaskError::of_operator(&planned.uid, &error)),
            PlannedRole::Source => {
                let factory = registry.source(&planned.kind).ok_or_else(|| unknown("source"))?.clone();
                let context = self.reader_context(planned);
                self.bounded(planned, async move { factory.reader(context).await.map(Opened::Reader) }).await
            }
            PlannedRole::Sink => {
                let factory = registry.sink(&planned.kind).ok_or_else(|| unknown("sink"))?.clone();
                let mut context = self.sink_context(planned);
                context.restored = restored.get(&planned.uid).map(|sink| sink.sinks.clone()).unwrap_or_default();
                self.bounded(planned, async move { factory.writer(context).await.map(Opened::Writer) }).await
            }
        }
    }

    async fn bounded(
        &self,
        planned: &PlannedOperator,
        open: impl Future<Output = Result<Opened, OperatorError>> + Send + 'static,
    ) -> Result<Opened, TaskError> {
        let (clock, timeout) = (self.environment.clock.clone(), self.environment.open_timeout);
        let bounded = async move {
            tokio::select! {
                opened = open => opened,
                () = clock.sleep(timeout) => Err(OperatorError::external(
                    OPEN_TIMEOUT,
                    format!("did not open within {timeout:?}; is the system behind it reachable?"),
                )),
            }
        };
        match self.environment.control.spawn(bounded).await {
            Ok(opened) => opened.map_err(|error| TaskError::of_operator(&planned.uid, &error)),
            Err(error) if error.is_panic() => {
                let error = TaskError::panic(error.into_panic().as_ref());
                Err(TaskError { operator: Some(planned.uid.clone()), ..error })
            }
            Err(_) => Err(TaskError::external(OPEN_TIMEOUT, "the worker is shutting down")),
        }
    }

    fn operator_context(&self, planned: &PlannedOperator) -> OperatorContext {
        let (parallelism, groups) = (self.vertex().parallelism, self.plan.options.key_group_count);
        OperatorContext {
            uid: planned.uid.clone(),
            subtask: self.key.subtask,
            parallelism,
            key_group_count: groups,
            key_groups: KeyGroupRange::of_subtask(self.key.subtask.0, parallelism, groups),
            inputs: planned.inputs.clone(),
            output: planned.output.clone(),
            batch_rows: self.plan.options.batch_rows,
            clock: self.environment.clock.clone(),
            stores: self.environment.stores.clone(),
        }
    }

    fn reader_context(&self, planned: &PlannedOperator) -> ReaderContext {
        ReaderContext {
            uid: planned.uid.clone(),
            settings: planned.settings.clone(),
            subtask: self.key.subtask,
            parallelism: self.vertex().parallelism,
            splits: self.source.splits.clone(),
            split_count: self.source.split_count,
            projection: planned.projection.clone(),
            batch_rows: self.plan.options.batch_rows,
            flush_interval: self.plan.options.flush_interval,
            clock: self.environment.clock.clone(),
        }
    }

    fn sink_context(&self, planned: &PlannedOperator) -> SinkContext {
        let (parallelism, groups) = (self.vertex().parallelism, self.plan.options.key_group_count);
        SinkContext {
            job: self.job,
            job_name: self.plan.name.clone(),
            uid: planned.uid.clone(),
            settings: planned.settings.clone(),
            subtask: self.key.subtask,
            parallelism,
            key_group_count: groups,
            key_groups: KeyGroupRange::of_subtask(self.key.subtask.0, parallelism, groups),
            input: planned.inputs.first().unwrap_or(&planned.output).clone(),
            token: self.token,
            restored: Vec::new(),
            clock: self.environment.clock.clone(),
        }
    }

    fn assemble(self, planned: &[PlannedOperator], opened: Vec<Opened>) -> Built {
        let (mut sinks, mut bodies, mut head) = (Vec::new(), Vec::new(), Head::Gate(self.gate));
        for (node, opened) in opened.into_iter().enumerate() {
            let body = match opened {
                Opened::Operator(operator) => Body::Operator(Some(operator)),
                Opened::Reader(reader) => {
                    head = Head::Source(Box::new(Source {
                        uid: planned[node].uid.clone(),
                        reader,
                        splits: self.source.splits.clone(),
                        watermark_interval: self.plan.options.watermark_interval,
                    }));
                    Body::Source
                }
                Opened::Writer(writer) => {
                    let uid = planned[node].uid.clone();
                    sinks.push(Sink { uid, writer, node, prepared: None, uncommitted: VecDeque::new() });
                    Body::Sink(sinks.len() - 1)
                }
            };
            bodies.push((body, self.counters.operators[node].metrics.clone()));
        }
        let clock = self.environment.clock;
        let mut runner = Runner {
            chain: Chain::new(planned, bodies, clock.clone(), self.key.subtask.0),
            sinks,
            writers: self.writers,
            counters: self.counters,
            flush_interval: self.plan.options.flush_interval,
            sinks_due: None,
            state_due: clock.monotonic(),
            cuts: self.cuts,
            freeze: Duration::ZERO,
            memory: self.environment.budget.share(),
            frozen: Weak::new(),
            spill_after: Duration::ZERO,
            hurry: self.hurry,
            is_cutting: false,
            completed_count: 0,
            clock,
        };
        runner.chain.be_careful(self.careful);
        Built { runner, head }
    }
}

/// Closes what was opened beside a failure, and gives the first failure.
async fn close(opened: Vec<Result<Opened, TaskError>>) -> TaskError {
    let mut first = None;
    for opened in opened {
        match opened {
            Ok(Opened::Writer(mut writer)) => writer.abort().await,
            Ok(_) => {}
            Err(error) => {
                first.get_or_insert(error);
            }
        }
    }
    first.unwrap_or_else(|| TaskError::internal(DEPLOY_INVALID, "a task did not open"))
}
