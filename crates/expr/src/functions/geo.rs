//! `geo_distance_km(lat1, lon1, lat2, lon2)`: great-circle distance in kilometres.
//!
//! **Source**: the haversine formula (R. W. Sinnott, "Virtues of the Haversine", Sky and Telescope 68, 1984) over a
//! sphere of the mean Earth radius R1 of the IUGG, 6371.0088 km. Against the ellipsoid it errs by up to 0.5 %.

use std::sync::Arc;

use arrow_array::cast::AsArray;
use arrow_array::types::Float64Type;
use arrow_array::{Array, ArrayRef, Float64Array};
use arrow_schema::DataType;
use datafusion_common::{Result, plan_err};
use datafusion_expr::{ColumnarValue, ScalarFunctionArgs, ScalarUDFImpl, Signature, Volatility};

use super::expect_arguments;

const EARTH_RADIUS_KM: f64 = 6371.0088;
const USAGE: &str = "geo_distance_km(lat1, lon1, lat2, lon2), in degrees";

/// The function.
#[derive(Debug, PartialEq, Eq, Hash)]
pub(super) struct GeoDistanceKm {
    signature: Signature,
}

impl GeoDistanceKm {
    pub(super) fn new() -> Self {
        GeoDistanceKm { signature: Signature::user_defined(Volatility::Immutable) }
    }
}

impl ScalarUDFImpl for GeoDistanceKm {
    fn name(&self) -> &str {
        "geo_distance_km"
    }

    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn coerce_types(&self, found: &[DataType]) -> Result<Vec<DataType>> {
        expect_arguments(self.name(), USAGE, found, 4)?;
        if let Some(other) = found.iter().find(|found| !found.is_numeric() && !found.is_null()) {
            return plan_err!("geo_distance_km needs numbers, not {}: {USAGE}", weir_core::data_type::name(other));
        }
        Ok(vec![DataType::Float64; 4])
    }

    fn return_type(&self, _arguments: &[DataType]) -> Result<DataType> {
        Ok(DataType::Float64)
    }

    fn invoke_with_args(&self, arguments: ScalarFunctionArgs) -> Result<ColumnarValue> {
        let is_scalar = arguments.args.iter().all(|argument| matches!(argument, ColumnarValue::Scalar(_)));
        let rows = if is_scalar { 1 } else { arguments.number_rows };
        let arrays =
            arguments.args.into_iter().map(|argument| argument.into_array(rows)).collect::<Result<Vec<_>>>()?;
        let [lat1, lon1, lat2, lon2] = [0, 1, 2, 3].map(|index: usize| arrays[index].as_primitive::<Float64Type>());
        let nulls = arrow::buffer::NullBuffer::union_many(arrays.iter().map(|array| array.nulls()));
        let points = lat1.values().iter().zip(lon1.values()).zip(lat2.values().iter().zip(lon2.values()));
        let distances = points.map(|((lat1, lon1), (lat2, lon2))| distance_km(*lat1, *lon1, *lat2, *lon2)).collect();
        let result: ArrayRef = Arc::new(Float64Array::new(distances, nulls));
        if is_scalar {
            return Ok(ColumnarValue::Scalar(datafusion_common::ScalarValue::try_from_array(&result, 0)?));
        }
        Ok(ColumnarValue::Array(result))
    }
}

fn distance_km(lat1: f64, lon1: f64, lat2: f64, lon2: f64) -> f64 {
    let half_lat = ((lat2 - lat1).to_radians() / 2.0).sin();
    let half_lon = ((lon2 - lon1).to_radians() / 2.0).sin();
    let chord = half_lat * half_lat + lat1.to_radians().cos() * lat2.to_radians().cos() * half_lon * half_lon;
    // Rounding may take the chord of antipodes a little above 1; NaN stays NaN.
    2.0 * EARTH_RADIUS_KM * chord.sqrt().clamp(0.0, 1.0).asin()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn known_distances() {
        let kilometres = |a: (f64, f64), b: (f64, f64)| distance_km(a.0, a.1, b.0, b.1);
        let (berlin, munich) = ((52.52, 13.405), (48.1372, 11.5756));
        assert!((kilometres(berlin, munich) - 504.3).abs() < 0.5, "{}", kilometres(berlin, munich));
        // Half the circumference, over the poles and along the equator.
        let half = std::f64::consts::PI * EARTH_RADIUS_KM;
        assert!((kilometres((90.0, 0.0), (-90.0, 0.0)) - half).abs() < 1e-6);
        assert!((kilometres((0.0, -90.0), (0.0, 90.0)) - half).abs() < 1e-6);
        // The date line is no obstacle.
        assert!(kilometres((0.0, 179.9), (0.0, -179.9)) < 23.0);
        assert_eq!(kilometres(berlin, berlin), 0.0);
        assert!(kilometres((f64::NAN, 0.0), berlin).is_nan());
    }
}
