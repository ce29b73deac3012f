//! How to reach an S3 store: addresses, options, credentials, the client, and its open uploads.
//!
//! The checkpoint store and the connectors use it, so that one set of keys and variables means the same to both. It must
//! not know what they keep there.

pub mod address;
pub mod client;
pub mod options;
pub mod uploads;

pub use client::{BACKOFF_MAX, BACKOFF_MIN, Limits, client};
pub use options::{Environment, S3Options};
pub use uploads::{OpenUpload, Uploads};

/// An address, an option or credentials that cannot be used.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[error("cannot use '{subject}': {reason}")]
pub struct S3Error {
    /// What cannot be used; never a secret.
    pub subject: String,
    /// Why, and what to write.
    pub reason: String,
}

impl S3Error {
    /// That `subject` cannot be used.
    pub fn new(subject: &str, reason: impl Into<String>) -> Self {
        S3Error { subject: subject.to_owned(), reason: reason.into() }
    }
}
