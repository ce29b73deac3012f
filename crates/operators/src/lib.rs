//! The built-in operators: filters, projections, watermarks, windows, joins and keyed state. `worker` builds them from
//! planned descriptors by [`create()`]. They must not know connectors, the network or the coordinator.

pub mod create;

pub mod filter;
pub mod flat_map;
pub mod key_by;
pub mod project;
pub mod union;
pub mod watermark;

pub mod top_n;
pub mod window;
pub mod window_join;

pub mod absence;
pub mod first_by_key;
pub mod last_by_key;

mod bad_rows;
#[cfg(test)]
mod cut_runs;
mod disk_rows;
mod expiry;
mod key_filter;
mod key_ids;
mod key_page;
mod key_run;
mod row_codec;
mod row_run;
mod state_rows;
mod window_rows;

pub use bad_rows::row_texts;
pub use create::create;
