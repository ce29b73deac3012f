//! What a coordinator does with checkpoints, as plainly as it can be written: gathers answers, keeps the last complete
//! checkpoint, cuts it up for another attempt at any parallelism, and makes committed output visible.

use std::collections::{BTreeMap, BTreeSet};

use weir_checkpoint::{OperatorTaskState, SplitState, SubtaskState, TaskState};
use weir_core::{EventTime, Value};
use weir_graph::JobPlan;
use weir_proto::convert;
use weir_proto::v1::coordinator_message::Message as Order;
use weir_proto::v1::worker_message::Message;
use weir_proto::v1::{self, AfterBarrier};

use super::cluster::{Cluster, patiently, token};

/// A task by vertex and subtask.
pub type Task = (u32, u32);

/// How a checkpoint ended.
#[derive(Debug)]
pub enum Taken {
    Complete(BTreeMap<Task, v1::CheckpointStats>),
    Declined(Task, v1::Failure),
}

/// One job over all its attempts.
#[derive(Default)]
pub struct Job {
    pub attempt: u32,
    pub next_checkpoint: u64,
    /// The last complete checkpoint: the state of each task, and its id.
    pub last: Option<(u64, BTreeMap<Task, TaskState>)>,
    /// Final states of this attempt.
    pub finals: BTreeMap<Task, TaskState>,
    /// Last reports of finished tasks of this attempt.
    pub ends: BTreeMap<Task, v1::TaskStateChanged>,
    /// Committed output by its name.
    pub visible: BTreeMap<String, Vec<i64>>,
    pub split_count: u32,
    /// The store that the last checkpoint lies in, when it is not that of the job.
    pub restore_store: String,
    /// The job's store.
    pub store: Option<tempfile::TempDir>,
    /// How long a barrier may wait; 0 for ever.
    pub aligned_timeout_ms: u32,
    /// Whether barriers may overtake.
    pub is_aligned: bool,
}

fn tasks_of(plan: &JobPlan) -> Vec<Task> {
    let tasks = plan.vertices.iter().map(|vertex| (0..vertex.parallelism).map(move |subtask| (vertex.id.0, subtask)));
    tasks.flatten().collect()
}

impl Job {
    pub fn new(split_count: u32) -> Self {
        let store = Some(tempfile::tempdir().expect("a directory"));
        Job { split_count, next_checkpoint: 1, store, ..Job::default() }
    }

    fn setup(&self) -> v1::CheckpointSetup {
        let directory = self.store.as_ref().expect("a directory").path();
        v1::CheckpointSetup {
            store: format!("file://{}", directory.display()),
            incarnation: "0".repeat(31) + "1",
            aligned_timeout_ms: self.aligned_timeout_ms,
            ..Default::default()
        }
    }

    /// Whether a barrier of the last checkpoint overtook: each task goes on as it was.
    pub fn is_unaligned(&self) -> bool {
        let states = self.last.iter().flat_map(|(_, states)| states.values()).flat_map(|state| &state.operators);
        states.into_iter().any(|operator| !operator.state.channels.is_empty())
    }

    /// Deploys and starts the next attempt, from the last complete checkpoint.
    pub async fn run(&mut self, cluster: &mut Cluster, plan: &JobPlan) {
        self.deploy(cluster, plan).await;
        self.start(cluster, plan).await;
    }

    /// Starts the tasks that are deployed; all run when it returns.
    pub async fn start(&mut self, cluster: &mut Cluster, plan: &JobPlan) {
        cluster.start_tasks(plan, self.attempt).await;
        self.until_running(cluster, plan).await;
    }

    pub async fn until_running(&mut self, cluster: &mut Cluster, plan: &JobPlan) {
        let mut left = tasks_of(plan).len();
        while left > 0 {
            let (_, message) = patiently("running tasks", cluster.messages.recv()).await.expect("workers live");
            let Message::TaskStateChanged(changed) = message else { continue };
            if changed.state() == v1::TaskState::Running && changed.token == Some(token(self.attempt)) {
                left -= 1;
            } else {
                self.state_changed(changed);
            }
        }
    }

    pub async fn deploy(&mut self, cluster: &mut Cluster, plan: &JobPlan) {
        self.attempt += 1;
        self.finals.clear();
        self.ends.clear();
        let open = self.open_splits();
        let parallelism = plan.vertices[0].parallelism;
        cluster
            .deploy_with(plan, self.attempt, |deploy| {
                deploy.checkpoints = Some(self.setup());
                for assignment in &mut deploy.splits {
                    let subtask = assignment.task.as_ref().expect("names its task").subtask_index;
                    let own = open.iter().filter(|(owner, split)| match owner {
                        Some(owner) => *owner == subtask,
                        None => split.index % parallelism == subtask,
                    });
                    assignment.splits = own.map(|(_, split)| split.clone()).collect();
                    assignment.split_count = self.split_count;
                }
                deploy.restores = self.restores(plan, &deploy.tasks);
            })
            .await;
    }

    fn states_of(&self, uid: &str) -> Vec<SubtaskState> {
        let Some((_, states)) = &self.last else { return Vec::new() };
        let operators = states.values().flat_map(|state| &state.operators);
        operators.filter(|operator| operator.uid.as_str() == uid).map(|operator| operator.state.clone()).collect()
    }

    /// The splits that are not read to their ends, each with its owner when that is fixed.
    fn open_splits(&self) -> Vec<(Option<u32>, v1::Split)> {
        let fresh =
            |index| v1::Split { index, description: Some(convert::value_to_proto(&Value::Null)), position: None };
        let states = self.states_of("numbers");
        if states.is_empty() {
            return (0..self.split_count).map(|index| (None, fresh(index))).collect();
        }
        let owned = |state: SubtaskState| {
            let owner = self.is_unaligned().then_some(state.subtask_index.0);
            state.splits.into_iter().map(move |split| (owner, split))
        };
        let splits: Vec<(Option<u32>, SplitState)> = states.into_iter().flat_map(owned).collect();
        let indexes: BTreeSet<u32> = splits.iter().map(|(_, split)| split.index.0).collect();
        assert_eq!(indexes.len(), splits.len(), "a split came twice: {splits:?}");
        let open = splits.into_iter().filter(|(_, split)| !split.is_finished).map(|(owner, split)| {
            let position = split.position.as_ref().map(convert::value_to_proto);
            (owner, v1::Split { position, ..fresh(split.index.0) })
        });
        open.collect()
    }

    fn restores(&self, plan: &JobPlan, tasks: &[v1::TaskId]) -> Vec<v1::TaskRestore> {
        let Some((checkpoint_id, _)) = &self.last else { return Vec::new() };
        let restore = |task: &v1::TaskId| {
            let mut state = TaskState::default();
            for operator in &plan.vertices[task.vertex_id as usize].operators {
                let olds = self.states_of(operator.uid.as_str());
                let least = |of: fn(&SubtaskState) -> EventTime| olds.iter().map(of).min().unwrap_or(EventTime::MIN);
                let own = olds.iter().find(|old| self.is_unaligned() && old.subtask_index.0 == task.subtask_index);
                let least = (least(|old| old.watermark_in), least(|old| old.watermark_out));
                let watermarks = own.map_or(least, |own| (own.watermark_in, own.watermark_out));
                let mut counters = BTreeMap::new();
                for (name, count) in olds.iter().flat_map(|old| &old.counters) {
                    *counters.entry(name.clone()).or_default() += count;
                }
                for (place, old) in olds.into_iter().enumerate() {
                    let is_first = place == 0 && task.subtask_index == 0;
                    let is_own = self.is_unaligned() && old.subtask_index.0 == task.subtask_index;
                    let state_of = SubtaskState {
                        channels: if is_own { old.channels.clone() } else { Vec::new() },
                        watermark_in: watermarks.0,
                        watermark_out: watermarks.1,
                        counters: if is_first { counters.clone() } else { BTreeMap::new() },
                        splits: Vec::new(),
                        committables: Vec::new(),
                        ..old
                    };
                    state.operators.push(OperatorTaskState { uid: operator.uid.clone(), state: state_of });
                }
            }
            let state = state.encode().expect("keeps the rules").to_vec();
            v1::TaskRestore {
                task: Some(*task),
                checkpoint_id: *checkpoint_id,
                state,
                store: self.restore_store.clone(),
            }
        };
        tasks.iter().map(restore).collect()
    }

    /// Orders a barrier; gives the checkpoint's id.
    pub async fn trigger(&mut self, cluster: &Cluster, after: AfterBarrier, savepoint: &str) -> u64 {
        let checkpoint_id = self.next_checkpoint;
        self.next_checkpoint += 1;
        let order = v1::TriggerCheckpoint {
            token: Some(token(self.attempt)),
            checkpoint_id,
            savepoint_directory: savepoint.to_owned(),
            after_barrier: after.into(),
            base_checkpoint_id: 0,
            is_aligned: self.is_aligned,
        };
        cluster.order_all(Order::TriggerCheckpoint(order)).await;
        checkpoint_id
    }

    pub async fn abort(&self, cluster: &Cluster, checkpoint_id: u64) {
        let order = v1::CheckpointAborted { token: Some(token(self.attempt)), checkpoint_id };
        cluster.order_all(Order::CheckpointAborted(order)).await;
    }

    /// Waits until all tasks have answered, or one has declined.
    pub async fn gather(&mut self, cluster: &mut Cluster, plan: &JobPlan, checkpoint_id: u64) -> Taken {
        let (mut states, mut stats) = (self.finals.clone(), BTreeMap::new());
        while states.len() < tasks_of(plan).len() {
            let what = format!("answers to {checkpoint_id} of {:?} but {:?}", tasks_of(plan), states.keys());
            let (_, message) = patiently(&what, cluster.messages.recv()).await.expect("workers live");
            match message {
                Message::CheckpointAcknowledged(answer) if answer.checkpoint_id == checkpoint_id => {
                    let task = task_of(answer.task);
                    let state = TaskState::decode(&answer.state, "answer").expect("is whole");
                    assert!(states.insert(task, state).is_none(), "{task:?} answered twice, or after its end");
                    stats.insert(task, answer.stats.expect("says what it cost"));
                }
                Message::CheckpointDeclined(answer) if answer.checkpoint_id == checkpoint_id => {
                    return Taken::Declined(task_of(answer.task), answer.failure.expect("says why"));
                }
                Message::TaskStateChanged(changed) => {
                    if let Some((task, state)) = self.state_changed(changed) {
                        states.entry(task).or_insert(state);
                    }
                }
                _ => {}
            }
        }
        self.commit(&states);
        self.last = Some((checkpoint_id, states));
        Taken::Complete(stats)
    }

    /// Waits for a heartbeat, so that some time passes; gives the codes of declined checkpoints that came before it.
    pub async fn until_beat(&mut self, cluster: &mut Cluster) -> Vec<String> {
        let mut declined = Vec::new();
        loop {
            let (_, message) = patiently("a beat", cluster.messages.recv()).await.expect("workers live");
            match message {
                Message::Heartbeat(_) => return declined,
                Message::TaskStateChanged(changed) => drop(self.state_changed(changed)),
                Message::CheckpointDeclined(answer) => declined.push(answer.failure.expect("says why").code),
                _ => {}
            }
        }
    }

    /// Tells the tasks that a checkpoint is committed.
    pub async fn confirm(&self, cluster: &Cluster, checkpoint_id: u64) {
        let order = v1::CheckpointCompleted { token: Some(token(self.attempt)), checkpoint_id };
        cluster.order_all(Order::CheckpointCompleted(order)).await;
    }

    fn state_changed(&mut self, changed: v1::TaskStateChanged) -> Option<(Task, TaskState)> {
        if changed.token != Some(token(self.attempt)) {
            return None;
        }
        match changed.state() {
            v1::TaskState::Failed => panic!("a task failed: {changed:?}"),
            v1::TaskState::Finished => {
                let task = task_of(changed.task);
                let state = TaskState::decode(&changed.final_state, "final state").expect("is whole");
                self.finals.insert(task, state.clone());
                self.ends.insert(task, changed);
                Some((task, state))
            }
            _ => None,
        }
    }

    /// Ends the attempt as a failure does; nothing it has not committed counts.
    pub async fn cancel(&mut self, cluster: &mut Cluster, plan: &JobPlan) {
        cluster.order_all(Order::Cancel(v1::Cancel { token: Some(token(self.attempt)) })).await;
        let mut left: BTreeSet<Task> =
            tasks_of(plan).into_iter().filter(|task| !self.ends.contains_key(task)).collect();
        while !left.is_empty() {
            let changed =
                cluster.next_state(&[v1::TaskState::Canceled, v1::TaskState::Finished, v1::TaskState::Failed]).await;
            if changed.token == Some(token(self.attempt)) {
                left.remove(&task_of(changed.task));
            }
        }
    }

    /// Waits until all tasks have finished and commits what they leave.
    pub async fn finish(&mut self, cluster: &mut Cluster, plan: &JobPlan) {
        while self.finals.len() < tasks_of(plan).len() {
            let (_, message) = patiently("the end", cluster.messages.recv()).await.expect("workers live");
            if let Message::TaskStateChanged(changed) = message {
                self.state_changed(changed);
            }
        }
        self.commit(&self.finals.clone());
    }

    fn commit(&mut self, states: &BTreeMap<Task, TaskState>) {
        let operators = states.values().flat_map(|state| &state.operators);
        for committable in operators.flat_map(|operator| &operator.state.committables) {
            let fields = committable.as_map().expect("of the sink `collect`");
            let Value::List(rows) = &fields["rows"] else { panic!("{fields:?}") };
            let rows = rows.iter().map(|row| match row {
                Value::Integer(row) => *row,
                other => panic!("{other:?}"),
            });
            let name = fields["name"].as_text().expect("a name").to_owned();
            let rows: Vec<i64> = rows.collect();
            let known = self.visible.entry(name).or_insert_with(|| rows.clone());
            assert_eq!(*known, rows, "a name has two contents");
        }
    }

    /// All committed rows, sorted.
    pub fn visible_rows(&self) -> Vec<i64> {
        let mut rows: Vec<i64> = self.visible.values().flatten().copied().collect();
        rows.sort_unstable();
        rows
    }

    /// A counter of an operator, over all subtasks, at the end.
    pub fn counted(&self, uid: &str, of: fn(&v1::OperatorMetrics) -> u64) -> u64 {
        let operators =
            self.ends.values().filter_map(|end| end.metrics.as_ref()).flat_map(|metrics| &metrics.operators);
        operators.filter(|operator| operator.operator == uid).map(of).sum()
    }
}

pub fn task_of(task: Option<v1::TaskId>) -> Task {
    let task = task.expect("names its task");
    (task.vertex_id, task.subtask_index)
}
