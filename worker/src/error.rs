//! How a worker and its tasks fail, and how that is told to the coordinator.

use std::error::Error as StdError;
use std::fmt;
use std::net::SocketAddr;

use weir_core::{ErrorDomain, OperatorUid};
use weir_operator_api::OperatorError;

use crate::task::suspects::SuspectRows;

/// Why a worker process ends before it is told to.
#[derive(Debug, thiserror::Error)]
pub enum WorkerError {
    /// A listener could not be opened.
    #[error("cannot listen on {address}; choose another address or free the port")]
    Listen {
        /// Which.
        address: SocketAddr,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// The coordinator's address cannot be used.
    #[error("'{address}' is not an address of a coordinator; expected host:port")]
    CoordinatorAddress {
        /// As it was given.
        address: String,
    },
    /// The threads for tasks could not be started.
    #[error("cannot start the data threads")]
    Threads(#[source] std::io::Error),
    /// The coordinator does not take this worker.
    #[error("the coordinator refused this worker: {reason}")]
    Refused {
        /// Its words.
        reason: String,
    },
}

/// Why a task cannot go on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TaskError {
    /// Page in `docs/errors`.
    pub code: &'static str,
    /// Whose fault.
    pub domain: ErrorDomain,
    /// The errors, outermost first.
    pub chain: Vec<String>,
    /// The operator that failed, if one did.
    pub operator: Option<OperatorUid>,
    /// Rows that may be the cause.
    pub suspects: Option<Box<SuspectRows>>,
}

/// Code of a connection between workers that broke.
pub const EXCHANGE_LOST: &str = "exchange-lost";
/// Code of data from another worker that cannot be read.
pub const EXCHANGE_FRAME: &str = "exchange-frame";
/// Code of a panic in a task.
pub const TASK_PANIC: &str = "task-panic";
/// Code of a source or sink that did not open in time.
pub const OPEN_TIMEOUT: &str = "open-timeout";
/// Code of a source that takes no more orders for now.
pub const SOURCE_BUSY: &str = "checkpoint-source-busy";
/// Code of a deployment this worker cannot carry out.
pub const DEPLOY_INVALID: &str = "deploy-invalid";

impl TaskError {
    /// An invariant between coordinator and workers is broken.
    pub fn internal(code: &'static str, message: impl Into<String>) -> Self {
        TaskError { code, domain: ErrorDomain::Internal, chain: vec![message.into()], operator: None, suspects: None }
    }

    /// Something outside failed.
    pub fn external(code: &'static str, message: impl Into<String>) -> Self {
        TaskError { code, domain: ErrorDomain::External, chain: vec![message.into()], operator: None, suspects: None }
    }

    /// An error of an operator, source or sink.
    pub fn of_operator(operator: &OperatorUid, error: &OperatorError) -> Self {
        TaskError {
            code: error.code,
            domain: error.domain,
            chain: weir_core::error::chain(error),
            operator: Some(operator.clone()),
            suspects: None,
        }
    }

    /// A panic, with what it said.
    pub fn panic(payload: &(dyn std::any::Any + Send)) -> Self {
        let said = payload.downcast_ref::<&str>().map(|text| (*text).to_owned());
        let said = said.or_else(|| payload.downcast_ref::<String>().cloned());
        let mut error = Self::internal(TASK_PANIC, "the task panicked");
        error.chain.extend(said);
        error
    }
}

impl fmt::Display for TaskError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.chain.join(": "))
    }
}

impl StdError for TaskError {}
