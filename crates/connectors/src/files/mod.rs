//! Files: the source `file_source` and the sink `file_sink`.
//!
//! Reading: `enumerate.rs` lists files and cuts them into splits, `blocks.rs` reads a split as blocks of whole records
//! away from the data threads, `reader.rs` decodes them,
//! `position.rs` is where it stands. Writing: `part.rs` is one file being written, `upsert.rs` keeps
//! the last row per key,
//! `writer.rs` puts rows into parts named by `names.rs` and remembers them in checkpoints as `memory.rs` has it, `commit.rs`
//! says what is to be published, `committer.rs` does it, `join.rs` puts files end to end. `home.rs` is where files stand:
//! on disk, or in a bucket (`bucket.rs`).

pub mod blocks;
pub mod bucket;
pub mod commit;
pub mod committer;
pub mod compression;
pub mod enumerate;
pub mod home;
pub mod join;
pub mod memory;
pub mod names;
pub mod part;
pub mod position;
pub mod reader;
pub mod settings;
pub mod sink;
pub mod sink_settings;
pub mod source;
pub mod upsert;
pub mod writer;

pub use sink::FileSink;
pub use source::FileSource;

#[cfg(test)]
mod bucket_tests;
#[cfg(test)]
mod sink_contract_tests;
#[cfg(test)]
mod sink_tests;
#[cfg(test)]
mod source_resume_tests;
#[cfg(test)]
mod source_tests;
