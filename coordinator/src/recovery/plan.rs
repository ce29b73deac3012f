//! From a manifest and a plan to the state that each task takes back. Pure; the same at any parallelism.
//!
//! ```text
//! keyed rows     the subtask that owns their key groups       (c4: one owner)
//! splits         dealt anew, each to one subtask, with places (finished ones to nobody)
//! shared rows    every subtask, which takes what is its own
//! sink states    every subtask, with the number of the giver  (c5: it decides what to take)
//! watermarks     the least of the old subtasks                (what has fired stays fired, late stays late)
//! counters       their sum, to subtask 0
//! ```
//! A manifest with elements in flight (a barrier overtook them) restores task by task, each exactly as it was: its own
//! watermarks, its own splits, and in its channels what was in flight there. That needs the tasks and edges it was taken
//! with: what was in flight may be partial results that another plan has no use for, and subtasks that were cut at
//! different watermarks cannot share a window. Another plan gets its state through one aligned checkpoint of the old one
//! ([`fits`]; `job/settle.rs`).

use std::collections::{BTreeMap, BTreeSet};

use weir_checkpoint::{
    Manifest, OperatorState, OperatorTaskState, SplitState, SubtaskState, TableScope, TableState, TaskState,
};
use weir_core::{CheckpointId, EventTime, KeyGroupRange, OperatorUid, Problem, SubtaskIndex};
use weir_graph::plan::PlannedRole;
use weir_graph::{JobPlan, Phase, PlannedOperator};
use weir_operator_api::Split;

use crate::checkpoint::complete::{SourceSplits, is_local, local_uid, state_uid};
use crate::job::state::TaskKey;

/// What happens to state that no operator of the plan takes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Unclaimed {
    /// It is a problem.
    Refused,
    /// It is left out: the user said so.
    LeftOut,
}

/// What a job goes on from.
#[derive(Clone, PartialEq, Debug)]
pub struct Restored {
    /// The checkpoint.
    pub checkpoint: CheckpointId,
    /// Splits of the sources the manifest knows.
    pub splits: BTreeMap<OperatorUid, SourceSplits>,
    /// State of every task that has some.
    pub tasks: BTreeMap<TaskKey, TaskState>,
}

/// Cuts a manifest into the state of each task of `plan`.
///
/// **Errors**: another number of key groups, an operator of another kind, state that nobody takes (unless it is to be left
/// out): all of them, with the operator's name.
pub fn restore(manifest: &Manifest, plan: &JobPlan, unclaimed: Unclaimed) -> Result<Restored, Vec<Problem>> {
    let states: BTreeMap<&OperatorUid, &OperatorState> =
        manifest.operators.iter().map(|operator| (&operator.uid, operator)).collect();
    let mut problems = problems(manifest, plan, &states, unclaimed);
    if !fits(manifest, plan) {
        let reason = "the checkpoint has rows in flight and was taken with other tasks or edges; run the job as it was \
                      and take a savepoint";
        let (operator, field) = (String::new(), "fromSavepoint".to_owned());
        problems.push(Problem { operator, field, reason: reason.to_owned(), nearest: None });
    }
    if !problems.is_empty() {
        return Err(problems);
    }
    let is_unaligned = manifest.is_unaligned();
    let mut restored = Restored { checkpoint: manifest.checkpoint, splits: BTreeMap::new(), tasks: BTreeMap::new() };
    for vertex in &plan.vertices {
        for operator in &vertex.operators {
            let uid = state_uid(operator);
            let Some(state) = states.get(&uid).copied() else {
                // The part before an exchange is new, because the exchange is: it stands where its other part stands.
                let other = states.get(&operator.uid).copied().filter(|_| operator.phase == Phase::Local);
                for subtask in other.iter().flat_map(|_| 0..vertex.parallelism) {
                    let watermark = other.map_or(EventTime::MIN, |other| least(other, |old| old.watermark_in));
                    let mut state = SubtaskState::new(SubtaskIndex(subtask));
                    (state.watermark_in, state.watermark_out) = (watermark, watermark);
                    restored.give(TaskKey::new(vertex.id.0, subtask), operator, vec![state]);
                }
                continue;
            };
            let splits = source_splits(state, is_unaligned);
            let shares = splits.shares(vertex.parallelism);
            for (subtask, share) in (0..vertex.parallelism).zip(shares) {
                let range = KeyGroupRange::of_subtask(subtask, vertex.parallelism, manifest.key_group_count);
                let own = state.subtasks.get(subtask as usize).filter(|_| is_unaligned);
                let mut parts = parts(state, range, own);
                if let Some(first) = parts.first_mut() {
                    first.splits = share.iter().map(split_state).collect();
                    if subtask == 0 {
                        first.counters = counters(state, lost_part(operator, plan, &states));
                    }
                }
                restored.give(TaskKey::new(vertex.id.0, subtask), operator, parts);
            }
            if operator.role == PlannedRole::Source {
                restored.splits.insert(operator.uid.clone(), splits);
            }
        }
    }
    Ok(restored)
}

/// Whether `plan` can go on from the manifest, at once or after settling what is in flight; the sources that the manifest
/// knows.
///
/// **Errors**: as [`restore`], but for what is in flight.
pub fn check(manifest: &Manifest, plan: &JobPlan, unclaimed: Unclaimed) -> Result<BTreeSet<OperatorUid>, Vec<Problem>> {
    let states: BTreeMap<&OperatorUid, &OperatorState> =
        manifest.operators.iter().map(|operator| (&operator.uid, operator)).collect();
    let problems = problems(manifest, plan, &states, unclaimed);
    if !problems.is_empty() {
        return Err(problems);
    }
    let operators = plan.vertices.iter().flat_map(|vertex| &vertex.operators);
    let sources = operators.filter(|operator| operator.role == PlannedRole::Source);
    Ok(sources.map(|source| source.uid.clone()).filter(|uid| states.contains_key(uid)).collect())
}

impl Restored {
    fn give(&mut self, task: TaskKey, operator: &PlannedOperator, parts: Vec<SubtaskState>) {
        let operators = &mut self.tasks.entry(task).or_default().operators;
        operators.extend(parts.into_iter().map(|state| OperatorTaskState { uid: operator.uid.clone(), state }));
    }
}

fn problems(
    manifest: &Manifest,
    plan: &JobPlan,
    states: &BTreeMap<&OperatorUid, &OperatorState>,
    unclaimed: Unclaimed,
) -> Vec<Problem> {
    let problem = |operator: &str, field: &str, reason: String| Problem {
        operator: operator.to_owned(),
        field: field.to_owned(),
        reason,
        nearest: None,
    };
    let mut problems = Vec::new();
    let (had, has) = (manifest.key_group_count, plan.options.key_group_count);
    if had != has {
        let reason =
            format!("the checkpoint has {had} key groups, the job {has}: the number is fixed for the life of a job");
        problems.push(problem("", "pipeline.max-parallelism", reason));
    }
    let mut claimed = BTreeSet::new();
    for operator in plan.vertices.iter().flat_map(|vertex| &vertex.operators) {
        let uid = state_uid(operator);
        if let Some(state) = states.get(&uid)
            && state.kind != operator.kind
        {
            let reason = format!("the checkpoint has a '{}' under this uid, the job a '{}'", state.kind, operator.kind);
            problems.push(problem(operator.uid.as_str(), "kind", reason));
        }
        claimed.insert(uid);
    }
    let is_lost = |state: &&OperatorState| !claimed.contains(&state.uid) && !is_local(&state.uid) && has_state(state);
    if unclaimed == Unclaimed::Refused {
        for state in manifest.operators.iter().filter(is_lost) {
            let reason = "the checkpoint has state of this operator and the job has no such uid; \
                          --allowNonRestoredState leaves it out";
            problems.push(problem(state.uid.as_str(), "", reason.to_owned()));
        }
    }
    problems
}

/// Whether the tasks of `plan` can take back what the manifest has in flight, each its own.
pub fn fits(manifest: &Manifest, plan: &JobPlan) -> bool {
    if !manifest.is_unaligned() {
        return true;
    }
    let edges: BTreeSet<String> = plan.edges.iter().map(|edge| plan.edge_name(edge)).collect();
    let mut planned = BTreeMap::new();
    for vertex in &plan.vertices {
        planned.extend(vertex.operators.iter().map(|operator| (state_uid(operator), vertex.parallelism)));
    }
    manifest.operators.iter().all(|operator| match planned.get(&operator.uid) {
        Some(parallelism) => {
            let mut channels = operator.subtasks.iter().flat_map(|subtask| &subtask.channels);
            *parallelism == operator.parallelism && channels.all(|channel| edges.contains(&channel.edge))
        }
        // Left out, or refused for itself; a part before an exchange that is gone had an edge that is gone.
        None => !is_local(&operator.uid),
    })
}

fn has_state(operator: &OperatorState) -> bool {
    operator.subtasks.iter().any(|subtask| {
        let is_empty = subtask.tables.is_empty() && subtask.splits.is_empty() && subtask.sink_states.is_empty();
        !is_empty || !subtask.committables.is_empty()
    })
}

fn least(operator: &OperatorState, of: impl Fn(&SubtaskState) -> EventTime) -> EventTime {
    operator.subtasks.iter().map(of).min().unwrap_or(EventTime::MIN)
}

/// What a subtask with these key groups takes of each old subtask; at least one part, for watermarks and counters.
///
/// `own` is what it was itself, when it goes on exactly as it was.
fn parts(operator: &OperatorState, range: KeyGroupRange, own: Option<&SubtaskState>) -> Vec<SubtaskState> {
    let (watermark_in, watermark_out) = match own {
        Some(own) => (own.watermark_in, own.watermark_out),
        None => (least(operator, |old| old.watermark_in), least(operator, |old| old.watermark_out)),
    };
    let has_ended = operator.subtasks.iter().all(|old| old.has_ended);
    let part = |old: &SubtaskState| SubtaskState {
        has_ended,
        watermark_in,
        watermark_out,
        tables: old.tables.iter().filter_map(|table| cut(table, range)).collect(),
        sink_states: old.sink_states.clone(),
        ..SubtaskState::new(old.subtask_index)
    };
    let mut parts: Vec<SubtaskState> = operator.subtasks.iter().map(part).collect();
    let spare = parts.iter().position(|part| !(part.tables.is_empty() && part.sink_states.is_empty())).unwrap_or(0);
    let mut index = 0;
    parts.retain(|part| {
        index += 1;
        index - 1 == spare || !(part.tables.is_empty() && part.sink_states.is_empty())
    });
    if let (Some(own), Some(first)) = (own, parts.first_mut()) {
        first.channels.clone_from(&own.channels);
    }
    parts
}

fn cut(table: &TableState, range: KeyGroupRange) -> Option<TableState> {
    let is_own = |section: &&weir_checkpoint::SectionRef| match table.scope {
        TableScope::Shared => true,
        TableScope::Keyed => section.intersects(range.start, range.end),
    };
    let sections: Vec<_> = table.sections.iter().filter(is_own).cloned().collect();
    (!sections.is_empty()).then(|| TableState { sections, ..table.clone() })
}

fn source_splits(operator: &OperatorState, is_unaligned: bool) -> SourceSplits {
    let owned = |subtask: &SubtaskState| {
        let owner = subtask.subtask_index;
        subtask.splits.iter().map(move |split| (split.index, owner)).collect::<Vec<_>>()
    };
    let owners = is_unaligned.then(|| operator.subtasks.iter().flat_map(owned).collect());
    let mut all: Vec<SplitState> =
        operator.subtasks.iter().flat_map(|subtask| subtask.splits.iter().cloned()).collect();
    all.sort_by_key(|split| split.index);
    let (finished, open): (Vec<_>, Vec<_>) = all.into_iter().partition(|split| split.is_finished);
    let open = open.into_iter().map(|split| Split {
        index: split.index,
        description: split.description,
        position: split.position,
    });
    SourceSplits { open: open.collect(), finished, owners }
}

fn split_state(split: &Split) -> SplitState {
    SplitState {
        index: split.index,
        description: split.description.clone(),
        position: split.position.clone(),
        is_finished: false,
    }
}

/// The part before the exchange that the plan no longer has: its late and bad records are still to be counted.
fn lost_part<'a>(
    operator: &PlannedOperator,
    plan: &JobPlan,
    states: &BTreeMap<&OperatorUid, &'a OperatorState>,
) -> Option<&'a OperatorState> {
    let mut planned = plan.vertices.iter().flat_map(|vertex| &vertex.operators);
    let has_both = planned.any(|other| other.uid == operator.uid && other.phase == Phase::Local);
    if has_both { None } else { states.get(&local_uid(&operator.uid)).copied() }
}

fn counters(operator: &OperatorState, lost: Option<&OperatorState>) -> BTreeMap<String, u64> {
    let mut sums: BTreeMap<String, u64> = BTreeMap::new();
    let mut add = |name: &String, count: u64| {
        let sum = sums.entry(name.clone()).or_default();
        *sum = sum.saturating_add(count);
    };
    let all = |operator: &OperatorState| -> Vec<(String, u64)> {
        operator.subtasks.iter().flat_map(|subtask| subtask.counters.clone()).collect()
    };
    all(operator).iter().for_each(|(name, count)| add(name, *count));
    let is_kept = |name: &str| name.starts_with("late") || name.starts_with("bad");
    let lost = lost.map(all).unwrap_or_default();
    lost.iter().filter(|(name, _)| is_kept(name)).for_each(|(name, count)| add(name, *count));
    sums
}

#[cfg(test)]
mod tests;
