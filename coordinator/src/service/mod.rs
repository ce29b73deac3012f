//! The doors in: `admin.rs` for clients, `worker_facing.rs` for workers.

pub(crate) mod admin;
pub(crate) mod worker_facing;
