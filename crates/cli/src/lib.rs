//! The `weir` command: client commands that speak gRPC to a coordinator, and the wiring of the two planes into
//! processes (`weir coordinator`, `weir worker`, `weir local`). `main.rs` calls [`main`]; tests may start an
//! [`embedded::Cluster`]. It decides nothing: it reads arguments, asks and prints.

pub mod arguments;
pub mod client;
pub mod embedded;
pub mod job_file;
pub mod logging;
pub mod output;
pub mod progress;
pub mod report;
pub mod run;
pub mod servers;
pub mod signals;
pub mod summary;
pub mod table;

use std::process::ExitCode;

use clap::Parser;

use crate::arguments::{Arguments, Command, LocalCommand};

/// Reads the arguments and runs the command; what went wrong is printed on standard error.
pub fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let result = logging::install(&arguments).and_then(|()| {
        let runtime = tokio::runtime::Runtime::new()?;
        let result = runtime.block_on(execute(arguments.command));
        // Whatever still runs now was asked to end and did not: it must not hold up the end of the process.
        runtime.shutdown_background();
        result
    });
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{}", output::error_text(&error));
            ExitCode::FAILURE
        }
    }
}

async fn execute(command: Command) -> anyhow::Result<()> {
    match command {
        Command::Coordinator(options) => servers::coordinator(options).await,
        Command::Worker(options) => servers::worker(options).await,
        Command::Local(local) => match local.command {
            Some(LocalCommand::Run(options)) => run::local(options).await,
            None => servers::local(local.options).await,
        },
        Command::Run(options) => run::remote(options).await,
        Command::List(options) => client::list(&options).await,
        Command::Info(options) => client::info(&options).await,
        Command::Cancel(options) => client::cancel(&options).await,
        Command::Stop(options) => client::stop(&options).await,
        Command::Savepoint(options) => client::savepoint(&options).await,
        Command::Checkpoint(options) => client::checkpoint(&options).await,
        Command::Rescale(options) => client::rescale(&options).await,
        Command::Validate(options) => job_file::validate(&options),
    }
}
