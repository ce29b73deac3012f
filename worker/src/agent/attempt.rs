//! The attempts that live on this worker: deploys their tasks and channels, starts, stops and cancels them. Orders of
//! the past are refused by their fencing token.

use std::collections::{BTreeMap, BTreeSet};
use std::future::Future;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use tokio::sync::{mpsc, watch};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use weir_checkpoint::{CheckpointStore, TaskState as Snapshot};
use weir_core::{Barrier, CheckpointId, Clock, FencingToken, JobId, Passage, SplitIndex, VertexId, WorkerId};
use weir_graph::{Edge, JobPlan};
use weir_operator_api::{OperatorMetrics, Split};
use weir_proto::v1::{self, TaskState};
use weir_proto::{convert, convert::ConvertError};

use super::Worker;
use super::cuts::TaskCuts;
use super::reports::{Place, Reporter, Subject};
use crate::error::{DEPLOY_INVALID, SOURCE_BUSY, TaskError};
use crate::exchange::receiver::AttemptInbox;
use crate::exchange::{AttemptKey, ChannelKey, ChannelSender, Link};
use crate::http;
use crate::input::gate::ChannelInput;
use crate::input::{Gate, GateSender, Hurry};
use crate::output::{EdgeWriter, Partitioner, WriterOptions};
use crate::snapshot::encode::of_store;
use crate::snapshot::{Checkpointing, TriggerOrder};
use crate::task::counters::OperatorCounters;
use crate::task::orders::{AfterBarrier, ORDERS_MAX, TaskOrder};
use crate::task::runner::Cuts;
use crate::task::supervise::{Milestone, Outcome, Signals, StopMode, supervise};
use crate::task::{Careful, SourcePart, TaskCounters, TaskKey, TaskParts};

/// Jobs whose greatest token is remembered; beyond it the least id is forgotten.
const JOBS_REMEMBERED: usize = 16 * 1024;

/// The greatest token seen per job; outlives sessions.
#[derive(Debug, Default)]
pub(crate) struct Fence {
    greatest: BTreeMap<JobId, FencingToken>,
}

impl Fence {
    /// Whether a message is not from the past; remembers its token.
    pub(crate) fn admits(&mut self, job: JobId, token: FencingToken) -> bool {
        if self.greatest.len() >= JOBS_REMEMBERED && !self.greatest.contains_key(&job) {
            self.greatest.pop_first();
        }
        let greatest = self.greatest.entry(job).or_insert(token);
        *greatest = token.max(*greatest);
        *greatest == token
    }
}

struct Attempt {
    plan: Arc<JobPlan>,
    signals: Signals,
    start: watch::Sender<bool>,
    stop: watch::Sender<Option<StopMode>>,
    /// Streams to other workers, until the start opens them.
    links: Vec<Link>,
    counters: BTreeMap<TaskKey, Arc<TaskCounters>>,
    orders: BTreeMap<TaskKey, mpsc::Sender<TaskOrder>>,
    hurries: BTreeMap<TaskKey, Arc<Hurry>>,
    checkpointing: Option<Checkpointing>,
    tasks: TaskTracker,
    /// A task ended otherwise than finished.
    is_broken: Arc<AtomicBool>,
}

/// The attempts of one session.
pub(crate) struct Attempts {
    worker: Worker,
    reporter: Reporter,
    live: BTreeMap<AttemptKey, Attempt>,
}

/// An order to deploy, read.
struct Deployment {
    key: AttemptKey,
    plan: Arc<JobPlan>,
    locations: BTreeMap<TaskKey, (WorkerId, String)>,
    tasks: BTreeSet<TaskKey>,
    sources: BTreeMap<TaskKey, SourcePart>,
    checkpoints: Option<v1::CheckpointSetup>,
    restores: BTreeMap<TaskKey, v1::TaskRestore>,
    careful: BTreeMap<VertexId, Vec<(usize, Careful)>>,
}

impl Attempts {
    /// No attempts yet.
    pub(crate) fn new(worker: Worker, reporter: Reporter) -> Self {
        Attempts { worker, reporter, live: BTreeMap::new() }
    }

    /// Builds the tasks of an order. What is wrong with the order is reported as the failure of its tasks.
    pub(crate) fn deploy(&mut self, key: AttemptKey, order: v1::Deploy) {
        let older: Vec<_> = self.live.keys().filter(|live| live.job == key.job).copied().collect();
        older.into_iter().for_each(|older| self.cancel_attempt(older));
        let tasks: Vec<_> = order.tasks.iter().filter_map(|task| task_key(Some(*task)).ok()).collect();
        let deployed = Deployment::read(key, order).and_then(|deployment| self.build(deployment));
        if let Err(error) = deployed {
            tracing::error!(job = %key.job, "cannot deploy: {error}");
            for task in tasks {
                let place = Place {
                    worker: &self.worker.id,
                    vertex: "",
                    subtask_index: task.subtask.0,
                    clock: self.worker.environment.clock.as_ref(),
                };
                let outcome = Outcome::Failed(error.clone());
                let report = Subject { attempt: key, task }.outcome(outcome, place, v1::TaskMetrics::default());
                let reporter = self.reporter.clone();
                self.worker.spawned.spawn(async move { reporter.send(report).await });
            }
        }
    }

    fn build(&mut self, mut deployment: Deployment) -> Result<(), TaskError> {
        let cancel = CancellationToken::new();
        let checkpointing = self.checkpointing(&deployment, cancel.clone())?;
        let mut restores = restores(&mut deployment, checkpointing.as_ref())?;
        let clock = self.worker.environment.clock.clone();
        let mut wiring = Wiring::new(&self.worker.id, &deployment, cancel.clone(), clock);
        let mut gates = BTreeMap::new();
        for task in &deployment.tasks {
            gates.insert(*task, wiring.gate(*task)?);
        }
        let mut writers = BTreeMap::new();
        for task in &deployment.tasks {
            writers.insert(*task, wiring.writers(*task)?);
        }
        let Wiring { inbox, links, mut hurries, .. } = wiring;
        self.worker.inbox.insert(deployment.key, inbox);
        let (start, started) = watch::channel(false);
        let (stop, stopped) = watch::channel(None);
        let mut attempt = Attempt {
            plan: Arc::clone(&deployment.plan),
            signals: Signals { cancel, start: started, stop: stopped },
            start,
            stop,
            links: links.into_values().collect(),
            counters: BTreeMap::new(),
            orders: BTreeMap::new(),
            hurries: hurries.clone(),
            checkpointing,
            tasks: TaskTracker::new(),
            is_broken: Arc::default(),
        };
        let clock = self.worker.environment.clock.clone();
        for (task, gate) in gates {
            let counters = counters_of(&deployment.plan, task, &self.worker);
            attempt.counters.insert(task, Arc::clone(&counters));
            let subject = Subject { attempt: deployment.key, task };
            let vertex = &deployment.plan.vertices[task.vertex.index()].name;
            let answers = TaskTracker::new();
            let cuts = attempt.checkpointing.clone().map(|checkpointing| {
                let (worker, reporter) = (self.worker.clone(), self.reporter.clone());
                let (vertex, memory, answers) = (vertex.clone(), Arc::default(), answers.clone());
                Arc::new(TaskCuts { worker, reporter, subject, vertex, checkpointing, memory, answers })
                    as Arc<dyn Cuts>
            });
            let parts = TaskParts {
                environment: self.worker.environment.clone(),
                job: deployment.key.job,
                token: deployment.key.token,
                plan: Arc::clone(&deployment.plan),
                key: task,
                source: deployment.sources.get(&task).cloned().unwrap_or_default(),
                gate,
                writers: writers.remove(&task).unwrap_or_default(),
                counters,
                cuts,
                hurry: hurries.remove(&task).unwrap_or_else(|| Arc::new(Hurry::new(clock.clone(), None))),
                restore: restores.remove(&task),
                careful: deployment.careful.get(&task.vertex).cloned().unwrap_or_default(),
            };
            let (orders, ordered) = mpsc::channel(ORDERS_MAX);
            attempt.orders.insert(task, orders);
            self.spawn(&attempt, subject, parts, (ordered, answers));
        }
        attempt.tasks.close();
        self.live.insert(deployment.key, attempt);
        Ok(())
    }

    /// What the tasks need for checkpoints, if the job takes any.
    fn checkpointing(
        &self,
        deployment: &Deployment,
        cancel: CancellationToken,
    ) -> Result<Option<Checkpointing>, TaskError> {
        let Some(setup) = &deployment.checkpoints else { return Ok(None) };
        let (whose, clock) = ((deployment.key.job, deployment.key.token), self.worker.environment.clock.clone());
        Checkpointing::new(whose, setup, self.worker.stores.clone(), clock, cancel).map(Some)
    }

    /// `answers` are those of the task's cuts that are on their way.
    fn spawn(
        &self,
        attempt: &Attempt,
        subject: Subject,
        parts: TaskParts,
        (orders, answers): (mpsc::Receiver<TaskOrder>, TaskTracker),
    ) {
        let (worker, reporter) = (self.worker.clone(), self.reporter.clone());
        let (signals, is_broken) = (attempt.signals.clone(), Arc::clone(&attempt.is_broken));
        let (counters, plan) = (Arc::clone(&parts.counters), Arc::clone(&parts.plan));
        let task = async move {
            let vertex = plan.vertices[subject.task.vertex.index()].name.as_str();
            let (job, subtask) = (subject.attempt.job, subject.task.subtask);
            let outcome = supervise(parts, signals, orders, |milestone| {
                let state = match milestone {
                    Milestone::Initialized => TaskState::Initializing,
                    Milestone::Running => TaskState::Running,
                };
                if !reporter.try_send(subject.state(state)) {
                    let (reporter, report) = (reporter.clone(), subject.state(state));
                    worker.environment.control.spawn(async move { reporter.send(report).await });
                }
            })
            .await;
            match &outcome {
                Outcome::Finished(_) => tracing::info!(%job, vertex, %subtask, "task finished"),
                Outcome::Canceled => tracing::info!(%job, vertex, %subtask, "task canceled"),
                Outcome::Failed(error) => {
                    tracing::error!(%job, vertex, %subtask, code = error.code, "task failed: {error}");
                }
            }
            if !matches!(outcome, Outcome::Finished(_)) {
                is_broken.store(true, Ordering::Release);
            }
            let clock = worker.environment.clock.as_ref();
            let place = Place { worker: &worker.id, vertex, subtask_index: subtask.0, clock };
            if matches!(outcome, Outcome::Finished(_)) {
                answers.close();
                answers.wait().await;
            }
            reporter.send(subject.outcome(outcome, place, counters.snapshot())).await;
        };
        self.worker.data.spawn(attempt.tasks.track_future(task));
    }

    /// Lets the tasks of an attempt process and opens its streams to other workers.
    pub(crate) fn start(&mut self, key: AttemptKey) {
        let Some(attempt) = self.live.get_mut(&key) else { return };
        for link in attempt.links.drain(..) {
            let (transport, cancel) = (Arc::clone(&self.worker.transport), attempt.signals.cancel.clone());
            let token = convert::token_to_proto(key.job, key.token);
            self.worker.spawned.spawn(async move { link.run(transport.as_ref(), token, cancel).await });
        }
        attempt.start.send_replace(true);
    }

    /// Puts a barrier into the sources of an attempt.
    pub(crate) fn trigger(&self, key: AttemptKey, order: v1::TriggerCheckpoint) {
        let Some(attempt) = self.live.get(&key) else { return };
        let Some(checkpointing) = &attempt.checkpointing else { return };
        let checkpoint = CheckpointId(order.checkpoint_id);
        let after = match order.after_barrier() {
            v1::AfterBarrier::Stop => AfterBarrier::Stop,
            v1::AfterBarrier::Drain => AfterBarrier::Drain,
            v1::AfterBarrier::GoOn | v1::AfterBarrier::Unspecified => AfterBarrier::GoOn,
        };
        let came_at = self.worker.environment.clock.monotonic();
        let is_waiting = order.is_aligned || !order.savepoint_directory.is_empty();
        let passage = if is_waiting { Passage::Waits } else { Passage::MayOvertake };
        let barrier = Barrier { checkpoint, passage };
        let (savepoint_directory, base) = (order.savepoint_directory, CheckpointId(order.base_checkpoint_id));
        checkpointing.ordered(checkpoint, TriggerOrder { came_at, savepoint_directory, base });
        for (task, orders) in &attempt.orders {
            let is_source = attempt.plan.inputs_of(task.vertex).next().is_none();
            if !is_source {
                continue;
            }
            if orders.try_send(TaskOrder::Trigger { barrier, after }).is_ok() || orders.is_closed() {
                // A source that waits for room does not see its order.
                attempt.hurries.get(task).into_iter().for_each(|hurry| hurry.came(barrier));
                continue;
            }
            let subject = Subject { attempt: key, task: *task };
            let vertex = attempt.plan.vertices[task.vertex.index()].name.clone();
            let (worker, reporter) = (self.worker.clone(), self.reporter.clone());
            let (checkpointing, memory, answers) = (checkpointing.clone(), Arc::default(), TaskTracker::new());
            let cuts = TaskCuts { worker, reporter, subject, vertex, checkpointing, memory, answers };
            cuts.declined(
                checkpoint,
                TaskError::external(SOURCE_BUSY, "the source has not obeyed the last orders yet"),
            );
        }
    }

    /// A checkpoint is committed, or given up.
    pub(crate) fn checkpoint_ended(&self, key: AttemptKey, checkpoint: CheckpointId, is_completed: bool) {
        let Some(attempt) = self.live.get(&key) else { return };
        match &attempt.checkpointing {
            Some(checkpointing) if is_completed => {
                let forgetting = checkpointing.completed(checkpoint);
                self.worker.spawned.spawn_on(forgetting, &self.worker.environment.control);
            }
            Some(checkpointing) => checkpointing.give_up(checkpoint),
            None => {}
        }
        let order = if is_completed { TaskOrder::Completed(checkpoint) } else { TaskOrder::Aborted(checkpoint) };
        for orders in attempt.orders.values() {
            // See `ORDERS_MAX`: nothing depends on this one.
            let _ = orders.try_send(order);
        }
    }

    /// Ends the sources of an attempt.
    pub(crate) fn stop(&self, key: AttemptKey, mode: StopMode) {
        if let Some(attempt) = self.live.get(&key) {
            attempt.stop.send_replace(Some(mode));
        }
    }

    /// Ends the tasks of all attempts of a job up to this one.
    pub(crate) fn cancel(&mut self, key: AttemptKey) {
        let old = self.live.keys().filter(|live| live.job == key.job && live.token <= key.token);
        old.copied().collect::<Vec<_>>().into_iter().for_each(|old| self.cancel_attempt(old));
    }

    fn cancel_attempt(&self, key: AttemptKey) {
        if let Some(attempt) = self.live.get(&key) {
            attempt.signals.cancel.cancel();
            self.worker.inbox.remove(key);
        }
    }

    /// Ends all tasks.
    pub(crate) fn cancel_all(&self) {
        self.live.keys().for_each(|key| self.cancel_attempt(*key));
    }

    /// Completes when no task lives.
    pub(crate) fn ended(&self) -> impl Future<Output = ()> + use<> {
        let trackers: Vec<_> = self.live.values().map(|attempt| attempt.tasks.clone()).collect();
        async move {
            for tracker in trackers {
                tracker.wait().await;
            }
        }
    }

    /// Forgets attempts whose tasks have all ended. Streams of finished ones end by themselves, after their last frame.
    pub(crate) fn sweep(&mut self) {
        let inbox = self.worker.inbox.clone();
        self.live.retain(|key, attempt| {
            let has_ended = attempt.tasks.is_empty();
            if has_ended {
                inbox.remove(*key);
                if attempt.is_broken.load(Ordering::Acquire) {
                    attempt.signals.cancel.cancel();
                }
            }
            !has_ended
        });
    }

    /// The counters of all tasks; shown on `/metrics` too.
    pub(crate) fn counters(&self) -> Vec<v1::TaskReport> {
        let environment = &self.worker.environment;
        let budget = &environment.budget;
        http::record_memory(budget.used(), budget.limit(), environment.stores.size_bytes());
        let mut reports = Vec::new();
        for (key, attempt) in &self.live {
            for (task, counters) in &attempt.counters {
                let subject = Subject { attempt: *key, task: *task };
                let metrics = counters.snapshot();
                let vertex = &attempt.plan.vertices[task.vertex.index()].name;
                http::record(http::Scope { job: key.job, job_name: &attempt.plan.name, vertex, task: *task }, &metrics);
                reports.push(v1::TaskReport {
                    token: Some(subject.token()),
                    task: Some(subject.task()),
                    metrics: Some(metrics),
                });
            }
        }
        reports
    }
}

fn counters_of(plan: &JobPlan, task: TaskKey, worker: &Worker) -> Arc<TaskCounters> {
    let operators = plan.vertices[task.vertex.index()].operators.iter().map(|planned| OperatorCounters {
        uid: planned.uid.clone(),
        kind: planned.kind.clone(),
        metrics: Arc::new(OperatorMetrics::default()),
    });
    Arc::new(TaskCounters::new(worker.environment.clock.clone(), operators.collect()))
}

fn task_key(task: Option<v1::TaskId>) -> Result<TaskKey, ConvertError> {
    convert::task_from_proto(task).map(|(vertex, subtask)| TaskKey { vertex, subtask })
}

impl Deployment {
    fn read(key: AttemptKey, order: v1::Deploy) -> Result<Self, TaskError> {
        let unreadable = |error: ConvertError| invalid(format!("unreadable order to deploy: {error}"));
        let plan = order.plan.ok_or_else(|| invalid("an order to deploy without a plan"))?;
        let plan = Arc::new(convert::plan_from_proto(plan).map_err(unreadable)?);
        let known = |task: Option<v1::TaskId>| {
            let task = task_key(task).map_err(unreadable)?;
            let vertex = plan.vertices.get(task.vertex.index());
            let is_known = vertex.is_some_and(|vertex| task.subtask.0 < vertex.parallelism);
            if is_known { Ok(task) } else { Err(invalid(format!("the plan has no task {task:?}"))) }
        };
        let mut deployment = Deployment {
            key,
            plan: Arc::clone(&plan),
            locations: BTreeMap::new(),
            tasks: BTreeSet::new(),
            sources: BTreeMap::new(),
            checkpoints: order.checkpoints,
            restores: BTreeMap::new(),
            careful: BTreeMap::new(),
        };
        for operator in order.careful {
            let rows = operator.rows.iter().map(|row| (row.row, row.set_aside));
            let careful = (operator.operator_index as usize, Careful::new(rows, operator.cause));
            deployment.careful.entry(VertexId(operator.vertex_id)).or_default().push(careful);
        }
        for restore in order.restores {
            deployment.restores.insert(known(restore.task)?, restore);
        }
        for location in order.locations {
            let place = (WorkerId(location.worker), location.data_address);
            deployment.locations.insert(known(location.task)?, place);
        }
        for task in order.tasks {
            deployment.tasks.insert(known(Some(task))?);
        }
        for assignment in order.splits {
            let mut part = SourcePart { splits: Vec::new(), split_count: assignment.split_count };
            for split in assignment.splits {
                let description =
                    convert::value_from_proto(split.description.unwrap_or_default()).map_err(unreadable)?;
                let position = split.position.map(convert::value_from_proto).transpose().map_err(unreadable)?;
                part.splits.push(Split { index: SplitIndex(split.index), description, position });
            }
            deployment.sources.insert(known(assignment.task)?, part);
        }
        Ok(deployment)
    }
}

/// What a task takes back, and the store it lies in.
type Restore = (Snapshot, Arc<dyn CheckpointStore>);

/// Reads what the tasks take back, and finds the stores it lies in.
fn restores(
    deployment: &mut Deployment,
    checkpointing: Option<&Checkpointing>,
) -> Result<BTreeMap<TaskKey, Restore>, TaskError> {
    let mut restores = BTreeMap::new();
    for (task, restore) in std::mem::take(&mut deployment.restores) {
        let setup = checkpointing.ok_or_else(|| invalid("an order to restore that does not say where from"))?;
        let place = format!("restore of subtask {} of vertex {}", task.subtask, task.vertex);
        let state = Snapshot::decode(&restore.state, &place).map_err(|error| of_store(&error))?;
        restores.insert(task, (state, setup.restore_store(&restore.store)?));
    }
    Ok(restores)
}

fn invalid(message: impl Into<String>) -> TaskError {
    TaskError::internal(DEPLOY_INVALID, message)
}

/// Connects the tasks of one attempt on this worker, to each other and to other workers.
struct Wiring<'a> {
    worker: &'a WorkerId,
    deployment: &'a Deployment,
    /// Sending ends of channels within this worker, until their task takes them.
    local: BTreeMap<ChannelKey, GateSender>,
    hurries: BTreeMap<TaskKey, Arc<Hurry>>,
    clock: Arc<dyn Clock>,
    links: BTreeMap<WorkerId, Link>,
    inbox: AttemptInbox,
}

impl<'a> Wiring<'a> {
    fn new(worker: &'a WorkerId, deployment: &'a Deployment, cancel: CancellationToken, clock: Arc<dyn Clock>) -> Self {
        let inbox = AttemptInbox::new(cancel);
        let (local, hurries, links) = (BTreeMap::new(), BTreeMap::new(), BTreeMap::new());
        Wiring { worker, deployment, local, hurries, clock, links, inbox }
    }

    fn location(&self, task: TaskKey) -> Result<&'a (WorkerId, String), TaskError> {
        let missing = || invalid(format!("the order does not say where task {task:?} runs"));
        self.deployment.locations.get(&task).ok_or_else(missing)
    }

    fn gate(&mut self, task: TaskKey) -> Result<Gate, TaskError> {
        let plan = &self.deployment.plan;
        let setup = self.deployment.checkpoints.as_ref();
        let timeout = setup.map(|setup| Duration::from_millis(u64::from(setup.aligned_timeout_ms)));
        let timeout = timeout.filter(|timeout| !timeout.is_zero());
        let hurry = Arc::new(Hurry::new(Arc::clone(&self.clock), timeout));
        self.hurries.insert(task, Arc::clone(&hurry));
        let (mut gate, credit_bytes) = (Gate::new(hurry), plan.options.credit_bytes);
        for edge in plan.inputs_of(task.vertex) {
            let name: Arc<str> = plan.edge_name(edge).into();
            let (senders, receivers) = parallelism(plan, edge);
            for source in
                (0..senders).filter(|from| edge.receivers(*from, senders, receivers).contains(&task.subtask.0))
            {
                let source = TaskKey { vertex: edge.source, subtask: weir_core::SubtaskIndex(source) };
                let key = ChannelKey { edge: edge.id, source: source.subtask, target: task.subtask };
                let (schema, edge_name) = (edge.schema.clone(), Arc::clone(&name));
                let input = ChannelInput { input: edge.input, schema, edge: edge_name, sender: source.subtask };
                if self.location(source)?.0 == *self.worker {
                    self.local.insert(key, gate.open_local(input, credit_bytes));
                } else {
                    self.inbox.open(&mut gate, key, input, credit_bytes);
                }
            }
        }
        Ok(gate)
    }

    fn writers(&mut self, task: TaskKey) -> Result<BTreeMap<weir_core::EdgeId, EdgeWriter>, TaskError> {
        let plan = &self.deployment.plan;
        let options =
            WriterOptions { batch_rows: plan.options.batch_rows, flush_interval: plan.options.flush_interval };
        let mut writers = BTreeMap::new();
        for edge in plan.outputs_of(task.vertex) {
            let (senders, receivers) = parallelism(plan, edge);
            let mut channels = Vec::new();
            for target in edge.receivers(task.subtask.0, senders, receivers) {
                let target = TaskKey { vertex: edge.target, subtask: weir_core::SubtaskIndex(target) };
                let key = ChannelKey { edge: edge.id, source: task.subtask, target: target.subtask };
                channels.push(self.channel(key, target)?);
            }
            let first = task.subtask.index();
            let partitioner = Partitioner::new(&edge.partitioning, channels.len(), plan.options.key_group_count, first);
            writers.insert(edge.id, EdgeWriter::new(partitioner, channels, options));
        }
        Ok(writers)
    }

    fn channel(&mut self, key: ChannelKey, target: TaskKey) -> Result<ChannelSender, TaskError> {
        let (worker, address) = self.location(target)?;
        if worker == self.worker {
            let gate =
                self.local.remove(&key).ok_or_else(|| invalid(format!("task {target:?} is not in the order")))?;
            return Ok(ChannelSender::local(key, gate));
        }
        let link = self.links.entry(worker.clone()).or_insert_with(|| Link::new(address));
        Ok(link.channel(key, self.deployment.plan.options.credit_bytes))
    }
}

fn parallelism(plan: &JobPlan, edge: &Edge) -> (u32, u32) {
    let of = |vertex: weir_core::VertexId| plan.vertices[vertex.index()].parallelism;
    (of(edge.source), of(edge.target))
}

#[cfg(test)]
mod tests {
    use weir_core::AttemptNumber;

    use super::*;

    #[test]
    fn messages_of_the_past_are_refused() {
        let token = |term, attempt| FencingToken { term, attempt: AttemptNumber(attempt) };
        let mut fence = Fence::default();
        assert!(fence.admits(JobId(1), token(1, 2)));
        assert!(!fence.admits(JobId(1), token(1, 1)), "an older attempt");
        assert!(fence.admits(JobId(2), token(1, 1)), "another job");
        assert!(fence.admits(JobId(1), token(2, 1)), "a newer leader");
        assert!(!fence.admits(JobId(1), token(1, 9)), "the older leader");
        assert!(fence.admits(JobId(1), token(2, 1)));
    }
}
