//! Compiles the aggregate calls of a descriptor: the only file of the windows that knows SQL expressions.

use arrow_schema::{Schema, SchemaRef};
use weir_expr::aggregate_call;
use weir_graph::descriptor::WindowAggregate;
use weir_operator_api::{OperatorError, Result};

use super::accumulator::Call;
use super::groups::Shape;
use super::rows::{CompiledCall, RowReader};

/// Compiles against the rows' schema.
///
/// **Errors**: internal ones; the planner has compiled the same calls.
pub(crate) fn compile(descriptor: &WindowAggregate, input: &SchemaRef) -> Result<(Shape, RowReader)> {
    let key_columns = key_columns(descriptor, input)?;
    let calls = descriptor.aggregates.iter().map(|sql| compile_call(sql, input)).collect::<Result<Vec<_>>>()?;
    let key_types = key_columns.iter().map(|column| input.field(*column).data_type().clone()).collect();
    let calls_only = calls.iter().map(|compiled| compiled.call.clone()).collect();
    let shape = Shape { key_names: descriptor.key.clone(), key_types, calls: calls_only };
    Ok((shape, RowReader { key_columns, calls }))
}

fn key_columns(descriptor: &WindowAggregate, input: &Schema) -> Result<Vec<usize>> {
    descriptor.key.iter().map(|name| Ok(input.index_of(name)?)).collect()
}

fn compile_call(sql: &str, input: &SchemaRef) -> Result<CompiledCall> {
    let compiled = aggregate_call(sql, input)
        .map_err(|error| OperatorError::internal("a planned aggregate does not compile").because(error))?;
    let argument_type = compiled.argument.as_ref().map(|argument| argument.data_type().clone());
    let call = Call { name: compiled.name, function: compiled.function, argument: argument_type };
    Ok(CompiledCall {
        call,
        argument: compiled.argument.map(|argument| {
            Box::new(move |records: &_| argument.evaluate(records).map_err(|error| error.to_string())) as _
        }),
        filter: compiled.filter.map(|filter| {
            Box::new(move |records: &_| filter.evaluate(records).map_err(|error| error.to_string())) as _
        }),
    })
}
