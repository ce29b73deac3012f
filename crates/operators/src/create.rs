//! Builds the operator that a planned descriptor names. The worker calls it once per operator of a chain; the one
//! place that knows all kinds.

use weir_graph::{OperatorKind, PlannedOperator};
use weir_operator_api::{Operator, OperatorContext, OperatorError, Result};

use crate::window;

/// Builds one operator of one subtask.
///
/// **Errors**: internal ones only (coordinator and worker of different versions): the planner has checked settings,
/// expressions and schemas.
pub fn create(planned: &PlannedOperator, context: OperatorContext) -> Result<Box<dyn Operator>> {
    let kind = OperatorKind::read_planned(&planned.kind, planned.uid.as_str(), &planned.settings)
        .map_err(OperatorError::internal)?;
    match kind {
        OperatorKind::Window(descriptor) => window::create(descriptor, planned.phase, context),
        other => Err(OperatorError::internal(format!(
            "operator '{}' of kind '{}' runs elsewhere: {other:?}",
            planned.uid, planned.kind
        ))),
    }
}
