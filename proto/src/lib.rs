//! The wire: the `.proto` files, the code generated from them, and the only conversions between protobuf and the
//! domain types of `weir-core` and `weir-graph`. Clients, coordinator and worker use it; it knows neither of them.

pub mod convert;

/// The generated code of package `weir.v1`.
#[allow(
    missing_docs,
    clippy::all,
    clippy::too_many_lines,
    reason = "generated; the .proto files carry the documentation"
)]
pub mod v1 {
    tonic::include_proto!("weir.v1");
}

/// All `.proto` files as an encoded `FileDescriptorSet`, for server reflection.
pub const FILE_DESCRIPTOR_SET: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/descriptors.bin"));

/// Version both planes must agree on.
pub const VERSION: &str = env!("CARGO_PKG_VERSION");
