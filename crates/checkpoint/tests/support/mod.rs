//! What the store tests share: options for the S3 server.

use std::net::SocketAddr;

use weir_checkpoint::store::Environment;
use weir_checkpoint::{S3Options, StoreOptions};
use weir_testkit::S3Server;

/// Options that reach the server at `address`, which may be a proxy's.
pub fn s3_options(server: &S3Server, address: SocketAddr) -> StoreOptions {
    StoreOptions {
        s3: S3Options { endpoint: Some(format!("http://{address}")), path_style: true, ..S3Options::default() },
        environment: Environment::of(server.environment()),
        ..StoreOptions::default()
    }
}
