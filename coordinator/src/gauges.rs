//! What `/metrics` shows of the coordinator and its jobs, under Flink's names behind the scope.
//! Counters of operators are the workers' business.

use std::collections::BTreeMap;

use metrics::gauge;
use weir_core::JobId;

use crate::checkpoint::history::History;
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
            let labels = [("job_id", id.to_string()), ("job_name", name.clone())];
            gauge!("weir_job_numRestarts", &labels).set(f64::from(record.restart_count()));
            show_checkpoints(&record.history, &labels);
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
    }
}

/// Duration in milliseconds and size in bytes, as Flink has them.
fn show_checkpoints(history: &History, labels: &[(&'static str, String); 2]) {
    let overview = history.overview();
    gauge!("weir_job_numberOfCompletedCheckpoints", labels).set(overview.completed_count as f64);
    gauge!("weir_job_numberOfFailedCheckpoints", labels).set(overview.failed_count as f64);
    if let Some(last) = history.last_completed() {
        gauge!("weir_job_lastCompletedCheckpointId", labels).set(last.checkpoint_id as f64);
        gauge!("weir_job_lastCheckpointDuration", labels).set(last.duration_us as f64 / 1000.0);
        gauge!("weir_job_lastCheckpointSize", labels).set(last.bytes as f64);
    }
}
