//! Records between tasks: channels within a worker and between workers, with room to send flowing back.

pub mod channel;
pub mod credit;
pub mod frame;
pub mod link;
pub mod receiver;
pub mod transport;

pub use channel::{ChannelKey, ChannelSender};
pub use credit::Credits;
pub use link::Link;
pub use receiver::{AttemptKey, Inbox};
pub use transport::{TonicTransport, Transport};
