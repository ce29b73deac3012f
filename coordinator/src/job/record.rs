//! What is known of one job, for those who look: its master writes, services read. Pure data.

use std::collections::BTreeMap;

use weir_core::{JobId, WorkerId};
use weir_graph::JobPlan;
use weir_graph::plan::PlannedRole;
use weir_proto::v1::{
    Failure, JobDetails, JobSummary, SinkReport, SinkTotals, SubtaskDetails, TaskMetrics, VertexDetails,
};

use super::counters;
use super::state::{JobState, TaskKey, TaskState};
use crate::checkpoint::history::History;
use crate::meta::JobMeta;

#[derive(Debug)]
struct TaskRecord {
    state: TaskState,
    worker: Option<WorkerId>,
    metrics: TaskMetrics,
}

#[derive(Debug)]
struct VertexRecord {
    name: String,
    tasks: Vec<TaskRecord>,
    /// For each operator, whether it is a source.
    is_source: Vec<bool>,
}

/// What is known of one job.
#[derive(Debug)]
pub(crate) struct JobRecord {
    id: JobId,
    name: String,
    config: BTreeMap<String, String>,
    submitted_at_unix_ms: i64,
    ended_at_unix_ms: i64,
    state: JobState,
    slots_awaited: Option<u32>,
    failure: Option<Failure>,
    vertices: Vec<VertexRecord>,
    reports: BTreeMap<String, SinkReport>,
    /// Its checkpoints.
    pub(crate) history: History,
    restart_count: u32,
    last_restart_cause: Option<Failure>,
    restored_checkpoint_id: u64,
}

impl JobRecord {
    /// A job that was just accepted.
    pub(crate) fn new(id: JobId, plan: &JobPlan, config: BTreeMap<String, String>, now_unix_us: i64) -> Self {
        JobRecord {
            id,
            name: plan.name.clone(),
            config,
            submitted_at_unix_ms: now_unix_us / 1000,
            ended_at_unix_ms: 0,
            state: JobState::Initializing,
            slots_awaited: None,
            failure: None,
            vertices: plan.vertices.iter().map(VertexRecord::new).collect(),
            reports: empty_reports(plan),
            history: History::default(),
            restart_count: 0,
            last_restart_cause: None,
            restored_checkpoint_id: 0,
        }
    }

    /// A job that an earlier coordinator ran: what it counted goes on.
    pub(crate) fn resume(mut self, meta: &JobMeta) -> Self {
        self.history = History::of_counts(meta.completed_count, meta.failed_count);
        self.restart_count = meta.restart_count;
        self.last_restart_cause = meta.last_restart_cause.clone();
        self
    }

    /// Another attempt begins: nothing its tasks counted counts any more; what is to go on comes with their state.
    pub(crate) fn begin_attempt(&mut self, plan: &JobPlan, config: BTreeMap<String, String>) {
        self.config = config;
        self.vertices = plan.vertices.iter().map(VertexRecord::new).collect();
        self.reports = empty_reports(plan);
    }

    /// The attempt goes on from this checkpoint; 0 when it starts afresh.
    pub(crate) fn set_restored(&mut self, checkpoint_id: u64) {
        self.restored_checkpoint_id = checkpoint_id;
    }

    /// The job has restarted so often, for this reason the last time.
    pub(crate) fn set_restarts(&mut self, count: u32, cause: Option<Failure>) {
        self.restart_count = count;
        self.last_restart_cause = cause;
    }

    /// How often the job has restarted.
    pub(crate) fn restart_count(&self) -> u32 {
        self.restart_count
    }

    /// Where the job stands.
    pub(crate) fn state(&self) -> JobState {
        self.state
    }

    /// Name shown to people.
    pub(crate) fn name(&self) -> &str {
        &self.name
    }

    /// The job reached a state. The first failure stays.
    pub(crate) fn set_state(&mut self, state: JobState, failure: Option<&Failure>, now_unix_us: i64) {
        self.state = state;
        if self.failure.is_none() {
            self.failure = failure.cloned();
        }
        if state.is_final() && self.ended_at_unix_ms == 0 {
            self.ended_at_unix_ms = now_unix_us / 1000;
        }
    }

    /// The job waits for this many slots, or no longer does.
    pub(crate) fn set_slots_awaited(&mut self, slots: Option<u32>) {
        self.slots_awaited = slots;
    }

    /// How many slots the job waits for.
    pub(crate) fn slots_awaited(&self) -> Option<u32> {
        self.slots_awaited
    }

    /// A task reached a state.
    pub(crate) fn set_task(&mut self, task: TaskKey, state: TaskState) {
        if let Some(record) = self.task(task) {
            record.state = state;
        }
    }

    /// A task was placed.
    pub(crate) fn place(&mut self, task: TaskKey, worker: WorkerId) {
        if let Some(record) = self.task(task) {
            record.worker = Some(worker);
        }
    }

    /// New counters of a task; they replace the old, unless they are of other operators than planned or of none. What
    /// a task counted last stays when it has ended.
    pub(crate) fn set_metrics(&mut self, task: TaskKey, metrics: TaskMetrics) {
        let Some(record) = self.task(task) else { return };
        let known = record.metrics.operators.iter().map(|operator| &operator.operator);
        if known.eq(metrics.operators.iter().map(|operator| &operator.operator)) {
            record.metrics = metrics;
        } else if !metrics.operators.is_empty() {
            tracing::warn!(?task, "worker counts other operators than planned");
        }
    }

    /// Totals of a sink's subtask that finished; added modulo 2^64.
    pub(crate) fn add_totals(&mut self, totals: Vec<SinkTotals>) {
        for sink in totals {
            let report = self.reports.entry(sink.operator.clone()).or_insert_with(|| empty_report(&sink.operator, ""));
            for (name, value) in sink.totals {
                let total = report.totals.entry(name).or_default();
                *total = total.wrapping_add(value);
            }
        }
    }

    /// The job in a line.
    pub(crate) fn summary(&self) -> JobSummary {
        let tasks = || self.vertices.iter().flat_map(|vertex| &vertex.tasks);
        JobSummary {
            job_id: self.id.to_string(),
            name: self.name.clone(),
            state: weir_proto::v1::JobState::from(self.state).into(),
            submitted_at_unix_ms: self.submitted_at_unix_ms,
            ended_at_unix_ms: self.ended_at_unix_ms,
            running_task_count: tasks().filter(|task| task.state == TaskState::Running).count() as u32,
            task_count: tasks().count() as u32,
        }
    }

    /// The job in full, but for why it waits.
    pub(crate) fn details(&self) -> JobDetails {
        let vertices: Vec<VertexDetails> = (0..).zip(&self.vertices).map(|(id, vertex)| vertex.details(id)).collect();
        let sum_of = |count: fn(&weir_proto::v1::OperatorMetrics) -> u64| {
            let metrics = vertices.iter().flat_map(|vertex| &vertex.metrics);
            counters::total(metrics.flat_map(|metrics| &metrics.operators).map(count))
        };
        let sources = self.vertices.iter().zip(&vertices).flat_map(|(record, vertex)| {
            let operators = vertex.metrics.iter().flat_map(|metrics| &metrics.operators);
            operators.zip(&record.is_source).filter(|(_, is_source)| **is_source).map(|(operator, _)| operator)
        });
        JobDetails {
            summary: Some(self.summary()),
            failure: self.failure.clone(),
            waiting_for: String::new(),
            reports: self.reports.values().filter(|report| !report.totals.is_empty()).cloned().collect(),
            late_records: sum_of(|operator| operator.late_records),
            bad_records: sum_of(|operator| operator.bad_records),
            source_records: counters::total(sources.map(|operator| operator.records_out)),
            config: self.config.clone().into_iter().collect(),
            vertices,
            checkpoints: Some(self.history.overview()),
            restart_count: self.restart_count,
            restored_checkpoint_id: self.restored_checkpoint_id,
            last_restart_cause: self.last_restart_cause.clone(),
        }
    }

    fn task(&mut self, task: TaskKey) -> Option<&mut TaskRecord> {
        self.vertices.get_mut(task.vertex.index())?.tasks.get_mut(task.subtask.index())
    }
}

impl VertexRecord {
    fn new(vertex: &weir_graph::Vertex) -> Self {
        let operators = || vertex.operators.iter().map(|operator| (operator.uid.as_str(), operator.kind.as_str()));
        let task = |_| TaskRecord { state: TaskState::Created, worker: None, metrics: counters::none_yet(operators()) };
        VertexRecord {
            name: vertex.name.clone(),
            tasks: (0..vertex.parallelism).map(task).collect(),
            is_source: vertex.operators.iter().map(|operator| operator.role == PlannedRole::Source).collect(),
        }
    }

    fn details(&self, vertex_id: u32) -> VertexDetails {
        let subtask = |(subtask_index, task): (u32, &TaskRecord)| SubtaskDetails {
            subtask_index,
            state: weir_proto::v1::TaskState::from(task.state).into(),
            worker: task.worker.as_ref().map(|worker| worker.0.clone()).unwrap_or_default(),
            metrics: Some(task.metrics.clone()),
        };
        VertexDetails {
            vertex_id,
            name: self.name.clone(),
            parallelism: self.tasks.len() as u32,
            metrics: Some(counters::sum(self.tasks.iter().map(|task| &task.metrics))),
            subtasks: (0..).zip(&self.tasks).map(subtask).collect(),
        }
    }
}

fn empty_reports(plan: &JobPlan) -> BTreeMap<String, SinkReport> {
    let operators = plan.vertices.iter().flat_map(|vertex| &vertex.operators);
    let sinks = operators.filter(|operator| operator.role == PlannedRole::Sink);
    sinks.map(|sink| (sink.uid.0.clone(), empty_report(&sink.uid.0, &sink.kind))).collect()
}

fn empty_report(operator: &str, kind: &str) -> SinkReport {
    SinkReport { operator: operator.to_owned(), kind: kind.to_owned(), ..SinkReport::default() }
}
