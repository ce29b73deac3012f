//! Which columns of state may become which. The planner asks at submission, operators when they read their state back.
//!
//! A widening keeps every value, and its [`crate::key_hash`]: a key that became wider stays in its key group.

use arrow_schema::{DataType, Field};

use crate::data_type;

/// Whether every value of one type is the same value of the other, as a key too.
pub fn is_widening(from: &DataType, to: &DataType) -> bool {
    use DataType::*;
    match (from, to) {
        (Int8, Int16 | Int32 | Int64) | (Int16, Int32 | Int64) | (Int32, Int64) => true,
        (Float32, Float64) => true,
        (Decimal128(from, scale), Decimal128(to, same)) => scale == same && from < to,
        (List(from), List(to)) => {
            let is_wider = is_widening(from.data_type(), to.data_type());
            is_wider && (to.is_nullable() || !from.is_nullable())
        }
        _ => false,
    }
}

/// Whether the values of one type can be read as the other: the same type, or a wider one.
pub fn fits(from: &DataType, to: &DataType) -> bool {
    from == to || is_widening(from, to)
}

/// Why rows of these columns cannot be read as rows of those: every column at fault with a sentence.
///
/// Columns may have been added when they may be null, and may have become wider. No column may be missing, for what it
/// held would be lost, and none that could be null may have become NOT NULL.
pub fn row_changes<'a>(
    from: impl IntoIterator<Item = &'a Field> + Clone,
    to: impl IntoIterator<Item = &'a Field> + Clone,
) -> Vec<(String, String)> {
    let find = |name: &str| to.clone().into_iter().find(|field| field.name() == name);
    let mut changes: Vec<(String, String)> = Vec::new();
    for old in from.clone() {
        let name = old.name();
        let reason = match find(name) {
            None => Some(format!(
                "rows in state have the column '{name}' ({}), which the job no longer has",
                data_type::name(old.data_type())
            )),
            Some(new) if !fits(old.data_type(), new.data_type()) => Some(format!(
                "the column '{name}' of rows in state is {} and {} in the job, which is neither the same nor wider",
                data_type::name(old.data_type()),
                data_type::name(new.data_type())
            )),
            Some(new) if old.is_nullable() && !new.is_nullable() => {
                Some(format!("the column '{name}' of rows in state may be null, which the job does not allow"))
            }
            Some(_) => None,
        };
        changes.extend(reason.map(|reason| (name.clone(), reason)));
    }
    for new in to.clone() {
        let name = new.name();
        if !new.is_nullable() && from.clone().into_iter().all(|old| old.name() != name) {
            let reason = format!("rows in state lack the column '{name}', which may not be null in the job");
            changes.push((name.clone(), reason));
        }
    }
    changes
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use arrow_array::{ArrayRef, Decimal128Array, Float32Array, Float64Array, Int8Array, Int64Array};

    use super::*;
    use crate::key_hash::hash_columns;

    #[test]
    fn numbers_become_wider_and_never_narrower() {
        use DataType::*;
        let list = |of: DataType| DataType::new_list(of, true);
        let wider = [
            (Int8, Int64),
            (Int32, Int64),
            (Float32, Float64),
            (Decimal128(10, 2), Decimal128(38, 2)),
            (list(Int16), list(Int64)),
        ];
        for (from, to) in wider {
            assert!(is_widening(&from, &to) && !is_widening(&to, &from), "{from} to {to}");
            assert!(fits(&from, &from) && fits(&from, &to) && !fits(&to, &from), "{from} to {to}");
        }
        let others = [
            (Int32, UInt64),
            (Int64, Float64),
            (Int32, Float64),
            (Utf8, LargeUtf8),
            (Int64, Utf8),
            (Int32, Decimal128(38, 0)),
            (Decimal128(10, 2), Decimal128(12, 4)),
        ];
        for (from, to) in others {
            assert!(!is_widening(&from, &to) && !is_widening(&to, &from), "{from} to {to}");
        }
    }

    /// Carries c4 of the failure list: a key that became wider belongs to the key group it had.
    #[test]
    fn c4_wider_keys_keep_their_hash() {
        let decimal = |precision: u8| -> ArrayRef {
            let values = Decimal128Array::from(vec![Some(-12345), Some(0), None]);
            Arc::new(values.with_precision_and_scale(precision, 2).expect("a decimal"))
        };
        let pairs: [(ArrayRef, ArrayRef); 3] = [
            (
                Arc::new(Int8Array::from(vec![Some(-7), Some(0), None])),
                Arc::new(Int64Array::from(vec![Some(-7), Some(0), None])),
            ),
            (
                Arc::new(Float32Array::from(vec![Some(-0.1), Some(-0.0), Some(f32::NAN), None])),
                Arc::new(Float64Array::from(vec![Some(f64::from(-0.1f32)), Some(0.0), Some(f64::NAN), None])),
            ),
            (decimal(10), decimal(20)),
        ];
        for (narrow, wide) in pairs {
            assert!(is_widening(narrow.data_type(), wide.data_type()));
            let hash = |column: ArrayRef| {
                let mut hashes = Vec::new();
                hash_columns(&[column], &mut hashes).expect("a key");
                hashes
            };
            assert_eq!(hash(narrow), hash(wide));
        }
    }

    #[test]
    fn every_column_at_fault_is_named_with_its_types() {
        let old = [
            Field::new("a", DataType::Int32, true),
            Field::new("b", DataType::Int64, true),
            Field::new("c", DataType::Utf8, false),
            Field::new("d", DataType::Utf8, true),
        ];
        let new = [
            Field::new("a", DataType::Int64, true),
            Field::new("b", DataType::Utf8, true),
            Field::new("d", DataType::Utf8, false),
            Field::new("e", DataType::Utf8, false),
            Field::new("f", DataType::Utf8, true),
        ];
        let changes: Vec<String> = row_changes(&old, &new).into_iter().map(|(_, reason)| reason).collect();
        let expected = [
            "the column 'b' of rows in state is BIGINT and STRING in the job, which is neither the same nor wider",
            "rows in state have the column 'c' (STRING), which the job no longer has",
            "the column 'd' of rows in state may be null, which the job does not allow",
            "rows in state lack the column 'e', which may not be null in the job",
        ];
        assert_eq!(changes, expected);
        assert_eq!(row_changes(&old, &old), Vec::new());
    }
}
