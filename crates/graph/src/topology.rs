//! Which operator feeds which: reads kinds and inputs of a submitted job, finds dangling inputs and cycles (pure).

use weir_core::Problem;

use crate::catalog::Catalog;
use crate::submitted::SubmittedJob;

/// The order and wiring of a job's operators.
pub struct Topology {}

/// Checks names, kinds and inputs.
pub fn check(_job: &SubmittedJob, _catalog: &dyn Catalog, _problems: &mut Vec<Problem>) -> Topology {
    Topology {}
}
