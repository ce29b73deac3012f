//! `google.protobuf.Value` and `Struct` <-> [`Value`]. Doubles carry whole numbers exactly up to 2^53; larger ones
//! travel as text, which settings read as numbers too.

use std::collections::BTreeMap;

use prost_types::value::Kind;
use prost_types::{ListValue, Struct};
use weir_core::Value;
use weir_graph::limits::SETTINGS_DEPTH_MAX;

use super::ConvertError;

/// Up to here a double holds every whole number.
const INTEGER_EXACT_MAX: u64 = 1 << 53;

/// Reads a value.
///
/// **Errors**: nesting deeper than [`SETTINGS_DEPTH_MAX`].
pub fn value_from_proto(value: prost_types::Value) -> Result<Value, ConvertError> {
    read(value, SETTINGS_DEPTH_MAX)
}

/// Reads named values; an absent struct is an empty map.
///
/// **Errors**: a value that nests deeper than [`SETTINGS_DEPTH_MAX`].
pub fn struct_to_map(fields: Option<Struct>) -> Result<BTreeMap<String, Value>, ConvertError> {
    read_fields(fields.unwrap_or_default(), SETTINGS_DEPTH_MAX)
}

fn read(value: prost_types::Value, depth_left: usize) -> Result<Value, ConvertError> {
    let Some(depth_left) = depth_left.checked_sub(1) else {
        return Err(ConvertError::new("", format!("nests deeper than {SETTINGS_DEPTH_MAX} levels")));
    };
    Ok(match value.kind {
        None | Some(Kind::NullValue(_)) => Value::Null,
        Some(Kind::BoolValue(truth)) => Value::Bool(truth),
        Some(Kind::NumberValue(number)) => Value::from_f64(number),
        Some(Kind::StringValue(text)) => Value::Text(text),
        Some(Kind::ListValue(list)) => {
            let read_item = |(index, item)| read(item, depth_left).map_err(|error| error.within(&format!("[{index}]")));
            Value::List(list.values.into_iter().enumerate().map(read_item).collect::<Result<_, _>>()?)
        }
        Some(Kind::StructValue(fields)) => Value::Map(read_fields(fields, depth_left)?),
    })
}

fn read_fields(fields: Struct, depth_left: usize) -> Result<BTreeMap<String, Value>, ConvertError> {
    let read_field = |(name, value): (String, prost_types::Value)| match read(value, depth_left) {
        Ok(value) => Ok((name, value)),
        Err(error) => Err(error.within(&name)),
    };
    fields.fields.into_iter().map(read_field).collect()
}

/// Writes a value.
pub fn value_to_proto(value: &Value) -> prost_types::Value {
    let kind = match value {
        Value::Null => Kind::NullValue(0),
        Value::Bool(truth) => Kind::BoolValue(*truth),
        Value::Integer(number) if number.unsigned_abs() <= INTEGER_EXACT_MAX => Kind::NumberValue(*number as f64),
        Value::Integer(number) => Kind::StringValue(number.to_string()),
        Value::Float(number) => Kind::NumberValue(*number),
        Value::Text(text) => Kind::StringValue(text.clone()),
        Value::List(items) => Kind::ListValue(ListValue { values: items.iter().map(value_to_proto).collect() }),
        Value::Map(fields) => Kind::StructValue(map_to_struct(fields)),
    };
    prost_types::Value { kind: Some(kind) }
}

/// Writes named values.
pub fn map_to_struct(fields: &BTreeMap<String, Value>) -> Struct {
    Struct { fields: fields.iter().map(|(name, value)| (name.clone(), value_to_proto(value))).collect() }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::convert::strategies;

    proptest! {
        #[test]
        fn values_survive_the_wire(value in strategies::value()) {
            prop_assert_eq!(value_from_proto(value_to_proto(&value)), Ok(value));
        }
    }

    #[test]
    fn whole_numbers_beyond_doubles_travel_as_text() {
        for number in [(1 << 53) + 1, i64::MAX, i64::MIN] {
            let read = value_from_proto(value_to_proto(&Value::Integer(number)));
            assert_eq!(read, Ok(Value::Text(number.to_string())));
        }
        let edge = Value::Integer(-(1 << 53));
        assert_eq!(value_from_proto(value_to_proto(&edge)), Ok(edge));
    }

    #[test]
    fn nesting_beyond_the_limit_is_refused_with_its_path() {
        let nested = |levels: usize| (1..levels).fold(Value::Null, |inner, _| Value::from(vec![inner]));
        assert!(value_from_proto(value_to_proto(&nested(SETTINGS_DEPTH_MAX))).is_ok());
        let fields = BTreeMap::from([("window".to_owned(), nested(SETTINGS_DEPTH_MAX + 1))]);
        let error = struct_to_map(Some(map_to_struct(&fields))).expect_err("too deep");
        assert!(error.field.starts_with("window[0][0]"), "{error}");
    }

    #[test]
    fn a_value_without_a_kind_is_null() {
        assert_eq!(value_from_proto(prost_types::Value { kind: None }), Ok(Value::Null));
    }
}
