//! Tests of the tables in `state_rows.rs`: what is taken over, and what is refused with which words.

use arrow_array::{Int32Array, Int64Array, StringArray};

use super::*;

fn table(columns: Vec<(&str, ArrayRef)>) -> StateTable {
    let rows = columns.first().map_or(0, |column| column.1.len());
    StateTable::keyed("things", VERSION, vec![0; rows], columns).expect("the columns have one length")
}

fn layout() -> Layout {
    let columns = vec![Column::new("key.k", DataType::Int64), Column::added("row.v", DataType::Utf8)];
    Layout::keyed("things", columns)
}

fn ints() -> ArrayRef {
    Arc::new(Int32Array::from(vec![Some(7), None, Some(-7)]))
}

fn refusal(table: StateTable) -> String {
    let error = Restored::new(vec![table]).take(&layout()).err().expect("the table is refused");
    assert_eq!((error.code, error.domain), (STATE_INCOMPATIBLE, weir_core::ErrorDomain::User));
    error.message
}

#[test]
fn wider_numbers_and_new_columns_are_taken_over() {
    let mut restored = Restored::new(vec![table(vec![("key.k", ints())])]);
    let rows = restored.take(&layout()).expect("the table fits");
    assert_eq!(rows[0].columns[0].as_ref(), &Int64Array::from(vec![Some(7), None, Some(-7)]) as &dyn Array);
    assert_eq!((rows[0].columns[1].data_type(), rows[0].columns[1].null_count()), (&DataType::Utf8, 3));
    restored.finish().expect("everything was taken");
}

#[test]
fn what_does_not_fit_is_refused_with_its_place_and_types() {
    let texts: ArrayRef = Arc::new(StringArray::from(vec!["a"]));
    let start = "table 'things' of the checkpoint cannot be taken over:";
    assert_eq!(
        refusal(table(vec![("key.k", texts.clone())])),
        format!("{start} column 'key.k' is Utf8 there and Int64 in the job")
    );
    assert_eq!(
        refusal(table(vec![("row.v", texts.clone())])),
        format!("{start} it lacks the column 'key.k' (Int64), which may not be null")
    );
    assert_eq!(
        refusal(table(vec![("key.k", ints()), ("row.w", ints())])),
        format!("{start} it holds the column 'row.w' (Int32), which the operator no longer has")
    );
    let newer = StateTable { version: 2, ..table(vec![("key.k", ints())]) };
    assert_eq!(refusal(newer), format!("{start} it has version 2, and this Weir knows version 1 only"));
    let shared = StateTable::shared("things", VERSION, vec![("key.k", ints())]).expect("one column");
    assert_eq!(refusal(shared), format!("{start} its rows are dealt to subtasks another way"));
}

#[test]
fn state_that_nobody_reads_is_refused() {
    let error = Restored::new(vec![table(vec![("key.k", ints())])]).finish().expect_err("a table is left");
    assert_eq!(error.message, "the checkpoint holds the table 'things', which this operator does not have");
}
