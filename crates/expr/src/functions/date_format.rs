//! `date_format(ts, 'yyyy-MM-dd')`: a timestamp as text, in UTC, by a pattern that is written out.

use std::sync::Arc;

use arrow_array::builder::StringBuilder;
use arrow_array::cast::AsArray;
use arrow_array::types::TimestampMicrosecondType;
use arrow_array::{Array, ArrayRef};
use arrow_schema::{DataType, Field, FieldRef};
use chrono::DateTime;
use datafusion_common::{Result, ScalarValue, exec_err, internal_err, plan_datafusion_err, plan_err};
use datafusion_expr::{ColumnarValue, ReturnFieldArgs, ScalarFunctionArgs, ScalarUDFImpl, Signature, Volatility};

use super::date_pattern::DatePattern;
use super::{as_event_time, expect_arguments};

/// The function.
#[derive(Debug, PartialEq, Eq, Hash)]
pub(super) struct DateFormat {
    signature: Signature,
}

impl DateFormat {
    pub(super) fn new() -> Self {
        DateFormat { signature: Signature::user_defined(Volatility::Immutable) }
    }
}

impl ScalarUDFImpl for DateFormat {
    fn name(&self) -> &str {
        "date_format"
    }

    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn coerce_types(&self, found: &[DataType]) -> Result<Vec<DataType>> {
        expect_arguments(self.name(), "date_format(ts, 'yyyy-MM-dd')", found, 2)?;
        Ok(vec![as_event_time(self.name(), &found[0])?, DataType::Utf8])
    }

    fn return_type(&self, _arguments: &[DataType]) -> Result<DataType> {
        Ok(DataType::Utf8)
    }

    /// Reads the pattern too, so that a wrong one is found at submission.
    fn return_field_from_args(&self, arguments: ReturnFieldArgs<'_>) -> Result<FieldRef> {
        match arguments.scalar_arguments.get(1).copied().flatten() {
            Some(pattern) => read(pattern).map(drop)?,
            None => return plan_err!("date_format needs its pattern written out: date_format(ts, 'yyyy-MM-dd')"),
        }
        let nullable = arguments.arg_fields.first().is_none_or(|field| field.is_nullable());
        Ok(Arc::new(Field::new(self.name(), DataType::Utf8, nullable)))
    }

    fn invoke_with_args(&self, arguments: ScalarFunctionArgs) -> Result<ColumnarValue> {
        let [times, ColumnarValue::Scalar(pattern)] = arguments.args.as_slice() else {
            return internal_err!("date_format runs with a constant pattern");
        };
        let pattern = read(pattern)?;
        match times {
            ColumnarValue::Array(times) => Ok(ColumnarValue::Array(format(times, &pattern)?)),
            ColumnarValue::Scalar(time) => {
                let text = format(&time.to_array()?, &pattern)?;
                Ok(ColumnarValue::Scalar(ScalarValue::try_from_array(&text, 0)?))
            }
        }
    }
}

fn read(pattern: &ScalarValue) -> Result<DatePattern> {
    match pattern.try_as_str() {
        Some(Some(pattern)) => DatePattern::parse(pattern).map_err(|error| plan_datafusion_err!("{error}")),
        _ => plan_err!("date_format needs a pattern of type STRING: date_format(ts, 'yyyy-MM-dd')"),
    }
}

fn format(times: &ArrayRef, pattern: &DatePattern) -> Result<ArrayRef> {
    let times = times.as_primitive::<TimestampMicrosecondType>();
    let mut texts = StringBuilder::with_capacity(times.len(), 24 * times.len());
    for row in 0..times.len() {
        if times.is_null(row) {
            texts.append_null();
            continue;
        }
        let Some(time) = DateTime::from_timestamp_micros(times.value(row)) else {
            return exec_err!("date_format: {} microseconds since 1970 are beyond the calendar", times.value(row));
        };
        // The builder collects what is written until the value is ended.
        if pattern.write(&time, &mut texts).is_err() {
            return internal_err!("a string builder refused text");
        }
        texts.append_value("");
    }
    Ok(Arc::new(texts.finish()))
}
