//! The only conversions between protobuf and the domain types of `weir-core` and `weir-graph`. Clients, coordinator and
//! worker convert once, at their door. What comes from outside is never trusted: wrong input gives a [`ConvertError`]
//! that names the field; it never panics.

mod plan;
mod problem;
mod submitted;
mod token;
mod value;

#[cfg(test)]
mod strategies;

pub use plan::{options_to_config, plan_from_proto, plan_to_proto, schema_from_bytes, schema_to_bytes};
pub use problem::{problem_from_proto, problem_to_proto};
pub use submitted::{job_from_proto, job_to_proto};
pub use token::{
    committable_from_proto, committable_to_proto, task_from_proto, task_to_proto, token_from_proto, token_to_proto,
};
pub use value::{map_to_struct, struct_to_map, value_from_proto, value_to_proto};

use weir_core::Problem;

/// A message from outside that says something impossible.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{field}: {reason}")]
pub struct ConvertError {
    /// Path of the field, like `operators[3].settings.window`.
    pub field: String,
    /// What is wrong with it.
    pub reason: String,
}

impl ConvertError {
    /// Blames `field` for `reason`.
    pub fn new(field: impl Into<String>, reason: impl Into<String>) -> Self {
        ConvertError { field: field.into(), reason: reason.into() }
    }

    /// Puts the place of the field before its path.
    fn within(self, outer: &str) -> Self {
        let dot = if self.field.is_empty() || self.field.starts_with('[') { "" } else { "." };
        ConvertError { field: format!("{outer}{dot}{}", self.field), reason: self.reason }
    }
}

/// The sender is wrong and must change its message: `INVALID_ARGUMENT`.
impl From<ConvertError> for tonic::Status {
    fn from(error: ConvertError) -> Self {
        tonic::Status::invalid_argument(error.to_string())
    }
}

/// A wrong message, told like any other problem of a submitted job.
impl From<ConvertError> for Problem {
    fn from(error: ConvertError) -> Self {
        Problem { operator: String::new(), field: error.field, reason: error.reason, nearest: None }
    }
}
