//! Weir's own scalar functions. `registry` lists them beside DataFusion's.
//!
//! A function takes whole arrays, never allocates per row, and depends on its arguments alone.

mod date_format;
mod date_pattern;
mod geo;
mod time;

use std::sync::Arc;

use arrow_schema::DataType;
use datafusion_common::{Result, plan_err};
use datafusion_expr::ScalarUDF;

/// All functions of this room.
pub(crate) fn all() -> Vec<Arc<ScalarUDF>> {
    vec![
        Arc::new(ScalarUDF::from(geo::GeoDistanceKm::new())),
        Arc::new(ScalarUDF::from(time::EpochOf::millis())),
        Arc::new(ScalarUDF::from(time::EpochOf::micros())),
        Arc::new(ScalarUDF::from(time::FromEpochMillis::new())),
        Arc::new(ScalarUDF::from(date_format::DateFormat::new())),
    ]
}

/// Refuses a call with another number of arguments than the function has.
fn expect_arguments(name: &str, usage: &str, found: &[DataType], count: usize) -> Result<()> {
    if found.len() == count {
        return Ok(());
    }
    plan_err!("{name} takes {count} arguments, not {}: {usage}", found.len())
}

/// Any timestamp is brought to microseconds in UTC; other types are refused with the way out.
fn as_event_time(name: &str, found: &DataType) -> Result<DataType> {
    match found {
        DataType::Timestamp(..) | DataType::Null => Ok(weir_core::batch::event_time_type()),
        other => {
            let found = weir_core::data_type::name(other);
            plan_err!("{name} needs a TIMESTAMP, not {found}; write CAST(x AS TIMESTAMP) or from_epoch_millis(x)")
        }
    }
}
