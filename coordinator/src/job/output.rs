//! Output on its way to be visible, or to be removed, as a job's master drives it: what is committed leaves by the outbox,
//! cut after cut; what is not committed when the job ends for good is discarded. Part of the master.

use std::collections::BTreeSet;
use std::time::Duration;

use weir_checkpoint::{Manifest, OperatorTaskState};
use weir_core::{OperatorUid, WorkerId};
use weir_graph::plan::PlannedRole;
use weir_proto::convert;
use weir_proto::v1;

use super::failure;
use super::lifecycle::{Event, Stage};
use super::master::{Master, Signal};
use super::outbox::{END, Progress};
use super::publication::Step;
use super::state::{JobState, TaskKey};
use crate::checkpoint::complete::{committables, distinct};

/// Pause before a sink is published again; doubled with every try.
const PUBLISH_PAUSE: Duration = Duration::from_millis(200);

impl Master {
    /// The end is durable: its output goes behind whatever is not confirmed yet.
    pub(super) fn publish_end(&mut self) {
        let by_sink = self.end.as_ref().map(committables).unwrap_or_default();
        self.outbox.push(END, by_sink);
        self.drain_outbox();
    }

    /// Publishes the cut in front, and what becomes the front by it; then whatever waited for an empty outbox.
    pub(super) fn drain_outbox(&mut self) {
        loop {
            match self.outbox.begin() {
                Err(END) => {}
                Err(checkpoint) => self.confirmed(checkpoint),
                Ok(owed) => {
                    owed.iter().for_each(|sink| self.publish(sink));
                    break;
                }
            }
        }
        if self.outbox.is_empty() {
            self.outbox_empty();
        }
    }

    fn outbox_empty(&mut self) {
        match self.lifecycle.stage() {
            Stage::Republishing => self.happened(Event::Republished),
            Stage::Publishing => self.happened(Event::Published),
            // What is being committed is not discarded.
            Stage::Discarding if !self.is_discarding && !self.is_committing() => self.discard(),
            _ => {}
        }
    }

    /// The job ends without a commit of these: removes them. What a checkpoint committed is not among them.
    fn discard(&mut self) {
        self.is_discarding = true;
        let of_finals = self.finals.values().flat_map(|state| &state.operators).flat_map(committables_of);
        let mut all: Vec<v1::Committable> = std::mem::take(&mut self.uncommitted);
        all.extend(of_finals);
        let committed: Vec<v1::Committable> = self
            .point
            .as_ref()
            .map(|point| committables(&point.manifest).into_values().flatten().collect())
            .unwrap_or_default();
        all.retain(|committable| !committed.contains(committable));
        // What a savepoint holds is published when a job begins with it.
        let saved = self.savepoint.as_ref().map(|savepoint| committables(savepoint)).unwrap_or_default();
        let saved: Vec<v1::Committable> = saved.into_values().flatten().collect();
        all.retain(|committable| !saved.contains(committable));
        self.discards.collect(distinct(all));
        self.swept_sinks().into_iter().for_each(|sink| self.discards.want(sink));
        let owed = self.discards.begin();
        if owed.is_empty() {
            return self.happened(Event::Discarded);
        }
        owed.iter().for_each(|sink| self.publish(sink));
    }

    /// Whether something that is kept counts on hidden forms of what is published: a savepoint of this job, or what a user
    /// had it begin with, from which it goes on itself.
    fn is_counted_on(&self, checkpoint: u64) -> bool {
        let is_origin = |manifest: &Manifest| manifest.job != self.id && manifest.checkpoint.0 == checkpoint;
        self.ledger.next().savepoint.0 > 0 || self.point.as_ref().is_some_and(|point| is_origin(&point.manifest))
    }

    /// The sinks of which more may lie around than is known here: parts of attempts whose workers died.
    fn swept_sinks(&self) -> Vec<OperatorUid> {
        let has_run = self.lifecycle.has_earlier_attempts() || !self.placement.is_empty();
        // A savepoint of an earlier life of this coordinator may count on what would be swept.
        let is_known = |savepoint: &Manifest| savepoint.checkpoint == self.ledger.next().savepoint;
        let has_unknown = self.ledger.next().savepoint.0 > 0 && !self.savepoint.as_deref().is_some_and(is_known);
        if !has_run || has_unknown {
            return Vec::new();
        }
        let leaves = |kind: &str| self.around.registry.sink(kind).is_some_and(|sink| sink.leaves_output());
        let operators = self.job.plan.vertices.iter().flat_map(|vertex| &vertex.operators);
        let sinks = operators.filter(|operator| operator.role == PlannedRole::Sink && leaves(&operator.kind));
        sinks.map(|sink| sink.uid.clone()).collect()
    }

    /// What a sink remembers in the checkpoint and the savepoint of this job that are kept when it ends.
    fn kept_memory(&self, sink: &OperatorUid) -> Vec<v1::Committable> {
        let end = if self.lifecycle.failure().is_some() { JobState::Failed } else { JobState::Canceled };
        let checkpoint = self.point.as_ref().map(|point| &point.manifest);
        let checkpoint = checkpoint.filter(|manifest| manifest.job == self.id && !self.are_deleted(end));
        let kept = checkpoint.into_iter().chain(&self.savepoint);
        let states = kept.flat_map(|manifest| &manifest.operators).filter(|operator| operator.uid == *sink);
        let values = states.flat_map(|operator| &operator.subtasks).flat_map(|subtask| {
            subtask.sink_states.iter().map(|value| convert::committable_to_proto(sink, subtask.subtask_index, value))
        });
        values.collect()
    }

    /// Sends the output of one sink to a worker, best to one that wrote some of it: output may lie on its disk.
    pub(super) fn publish(&mut self, sink: &OperatorUid) {
        let is_owed = if self.is_discarding { self.discards.is_owed(sink) } else { self.outbox.is_owed(sink) };
        // Between two attempts nothing is sent: the next one begins with what its manifest says is committed.
        let is_between =
            matches!(self.lifecycle.stage(), Stage::BackingOff | Stage::Recovering | Stage::WaitingForSlots);
        if !is_owed || is_between {
            return;
        }
        let operators = self.job.wire_plan.vertices.iter().enumerate();
        let mut found =
            operators.flat_map(|(vertex, chain)| chain.operators.iter().map(move |operator| (vertex, operator)));
        let Some((vertex, operator)) = found.find(|(_, operator)| operator.uid == sink.0) else {
            // A sink that the job no longer has: its user left its state out, and this with it.
            tracing::warn!(%sink, "output of a sink that was left out is not published");
            return self.left_out(sink);
        };
        let (checkpoint, output) = match self.is_discarding {
            true => (END, self.discards.committables(sink)),
            false => (self.outbox.front().unwrap_or(END), self.outbox.committables(sink)),
        };
        let writer =
            output.first().and_then(|first| self.placement.get(&TaskKey::new(vertex as u32, first.subtask_index)));
        let Some(link) = self.around.cluster.some_worker(writer) else {
            if !self.is_discarding {
                // What is committed waits for a worker, as long as the stage allows.
                return self.retry(sink, 1);
            }
            let failure = failure::no_publisher(sink.as_str(), self.wall_unix_us());
            let step = self.discards.give_up(sink, failure);
            return self.discard_went(sink, step);
        };
        link.publish(v1::Publish {
            token: Some(self.wire_token()),
            operator: sink.0.clone(),
            kind: operator.kind.clone(),
            settings: operator.settings.clone(),
            committables: output,
            discard: self.is_discarding,
            checkpoint_id: checkpoint,
            sweep: self.is_discarding && self.swept_sinks().contains(sink),
            keep: !self.is_discarding && self.is_counted_on(checkpoint),
            kept: if self.is_discarding { self.kept_memory(sink) } else { Vec::new() },
        });
        match self.is_discarding {
            true => self.discards.sent(sink, link.worker().clone()),
            false => self.outbox.sent(sink, link.worker().clone()),
        }
        self.watch(&link);
    }

    fn left_out(&mut self, sink: &OperatorUid) {
        let nobody = WorkerId::from("");
        if self.is_discarding {
            self.discards.sent(sink, nobody.clone());
            let step = self.discards.answered(sink, &nobody, None);
            self.discard_went(sink, step);
        } else {
            let front = self.outbox.front().unwrap_or(END);
            self.outbox.sent(sink, nobody.clone());
            let progress = self.outbox.answered(front, sink, &nobody, None);
            self.outbox_went(sink, progress);
        }
    }

    /// A worker answers for a sink.
    pub(super) fn published(&mut self, worker: &WorkerId, answer: v1::Published) {
        let sink = OperatorUid(answer.operator);
        if self.is_discarding {
            let step = self.discards.answered(&sink, worker, answer.failure);
            self.discard_went(&sink, step);
        } else {
            let progress = self.outbox.answered(answer.checkpoint_id, &sink, worker, answer.failure);
            self.outbox_went(&sink, progress);
        }
    }

    fn outbox_went(&mut self, sink: &OperatorUid, progress: Progress) {
        match progress {
            Progress::Ignore | Progress::Wait => {}
            Progress::Retry(tries) => self.retry(sink, tries),
            Progress::Confirmed(checkpoint) => {
                if checkpoint != END {
                    self.confirmed(checkpoint);
                }
                self.drain_outbox();
            }
            Progress::Failed(failure) => {
                let why = failure.chain.join(": ");
                tracing::warn!(why, "committed output cannot be published");
                self.outbox.again();
                if self.lifecycle.stage() == Stage::Discarding {
                    // The job ends; what it committed stays with its checkpoint, which is kept.
                    return self.discard();
                }
                self.happened(Event::PublishFailed(failure));
            }
        }
    }

    fn discard_went(&mut self, sink: &OperatorUid, step: Step) {
        match step {
            Step::Ignore | Step::Wait => {}
            Step::Retry(tries) => self.retry(sink, tries),
            Step::Settled(failure) => {
                if let Some(failure) = failure {
                    tracing::warn!(cause = failure.chain.join(": "), "could not discard all unpublished output");
                }
                self.happened(Event::Discarded);
            }
        }
    }

    fn retry(&mut self, sink: &OperatorUid, tries: u32) {
        let pause = self.around.clock.sleep(PUBLISH_PAUSE * 2u32.pow(tries.saturating_sub(1).min(16)));
        let sink = sink.clone();
        self.later(async move {
            pause.await;
            Signal::PublishAgain(sink)
        });
    }

    /// A worker is gone: what it owed an answer for goes to another.
    pub(super) fn publisher_lost(&mut self, worker: &WorkerId) {
        let mut owed: BTreeSet<OperatorUid> = self.outbox.worker_lost(worker).into_iter().collect();
        owed.extend(self.discards.worker_lost(worker));
        owed.iter().for_each(|sink| self.publish(sink));
    }
}

/// What a task's operator has prepared, as it travels.
pub(super) fn committables_of(operator: &OperatorTaskState) -> Vec<v1::Committable> {
    let state = &operator.state;
    let wire = |value| convert::committable_to_proto(&operator.uid, state.subtask_index, value);
    state.committables.iter().map(wire).collect()
}
