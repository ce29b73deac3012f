//! What tests of several rooms share: a fake clock, rows as short text, a recording output and a script runner for
//! operators. A dev-dependency only; it must not know the coordinator, the worker or any concrete operator.
//!
//! Everything here panics with a sentence when a test uses it wrongly or when an operator breaks its contract.

pub mod clock;
pub mod cut;
pub mod recorder;
pub mod rows;
pub mod script;

pub use clock::FakeClock;
pub use cut::{Cuts, Deal};
pub use recorder::{Recorded, Recorder};
pub use rows::{header, micros, print_rows, read_rows, schema, seconds};
pub use script::{Event, Runner, context, events};
