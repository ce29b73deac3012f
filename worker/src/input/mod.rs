//! What a task takes in: the gate that all its channels fill, and the watermark over them.

pub mod gate;
pub mod watermark;

pub use gate::{Gate, GateSender, Received};
pub use watermark::WatermarkValve;
