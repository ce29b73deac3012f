//! Syntax tree and schema to a program: DataFusion plans, types and coerces; constants are folded, what is left is
//! simplified and made checked. Called by `expression`.

use std::collections::BTreeMap;
use std::sync::Arc;

use arrow_schema::{DataType, Schema, SchemaRef};
use datafusion_common::{DFSchema, Result};
use datafusion_expr::execution_props::ExecutionProps;
use datafusion_expr::physical_planning_context::PhysicalPlanningContext;
use datafusion_optimizer::simplify_expressions::{ExprSimplifier, SimplifyContext};
use datafusion_physical_expr::expressions::{Column, cast};
use datafusion_physical_expr::utils::collect_columns;
use datafusion_physical_expr::{PhysicalExpr, create_physical_expr};
use datafusion_sql::planner::{ParserOptions, PlannerContext, SqlToRel};
use datafusion_sql::sqlparser::ast::Expr as SqlExpr;
use weir_core::TypedExpression;

use crate::error::ExpressionError;
use crate::registry::Registry;
use crate::{check, checked, fold, guarded, result_type};

/// How the values come about.
pub(crate) enum Program {
    /// A column as it is.
    Pick(usize),
    /// Something computed.
    Compute {
        /// The fast form.
        plain: Arc<dyn PhysicalExpr>,
        /// The form whose conditions protect what stands right of them; `None` when there are no conditions.
        guarded: Option<Arc<dyn PhysicalExpr>>,
    },
}

/// A typed program.
pub(crate) struct Compiled {
    pub(crate) program: Program,
    pub(crate) typed: TypedExpression,
    /// The columns read, with the types compiled against.
    pub(crate) reads: Vec<(usize, DataType)>,
}

/// Compiles a syntax tree.
pub(crate) fn compile(mut tree: SqlExpr, schema: &SchemaRef) -> Result<Compiled, ExpressionError> {
    let registry = Registry::get();
    check::check(&mut tree, schema, registry)?;
    if let SqlExpr::Identifier(name) = &tree
        && let Ok(index) = schema.index_of(&name.value)
    {
        return column(index, schema);
    }
    let expr = plan(tree, schema, registry)?;
    program(expr, schema)
}

/// Compiles a column by its index.
pub(crate) fn column(index: usize, schema: &SchemaRef) -> Result<Compiled, ExpressionError> {
    let name = schema.field(index).name();
    program(Arc::new(Column::new(name, index)), schema)
}

fn plan(tree: SqlExpr, schema: &SchemaRef, registry: &Registry) -> Result<Arc<dyn PhysicalExpr>, ExpressionError> {
    let df_schema = Arc::new(DFSchema::try_from(schema.clone())?);
    let options = ParserOptions::default()
        .with_parse_float_as_decimal(true)
        .with_enable_ident_normalization(false)
        .with_map_string_types_to_utf8view(false);
    let planner = SqlToRel::new_with_options(registry, options);
    let expr = planner.sql_to_expr(tree, &df_schema, &mut PlannerContext::new())?;
    let expr = fold::plain_numbers(expr.unalias_nested().data)?;
    let context = SimplifyContext::builder()
        .with_schema(df_schema.clone())
        .with_config_options(registry.options().clone())
        .build();
    let simplifier = ExprSimplifier::new(context);
    let expr = fold::fold(simplifier.coerce(expr, &df_schema)?)?;
    let expr = simplifier.simplify(expr)?;
    let mut properties = ExecutionProps::new();
    properties.config_options = Some(registry.options().clone());
    let expr = create_physical_expr(&expr, &df_schema, &properties, &PhysicalPlanningContext::default())?;
    Ok(checked::checked(expr, schema)?)
}

fn program(expr: Arc<dyn PhysicalExpr>, schema: &SchemaRef) -> Result<Compiled, ExpressionError> {
    let found = expr.data_type(schema)?;
    let data_type = result_type::of_result(&found)?;
    let expr = if data_type == found { expr } else { cast(expr, schema, data_type.clone())? };
    let nullable = expr.nullable(schema)?;
    let reads: BTreeMap<usize, String> =
        collect_columns(&expr).into_iter().map(|column| (column.index(), column.name().to_owned())).collect();
    let program = match expr.downcast_ref::<Column>() {
        Some(column) => Program::Pick(column.index()),
        None => Program::Compute { guarded: guarded::guarded(&expr)?, plain: expr },
    };
    let types = types(&reads, schema);
    let typed = TypedExpression { data_type, nullable, columns: reads.into_values().collect() };
    Ok(Compiled { program, typed, reads: types })
}

fn types(reads: &BTreeMap<usize, String>, schema: &Schema) -> Vec<(usize, DataType)> {
    reads.keys().map(|index| (*index, schema.field(*index).data_type().clone())).collect()
}
