//! CSV as in RFC 4180: `decode.rs` reads, `encode.rs` writes, `record.rs` finds where records end.

mod decode;
mod encode;
mod record;

pub use decode::{Decoder, Options};
pub use encode::{Encoder, Header};
pub use record::last_record_end;
