//! Splits of sources: listed by the connectors at submission, dealt out to source subtasks at deployment.

pub mod assign;
pub(crate) mod enumerate;
