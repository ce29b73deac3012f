//! The limits of a submitted job, in one place; `docs/job-graph.md` lists them.

/// Most operators in a job.
pub const OPERATORS_MAX: usize = 1_000;
/// Most inputs of one operator.
pub const INPUTS_MAX: usize = 100;
/// Most bytes of one expression.
pub const EXPRESSION_BYTES_MAX: usize = 16 * 1024;
/// Deepest nesting of one expression (parentheses, calls, CASE).
pub const EXPRESSION_DEPTH_MAX: usize = 50;
/// Most bytes of a submitted job graph or document.
pub const GRAPH_BYTES_MAX: usize = 4 * 1024 * 1024;
/// Deepest nesting of settings.
pub const SETTINGS_DEPTH_MAX: usize = 16;
/// Greatest parallelism of an operator.
pub const PARALLELISM_MAX: u32 = 1_024;
/// Most bytes of a name or uid.
pub const NAME_BYTES_MAX: usize = 200;
/// Most columns in one list (project, key, aggregates).
pub const COLUMNS_MAX: usize = 1_000;
/// Most windows one row may belong to (size / slide).
pub const WINDOWS_PER_ROW_MAX: i64 = 10_000;
