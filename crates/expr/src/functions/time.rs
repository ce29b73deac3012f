//! Timestamps to numbers and back: `epoch_millis(ts)`, `epoch_micros(ts)`, `from_epoch_millis(n)`.

use std::sync::Arc;

use arrow::compute::{try_unary, unary};
use arrow_array::ArrayRef;
use arrow_array::cast::AsArray;
use arrow_array::types::{Int64Type, TimestampMicrosecondType};
use arrow_schema::{ArrowError, DataType};
use datafusion_common::{Result, ScalarValue, plan_err};
use datafusion_expr::{ColumnarValue, ScalarFunctionArgs, ScalarUDFImpl, Signature, Volatility};

use super::{as_event_time, expect_arguments};

/// `epoch_millis` and `epoch_micros`: time since 1970-01-01 UTC as `BIGINT`, rounded down.
#[derive(Debug, PartialEq, Eq, Hash)]
pub(super) struct EpochOf {
    name: &'static str,
    unit_micros: i64,
    signature: Signature,
}

impl EpochOf {
    pub(super) fn millis() -> Self {
        Self::new("epoch_millis", 1_000)
    }

    pub(super) fn micros() -> Self {
        Self::new("epoch_micros", 1)
    }

    fn new(name: &'static str, unit_micros: i64) -> Self {
        EpochOf { name, unit_micros, signature: Signature::user_defined(Volatility::Immutable) }
    }
}

impl ScalarUDFImpl for EpochOf {
    fn name(&self) -> &str {
        self.name
    }

    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn coerce_types(&self, found: &[DataType]) -> Result<Vec<DataType>> {
        expect_arguments(self.name, "it takes a timestamp", found, 1)?;
        Ok(vec![as_event_time(self.name, &found[0])?])
    }

    fn return_type(&self, _arguments: &[DataType]) -> Result<DataType> {
        Ok(DataType::Int64)
    }

    fn invoke_with_args(&self, arguments: ScalarFunctionArgs) -> Result<ColumnarValue> {
        on_array(arguments, |times| {
            let times = times.as_primitive::<TimestampMicrosecondType>();
            let numbers = match self.unit_micros {
                1 => times.reinterpret_cast::<Int64Type>(),
                unit => unary::<_, _, Int64Type>(times, |micros| micros.div_euclid(unit)),
            };
            Ok(Arc::new(numbers))
        })
    }
}

/// `from_epoch_millis`: milliseconds since 1970-01-01 UTC as a timestamp.
#[derive(Debug, PartialEq, Eq, Hash)]
pub(super) struct FromEpochMillis {
    signature: Signature,
}

impl FromEpochMillis {
    pub(super) fn new() -> Self {
        FromEpochMillis { signature: Signature::user_defined(Volatility::Immutable) }
    }
}

impl ScalarUDFImpl for FromEpochMillis {
    fn name(&self) -> &str {
        "from_epoch_millis"
    }

    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn coerce_types(&self, found: &[DataType]) -> Result<Vec<DataType>> {
        expect_arguments(self.name(), "it takes milliseconds since 1970-01-01 UTC", found, 1)?;
        if found[0].is_integer() || found[0].is_null() {
            return Ok(vec![DataType::Int64]);
        }
        let name = weir_core::data_type::name(&found[0]);
        plan_err!("from_epoch_millis needs a BIGINT, not {name}; write CAST(x AS BIGINT)")
    }

    fn return_type(&self, _arguments: &[DataType]) -> Result<DataType> {
        Ok(weir_core::batch::event_time_type())
    }

    fn invoke_with_args(&self, arguments: ScalarFunctionArgs) -> Result<ColumnarValue> {
        on_array(arguments, |millis| {
            let millis = millis.as_primitive::<Int64Type>();
            let times = try_unary::<_, _, TimestampMicrosecondType>(millis, |millis| {
                let micros = millis.checked_mul(1_000);
                micros.ok_or_else(|| ArrowError::ComputeError(format!("{millis} milliseconds are no timestamp")))
            })?;
            Ok(Arc::new(times.with_timezone("UTC")))
        })
    }
}

/// Runs a function of one argument; a constant stays a constant.
fn on_array(
    arguments: ScalarFunctionArgs,
    function: impl FnOnce(ArrayRef) -> Result<ArrayRef>,
) -> Result<ColumnarValue> {
    match &arguments.args[0] {
        ColumnarValue::Array(array) => Ok(ColumnarValue::Array(function(array.clone())?)),
        ColumnarValue::Scalar(value) => {
            let result = function(value.to_array()?)?;
            Ok(ColumnarValue::Scalar(ScalarValue::try_from_array(&result, 0)?))
        }
    }
}
