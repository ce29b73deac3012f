//! Computes the parts of an expression that read no column, once, while compiling. Called by `compile` before
//! DataFusion's simplifier, which would compute them without checking for overflow and without a bound on size.

use std::sync::Arc;

use arrow_array::{RecordBatch, RecordBatchOptions};
use arrow_schema::{DECIMAL128_MAX_PRECISION, Schema};
use datafusion_common::tree_node::{Transformed, TreeNode, TreeNodeRecursion};
use datafusion_common::{DFSchema, DataFusionError, Result, ScalarValue};
use datafusion_expr::execution_props::ExecutionProps;
use datafusion_expr::physical_planning_context::PhysicalPlanningContext;
use datafusion_expr::{ColumnarValue, Expr};
use datafusion_physical_expr::create_physical_expr;

use crate::error::{ExpressionError, message};
use crate::{CONSTANT_BYTES_MAX, checked};

/// Of a constant that fails, this much is shown.
const PART_CHARS_MAX: usize = 200;

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

/// Writes numbers such as `1e3`, which are read as 1 with three digits before the point to add, as 1000: no column type
/// has a negative scale.
pub(crate) fn plain_numbers(expr: Expr) -> Result<Expr, ExpressionError> {
    let mut too_big = false;
    let plain = expr.transform_up(|node| match &node {
        Expr::Literal(ScalarValue::Decimal128(Some(digits), precision, scale), _) if *scale < 0 => {
            let zeros = scale.unsigned_abs();
            let power = 10_i128.checked_pow(u32::from(zeros));
            match power.and_then(|power| digits.checked_mul(power)) {
                Some(number) if precision + zeros <= DECIMAL128_MAX_PRECISION => {
                    let value = ScalarValue::Decimal128(Some(number), precision + zeros, 0);
                    Ok(Transformed::yes(Expr::Literal(value, None)))
                }
                _ => {
                    too_big = true;
                    Ok(Transformed::no(node))
                }
            }
        }
        _ => Ok(Transformed::no(node)),
    })?;
    if too_big {
        return Err(ExpressionError::typing(
            "a number has more than 38 digits; write it as a DOUBLE, for example CAST('1e40' AS DOUBLE)",
        ));
    }
    Ok(plain.data)
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
    let part = match node {
        Expr::Cast(cast) => {
            let data_type = weir_core::data_type::name(cast.field.data_type());
            match cast.expr.as_ref() {
                Expr::Literal(ScalarValue::Utf8(Some(text)), _) => format!("CAST('{text}' AS {data_type})"),
                other => format!("CAST({} AS {data_type})", other.human_display()),
            }
        }
        other => other.human_display().to_string(),
    };
    let part = part.chars().take(PART_CHARS_MAX).collect();
    ExpressionError::ConstantFails { part, message }
}
