//! Windows on event time: slices (tumbling, hopping, cumulative) and sessions, in one or two phases.
//!
//! ```text
//! rows -> rows.rs (bad rows out) -> slicing.rs -> groups.rs (keys + accumulators)        sliced.rs fires
//!                                -> runs.rs    -> session_store.rs + accumulators        session.rs fires
//! slice.rs <-> run.rs, session_store.rs <-> parked.rs (parking.rs says when): what memory does not hold
//! local.rs does the same before the exchange and sends partials
//! ```

use weir_graph::descriptor::WindowAggregate;
use weir_graph::{Phase, WindowSpec};
use weir_operator_api::{Operator, OperatorContext, OperatorError, Result};

pub mod accumulator;
mod compile;
mod groups;
mod local;
mod output;
mod parked;
mod parking;
mod refire;
mod rows;
mod run;
mod runs;
mod session;
mod session_cut;
mod session_store;
mod shadow;
mod slice;
mod sliced;
mod slicing;
mod state;
mod worth;

#[cfg(test)]
mod tests;

use groups::Shape;
use local::{LocalOptions, LocalSessions, LocalSliced};
use rows::RowReader;
use session::{SessionOptions, Sessions};
use sliced::{Sliced, SlicedOptions};

/// Builds the window operator of one subtask, in the phase that was planned.
///
/// **Errors**: internal ones; the planner has checked the descriptor.
pub fn create(descriptor: &WindowAggregate, phase: Phase, context: &OperatorContext) -> Result<Box<dyn Operator>> {
    let compiled = compile::compile(descriptor, &context.inputs[0])?;
    build(descriptor.window, descriptor.allowed_lateness, phase, compiled, context)
}

fn build(
    window: WindowSpec,
    allowed_lateness: i64,
    phase: Phase,
    (shape, reader): (Shape, RowReader),
    context: &OperatorContext,
) -> Result<Box<dyn Operator>> {
    let (batch_rows, output, stores) = (context.batch_rows, context.output.clone(), context.stores.clone());
    let place = state::Place::of(context);
    Ok(match (window, phase) {
        (WindowSpec::Same, _) => return Err(OperatorError::internal("windows of joins do not aggregate")),
        (WindowSpec::Session { gap }, Phase::Local) => Box::new(LocalSessions::new(gap, output, &shape, reader)?),
        (WindowSpec::Session { gap }, _) => {
            let options = SessionOptions { gap, allowed_lateness, batch_rows, output, place, stores };
            Box::new(Sessions::new(options, &shape, reader)?)
        }
        (_, Phase::Local) => Box::new(LocalSliced::new(LocalOptions { window, batch_rows, output }, shape, reader)),
        _ => Box::new(Sliced::new(
            SlicedOptions { window, allowed_lateness, batch_rows, output, place, stores },
            shape,
            reader,
        )),
    })
}
