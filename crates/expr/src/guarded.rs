//! `AND` and `OR` that evaluate their right side only on the rows the left side leaves open, so that
//! `b <> 0 AND a / b > 1` never divides by zero. Made by `compile`, used by `expression` once the plain form failed.
//!
//! DataFusion evaluates both sides on all rows unless the left side settles nearly all of them. That is faster when
//! nothing can fail, so it stays the first try.

use std::fmt;
use std::sync::Arc;

use arrow::compute::{and_kleene, or_kleene};
use arrow_array::builder::BooleanBufferBuilder;
use arrow_array::{Array, BooleanArray, RecordBatch};
use arrow_schema::{DataType, Schema};
use datafusion_common::tree_node::{Transformed, TreeNode};
use datafusion_common::{Result, cast::as_boolean_array};
use datafusion_expr::{ColumnarValue, Operator};
use datafusion_physical_expr::PhysicalExpr;
use datafusion_physical_expr::expressions::BinaryExpr;

/// The same expression with guarded `AND` and `OR`; `None` when it has neither.
pub(crate) fn guarded(expr: &Arc<dyn PhysicalExpr>) -> Result<Option<Arc<dyn PhysicalExpr>>> {
    let guarded = expr.clone().transform_up(|node| {
        let condition = node.downcast_ref::<BinaryExpr>().and_then(|binary| {
            let decisive = match binary.op() {
                Operator::And => false,
                Operator::Or => true,
                _ => return None,
            };
            Some(Condition { left: binary.left().clone(), right: binary.right().clone(), decisive })
        });
        Ok(match condition {
            Some(condition) => Transformed::yes(Arc::new(condition) as _),
            None => Transformed::no(node),
        })
    })?;
    Ok(guarded.transformed.then_some(guarded.data))
}

/// `left AND right` or `left OR right`.
#[allow(clippy::derived_hash_with_manual_eq, reason = "both take all fields")]
#[derive(Debug, Eq, Hash)]
struct Condition {
    left: Arc<dyn PhysicalExpr>,
    right: Arc<dyn PhysicalExpr>,
    /// The value of the left side that settles a row: false for `AND`, true for `OR`.
    decisive: bool,
}

// Deriving it fails on comparing trait objects behind an `Arc`.
impl PartialEq for Condition {
    fn eq(&self, other: &Self) -> bool {
        self.decisive == other.decisive && self.left.eq(&other.left) && self.right.eq(&other.right)
    }
}

impl Condition {
    fn word(&self) -> &'static str {
        if self.decisive { "OR" } else { "AND" }
    }

    /// Rows that the left side leaves open; null settles nothing.
    fn open(&self, left: &BooleanArray) -> BooleanArray {
        let mut open = BooleanBufferBuilder::new(left.len());
        for row in 0..left.len() {
            open.append(left.is_null(row) || left.value(row) != self.decisive);
        }
        BooleanArray::new(open.finish(), None)
    }
}

impl fmt::Display for Condition {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "({} {} {})", self.left, self.word(), self.right)
    }
}

impl PhysicalExpr for Condition {
    fn data_type(&self, _input_schema: &Schema) -> Result<DataType> {
        Ok(DataType::Boolean)
    }

    fn nullable(&self, input_schema: &Schema) -> Result<bool> {
        Ok(self.left.nullable(input_schema)? || self.right.nullable(input_schema)?)
    }

    fn evaluate(&self, batch: &RecordBatch) -> Result<ColumnarValue> {
        let rows = batch.num_rows();
        let left = self.left.evaluate(batch)?.into_array(rows)?;
        let left = as_boolean_array(&left)?;
        let right = self.right.evaluate_selection(batch, &self.open(left))?.into_array(rows)?;
        let right = as_boolean_array(&right)?;
        // On settled rows the right side is null or arbitrary, and the decisive left side wins over both.
        let result = if self.decisive { or_kleene(left, right)? } else { and_kleene(left, right)? };
        Ok(ColumnarValue::Array(Arc::new(result)))
    }

    fn children(&self) -> Vec<&Arc<dyn PhysicalExpr>> {
        vec![&self.left, &self.right]
    }

    fn with_new_children(self: Arc<Self>, children: Vec<Arc<dyn PhysicalExpr>>) -> Result<Arc<dyn PhysicalExpr>> {
        let mut children = children.into_iter();
        let left = children.next().unwrap_or_else(|| self.left.clone());
        let right = children.next().unwrap_or_else(|| self.right.clone());
        Ok(Arc::new(Condition { left, right, decisive: self.decisive }))
    }

    fn fmt_sql(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "({} {} {})", self.left, self.word(), self.right)
    }
}
