//! Why a checkpoint could not be written, found or read: every message names the object, and every error has a page in
//! `docs/errors` that says what to try. Used by all of this crate and shown to users by both planes.

use std::error::Error as StdError;

use weir_core::{ErrorDomain, RetryHint};

/// What caused an error.
pub type Cause = Box<dyn StdError + Send + Sync>;

/// Why the checkpoint store could not do what was asked. `place` is the full address of the object or the store.
#[derive(Debug, thiserror::Error)]
pub enum CheckpointError {
    /// No answer, or only answers that say "later", until the call's deadline. A put may or may not have been applied.
    #[error("cannot reach the checkpoint store for {operation} of '{place}'")]
    Unreachable {
        /// Which object or store.
        place: String,
        /// What was asked: put, get, list, delete.
        operation: &'static str,
        /// The last failure, or the deadline.
        #[source]
        source: Cause,
    },
    /// The store understood and said no.
    #[error("the checkpoint store refuses {operation} of '{place}'")]
    Refused {
        /// Which object or store.
        place: String,
        /// What was asked.
        operation: &'static str,
        /// Its answer.
        #[source]
        source: Cause,
    },
    /// Wrong credentials, or rights that are missing.
    #[error("no permission for {operation} of '{place}'")]
    Permission {
        /// Which object or store.
        place: String,
        /// What was asked.
        operation: &'static str,
        /// Its answer.
        #[source]
        source: Cause,
    },
    /// No space or quota left.
    #[error("no space left to write '{place}'")]
    DiskFull {
        /// Which object.
        place: String,
        /// The operating system's answer.
        #[source]
        source: Cause,
    },
    /// Nothing is there.
    #[error("'{place}' does not exist")]
    NotFound {
        /// Which object.
        place: String,
    },
    /// Something else is there already.
    #[error("'{place}' exists already with other content")]
    AlreadyExists {
        /// Which object.
        place: String,
    },
    /// Fewer or more bytes than were written.
    #[error("'{place}' is torn: {actual_bytes} bytes where {expected_bytes} were written")]
    Torn {
        /// Which object.
        place: String,
        /// As many as were written.
        expected_bytes: u64,
        /// As many as are there.
        actual_bytes: u64,
    },
    /// The bytes are not those that were written.
    #[error("'{place}' is damaged: its checksum is {actual:032x}, written was {expected:032x}")]
    Checksum {
        /// Which object.
        place: String,
        /// Written down when the object was made.
        expected: u128,
        /// Of the bytes read.
        actual: u128,
    },
    /// Not what it should be, though nothing is missing: another kind of file, or one that breaks a rule of the format.
    #[error("'{place}' is not as expected: {reason}")]
    Malformed {
        /// Which object.
        place: String,
        /// Which rule it breaks.
        reason: String,
    },
    /// Written by a later version of Weir.
    #[error("'{place}' has format version {found}; this version of weir reads up to {newest}")]
    NewerFormat {
        /// Which object.
        place: String,
        /// Version of the object.
        found: u32,
        /// Newest version this program reads.
        newest: u32,
    },
    /// The address of a store cannot be understood.
    #[error("'{url}' is not a checkpoint store: {reason}")]
    StoreUrl {
        /// As given.
        url: String,
        /// Why, and what to write instead.
        reason: String,
    },
    /// The store answered, but the check at start failed.
    #[error("the check of the checkpoint store failed at its {step}: {cure}")]
    Check {
        /// put, head, get, list or delete.
        step: &'static str,
        /// What to try.
        cure: &'static str,
        /// What went wrong.
        #[source]
        source: Box<CheckpointError>,
    },
}

impl CheckpointError {
    /// Page in `docs/errors`.
    pub fn code(&self) -> &'static str {
        match self {
            CheckpointError::Unreachable { .. } => "checkpoint-store-unreachable",
            CheckpointError::Refused { .. } => "checkpoint-store-refused",
            CheckpointError::Permission { .. } => "checkpoint-store-permission",
            CheckpointError::DiskFull { .. } => "checkpoint-store-full",
            CheckpointError::NotFound { .. } => "checkpoint-not-found",
            CheckpointError::AlreadyExists { .. } => "checkpoint-already-exists",
            CheckpointError::Torn { .. } => "checkpoint-torn",
            CheckpointError::Checksum { .. } => "checkpoint-checksum",
            CheckpointError::Malformed { .. } => "checkpoint-malformed",
            CheckpointError::NewerFormat { .. } => "checkpoint-newer-format",
            CheckpointError::StoreUrl { .. } => "checkpoint-store-url",
            CheckpointError::Check { source, .. } => source.code(),
        }
    }

    /// Whose fault it is.
    pub fn domain(&self) -> ErrorDomain {
        match self {
            CheckpointError::StoreUrl { .. } | CheckpointError::NewerFormat { .. } => ErrorDomain::User,
            CheckpointError::Check { source, .. } => source.domain(),
            _ => ErrorDomain::External,
        }
    }

    /// What to do now.
    pub fn retry(&self) -> RetryHint {
        match self {
            CheckpointError::Unreachable { .. } | CheckpointError::DiskFull { .. } => RetryHint::RetryWithBackoff,
            CheckpointError::Check { source, .. } => source.retry(),
            _ => RetryHint::GiveUp,
        }
    }

    /// Whether the bytes that came are not the bytes that were written: worth one more read, never worth using.
    pub fn is_damage(&self) -> bool {
        matches!(
            self,
            CheckpointError::Torn { .. } | CheckpointError::Checksum { .. } | CheckpointError::Malformed { .. }
        )
    }
}

/// Sorts a file system's error into the kinds above.
pub(crate) fn from_io(operation: &'static str, place: &str, error: std::io::Error) -> CheckpointError {
    use std::io::ErrorKind;
    let (place, kind) = (place.to_owned(), error.kind());
    let source: Cause = Box::new(error);
    match kind {
        ErrorKind::NotFound => CheckpointError::NotFound { place },
        ErrorKind::StorageFull | ErrorKind::QuotaExceeded => CheckpointError::DiskFull { place, source },
        ErrorKind::PermissionDenied | ErrorKind::ReadOnlyFilesystem => {
            CheckpointError::Permission { place, operation, source }
        }
        ErrorKind::AlreadyExists
        | ErrorKind::NotADirectory
        | ErrorKind::IsADirectory
        | ErrorKind::InvalidInput
        | ErrorKind::InvalidFilename
        | ErrorKind::FileTooLarge
        | ErrorKind::Unsupported => CheckpointError::Refused { place, operation, source },
        _ => CheckpointError::Unreachable { place, operation, source },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn errors_of_the_file_system_become_clear_ones() {
        let code = |kind: std::io::ErrorKind| from_io("put", "/x", kind.into()).code();
        assert_eq!(code(std::io::ErrorKind::StorageFull), "checkpoint-store-full");
        assert_eq!(code(std::io::ErrorKind::QuotaExceeded), "checkpoint-store-full");
        assert_eq!(code(std::io::ErrorKind::PermissionDenied), "checkpoint-store-permission");
        assert_eq!(code(std::io::ErrorKind::ReadOnlyFilesystem), "checkpoint-store-permission");
        assert_eq!(code(std::io::ErrorKind::NotADirectory), "checkpoint-store-refused");
        assert_eq!(code(std::io::ErrorKind::TimedOut), "checkpoint-store-unreachable");
    }

    /// The operating system's own "no space left on device", not one made up.
    #[cfg(target_os = "linux")]
    #[test]
    fn full_device_is_named() {
        use std::io::Write;
        let mut full = std::fs::File::options().write(true).open("/dev/full").expect("Linux has /dev/full");
        let error = from_io("put", "/data/chk-1/manifest", full.write_all(b"x").expect_err("it is full"));
        assert_eq!(error.code(), "checkpoint-store-full");
        assert_eq!(error.to_string(), "no space left to write '/data/chk-1/manifest'");
    }
}
