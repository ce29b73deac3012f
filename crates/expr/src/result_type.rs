//! The types that leave an expression: fewer than Arrow has, so that the rest of the engine stays simple. Called by
//! `compile`.

use std::sync::Arc;

use arrow_schema::{DataType, Field, FieldRef};

use crate::error::ExpressionError;

/// The type a result of `data_type` is cast to; the same type when nothing is to do.
///
/// **Errors**: types no record has, with the way out.
pub(crate) fn of_result(data_type: &DataType) -> Result<DataType, ExpressionError> {
    use DataType::*;
    Ok(match data_type {
        Utf8View | LargeUtf8 => Utf8,
        BinaryView | LargeBinary | FixedSizeBinary(_) => Binary,
        Dictionary(_, values) => of_result(values)?,
        RunEndEncoded(_, values) => of_result(values.data_type())?,
        UInt8 => Int16,
        UInt16 => Int32,
        UInt32 | UInt64 => Int64,
        Float16 => Float32,
        Decimal32(precision, scale) | Decimal64(precision, scale) => Decimal128(*precision, *scale),
        List(item) | LargeList(item) | FixedSizeList(item, _) | ListView(item) | LargeListView(item) => {
            List(field(item)?)
        }
        Struct(fields) => Struct(fields.iter().map(field).collect::<Result<Vec<_>, _>>()?.into()),
        Interval(_) | Duration(_) => {
            return Err(ExpressionError::typing(
                "the result is a length of time, which no column can hold; compute it as a number: \
                 epoch_millis(a) - epoch_millis(b)",
            ));
        }
        Null => {
            return Err(ExpressionError::typing(
                "the result is always NULL and has no type; write for example CAST(NULL AS STRING)",
            ));
        }
        other => other.clone(),
    })
}

fn field(field: &FieldRef) -> Result<FieldRef, ExpressionError> {
    let data_type = of_result(field.data_type())?;
    if data_type == *field.data_type() {
        return Ok(field.clone());
    }
    Ok(Arc::new(Field::new(field.name(), data_type, field.is_nullable())))
}
