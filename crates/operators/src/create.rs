//! Builds the operator that a planned descriptor names. The worker calls it once per operator of a chain; the one
//! place that knows all kinds.

use weir_graph::{OperatorKind, PlannedOperator};
use weir_operator_api::{Operator, OperatorContext, OperatorError, Result};

use crate::{
    absence, filter, first_by_key, flat_map, key_by, last_by_key, project, top_n, union, watermark, window, window_join,
};

/// Builds one operator of one subtask.
///
/// **Errors**: internal ones only (coordinator and worker of different versions): the planner has checked settings,
/// expressions and schemas.
pub fn create(planned: &PlannedOperator, context: OperatorContext) -> Result<Box<dyn Operator>> {
    let kind = OperatorKind::read_planned(&planned.kind, planned.uid.as_str(), &planned.settings)
        .map_err(OperatorError::internal)?;
    match kind {
        OperatorKind::Window(descriptor) => window::create(&descriptor, planned.phase, &context),
        OperatorKind::Filter(descriptor) => filter::create(&descriptor, &context),
        OperatorKind::Project(descriptor) => project::create(&descriptor, &context),
        OperatorKind::FlatMap(descriptor) => flat_map::create(&descriptor, &context),
        OperatorKind::Union => union::create(&context),
        OperatorKind::KeyBy(_) => key_by::create(),
        OperatorKind::Watermark(descriptor) => watermark::create(&descriptor, &context),
        OperatorKind::WindowJoin(descriptor) => window_join::create(&descriptor, &context),
        OperatorKind::WindowTopN(descriptor) => top_n::create(&descriptor, &context),
        OperatorKind::LastByKey(descriptor) => last_by_key::create(&descriptor, &context),
        OperatorKind::FirstByKey(descriptor) => first_by_key::create(&descriptor, &context),
        OperatorKind::Absence(descriptor) => absence::create(&descriptor, &context),
        OperatorKind::Source | OperatorKind::Sink => Err(OperatorError::internal(format!(
            "'{}' of kind '{}' is a connector, not an operator",
            planned.uid, planned.kind
        ))),
    }
}
