//! Why a coordinator cannot start or go on. Failures of jobs are not here: they are data (`job/failure.rs`).

use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;

use weir_core::{ErrorDomain, RetryHint};

/// Why a coordinator cannot start or go on.
#[derive(Debug, thiserror::Error)]
pub enum CoordinatorError {
    /// An address that others can reach, without TLS.
    #[error(
        "refusing to listen on {address}: it is not a loopback address and this version has neither TLS nor \
         authentication; use 127.0.0.1 or [::1]"
    )]
    InsecureListener {
        /// The address asked for.
        address: SocketAddr,
    },
    /// The address cannot be bound.
    #[error("cannot listen on {address}")]
    Listen {
        /// The address asked for.
        address: SocketAddr,
        /// Why.
        source: io::Error,
    },
    /// Another process uses the data directory.
    #[error("data directory '{}' is in use by another coordinator; give each its own --data-dir", path.display())]
    DataDirInUse {
        /// The directory.
        path: PathBuf,
    },
    /// The data directory cannot be read or written.
    #[error("cannot use '{}' in the data directory", path.display())]
    DataDir {
        /// The file or directory.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// What is kept of a job is torn or damaged.
    #[error("'{}' cannot be used: {reason}", path.display())]
    JobFile {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// The operating system gave no random seed.
    #[error("cannot read a random seed from the operating system")]
    Seed(#[source] io::Error),
    /// The gRPC server ended by itself.
    #[error("the gRPC server ended")]
    Serve(#[source] tonic::transport::Error),
    /// The HTTP server ended by itself.
    #[error("the HTTP server ended")]
    ServeHttp(#[source] io::Error),
    /// Server reflection could not be built from the published descriptors.
    #[error("cannot serve reflection")]
    Reflection(#[source] tonic_reflection::server::Error),
}

impl CoordinatorError {
    /// Page in `docs/errors`.
    pub fn code(&self) -> &'static str {
        match self {
            CoordinatorError::InsecureListener { .. } => "insecure-listener",
            CoordinatorError::Listen { .. } => "listen-failed",
            CoordinatorError::DataDirInUse { .. } => "data-dir-in-use",
            CoordinatorError::DataDir { .. } => "data-dir-io",
            CoordinatorError::JobFile { .. } => "job-file-damaged",
            _ => "internal",
        }
    }

    /// Whose fault it is.
    pub fn domain(&self) -> ErrorDomain {
        match self {
            CoordinatorError::InsecureListener { .. } | CoordinatorError::DataDirInUse { .. } => ErrorDomain::User,
            CoordinatorError::Reflection(_) => ErrorDomain::Internal,
            _ => ErrorDomain::External,
        }
    }

    /// What to do now.
    pub fn retry(&self) -> RetryHint {
        match self.domain() {
            _ if matches!(self, CoordinatorError::JobFile { .. }) => RetryHint::GiveUp,
            ErrorDomain::External => RetryHint::RetryWithBackoff,
            _ => RetryHint::GiveUp,
        }
    }
}
