//! Workers as they are, over loopback, and a coordinator whose every word is the test's.

use std::collections::BTreeMap;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use futures::Stream;
use tokio::net::TcpListener;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio_stream::wrappers::{ReceiverStream, TcpListenerStream};
use tokio_util::sync::CancellationToken;
use tonic::{Request, Response, Status, Streaming};
use weir_core::{AttemptNumber, FencingToken, JobId, SubtaskIndex, VertexId};
use weir_graph::JobPlan;
use weir_operator_api::{Registry, SystemClock};
use weir_proto::convert;
use weir_proto::v1::coordinator_message::Message as Order;
use weir_proto::v1::worker_link_service_server::{WorkerLinkService, WorkerLinkServiceServer};
use weir_proto::v1::worker_message::Message;
use weir_proto::v1::{self, CoordinatorMessage, TaskState, WorkerMessage};
use weir_worker::{WorkerConfig, WorkerError};

use super::connectors::{Collect, Numbers};
use super::operators;

const PATIENCE: Duration = Duration::from_secs(60);

pub async fn patiently<T>(what: &str, future: impl Future<Output = T>) -> T {
    tokio::time::timeout(PATIENCE, future).await.unwrap_or_else(|_| panic!("waited in vain for {what}"))
}

struct Attached {
    register: v1::Register,
    orders: mpsc::Sender<Result<CoordinatorMessage, Status>>,
    messages: Streaming<WorkerMessage>,
}

struct Door(mpsc::Sender<Attached>);

#[tonic::async_trait]
impl WorkerLinkService for Door {
    type AttachStream = Pin<Box<dyn Stream<Item = Result<CoordinatorMessage, Status>> + Send>>;

    async fn attach(&self, request: Request<Streaming<WorkerMessage>>) -> Result<Response<Self::AttachStream>, Status> {
        let mut messages = request.into_inner();
        let first = messages.message().await?.and_then(|message| message.message);
        let Some(Message::Register(register)) = first else { return Err(Status::invalid_argument("not Register")) };
        let (orders, down) = mpsc::channel(100);
        self.0.send(Attached { register, orders, messages }).await.map_err(|_| Status::cancelled("test over"))?;
        Ok(Response::new(Box::pin(ReceiverStream::new(down))))
    }
}

pub struct WorkerHandle {
    pub register: v1::Register,
    orders: mpsc::Sender<Result<CoordinatorMessage, Status>>,
    pub shutdown: CancellationToken,
    pub running: JoinHandle<Result<(), WorkerError>>,
}

/// A running cluster.
pub struct Cluster {
    pub workers: Vec<WorkerHandle>,
    pub messages: mpsc::Receiver<(usize, Message)>,
    pub sink: Collect,
    pub numbers: Numbers,
    door: JoinHandle<()>,
}

/// How a task ended.
pub type Ends = BTreeMap<(u32, u32), v1::TaskStateChanged>;

pub fn token(attempt: u32) -> v1::FencingToken {
    convert::token_to_proto(JobId(7), FencingToken { term: 1, attempt: AttemptNumber(attempt) })
}

fn start_worker(
    address: &str,
    sink: &Collect,
    numbers: &Numbers,
    shutdown: &CancellationToken,
) -> JoinHandle<Result<(), WorkerError>> {
    let config = WorkerConfig { data_threads: 2, create: operators::create, ..WorkerConfig::new(address, 2, "unused") };
    let registry = Registry::default().with_source(numbers.clone()).with_sink(sink.clone());
    tokio::spawn(weir_worker::run(config, registry, Arc::new(SystemClock::default()), shutdown.clone()))
}

/// Opens a coordinator's door; attached workers come out of the queue.
async fn open_door() -> (String, mpsc::Receiver<Attached>, JoinHandle<()>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let address = listener.local_addr().expect("bound").to_string();
    let (attached, attaching) = mpsc::channel(10);
    let server = tonic::transport::Server::builder()
        .add_service(WorkerLinkServiceServer::new(Door(attached)))
        .serve_with_incoming(TcpListenerStream::new(listener));
    let door = tokio::spawn(async move { server.await.expect("the door stays open") });
    (address, attaching, door)
}

/// Starts a worker and refuses it.
pub async fn refused_worker(reason: &str) -> Result<(), WorkerError> {
    let (address, mut attaching, door) = open_door().await;
    let (sink, numbers) = (Collect::default(), Numbers::default());
    let running = start_worker(&address, &sink, &numbers, &CancellationToken::new());
    let attached = patiently("a worker", attaching.recv()).await.expect("door is open");
    let refused = Order::Refused(v1::Refused { reason: reason.to_owned() });
    attached.orders.send(Ok(CoordinatorMessage { message: Some(refused) })).await.expect("worker listens");
    let ended = patiently("the worker's end", running).await.expect("no panic");
    door.abort();
    ended
}

impl Cluster {
    pub async fn start(count: usize) -> Cluster {
        let (address, mut attaching, door) = open_door().await;
        let (queue, messages) = mpsc::channel(10_000);
        let (sink, numbers, mut workers) = (Collect::default(), Numbers::default(), Vec::new());
        for index in 0..count {
            let shutdown = CancellationToken::new();
            let running = start_worker(&address, &sink, &numbers, &shutdown);
            let mut attached = patiently("a worker", attaching.recv()).await.expect("door is open");
            let registered = v1::Registered { term: 1, heartbeat_interval_ms: 20, lease_ms: 3000 };
            let queue = queue.clone();
            tokio::spawn(async move {
                while let Ok(Some(message)) = attached.messages.message().await {
                    if queue.send((index, message.message.expect("not empty"))).await.is_err() {
                        break;
                    }
                }
            });
            workers.push(WorkerHandle { register: attached.register, orders: attached.orders, shutdown, running });
            workers[index].order(Order::Registered(registered)).await;
        }
        Cluster { workers, messages, sink, numbers, door }
    }

    /// Task (vertex, subtask) runs on worker `subtask % workers`.
    pub async fn deploy(&self, plan: &JobPlan, attempt: u32) {
        self.deploy_with(plan, attempt, |_| {}).await;
    }

    /// The same, with orders that the test completes.
    pub async fn deploy_with(&self, plan: &JobPlan, attempt: u32, complete: impl Fn(&mut v1::Deploy)) {
        let all: Vec<(u32, u32)> = plan
            .vertices
            .iter()
            .flat_map(|vertex| (0..vertex.parallelism).map(|subtask| (vertex.id.0, subtask)))
            .collect();
        let id = |(vertex, subtask): (u32, u32)| convert::task_to_proto(VertexId(vertex), SubtaskIndex(subtask));
        let home = |(_, subtask): (u32, u32)| subtask as usize % self.workers.len();
        let location = |task: &(u32, u32)| v1::TaskLocation {
            task: Some(id(*task)),
            worker: self.workers[home(*task)].register.worker.clone(),
            data_address: self.workers[home(*task)].register.data_address.clone(),
        };
        let sources = plan.vertices[0].parallelism;
        for (index, worker) in self.workers.iter().enumerate() {
            let tasks: Vec<_> = all.iter().filter(|task| home(**task) == index).copied().collect();
            let splits = tasks.iter().filter(|(vertex, _)| *vertex == 0).map(|task| v1::SplitAssignment {
                task: Some(id(*task)),
                operator: "numbers".to_owned(),
                split_count: sources,
                splits: vec![v1::Split { index: task.1, description: None, position: None }],
            });
            let mut deploy = v1::Deploy {
                token: Some(token(attempt)),
                plan: Some(convert::plan_to_proto(plan)),
                locations: all.iter().map(location).collect(),
                splits: splits.collect(),
                tasks: tasks.into_iter().map(id).collect(),
                ..v1::Deploy::default()
            };
            complete(&mut deploy);
            worker.order(Order::Deploy(deploy)).await;
        }
    }

    pub async fn order_all(&self, order: Order) {
        for worker in &self.workers {
            worker.order(order.clone()).await;
        }
    }

    /// Deploys, waits until all tasks are ready, starts.
    pub async fn run(&mut self, plan: &JobPlan) {
        self.deploy(plan, 1).await;
        self.start_tasks(plan, 1).await;
    }

    /// Waits until all tasks are ready, starts.
    pub async fn start_tasks(&mut self, plan: &JobPlan, attempt: u32) {
        let count: u32 = plan.vertices.iter().map(|vertex| vertex.parallelism).sum();
        for _ in 0..count {
            self.next_state(&[TaskState::Initializing]).await;
        }
        self.order_all(Order::Start(v1::Start { token: Some(token(attempt)) })).await;
    }

    /// The next change to one of these states.
    pub async fn next_state(&mut self, wanted: &[TaskState]) -> v1::TaskStateChanged {
        loop {
            let message = patiently(&format!("{wanted:?}"), self.messages.recv()).await.expect("workers live");
            if let (_, Message::TaskStateChanged(changed)) = message
                && wanted.contains(&changed.state())
            {
                return changed;
            }
        }
    }

    /// Waits for the ends of this many tasks.
    pub async fn ends(&mut self, count: usize) -> Ends {
        let mut ends = Ends::new();
        while ends.len() < count {
            let end = self.next_state(&[TaskState::Finished, TaskState::Canceled, TaskState::Failed]).await;
            let task = end.task.expect("names its task");
            assert!(ends.insert((task.vertex_id, task.subtask_index), end).is_none(), "ended twice");
        }
        ends
    }

    /// Waits until a heartbeat says that sinks have taken rows.
    pub async fn until_rows_flow(&mut self) {
        loop {
            let message = patiently("rows", self.messages.recv()).await.expect("workers live");
            let (_, Message::Heartbeat(beat)) = message else { continue };
            let operators = beat.tasks.iter().filter_map(|task| task.metrics.as_ref()).flat_map(|task| &task.operators);
            if operators.filter(|operator| operator.operator == "out").any(|operator| operator.records_in > 0) {
                return;
            }
        }
    }

    /// Ends all workers; each must end by itself and leave nothing.
    pub async fn end(self) {
        for worker in self.workers {
            worker.shutdown.cancel();
            patiently("the worker's end", worker.running).await.expect("no panic").expect("an orderly end");
            let data = worker.register.data_address;
            assert!(tokio::net::TcpStream::connect(&data).await.is_err(), "{data} is still open");
        }
        assert_eq!(self.sink.seen(|seen| seen.open), 0, "a sink writer outlived its worker");
        self.door.abort();
    }
}

impl WorkerHandle {
    pub async fn order(&self, order: Order) {
        self.orders.send(Ok(CoordinatorMessage { message: Some(order) })).await.expect("worker listens");
    }
}
