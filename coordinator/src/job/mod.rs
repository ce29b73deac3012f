//! Jobs: how one is accepted, lives and ends. One master task per job; what it decides stands in pure files.

pub(crate) mod archive;
mod attempt;
mod checkpoints;
pub(crate) mod counters;
pub(crate) mod failure;
pub(crate) mod launch;
pub mod lifecycle;
pub(crate) mod master;
pub(crate) mod orders;
pub mod outbox;
mod output;
pub mod publication;
pub(crate) mod record;
mod retained;
mod settle;
pub mod state;
pub(crate) mod submit;
pub(crate) mod table;
