//! The attempts of a job: what one begins with, where its tasks go, what they report. Part of the master.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use weir_checkpoint::{Manifest, OperatorTaskState, SubtaskState, TaskState as KeptState, read_manifest};
use weir_core::error::report;
use weir_core::{AttemptNumber, ErrorDomain, OperatorUid, Problem, WorkerId};
use weir_graph::plan::PlannedRole;
use weir_operator_api::Split;
use weir_proto::convert::value_from_proto;
use weir_proto::v1;

use super::failure;
use super::lifecycle::Event;
use super::master::{Master, Signal};
use super::state::{TaskKey, TaskState, reported_state};
use super::submit::{RestorePoint, foreign};
use crate::checkpoint::complete::{SourceSplits, committables};
use crate::recovery::plan::{Unclaimed, restore};
use crate::schedule::{assign, deploy};
use crate::splits::enumerate::enumerate;
use crate::worker_link::WorkerLink;

impl Master {
    /// Begins an attempt: the state it goes on from is that of the last commit. One that is being written down is waited
    /// for: whether it counts must be known before anything goes on from it.
    pub(super) fn recover(&mut self) {
        self.is_recovering = !self.ledger.is_settled();
        if self.is_recovering {
            return self.write_ledger();
        }
        if self.lifecycle.has_earlier_attempts() {
            self.begin_attempt();
        }
        if let Some(end) = self.ledger.durable().end.clone() {
            return match Manifest::decode(&end, "the end of the job") {
                Ok(end) => {
                    self.end = Some(end);
                    self.happened(Event::EndFound);
                }
                Err(error) => self.state_lost(error.code(), error.domain(), report(&error)),
            };
        }
        let meta = self.ledger.durable();
        let (latest, origin) = (meta.latest().cloned(), meta.origin.clone());
        let is_read = self.point.as_ref().is_some_and(|point| match &latest {
            Some(latest) => point.manifest.checkpoint == latest.checkpoint && point.store.is_empty(),
            None => true,
        });
        let (store, manifest) = match (latest, &origin) {
            _ if is_read => return self.state_known(),
            (Some(latest), _) => (self.job.store.url().to_owned(), latest.manifest),
            (None, Some(origin)) => (origin.store.clone(), origin.manifest.clone()),
            (None, None) => return self.state_known(),
        };
        let unclaimed = unclaimed(origin.is_some_and(|origin| origin.leaves_out_unclaimed));
        let (around, job) = (self.around.clone(), self.job.clone());
        self.later(async move {
            let read = async {
                let store = around.stores.open(&store, &job.plan.options.checkpoints.store)?;
                let manifest = Arc::new(read_manifest(store.as_ref(), &manifest).await?);
                Ok(RestorePoint { manifest, store: foreign(store.url(), &job), unclaimed })
            };
            Signal::StateRead(read.await)
        });
    }

    /// Another attempt: nothing of the earlier one counts any more.
    fn begin_attempt(&mut self) {
        let attempt = self.token.attempt.0.saturating_add(1);
        self.token.attempt = AttemptNumber(attempt);
        self.poison.attempt_begins(self.next_job.is_some());
        self.sweep_after = Duration::ZERO;
        if let Some(job) = self.next_job.take() {
            let graph = job.graph_bytes();
            let listed = std::mem::take(&mut self.job.splits);
            self.job = *job;
            self.job.splits = listed;
            self.ledger.change(None, |meta| meta.graph = graph);
            self.settling = None;
        }
        self.stop_settling();
        self.ledger.change(None, |meta| meta.attempt = attempt);
        self.write_ledger();
        self.finals.clear();
        self.lost_final = None;
        self.uncommitted.clear();
        self.links.clear();
        self.placed_before = std::mem::take(&mut self.placement);
        self.outbox.clear();
        self.record.lock().begin_attempt(&self.job.plan, self.job.config.clone());
        tracing::info!(attempt, "next attempt begins");
    }

    pub(super) fn state_read(&mut self, result: Result<RestorePoint, weir_checkpoint::CheckpointError>) {
        match result {
            Ok(point) => {
                self.point = Some(point);
                self.state_known();
            }
            Err(error) => {
                tracing::error!(cause = report(&error), "the state to go on from cannot be read");
                // What lies there damaged does not heal by itself, and an older state is never taken unasked.
                let is_hopeless = error.retry() == weir_core::RetryHint::GiveUp;
                let domain = if is_hopeless { ErrorDomain::User } else { error.domain() };
                self.state_lost(error.code(), domain, report(&error));
            }
        }
    }

    pub(super) fn listed(&mut self, result: Result<BTreeMap<OperatorUid, Vec<Split>>, Vec<Problem>>) {
        match result {
            Ok(listed) => {
                self.job.splits.extend(listed);
                self.state_known();
            }
            Err(problems) => self.state_lost("restore-refused", ErrorDomain::External, failure::listed(&problems)),
        }
    }

    /// The manifest is read: cuts it into what each task takes, and goes on.
    pub(super) fn state_known(&mut self) {
        if self.settles() {
            return;
        }
        self.splits.clear();
        self.restores.clear();
        if let Some(point) = &self.point {
            match restore(&point.manifest, &self.job.plan, point.unclaimed) {
                Ok(restored) => {
                    self.splits = restored.splits;
                    self.restores = restored.tasks;
                }
                Err(problems) => {
                    return self.state_lost("restore-refused", ErrorDomain::User, failure::listed(&problems));
                }
            }
        }
        let sources = self.job.plan.vertices.iter().flat_map(|vertex| &vertex.operators);
        let sources = sources.filter(|operator| operator.role == PlannedRole::Source);
        let mut is_listed = true;
        for source in sources.filter(|source| !self.splits.contains_key(&source.uid)).collect::<Vec<_>>() {
            match self.job.splits.get(&source.uid) {
                Some(open) => {
                    let fresh = SourceSplits { open: open.clone(), ..SourceSplits::default() };
                    self.splits.insert(source.uid.clone(), fresh);
                }
                None => is_listed = false,
            }
        }
        if !is_listed {
            let known = self.splits.keys().cloned().collect();
            let (plan, around) = (self.job.plan.clone(), self.around.clone());
            return self.later(async move { Signal::Listed(enumerate(&plan, &known, &around).await) });
        }
        let restored = self.point.as_ref().map_or(0, |point| point.manifest.checkpoint.0);
        self.record.lock().set_restored(restored);
        if let Some(point) = &self.point
            && point.manifest.checkpoint > self.ledger.durable().published
        {
            self.outbox.push(restored, committables(&point.manifest));
        }
        self.happened(Event::StateFound(assign::tasks(&self.job.plan).collect()));
    }

    fn state_lost(&mut self, code: &str, domain: ErrorDomain, message: String) {
        let failure = failure::of_coordinator(code, domain, message, self.wall_unix_us());
        self.happened(Event::StateLost(failure));
    }

    pub(super) fn place(&mut self, links: Vec<WorkerLink>) {
        self.granted = None;
        let slots: Vec<WorkerId> = links.iter().map(|link| link.worker().clone()).collect();
        self.placement = assign::place(&self.job.plan, &slots, &self.placed_before);
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

    pub(super) fn deploy(&mut self) {
        let addresses = self.links.iter().map(|(worker, link)| (worker.clone(), link.data_address().to_owned()));
        let options = &self.job.plan.options.checkpoints;
        let setup = v1::CheckpointSetup {
            store: self.job.store.url().to_owned(),
            store_options: options.store.clone().into_iter().collect(),
            incarnation: self.ledger.durable().incarnation.to_string(),
            aligned_timeout_ms: u32::try_from(options.aligned_timeout.as_millis()).unwrap_or(u32::MAX),
            keeps_local_copies: options.keeps_local_copies,
        };
        let restores = match self.wire_restores() {
            Ok(restores) => restores,
            Err(error) => {
                let failure =
                    failure::of_coordinator(error.code(), error.domain(), report(&error), self.wall_unix_us());
                return self.happened(Event::Broken(failure));
            }
        };
        let deployable = deploy::Deployable {
            plan: &self.job.plan,
            wire_plan: &self.job.wire_plan,
            splits: &self.splits,
            token: &self.wire_token(),
            setup: &setup,
            restores: &restores,
            careful: &self.poison.careful(),
        };
        for (worker, order) in deploy::orders(&deployable, &self.placement, &addresses.collect()) {
            if let Some(link) = self.links.get(&worker) {
                link.deploy(order);
            }
        }
    }

    fn wire_restores(&self) -> Result<BTreeMap<TaskKey, v1::TaskRestore>, weir_checkpoint::CheckpointError> {
        let Some(point) = &self.point else { return Ok(BTreeMap::new()) };
        let wire = |(task, state): (&TaskKey, &KeptState)| {
            let restore = v1::TaskRestore {
                task: Some((*task).into()),
                checkpoint_id: point.manifest.checkpoint.0,
                state: state.encode()?.to_vec(),
                store: point.store.clone(),
            };
            Ok((*task, restore))
        };
        self.restores.iter().map(wire).collect()
    }

    pub(super) fn task_changed(&mut self, worker: WorkerId, change: v1::TaskStateChanged) {
        let state = v1::TaskState::try_from(change.state).ok().and_then(reported_state);
        let (Some(task), Some(state)) = (change.task, state) else {
            tracing::warn!(%worker, "ignored a report without a task or with an impossible state");
            return;
        };
        if change.token.as_ref() != Some(&self.wire_token()) {
            tracing::debug!(%worker, token = ?change.token, "ignored a stale report");
            return;
        }
        let task = TaskKey::from(task);
        let unexplained = || failure::unexplained(state, &worker, self.wall_unix_us());
        let cause = change.failure.clone().unwrap_or_else(unexplained);
        let mut cause = self.located(cause, task, &worker);
        if !self.lifecycle.admits(task, &worker, state) {
            tracing::debug!(%worker, ?task, ?state, "ignored a report that does not fit");
            return;
        }
        if let (TaskState::Failed, Some(suspects)) = (state, &change.suspects) {
            let place = (task.vertex.0, suspects.operator_index);
            cause.may_be_one_record = self.poison.killed(place, &suspects.rows, cause.chain.join(": "));
        }
        // Before the event: it may decide to publish, or to discard, what this very report brings.
        if state == TaskState::Finished
            && let Err(reason) = self.keep_final(task, &change)
        {
            let failure =
                failure::of_coordinator("checkpoint-invalid", ErrorDomain::Internal, reason, self.wall_unix_us());
            return self.happened(Event::Broken(self.located(failure, task, &worker)));
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
        if state == TaskState::Finished {
            self.task_finished(task);
        }
    }

    /// Keeps what a finished task leaves: its final state, and the output it reports beside.
    fn keep_final(&mut self, task: TaskKey, change: &v1::TaskStateChanged) -> Result<(), String> {
        let mut kept = match change.final_state.is_empty() {
            true => KeptState::default(),
            false => KeptState::decode(&change.final_state, "final state").map_err(|error| report(&error))?,
        };
        for committable in &change.committables {
            let uid = OperatorUid(committable.operator.clone());
            let description = value_from_proto(committable.description.clone().unwrap_or_default())
                .map_err(|error| format!("its output cannot be read: {error}"))?;
            let position = kept.operators.iter().position(|operator| operator.uid == uid).unwrap_or_else(|| {
                kept.operators.push(OperatorTaskState { uid, state: SubtaskState::new(task.subtask) });
                kept.operators.len() - 1
            });
            let known = &mut kept.operators[position].state.committables;
            if !known.contains(&description) {
                known.push(description);
            }
        }
        self.finals.insert(task, kept);
        if change.final_state.is_empty() {
            self.lost_final.get_or_insert(task);
        }
        Ok(())
    }

    /// Fills in the place of a failure where the worker left it out.
    pub(super) fn located(&self, mut failure: v1::Failure, task: TaskKey, worker: &WorkerId) -> v1::Failure {
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
    pub(super) fn count(&mut self, counts: Vec<(TaskKey, v1::TaskMetrics)>) {
        let mut record = self.record.lock();
        for (task, metrics) in counts {
            if self.lifecycle.task_state(task).is_some_and(|state| !state.is_final()) {
                record.set_metrics(task, metrics);
            }
        }
    }

    /// A failure has led to a restart.
    pub(super) fn count_restart(&mut self) {
        let cause = self.lifecycle.restart_cause().cloned();
        let why = cause.as_ref().map(|cause| cause.chain.join(": "));
        tracing::warn!(why, pause = ?self.lifecycle.pause(), "the job restarts");
        self.ledger.change(None, |meta| {
            meta.restart_count = meta.restart_count.saturating_add(1);
            meta.last_restart_cause = cause.clone();
        });
        self.write_ledger();
        self.record.lock().set_restarts(self.ledger.next().restart_count, cause);
    }
}

fn unclaimed(is_left_out: bool) -> Unclaimed {
    if is_left_out { Unclaimed::LeftOut } else { Unclaimed::Refused }
}
