//! The checkpoints of a job as its master drives them: trigger, answers, manifest, **commit**, publish, retention. Part of
//! the master; what decides stands in `checkpoint/`.
//!
//! ```text
//! gathering (tasks answer) -> storing (manifest, create-if-absent) -> committing (pointer in the metadata) -> published
//! ```
//! Before the pointer is durable nothing of the checkpoint counts; from then on it is what a restart goes on from, and its
//! output will be published. A savepoint ends after `storing`: it is the user's, and commits nothing of the job's own.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use weir_checkpoint::retention::CompletedCheckpoint;
use weir_checkpoint::{
    CheckpointError, CheckpointKind, CheckpointStore, Manifest, ObjectRef, TaskState as KeptState, layout,
    write_manifest,
};
use weir_core::error::report;
use weir_core::planted::{self, planted};
use weir_core::{CheckpointId, ErrorDomain, WorkerId};
use weir_proto::v1;

use super::failure;
use super::lifecycle::{Event, Stage};
use super::master::{Master, Note, Signal};
use super::orders::{Manual, Rescaling, Stopping, Taken};
use super::state::TaskKey;
use super::submit::RestorePoint;
use crate::checkpoint::complete::{Heading, committables, forget_committed, manifest};
use crate::checkpoint::failure::{CheckpointFailure, task_name};
use crate::checkpoint::pending::{Answer as PendingAnswer, Pending, Step};
use crate::checkpoint::trigger::Begin;
use crate::meta::{CompletedPointer, IDS_RESERVED};
use crate::recovery::plan::Unclaimed;
use crate::worker_link::Drain;

/// Tasks that are named when a checkpoint takes too long.
const OWING_NAMED_MAX: usize = 3;
/// Pause after a write of the metadata that failed.
const LEDGER_PAUSE: Duration = Duration::from_secs(1);

/// Where a checkpoint stands.
#[derive(Debug)]
enum Phase {
    Gathering(Pending),
    Storing(Arc<Manifest>),
    Committing(Arc<Manifest>),
}

/// The checkpoint under way.
#[derive(Debug)]
pub(crate) struct Underway {
    checkpoint: CheckpointId,
    phase: Phase,
    manual: Option<Manual>,
    /// The store of a savepoint.
    savepoint: Option<Arc<dyn CheckpointStore>>,
    begun_at: Duration,
    answered_at: Duration,
    deadline: Duration,
}

impl Underway {
    fn is_stop(&self) -> bool {
        matches!(self.manual, Some(Manual::Stop(..)))
    }
}

impl Master {
    /// When [`Master::checkpoint_tick`] has something to do.
    pub(super) fn checkpoint_wake(&self) -> Option<Duration> {
        match &self.underway {
            Some(Underway { phase: Phase::Committing(_), .. }) => None,
            Some(underway) => Some(underway.deadline),
            None if self.has_id() => self.trigger.wake_at(),
            None => None,
        }
    }

    /// Begins what is due, gives up what takes too long.
    pub(super) fn checkpoint_tick(&mut self) {
        let now = self.around.clock.monotonic();
        if self.underway.as_ref().is_some_and(|underway| underway.deadline <= now) {
            self.time_is_over(now);
        }
        if self.underway.is_some() || self.trigger.wake_at().is_none() {
            return;
        }
        if !self.has_id() {
            return self.reserve_ids();
        }
        if let Some(begin) = self.trigger.begin(now) {
            let manual = match begin {
                Begin::Periodic => self.settling_checkpoint(),
                Begin::Manual(manual) => Some(manual),
            };
            self.begin_checkpoint(manual, now);
        }
    }

    fn has_id(&self) -> bool {
        self.next_checkpoint < self.ledger.durable().next_checkpoint.0
    }

    /// No id is given twice, also not after a crash: ids are reserved before they are used.
    fn reserve_ids(&mut self) {
        let until = CheckpointId(self.next_checkpoint + IDS_RESERVED);
        if self.ledger.next().next_checkpoint < until {
            self.ledger.change(None, |meta| meta.next_checkpoint = until);
        }
        self.write_ledger();
    }

    fn begin_checkpoint(&mut self, manual: Option<Manual>, now: Duration) {
        let checkpoint = CheckpointId(self.next_checkpoint);
        self.next_checkpoint += 1;
        let savepoint = match self.savepoint_store(manual.as_ref()) {
            Ok(savepoint) => savepoint,
            Err(error) => {
                self.trigger.ended(now);
                return manual.into_iter().for_each(|manual| manual.refuse(&report(&error)));
            }
        };
        if savepoint.is_some() {
            // From now on what it counts on may not be swept, also by a coordinator that does not know it.
            self.ledger.change(None, |meta| meta.savepoint = checkpoint);
            self.write_ledger();
        }
        let deadline = now + self.job.plan.options.checkpoints.timeout;
        let tasks: Vec<TaskKey> = self.lifecycle.tasks().map(|(task, _)| task).collect();
        let pending = Pending::new(checkpoint, tasks, self.finals.clone(), deadline);
        let order = v1::TriggerCheckpoint {
            token: Some(self.wire_token()),
            checkpoint_id: checkpoint.0,
            savepoint_directory: savepoint.as_ref().map(|store| store.url().to_owned()).unwrap_or_default(),
            after_barrier: after_barrier(manual.as_ref()).into(),
            base_checkpoint_id: self.ledger.durable().latest().map_or(0, |latest| latest.checkpoint.0),
            is_aligned: savepoint.is_some() || matches!(manual, Some(Manual::Rescale(..))),
        };
        tracing::debug!(%checkpoint, savepoint = order.savepoint_directory, "checkpoint begins");
        self.record.lock().history.begin(checkpoint.0, savepoint.is_some(), self.wall_unix_us() / 1000);
        let phase = Phase::Gathering(pending);
        let underway = Underway { checkpoint, phase, manual, savepoint, begun_at: now, answered_at: now, deadline };
        self.underway = Some(underway);
        if self.fails_for_lost_final() {
            return;
        }
        for (worker, link) in &self.links {
            let mut here = self.placement.iter().filter(|(_, place)| *place == worker);
            if here.any(|(task, _)| self.lifecycle.task_state(*task).is_some_and(|state| !state.is_final())) {
                link.trigger_checkpoint(order.clone());
            }
        }
    }

    fn savepoint_store(&self, manual: Option<&Manual>) -> Result<Option<Arc<dyn CheckpointStore>>, CheckpointError> {
        let Some(directory) = manual.and_then(Manual::directory) else { return Ok(None) };
        let directory = self.around.stores.savepoint_directory(self.id, directory);
        self.around.stores.open(&directory, &self.job.plan.options.checkpoints.store).map(Some)
    }

    /// A task has written its part.
    pub(super) fn acknowledged(&mut self, worker: &WorkerId, answer: v1::CheckpointAcknowledged) {
        let Some(task) = self.answering(worker, answer.task, answer.checkpoint_id) else { return };
        for passed in &answer.passed {
            let place = (task.vertex.0, passed.operator_index);
            self.poison.passed(CheckpointId(answer.checkpoint_id), place, &passed.rows);
        }
        match KeptState::decode(&answer.state, "answer to a checkpoint") {
            Ok(state) => self.gather(|pending| pending.acknowledged(task, state, &answer.stats.unwrap_or_default())),
            Err(error) => {
                let reason = format!("{} answered what cannot be read: {}", self.name_of(task), report(&error));
                self.checkpoint_failed(CheckpointFailure::Invalid { reason });
            }
        }
    }

    /// A task could not write its part.
    pub(super) fn declined(&mut self, worker: &WorkerId, answer: v1::CheckpointDeclined) {
        let Some(task) = self.answering(worker, answer.task, answer.checkpoint_id) else { return };
        let Some(Underway { phase: Phase::Gathering(pending), .. }) = &mut self.underway else { return };
        if pending.declined(task) == Step::Failed {
            let failure = Box::new(answer.failure.unwrap_or_default());
            self.checkpoint_failed(CheckpointFailure::Declined { task: self.name_of(task), failure });
        }
    }

    /// A task has finished: it counts as an answer, and for all later checkpoints.
    pub(super) fn task_finished(&mut self, task: TaskKey) {
        if self.fails_for_lost_final() {
            return;
        }
        let state = self.finals.get(&task).cloned().unwrap_or_default();
        self.gather(|pending| pending.finished(task, state));
    }

    /// A restore without the state of a finished task would count and write less than was counted and written.
    fn fails_for_lost_final(&mut self) -> bool {
        let Some(task) = self.lost_final else { return false };
        let reason = format!("{} has finished and could not store what it leaves", self.name_of(task));
        let is_gathering = matches!(&self.underway, Some(Underway { phase: Phase::Gathering(_), .. }));
        if is_gathering {
            self.checkpoint_failed(CheckpointFailure::Invalid { reason });
        }
        is_gathering
    }

    /// The task that answers, when it is this checkpoint's and this worker's.
    fn answering(&self, worker: &WorkerId, task: Option<v1::TaskId>, checkpoint_id: u64) -> Option<TaskKey> {
        let task = TaskKey::from(task?);
        let is_asked = self.underway.as_ref().is_some_and(|underway| underway.checkpoint.0 == checkpoint_id);
        (is_asked && self.placement.get(&task) == Some(worker)).then_some(task)
    }

    fn name_of(&self, task: TaskKey) -> String {
        let vertex = self.job.plan.vertices.get(task.vertex.index());
        task_name(vertex.map_or("", |vertex| &vertex.name), task)
    }

    fn gather(&mut self, answer: impl FnOnce(&mut Pending) -> Step) {
        let now = self.around.clock.monotonic();
        let Some(underway) = &mut self.underway else { return };
        let Phase::Gathering(pending) = &mut underway.phase else { return };
        if answer(pending) == Step::Complete {
            underway.answered_at = now;
            let costs = *pending.costs();
            let answers = pending.take_answers();
            let checkpoint = underway.checkpoint;
            self.record.lock().history.answered(checkpoint.0, &costs);
            self.store_manifest(answers);
        }
    }

    /// All tasks have answered: writes down what they said.
    fn store_manifest(&mut self, answers: BTreeMap<TaskKey, PendingAnswer>) {
        let Some(underway) = &self.underway else { return };
        let kind = if underway.savepoint.is_some() { CheckpointKind::Savepoint } else { CheckpointKind::Checkpoint };
        let heading = self.heading(underway.checkpoint, kind);
        match manifest(heading, &self.job.plan, answers, Some(&self.splits)) {
            Ok(manifest) => {
                let manifest = Arc::new(manifest);
                let checkpoint = manifest.checkpoint;
                if let Some(underway) = &mut self.underway {
                    underway.phase = Phase::Storing(Arc::clone(&manifest));
                    let store = underway.savepoint.clone().unwrap_or_else(|| Arc::clone(&self.job.store));
                    self.later(async move {
                        Signal::ManifestStored(checkpoint, write_manifest(store.as_ref(), &manifest).await)
                    });
                }
            }
            Err(failure) => self.checkpoint_failed(failure),
        }
    }

    fn heading(&self, checkpoint: CheckpointId, kind: CheckpointKind) -> Heading {
        let meta = self.ledger.durable();
        Heading {
            job: self.id,
            incarnation: meta.incarnation,
            token: self.token,
            graph: self.job.graph_bytes(),
            checkpoint,
            kind,
            created_unix_ms: self.wall_unix_us() / 1000,
        }
    }

    /// The manifest is in the store. A checkpoint is committed now; a savepoint is complete.
    pub(super) fn manifest_stored(&mut self, checkpoint: CheckpointId, result: Result<ObjectRef, CheckpointError>) {
        let Some(underway) = self.underway.as_mut().filter(|underway| underway.checkpoint == checkpoint) else {
            // Given up meanwhile. The manifest stays where it is; no pointer leads to it, and its id is not given again.
            return;
        };
        let Phase::Storing(manifest) = &underway.phase else { return };
        if let Err(error) = result {
            return self.checkpoint_failed(CheckpointFailure::Store(error));
        }
        let manifest = Arc::clone(manifest);
        if underway.savepoint.is_some() {
            self.savepoint = Some(manifest);
            return self.savepoint_complete();
        }
        underway.phase = Phase::Committing(Arc::clone(&manifest));
        if planted(planted::NOTIFIED_IS_COMMITTED) {
            self.outbox.push(checkpoint.0, committables(&manifest));
            self.drain_outbox();
        }
        let next = CheckpointId(self.next_checkpoint + IDS_RESERVED);
        self.ledger.change(Some(Note::Committed(checkpoint)), |meta| {
            meta.retained.push(CompletedPointer { checkpoint, manifest: manifest.path() });
            meta.next_checkpoint = meta.next_checkpoint.max(next);
            meta.completed_count += 1;
        });
        self.write_ledger();
    }

    fn savepoint_complete(&mut self) {
        let Some(underway) = self.underway.take() else { return };
        let now = self.around.clock.monotonic();
        let path = underway.savepoint.as_ref().map(|store| store.url().to_owned()).unwrap_or_default();
        let (duration, commit) = (now - underway.begun_at, now - underway.answered_at);
        self.record.lock().history.completed(underway.checkpoint.0, &path, (micros(duration), micros(commit)));
        tracing::info!(checkpoint = %underway.checkpoint, path, "savepoint completed");
        self.trigger.ended(now);
        match underway.manual {
            Some(Manual::Savepoint(_, answer)) => {
                let _ = answer.send(Ok(Taken { checkpoint_id: underway.checkpoint.0, path, duration }));
            }
            Some(Manual::Stop(_, _, answer)) => {
                self.stand();
                self.stopping = Some(Stopping { path, answer });
                if self.lifecycle.stage() == Stage::Committing {
                    self.commit_end();
                }
            }
            Some(Manual::Checkpoint(_) | Manual::Rescale(..)) | None => {}
        }
    }

    /// A write of the metadata has returned: what was waiting for it happens now.
    pub(super) fn meta_written(&mut self, result: Result<(), String>) {
        let notes = self.ledger.wrote(result.is_ok());
        if let Err(reason) = &result {
            tracing::error!(reason, "the metadata cannot be written");
            self.is_ledger_paused = true;
            let pause = self.around.clock.sleep(LEDGER_PAUSE);
            self.later(async move {
                pause.await;
                Signal::MetaAgain
            });
        }
        for note in notes {
            match (note, &result) {
                (Note::Committed(checkpoint), Ok(())) => self.committed(checkpoint),
                (Note::Committed(checkpoint), Err(reason)) => self.commit_failed(checkpoint, reason),
                (Note::Ended, Ok(())) => self.happened(Event::EndCommitted),
                (Note::Ended, Err(reason)) => {
                    self.ledger.change(None, |meta| meta.end = None);
                    let message = format!("the end of the job cannot be written down: {reason}");
                    let failure = failure::of_coordinator(
                        "checkpoint-metadata",
                        ErrorDomain::External,
                        message,
                        self.wall_unix_us(),
                    );
                    self.happened(Event::Broken(failure));
                }
                (Note::Dropped, Ok(())) => self.delete_dropped(),
                (Note::Dropped, Err(_)) => {}
            }
        }
        self.write_ledger();
        if self.is_recovering {
            self.recover();
        }
    }

    /// The pointer is durable: this is the commit point.
    fn committed(&mut self, checkpoint: CheckpointId) {
        self.poison.committed(checkpoint);
        let Some(underway) = self.underway.take_if(|underway| underway.checkpoint == checkpoint) else { return };
        let Phase::Committing(manifest) = underway.phase else { return };
        let now = self.around.clock.monotonic();
        let path = self.checkpoint_path(&manifest);
        let (duration, commit) = (now - underway.begun_at, now - underway.answered_at);
        self.record.lock().history.completed(checkpoint.0, &path, (micros(duration), micros(commit)));
        tracing::debug!(%checkpoint, path, "checkpoint completed");
        self.failures_in_a_row = 0;
        self.trigger.ended(now);
        self.known.insert(checkpoint, CompletedCheckpoint::from(manifest.as_ref()));
        if !planted(planted::NOTIFIED_IS_COMMITTED) {
            self.outbox.push(checkpoint.0, committables(&manifest));
        }
        self.point = Some(RestorePoint { manifest, store: String::new(), unclaimed: Unclaimed::Refused });
        self.drain_outbox();
        self.retain();
        self.sweep_orphans(now);
        match underway.manual {
            Some(Manual::Checkpoint(answer)) => {
                let _ = answer.send(Ok(Taken { checkpoint_id: checkpoint.0, path, duration }));
            }
            Some(Manual::Rescale(job, answer)) if self.lifecycle.stage() == Stage::Running => {
                self.next_job = Some(job);
                self.rescaling = Some(Rescaling { checkpoint_id: checkpoint.0, since: now, answer });
                self.happened(Event::RedeployRequested);
            }
            Some(manual) => manual.refuse("the job's tasks were stopped meanwhile"),
            None => {}
        }
    }

    fn commit_failed(&mut self, checkpoint: CheckpointId, reason: &str) {
        // The old or the new state is on the disk; both are whole. The next write brings the old pointer back.
        self.ledger.change(None, |meta| {
            meta.retained.retain(|pointer| pointer.checkpoint != checkpoint);
            meta.completed_count = meta.completed_count.saturating_sub(1);
        });
        if self.underway.as_ref().is_some_and(|underway| underway.checkpoint == checkpoint) {
            self.checkpoint_failed(CheckpointFailure::Metadata(reason.to_owned()));
            self.drain_outbox();
        }
    }

    /// The directory that names a checkpoint to users.
    fn checkpoint_path(&self, manifest: &Manifest) -> String {
        let directory = layout::checkpoint_directory(manifest.job, manifest.incarnation, manifest.checkpoint);
        format!("{}/{directory}", self.job.store.url().trim_end_matches('/'))
    }

    fn time_is_over(&mut self, now: Duration) {
        let Some(underway) = &mut self.underway else { return };
        let owing: Vec<TaskKey> = match &mut underway.phase {
            Phase::Gathering(pending) => match pending.at(now) {
                Step::Failed => pending.owing().iter().copied().collect(),
                _ => return,
            },
            Phase::Storing(_) => Vec::new(),
            // The metadata is a file of ours: it says yes or no.
            Phase::Committing(_) => return,
        };
        let named = owing.iter().take(OWING_NAMED_MAX).map(|task| self.name_of(*task));
        let mut named: Vec<String> = named.collect();
        if owing.is_empty() {
            named.push("the checkpoint store".to_owned());
        }
        let owing_count = owing.len().max(named.len());
        let timeout = self.job.plan.options.checkpoints.timeout;
        self.checkpoint_failed(CheckpointFailure::TimedOut { timeout, owing: named, owing_count });
    }

    /// The checkpoint under way has come to nothing; the job goes on.
    pub(super) fn checkpoint_failed(&mut self, failure: CheckpointFailure) {
        let Some(underway) = self.underway.take() else { return };
        let now = self.around.clock.monotonic();
        let (checkpoint, is_stop) = (underway.checkpoint, underway.is_stop());
        let sentence = failure.sentence();
        tracing::warn!(%checkpoint, code = failure.code(), reason = sentence, "checkpoint failed");
        self.record.lock().history.failed(checkpoint.0, &failure, micros(now - underway.begun_at));
        let failed_count = self.record.lock().history.failed_count();
        self.ledger.change(None, |meta| meta.failed_count = failed_count);
        self.trigger.ended(now);
        if let Phase::Gathering(pending) = &underway.phase {
            let states = pending.answers().values().flat_map(|answer| &answer.state.operators);
            self.uncommitted.extend(states.flat_map(super::output::committables_of));
        }
        if self.lifecycle.stage() == Stage::Running {
            let order = v1::CheckpointAborted { token: Some(self.wire_token()), checkpoint_id: checkpoint.0 };
            self.links.values().for_each(|link| link.checkpoint_aborted(order.clone()));
        }
        if let Some(manual) = underway.manual {
            manual.refuse(&format!("checkpoint {checkpoint} failed: {sentence}"));
        }
        if failure.counts() {
            self.failures_in_a_row = self.failures_in_a_row.saturating_add(1);
        }
        let tolerable = self.job.plan.options.checkpoints.tolerable_failures;
        if tolerable.is_some_and(|tolerable| self.failures_in_a_row > tolerable) {
            self.failures_in_a_row = 0;
            let message = format!("too many checkpoints failed one after another; the last: {sentence}");
            let failure =
                failure::of_coordinator("checkpoint-failures", ErrorDomain::External, message, self.wall_unix_us());
            self.happened(Event::Broken(failure));
        } else if is_stop {
            // The sources have ended behind its barrier: the job goes on from its last checkpoint as if nobody had asked.
            self.happened(Event::RedeployRequested);
        }
    }

    /// The tasks of the attempt no longer run: what waits for them cannot be had.
    pub(super) fn attempt_ends(&mut self, stage: Stage) {
        let is_stop = self.underway.as_ref().is_some_and(Underway::is_stop);
        let is_committing = self.is_committing();
        for manual in self.trigger.job_stands() {
            manual.refuse("the job's tasks were stopped before it began");
        }
        // All tasks have finished: the savepoint of a stop has all its answers and is being written.
        if !(is_committing || is_stop && stage == Stage::Committing) {
            self.checkpoint_failed(CheckpointFailure::Interrupted);
        }
        if stage != Stage::Committing
            && let Some(stopping) = self.stopping.take()
        {
            let path = &stopping.path;
            let why = format!("the job did not end in order; its savepoint {path} is to be thrown away");
            let _ = stopping.answer.send(Err(why));
        }
    }

    /// No checkpoint begins any more: the sources are ending.
    pub(super) fn stand(&mut self) {
        for manual in self.trigger.job_stands() {
            manual.refuse("the job is being stopped");
        }
    }

    /// All tasks have finished: makes what they leave durable, so that it is published also if this process dies. The
    /// savepoint of a stop is waited for.
    pub(super) fn commit_end(&mut self) {
        if self.underway.as_ref().is_some_and(Underway::is_stop) {
            return;
        }
        let finals = self.finals.iter();
        let finals = finals.map(|(task, state)| (*task, PendingAnswer { state: state.clone(), is_final: true }));
        let heading = self.heading(CheckpointId(self.next_checkpoint), CheckpointKind::Checkpoint);
        let end = manifest(heading, &self.job.plan, finals.collect(), None);
        let encoded = end.map_err(|failure| failure.sentence()).and_then(|end| {
            let bytes = end.encode().map_err(|error| report(&error))?;
            Ok((end, bytes))
        });
        match encoded {
            // Nothing waits for a commit: nothing is lost that a restart would not bring again.
            Ok((end, _)) if committables(&end).is_empty() => {
                self.end = Some(end);
                self.happened(Event::EndCommitted);
            }
            Ok((end, bytes)) => {
                self.end = Some(end);
                self.ledger.change(Some(Note::Ended), |meta| meta.end = Some(bytes));
                self.write_ledger();
            }
            Err(reason) => {
                let now = self.wall_unix_us();
                let failure = failure::of_coordinator("checkpoint-invalid", ErrorDomain::Internal, reason, now);
                self.happened(Event::Broken(failure));
            }
        }
    }

    /// The output of a checkpoint is published.
    pub(super) fn confirmed(&mut self, checkpoint: u64) {
        self.ledger.change(None, |meta| meta.published = meta.published.max(CheckpointId(checkpoint)));
        self.write_ledger();
        let order = v1::CheckpointCompleted { token: Some(self.wire_token()), checkpoint_id: checkpoint };
        // Before the tasks are deployed there is nobody to tell.
        if self.lifecycle.stage() >= Stage::Deploying {
            self.links.values().for_each(|link| link.checkpoint_completed(order.clone()));
        }
        if let Some(point) = self.point.as_ref().filter(|point| point.manifest.checkpoint.0 == checkpoint) {
            for (task, state) in &mut self.finals {
                forget_committed(state, *task, &point.manifest);
            }
        }
    }

    /// Whether the outcome of a commit is still to come.
    pub(super) fn is_committing(&self) -> bool {
        matches!(&self.underway, Some(Underway { phase: Phase::Committing(_), .. }))
    }
}

fn after_barrier(manual: Option<&Manual>) -> v1::AfterBarrier {
    match manual {
        Some(Manual::Stop(_, Drain::Yes, _)) => v1::AfterBarrier::Drain,
        Some(Manual::Stop(_, Drain::No, _)) => v1::AfterBarrier::Stop,
        _ => v1::AfterBarrier::GoOn,
    }
}

fn micros(duration: Duration) -> u64 {
    u64::try_from(duration.as_micros()).unwrap_or(u64::MAX)
}
