//! From a plan and free slots to a placement. Pure and deterministic.
//!
//! Slots are shared: slot i of a job holds subtask i of every vertex. Slots are taken one by one from the worker that
//! has most left (ties: the smaller id), which spreads a job evenly and fills unequal workers evenly.
//! **Source**: as Flink's default slot sharing group with `cluster.evenly-spread-out-slots`.

use std::collections::BTreeMap;

use weir_core::WorkerId;
use weir_graph::JobPlan;

use crate::job::state::TaskKey;

/// Chooses a worker for each of `needed` slots; `None` when there are not enough.
pub fn choose_slots(needed: u32, free: &BTreeMap<WorkerId, u32>) -> Option<Vec<WorkerId>> {
    let available: u64 = free.values().map(|slots| u64::from(*slots)).sum();
    if available < u64::from(needed) {
        return None;
    }
    let mut left = free.clone();
    let mut chosen = Vec::with_capacity(needed as usize);
    for _ in 0..needed {
        let (worker, slots) = left.iter_mut().rev().max_by_key(|(_, slots)| **slots)?;
        *slots -= 1;
        chosen.push(worker.clone());
    }
    Some(chosen)
}

/// Every task of the plan.
pub fn tasks(plan: &JobPlan) -> impl Iterator<Item = TaskKey> + '_ {
    plan.vertices.iter().flat_map(|vertex| (0..vertex.parallelism).map(|index| TaskKey::new(vertex.id.0, index)))
}

/// Places every task: subtask i of every vertex goes to slot i. `slots` has at least [`JobPlan::slots_needed`] entries.
/// A slot on the worker that had the same subtask before is given to it again: its state may still lie there.
pub fn place(plan: &JobPlan, slots: &[WorkerId], before: &BTreeMap<TaskKey, WorkerId>) -> BTreeMap<TaskKey, WorkerId> {
    let home: BTreeMap<usize, &WorkerId> = before.iter().map(|(task, worker)| (task.subtask.index(), worker)).collect();
    let mut left: Vec<&WorkerId> = slots.iter().collect();
    let mut given: Vec<Option<&WorkerId>> = vec![None; slots.len()];
    for (subtask, slot) in given.iter_mut().enumerate() {
        let Some(worker) = home.get(&subtask) else { continue };
        if let Some(at) = left.iter().position(|free| free == worker) {
            *slot = Some(left.remove(at));
        }
    }
    let mut left = left.into_iter();
    given.iter_mut().filter(|slot| slot.is_none()).for_each(|slot| *slot = left.next());
    tasks(plan).filter_map(|task| Some((task, (*given.get(task.subtask.index())?)?.clone()))).collect()
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;
    use weir_core::VertexId;
    use weir_graph::{JobOptions, Vertex};

    use super::*;

    fn plan(parallelisms: &[u32]) -> JobPlan {
        let vertex = |(id, parallelism): (usize, &u32)| Vertex {
            id: VertexId(id as u32),
            name: id.to_string(),
            parallelism: *parallelism,
            operators: Vec::new(),
        };
        JobPlan {
            name: "job".to_owned(),
            options: JobOptions::read(&BTreeMap::new(), &mut Vec::new()),
            vertices: parallelisms.iter().enumerate().map(vertex).collect(),
            edges: Vec::new(),
        }
    }

    fn free(slots: &[u32]) -> BTreeMap<WorkerId, u32> {
        slots.iter().enumerate().map(|(index, slots)| (WorkerId(format!("w{index}")), *slots)).collect()
    }

    #[test]
    fn slots_are_spread_over_equal_workers() {
        let chosen = choose_slots(4, &free(&[2, 2, 2])).expect("six slots");
        assert_eq!(chosen, ["w0".into(), "w1".into(), "w2".into(), "w0".into()]);
    }

    #[test]
    fn too_few_slots_are_no_placement() {
        assert_eq!(choose_slots(3, &free(&[1, 1])), None);
    }

    proptest! {
        #[test]
        fn each_task_is_placed_once_and_no_slot_is_over_used(
            parallelisms in prop::collection::vec(1..8u32, 1..5),
            slots in prop::collection::vec(0..6u32, 0..5),
            homes in prop::collection::vec(0..5usize, 0..8),
        ) {
            let plan = plan(&parallelisms);
            let needed = plan.slots_needed();
            let free = free(&slots);
            let Some(chosen) = choose_slots(needed, &free) else {
                prop_assert!(slots.iter().sum::<u32>() < needed);
                return Ok(());
            };
            prop_assert_eq!(chosen.len(), needed as usize);
            for (worker, slots) in &free {
                prop_assert!(chosen.iter().filter(|chosen| *chosen == worker).count() <= *slots as usize);
            }
            let before: BTreeMap<TaskKey, WorkerId> = homes
                .iter()
                .enumerate()
                .map(|(subtask, home)| (TaskKey::new(0, subtask as u32), WorkerId(format!("w{home}"))))
                .collect();
            let placement = place(&plan, &chosen, &before);
            for worker in free.keys() {
                let given = chosen.iter().filter(|chosen| *chosen == worker).count();
                let at_home = |subtask: &usize| before.get(&TaskKey::new(0, *subtask as u32)) == Some(worker);
                let lived = (0..needed as usize).filter(at_home).count();
                let widest = parallelisms.iter().position(|parallelism| *parallelism == needed).expect("one is") as u32;
                let live = |subtask: &usize| placement.get(&TaskKey::new(widest, *subtask as u32)) == Some(worker);
                let came_home = (0..needed as usize).filter(|subtask| at_home(subtask) && live(subtask)).count();
                prop_assert_eq!(came_home, lived.min(given), "as many as there is room for");
            }
            prop_assert_eq!(placement.len(), parallelisms.iter().sum::<u32>() as usize);
            prop_assert_eq!(tasks(&plan).collect::<BTreeSet<_>>(), placement.keys().copied().collect::<BTreeSet<_>>());
            for (vertex, parallelism) in parallelisms.iter().enumerate() {
                for (worker, slots) in &free {
                    let here = (0..*parallelism)
                        .filter(|subtask| placement.get(&TaskKey::new(vertex as u32, *subtask)) == Some(worker));
                    prop_assert!(here.count() <= *slots as usize, "one slot holds one subtask of each vertex");
                }
            }
        }

        #[test]
        fn spread_is_even(needed in 0..30u32, workers in 1..6usize) {
            let chosen = choose_slots(needed, &free(&vec![30; workers])).expect("enough slots");
            let counts: Vec<usize> = (0..workers)
                .map(|index| chosen.iter().filter(|worker| worker.0 == format!("w{index}")).count())
                .collect();
            let (least, most) = (counts.iter().min().expect("a worker"), counts.iter().max().expect("a worker"));
            prop_assert!(most - least <= 1);
        }
    }
}
