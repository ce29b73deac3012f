//! From a placement to the deployment order of each worker. Pure.

use std::collections::BTreeMap;

use weir_core::{OperatorUid, WorkerId};
use weir_graph::JobPlan;
use weir_graph::plan::PlannedRole;
use weir_proto::v1;

use crate::checkpoint::complete::SourceSplits;
use crate::job::state::TaskKey;
use crate::recovery::poison::Careful;
use crate::wire;

/// What is deployed, whatever the placement.
pub(crate) struct Deployable<'a> {
    /// The plan.
    pub(crate) plan: &'a JobPlan,
    /// The same as it travels.
    pub(crate) wire_plan: &'a v1::JobPlan,
    /// Splits of every source, each where the attempt begins.
    pub(crate) splits: &'a BTreeMap<OperatorUid, SourceSplits>,
    /// Whose.
    pub(crate) token: &'a v1::FencingToken,
    /// Where state is kept.
    pub(crate) setup: &'a v1::CheckpointSetup,
    /// State of the tasks that take some back.
    pub(crate) restores: &'a BTreeMap<TaskKey, v1::TaskRestore>,
    /// Operators with rows under suspicion.
    pub(crate) careful: &'a [Careful],
}

/// The order for each worker that has a task.
pub(crate) fn orders(
    deployable: &Deployable<'_>,
    placement: &BTreeMap<TaskKey, WorkerId>,
    data_addresses: &BTreeMap<WorkerId, String>,
) -> BTreeMap<WorkerId, v1::Deploy> {
    let location = |(task, worker): (&TaskKey, &WorkerId)| v1::TaskLocation {
        task: Some((*task).into()),
        worker: worker.0.clone(),
        data_address: data_addresses.get(worker).cloned().unwrap_or_default(),
    };
    let locations: Vec<v1::TaskLocation> = placement.iter().map(location).collect();
    let mut orders = BTreeMap::new();
    for (task, worker) in placement {
        let order = orders.entry(worker.clone()).or_insert_with(|| v1::Deploy {
            token: Some(deployable.token.clone()),
            plan: Some(deployable.wire_plan.clone()),
            locations: locations.clone(),
            tasks: Vec::new(),
            splits: Vec::new(),
            checkpoints: Some(deployable.setup.clone()),
            restores: Vec::new(),
            careful: deployable.careful.iter().map(careful).collect(),
        });
        order.tasks.push((*task).into());
        order.restores.extend(deployable.restores.get(task).cloned());
    }
    for (task, assignment) in assignments(deployable) {
        if let Some(order) = placement.get(&task).and_then(|worker| orders.get_mut(worker)) {
            order.splits.push(assignment);
        }
    }
    orders
}

fn careful(careful: &Careful) -> v1::CarefulOperator {
    let row = |(row, set_aside): &(u64, u32)| v1::SuspectRow { row: *row, set_aside: *set_aside };
    v1::CarefulOperator {
        vertex_id: careful.place.0,
        operator_index: careful.place.1,
        rows: careful.rows.iter().map(row).collect(),
        cause: careful.cause.clone(),
    }
}

fn assignments(deployable: &Deployable<'_>) -> Vec<(TaskKey, v1::SplitAssignment)> {
    let mut assignments = Vec::new();
    for vertex in &deployable.plan.vertices {
        for source in vertex.operators.iter().filter(|operator| operator.role == PlannedRole::Source) {
            let splits = deployable.splits.get(&source.uid).cloned().unwrap_or_default();
            for (subtask, share) in (0..).zip(splits.shares(vertex.parallelism)) {
                let task = TaskKey::new(vertex.id.0, subtask);
                let assignment = v1::SplitAssignment {
                    task: Some(task.into()),
                    operator: source.uid.0.clone(),
                    split_count: (splits.open.len() + splits.finished.len()) as u32,
                    splits: share.iter().map(wire::split).collect(),
                };
                assignments.push((task, assignment));
            }
        }
    }
    assignments
}
