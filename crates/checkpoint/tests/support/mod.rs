//! What the store tests share: options for the S3 server, and damage done behind a store's back.

use std::net::SocketAddr;
use std::path::PathBuf;

use bytes::Bytes;
use tempfile::TempDir;
use weir_checkpoint::store::Environment;
use weir_checkpoint::{MemoryCheckpoints, S3Options, StoreOptions};
use weir_testkit::S3Server;

/// Options that reach the server at `address`, which may be a proxy's.
pub fn s3_options(server: &S3Server, address: SocketAddr) -> StoreOptions {
    StoreOptions {
        s3: S3Options { endpoint: Some(format!("http://{address}")), path_style: true, ..S3Options::default() },
        environment: Environment::of(server.environment()),
        ..StoreOptions::default()
    }
}

/// Where the bytes of a store lie.
pub enum Tampered {
    /// In memory.
    Memory(MemoryCheckpoints),
    /// In a directory, below a path.
    Directory(TempDir, PathBuf),
    /// In the directory of a server, below a prefix.
    Server(Box<S3Server>, String),
}

impl Tampered {
    /// Replaces an object's bytes, or removes it.
    pub fn replace(&self, path: &str, bytes: Option<Bytes>) {
        let file = match self {
            Tampered::Memory(store) => return store.damage(path, bytes),
            Tampered::Directory(directory, below) => directory.path().join(below).join(path),
            Tampered::Server(server, prefix) => server.file(&format!("{prefix}/{path}")),
        };
        match bytes {
            Some(bytes) => std::fs::write(file, bytes).expect("a test may write its own file"),
            None => std::fs::remove_file(file).expect("a test may remove its own file"),
        }
    }
}
