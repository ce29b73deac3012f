//! A job as it was submitted: operators with plain settings, nothing checked yet. The proto crate and the document
//! reader make it, the planner reads it.

use std::collections::BTreeMap;

use weir_core::Value;

/// A job graph as submitted, over gRPC or as a document.
#[derive(Clone, Debug, PartialEq, Default)]
pub struct SubmittedJob {
    /// Name shown to people; need not be unique.
    pub name: String,
    /// Configuration keys of this job, like `parallelism.default`.
    pub config: BTreeMap<String, Value>,
    /// The operators, in any order.
    pub operators: Vec<SubmittedOperator>,
}

/// One operator as submitted.
#[derive(Clone, Debug, PartialEq, Default)]
pub struct SubmittedOperator {
    /// Unique, stable name.
    pub uid: String,
    /// What it does: `filter`, `window`, `file_source`, ...
    pub kind: String,
    /// Subtasks; the job's default when absent.
    pub parallelism: Option<u32>,
    /// Where its rows come from: `uid`, or `uid.output` for a side output (`late`, `dead_letter`).
    pub inputs: Vec<String>,
    /// The settings that belong to the kind.
    pub settings: BTreeMap<String, Value>,
}
