//! Totals that sinks keep over restores: a report as words of a checkpoint (pure). Sinks that only count use it.

use weir_core::Value;
use weir_operator_api::{OperatorError, Result, SinkContext, SinkReport};

/// Puts totals into the words of a checkpoint: as text, because not every 64-bit number survives as a number.
pub fn to_value(totals: &SinkReport) -> Value {
    Value::Map(totals.iter().map(|(name, total)| (name.clone(), Value::Text(total.to_string()))).collect())
}

/// The totals a subtask begins with: the first one gets the sums of all that were restored, whoever gave them.
///
/// **Errors**: internal, when the words are not ours.
pub fn restored(context: &SinkContext) -> Result<SinkReport> {
    let mut totals = SinkReport::new();
    if context.subtask.0 > 0 {
        return Ok(totals);
    }
    for value in context.restored.iter().flat_map(|state| &state.values) {
        let wrong = || OperatorError::internal(format!("not the totals of a sink: {value}"));
        for (name, total) in value.as_map().ok_or_else(wrong)? {
            let total: u64 = total.as_text().and_then(|text| text.parse().ok()).ok_or_else(wrong)?;
            let sum = totals.entry(name.clone()).or_default();
            *sum = sum.wrapping_add(total);
        }
    }
    Ok(totals)
}
