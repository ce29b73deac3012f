//! Computes the parts of an expression that read no column, once, while compiling. Called by `compile` before
//! DataFusion's simplifier, which would compute them without checking for overflow and without a bound on size.

use std::sync::Arc;

use arrow_array::{RecordBatch, RecordBatchOptions};
use arrow_schema::Schema;
use datafusion_common::tree_node::{Transformed, TreeNode, TreeNodeRecursion};
use datafusion_common::{DFSchema, DataFusionError, Result, ScalarValue};
use datafusion_expr::execution_props::ExecutionProps;
use datafusion_expr::physical_planning_context::PhysicalPlanningContext;
use datafusion_expr::{ColumnarValue, Expr};
use datafusion_physical_expr::create_physical_expr;

use crate::error::{ExpressionError, message};
use crate::{CONSTANT_BYTES_MAX, checked};

/// Replaces constant parts by their values, innermost first.
///
/// **Errors**: a part that fails, or is too big: it would for every row.
pub(crate) fn fold(expr: Expr) -> Result<Expr, ExpressionError> {
    let mut failure = None;
    let folded = expr.transform_up(|node| {
        if !is_constant(&node)? {
            return Ok(Transformed::no(node));
        }
        match value(&node) {
            Ok(value) if value.size() <= CONSTANT_BYTES_MAX => Ok(Transformed::yes(Expr::Literal(value, None))),
            Ok(value) => {
                let message = format!("it has {} bytes, more than the {CONSTANT_BYTES_MAX} allowed", value.size());
                failure = Some(constant_fails(&node, message));
                Err(DataFusionError::Plan("stopped".to_owned()))
            }
            Err(error) => {
                failure = Some(constant_fails(&node, message(&error)));
                Err(error)
            }
        }
    });
    match (folded, failure) {
        (_, Some(failure)) => Err(failure),
        (folded, None) => Ok(folded?.data),
    }
}

/// A node that computes something, and from constants only. Its children are folded already.
fn is_constant(node: &Expr) -> Result<bool> {
    let computes = matches!(
        node,
        Expr::BinaryExpr(_)
            | Expr::Between(_)
            | Expr::Case(_)
            | Expr::Cast(_)
            | Expr::InList(_)
            | Expr::IsFalse(_)
            | Expr::IsNotFalse(_)
            | Expr::IsNotNull(_)
            | Expr::IsNotTrue(_)
            | Expr::IsNotUnknown(_)
            | Expr::IsNull(_)
            | Expr::IsTrue(_)
            | Expr::IsUnknown(_)
            | Expr::Like(_)
            | Expr::Negative(_)
            | Expr::Not(_)
            | Expr::ScalarFunction(_)
            | Expr::SimilarTo(_)
            | Expr::TryCast(_)
    );
    let mut is_constant = computes;
    if computes {
        node.apply_children(|child| {
            is_constant &= matches!(child, Expr::Literal(..));
            Ok(if is_constant { TreeNodeRecursion::Continue } else { TreeNodeRecursion::Stop })
        })?;
    }
    Ok(is_constant)
}

fn value(node: &Expr) -> Result<ScalarValue> {
    let schema = Arc::new(Schema::empty());
    let df_schema = DFSchema::try_from(schema.clone())?;
    let expr = create_physical_expr(node, &df_schema, &ExecutionProps::new(), &PhysicalPlanningContext::default())?;
    let expr = checked::checked(expr, &schema)?;
    let row = RecordBatch::try_new_with_options(schema, vec![], &RecordBatchOptions::new().with_row_count(Some(1)))?;
    match expr.evaluate(&row)? {
        ColumnarValue::Scalar(value) => Ok(value),
        ColumnarValue::Array(values) => ScalarValue::try_from_array(&values, 0),
    }
}

fn constant_fails(node: &Expr, message: String) -> ExpressionError {
    // The text of a long constant helps nobody.
    let part: String = node.human_display().to_string().chars().take(200).collect();
    ExpressionError::ConstantFails { part, message }
}
