//! What tests of several rooms share: a fake clock, rows as short text, a recording output, a script runner for
//! operators, straight or cut and restored, an S3 server and a proxy that breaks the wire to it. A dev-dependency only; it
//! must not know the coordinator, the worker or any concrete operator.
//!
//! Everything here panics with a sentence when a test uses it wrongly or when an operator breaks its contract.

pub mod clock;
pub mod cut;
pub mod fault_proxy;
pub mod recorder;
pub mod rows;
pub mod s3_server;
pub mod script;

pub use clock::FakeClock;
pub use cut::{Cuts, Deal};
pub use fault_proxy::{Fault, FaultProxy};
pub use recorder::{Recorded, Recorder};
pub use rows::{header, micros, print_rows, read_rows, schema, seconds};
pub use s3_server::S3Server;
pub use script::{Event, Runner, context, events};
pub use weir_operator_api::SystemClock;
