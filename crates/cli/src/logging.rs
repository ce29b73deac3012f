//! The log on standard error, as text or JSON. Standard output belongs to results.

use std::io::{IsTerminal, stderr};

use anyhow::Context;
use tracing_subscriber::EnvFilter;

use crate::arguments::{Arguments, LogFormat};

/// Installs the log of this process.
///
/// **Errors**: a level or filter that cannot be read.
pub fn install(arguments: &Arguments) -> anyhow::Result<()> {
    let from_environment = std::env::var("RUST_LOG").ok().filter(|filter| !filter.is_empty());
    let default = if arguments.command.is_server() { "info" } else { "warn" };
    let filter = arguments.log_level.clone().or(from_environment).unwrap_or_else(|| default.to_owned());
    let filter = EnvFilter::try_new(&filter)
        .with_context(|| format!("read the log level '{filter}': expected error, warn, info, debug or trace"))?;
    let log = tracing_subscriber::fmt().with_env_filter(filter).with_writer(stderr).with_ansi(stderr().is_terminal());
    // A line that cannot be written, because the log's disk is full, is lost: the complaint about it would go the same way,
    // and panic in whoever has something to say.
    let log = log.log_internal_errors(false);
    match arguments.log_format {
        LogFormat::Text => log.init(),
        LogFormat::Json => log.json().flatten_event(true).init(),
    }
    Ok(())
}
