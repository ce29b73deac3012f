//! From the answers of all tasks to a manifest, and from a manifest to what is published. Pure; the master writes the
//! manifest (create-if-absent), then the pointer to it, and only then publishes.
//!
//! An operator that runs in two phases has one uid and two states; the one before the exchange is kept under
//! [`state_uid`], so that every state of a manifest has its own name.

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;
use weir_checkpoint::{
    CheckpointKind, Incarnation, Manifest, OperatorState, OperatorTaskState, SplitState, SubtaskState,
};
use weir_core::{CheckpointId, FencingToken, JobId, OperatorUid, SplitIndex, SubtaskIndex};
use weir_graph::plan::PlannedRole;
use weir_graph::{JobPlan, Phase, PlannedOperator};
use weir_operator_api::Split;
use weir_proto::convert;
use weir_proto::v1::Committable;

use super::failure::{CheckpointFailure, task_name};
use super::pending::Answer;
use crate::job::state::TaskKey;
use crate::splits::assign::deal;

/// What is behind the uid of the part before the exchange. No uid a user may give ends so.
const LOCAL_SUFFIX: &str = "~local";

/// The name of an operator's state in a manifest.
pub fn state_uid(operator: &PlannedOperator) -> OperatorUid {
    match operator.phase {
        Phase::Local => local_uid(&operator.uid),
        Phase::Whole | Phase::Final => operator.uid.clone(),
    }
}

/// The name of the state of the part of `uid` before its exchange.
pub fn local_uid(uid: &OperatorUid) -> OperatorUid {
    OperatorUid(format!("{uid}{LOCAL_SUFFIX}"))
}

/// Whether a state of a manifest is that of a part before an exchange: it comes and goes with the parallelism.
pub fn is_local(uid: &OperatorUid) -> bool {
    uid.as_str().ends_with(LOCAL_SUFFIX)
}

/// The splits of one source in an attempt.
#[derive(Clone, PartialEq, Debug, Default)]
pub struct SourceSplits {
    /// Those that are dealt to its subtasks, in order; each with the place where the attempt begins.
    pub open: Vec<Split>,
    /// Those that earlier attempts read to their ends.
    pub finished: Vec<SplitState>,
    /// Whose each open one is, when every subtask goes on with its own; they are dealt out anew otherwise.
    pub owners: Option<BTreeMap<SplitIndex, SubtaskIndex>>,
}

impl SourceSplits {
    /// The open splits of each of `parallelism` subtasks, each in natural order.
    pub fn shares(&self, parallelism: u32) -> Vec<Vec<Split>> {
        let Some(owners) = &self.owners else { return deal(&self.open, parallelism) };
        let owner_of = |split: &Split| owners.get(&split.index).copied();
        let own = |subtask| self.open.iter().filter(move |split| owner_of(split) == Some(SubtaskIndex(subtask)));
        (0..parallelism).map(|subtask| own(subtask).cloned().collect()).collect()
    }
}

/// Whose manifest it is.
#[derive(Clone, Debug)]
pub struct Heading {
    /// The job.
    pub job: JobId,
    /// Its present life.
    pub incarnation: Incarnation,
    /// Its present attempt.
    pub token: FencingToken,
    /// The submitted graph, encoded.
    pub graph: Bytes,
    /// Which checkpoint.
    pub checkpoint: CheckpointId,
    /// Whose it is.
    pub kind: CheckpointKind,
    /// Wall time, milliseconds since 1970-01-01 UTC.
    pub created_unix_ms: i64,
}

/// Puts the answers of all tasks together. `splits` are those of the attempt; `None` at the end of a job, when nothing is
/// read any more.
///
/// **Errors**: an answer that leaves an operator's subtask or split out, or speaks of what is not its own: a restore from
/// it would read records twice or never.
pub fn manifest(
    heading: Heading,
    plan: &JobPlan,
    mut answers: BTreeMap<TaskKey, Answer>,
    splits: Option<&BTreeMap<OperatorUid, SourceSplits>>,
) -> Result<Manifest, CheckpointFailure> {
    let mut operators = Vec::new();
    for vertex in &plan.vertices {
        let mut of_vertex: Vec<OperatorState> = vertex.operators.iter().map(|o| empty(o, vertex.parallelism)).collect();
        for subtask in 0..vertex.parallelism {
            let task = TaskKey::new(vertex.id.0, subtask);
            let named = |reason: String| CheckpointFailure::Invalid {
                reason: format!("{} answered wrongly: {reason}", task_name(&vertex.name, task)),
            };
            let answer = answers.remove(&task).ok_or_else(|| named("it did not answer".to_owned()))?;
            let states = by_operator(&vertex.operators, answer, task.subtask).map_err(named)?;
            for (operator, state) in of_vertex.iter_mut().zip(states) {
                operator.subtasks.push(state);
            }
        }
        for (operator, state) in vertex.operators.iter().zip(&mut of_vertex) {
            if let (PlannedRole::Source, Some(splits)) = (operator.role, splits) {
                let splits = splits.get(&operator.uid).cloned().unwrap_or_default();
                place_splits(state, &splits).map_err(|reason| CheckpointFailure::Invalid { reason })?;
            }
        }
        operators.append(&mut of_vertex);
    }
    Ok(Manifest {
        job: heading.job,
        job_name: plan.name.clone(),
        incarnation: heading.incarnation,
        checkpoint: heading.checkpoint,
        kind: heading.kind,
        attempt: heading.token,
        created_unix_ms: heading.created_unix_ms,
        key_group_count: plan.options.key_group_count,
        graph: heading.graph,
        operators,
    })
}

fn empty(operator: &PlannedOperator, parallelism: u32) -> OperatorState {
    OperatorState { uid: state_uid(operator), kind: operator.kind.clone(), parallelism, subtasks: Vec::new() }
}

/// The states of a task in the order of its chain; an operator of which it said nothing has none.
fn by_operator(chain: &[PlannedOperator], answer: Answer, subtask: SubtaskIndex) -> Result<Vec<SubtaskState>, String> {
    let mut states: BTreeMap<OperatorUid, SubtaskState> = BTreeMap::new();
    for OperatorTaskState { uid, state } in answer.state.operators {
        if state.subtask_index != subtask {
            return Err(format!("its state of '{uid}' is of subtask {}", state.subtask_index));
        }
        if !chain.iter().any(|operator| operator.uid == uid) {
            return Err(format!("it has no operator '{uid}'"));
        }
        if states.insert(uid.clone(), state).is_some() {
            return Err(format!("it gives the state of '{uid}' twice"));
        }
    }
    let state = |operator: &PlannedOperator| {
        let state = states.remove(&operator.uid).unwrap_or_else(|| SubtaskState::new(subtask));
        SubtaskState { has_ended: state.has_ended || answer.is_final, ..state }
    };
    Ok(chain.iter().map(state).collect())
}

/// Checks that each subtask says of exactly its splits where it stands, and adds those that nobody reads any more.
fn place_splits(source: &mut OperatorState, splits: &SourceSplits) -> Result<(), String> {
    let uid = source.uid.clone();
    for (share, subtask) in splits.shares(source.parallelism).iter().zip(&mut source.subtasks) {
        let index = subtask.subtask_index;
        let mut said: BTreeMap<_, SplitState> = subtask.splits.drain(..).map(|split| (split.index, split)).collect();
        for split in share {
            let Some(state) = said.remove(&split.index) else {
                return Err(format!(
                    "subtask {index} of source '{uid}' does not say where it is in split {}",
                    split.index
                ));
            };
            subtask.splits.push(SplitState { description: split.description.clone(), ..state });
        }
        if let Some(stranger) = said.keys().next() {
            return Err(format!("subtask {index} of source '{uid}' speaks of split {stranger}, which is not its own"));
        }
    }
    if let Some(first) = source.subtasks.first_mut() {
        first.splits.extend(splits.finished.iter().cloned());
        first.splits.sort_by_key(|split| split.index);
    }
    Ok(())
}

/// What a manifest commits, by sink, in the order of subtasks.
pub fn committables(manifest: &Manifest) -> BTreeMap<OperatorUid, Vec<Committable>> {
    let mut by_sink = BTreeMap::new();
    for operator in &manifest.operators {
        let of_subtask = |subtask: &SubtaskState| -> Vec<Committable> {
            let wire = |value| convert::committable_to_proto(&operator.uid, subtask.subtask_index, value);
            subtask.committables.iter().map(wire).collect()
        };
        let all: Vec<Committable> = operator.subtasks.iter().flat_map(of_subtask).collect();
        if !all.is_empty() {
            by_sink.insert(operator.uid.clone(), all);
        }
    }
    by_sink
}

/// Whether every task of the manifest had finished: there is nothing left to run, only to publish.
pub fn is_final(manifest: &Manifest) -> bool {
    manifest.operators.iter().flat_map(|operator| &operator.subtasks).all(|subtask| subtask.has_ended)
}

/// Takes what `committed` has committed out of what a finished task leaves to later checkpoints.
pub(crate) fn forget_committed(answer: &mut weir_checkpoint::TaskState, task: TaskKey, committed: &Manifest) {
    let operators: BTreeMap<&OperatorUid, &OperatorState> =
        committed.operators.iter().map(|operator| (&operator.uid, operator)).collect();
    for operator in &mut answer.operators {
        let there = operators.get(&operator.uid).and_then(|state| state.subtasks.get(task.subtask.index()));
        if let Some(there) = there {
            operator.state.committables.retain(|committable| !there.committables.contains(committable));
        }
    }
}

/// The sinks and subtasks of what is listed twice, once.
pub(crate) fn distinct(committables: Vec<Committable>) -> Vec<Committable> {
    let mut kept: Vec<Committable> = Vec::new();
    let mut places = BTreeSet::new();
    for committable in committables {
        let place = (committable.operator.clone(), committable.subtask_index);
        if places.insert(place) || !kept.contains(&committable) {
            kept.push(committable);
        }
    }
    kept
}

#[cfg(test)]
mod tests;
