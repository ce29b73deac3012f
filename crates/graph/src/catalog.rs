//! What the planner asks of other rooms: types of expressions, and what connectors exist. The coordinator's wiring
//! answers with `weir-expr` and the connector registry; tests answer with small fakes.

use arrow_schema::{Schema, SchemaRef};
use weir_core::{OrderItem, Settings, TypedAggregate, TypedExpression, TypedItem};

/// What a connector says about a source with given settings.
#[derive(Clone, Debug)]
pub struct SourceDescription {
    /// Schema of its rows.
    pub schema: SchemaRef,
    /// Whether it ends by itself.
    pub is_bounded: bool,
    /// Whether it can leave out columns nobody reads (and loses no error by that).
    pub can_project: bool,
    /// Most subtasks that are of use, if limited.
    pub parallelism_max: Option<u32>,
}

/// What a connector says about a sink with given settings and input.
#[derive(Clone, Debug, Default)]
pub struct SinkDescription {
    /// Most subtasks it can run with, if limited (1 for a single output file).
    pub parallelism_max: Option<u32>,
    /// Whether it can take updates and deletes, not only inserts.
    pub takes_changes: bool,
    /// Whether the job's keys of object stores (`s3.*`) hold for it where its settings have none.
    pub takes_store_keys: bool,
    /// Columns whose equal values must come to one subtask, if it matters.
    pub partition_by: Option<Vec<String>>,
}

/// Whether an operator kind begins or ends a graph.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Role {
    /// Produces rows.
    Source,
    /// Takes rows out of the job.
    Sink,
}

/// Answers the planner's questions. Errors are sentences for the user.
pub trait Catalog {
    /// Types one SQL expression over the columns of `schema`.
    fn expression(&self, sql: &str, schema: &Schema) -> Result<TypedExpression, String>;

    /// Types one item of a select list: `*`, `column`, `expression AS name`. `*` gives several.
    fn select_item(&self, sql: &str, schema: &Schema) -> Result<Vec<TypedItem>, String>;

    /// Types one aggregate call: `count(*) AS reports`, `sum(x) FILTER (WHERE y > 0) AS total`.
    fn aggregate(&self, sql: &str, schema: &Schema) -> Result<TypedAggregate, String>;

    /// Reads one ordering: `column`, `column ASC`, `column DESC`.
    fn order_item(&self, sql: &str, schema: &Schema) -> Result<OrderItem, String>;

    /// The connector kinds that exist.
    fn connectors(&self) -> Vec<(&'static str, Role)>;

    /// Describes a source; `None` after recording problems in `settings`. The caller finishes `settings`.
    fn source(&self, kind: &str, settings: &Settings<'_>) -> Option<SourceDescription>;

    /// Describes a sink; `None` after recording problems in `settings`. The caller finishes `settings`.
    fn sink(&self, kind: &str, settings: &Settings<'_>, input: &Schema) -> Option<SinkDescription>;
}
