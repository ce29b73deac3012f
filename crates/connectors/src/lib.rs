//! Sources and sinks: one folder per system, and the record formats they share.
//!
//! Only the wiring of the two planes names this crate; everyone else meets its connectors through the contracts of
//! `weir-operator-api`. It must not know job graphs, tasks or placement, and the folders must not know each other.

pub mod blackhole;
pub mod console;
pub mod files;
pub mod fleet;
pub mod format;
pub mod hash;
pub mod nexmark;
pub mod nothing;
pub mod pace;
pub mod totals;

#[cfg(test)]
mod sink_contract;
#[cfg(test)]
mod source_contract;

use weir_operator_api::Registry;

/// All sources and sinks that come with Weir, by kind.
pub fn registry() -> Registry {
    Registry::default()
        .with_source(files::FileSource)
        .with_source(fleet::FleetSource)
        .with_source(nexmark::NexmarkSource)
        .with_sink(blackhole::BlackholeSink)
        .with_sink(console::PrintSink)
        .with_sink(files::FileSink::new())
        .with_sink(hash::HashSink)
}

#[cfg(test)]
mod tests {
    #[test]
    fn every_connector_is_registered() {
        let registry = super::registry();
        assert_eq!(registry.source_kinds(), ["file_source", "fleet", "nexmark"]);
        assert_eq!(registry.sink_kinds(), ["blackhole", "file_sink", "hash", "print"]);
    }
}
