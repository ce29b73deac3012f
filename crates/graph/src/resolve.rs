//! Schemas.

use weir_core::Problem;

use crate::catalog::Catalog;
use crate::config::JobOptions;
use crate::submitted::SubmittedJob;
use crate::topology::Topology;

/// A stream graph with schemas.
pub struct StreamGraph {}

/// Resolves.
pub fn resolve(
    _job: &SubmittedJob,
    _topology: &Topology,
    _options: &JobOptions,
    _catalog: &dyn Catalog,
    _problems: &mut Vec<Problem>,
) -> Option<StreamGraph> {
    None
}
