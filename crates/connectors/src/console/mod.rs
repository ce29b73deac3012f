//! The console: the sink `print`.

mod print;

pub use print::PrintSink;
