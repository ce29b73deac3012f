//! Harness of the whole-system tests: runs the real `weir` binary, alone and as a cluster of processes, on loopback
//! ports of the system's choice. It knows what a user knows: commands, files, exit codes, output.

#![allow(clippy::disallowed_methods, reason = "real processes live on the real clock")]

pub mod crash;

use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::mpsc;
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

/// Longest time anything in these tests may take; reached only when something hangs.
pub const PATIENCE: Duration = Duration::from_secs(180);

/// The binary under test, built beside the tests.
pub fn weir() -> PathBuf {
    let test = std::env::current_exe().expect("the test has a path");
    let profile = test.parent().and_then(Path::parent).expect("tests lie in <profile>/deps");
    let binary = profile.join("weir");
    assert!(binary.exists(), "{} is missing: build it with `cargo build -p weir-cli`", binary.display());
    binary
}

/// The root of the checkout.
pub fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("tests lie in the root").to_owned()
}

/// A `weir` command that runs in the checkout's root.
pub fn command(arguments: &[&str]) -> Command {
    let mut command = Command::new(weir());
    command.args(arguments).current_dir(root()).env_remove("RUST_LOG").stdin(Stdio::null());
    // Of the S3 servers of the tests.
    command.env("AWS_ACCESS_KEY_ID", "weir-test-key").env("AWS_SECRET_ACCESS_KEY", "weir-test-secret");
    command
}

/// Adds `-D name=value` for each pair.
pub fn defining(mut command: Command, definitions: &[(&str, &str)]) -> Command {
    for (name, value) in definitions {
        command.arg("-D").arg(format!("{name}={value}"));
    }
    command
}

/// Runs a command to its end.
pub fn run(mut command: Command) -> Output {
    let child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("weir starts");
    let pid = child.id();
    let (ended, is_ended) = mpsc::channel();
    let watchdog = std::thread::spawn(move || {
        if is_ended.recv_timeout(PATIENCE).is_err() {
            let _ = kill(Pid::from_raw(pid as i32), Signal::SIGKILL);
        }
    });
    let output = child.wait_with_output().expect("weir can be waited for");
    let _ = ended.send(());
    watchdog.join().expect("the watchdog ends");
    output
}

/// Runs a command that must succeed; its standard output.
pub fn succeed(command: Command) -> String {
    let text = format!("{command:?}");
    let output = run(command);
    assert!(output.status.success(), "{text}\n{}\n{}", output.status, String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).expect("output is text")
}

/// Runs a command that must fail; its standard error.
pub fn fail(command: Command) -> String {
    let text = format!("{command:?}");
    let output = run(command);
    assert!(!output.status.success(), "{text} succeeded:\n{}", String::from_utf8_lossy(&output.stdout));
    String::from_utf8(output.stderr).expect("errors are text")
}

/// A process that is killed with the test.
pub struct Process {
    child: Child,
    /// First line it printed on standard output.
    pub first_line: String,
}

impl Process {
    /// Starts a server and waits for its first line on standard output.
    pub fn start(mut command: Command) -> Process {
        let mut child = command.stdout(Stdio::piped()).stderr(Stdio::null()).spawn().expect("weir starts");
        let stdout = child.stdout.take().expect("output is piped");
        let (tx, rx) = mpsc::channel();
        std::thread::spawn(move || {
            for line in BufReader::new(stdout).lines().map_while(Result::ok) {
                let _ = tx.send(line);
            }
        });
        let first_line = rx.recv_timeout(PATIENCE).expect("a server says that it is ready");
        Process { child, first_line }
    }

    /// Starts a process that says nothing.
    pub fn spawn(mut command: Command) -> Process {
        let child = command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().expect("weir starts");
        Process { child, first_line: String::new() }
    }

    /// Whether it is over.
    pub fn has_ended(&mut self) -> bool {
        self.child.try_wait().expect("weir can be waited for").is_some()
    }

    /// The most memory it has held, in MiB; 0 when it is over.
    pub fn peak_memory_mib(&self) -> u64 {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.child.id())).unwrap_or_default();
        let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap_or_default();
        line.split_whitespace().next().and_then(|kib| kib.parse::<u64>().ok()).unwrap_or(0) / 1024
    }

    /// The last word of the first line: the address it listens on.
    pub fn address(&self) -> String {
        self.first_line.rsplit(' ').next().expect("a line has words").to_owned()
    }

    /// Its process id.
    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// Sends a signal.
    pub fn signal(&self, signal: Signal) {
        kill(Pid::from_raw(self.child.id() as i32), signal).expect("the process is there");
    }

    /// Waits for its end; whether it ended with success.
    pub fn wait(&mut self) -> bool {
        let started = Instant::now();
        loop {
            if let Some(status) = self.child.try_wait().expect("weir can be waited for") {
                return status.success();
            }
            assert!(started.elapsed() < PATIENCE, "the process does not end");
            std::thread::sleep(Duration::from_millis(10));
        }
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A coordinator and workers as processes of their own.
pub struct Cluster {
    /// The workers.
    pub workers: Vec<Process>,
    /// The coordinator.
    pub coordinator: Process,
    directory: tempfile::TempDir,
    options: ClusterOptions,
}

/// How the processes of a cluster are started.
#[derive(Clone, Debug, Default)]
pub struct ClusterOptions {
    /// More variables of their environment.
    pub environment: Vec<(String, String)>,
    /// A write beyond the limit of a file's size fails, as on a full disk, and does not kill a worker.
    pub outlives_full_disk: bool,
    /// Memory of each worker, such as 128MiB; a default of the machine's when absent.
    pub memory: Option<&'static str>,
}

impl Cluster {
    /// Starts a coordinator and some workers, and waits until all are registered.
    pub fn start(worker_count: usize, slots: u32) -> Cluster {
        Cluster::with(worker_count, slots, ClusterOptions::default())
    }

    /// As [`Cluster::start`].
    pub fn with(worker_count: usize, slots: u32, options: ClusterOptions) -> Cluster {
        let directory = tempfile::tempdir().expect("a directory for the cluster");
        let data = directory.path().join("coordinator").display().to_string();
        let listen = ["--listen", "127.0.0.1:0", "--http", "127.0.0.1:0", "--data-dir", &data];
        let coordinator = Process::start(options.server(&[&["coordinator"], &listen[..]].concat()));
        let mut cluster = Cluster { workers: Vec::new(), coordinator, directory, options };
        for _ in 0..worker_count {
            cluster.add_worker(slots);
        }
        cluster
    }

    /// Kills the coordinator and starts it again on the same address and directory.
    pub fn restart_coordinator(&mut self) {
        let (address, data) = (self.coordinator.address(), self.directory.path().join("coordinator"));
        self.coordinator.signal(Signal::SIGKILL);
        self.coordinator.wait();
        let data = data.display().to_string();
        let listen = ["coordinator", "--listen", &address, "--http", "127.0.0.1:0", "--data-dir", &data];
        self.coordinator = Process::start(self.options.server(&listen));
    }

    /// Starts one more worker; it is registered when this returns.
    pub fn add_worker(&mut self, slots: u32) {
        let data = self.directory.path().join(format!("worker-{}", self.workers.len())).display().to_string();
        let (address, slots) = (self.coordinator.address(), slots.to_string());
        let mut worker = vec!["worker", "--coordinator", &address, "--slots", &slots, "--http", "127.0.0.1:0"];
        worker.extend(self.options.memory.iter().flat_map(|memory| ["--memory", memory]));
        worker.extend(["--data-dir", &data]);
        self.workers.push(Process::start(self.options.server(&worker)));
    }

    /// A client command against this cluster.
    pub fn client(&self, arguments: &[&str]) -> Command {
        let mut command = command(&arguments[..1]);
        command.args(["-m", &self.coordinator.address()]).args(&arguments[1..]);
        command
    }

    /// Submits a job without waiting for its end; its id.
    pub fn submit(&self, arguments: &[&str], definitions: &[(&str, &str)]) -> String {
        let output = succeed(defining(self.client(&[&["run", "-d"], arguments].concat()), definitions));
        output.trim().rsplit(' ').next().expect("the job's id").to_owned()
    }

    /// Asks `weir info` until its text contains `wanted`; that text.
    pub fn wait_for(&self, job: &str, wanted: &str) -> String {
        self.wait_for_any(job, &[wanted])
    }

    /// Asks `weir info` until its text contains one of `wanted`; that text.
    pub fn wait_for_any(&self, job: &str, wanted: &[&str]) -> String {
        let started = Instant::now();
        loop {
            let text = succeed(self.client(&["info", job]));
            if wanted.iter().any(|wanted| text.contains(wanted)) {
                return text;
            }
            assert!(started.elapsed() < PATIENCE, "{wanted:?} does not come:\n{text}");
            std::thread::sleep(Duration::from_millis(50));
        }
    }

    /// Asks `weir info` until its text contains one of `wanted`; that text. A coordinator that does not answer is asked again.
    ///
    /// **Errors**: the job failed and that was not wanted, or the time is over.
    pub fn until(&self, job: &str, wanted: &[&str], deadline: Instant) -> Result<String, String> {
        loop {
            let output = run(self.client(&["info", job]));
            let text = String::from_utf8_lossy(&output.stdout).into_owned();
            if output.status.success() && wanted.iter().any(|wanted| text.contains(wanted)) {
                return Ok(text);
            }
            if text.contains("State      FAILED") {
                return Err(format!("the job failed:\n{text}"));
            }
            if Instant::now() >= deadline {
                let said = String::from_utf8_lossy(&output.stderr);
                return Err(format!("{wanted:?} does not come:\n{text}{said}"));
            }
            std::thread::sleep(Duration::from_millis(50));
        }
    }

    /// Files left in the workers' and the coordinator's directories with this in their name.
    pub fn files_with(&self, part: &str) -> Vec<PathBuf> {
        files_below(self.directory.path()).into_iter().filter(|path| path.to_string_lossy().contains(part)).collect()
    }
}

impl ClusterOptions {
    fn server(&self, arguments: &[&str]) -> Command {
        let mut server = command(arguments);
        if self.outlives_full_disk {
            // An ignored signal stays ignored in the program that the shell becomes. Its log is on that disk too, beside the
            // data directory, which is the last argument.
            let script = "trap '' XFSZ; exec \"$0\" \"$@\" 2>> \"${!#}.log\"";
            let mut shell = Command::new("bash");
            shell.args(["-c", script]).arg(server.get_program()).args(server.get_args());
            shell.envs(server.get_envs().filter_map(|(name, value)| Some((name, value?))));
            shell.current_dir(root()).env_remove("RUST_LOG").stdin(Stdio::null());
            server = shell;
        }
        server.envs(self.environment.iter().map(|(name, value)| (name, value)));
        server
    }
}

/// All files below a directory.
pub fn files_below(directory: &Path) -> Vec<PathBuf> {
    let Ok(entries) = std::fs::read_dir(directory) else { return Vec::new() };
    let paths = entries.filter_map(Result::ok).map(|entry| entry.path());
    paths.flat_map(|path| if path.is_dir() { files_below(&path) } else { vec![path] }).collect()
}

/// Header and sorted rows of a CSV file: equal for equal results, whatever the order.
pub fn sorted_lines(path: &Path) -> Vec<String> {
    let text = std::fs::read_to_string(path).unwrap_or_else(|error| panic!("read {}: {error}", path.display()));
    let mut lines: Vec<String> = text.lines().map(str::to_owned).collect();
    lines[1..].sort();
    lines
}

/// Compares two results and shows the first differences instead of a hundred thousand lines.
pub fn assert_same(found: &[String], expected: &[String], what: &str) {
    if let Err(difference) = difference(found, expected) {
        panic!("{what}: {difference}");
    }
}

/// Compares two results, each a header and sorted rows.
///
/// **Errors**: the first differences; a row that is there twice counts as a difference.
pub fn difference(found: &[String], expected: &[String]) -> Result<(), String> {
    if found == expected {
        return Ok(());
    }
    let (missing, extra) = (first_more(expected, found), first_more(found, expected));
    Err(format!("{} lines, expected {}; missing {missing:#?}, extra {extra:#?}", found.len(), expected.len()))
}

/// The first lines of which there are more in `of` than in `other`.
fn first_more<'a>(of: &'a [String], other: &'a [String]) -> Vec<&'a String> {
    let mut counts: std::collections::BTreeMap<&String, i64> = std::collections::BTreeMap::new();
    other.iter().for_each(|line| *counts.entry(line).or_insert(0) += 1);
    let mut more = Vec::new();
    for line in of {
        let left = counts.entry(line).or_insert(0);
        *left -= 1;
        if *left < 0 && more.len() < 5 {
            more.push(line);
        }
    }
    more
}
