//! How a stream to another worker is opened: the seam where a simulation puts its own network.

use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use async_trait::async_trait;
use futures::{Stream, StreamExt};
use tonic::transport::Endpoint;
use weir_proto::v1::exchange_service_client::ExchangeServiceClient;
use weir_proto::v1::{Credit, Frame};

use super::frame::FRAME_BYTES_MAX;

/// Frames on their way up. A type of its own: the compiler cannot prove the client's future `Send` for a bare
/// `dyn Stream`.
pub struct FrameStream(Pin<Box<dyn Stream<Item = Frame> + Send>>);

impl FrameStream {
    /// Wraps any stream of frames.
    pub fn new(frames: impl Stream<Item = Frame> + Send + 'static) -> Self {
        FrameStream(Box::pin(frames))
    }
}

impl Stream for FrameStream {
    type Item = Frame;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Frame>> {
        self.0.as_mut().poll_next(context)
    }
}

/// Credits on their way down; an error is the end of the stream.
pub type CreditStream = Pin<Box<dyn Stream<Item = Result<Credit, TransportError>> + Send>>;

/// HTTP/2 window of one stream. The default of 64 KiB would make a sender wait for the network at every batch.
pub const STREAM_WINDOW_BYTES: u32 = 4 << 20;
/// HTTP/2 window of one connection.
pub const CONNECTION_WINDOW_BYTES: u32 = 16 << 20;
/// Largest HTTP/2 frame: a batch is cut into few pieces.
pub const HTTP_FRAME_BYTES_MAX: u32 = 1 << 20;

const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
const KEEP_ALIVE: Duration = Duration::from_secs(5);

/// The network's words for what went wrong.
#[derive(Clone, Debug, thiserror::Error)]
#[error("{0}")]
pub struct TransportError(pub String);

/// Opens streams to other workers.
#[async_trait]
pub trait Transport: Send + Sync {
    /// Opens a stream to the data address of a worker.
    async fn open(&self, address: &str, frames: FrameStream) -> Result<CreditStream, TransportError>;
}

/// gRPC over TCP.
#[derive(Clone, Copy, Debug, Default)]
pub struct TonicTransport;

#[async_trait]
impl Transport for TonicTransport {
    async fn open(&self, address: &str, frames: FrameStream) -> Result<CreditStream, TransportError> {
        open(address, frames).await
    }
}

async fn open(address: &str, frames: FrameStream) -> Result<CreditStream, TransportError> {
    let endpoint = Endpoint::from_shared(format!("http://{address}"))
        .map_err(|error| TransportError(format!("'{address}' is not an address: {error}")))?
        .connect_timeout(CONNECT_TIMEOUT)
        .tcp_nodelay(true)
        .initial_stream_window_size(STREAM_WINDOW_BYTES)
        .initial_connection_window_size(CONNECTION_WINDOW_BYTES)
        .http2_keep_alive_interval(KEEP_ALIVE)
        .keep_alive_timeout(KEEP_ALIVE);
    let connected = endpoint.connect().await;
    let channel =
        connected.map_err(|error| TransportError(format!("cannot connect: {}", weir_core::error::report(&error))))?;
    let mut client = ExchangeServiceClient::new(channel)
        .max_encoding_message_size(FRAME_BYTES_MAX)
        .max_decoding_message_size(FRAME_BYTES_MAX);
    let response = client.open(frames).await.map_err(describe)?;
    Ok(Box::pin(response.into_inner().map(|credit| credit.map_err(describe))))
}

#[allow(clippy::needless_pass_by_value, reason = "the shape that map_err calls")]
fn describe(status: tonic::Status) -> TransportError {
    TransportError(format!("{}: {}", status.code(), status.message()))
}
