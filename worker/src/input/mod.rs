//! What a task takes in: the gate that all its channels fill, the alignment of barriers, what they overtake, and the
//! watermark over the channels.

pub mod align;
pub mod gate;
pub mod hurry;
pub mod in_flight;
pub mod watermark;

pub use align::Aligner;
pub use gate::{Gate, GateSender, Received};
pub use hurry::Hurry;
pub use in_flight::{Carried, InFlight};
pub use watermark::WatermarkValve;
