//! The event loop of one job: one task, one bounded mailbox. It takes reports, orders of users, losses of workers and
//! the passing of time, asks the pure parts (`lifecycle.rs`, `outbox.rs`, `checkpoint/`) and does what they say. It waits
//! for nothing but these events, so that no worker and no other job ever waits for it.
//!
//! What it does stands by subject: `attempt.rs` (from state to running tasks), `checkpoints.rs`, `output.rs`.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use futures::StreamExt;
use futures::stream::FuturesUnordered;
use parking_lot::Mutex;
use tokio::sync::{mpsc, oneshot};
use weir_checkpoint::retention::CompletedCheckpoint;
use weir_checkpoint::{CheckpointError, Manifest, ObjectRef, TaskState};
use weir_core::planted::{self, planted};
use weir_core::{AttemptNumber, CheckpointId, Clock, FencingToken, JobId, OperatorUid, Problem, WorkerId};
use weir_operator_api::{Registry, Split};
use weir_proto::convert::token_to_proto;
use weir_proto::v1;

use super::checkpoints::Underway;
use super::failure;
use super::lifecycle::{Action, Birth, Event, Lifecycle, Moment, Stage};
use super::orders::{Answer, Manual, Rescaled, Rescaling, Stopping, Taken};
use super::outbox::Outbox;
use super::publication::Publication;
use super::record::JobRecord;
use super::state::{JobState, TaskKey};
use super::submit::{PreparedJob, RestorePoint};
use super::table::JobTable;
use crate::checkpoint::complete::SourceSplits;
use crate::checkpoint::stores::Stores;
use crate::checkpoint::trigger::Trigger;
use crate::cluster::Cluster;
use crate::meta::ledger::Ledger;
use crate::meta::{JobMeta, MetaStore};
use crate::recovery::poison::Poison;
use crate::recovery::strategy::Restarts;
use crate::worker_link::{Drain, WorkerLink};

/// Letters that may lie in a master's mailbox.
pub(crate) const MAILBOX_MAX: usize = 1024;

/// What others write to a master.
#[derive(Debug)]
pub(crate) enum Letter {
    /// A worker reports a task.
    TaskChanged(WorkerId, v1::TaskStateChanged),
    /// A worker counts; lost without harm, since the next is newer.
    Counted(v1::FencingToken, Vec<(TaskKey, v1::TaskMetrics)>),
    /// A worker answers for a sink.
    Published(WorkerId, v1::Published),
    /// A task has written its part of a checkpoint.
    Acknowledged(WorkerId, v1::CheckpointAcknowledged),
    /// A task could not.
    Declined(WorkerId, v1::CheckpointDeclined),
    /// A user wants the end.
    Cancel,
    /// The coordinator ends.
    Suspend,
    /// A user wants an orderly end without a savepoint; answers whether the job runs.
    Stop(Drain, oneshot::Sender<bool>),
    /// A user wants a savepoint as the last thing the job does, below this directory or the job's own.
    StopWithSavepoint(Option<String>, Drain, Answer<String>),
    /// A user wants a checkpoint.
    TakeCheckpoint(Answer<Taken>),
    /// A user wants a savepoint, below this directory or the job's own.
    TakeSavepoint(Option<String>, Answer<Taken>),
    /// A user wants another parallelism.
    Rescale(u32, Answer<Rescaled>),
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
#[derive(Clone)]
pub(crate) struct Surroundings {
    /// The workers.
    pub(crate) cluster: Cluster,
    /// The jobs.
    pub(crate) table: JobTable,
    /// The durable truth.
    pub(crate) meta: Arc<dyn MetaStore>,
    /// Opens checkpoint stores.
    pub(crate) stores: Stores,
    /// The connectors.
    pub(crate) registry: Registry,
    /// The clock.
    pub(crate) clock: Arc<dyn Clock>,
    /// Time limits.
    pub(crate) patience: Patience,
    /// Longest time a source may take to list its splits.
    pub(crate) enumerate_timeout: Duration,
    /// Term of this coordinator.
    pub(crate) term: u64,
}

impl fmt::Debug for Surroundings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Surroundings").field("term", &self.term).finish_non_exhaustive()
    }
}

/// Something that comes without a letter.
pub(super) enum Signal {
    /// A worker with something of this job is gone.
    WorkerLost(WorkerLink),
    /// The pause before another try of a sink is over.
    PublishAgain(OperatorUid),
    /// A write of the ledger has returned.
    MetaWritten(Result<(), String>),
    /// The pause after a write that failed is over.
    MetaAgain,
    /// A manifest was written, or not.
    ManifestStored(CheckpointId, Result<ObjectRef, CheckpointError>),
    /// The manifest that the job goes on from was read, or not.
    StateRead(Result<RestorePoint, CheckpointError>),
    /// The splits of sources that begin afresh were listed, or not.
    Listed(Result<BTreeMap<OperatorUid, Vec<Split>>, Vec<Problem>>),
    /// What was dropped is deleted, or not all.
    Deleted(Vec<CheckpointId>, Result<(), CheckpointError>),
    /// Left-over objects are deleted, so many, or not all.
    Swept(Result<usize, CheckpointError>),
    /// The job is planned at another parallelism, or cannot be.
    Replanned(Box<Result<PreparedJob, Vec<Problem>>>, Answer<Rescaled>),
    /// The job is planned as it was when its checkpoint was taken, or cannot be.
    PlannedAsItWas(Box<Result<PreparedJob, Vec<Problem>>>),
}

/// How much later the metadata is written than it should be: the planted mistake `notified-is-committed`.
const PLANTED_PAUSE: Duration = Duration::from_millis(300);

/// What a master wants to be told when a change of its ledger is durable.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) enum Note {
    /// The pointer to a checkpoint: the commit point.
    Committed(CheckpointId),
    /// The manifest of the end.
    Ended,
    /// Checkpoints are no longer retained: they may be deleted.
    Dropped,
}

/// The master of one job.
pub(crate) struct Master {
    pub(super) id: JobId,
    pub(super) token: FencingToken,
    pub(super) job: PreparedJob,
    /// The job at another parallelism, from the next attempt on.
    pub(super) next_job: Option<Box<PreparedJob>>,
    /// The job as it is to be, while it runs as it was to settle what was in flight.
    pub(super) settling: Option<Box<PreparedJob>>,
    pub(super) around: Surroundings,
    pub(super) record: Arc<Mutex<JobRecord>>,
    pub(super) lifecycle: Lifecycle,
    pub(super) ledger: Ledger<Note>,
    pub(super) is_ledger_paused: bool,
    /// What the next attempt goes on from, as far as it was read.
    pub(super) point: Option<RestorePoint>,
    pub(super) is_recovering: bool,
    pub(super) splits: BTreeMap<OperatorUid, SourceSplits>,
    pub(super) restores: BTreeMap<TaskKey, TaskState>,
    /// What finished tasks leave to later checkpoints.
    pub(super) finals: BTreeMap<TaskKey, TaskState>,
    /// A task that has finished and could not store what it leaves: no checkpoint of this attempt can do without it.
    pub(super) lost_final: Option<TaskKey>,
    pub(super) end: Option<Manifest>,
    pub(super) trigger: Trigger<Manual>,
    pub(super) underway: Option<Underway>,
    pub(super) next_checkpoint: u64,
    /// Records that have killed their task.
    pub(super) poison: Poison,
    pub(super) failures_in_a_row: u32,
    pub(super) known: BTreeMap<CheckpointId, CompletedCheckpoint>,
    pub(super) is_deleting: bool,
    /// When left-over objects are looked for, monotonic: with the next checkpoint behind it.
    pub(super) sweep_after: Duration,
    pub(super) stopping: Option<Stopping>,
    pub(super) rescaling: Option<Rescaling>,
    pub(super) outbox: Outbox,
    /// Output of checkpoints that came to nothing, for the end without a commit.
    pub(super) uncommitted: Vec<v1::Committable>,
    pub(super) discards: Publication,
    /// The last savepoint that was completed.
    pub(super) savepoint: Option<Arc<Manifest>>,
    pub(super) is_discarding: bool,
    pub(super) links: BTreeMap<WorkerId, WorkerLink>,
    pub(super) placement: BTreeMap<TaskKey, WorkerId>,
    /// Of the attempt before.
    pub(super) placed_before: BTreeMap<TaskKey, WorkerId>,
    pub(super) granted: Option<oneshot::Receiver<Vec<WorkerLink>>>,
    signals: FuturesUnordered<Pin<Box<dyn Future<Output = Signal> + Send>>>,
    watched: BTreeSet<WorkerId>,
    deadline: Option<Duration>,
}

/// What a master begins with.
pub(crate) struct Beginning {
    /// What is kept of the job.
    pub(crate) meta: JobMeta,
    /// The job.
    pub(crate) job: PreparedJob,
    /// The manifest it goes on from, when it was read already.
    pub(crate) point: Option<RestorePoint>,
    /// Whether it begins or goes on.
    pub(crate) birth: Birth,
}

impl Master {
    /// The master of a job that was just accepted, or that an earlier coordinator left.
    pub(crate) fn new(beginning: Beginning, record: Arc<Mutex<JobRecord>>, around: Surroundings) -> Self {
        let Beginning { meta, job, point, birth } = beginning;
        let options = &job.plan.options;
        let next_checkpoint = match birth {
            Birth::New => point.as_ref().map_or(1, |point| point.manifest.checkpoint.0 + 1),
            Birth::Recovered => meta.next_checkpoint.0,
        };
        let attempt = meta.attempt;
        Master {
            id: meta.job,
            token: FencingToken { term: around.term, attempt: AttemptNumber(attempt) },
            lifecycle: Lifecycle::new(birth, Restarts::new(options.restart.clone())),
            trigger: Trigger::new(options.checkpoints.interval, options.checkpoints.min_pause),
            ledger: Ledger::new(Arc::clone(&around.meta), meta),
            job,
            next_job: None,
            settling: None,
            around,
            record,
            is_ledger_paused: false,
            point,
            is_recovering: false,
            splits: BTreeMap::new(),
            restores: BTreeMap::new(),
            finals: BTreeMap::new(),
            lost_final: None,
            end: None,
            underway: None,
            next_checkpoint,
            poison: Poison::default(),
            failures_in_a_row: 0,
            known: BTreeMap::new(),
            is_deleting: false,
            sweep_after: Duration::ZERO,
            stopping: None,
            rescaling: None,
            outbox: Outbox::default(),
            uncommitted: Vec::new(),
            discards: Publication::default(),
            savepoint: None,
            is_discarding: false,
            links: BTreeMap::new(),
            placement: BTreeMap::new(),
            placed_before: BTreeMap::new(),
            granted: None,
            signals: FuturesUnordered::new(),
            watched: BTreeSet::new(),
            deadline: None,
        }
    }

    /// Runs the job to its end.
    pub(crate) async fn run(mut self, mut mailbox: mpsc::Receiver<Letter>) {
        self.happened(Event::Begun);
        while self.lifecycle.stage() != Stage::Over {
            let wake_at = [self.deadline, self.checkpoint_wake()].into_iter().flatten().min();
            let remaining = wake_at.map(|at| at.saturating_sub(self.around.clock.monotonic()));
            let clock = Arc::clone(&self.around.clock);
            tokio::select! {
                Some(letter) = mailbox.recv() => self.read(letter),
                Some(signal) = self.signals.next() => self.heed(signal),
                links = granted(&mut self.granted) => self.place(links),
                () = clock.sleep(remaining.unwrap_or_default()), if remaining.is_some() => self.wake(),
            }
            self.checkpoint_tick();
        }
        self.end().await;
    }

    /// Keeps what is to be kept, tells who waits, deletes what nobody needs.
    async fn end(self) {
        let state = self.lifecycle.state();
        let deletion = self.deletion(state);
        let Master { id, around, stopping, .. } = self;
        if state == JobState::Suspended {
            return around.table.suspend(id);
        }
        let details = around.table.archive(id).await;
        if let Err(error) = around.meta.remove(id).await {
            tracing::error!(error = weir_core::error::report(&error), "cannot forget a job that has ended");
        }
        if let Some(deletion) = deletion {
            deletion.await;
        }
        if let Some(stopping) = stopping {
            let answer = match state {
                JobState::Finished => Ok(stopping.path),
                state => Err(format!(
                    "the job is {} and not stopped; its savepoint {} is to be thrown away",
                    state.name(),
                    stopping.path
                )),
            };
            let _ = stopping.answer.send(answer);
        }
        around.table.ended(id, details);
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
                    self.published(&worker, answer);
                }
            }
            Letter::Acknowledged(worker, answer) => {
                if self.is_current(answer.token.as_ref()) {
                    self.acknowledged(&worker, answer);
                }
            }
            Letter::Declined(worker, answer) => {
                if self.is_current(answer.token.as_ref()) {
                    self.declined(&worker, answer);
                }
            }
            Letter::Cancel => {
                tracing::info!("cancel requested");
                self.happened(Event::CancelRequested);
            }
            Letter::Suspend => self.happened(Event::SuspendRequested),
            Letter::Stop(drain, answer) => {
                let is_running = self.lifecycle.stage() == Stage::Running;
                if is_running {
                    tracing::info!(?drain, "stop requested");
                    self.stand();
                    self.links.values().for_each(|link| link.stop(self.wire_token(), drain));
                }
                // Who asked may be gone; the sources are stopped all the same.
                let _ = answer.send(is_running);
            }
            Letter::StopWithSavepoint(directory, drain, answer) => self.ask_stop(directory, drain, answer),
            Letter::TakeCheckpoint(answer) => self.ask(Manual::Checkpoint(answer)),
            Letter::TakeSavepoint(directory, answer) => {
                assert!(!planted(planted::MASTER_PANICS), "a planted panic");
                self.ask_savepoint(directory, answer);
            }
            Letter::Rescale(parallelism, answer) => self.replan(parallelism, answer),
        }
    }

    fn heed(&mut self, signal: Signal) {
        match signal {
            Signal::WorkerLost(link) => {
                let failure = failure::worker_lost(link.worker(), link.why_lost(), self.wall_unix_us());
                self.happened(Event::WorkerLost { worker: link.worker().clone(), failure });
                self.watched.remove(link.worker());
                self.publisher_lost(link.worker());
            }
            Signal::PublishAgain(sink) => self.publish(&sink),
            Signal::MetaWritten(result) => self.meta_written(result),
            Signal::MetaAgain => {
                self.is_ledger_paused = false;
                self.write_ledger();
            }
            Signal::ManifestStored(checkpoint, result) => self.manifest_stored(checkpoint, result),
            Signal::StateRead(result) => self.state_read(result),
            Signal::Listed(result) => self.listed(result),
            Signal::Deleted(checkpoints, result) => self.deleted(&checkpoints, result),
            Signal::Swept(result) => self.swept(result),
            Signal::Replanned(result, answer) => self.replanned(*result, answer),
            Signal::PlannedAsItWas(result) => self.planned_as_it_was(*result),
        }
    }

    /// Time has passed: the deadline of the stage, or of a checkpoint, which looks after itself.
    fn wake(&mut self) {
        if self.deadline.is_some_and(|at| at <= self.around.clock.monotonic()) {
            self.expire();
        }
    }

    /// Whether a message is of this attempt and this leader.
    fn is_current(&self, token: Option<&v1::FencingToken>) -> bool {
        let is_current = token == Some(&self.wire_token());
        if !is_current {
            tracing::debug!(?token, "ignored a stale message");
        }
        is_current
    }

    pub(super) fn watch(&mut self, link: &WorkerLink) {
        if self.watched.insert(link.worker().clone()) {
            let link = link.clone();
            self.later(async move {
                link.lost().cancelled().await;
                Signal::WorkerLost(link)
            });
        }
    }

    /// Does something beside; its outcome comes as a signal.
    pub(super) fn later(&self, work: impl Future<Output = Signal> + Send + 'static) {
        self.signals.push(Box::pin(work));
    }

    fn expire(&mut self) {
        self.deadline = None;
        if self.lifecycle.stage() == Stage::Publishing && self.around.cluster.some_worker(None).is_none() {
            // The end is committed and nobody is there to show it: whoever comes will.
            self.deadline = Some(self.around.clock.monotonic() + self.around.patience.publish);
            return;
        }
        let now = self.wall_unix_us();
        let cause = match self.lifecycle.stage() {
            Stage::WaitingForSlots => {
                let (needed, free) = (self.job.plan.slots_needed(), self.around.cluster.free_slots());
                let has_run = self.lifecycle.has_earlier_attempts();
                failure::no_slots((needed, free), self.job.plan.options.slot_timeout, has_run, now)
            }
            Stage::Publishing | Stage::Republishing => {
                failure::publish_timeout(&self.outbox.unsettled(), self.around.patience.publish, now)
            }
            stage => {
                use super::state::TaskState;
                tracing::debug!(?stage, "time is over");
                let ready = if stage == Stage::Deploying { TaskState::Initializing } else { TaskState::Running };
                let (ready, all) = (self.lifecycle.count(ready), self.lifecycle.task_count());
                failure::deploy_timeout(ready, all, self.around.patience.deploy, now)
            }
        };
        self.happened(Event::Expired(cause));
    }

    /// Tells the state machine, brings the record up to date, then does what was decided.
    pub(super) fn happened(&mut self, event: Event) {
        let stage_before = self.lifecycle.stage();
        let state_before = self.lifecycle.state();
        let moment = Moment { now: self.around.clock.monotonic(), draw: self.around.stores.draw_unit() };
        let restarts_before = self.lifecycle.restart_count();
        let reaction = self.lifecycle.on(event, moment);
        let (stage, state) = (self.lifecycle.stage(), self.lifecycle.state());
        if self.lifecycle.restart_count() > restarts_before {
            self.count_restart();
        }
        if stage == Stage::Running && stage_before != Stage::Running {
            // Before anybody can see that it runs: the first interval counts from then.
            self.trigger.job_runs(moment.now);
        }
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
            self.stage_changed(stage_before, stage);
        }
        for action in reaction.actions {
            self.act(action);
        }
    }

    fn stage_changed(&mut self, before: Stage, stage: Stage) {
        if stage == Stage::Running {
            self.rescaled();
            self.settle();
        }
        if before == Stage::Running {
            self.attempt_ends(stage);
        }
    }

    fn patience(&self, stage: Stage) -> Option<Duration> {
        let patience = self.around.patience;
        match stage {
            Stage::WaitingForSlots => Some(self.job.plan.options.slot_timeout),
            Stage::Deploying | Stage::Starting => Some(patience.deploy),
            Stage::Stopping => Some(patience.cancel),
            Stage::BackingOff => Some(self.lifecycle.pause()),
            Stage::Republishing | Stage::Publishing | Stage::Discarding => Some(patience.publish),
            Stage::Accepted | Stage::Recovering | Stage::Running | Stage::Committing | Stage::Over => None,
        }
    }

    fn act(&mut self, action: Action) {
        match action {
            Action::Recover => self.recover(),
            Action::RequestSlots => {
                self.granted = Some(self.around.cluster.request_slots(self.id, self.job.plan.slots_needed()));
            }
            Action::Republish => self.drain_outbox(),
            Action::Deploy => self.deploy(),
            Action::Start => self.links.values().for_each(|link| link.start(self.wire_token())),
            Action::CancelTasks => self.links.values().for_each(|link| link.cancel(self.wire_token())),
            Action::ReleaseSlots => {
                self.granted = None;
                self.around.cluster.release_slots(self.id);
            }
            Action::CommitEnd => self.commit_end(),
            Action::Publish => self.publish_end(),
            Action::Discard => self.drain_outbox(),
            // The loop ends by itself when the stage is over.
            Action::End => {}
        }
    }

    /// Starts the next write of the ledger, if one is due.
    pub(super) fn write_ledger(&mut self) {
        if self.is_ledger_paused {
            return;
        }
        if let Some(write) = self.ledger.write() {
            let pause = planted(planted::NOTIFIED_IS_COMMITTED).then(|| self.around.clock.sleep(PLANTED_PAUSE));
            self.later(async move {
                if let Some(pause) = pause {
                    pause.await;
                }
                Signal::MetaWritten(write.await)
            });
        }
    }

    pub(super) fn wire_token(&self) -> v1::FencingToken {
        token_to_proto(self.id, self.token)
    }

    pub(super) fn wall_unix_us(&self) -> i64 {
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
