//! The planner's questions, answered by `weir-expr` (types of expressions) and the connector registry (what sources and
//! sinks exist and what they say about themselves). Part of the wiring: it knows both and decides nothing.

use std::sync::Arc;

use arrow_schema::Schema;
use weir_core::error::report;
use weir_core::{OrderItem, Settings, TypedAggregate, TypedExpression, TypedItem};
use weir_expr::Expression;
use weir_graph::catalog::Role;
use weir_graph::{Catalog, SinkDescription, SourceDescription};
use weir_operator_api::Registry;

/// Answers the planner.
pub(crate) struct ConnectorCatalog {
    registry: Registry,
}

impl ConnectorCatalog {
    /// Answers with the connectors of `registry`.
    pub(crate) fn new(registry: Registry) -> Self {
        ConnectorCatalog { registry }
    }
}

impl Catalog for ConnectorCatalog {
    fn expression(&self, sql: &str, schema: &Schema) -> Result<TypedExpression, String> {
        let compiled = Expression::compile(sql, &Arc::new(schema.clone()));
        compiled.map(|expression| expression.typed().clone()).map_err(|error| report(&error))
    }

    fn select_item(&self, sql: &str, schema: &Schema) -> Result<Vec<TypedItem>, String> {
        let items = weir_expr::select_item(sql, &Arc::new(schema.clone())).map_err(|error| report(&error))?;
        Ok(items.iter().map(|item| item.typed()).collect())
    }

    fn aggregate(&self, sql: &str, schema: &Schema) -> Result<TypedAggregate, String> {
        let call = weir_expr::aggregate_call(sql, &Arc::new(schema.clone())).map_err(|error| report(&error))?;
        Ok(call.typed())
    }

    fn order_item(&self, sql: &str, schema: &Schema) -> Result<OrderItem, String> {
        weir_expr::order_item(sql, &Arc::new(schema.clone())).map_err(|error| report(&error))
    }

    fn connectors(&self) -> Vec<(&'static str, Role)> {
        let sources = self.registry.source_kinds().into_iter().map(|kind| (kind, Role::Source));
        sources.chain(self.registry.sink_kinds().into_iter().map(|kind| (kind, Role::Sink))).collect()
    }

    fn source(&self, kind: &str, settings: &Settings<'_>) -> Option<SourceDescription> {
        let said = self.registry.source(kind)?.describe(settings)?;
        Some(SourceDescription {
            schema: said.schema,
            is_bounded: said.is_bounded,
            can_project: said.can_project,
            parallelism_max: said.parallelism_max,
        })
    }

    fn sink(&self, kind: &str, settings: &Settings<'_>, input: &Schema) -> Option<SinkDescription> {
        let said = self.registry.sink(kind)?.describe(settings, input)?;
        Some(SinkDescription {
            parallelism_max: said.parallelism_max,
            takes_changes: said.takes_changes,
            takes_store_keys: said.takes_store_keys,
            partition_by: said.partition_by,
        })
    }
}
