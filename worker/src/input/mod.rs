//! What a task takes in: the gate that all its channels fill, the alignment of barriers and the watermark over them.

pub mod align;
pub mod gate;
pub mod watermark;

pub use align::Aligner;
pub use gate::{Gate, GateSender, Received};
pub use watermark::WatermarkValve;
