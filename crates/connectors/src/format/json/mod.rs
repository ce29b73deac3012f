//! JSON lines: one object per line. `decode.rs` drives the scanner of `scan.rs` into columns; `encode.rs` writes.

mod decode;
mod encode;
mod scan;

pub use decode::Decoder;
pub use encode::Encoder;

#[cfg(test)]
mod tests;
