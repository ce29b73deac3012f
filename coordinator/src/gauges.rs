//! What `/metrics` shows of the coordinator and its jobs, under Flink's names behind the scope.
//! Counters of operators are the workers' business.

use std::collections::BTreeMap;

use metrics::gauge;
use weir_core::JobId;

use crate::cluster::Cluster;
use crate::job::state::JobState;
use crate::job::table::JobTable;

/// Brings the gauges up to date; remembers which jobs it has shown, so that the last state of each is shown too.
#[derive(Debug, Default)]
pub(crate) struct Gauges {
    shown: BTreeMap<JobId, Shown>,
}

#[derive(Debug)]
struct Shown {
    name: String,
    state: JobState,
}

impl Gauges {
    /// Looks at cluster and jobs.
    pub(crate) fn update(&mut self, cluster: &Cluster, table: &JobTable) {
        let details = cluster.details();
        gauge!("weir_coordinator_numRegisteredTaskManagers").set(details.workers.len() as f64);
        gauge!("weir_coordinator_taskSlotsTotal").set(f64::from(details.slots_total));
        gauge!("weir_coordinator_taskSlotsAvailable").set(f64::from(details.slots_available));
        gauge!("weir_coordinator_numRunningJobs").set(table.running_count() as f64);
        let mut live = BTreeMap::new();
        for (id, handle) in table.all_live() {
            let record = handle.record.lock();
            let (name, state) = (record.name().to_owned(), record.state());
            drop(record);
            self.show(id, &name, state);
            live.insert(id, Shown { name, state });
        }
        let gone = self.shown.iter().filter(|(id, _)| !live.contains_key(*id));
        let gone: Vec<(JobId, String)> = gone.map(|(id, shown)| (*id, shown.name.clone())).collect();
        for (id, name) in gone {
            let ended = table.details(id).and_then(|details| details.summary);
            let state = ended.map(|summary| summary.state());
            let state = JobState::ALL.into_iter().find(|known| Some((*known).into()) == state);
            self.show(id, &name, state.unwrap_or(JobState::Finished));
        }
        self.shown = live;
    }

    fn show(&self, id: JobId, name: &str, state: JobState) {
        let labels = |state: JobState| {
            [("job_id", id.to_string()), ("job_name", name.to_owned()), ("state", state.name().to_owned())]
        };
        let before = self.shown.get(&id).map(|shown| shown.state);
        if before == Some(state) {
            return;
        }
        if let Some(before) = before {
            gauge!("weir_job_state", &labels(before)).set(0.0);
        }
        gauge!("weir_job_state", &labels(state)).set(1.0);
        let [id, name, _] = labels(state);
        // No job restarts before there are checkpoints to restart from.
        gauge!("weir_job_numRestarts", &[id, name]).set(0.0);
    }
}
