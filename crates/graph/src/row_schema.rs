//! Schemas of operators that keep whole rows: top-N, last and first row per key, absence (pure). The planner types with
//! these functions and the operators build batches to them.

use arrow_schema::{DataType, Field, Schema, SchemaRef};
use weir_core::batch::{CHANGE_COLUMN, change_field, event_time_type, is_changing, with_event_time};

use crate::window_schema::{WINDOW_END, WINDOW_START, WINDOW_TIME};

/// Column of an absence with the time at which the silence became one: the event time of the result.
pub const SILENT_UNTIL: &str = "silent_until";

/// Schema of `window_top_n`: the input's columns, and the rank from 1 in a last column if one is named.
///
/// **Errors**: a sentence: an input without window columns, one that retracts, a rank column that exists already.
pub fn top_n(input: &Schema, rank_column: Option<&str>) -> Result<SchemaRef, String> {
    check_inserts_only(input)?;
    for name in [WINDOW_START, WINDOW_END, WINDOW_TIME] {
        if !input.field_with_name(name).is_ok_and(|field| *field.data_type() == event_time_type()) {
            return Err(format!("the input has no timestamp column '{name}': top-N ranks the results of windows"));
        }
    }
    let rank = rank_column.map(|name| Field::new(name, DataType::Int64, false));
    append(input, rank.into_iter().collect(), Some(WINDOW_TIME))
}

/// Schema of `last_by_key`: the input's columns and the hidden change column; the event time stays.
///
/// **Errors**: a sentence: an input that retracts.
pub fn last_by_key(input: &Schema) -> Result<SchemaRef, String> {
    check_inserts_only(input)?;
    append(input, vec![change_field()], event_time_name(input))
}

/// Schema of `first_by_key`: the input's.
///
/// **Errors**: a sentence: an input that retracts.
pub fn first_by_key(input: &Schema) -> Result<SchemaRef, String> {
    check_inserts_only(input)?;
    append(input, Vec::new(), event_time_name(input))
}

/// Schema of `absence`: the input's columns and `silent_until`, which is the event time of the result.
///
/// **Errors**: a sentence: an input that retracts or has a column of that name.
pub fn absence(input: &Schema) -> Result<SchemaRef, String> {
    check_inserts_only(input)?;
    append(input, vec![Field::new(SILENT_UNTIL, event_time_type(), false)], Some(SILENT_UNTIL))
}

fn event_time_name(input: &Schema) -> Option<&str> {
    input.metadata().get(weir_core::batch::EVENT_TIME_KEY).map(String::as_str)
}

fn check_inserts_only(input: &Schema) -> Result<(), String> {
    if is_changing(input) {
        return Err("the input updates earlier rows; this operator takes only streams of new rows".to_owned());
    }
    Ok(())
}

fn append(input: &Schema, added: Vec<Field>, event_time: Option<&str>) -> Result<SchemaRef, String> {
    if let Some(field) = added.iter().find(|field| input.index_of(field.name()).is_ok()) {
        return Err(format!("the input already has a column '{}'; rename it before this operator", field.name()));
    }
    debug_assert!(input.index_of(CHANGE_COLUMN).is_err(), "checked by every caller");
    let mut fields: Vec<Field> = input.fields().iter().map(|field| field.as_ref().clone()).collect();
    fields.extend(added);
    Ok(with_event_time(&Schema::new(fields), event_time))
}

#[cfg(test)]
mod tests {
    use super::*;
    use weir_core::batch::event_time_index;

    fn input(names: &[&str]) -> SchemaRef {
        let fields: Vec<Field> = names.iter().map(|name| Field::new(*name, event_time_type(), true)).collect();
        with_event_time(&Schema::new(fields), names.first().copied())
    }

    fn names(schema: &Schema) -> Vec<&str> {
        schema.fields().iter().map(|field| field.name().as_str()).collect()
    }

    #[test]
    fn columns_are_appended_and_event_time_is_named() {
        let top = top_n(&input(&["window_time", "window_start", "window_end"]), Some("rank")).expect("a window result");
        assert_eq!(names(&top), ["window_time", "window_start", "window_end", "rank"]);
        assert_eq!(event_time_index(&top), Some(0));
        let last = last_by_key(&input(&["t", "v"])).expect("rows");
        assert!(is_changing(&last) && event_time_index(&last) == Some(0));
        assert_eq!(first_by_key(&input(&["t", "v"])).expect("rows"), input(&["t", "v"]));
        let absent = absence(&input(&["t"])).expect("rows");
        assert_eq!((names(&absent), event_time_index(&absent)), (vec!["t", "silent_until"], Some(1)));
    }

    #[test]
    fn what_does_not_fit_is_refused_with_a_reason() {
        let window = input(&["window_time", "window_start", "window_end", "rank"]);
        assert!(top_n(&window, Some("rank")).expect_err("the name is taken").contains("already has a column 'rank'"));
        assert!(top_n(&input(&["t"]), None).expect_err("no windows").contains("'window_start'"));
        assert!(absence(&input(&["silent_until"])).is_err());
        let changing = last_by_key(&input(&["t"])).expect("rows");
        assert!(last_by_key(&changing).is_err() && first_by_key(&changing).is_err() && absence(&changing).is_err());
    }
}
