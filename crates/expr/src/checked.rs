//! Makes arithmetic fail on overflow. Called by `compile` and `fold`.
//!
//! DataFusion plans integer `+ - *` and unary `-` as wrapping kernels; the checked kernels are behind a flag that its
//! planner never sets (`BinaryExpr::with_fail_on_overflow`), so it is set here on the planned tree. Division, modulo,
//! casts, decimals and timestamps are checked by Arrow in any case. Floats follow IEEE and never fail.

use std::sync::Arc;

use arrow_schema::Schema;
use datafusion_common::tree_node::{Transformed, TreeNode};
use datafusion_common::{Result, ScalarValue};
use datafusion_expr::Operator;
use datafusion_physical_expr::PhysicalExpr;
use datafusion_physical_expr::expressions::{BinaryExpr, Literal, NegativeExpr};

/// Replaces wrapping arithmetic by checked arithmetic.
pub(crate) fn checked(expr: Arc<dyn PhysicalExpr>, schema: &Schema) -> Result<Arc<dyn PhysicalExpr>> {
    let checked = expr.transform_up(|node| {
        if let Some(binary) = node.downcast_ref::<BinaryExpr>()
            && matches!(binary.op(), Operator::Plus | Operator::Minus | Operator::Multiply)
        {
            return Ok(Transformed::yes(Arc::new(binary.clone().with_fail_on_overflow(true)) as _));
        }
        if let Some(negative) = node.downcast_ref::<NegativeExpr>() {
            let data_type = negative.arg().data_type(schema)?;
            if data_type.is_signed_integer() {
                let zero = Arc::new(Literal::new(ScalarValue::new_zero(&data_type)?));
                let minus = BinaryExpr::new(zero, Operator::Minus, negative.arg().clone());
                return Ok(Transformed::yes(Arc::new(minus.with_fail_on_overflow(true)) as _));
            }
        }
        Ok(Transformed::no(node))
    })?;
    Ok(checked.data)
}
