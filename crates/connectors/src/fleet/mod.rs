//! Source `fleet`: a deterministic fleet of trucks that knows its own truth.
//!
//! Trucks carry shipments between European cities and report where they are. Everything follows from the seed: report k
//! of truck n is the same whatever the parallelism, and so is the truth about late shipments and silent trucks that can
//! be written beside the stream. The registry hands the factory out; nothing here knows jobs or tasks.
//!
//! ```text
//! settings -> Fleet (what holds for all) -> Truck (legs, dead zones, silence) -> SplitStream (order of arrival)
//!                                        -> truth (what a job should find)       -> columns -> reader
//! ```

mod calendar;
mod columns;
mod factory;
mod places;
mod plan;
mod position;
mod reader;
mod stream;
mod truck;
mod truth;

pub use factory::FleetSource;

#[cfg(test)]
mod resume_tests;
#[cfg(test)]
mod tests;
