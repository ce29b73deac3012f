//! The error of operators, sources and sinks: it ends the task, and through it the job, with a cause a person can use.

use std::error::Error as StdError;
use std::fmt;

use weir_core::{ErrorDomain, RetryHint};

/// Why an operator, source or sink cannot go on.
///
/// A bad **record** is not an error: it leaves by the dead-letter output (see [`crate::BadRecord`]).
#[derive(Debug)]
pub struct OperatorError {
    /// Page in `docs/errors`, like `sink-io`.
    pub code: &'static str,
    /// Whose fault.
    pub domain: ErrorDomain,
    /// What now.
    pub retry: RetryHint,
    /// What was being done with what; lowercase, no full stop, without the source's text.
    pub message: String,
    /// What caused it.
    pub source: Option<Box<dyn StdError + Send + Sync>>,
}

impl OperatorError {
    /// The user's job or data cannot work as it is.
    pub fn user(code: &'static str, message: impl Into<String>) -> Self {
        Self::new(code, ErrorDomain::User, RetryHint::GiveUp, message)
    }

    /// Something outside failed; a restart may help.
    pub fn external(code: &'static str, message: impl Into<String>) -> Self {
        Self::new(code, ErrorDomain::External, RetryHint::RestartFromCheckpoint, message)
    }

    /// An invariant of Weir is broken.
    pub fn internal(message: impl Into<String>) -> Self {
        Self::new("internal", ErrorDomain::Internal, RetryHint::RestartFromCheckpoint, message)
    }

    fn new(code: &'static str, domain: ErrorDomain, retry: RetryHint, message: impl Into<String>) -> Self {
        OperatorError { code, domain, retry, message: message.into(), source: None }
    }

    /// Adds the cause.
    pub fn because(mut self, source: impl Into<Box<dyn StdError + Send + Sync>>) -> Self {
        self.source = Some(source.into());
        self
    }
}

impl fmt::Display for OperatorError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl StdError for OperatorError {
    fn source(&self) -> Option<&(dyn StdError + 'static)> {
        self.source.as_deref().map(|source| source as &(dyn StdError + 'static))
    }
}

/// Arrow kernels fail only on broken invariants where operators call them on checked schemas.
impl From<arrow_schema::ArrowError> for OperatorError {
    fn from(error: arrow_schema::ArrowError) -> Self {
        OperatorError::internal("a columnar computation failed").because(error)
    }
}

impl From<weir_core::key_hash::NotAKey> for OperatorError {
    fn from(error: weir_core::key_hash::NotAKey) -> Self {
        OperatorError::internal("a key column has no hash").because(error)
    }
}

/// The disk behind the tables may have room again after a restart, or on another worker.
impl From<weir_state::StateStoreError> for OperatorError {
    fn from(error: weir_state::StateStoreError) -> Self {
        OperatorError::external("state-store", "state does not fit memory and cannot be kept on disk").because(error)
    }
}
