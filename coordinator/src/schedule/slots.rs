//! Who holds which slots, and which jobs wait for some. Pure.
//!
//! Jobs are served in the order of their requests, with one exception: a job that needs more slots than the whole
//! cluster has holds nobody up, since it could wait for ever; it is served when enough workers have come.

use std::collections::BTreeMap;

use weir_core::{JobId, WorkerId};

use super::assign::choose_slots;

/// Slots given to a job: the worker of each.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Grant {
    /// The job.
    pub job: JobId,
    /// Worker of slot 0, 1, ...
    pub slots: Vec<WorkerId>,
}

#[derive(Debug)]
struct WorkerSlots {
    total: u32,
    held: BTreeMap<JobId, u32>,
}

impl WorkerSlots {
    fn free(&self) -> u32 {
        self.total - self.held.values().sum::<u32>()
    }
}

/// The slots of a cluster.
#[derive(Debug, Default)]
pub struct SlotLedger {
    workers: BTreeMap<WorkerId, WorkerSlots>,
    waiting: Vec<(JobId, u32)>,
}

impl SlotLedger {
    /// A worker came with `total` slots, all free.
    pub fn add_worker(&mut self, worker: WorkerId, total: u32) -> Vec<Grant> {
        self.workers.insert(worker, WorkerSlots { total, held: BTreeMap::new() });
        self.serve()
    }

    /// A worker went, its slots with it. A job that has become too large for the cluster now lets others pass.
    pub fn remove_worker(&mut self, worker: &WorkerId) -> Vec<Grant> {
        self.workers.remove(worker);
        self.serve()
    }

    /// A job wants `needed` slots, all together.
    pub fn request(&mut self, job: JobId, needed: u32) -> Vec<Grant> {
        self.waiting.push((job, needed));
        self.serve()
    }

    /// A job gives back what it holds and asks for no more.
    pub fn release(&mut self, job: JobId) -> Vec<Grant> {
        self.waiting.retain(|(waiting, _)| *waiting != job);
        for worker in self.workers.values_mut() {
            worker.held.remove(&job);
        }
        self.serve()
    }

    /// Slots of all workers.
    pub fn total(&self) -> u32 {
        self.workers.values().map(|worker| worker.total).sum()
    }

    /// Slots that no job holds.
    pub fn free(&self) -> u32 {
        self.workers.values().map(WorkerSlots::free).sum()
    }

    /// Slots of one worker that no job holds.
    pub fn free_of(&self, worker: &WorkerId) -> u32 {
        self.workers.get(worker).map_or(0, WorkerSlots::free)
    }

    fn serve(&mut self) -> Vec<Grant> {
        let total = self.total();
        let mut grants = Vec::new();
        let mut index = 0;
        while let Some((job, needed)) = self.waiting.get(index).copied() {
            let free = self.workers.iter().map(|(worker, slots)| (worker.clone(), slots.free())).collect();
            match choose_slots(needed, &free) {
                Some(slots) => {
                    self.waiting.remove(index);
                    self.hold(job, &slots);
                    grants.push(Grant { job, slots });
                }
                None if needed > total => index += 1,
                None => break,
            }
        }
        grants
    }

    fn hold(&mut self, job: JobId, slots: &[WorkerId]) {
        for worker in slots {
            if let Some(worker) = self.workers.get_mut(worker) {
                *worker.held.entry(job).or_default() += 1;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn jobs(grants: &[Grant]) -> Vec<u128> {
        grants.iter().map(|grant| grant.job.0).collect()
    }

    #[test]
    fn jobs_are_served_in_order() {
        let mut ledger = SlotLedger::default();
        ledger.add_worker("w".into(), 4);
        assert_eq!(jobs(&ledger.request(JobId(1), 3)), [1]);
        assert!(ledger.request(JobId(2), 2).is_empty());
        assert!(ledger.request(JobId(3), 1).is_empty(), "a later job does not overtake");
        assert_eq!(jobs(&ledger.release(JobId(1))), [2, 3]);
        assert_eq!((ledger.free(), ledger.total()), (1, 4));
    }

    #[test]
    fn job_larger_than_the_cluster_holds_nobody_up() {
        let mut ledger = SlotLedger::default();
        ledger.add_worker("a".into(), 2);
        assert!(ledger.request(JobId(1), 3).is_empty());
        assert_eq!(jobs(&ledger.request(JobId(2), 1)), [2]);
        assert_eq!(jobs(&ledger.add_worker("b".into(), 2)), [1]);
    }

    #[test]
    fn lost_worker_takes_its_slots_along() {
        let mut ledger = SlotLedger::default();
        ledger.add_worker("a".into(), 1);
        ledger.add_worker("b".into(), 1);
        ledger.request(JobId(1), 2);
        ledger.remove_worker(&"a".into());
        assert_eq!((ledger.free(), ledger.total()), (0, 1));
        ledger.release(JobId(1));
        assert_eq!(ledger.free(), 1);
    }

    #[derive(Clone, Debug)]
    enum Step {
        Add(u8, u32),
        Remove(u8),
        Request(u32),
        Release(u8),
    }

    fn any_step() -> impl Strategy<Value = Step> {
        prop_oneof![
            (0..4u8, 1..4u32).prop_map(|(worker, slots)| Step::Add(worker, slots)),
            (0..4u8).prop_map(Step::Remove),
            (0..6u32).prop_map(Step::Request),
            any::<u8>().prop_map(Step::Release),
        ]
    }

    proptest! {
        #[test]
        fn no_slot_is_given_twice(steps in prop::collection::vec(any_step(), 0..60)) {
            let mut ledger = SlotLedger::default();
            let mut next_job = 0u128;
            let mut granted: Vec<u128> = Vec::new();
            for step in steps {
                let grants = match step {
                    Step::Add(worker, slots) => {
                        let worker = WorkerId(worker.to_string());
                        let mut grants = ledger.remove_worker(&worker);
                        grants.extend(ledger.add_worker(worker, slots));
                        grants
                    }
                    Step::Remove(worker) => ledger.remove_worker(&WorkerId(worker.to_string())),
                    Step::Request(needed) => {
                        next_job += 1;
                        ledger.request(JobId(next_job), needed)
                    }
                    Step::Release(job) => ledger.release(JobId(u128::from(job) % (next_job + 1))),
                };
                for grant in grants {
                    prop_assert!(!granted.contains(&grant.job.0), "granted once");
                    granted.push(grant.job.0);
                }
                for worker in ledger.workers.values() {
                    prop_assert!(worker.held.values().sum::<u32>() <= worker.total);
                }
                let total = ledger.total();
                let first_fitting = ledger.waiting.iter().find(|(_, needed)| *needed <= total);
                prop_assert!(first_fitting.is_none_or(|(_, needed)| *needed > ledger.free()) , "nobody waits in vain");
            }
        }
    }
}
