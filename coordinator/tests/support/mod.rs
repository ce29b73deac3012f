//! A coordinator on loopback, clients, a worker that only speaks, and connectors that only exist.

#![allow(dead_code, missing_docs, reason = "shared by test files, none of which uses all of it")]

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;

use arrow_schema::{DataType, Field, Schema};
use async_trait::async_trait;
use tokio::runtime::Runtime;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::CancellationToken;
use tonic::transport::Channel;
use weir_checkpoint::{OperatorTaskState, SplitState, SubtaskState, TaskState as KeptState};
use weir_coordinator::{Coordinator, CoordinatorConfig, CoordinatorError};
use weir_core::{Clock, OperatorUid, Settings, SplitIndex, SubtaskIndex, Value};
use weir_operator_api::connector::{SinkProperties, SourceProperties};
use weir_operator_api::sink::SinkCommitter;
use weir_operator_api::{
    OperatorError, ReaderContext, Registry, SinkContext, SinkFactory, SinkWriter, SourceFactory, SourceReader, Split,
};
use weir_proto::v1;
use weir_proto::v1::coordinator_message::Message as Order;
use weir_proto::v1::job_service_client::JobServiceClient;
use weir_proto::v1::worker_link_service_client::WorkerLinkServiceClient;
use weir_proto::v1::worker_message::Message as Report;
use weir_testkit::clock::FakeClock;

struct FakeSource;

#[async_trait]
impl SourceFactory for FakeSource {
    fn kind(&self) -> &'static str {
        "fake_source"
    }

    fn describe(&self, settings: &Settings<'_>) -> Option<SourceProperties> {
        settings.integer("splits", 0..=100);
        Some(SourceProperties {
            schema: Arc::new(Schema::new(vec![Field::new("n", DataType::Int64, true)])),
            is_bounded: true,
            can_project: false,
            parallelism_max: None,
        })
    }

    async fn enumerate(
        &self,
        _: &OperatorUid,
        settings: &BTreeMap<String, Value>,
        _: u32,
    ) -> Result<Vec<Split>, OperatorError> {
        match settings.get("splits") {
            Some(Value::Integer(0)) => Err(OperatorError::user("source-missing", "there is no file 'x.csv'")),
            Some(Value::Integer(count)) => Ok((0..*count as u32)
                .map(|index| Split {
                    index: SplitIndex(index),
                    description: Value::Integer(i64::from(index)),
                    position: None,
                })
                .collect()),
            _ => Ok(Vec::new()),
        }
    }

    async fn reader(&self, _: ReaderContext) -> Result<Box<dyn SourceReader>, OperatorError> {
        Err(OperatorError::internal("coordinators read nothing"))
    }
}

struct FakeSink;

#[async_trait]
impl SinkFactory for FakeSink {
    fn kind(&self) -> &'static str {
        "fake_sink"
    }

    fn describe(&self, _: &Settings<'_>, _: &Schema) -> Option<SinkProperties> {
        Some(SinkProperties::default())
    }

    async fn writer(&self, _: SinkContext) -> Result<Box<dyn SinkWriter>, OperatorError> {
        Err(OperatorError::internal("coordinators write nothing"))
    }

    async fn committer(&self, _: &BTreeMap<String, Value>) -> Result<Box<dyn SinkCommitter>, OperatorError> {
        Err(OperatorError::internal("coordinators publish nothing"))
    }
}

/// A coordinator that serves on a free port of loopback.
pub struct Served {
    pub addr: SocketAddr,
    pub clock: FakeClock,
    pub client: JobServiceClient<Channel>,
    shutdown: CancellationToken,
    server: JoinHandle<Result<(), CoordinatorError>>,
    /// Its own threads, when it is to die with everything it runs.
    runtime: Option<Runtime>,
}

impl Served {
    pub async fn start(data_dir: &Path) -> Served {
        Served::start_with(data_dir, |_| {}).await
    }

    pub async fn start_with(data_dir: &Path, change: impl Fn(&mut CoordinatorConfig)) -> Served {
        Served::start_on(None, data_dir, change).await
    }

    /// One that can be killed. It runs beside the test, and workers may be silent for long.
    pub async fn start_mortal(data_dir: &Path) -> Served {
        let threads = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build();
        let patient = |config: &mut CoordinatorConfig| config.lease = std::time::Duration::from_secs(3600);
        Served::start_on(Some(threads.expect("a thread")), data_dir, patient).await
    }

    async fn start_on(runtime: Option<Runtime>, data_dir: &Path, change: impl Fn(&mut CoordinatorConfig)) -> Served {
        let threads = runtime.as_ref().map_or_else(tokio::runtime::Handle::current, |runtime| runtime.handle().clone());
        let clock = FakeClock::default();
        let mut config = CoordinatorConfig::new("127.0.0.1:0".parse().expect("an address"), data_dir);
        change(&mut config);
        let bound = loop {
            // Every life of a coordinator draws other ids.
            config.seed = Some(std::fs::read(data_dir.join("term")).map_or(1, |term| 1 + u64::from(term[0])));
            let registry = Registry::default().with_source(FakeSource).with_sink(FakeSink);
            let (config, handle): (_, Arc<dyn Clock>) = (config.clone(), Arc::new(clock.clone()));
            let bound = threads.spawn(Coordinator::bind(config, registry, handle)).await.expect("no panic");
            match bound {
                // One that was killed a moment ago may not have let go yet.
                Err(CoordinatorError::DataDirInUse { .. }) => tokio::task::yield_now().await,
                bound => break bound.expect("bind"),
            }
        };
        let addr = bound.local_addr();
        let shutdown = CancellationToken::new();
        let server = threads.spawn(bound.serve(shutdown.clone()));
        let client = JobServiceClient::connect(format!("http://{addr}")).await.expect("connect");
        Served { addr, clock, client, shutdown, server, runtime }
    }

    /// Dies with everything it runs, without a word to anyone.
    pub fn kill(self) {
        self.runtime.expect("it is mortal").shutdown_background();
    }

    pub fn begin_shutdown(&self) {
        self.shutdown.cancel();
    }

    pub async fn ended(self) {
        self.shutdown.cancel();
        let Served { server, clock, client, runtime, .. } = self;
        drop(client);
        let mut server = server;
        // Time passes while the last connections linger.
        let result = loop {
            tokio::select! {
                biased;
                result = &mut server => break result,
                () = tokio::task::yield_now() => clock.advance(std::time::Duration::from_millis(1)),
            }
        };
        result.expect("the server does not panic").expect("the server ends in order");
        runtime.into_iter().for_each(Runtime::shutdown_background);
    }

    pub async fn submit(&mut self, graph: v1::JobGraph) -> String {
        let answer = self
            .client
            .submit_job(v1::SubmitJobRequest { job: Some(graph), ..v1::SubmitJobRequest::default() })
            .await
            .expect("submit");
        let answer = answer.into_inner();
        assert_eq!(answer.problems, []);
        answer.job_id
    }

    pub async fn details(&mut self, job: &str) -> v1::JobDetails {
        let request = v1::GetJobRequest { job_id: job.to_owned() };
        self.client.get_job(request).await.expect("the job is known").into_inner()
    }

    pub async fn state(&mut self, job: &str) -> v1::JobState {
        self.details(job).await.summary.expect("a summary").state()
    }

    /// Asks until the job is in `state`; `meanwhile` is done between two questions.
    pub async fn until_state(&mut self, job: &str, state: v1::JobState, meanwhile: impl Fn(&FakeClock)) {
        for _ in 0..100_000 {
            if self.state(job).await == state {
                return;
            }
            meanwhile(&self.clock);
        }
        panic!("job is {:?} and does not become {state:?}", self.state(job).await);
    }

    /// Asks a question that anyone may ask at any time.
    pub async fn list(&mut self) -> Vec<v1::JobSummary> {
        self.client.list_jobs(v1::ListJobsRequest {}).await.expect("an answer").into_inner().jobs
    }

    /// Asks until the job's details are as wanted; `meanwhile` is done between two questions.
    pub async fn until(
        &mut self,
        job: &str,
        is_so: impl Fn(&v1::JobDetails) -> bool,
        meanwhile: impl Fn(&FakeClock),
    ) -> v1::JobDetails {
        for _ in 0..100_000 {
            let details = self.details(job).await;
            if is_so(&details) {
                return details;
            }
            meanwhile(&self.clock);
        }
        panic!("the job does not become so: {:?}", self.details(job).await);
    }

    pub async fn until_workers(&mut self, count: usize) {
        for _ in 0..10_000 {
            let cluster = self.client.get_cluster(v1::GetClusterRequest {}).await.expect("cluster").into_inner();
            if cluster.workers.len() == count {
                return;
            }
        }
        panic!("there are not {count} workers");
    }
}

/// A worker that says what the test wants.
pub struct FakeWorker {
    pub id: String,
    reports: mpsc::Sender<v1::WorkerMessage>,
    orders: tonic::Streaming<v1::CoordinatorMessage>,
}

impl FakeWorker {
    pub async fn connect(served: &Served, register: v1::Register) -> FakeWorker {
        let id = register.worker.clone();
        let (reports, rx) = mpsc::channel(64);
        reports.send(v1::WorkerMessage { message: Some(Report::Register(register)) }).await.expect("room");
        let mut client = WorkerLinkServiceClient::connect(format!("http://{}", served.addr)).await.expect("connect");
        let orders = client.attach(ReceiverStream::new(rx)).await.expect("attach").into_inner();
        FakeWorker { id, reports, orders }
    }

    /// A worker that is part of the cluster.
    pub async fn attach(served: &Served, id: &str, slots: u32) -> FakeWorker {
        let mut worker = FakeWorker::connect(served, register(id, slots)).await;
        let Some(Order::Registered(registered)) = worker.next().await else { panic!("not registered") };
        assert!(registered.term > 0 && registered.lease_ms >= 3000 && registered.heartbeat_interval_ms == 500);
        worker
    }

    /// The next order; `None` at the end of the stream.
    pub async fn next(&mut self) -> Option<Order> {
        self.orders.message().await.ok().flatten().and_then(|message| message.message)
    }

    pub async fn deploy(&mut self) -> v1::Deploy {
        match self.next().await {
            Some(Order::Deploy(deploy)) => deploy,
            other => panic!("expected Deploy, came {other:?}"),
        }
    }

    pub async fn start(&mut self) {
        let order = self.next().await;
        assert!(matches!(order, Some(Order::Start(_))), "expected Start, came {order:?}");
    }

    pub async fn cancel(&mut self) {
        let order = self.next().await;
        assert!(matches!(order, Some(Order::Cancel(_))), "expected Cancel, came {order:?}");
    }

    pub async fn publish(&mut self) -> v1::Publish {
        match self.next().await {
            Some(Order::Publish(publish)) => publish,
            other => panic!("expected Publish, came {other:?}"),
        }
    }

    /// The next barrier to be put into the sources.
    pub async fn trigger(&mut self) -> v1::TriggerCheckpoint {
        match self.next().await {
            Some(Order::TriggerCheckpoint(trigger)) => trigger,
            other => panic!("expected TriggerCheckpoint, came {other:?}"),
        }
    }

    /// The word that a checkpoint is committed and published; which.
    pub async fn completed(&mut self) -> u64 {
        match self.next().await {
            Some(Order::CheckpointCompleted(completed)) => completed.checkpoint_id,
            other => panic!("expected CheckpointCompleted, came {other:?}"),
        }
    }

    /// The word that a checkpoint has come to nothing; which.
    pub async fn aborted(&mut self) -> u64 {
        match self.next().await {
            Some(Order::CheckpointAborted(aborted)) => aborted.checkpoint_id,
            other => panic!("expected CheckpointAborted, came {other:?}"),
        }
    }

    /// Answers a checkpoint for all tasks of a deployment, each with one part of output.
    pub async fn acknowledge(&self, deploy: &v1::Deploy, checkpoint_id: u64) {
        for task in &deploy.tasks {
            self.send(Report::CheckpointAcknowledged(acknowledgement(deploy, task, checkpoint_id))).await;
        }
    }

    /// Takes a barrier, answers it, publishes what it commits, and hears that it is complete.
    pub async fn checkpoint(&mut self, deploy: &v1::Deploy) -> u64 {
        let trigger = self.trigger().await;
        self.acknowledge(deploy, trigger.checkpoint_id).await;
        let publish = self.publish().await;
        assert_eq!((publish.checkpoint_id, publish.discard), (trigger.checkpoint_id, false));
        self.answer(&publish, None).await;
        assert_eq!(self.completed().await, trigger.checkpoint_id);
        trigger.checkpoint_id
    }

    pub async fn send(&self, report: Report) {
        self.reports.send(v1::WorkerMessage { message: Some(report) }).await.expect("connected");
    }

    pub async fn report(&self, change: v1::TaskStateChanged) {
        self.send(Report::TaskStateChanged(change)).await;
    }

    /// Reports a state of all tasks of a deployment.
    pub async fn report_all(&self, deploy: &v1::Deploy, state: v1::TaskState) {
        for task in &deploy.tasks {
            self.report(change(deploy, task, state)).await;
        }
    }

    pub async fn answer(&self, publish: &v1::Publish, failure: Option<v1::Failure>) {
        let (token, operator) = (publish.token.clone(), publish.operator.clone());
        let checkpoint_id = publish.checkpoint_id;
        self.send(Report::Published(v1::Published { token, operator, failure, checkpoint_id })).await;
    }

    /// Takes a deployment and brings its tasks to RUNNING, alone in the cluster.
    pub async fn run_alone(&mut self) -> v1::Deploy {
        let deploy = self.deploy().await;
        self.report_all(&deploy, v1::TaskState::Initializing).await;
        self.start().await;
        self.report_all(&deploy, v1::TaskState::Running).await;
        deploy
    }
}

pub fn register(id: &str, slots: u32) -> v1::Register {
    v1::Register {
        worker: id.to_owned(),
        version: weir_proto::VERSION.to_owned(),
        slots,
        data_address: format!("{id}:1"),
        http_address: String::new(),
        process_id: 1,
    }
}

pub fn change(deploy: &v1::Deploy, task: &v1::TaskId, state: v1::TaskState) -> v1::TaskStateChanged {
    v1::TaskStateChanged {
        token: deploy.token.clone(),
        task: Some(*task),
        state: state.into(),
        ..v1::TaskStateChanged::default()
    }
}

/// A task that finished with one committable and a total.
pub fn finished(deploy: &v1::Deploy, task: &v1::TaskId, rows: u64) -> v1::TaskStateChanged {
    let committable =
        v1::Committable { operator: "out".to_owned(), subtask_index: task.subtask_index, description: None };
    let totals = [("rows".to_owned(), rows)].into_iter().collect();
    v1::TaskStateChanged {
        committables: vec![committable],
        totals: vec![v1::SinkTotals { operator: "out".to_owned(), totals }],
        metrics: Some(counted(rows)),
        ..change(deploy, task, v1::TaskState::Finished)
    }
}

/// Counters of a task of [`job`] that read `rows`, one of them bad.
pub fn counted(rows: u64) -> v1::TaskMetrics {
    let operator = |uid: &str, kind: &str| v1::OperatorMetrics {
        operator: uid.to_owned(),
        kind: kind.to_owned(),
        records_out: rows,
        ..v1::OperatorMetrics::default()
    };
    let source = v1::OperatorMetrics { bad_records: 1, ..operator("in", "fake_source") };
    v1::TaskMetrics { operators: vec![source, operator("out", "fake_sink")], ..v1::TaskMetrics::default() }
}

pub fn failure(code: &str, domain: &str) -> v1::Failure {
    v1::Failure {
        code: code.to_owned(),
        domain: domain.to_owned(),
        chain: vec![format!("{code} happened"), "disk on fire".to_owned()],
        ..v1::Failure::default()
    }
}

/// `in` (fake_source) -> `out` (fake_sink), one vertex.
pub fn job(parallelism: u32, splits: i64) -> v1::JobGraph {
    let settings = |fields: &[(&str, Value)]| {
        let fields = fields.iter().map(|(name, value)| ((*name).to_owned(), value.clone())).collect();
        Some(weir_proto::convert::map_to_struct(&fields))
    };
    let source = v1::Operator {
        uid: "in".to_owned(),
        kind: "fake_source".to_owned(),
        settings: settings(&[("splits", Value::Integer(splits))]),
        ..v1::Operator::default()
    };
    let sink = v1::Operator {
        uid: "out".to_owned(),
        kind: "fake_sink".to_owned(),
        inputs: vec!["in".to_owned()],
        settings: settings(&[]),
        ..v1::Operator::default()
    };
    v1::JobGraph {
        name: "job".to_owned(),
        config: [("parallelism.default".to_owned(), parallelism.to_string())].into_iter().collect(),
        operators: vec![source, sink],
    }
}

/// The state of a task of [`job`] at a checkpoint: each split at position `checkpoint`, and these committables.
pub fn kept(deploy: &v1::Deploy, task: &v1::TaskId, checkpoint: u64, parts: &[&str]) -> KeptState {
    let subtask = SubtaskIndex(task.subtask_index);
    let mut source = SubtaskState::new(subtask);
    let splits = deploy.splits.iter().filter(|assignment| assignment.task.as_ref() == Some(task));
    source.splits = splits
        .flat_map(|assignment| &assignment.splits)
        .map(|split| SplitState {
            index: SplitIndex(split.index),
            description: Value::Null,
            position: Some(Value::Integer(checkpoint as i64)),
            is_finished: false,
        })
        .collect();
    source.counters = BTreeMap::from([("records_out".to_owned(), checkpoint)]);
    let mut sink = SubtaskState::new(subtask);
    sink.committables = parts.iter().map(|part| Value::from(*part)).collect();
    let operators = vec![
        OperatorTaskState { uid: "in".into(), state: source },
        OperatorTaskState { uid: "out".into(), state: sink },
    ];
    KeptState { operators }
}

/// The answer of a task to a checkpoint, with the part `<subtask>-<checkpoint>`.
pub fn acknowledgement(deploy: &v1::Deploy, task: &v1::TaskId, checkpoint_id: u64) -> v1::CheckpointAcknowledged {
    let part = format!("{}-{checkpoint_id}", task.subtask_index);
    v1::CheckpointAcknowledged {
        token: deploy.token.clone(),
        task: Some(*task),
        checkpoint_id,
        state: kept(deploy, task, checkpoint_id, &[&part]).encode().expect("right").to_vec(),
        stats: Some(v1::CheckpointStats { bytes: 10, new_bytes: 5, freeze_us: 7, ..v1::CheckpointStats::default() }),
        passed: Vec::new(),
    }
}

/// What a publish order brings, as the test gave it.
pub fn parts(publish: &v1::Publish) -> Vec<String> {
    let text = |committable: &v1::Committable| {
        let value = weir_proto::convert::value_from_proto(committable.description.clone().expect("a description"));
        value.expect("readable").as_text().unwrap_or("?").to_owned()
    };
    publish.committables.iter().map(text).collect()
}

/// [`job`] with more configuration.
pub fn job_with(parallelism: u32, splits: i64, config: &[(&str, &str)]) -> v1::JobGraph {
    let mut graph = job(parallelism, splits);
    graph.config.extend(config.iter().map(|(key, text)| ((*key).to_owned(), (*text).to_owned())));
    graph
}

/// Lets a job that does not restart be as it was.
pub const NO_RESTART: (&str, &str) = ("restart-strategy.type", "none");
