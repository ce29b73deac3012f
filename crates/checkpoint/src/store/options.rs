//! What may be set about a store, by configuration keys and by the environment. Credentials come from the environment
//! alone and are never printed.

use std::collections::BTreeMap;
use std::time::Duration;

use crate::Result;

pub use weir_s3::{Environment, S3Options};

/// Options of a store. Every wait, request and read is bounded by one of them.
#[derive(Clone, PartialEq, Debug)]
pub struct StoreOptions {
    /// Longest time of a put, list or delete, or of the read of one range, with all repeats. When it is over, a put may
    /// still land.
    pub call_deadline: Duration,
    /// Longest time of one HTTP request with its body.
    pub request_timeout: Duration,
    /// Longest time until a connection stands.
    pub connect_timeout: Duration,
    /// Requests under way at once.
    pub requests_in_flight_max: usize,
    /// Larger objects are read in ranges of this many bytes, a few at a time.
    pub range_bytes: u64,
    /// Of S3 stores.
    pub s3: S3Options,
    /// Credentials.
    pub environment: Environment,
}

impl Default for StoreOptions {
    fn default() -> Self {
        StoreOptions {
            call_deadline: Duration::from_secs(120),
            request_timeout: Duration::from_secs(30),
            connect_timeout: Duration::from_secs(5),
            requests_in_flight_max: 8,
            range_bytes: 8 << 20,
            s3: S3Options::default(),
            environment: Environment::default(),
        }
    }
}

impl StoreOptions {
    /// The options that a job's `s3.*` keys set, with the credentials of this process.
    ///
    /// **Errors**: `StoreUrl` for an unknown key or a value that cannot be read.
    pub fn from_config(keys: &BTreeMap<String, String>) -> Result<StoreOptions> {
        let s3 = S3Options::from_config(keys)?;
        Ok(StoreOptions { s3, environment: Environment::of_process(), ..StoreOptions::default() })
    }
}
