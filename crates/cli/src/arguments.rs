//! The arguments of `weir`, as clap reads them. Verbs and flags are Flink's where Flink has them.

use std::net::SocketAddr;
use std::path::PathBuf;

use clap::{Args, Parser, Subcommand, ValueEnum};
use weir_graph::limits::PARALLELISM_MAX;

/// Address at which a coordinator is looked for, and served, when nothing is said.
pub const COORDINATOR_DEFAULT: &str = "127.0.0.1:6123";
/// Address of a coordinator's metrics when nothing is said.
pub const HTTP_DEFAULT: &str = "127.0.0.1:8081";

/// Weir, a distributed stream processor.
#[derive(Parser, Debug)]
#[command(name = "weir", version, about, propagate_version = true)]
pub struct Arguments {
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
    /// Form of the log on standard error.
    #[arg(long, global = true, value_enum, default_value_t = LogFormat::Text)]
    pub log_format: LogFormat,
    /// What is logged: error, warn, info, debug, trace, or a filter as in RUST_LOG (which it replaces). Default: info
    /// for servers, warn for everything else.
    #[arg(long, global = true, value_name = "LEVEL")]
    pub log_level: Option<String>,
}

/// Form of the log.
#[derive(Clone, Copy, PartialEq, Eq, Debug, ValueEnum)]
pub enum LogFormat {
    /// Lines for people.
    Text,
    /// One JSON object per line.
    Json,
}

/// The commands.
#[derive(Subcommand, Debug)]
pub enum Command {
    /// Submit a job and follow it to its end.
    Run(RunOptions),
    /// List the jobs of a cluster.
    List(Target),
    /// Show one job: its operators, counters and failure.
    Info(JobOptions),
    /// End a job now; nothing more is published.
    Cancel(JobOptions),
    /// End the sources of a job, with a savepoint; what is under way is processed and published.
    Stop(StopOptions),
    /// Take a savepoint: a checkpoint that is yours, from which the job or another one can start.
    Savepoint(SavepointOptions),
    /// Take a checkpoint now.
    Checkpoint(JobOptions),
    /// Run a job at another parallelism, from a checkpoint that is taken now.
    Rescale(RescaleOptions),
    /// Check the form of a job file without a cluster.
    Validate(JobFile),
    /// Run a cluster in this process; or one job in it, to its end.
    Local(Local),
    /// Run a coordinator.
    Coordinator(CoordinatorOptions),
    /// Run a worker.
    Worker(WorkerOptions),
}

impl Command {
    /// Whether the command stays up and logs what it does.
    pub fn is_server(&self) -> bool {
        matches!(self, Command::Coordinator(_) | Command::Worker(_) | Command::Local(Local { command: None, .. }))
    }
}

/// Which cluster.
#[derive(Args, Debug)]
pub struct Target {
    /// The coordinator's address.
    #[arg(short = 'm', long = "coordinator", value_name = "HOST:PORT", default_value = COORDINATOR_DEFAULT)]
    pub coordinator: String,
}

/// A job file and its values.
#[derive(Args, Debug)]
pub struct JobFile {
    /// The job: YAML or JSON (docs/job-graph.md).
    pub file: PathBuf,
    /// Subtasks of each operator that sets no parallelism: sets parallelism.default.
    #[arg(short = 'p', long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=i64::from(PARALLELISM_MAX)))]
    pub parallelism: Option<u32>,
    /// Fills ${name} in the job file, or sets a configuration key (docs/operating/configuration.md).
    #[arg(short = 'D', value_name = "NAME=VALUE", value_parser = definition)]
    pub definitions: Vec<(String, String)>,
}

/// Arguments of `weir run`.
#[derive(Args, Debug)]
pub struct RunOptions {
    /// Which cluster.
    #[command(flatten)]
    pub target: Target,
    /// Which job.
    #[command(flatten)]
    pub job: JobFile,
    /// What it begins with.
    #[command(flatten)]
    pub restore: RestoreOptions,
    /// Submit only; do not wait for the end.
    #[arg(short = 'd', long, conflicts_with = "summary")]
    pub detached: bool,
    /// Write the job's final counters to this file, as JSON.
    #[arg(long, value_name = "FILE")]
    pub summary: Option<PathBuf>,
}

/// What a job begins with.
#[derive(Args, Clone, Debug, Default)]
pub struct RestoreOptions {
    /// Start from this savepoint or checkpoint: its directory, as a path or URL.
    #[arg(short = 's', long = "fromSavepoint", value_name = "PATH")]
    pub from_savepoint: Option<String>,
    /// Leave out state that no operator of the job takes (an operator was removed).
    #[arg(short = 'n', long = "allowNonRestoredState", requires = "from_savepoint")]
    pub allow_non_restored_state: bool,
}

/// Arguments of `weir info`, `weir cancel` and `weir checkpoint`.
#[derive(Args, Debug)]
pub struct JobOptions {
    /// Which cluster.
    #[command(flatten)]
    pub target: Target,
    /// The job's id, or enough of its beginning.
    pub job: String,
}

/// Arguments of `weir stop`.
#[derive(Args, Debug)]
pub struct StopOptions {
    /// Which job.
    #[command(flatten)]
    pub job: JobOptions,
    /// Fire open windows, as if all input had come.
    #[arg(long)]
    pub drain: bool,
    /// Where the savepoint is made: a directory or URL. Default: execution.checkpointing.savepoint-dir of the job; without
    /// either, the job is stopped without a savepoint.
    #[arg(short = 'p', long = "savepointPath", value_name = "DIR")]
    pub savepoint_path: Option<String>,
}

/// Arguments of `weir savepoint`.
#[derive(Args, Debug)]
pub struct SavepointOptions {
    /// Which job.
    #[command(flatten)]
    pub job: JobOptions,
    /// Where it is made: a directory or URL. Default: execution.checkpointing.savepoint-dir of the job.
    pub directory: Option<String>,
}

/// Arguments of `weir rescale`.
#[derive(Args, Debug)]
pub struct RescaleOptions {
    /// Which job.
    #[command(flatten)]
    pub job: JobOptions,
    /// Subtasks of each operator that sets no parallelism.
    #[arg(short = 'p', long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=i64::from(PARALLELISM_MAX)))]
    pub parallelism: u32,
}

/// Arguments of `weir local`.
#[derive(Args, Debug)]
#[command(args_conflicts_with_subcommands = true)]
pub struct Local {
    /// Run one job instead of staying up.
    #[command(subcommand)]
    pub command: Option<LocalCommand>,
    /// How to stay up.
    #[command(flatten)]
    pub options: LocalOptions,
}

/// Commands of `weir local`.
#[derive(Subcommand, Debug)]
pub enum LocalCommand {
    /// Run one job to its end; exits with 0 only when it has FINISHED.
    Run(LocalRunOptions),
}

/// Arguments of `weir local` that stays up.
#[derive(Args, Debug)]
pub struct LocalOptions {
    /// Where clients reach the cluster; port 0 takes a free one.
    #[arg(long, value_name = "HOST:PORT", default_value = COORDINATOR_DEFAULT)]
    pub listen: SocketAddr,
    /// Where /metrics and /healthz are served; port 0 takes a free one.
    #[arg(long, value_name = "HOST:PORT", default_value = HTTP_DEFAULT)]
    pub http: SocketAddr,
    /// Slots of the cluster: the sum over its jobs of their greatest parallelism.
    #[arg(long, value_name = "N", default_value_t = 64, value_parser = clap::value_parser!(u32).range(1..))]
    pub slots: u32,
    /// Memory of the worker, such as 2GiB: state beyond it goes to disk. Default: half of the machine's.
    #[arg(long, value_name = "SIZE", value_parser = memory)]
    pub memory: Option<u64>,
    /// Directory of the cluster's files.
    #[arg(long, value_name = "DIR", default_value = ".weir/local")]
    pub data_dir: PathBuf,
}

/// Arguments of `weir local run`.
#[derive(Args, Debug)]
pub struct LocalRunOptions {
    /// Which job.
    #[command(flatten)]
    pub job: JobFile,
    /// Write the job's final counters to this file, as JSON.
    #[arg(long, value_name = "FILE")]
    pub summary: Option<PathBuf>,
    /// What it begins with.
    #[command(flatten)]
    pub restore: RestoreOptions,
    /// Memory of the worker, such as 2GiB: state beyond it goes to disk. Default: half of the machine's.
    #[arg(long, value_name = "SIZE", value_parser = memory)]
    pub memory: Option<u64>,
    /// Where /metrics and /healthz are served meanwhile; nowhere by default.
    #[arg(long, value_name = "HOST:PORT")]
    pub http: Option<SocketAddr>,
}

/// Arguments of `weir coordinator`.
#[derive(Args, Debug)]
pub struct CoordinatorOptions {
    /// Where clients and workers reach it; port 0 takes a free one.
    #[arg(long, value_name = "HOST:PORT", default_value = COORDINATOR_DEFAULT)]
    pub listen: SocketAddr,
    /// Where /metrics and /healthz are served; port 0 takes a free one.
    #[arg(long, value_name = "HOST:PORT", default_value = HTTP_DEFAULT)]
    pub http: SocketAddr,
    /// Directory of its files.
    #[arg(long, value_name = "DIR", default_value = ".weir/coordinator")]
    pub data_dir: PathBuf,
}

/// Arguments of `weir worker`.
#[derive(Args, Debug)]
pub struct WorkerOptions {
    /// The coordinator's address.
    #[arg(short = 'm', long, value_name = "HOST:PORT", default_value = COORDINATOR_DEFAULT)]
    pub coordinator: String,
    /// Subtasks of each operator of a job that it takes. Default: one per core.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=i64::from(PARALLELISM_MAX)))]
    pub slots: Option<u32>,
    /// Where other workers reach it; port 0 takes a free one.
    #[arg(long, value_name = "HOST:PORT", default_value = "127.0.0.1:0")]
    pub listen: SocketAddr,
    /// Where /metrics and /healthz are served; port 0 takes a free one.
    #[arg(long, value_name = "HOST:PORT", default_value = "127.0.0.1:0")]
    pub http: SocketAddr,
    /// Memory of the worker, such as 2GiB: state beyond it goes to disk. Default: half of the machine's.
    #[arg(long, value_name = "SIZE", value_parser = memory)]
    pub memory: Option<u64>,
    /// Directory of its files. Default: a temporary one, removed at the end.
    #[arg(long, value_name = "DIR")]
    pub data_dir: Option<PathBuf>,
}

/// A size such as `512MiB` or `2GiB`; plain digits are bytes.
fn memory(text: &str) -> Result<u64, String> {
    let digits = text.find(|mark: char| !mark.is_ascii_digit()).unwrap_or(text.len());
    let (number, unit) = (&text[..digits], text[digits..].trim().to_ascii_lowercase());
    let scale = match unit.as_str() {
        "" | "b" => 1,
        "k" | "kb" | "kib" => 1 << 10,
        "m" | "mb" | "mib" => 1 << 20,
        "g" | "gb" | "gib" => 1 << 30,
        _ => return Err("expected a size such as 512MiB or 2GiB".to_owned()),
    };
    let bytes = number.parse::<u64>().ok().and_then(|number| number.checked_mul(scale));
    let bytes = bytes.ok_or("expected a size such as 512MiB or 2GiB")?;
    if bytes < weir_worker::memory::LEAST_BYTES {
        return Err(format!("a worker needs at least {} MiB", weir_worker::memory::LEAST_BYTES >> 20));
    }
    Ok(bytes)
}

fn definition(text: &str) -> Result<(String, String), String> {
    match text.split_once('=') {
        Some((name, value)) if !name.is_empty() => Ok((name.to_owned(), value.to_owned())),
        _ => Err("expected NAME=VALUE".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn arguments_are_consistent() {
        Arguments::command().debug_assert();
    }

    #[test]
    fn local_runs_a_job_or_stays_up() {
        let read = |line: &str| Arguments::try_parse_from(line.split(' ')).expect("right").command;
        assert!(read("weir local").is_server());
        assert!(read("weir local --listen 127.0.0.1:0").is_server());
        let Command::Local(local) = read("weir local run q.yaml -p 4 -D events=10 -D a=b=c --log-level debug") else {
            panic!("local")
        };
        let Some(LocalCommand::Run(run)) = local.command else { panic!("local run") };
        assert_eq!(run.job.parallelism, Some(4));
        let definitions = [("events".to_owned(), "10".to_owned()), ("a".to_owned(), "b=c".to_owned())];
        assert_eq!(run.job.definitions, definitions);
    }

    #[test]
    fn memory_is_a_size() {
        assert_eq!((memory("2GiB"), memory("512mb"), memory("268435456")), (Ok(2 << 30), Ok(512 << 20), Ok(256 << 20)));
        for wrong in ["", "2 XB", "-1", "1.5GiB", "100MiB", "99999999999999G"] {
            assert!(memory(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn savepoints_have_flinks_flags() {
        let read = |line: &str| Arguments::try_parse_from(line.split(' ')).expect("right").command;
        let Command::Run(run) = read("weir run -s /sp/savepoint-1 -n -d q.yaml") else { panic!("run") };
        assert_eq!(run.restore.from_savepoint.as_deref(), Some("/sp/savepoint-1"));
        assert!(run.restore.allow_non_restored_state && run.detached);
        let Command::Stop(stop) = read("weir stop --savepointPath s3://b/sp --drain abc") else { panic!("stop") };
        assert_eq!((stop.savepoint_path.as_deref(), stop.drain), (Some("s3://b/sp"), true));
        let Command::Savepoint(savepoint) = read("weir savepoint abc /sp") else { panic!("savepoint") };
        assert_eq!(savepoint.directory.as_deref(), Some("/sp"));
        let Command::Rescale(rescale) = read("weir rescale abc -p 4") else { panic!("rescale") };
        assert_eq!(rescale.parallelism, 4);
    }

    #[test]
    fn wrong_values_are_refused() {
        for line in [
            "weir rescale abc",
            "weir rescale abc -p 0",
            "weir run -n q.yaml",
            "weir run q.yaml -p 0",
            "weir run q.yaml -D x",
            "weir worker --slots 0",
            "weir info",
        ] {
            assert!(Arguments::try_parse_from(line.split(' ')).is_err(), "{line}");
        }
    }
}
