//! A proxy between an HTTP client and its server that breaks the wire on command: one fault for one request.
//!
//! It passes requests on as they are, so signatures stay good (a client signs the host it sees). Every connection carries
//! one request. It knows HTTP/1.1 with a Content-Length, which is what S3 clients send, and nothing of S3.

use std::collections::{BTreeMap, VecDeque};
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinHandle;
use weir_core::Clock;
use weir_operator_api::SystemClock;

/// Longest head of a request or an answer.
const HEAD_BYTES_MAX: usize = 64 << 10;
/// Longest body.
const BODY_BYTES_MAX: usize = 256 << 20;

/// What happens to one request. `applied` says whether the server gets to see it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Fault {
    /// Nothing.
    None,
    /// The client gets this status instead of the server's answer.
    Status {
        /// Like 503.
        code: u16,
        /// Whether the server has done it all the same.
        applied: bool,
    },
    /// The connection is closed in order, without an answer.
    Fin {
        /// Whether the server has done it all the same.
        applied: bool,
    },
    /// The connection is reset, without an answer.
    Reset {
        /// Whether the server has done it all the same.
        applied: bool,
    },
    /// Nothing comes, until the client hangs up.
    Silence {
        /// Whether the server has done it all the same.
        applied: bool,
    },
    /// The server does it, and the connection is closed in the middle of the answer's head.
    HalfHead,
    /// The answer comes late.
    Delay(Duration),
    /// The answer's body ends early.
    Truncate {
        /// Bytes that come.
        keep: usize,
        /// Whether the answer's Content-Length says as many; otherwise the connection just closes.
        is_length_matching: bool,
    },
    /// One bit of the answer's body is wrong.
    FlipAnswerBit(usize),
    /// One bit of the request's body is wrong.
    FlipRequestBit(usize),
    /// The answer has this status and body and keeps its other headers; 200 drops Content-Range, as a server does that
    /// ignores ranges.
    Replace {
        /// Like 200.
        status: u16,
        /// Whole body.
        body: Vec<u8>,
    },
}

#[derive(Debug, Default)]
struct Plan {
    next: BTreeMap<String, VecDeque<Fault>>,
    always: BTreeMap<String, Fault>,
    seen: BTreeMap<String, usize>,
    in_flight: usize,
    in_flight_max: usize,
}

/// A running proxy; dropping it ends it.
#[derive(Debug)]
pub struct FaultProxy {
    address: SocketAddr,
    plan: Arc<Mutex<Plan>>,
    task: JoinHandle<()>,
}

impl FaultProxy {
    /// Starts a proxy on a free loopback port.
    pub async fn start(upstream: SocketAddr) -> FaultProxy {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("loopback has a free port");
        let address = listener.local_addr().expect("a bound socket has an address");
        let plan: Arc<Mutex<Plan>> = Arc::default();
        let shared = Arc::clone(&plan);
        let task = tokio::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                let plan = Arc::clone(&shared);
                tokio::spawn(async move {
                    // A connection that breaks is what this is for.
                    let _ = serve(client, upstream, &plan).await;
                });
            }
        });
        FaultProxy { address, plan, task }
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// The next requests with this method get these faults, one each, in order; those after them none.
    pub fn next(&self, method: &str, faults: impl IntoIterator<Item = Fault>) {
        self.plan().next.entry(method.to_owned()).or_default().extend(faults);
    }

    /// Every request with this method gets this fault, when `next` has none for it; `Fault::None` ends it.
    pub fn always(&self, method: &str, fault: Fault) {
        self.plan().always.insert(method.to_owned(), fault);
    }

    /// Requests with this method that came, whatever became of them.
    pub fn seen(&self, method: &str) -> usize {
        self.plan().seen.get(method).copied().unwrap_or(0)
    }

    /// Faults given to `next` that no request has met yet.
    pub fn waiting(&self) -> usize {
        self.plan().next.values().map(VecDeque::len).sum()
    }

    /// Most requests that were under way at once.
    pub fn in_flight_max(&self) -> usize {
        self.plan().in_flight_max
    }

    fn plan(&self) -> MutexGuard<'_, Plan> {
        self.plan.lock().expect("no holder of the lock panics")
    }
}

impl Drop for FaultProxy {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// Head and body of a request or an answer.
struct Message {
    head: String,
    body: Vec<u8>,
}

impl Message {
    fn header(&self, name: &str) -> Option<&str> {
        self.head.lines().skip(1).find_map(|line| {
            let (found, value) = line.split_once(':')?;
            found.eq_ignore_ascii_case(name).then(|| value.trim())
        })
    }

    fn without(&mut self, name: &str) {
        let is_other = |line: &&str| !line.split(':').next().is_some_and(|found| found.eq_ignore_ascii_case(name));
        self.head = self.head.lines().filter(is_other).map(|line| format!("{line}\r\n")).collect();
    }

    fn with(&mut self, name: &str, value: &str) {
        self.without(name);
        self.head.push_str(&format!("{name}: {value}\r\n"));
    }

    /// Head, empty line, body.
    fn bytes(&self) -> Vec<u8> {
        [self.head.as_bytes(), b"\r\n", &self.body].concat()
    }
}

/// A request is under way from when it has come until its answer begins, or its client has gone.
struct InFlight<'a>(&'a Mutex<Plan>);

impl<'a> InFlight<'a> {
    fn enter(plan: &'a Mutex<Plan>) -> Self {
        let mut counts = plan.lock().expect("no holder of the lock panics");
        counts.in_flight += 1;
        counts.in_flight_max = counts.in_flight_max.max(counts.in_flight);
        InFlight(plan)
    }
}

impl Drop for InFlight<'_> {
    fn drop(&mut self) {
        self.0.lock().expect("no holder of the lock panics").in_flight -= 1;
    }
}

async fn serve(mut client: TcpStream, upstream: SocketAddr, plan: &Mutex<Plan>) -> std::io::Result<()> {
    let mut request = read_head(&mut client).await?;
    let length = request.header("content-length").and_then(|value| value.parse().ok()).unwrap_or(0);
    read_body(&mut client, &mut request.body, length).await?;
    let method = request.head.split(' ').next().unwrap_or_default().to_owned();
    let in_flight = InFlight::enter(plan);
    let fault = {
        let mut plan = plan.lock().expect("no holder of the lock panics");
        *plan.seen.entry(method.clone()).or_default() += 1;
        let next = plan.next.get_mut(&method).and_then(VecDeque::pop_front);
        next.or_else(|| plan.always.get(&method).cloned()).unwrap_or(Fault::None)
    };
    if let Fault::FlipRequestBit(bit) = fault {
        flip(&mut request.body, bit);
    }
    let is_applied = !matches!(
        fault,
        Fault::Status { applied: false, .. }
            | Fault::Fin { applied: false }
            | Fault::Reset { applied: false }
            | Fault::Silence { applied: false }
    );
    let answer = if is_applied { forward(request, upstream).await } else { Ok(None) };
    // A server that is not there looks to the client like one that hangs up.
    let Ok(answer) = answer else { return reset(client) };
    answer_client(client, answer, fault, method == "HEAD", in_flight).await
}

async fn answer_client(
    mut client: TcpStream,
    answer: Option<Message>,
    fault: Fault,
    is_head: bool,
    in_flight: InFlight<'_>,
) -> std::io::Result<()> {
    let mut answer = answer.unwrap_or_else(|| Message { head: "HTTP/1.1 500 None\r\n".to_owned(), body: Vec::new() });
    answer.with("Connection", "close");
    match fault {
        Fault::Fin { .. } => return Ok(()),
        Fault::Reset { .. } => return reset(client),
        Fault::Silence { .. } => {
            // Nothing more comes from the client but the end of the connection.
            let _ = client.read(&mut [0; 1]).await;
            return Ok(());
        }
        Fault::HalfHead => {
            let bytes = answer.head.as_bytes();
            return client.write_all(&bytes[..bytes.len() / 2]).await;
        }
        Fault::Status { code, .. } => {
            // A client may want an ETag before it believes a success.
            let headers = "ETag: \"fault\"\r\nContent-Length: 0\r\nConnection: close\r\n";
            let head = format!("HTTP/1.1 {code} Fault\r\n{headers}");
            answer = Message { head, body: Vec::new() };
        }
        Fault::Delay(duration) => SystemClock::default().sleep(duration).await,
        Fault::Truncate { keep, is_length_matching } => {
            answer.body.truncate(keep);
            if is_length_matching && !is_head {
                answer.with("Content-Length", &keep.to_string());
            }
        }
        Fault::FlipAnswerBit(bit) => flip(&mut answer.body, bit),
        Fault::Replace { status, body } => {
            let (_, headers) = answer.head.split_once("\r\n").unwrap_or_default();
            answer.head = format!("HTTP/1.1 {status} Replaced\r\n{headers}");
            answer.with("Content-Length", &body.len().to_string());
            if status == 200 {
                answer.without("Content-Range");
            }
            answer.body = body;
        }
        Fault::None | Fault::FlipRequestBit(_) => {}
    }
    // The client may send its next request as soon as it has this.
    drop(in_flight);
    client.write_all(&answer.bytes()).await?;
    client.shutdown().await
}

async fn forward(mut request: Message, upstream: SocketAddr) -> std::io::Result<Option<Message>> {
    request.with("Connection", "close");
    let mut server = TcpStream::connect(upstream).await?;
    server.write_all(&request.bytes()).await?;
    let mut answer = read_head(&mut server).await?;
    // The server closes after its answer, so the end of the stream is the end of the body.
    let mut rest = server.take(BODY_BYTES_MAX as u64);
    rest.read_to_end(&mut answer.body).await?;
    if answer.header("transfer-encoding").is_some() {
        answer.body = unchunk(&answer.body);
        answer.without("Transfer-Encoding");
        answer.with("Content-Length", &answer.body.len().to_string());
    }
    Ok(Some(answer))
}

/// Reads up to the empty line; what came after it begins the body.
async fn read_head(stream: &mut TcpStream) -> std::io::Result<Message> {
    let mut bytes = Vec::new();
    loop {
        if let Some(end) = bytes.windows(4).position(|window| window == b"\r\n\r\n") {
            let body = bytes.split_off(end + 4);
            bytes.truncate(end + 2);
            let head = String::from_utf8(bytes).map_err(std::io::Error::other)?;
            return Ok(Message { head, body });
        }
        if bytes.len() > HEAD_BYTES_MAX || stream.read_buf(&mut bytes).await? == 0 {
            return Err(std::io::ErrorKind::UnexpectedEof.into());
        }
    }
}

async fn read_body(stream: &mut TcpStream, body: &mut Vec<u8>, length: usize) -> std::io::Result<()> {
    assert!(length <= BODY_BYTES_MAX, "a test sends {length} bytes at once");
    while body.len() < length {
        if stream.read_buf(body).await? == 0 {
            return Err(std::io::ErrorKind::UnexpectedEof.into());
        }
    }
    Ok(())
}

fn unchunk(mut chunks: &[u8]) -> Vec<u8> {
    let mut body = Vec::new();
    while let Some(end) = chunks.windows(2).position(|window| window == b"\r\n") {
        let size =
            std::str::from_utf8(&chunks[..end]).ok().and_then(|text| usize::from_str_radix(text.trim(), 16).ok());
        let Some(chunk) = size.filter(|size| *size > 0).and_then(|size| chunks.get(end + 2..end + 2 + size)) else {
            break;
        };
        body.extend_from_slice(chunk);
        chunks = chunks.get(end + 4 + chunk.len()..).unwrap_or_default();
    }
    body
}

fn flip(bytes: &mut [u8], bit: usize) {
    if let Some(byte) = bytes.get_mut(bit / 8) {
        *byte ^= 1 << (bit % 8);
    }
}

/// Drops the connection so that the other side sees a reset.
fn reset(client: TcpStream) -> std::io::Result<()> {
    client.set_zero_linger()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn chunks_are_joined() {
        assert_eq!(unchunk(b"3\r\nabc\r\n2\r\nde\r\n0\r\n\r\n"), b"abcde");
        assert_eq!(unchunk(b"ff\r\nshort"), b"");
    }

    #[test]
    fn headers_are_found_and_replaced() {
        let mut message = Message { head: "GET / HTTP/1.1\r\nhost: a\r\nRange: x\r\n".to_owned(), body: vec![1] };
        assert_eq!(message.header("Host"), Some("a"));
        message.with("Range", "y");
        assert_eq!(message.bytes(), b"GET / HTTP/1.1\r\nhost: a\r\nRange: y\r\n\r\n\x01");
    }
}
