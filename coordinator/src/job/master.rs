//! The event loop of one job: one task, one bounded mailbox. It takes reports, orders of users, losses of workers and
//! the passing of time, asks the pure parts (`lifecycle.rs`, `publication.rs`) and does what they say. It waits for
//! nothing but these events, so that no worker and no other job ever waits for it.

use std::collections::{BTreeMap, BTreeSet};
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use futures::StreamExt;
use futures::stream::FuturesUnordered;
use parking_lot::Mutex;
use tokio::sync::{mpsc, oneshot};
use weir_core::{AttemptNumber, Clock, FencingToken, JobId, OperatorUid, WorkerId};
use weir_proto::convert::token_to_proto;
use weir_proto::v1;

use super::failure;
use super::lifecycle::{Action, Event, Lifecycle, Stage};
use super::publication::{Publication, Purpose, Step};
use super::record::JobRecord;
use super::state::{TaskKey, TaskState, reported_state};
use super::submit::PreparedJob;
use super::table::JobTable;
use crate::cluster::Cluster;
use crate::schedule::{assign, deploy};
use crate::worker_link::{Drain, WorkerLink};

/// Letters that may lie in a master's mailbox.
pub(crate) const MAILBOX_MAX: usize = 1024;

/// Pause before a sink is published again; doubled with every try.
const PUBLISH_PAUSE: Duration = Duration::from_millis(200);

/// What others write to a master.
#[derive(Debug)]
pub(crate) enum Letter {
    /// A worker reports a task.
    TaskChanged(WorkerId, v1::TaskStateChanged),
    /// A worker counts; lost without harm, since the next is newer.
    Counted(v1::FencingToken, Vec<(TaskKey, v1::TaskMetrics)>),
    /// A worker answers for a sink.
    Published(WorkerId, v1::Published),
    /// A user wants the end.
    Cancel,
    /// A user wants an orderly end; answers whether the job runs.
    Stop(Drain, oneshot::Sender<bool>),
}

/// Time limits of a job's steps.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Patience {
    /// For all tasks to come up.
    pub(crate) deploy: Duration,
    /// For tasks to stop.
    pub(crate) cancel: Duration,
    /// For output to be published or discarded.
    pub(crate) publish: Duration,
}

/// What a master shares with the rest of the process.
#[derive(Clone, Debug)]
pub(crate) struct Surroundings {
    /// The workers.
    pub(crate) cluster: Cluster,
    /// The jobs.
    pub(crate) table: JobTable,
    /// The clock.
    pub(crate) clock: Arc<dyn Clock>,
    /// Time limits.
    pub(crate) patience: Patience,
    /// Term of this coordinator.
    pub(crate) term: u64,
}

/// Something that comes without a letter.
enum Signal {
    WorkerLost(WorkerLink),
    PublishAgain(OperatorUid),
}

type Signals = FuturesUnordered<Pin<Box<dyn Future<Output = Signal> + Send>>>;

/// The master of one job.
pub(crate) struct Master {
    id: JobId,
    token: v1::FencingToken,
    job: PreparedJob,
    around: Surroundings,
    record: Arc<Mutex<JobRecord>>,
    lifecycle: Lifecycle,
    publication: Publication,
    purpose: Purpose,
    links: BTreeMap<WorkerId, WorkerLink>,
    placement: BTreeMap<TaskKey, WorkerId>,
    granted: Option<oneshot::Receiver<Vec<WorkerLink>>>,
    signals: Signals,
    watched: BTreeSet<WorkerId>,
    deadline: Option<Duration>,
}

impl Master {
    /// The master of a job that was just accepted.
    pub(crate) fn new(id: JobId, job: PreparedJob, record: Arc<Mutex<JobRecord>>, around: Surroundings) -> Self {
        Master {
            id,
            token: token_to_proto(id, FencingToken { term: around.term, attempt: AttemptNumber(1) }),
            lifecycle: Lifecycle::new(assign::tasks(&job.plan)),
            job,
            around,
            record,
            publication: Publication::default(),
            purpose: Purpose::Publish,
            links: BTreeMap::new(),
            placement: BTreeMap::new(),
            granted: None,
            signals: Signals::new(),
            watched: BTreeSet::new(),
            deadline: None,
        }
    }

    /// Runs the job to its end.
    pub(crate) async fn run(mut self, mut mailbox: mpsc::Receiver<Letter>) {
        self.happened(Event::Begun);
        while self.lifecycle.stage() != Stage::Over {
            let remaining = self.deadline.map(|at| at.saturating_sub(self.around.clock.monotonic()));
            let clock = Arc::clone(&self.around.clock);
            tokio::select! {
                Some(letter) = mailbox.recv() => self.read(letter),
                Some(signal) = self.signals.next() => self.heed(signal),
                links = granted(&mut self.granted) => self.place(links),
                () = clock.sleep(remaining.unwrap_or_default()), if remaining.is_some() => self.expire(),
            }
        }
        let Surroundings { table, .. } = self.around;
        table.end(self.id).await;
    }

    fn read(&mut self, letter: Letter) {
        match letter {
            Letter::TaskChanged(worker, change) => self.task_changed(worker, change),
            Letter::Counted(token, counts) => {
                if self.is_current(Some(&token)) {
                    self.count(counts);
                }
            }
            Letter::Published(worker, answer) => {
                if self.is_current(answer.token.as_ref()) {
                    let sink = OperatorUid(answer.operator);
                    let step = self.publication.answered(&sink, &worker, answer.failure);
                    self.publication_went(&sink, step);
                }
            }
            Letter::Cancel => {
                tracing::info!("cancel requested");
                self.happened(Event::CancelRequested);
            }
            Letter::Stop(drain, answer) => {
                let is_running = self.lifecycle.stage() == Stage::Running;
                if is_running {
                    tracing::info!(?drain, "stop requested");
                    self.links.values().for_each(|link| link.stop(self.token.clone(), drain));
                }
                // Who asked may be gone; the sources are stopped all the same.
                let _ = answer.send(is_running);
            }
        }
    }

    fn heed(&mut self, signal: Signal) {
        match signal {
            Signal::WorkerLost(link) => {
                let failure = failure::worker_lost(link.worker(), link.why_lost(), self.wall_unix_us());
                self.happened(Event::WorkerLost { worker: link.worker().clone(), failure });
                self.watched.remove(link.worker());
                for sink in self.publication.worker_lost(link.worker()) {
                    self.publish(&sink);
                }
            }
            Signal::PublishAgain(sink) => self.publish(&sink),
        }
    }

    /// Whether a message is of this attempt and this leader.
    fn is_current(&self, token: Option<&v1::FencingToken>) -> bool {
        let is_current = token == Some(&self.token);
        if !is_current {
            tracing::debug!(?token, "ignored a stale message");
        }
        is_current
    }

    fn task_changed(&mut self, worker: WorkerId, change: v1::TaskStateChanged) {
        let state = v1::TaskState::try_from(change.state).ok().and_then(reported_state);
        let (Some(task), Some(state)) = (change.task, state) else {
            tracing::warn!(%worker, "ignored a report without a task or with an impossible state");
            return;
        };
        if !self.is_current(change.token.as_ref()) {
            return;
        }
        let task = TaskKey::from(task);
        let unexplained = || failure::unexplained(state, &worker, self.wall_unix_us());
        let cause = change.failure.unwrap_or_else(unexplained);
        let cause = self.located(cause, task, &worker);
        if !self.lifecycle.admits(task, &worker, state) {
            tracing::debug!(%worker, ?task, ?state, "ignored a report that does not fit");
            return;
        }
        // Before the event: it may decide to publish, or to discard, what this very report brings.
        if state == TaskState::Finished {
            self.publication.collect(change.committables);
        }
        {
            let mut record = self.record.lock();
            if let Some(metrics) = change.metrics {
                record.set_metrics(task, metrics);
            }
            if state == TaskState::Finished {
                record.add_totals(change.totals);
            }
        }
        self.happened(Event::TaskChanged { task, worker, state, failure: cause });
    }

    /// Fills in the place of a failure where the worker left it out.
    fn located(&self, mut failure: v1::Failure, task: TaskKey, worker: &WorkerId) -> v1::Failure {
        if failure.worker.is_empty() {
            failure.worker = worker.0.clone();
        }
        if failure.vertex.is_empty()
            && let Some(vertex) = self.job.plan.vertices.get(task.vertex.index())
        {
            failure.vertex = vertex.name.clone();
            failure.subtask_index = task.subtask.0;
        }
        if failure.failed_at_unix_ms == 0 {
            failure.failed_at_unix_ms = self.wall_unix_us() / 1000;
        }
        failure
    }

    /// Takes counters of tasks that live; those of ended tasks came with their last report and are newer.
    fn count(&mut self, counts: Vec<(TaskKey, v1::TaskMetrics)>) {
        let mut record = self.record.lock();
        for (task, metrics) in counts {
            if self.lifecycle.task_state(task).is_some_and(|state| !state.is_final()) {
                record.set_metrics(task, metrics);
            }
        }
    }

    fn place(&mut self, links: Vec<WorkerLink>) {
        self.granted = None;
        let slots: Vec<WorkerId> = links.iter().map(|link| link.worker().clone()).collect();
        self.placement = assign::place(&self.job.plan, &slots);
        for link in links {
            self.watch(&link);
            self.links.insert(link.worker().clone(), link);
        }
        {
            let mut record = self.record.lock();
            for (task, worker) in &self.placement {
                record.place(*task, worker.clone());
            }
        }
        self.happened(Event::Placed(self.placement.clone()));
    }

    fn watch(&mut self, link: &WorkerLink) {
        if self.watched.insert(link.worker().clone()) {
            let link = link.clone();
            self.signals.push(Box::pin(async move {
                link.lost().cancelled().await;
                Signal::WorkerLost(link)
            }));
        }
    }

    fn expire(&mut self) {
        self.deadline = None;
        let now = self.wall_unix_us();
        let cause = match self.lifecycle.stage() {
            Stage::WaitingForSlots => {
                let needed = self.job.plan.slots_needed();
                failure::no_slots(needed, self.around.cluster.free_slots(), self.job.plan.options.slot_timeout, now)
            }
            Stage::Publishing => {
                failure::publish_timeout(&self.publication.unsettled(), self.around.patience.publish, now)
            }
            stage => {
                tracing::warn!(?stage, "took too long");
                let ready = if stage == Stage::Deploying { TaskState::Initializing } else { TaskState::Running };
                let (ready, all) = (self.lifecycle.count(ready), self.lifecycle.task_count());
                failure::deploy_timeout(ready, all, self.around.patience.deploy, now)
            }
        };
        self.happened(Event::Expired(cause));
    }

    /// Tells the state machine, brings the record up to date, then does what was decided.
    fn happened(&mut self, event: Event) {
        let stage_before = self.lifecycle.stage();
        let state_before = self.lifecycle.state();
        let reaction = self.lifecycle.on(event);
        let (stage, state) = (self.lifecycle.stage(), self.lifecycle.state());
        {
            let mut record = self.record.lock();
            for task in reaction.changed {
                if let Some(state) = self.lifecycle.task_state(task) {
                    record.set_task(task, state);
                }
            }
            record.set_slots_awaited((stage == Stage::WaitingForSlots).then(|| self.job.plan.slots_needed()));
            record.set_state(state, self.lifecycle.failure(), self.wall_unix_us());
        }
        if state != state_before {
            let failure = self.lifecycle.failure().map(|failure| failure.chain.join(": "));
            tracing::info!(from = state_before.name(), to = state.name(), failure, "job state changed");
        }
        if stage != stage_before {
            self.deadline = self.patience(stage).map(|patience| self.around.clock.monotonic() + patience);
        }
        for action in reaction.actions {
            self.act(action);
        }
    }

    fn patience(&self, stage: Stage) -> Option<Duration> {
        let patience = self.around.patience;
        match stage {
            Stage::WaitingForSlots => Some(self.job.plan.options.slot_timeout),
            Stage::Deploying | Stage::Starting => Some(patience.deploy),
            Stage::Stopping => Some(patience.cancel),
            Stage::Publishing | Stage::Discarding => Some(patience.publish),
            Stage::Accepted | Stage::Running | Stage::Over => None,
        }
    }

    fn act(&mut self, action: Action) {
        match action {
            Action::RequestSlots => {
                self.granted = Some(self.around.cluster.request_slots(self.id, self.job.plan.slots_needed()));
            }
            Action::Deploy => self.deploy(),
            Action::Start => self.links.values().for_each(|link| link.start(self.token.clone())),
            Action::CancelTasks => self.links.values().for_each(|link| link.cancel(self.token.clone())),
            Action::ReleaseSlots => {
                self.granted = None;
                self.around.cluster.release_slots(self.id);
            }
            Action::Publish => self.settle_output(Purpose::Publish),
            Action::Discard => self.settle_output(Purpose::Discard),
            // The loop ends by itself when the stage is over.
            Action::End => {}
        }
    }

    fn deploy(&mut self) {
        let addresses = self.links.iter().map(|(worker, link)| (worker.clone(), link.data_address().to_owned()));
        let deployable = deploy::Deployable {
            plan: &self.job.plan,
            wire_plan: &self.job.wire_plan,
            splits: &self.job.splits,
            token: &self.token,
        };
        for (worker, order) in deploy::orders(&deployable, &self.placement, &addresses.collect()) {
            if let Some(link) = self.links.get(&worker) {
                link.deploy(order);
            }
        }
    }

    fn settle_output(&mut self, purpose: Purpose) {
        self.purpose = purpose;
        let owed = self.publication.begin();
        if owed.is_empty() {
            self.output_settled(None);
        }
        for sink in owed {
            self.publish(&sink);
        }
    }

    /// Sends the output of one sink to a worker, best to one that wrote some of it: output may lie on its disk.
    fn publish(&mut self, sink: &OperatorUid) {
        let is_time = matches!(self.lifecycle.stage(), Stage::Publishing | Stage::Discarding);
        if !is_time || !self.publication.is_owed(sink) {
            return;
        }
        let operators = self.job.wire_plan.vertices.iter().enumerate();
        let found =
            operators.flat_map(|(vertex, chain)| chain.operators.iter().map(move |operator| (vertex, operator)));
        let found = found.into_iter().find(|(_, operator)| operator.uid == sink.0);
        let committables = self.publication.committables(sink);
        let writer = found.and_then(|(vertex, _)| {
            let subtask = committables.first()?.subtask_index;
            self.placement.get(&TaskKey::new(vertex as u32, subtask))
        });
        let (Some((_, operator)), Some(link)) = (found, self.around.cluster.some_worker(writer)) else {
            let failure = failure::no_publisher(sink.as_str(), self.wall_unix_us());
            let step = self.publication.give_up(sink, failure);
            return self.publication_went(sink, step);
        };
        link.publish(v1::Publish {
            token: Some(self.token.clone()),
            operator: sink.0.clone(),
            kind: operator.kind.clone(),
            settings: operator.settings.clone(),
            committables,
            discard: self.purpose == Purpose::Discard,
            checkpoint_id: 0,
        });
        self.publication.sent(sink, link.worker().clone());
        self.watch(&link);
    }

    fn publication_went(&mut self, sink: &OperatorUid, step: Step) {
        match step {
            Step::Ignore | Step::Wait => {}
            Step::Retry(tries) => {
                let pause = self.around.clock.sleep(PUBLISH_PAUSE * 2u32.pow(tries.saturating_sub(1)));
                let sink = sink.clone();
                self.signals.push(Box::pin(async move {
                    pause.await;
                    Signal::PublishAgain(sink)
                }));
            }
            Step::Settled(failure) => self.output_settled(failure),
        }
    }

    fn output_settled(&mut self, failure: Option<v1::Failure>) {
        match (self.purpose, failure) {
            (Purpose::Publish, None) => self.happened(Event::Published),
            (Purpose::Publish, Some(failure)) => self.happened(Event::PublishFailed(failure)),
            (Purpose::Discard, failure) => {
                if let Some(failure) = failure {
                    tracing::warn!(cause = failure.chain.join(": "), "could not discard all unpublished output");
                }
                self.happened(Event::Discarded);
            }
        }
    }

    fn wall_unix_us(&self) -> i64 {
        self.around.clock.wall_unix_us()
    }
}

/// Waits for slots, or for ever when none are asked for. Cancel safe.
async fn granted(request: &mut Option<oneshot::Receiver<Vec<WorkerLink>>>) -> Vec<WorkerLink> {
    if let Some(waiting) = request {
        if let Ok(links) = waiting.await {
            return links;
        }
        // The request was withdrawn.
        *request = None;
    }
    std::future::pending().await
}
