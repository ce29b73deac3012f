//! A compiled expression and its evaluation over batches. Used by the planner (types) and the operators (values).
//!
//! Whether a row fails depends on that row alone. A batch is first evaluated as a whole; when that fails, it is cut
//! in halves until the rows that fail on their own are found:
//!
//! ```text
//! rows 0..8 fail -> 0..4 good, 4..8 fail -> 4..6 fail -> row 4 bad, row 5 good; 6..8 good
//! ```
//!
//! With b bad rows of n that takes about 2 b log2(n) evaluations, most of them of few rows.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use arrow_array::{ArrayRef, RecordBatch, new_empty_array};
use arrow_schema::{DataType, SchemaRef};
use arrow_select::concat::concat;
use datafusion_common::DataFusionError;
use datafusion_physical_expr::PhysicalExpr;
use datafusion_sql::sqlparser::ast::Expr as SqlExpr;
use weir_core::TypedExpression;

use crate::compile::{Compiled, Program, column, compile};
use crate::error::{EvaluationError, ExpressionError, message};
use crate::parse;

/// A typed, compiled expression over the rows of one schema. Clones share everything.
#[derive(Clone)]
pub struct Expression {
    inner: Arc<Inner>,
}

struct Inner {
    text: String,
    compiled: Compiled,
    /// Set once the guarded form succeeded where the plain form failed: such batches tend to come again.
    prefers_guarded: AtomicBool,
}

/// The outcome of evaluating rows one by one, as far as needed.
///
/// **Shapes**: `good` and `values` have the same length; `good` and `bad` together have each row once; both ascend.
#[derive(Clone, Debug)]
pub struct RowResults {
    /// Indices of the rows that have a value.
    pub good: Vec<u32>,
    /// Their values.
    pub values: ArrayRef,
    /// Index of each row that fails on its own, and why.
    pub bad: Vec<(u32, String)>,
}

impl Expression {
    /// Compiles SQL text against a schema: names resolved, types checked and coerced, constants computed.
    pub fn compile(sql: &str, schema: &SchemaRef) -> Result<Expression, ExpressionError> {
        Self::from_tree(parse::expression(sql, schema)?, sql, schema)
    }

    pub(crate) fn from_tree(tree: SqlExpr, text: &str, schema: &SchemaRef) -> Result<Expression, ExpressionError> {
        let compiled = catch_unwind(AssertUnwindSafe(|| compile(tree, schema)))
            .unwrap_or_else(|panic| Err(ExpressionError::Internal { message: panic_text(panic.as_ref()) }))?;
        Ok(Self::new(compiled, text.trim()))
    }

    pub(crate) fn pick(index: usize, schema: &SchemaRef) -> Result<Expression, ExpressionError> {
        Ok(Self::new(column(index, schema)?, schema.field(index).name()))
    }

    fn new(compiled: Compiled, text: &str) -> Self {
        let inner = Inner { text: text.to_owned(), compiled, prefers_guarded: AtomicBool::new(false) };
        Expression { inner: Arc::new(inner) }
    }

    /// Type, nullability and the columns read.
    pub fn typed(&self) -> &TypedExpression {
        &self.inner.compiled.typed
    }

    /// Type of the values.
    pub fn data_type(&self) -> &DataType {
        &self.typed().data_type
    }

    /// The SQL text.
    pub fn sql(&self) -> &str {
        &self.inner.text
    }

    /// The name of the column, when the expression is nothing but a column.
    pub fn field_name(&self) -> Option<&str> {
        match self.inner.compiled.program {
            Program::Pick(_) => self.typed().columns.first().map(String::as_str),
            Program::Compute { .. } => None,
        }
    }

    /// The index of the column, when the expression is nothing but a column.
    pub fn column_index(&self) -> Option<usize> {
        match self.inner.compiled.program {
            Program::Pick(index) => Some(index),
            Program::Compute { .. } => None,
        }
    }

    /// Evaluates a whole batch. A column alone is shared, not copied.
    ///
    /// **Errors**: [`EvaluationError::Row`] when some row fails on its own; [`Expression::evaluate_rows`] tells which.
    pub fn evaluate(&self, batch: &RecordBatch) -> Result<ArrayRef, EvaluationError> {
        self.check_columns(batch)?;
        let whole = match &self.inner.compiled.program {
            Program::Pick(index) => return Ok(batch.column(*index).clone()),
            Program::Compute { plain, guarded } => self.attempt(plain, guarded.as_ref(), batch),
        };
        whole.or_else(|_| {
            let mut search = Search::new(self, Until::FirstBad);
            search.rows(batch, 0);
            match search.bad.pop() {
                Some((row, message)) => Err(EvaluationError::Row { row, message }),
                None => Ok(search.values()),
            }
        })
    }

    /// Evaluates what can be evaluated: the values of the good rows, and the bad rows with their messages. Meant for
    /// after [`Expression::evaluate`] failed. A batch of another schema makes all rows bad.
    pub fn evaluate_rows(&self, batch: &RecordBatch) -> RowResults {
        if let Err(error) = self.check_columns(batch) {
            let bad = (0..batch.num_rows() as u32).map(|row| (row, error.to_string())).collect();
            return RowResults { good: Vec::new(), values: new_empty_array(self.data_type()), bad };
        }
        let mut search = Search::new(self, Until::End);
        search.rows(batch, 0);
        RowResults { values: search.values(), good: search.good, bad: search.bad }
    }

    fn check_columns(&self, batch: &RecordBatch) -> Result<(), EvaluationError> {
        for (index, expected) in &self.inner.compiled.reads {
            let found = batch.columns().get(*index).map(|column| column.data_type());
            if found != Some(expected) {
                return Err(EvaluationError::Schema {
                    expression: self.inner.text.clone(),
                    index: *index,
                    found: found.map_or("missing".to_owned(), ToString::to_string),
                    expected: expected.clone(),
                });
            }
        }
        Ok(())
    }

    fn values(&self, batch: &RecordBatch) -> Result<ArrayRef, String> {
        match &self.inner.compiled.program {
            Program::Pick(index) => Ok(batch.column(*index).clone()),
            Program::Compute { plain, guarded } => self.attempt(plain, guarded.as_ref(), batch),
        }
    }

    fn attempt(
        &self,
        plain: &Arc<dyn PhysicalExpr>,
        guarded: Option<&Arc<dyn PhysicalExpr>>,
        batch: &RecordBatch,
    ) -> Result<ArrayRef, String> {
        let Some(guarded) = guarded else { return run(plain, batch) };
        if self.inner.prefers_guarded.load(Ordering::Relaxed) {
            return run(guarded, batch);
        }
        run(plain, batch).or_else(|_| {
            let values = run(guarded, batch)?;
            self.inner.prefers_guarded.store(true, Ordering::Relaxed);
            Ok(values)
        })
    }
}

impl std::fmt::Debug for Expression {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Expression").field("sql", &self.inner.text).field("typed", self.typed()).finish()
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Until {
    FirstBad,
    End,
}

/// Looks for the rows that fail on their own, from left to right.
struct Search<'a> {
    expression: &'a Expression,
    until: Until,
    good: Vec<u32>,
    pieces: Vec<ArrayRef>,
    bad: Vec<(u32, String)>,
}

impl<'a> Search<'a> {
    fn new(expression: &'a Expression, until: Until) -> Self {
        Search { expression, until, good: Vec::new(), pieces: Vec::new(), bad: Vec::new() }
    }

    /// Halves at most log2(rows) times, so the recursion is at most 32 deep.
    fn rows(&mut self, batch: &RecordBatch, first: u32) {
        let count = batch.num_rows();
        if count == 0 || (self.until == Until::FirstBad && !self.bad.is_empty()) {
            return;
        }
        match self.expression.values(batch) {
            Ok(values) => {
                self.good.extend(first..first + count as u32);
                self.pieces.push(values);
            }
            Err(message) if count == 1 => self.bad.push((first, message)),
            Err(_) => {
                let half = count / 2;
                self.rows(&batch.slice(0, half), first);
                self.rows(&batch.slice(half, count - half), first + half as u32);
            }
        }
    }

    fn values(&self) -> ArrayRef {
        let pieces: Vec<_> = self.pieces.iter().map(AsRef::as_ref).collect();
        match self.pieces.as_slice() {
            [] => new_empty_array(self.expression.data_type()),
            [piece] => piece.clone(),
            _ => concat(&pieces).expect("all pieces have the type of the expression"),
        }
    }
}

/// A panic in a function over one strange value must not take the task down: it is an error of that row.
fn run(expr: &Arc<dyn PhysicalExpr>, batch: &RecordBatch) -> Result<ArrayRef, String> {
    let values = || expr.evaluate(batch)?.into_array(batch.num_rows());
    catch_unwind(AssertUnwindSafe(values))
        .unwrap_or_else(|panic| Err(DataFusionError::Execution(panic_text(panic.as_ref()))))
        .map_err(|error| message(&error))
}

fn panic_text(panic: &(dyn std::any::Any + Send)) -> String {
    let text = panic.downcast_ref::<&str>().copied().or_else(|| panic.downcast_ref::<String>().map(String::as_str));
    format!("a function panicked: {}", text.unwrap_or("no message"))
}
