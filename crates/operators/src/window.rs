//! Windows on event time: slices (tumbling, hopping, cumulative) and sessions, in one or two phases.

use weir_graph::Phase;
use weir_graph::descriptor::WindowAggregate;
use weir_operator_api::{Operator, OperatorContext, OperatorError, Result};

/// Builds the window operator of one subtask, in the phase that was planned.
pub fn create(descriptor: WindowAggregate, phase: Phase, context: OperatorContext) -> Result<Box<dyn Operator>> {
    Err(OperatorError::internal(format!("window operator '{}' {phase:?} {descriptor:?}", context.uid)))
}
