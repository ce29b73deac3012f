//! An S3 server of a test's own: versitygw over a temporary directory, on a free loopback port. `scripts/services up s3`
//! brings the program onto the machine; a test that needs it fails without it.

use std::net::{SocketAddr, TcpListener};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use tempfile::TempDir;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use weir_core::Clock;
use weir_operator_api::SystemClock;

/// As in `scripts/services`.
const VERSION: &str = "1.8.0";
/// Credentials of every server of the tests.
pub const ACCESS_KEY: &str = "weir-test-key";
/// As [`ACCESS_KEY`].
pub const SECRET_KEY: &str = "weir-test-secret";
/// The bucket that every server begins with.
pub const BUCKET: &str = "checkpoints";

/// Another process may take the free port before the server does.
const STARTS_MAX: usize = 5;
const POLL: Duration = Duration::from_millis(20);
/// Polls until a server that runs must answer: ten seconds.
const POLLS_MAX: usize = 500;

/// A running server; dropping it kills the process and removes its directory.
#[derive(Debug)]
pub struct S3Server {
    directory: TempDir,
    address: SocketAddr,
    child: Option<Child>,
}

impl S3Server {
    /// Starts a server with an empty bucket and waits until it answers.
    ///
    /// **Panics**: when the program is missing, with the command that brings it.
    pub async fn start() -> S3Server {
        let directory = TempDir::new().expect("a test may make a temporary directory");
        std::fs::create_dir(directory.path().join(BUCKET)).expect("the directory is new");
        let mut server = S3Server { directory, address: free_address(), child: None };
        for _ in 0..STARTS_MAX {
            if server.try_start().await {
                return server;
            }
            server.address = free_address();
        }
        panic!("versitygw did not start {STARTS_MAX} times on a free port");
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// The environment that the credentials come from.
    pub fn environment(&self) -> Vec<(String, String)> {
        credentials(ACCESS_KEY, SECRET_KEY)
    }

    /// The file that holds an object, to damage it behind the server's back.
    pub fn file(&self, key: &str) -> PathBuf {
        self.directory.path().join(BUCKET).join(key)
    }

    /// Kills the process; the objects stay.
    pub fn kill(&mut self) {
        if let Some(mut child) = self.child.take() {
            // The process may have ended by itself; waiting reaps it either way.
            let _ = child.kill();
            let _ = child.wait();
        }
    }

    /// Starts the process again on the same port and objects.
    ///
    /// **Panics**: when it does not come up.
    pub async fn start_again(&mut self) {
        self.kill();
        assert!(self.try_start().await, "versitygw did not start again on {}", self.address);
    }

    /// Whether it came up; not when the port was taken.
    async fn try_start(&mut self) -> bool {
        let program = program();
        let child = Command::new(&program)
            .args(["--port", &self.address.to_string(), "--quiet", "--keep-alive", "posix"])
            .arg(self.directory.path())
            .env("ROOT_ACCESS_KEY", ACCESS_KEY)
            .env("ROOT_SECRET_KEY", SECRET_KEY)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn();
        let missing = |error| {
            panic!("cannot run versitygw as {}: {error}. Run: scripts/services up s3", program.display());
        };
        self.child = Some(child.unwrap_or_else(missing));
        let clock = SystemClock::default();
        for _ in 0..POLLS_MAX {
            let ended = self.child.as_mut().is_none_or(|child| !matches!(child.try_wait(), Ok(None)));
            if ended {
                self.kill();
                return false;
            }
            if answers(self.address).await {
                return true;
            }
            clock.sleep(POLL).await;
        }
        self.kill();
        false
    }
}

impl Drop for S3Server {
    fn drop(&mut self) {
        self.kill();
    }
}

/// The variables of the environment that hold credentials.
pub fn credentials(access_key: &str, secret_key: &str) -> Vec<(String, String)> {
    let pairs = [("AWS_ACCESS_KEY_ID", access_key), ("AWS_SECRET_ACCESS_KEY", secret_key)];
    pairs.map(|(name, value)| (name.to_owned(), value.to_owned())).into()
}

fn program() -> PathBuf {
    let tools = std::env::var_os("WEIR_TOOLS").map(PathBuf::from);
    let home = || PathBuf::from(std::env::var_os("HOME").unwrap_or_default()).join(".cache/weir-tools");
    tools.unwrap_or_else(home).join(format!("versitygw-{VERSION}"))
}

fn free_address() -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").expect("loopback has a free port");
    listener.local_addr().expect("a bound socket has an address")
}

/// Whether an HTTP server answers; what it says to a request without a signature does not matter.
async fn answers(address: SocketAddr) -> bool {
    let Ok(mut stream) = TcpStream::connect(address).await else { return false };
    let request = format!("GET / HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n");
    let mut start = [0; 5];
    stream.write_all(request.as_bytes()).await.is_ok()
        && stream.read_exact(&mut start).await.is_ok()
        && &start == b"HTTP/"
}
