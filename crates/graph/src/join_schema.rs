//! Schema of what a window join emits (pure). The planner types with it and the join builds batches to it.

use std::collections::BTreeSet;

use arrow_schema::{Field, Schema, SchemaRef};
use weir_core::batch::{event_time_type, is_changing, with_event_time};

use crate::descriptor::JoinType;
use crate::window::WindowSpec;
use crate::window_schema::{WINDOW_END, WINDOW_START, WINDOW_TIME};

/// The window columns, in the order in which results carry them.
pub const WINDOW_COLUMNS: [&str; 3] = [WINDOW_START, WINDOW_END, WINDOW_TIME];

/// Whether results may lack the left side.
pub fn may_lack_left(join: JoinType) -> bool {
    matches!(join, JoinType::Right | JoinType::Full)
}

/// Whether results may lack the right side.
pub fn may_lack_right(join: JoinType) -> bool {
    matches!(join, JoinType::Left | JoinType::Full)
}

/// Indexes of the columns of the right side that results carry: all, but for `same` not its window columns.
pub fn right_columns(right: &Schema, window: &WindowSpec) -> Vec<usize> {
    let is_kept = |name: &str| *window != WindowSpec::Same || !WINDOW_COLUMNS.contains(&name);
    (0..right.fields().len()).filter(|index| is_kept(right.field(*index).name())).collect()
}

/// Schema of the results of a window join.
///
/// **Shapes**: for `same` the columns of the left side, then those of the right side without its window columns. For
/// other windows the columns of the left side, those of the right side, `window_start`, `window_end`, `window_time`.
/// The event time is `window_time`. Columns of a side that a result may lack are nullable, but never those of the
/// window.
/// **Errors**: a sentence: a side without what `same` needs, a name on both sides, a side that retracts.
pub fn output_schema(left: &Schema, right: &Schema, window: &WindowSpec, join: JoinType) -> Result<SchemaRef, String> {
    for (side, schema) in [("first", left), ("second", right)] {
        if is_changing(schema) {
            return Err(format!("the {side} input updates earlier rows, which a window join cannot take back"));
        }
    }
    if *window == WindowSpec::Same {
        check_window_columns("first", left, &WINDOW_COLUMNS)?;
        check_window_columns("second", right, &[WINDOW_START, WINDOW_END])?;
    }
    let is_window = |field: &Field| *window == WindowSpec::Same && WINDOW_COLUMNS.contains(&field.name().as_str());
    let mut fields: Vec<Field> = Vec::new();
    for field in left.fields() {
        let is_nullable = field.is_nullable() || (may_lack_left(join) && !is_window(field));
        fields.push(field.as_ref().clone().with_nullable(is_nullable));
    }
    for index in right_columns(right, window) {
        let field = right.field(index);
        fields.push(field.clone().with_nullable(field.is_nullable() || may_lack_right(join)));
    }
    if *window != WindowSpec::Same {
        fields.extend(WINDOW_COLUMNS.map(|name| Field::new(name, event_time_type(), false)));
    }
    let mut names = BTreeSet::new();
    let twice: Vec<&str> =
        fields.iter().map(|field| field.name().as_str()).filter(|name| !names.insert(*name)).collect();
    if !twice.is_empty() {
        let cure = "rename them on one side with a project before the join";
        return Err(format!("these columns would occur twice in the result: {}; {cure}", twice.join(", ")));
    }
    Ok(with_event_time(&Schema::new(fields), Some(WINDOW_TIME)))
}

fn check_window_columns(side: &str, schema: &Schema, names: &[&str]) -> Result<(), String> {
    for name in names {
        let is_there = schema.field_with_name(name).is_ok_and(|field| *field.data_type() == event_time_type());
        if !is_there {
            let reason = "windows of type 'same' join results of windows";
            return Err(format!("the {side} input has no timestamp column '{name}': {reason}"));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use arrow_schema::DataType;
    use weir_core::batch::{change_field, event_time_index};

    const TUMBLE: WindowSpec = WindowSpec::Tumble { size: 10, offset: 0 };

    fn side(names: &[&str]) -> Schema {
        Schema::new(names.iter().map(|name| Field::new(*name, event_time_type(), false)).collect::<Vec<_>>())
    }

    fn print(schema: &Schema) -> String {
        let fields = schema.fields().iter().map(|f| format!("{}{}", f.name(), if f.is_nullable() { "?" } else { "" }));
        fields.collect::<Vec<_>>().join(" ")
    }

    #[test]
    fn result_carries_both_sides_and_the_window() {
        let schema = output_schema(&side(&["a"]), &side(&["b"]), &TUMBLE, JoinType::Left).expect("names differ");
        assert_eq!(print(&schema), "a b? window_start window_end window_time");
        assert_eq!(event_time_index(&schema), Some(4));
    }

    #[test]
    fn same_windows_keep_one_copy_of_the_window() {
        let left = side(&["a", "window_start", "window_end", "window_time"]);
        let right = side(&["window_start", "window_end", "b"]);
        let schema = output_schema(&left, &right, &WindowSpec::Same, JoinType::Full).expect("names differ");
        assert_eq!(print(&schema), "a? window_start window_end window_time b?");
        assert_eq!(event_time_index(&schema), Some(3));
    }

    #[test]
    fn what_cannot_be_joined_is_refused_with_a_reason() {
        let refusal = |left: &Schema, right: &Schema, window| {
            output_schema(left, right, &window, JoinType::Inner).expect_err("the sides do not fit")
        };
        assert!(refusal(&side(&["a", "b"]), &side(&["b", "a"]), TUMBLE).contains("twice in the result: b, a"));
        assert!(refusal(&side(&["window_end"]), &side(&["b"]), TUMBLE).contains("window_end"));
        assert!(refusal(&side(&["a"]), &side(&["b"]), WindowSpec::Same).contains("the first input has no timestamp"));
        let changing = Schema::new(vec![Field::new("a", DataType::Int64, true), change_field()]);
        assert!(refusal(&side(&["b"]), &changing, TUMBLE).contains("the second input updates"));
    }
}
