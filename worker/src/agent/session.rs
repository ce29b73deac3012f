//! The stream to the coordinator: registration, heartbeats, orders, reports; opened again with growing waits when it
//! breaks. A broken stream means that the coordinator has given this worker up: its tasks end before it comes back.

use std::time::Duration;

use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::CancellationToken;
use tonic::Streaming;
use tonic::transport::Endpoint;
use weir_core::{CheckpointId, Clock, error};
use weir_proto::convert;
use weir_proto::v1::coordinator_message::Message as Order;
use weir_proto::v1::worker_link_service_client::WorkerLinkServiceClient;
use weir_proto::v1::worker_message::Message;
use weir_proto::v1::{self, CoordinatorMessage, WorkerMessage};

use super::attempt::Fence;
use super::publish::publish;
use super::{Addresses, Attempts, Reporter, Worker};
use crate::config::WorkerConfig;
use crate::error::WorkerError;
use crate::exchange::AttemptKey;
use crate::task::StopMode;

/// Messages that may wait for the network.
const MESSAGES_MAX: usize = 256;
/// Largest order: a plan with its schemas, far below.
const ORDER_BYTES_MAX: usize = 64 * 1024 * 1024;
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// First wait before another attempt to connect; doubles up to the configured one.
const RECONNECT_WAIT_MIN: Duration = Duration::from_millis(100);
/// How often a silent connection is probed, and how long an answer may take.
const KEEP_ALIVE: Duration = Duration::from_secs(3);
/// Longest time in which tasks end at a shutdown.
const LEAVE_TIMEOUT: Duration = Duration::from_secs(10);

/// How a session ended.
enum Ended {
    Shutdown,
    Refused(String),
    Broken { reason: String, was_registered: bool },
}

/// Keeps a session open until `shutdown`.
pub(crate) async fn keep(
    worker: &Worker,
    config: &WorkerConfig,
    addresses: &Addresses,
    shutdown: &CancellationToken,
) -> Result<(), WorkerError> {
    let wrong_address = || WorkerError::CoordinatorAddress { address: config.coordinator.clone() };
    let endpoint = Endpoint::from_shared(format!("http://{}", config.coordinator))
        .map_err(|_| wrong_address())?
        .connect_timeout(CONNECT_TIMEOUT)
        .tcp_nodelay(true)
        .http2_keep_alive_interval(KEEP_ALIVE)
        .keep_alive_timeout(KEEP_ALIVE)
        .keep_alive_while_idle(true);
    let (mut fence, mut wait) = (Fence::default(), RECONNECT_WAIT_MIN);
    loop {
        let register = v1::Register {
            worker: worker.id.0.clone(),
            version: weir_proto::VERSION.to_owned(),
            slots: config.slots,
            data_address: addresses.data.clone(),
            http_address: addresses.http.clone(),
            process_id: std::process::id(),
        };
        match attach(worker, &endpoint, register, &mut fence, shutdown).await {
            Ended::Shutdown => return Ok(()),
            Ended::Refused(reason) => return Err(WorkerError::Refused { reason }),
            Ended::Broken { reason, was_registered } => {
                wait = if was_registered { RECONNECT_WAIT_MIN } else { (wait * 2).min(config.reconnect_wait_max) };
                tracing::info!(coordinator = %config.coordinator, wait_ms = wait.as_millis(), "no coordinator: {reason}");
            }
        }
        tokio::select! {
            () = shutdown.cancelled() => return Ok(()),
            () = worker.environment.clock.sleep(wait) => {}
        }
    }
}

async fn attach(
    worker: &Worker,
    endpoint: &Endpoint,
    register: v1::Register,
    fence: &mut Fence,
    shutdown: &CancellationToken,
) -> Ended {
    let broken = |reason: String| Ended::Broken { reason, was_registered: false };
    let (up, messages) = mpsc::channel(MESSAGES_MAX);
    let opening = async {
        let channel = endpoint.connect().await.map_err(|error| error::report(&error))?;
        let mut client = WorkerLinkServiceClient::new(channel)
            .max_decoding_message_size(ORDER_BYTES_MAX)
            .max_encoding_message_size(ORDER_BYTES_MAX);
        let first = up.send(WorkerMessage { message: Some(Message::Register(register)) });
        first.await.map_err(|_| "the stream closed".to_owned())?;
        let response = client.attach(ReceiverStream::new(messages)).await.map_err(|status| status.to_string())?;
        let mut orders = response.into_inner();
        let answer = orders.message().await.map_err(|status| status.to_string())?;
        Ok::<_, String>((orders, answer.and_then(|answer| answer.message)))
    };
    let opened = tokio::select! {
        biased;
        () = shutdown.cancelled() => return Ended::Shutdown,
        opened = opening => opened,
        () = worker.environment.clock.sleep(CONNECT_TIMEOUT * 2) => Err("it does not answer".to_owned()),
    };
    let (orders, registered) = match opened {
        Ok((orders, Some(Order::Registered(registered)))) => (orders, registered),
        Ok((_, Some(Order::Refused(refused)))) => return Ended::Refused(refused.reason),
        Ok(_) => return broken("it did not answer the registration".to_owned()),
        Err(reason) => return broken(reason),
    };
    tracing::info!(worker = %worker.id, term = registered.term, "registered");
    let (reporter, reports) = Reporter::new();
    let attempts = Attempts::new(worker.clone(), reporter.clone());
    let heartbeat = Duration::from_millis(u64::from(registered.heartbeat_interval_ms.max(10)));
    let session = Session { worker, up, reporter, attempts, fence, heartbeat };
    session.serve(orders, reports, shutdown).await
}

struct Session<'a> {
    worker: &'a Worker,
    up: mpsc::Sender<WorkerMessage>,
    reporter: Reporter,
    attempts: Attempts,
    fence: &'a mut Fence,
    heartbeat: Duration,
}

impl Session<'_> {
    async fn serve(
        mut self,
        mut orders: Streaming<CoordinatorMessage>,
        mut reports: mpsc::Receiver<Message>,
        shutdown: &CancellationToken,
    ) -> Ended {
        let clock = self.worker.environment.clock.clone();
        let mut sequence = 0;
        let mut beat = clock.sleep(self.heartbeat);
        let reason = loop {
            let message = tokio::select! {
                biased;
                () = shutdown.cancelled() => {
                    self.leave(reports).await;
                    return Ended::Shutdown;
                }
                order = orders.message() => match order {
                    Ok(Some(order)) => {
                        self.take(order);
                        continue;
                    }
                    Ok(None) => break "it closed the stream".to_owned(),
                    Err(status) => break status.to_string(),
                },
                () = &mut beat => {
                    beat = clock.sleep(self.heartbeat);
                    sequence += 1;
                    let tasks = self.attempts.counters();
                    self.attempts.sweep();
                    Message::Heartbeat(v1::Heartbeat { sequence, tasks })
                }
                Some(report) = reports.recv() => report,
            };
            if self.up.send(WorkerMessage { message: Some(message) }).await.is_err() {
                break "the stream broke".to_owned();
            }
        };
        // Nobody takes reports any more; tasks must not wait for room in their queue.
        drop(reports);
        self.attempts.cancel_all();
        self.attempts.ended().await;
        Ended::Broken { reason, was_registered: true }
    }

    /// Ends all tasks and tells the coordinator.
    async fn leave(self, mut reports: mpsc::Receiver<Message>) {
        self.attempts.cancel_all();
        let ended = self.attempts.ended();
        drop((self.attempts, self.reporter));
        let forward = async {
            while let Some(report) = reports.recv().await {
                if self.up.send(WorkerMessage { message: Some(report) }).await.is_err() {
                    break;
                }
            }
        };
        let clock: &dyn Clock = self.worker.environment.clock.as_ref();
        tokio::select! {
            // The queue of reports ends with its last task.
            ((), ()) = async { tokio::join!(forward, ended) } => {}
            () = clock.sleep(LEAVE_TIMEOUT) => tracing::warn!("some tasks did not end in time"),
        }
    }

    fn take(&mut self, order: CoordinatorMessage) {
        let Some(order) = order.message else { return };
        let token = match &order {
            Order::Registered(_) | Order::Refused(_) => return,
            Order::Deploy(order) => &order.token,
            Order::Start(order) => &order.token,
            Order::Cancel(order) => &order.token,
            Order::Stop(order) => &order.token,
            Order::Publish(order) => &order.token,
            Order::TriggerCheckpoint(order) => &order.token,
            Order::CheckpointCompleted(order) => &order.token,
            Order::CheckpointAborted(order) => &order.token,
        };
        let key = match convert::token_from_proto(token.clone()) {
            Ok((job, token)) => AttemptKey { job, token },
            Err(error) => {
                tracing::error!("an order without a readable token is ignored: {error}");
                return;
            }
        };
        if !self.fence.admits(key.job, key.token) {
            tracing::warn!(job = %key.job, token = ?key.token, "an order of the past is refused");
            return;
        }
        match order {
            Order::Deploy(order) => self.attempts.deploy(key, order),
            Order::Start(_) => self.attempts.start(key),
            Order::Cancel(_) => self.attempts.cancel(key),
            Order::Stop(order) => {
                self.attempts.stop(key, if order.drain { StopMode::Drain } else { StopMode::NoDrain })
            }
            Order::Publish(order) => {
                let (worker, reporter) = (self.worker.clone(), self.reporter.clone());
                let answer = async move { reporter.send(publish(worker, order).await).await };
                self.worker.spawned.spawn(answer);
            }
            Order::TriggerCheckpoint(order) => self.attempts.trigger(key, order),
            Order::CheckpointCompleted(order) => {
                self.attempts.checkpoint_ended(key, CheckpointId(order.checkpoint_id), true);
            }
            Order::CheckpointAborted(order) => {
                self.attempts.checkpoint_ended(key, CheckpointId(order.checkpoint_id), false);
            }
            Order::Registered(_) | Order::Refused(_) => {}
        }
    }
}
