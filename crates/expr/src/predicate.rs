//! A condition over rows: true, or not. Used by filters, joins and aggregates with `FILTER`.

use arrow_array::cast::AsArray;
use arrow_array::{Array, BooleanArray, RecordBatch};
use arrow_schema::{DataType, SchemaRef};
use arrow_select::filter::prep_null_mask_filter;
use datafusion_sql::sqlparser::ast::Expr as SqlExpr;
use weir_core::TypedExpression;

use crate::error::{EvaluationError, ExpressionError};
use crate::expression::Expression;
use crate::parse;

/// A compiled boolean expression. Clones share everything.
#[derive(Clone, Debug)]
pub struct Predicate {
    expression: Expression,
}

impl Predicate {
    /// Compiles a condition.
    ///
    /// **Errors**: as [`Expression::compile`], and a result that is not `BOOLEAN`.
    pub fn compile(sql: &str, schema: &SchemaRef) -> Result<Predicate, ExpressionError> {
        Self::from_tree(parse::expression(sql, schema)?, sql, schema)
    }

    pub(crate) fn from_tree(tree: SqlExpr, text: &str, schema: &SchemaRef) -> Result<Predicate, ExpressionError> {
        let expression = Expression::from_tree(tree, text, schema)?;
        match expression.data_type() {
            DataType::Boolean => Ok(Predicate { expression }),
            other => Err(ExpressionError::NotBoolean { data_type: other.clone() }),
        }
    }

    /// Type (always boolean), nullability and the columns read.
    pub fn typed(&self) -> &TypedExpression {
        self.expression.typed()
    }

    /// The expression behind the condition, whose nulls are nulls.
    pub fn expression(&self) -> &Expression {
        &self.expression
    }

    /// Evaluates a whole batch; null counts as false, so the result has no nulls.
    ///
    /// **Errors**: [`EvaluationError::Row`] when some row fails on its own.
    pub fn evaluate(&self, batch: &RecordBatch) -> Result<BooleanArray, EvaluationError> {
        Ok(null_as_false(self.expression.evaluate(batch)?.as_boolean()))
    }

    /// Evaluates what can be evaluated: a mask over all rows in which bad rows are false, and the bad rows.
    pub fn evaluate_rows(&self, batch: &RecordBatch) -> (BooleanArray, Vec<(u32, String)>) {
        let rows = self.expression.evaluate_rows(batch);
        let values = null_as_false(rows.values.as_boolean());
        let mut mask = vec![false; batch.num_rows()];
        for (value, row) in values.values().iter().zip(&rows.good) {
            mask[*row as usize] = value;
        }
        (BooleanArray::from(mask), rows.bad)
    }
}

fn null_as_false(values: &BooleanArray) -> BooleanArray {
    if values.null_count() == 0 {
        return BooleanArray::new(values.values().clone(), None);
    }
    prep_null_mask_filter(values)
}
