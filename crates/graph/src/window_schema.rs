//! Schemas around a window operator: what it emits, and what its local phase sends to its final phase (pure).
//!
//! The planner types with these functions and the window operators build batches to them, so both must agree: the
//! layout stands here and nowhere else.

use std::sync::Arc;

use arrow_schema::{Field, Schema, SchemaRef};
use weir_core::batch::{change_field, event_time_type, with_event_time};
use weir_core::{AggregateFunction, TypedAggregate};

use crate::window::WindowSpec;

/// Column with the first microsecond of the window.
pub const WINDOW_START: &str = "window_start";
/// Column with the first microsecond after the window.
pub const WINDOW_END: &str = "window_end";
/// Column with the last microsecond of the window: the event time of the result.
pub const WINDOW_TIME: &str = "window_time";
/// Column of a partial with the start of its slice.
pub const SLICE_START: &str = "slice_start";
/// Column of a partial with the time of the first row of its session.
pub const SESSION_START: &str = "session_start";
/// Column of a partial with the time of the last row of its session.
pub const SESSION_LAST: &str = "session_last";

fn time_field(name: &str) -> Field {
    Field::new(name, event_time_type(), false)
}

/// Schema of a window operator's results: the key columns as in the input, `window_start`, `window_end`,
/// `window_time` (the event time), one column per aggregate, and with allowed lateness the hidden change column.
///
/// **Shapes**: counts are never null; every other aggregate is null over no values.
pub fn output_schema(keys: &[Field], aggregates: &[TypedAggregate], allowed_lateness: i64) -> SchemaRef {
    let mut fields = keys.to_vec();
    fields.extend([WINDOW_START, WINDOW_END, WINDOW_TIME].map(time_field));
    fields.extend(aggregates.iter().map(|aggregate| {
        let is_count = matches!(aggregate.function, AggregateFunction::Count | AggregateFunction::CountDistinct);
        Field::new(&aggregate.name, aggregate.data_type.clone(), !is_count)
    }));
    if allowed_lateness > 0 {
        fields.push(change_field());
    }
    with_event_time(&Schema::new(fields), Some(WINDOW_TIME))
}

/// Schema of the partials that the local phase sends to the final phase: the key columns, `slice_start` (sessions:
/// `session_start`, `session_last`), then the partial state of each aggregate. `None` when an aggregate has no such
/// form (distinct sets) or the window is not aggregated at all; the operator then runs in one phase.
pub fn partial_schema(keys: &[Field], window: WindowSpec, aggregates: &[TypedAggregate]) -> Option<SchemaRef> {
    let mut fields = keys.to_vec();
    match window {
        WindowSpec::Session { .. } => fields.extend([SESSION_START, SESSION_LAST].map(time_field)),
        WindowSpec::Same => return None,
        WindowSpec::Tumble { .. } | WindowSpec::Hop { .. } | WindowSpec::Cumulate { .. } => {
            fields.push(time_field(SLICE_START));
        }
    }
    for aggregate in aggregates {
        let argument = aggregate.argument.as_ref().map(|argument| &argument.data_type);
        fields.extend(aggregate.function.partial_fields(&aggregate.name, argument)?);
    }
    Some(Arc::new(Schema::new(fields)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use arrow_schema::DataType;
    use weir_core::TypedExpression;

    fn aggregate(name: &str, function: AggregateFunction, argument: Option<DataType>) -> TypedAggregate {
        let data_type = function.output_type(argument.as_ref()).expect("the function takes the type");
        let argument =
            argument.map(|data_type| TypedExpression { data_type, nullable: true, columns: vec!["v".to_owned()] });
        TypedAggregate { name: name.to_owned(), function, argument, filter: None, data_type }
    }

    fn names(schema: &Schema) -> Vec<&str> {
        schema.fields().iter().map(|field| field.name().as_str()).collect()
    }

    #[test]
    fn results_carry_the_window_and_its_last_microsecond_as_event_time() {
        let keys = [Field::new("truck", DataType::Utf8, true)];
        let aggregates = [
            aggregate("reports", AggregateFunction::Count, None),
            aggregate("speed", AggregateFunction::Avg, Some(DataType::Int32)),
        ];
        let schema = output_schema(&keys, &aggregates, 0);
        assert_eq!(names(&schema), ["truck", "window_start", "window_end", "window_time", "reports", "speed"]);
        assert_eq!(weir_core::batch::event_time_index(&schema), Some(3));
        assert!(!schema.field(4).is_nullable() && schema.field(5).is_nullable());
        assert!(weir_core::batch::is_changing(&output_schema(&keys, &aggregates, 1)));
    }

    #[test]
    fn partials_carry_the_state_of_every_aggregate() {
        let keys = [Field::new("truck", DataType::Utf8, true)];
        let average = [aggregate("speed", AggregateFunction::Avg, Some(DataType::Float64))];
        let tumble = WindowSpec::Tumble { size: 10, offset: 0 };
        let slices = partial_schema(&keys, tumble, &average).expect("averages have partials");
        assert_eq!(names(&slices), ["truck", "slice_start", "speed", "speed#compensation", "speed#count"]);
        let sessions = partial_schema(&keys, WindowSpec::Session { gap: 1 }, &[]).expect("keys alone have partials");
        assert_eq!(names(&sessions), ["truck", "session_start", "session_last"]);
        let distinct = [aggregate("n", AggregateFunction::CountDistinct, Some(DataType::Utf8))];
        assert!(partial_schema(&keys, tumble, &distinct).is_none());
    }
}
