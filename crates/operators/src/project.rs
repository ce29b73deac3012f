//! Computes new columns. Built by `create`. A column that is only picked is shared, not copied.

use arrow_array::{ArrayRef, RecordBatch, RecordBatchOptions};
use arrow_schema::SchemaRef;
use weir_core::Batch;
use weir_core::batch::CHANGE_COLUMN;
use weir_expr::{EvaluationError, Expression, select_item};
use weir_graph::descriptor;
use weir_operator_api::{Operator, OperatorContext, OperatorError, Output, Progress, Result};

use crate::bad_rows::isolate;

/// Builds the operator of one subtask.
pub fn create(project: &descriptor::Project, context: &OperatorContext) -> Result<Box<dyn Operator>> {
    let input = &context.inputs[0];
    let mut expressions = Vec::new();
    for sql in &project.columns {
        let items = select_item(sql, input)
            .map_err(|error| OperatorError::internal("a planned select item does not compile").because(error))?;
        // The hidden change column is passed on below, whatever the select list says.
        expressions.extend(items.into_iter().filter(|item| item.name != CHANGE_COLUMN).map(|item| item.expression));
    }
    let change = input.index_of(CHANGE_COLUMN).ok();
    let width = expressions.len() + usize::from(change.is_some());
    if width != context.output.fields().len() {
        return Err(OperatorError::internal(format!(
            "project makes {width} columns, {} are planned",
            context.output.fields().len()
        )));
    }
    Ok(Box::new(Project { expressions, change, output: context.output.clone() }))
}

struct Project {
    expressions: Vec<Expression>,
    change: Option<usize>,
    output: SchemaRef,
}

impl Project {
    fn evaluate(&self, batch: &Batch) -> Result<Vec<ArrayRef>, EvaluationError> {
        self.expressions.iter().map(|expression| expression.evaluate(&batch.records)).collect()
    }

    fn emit(&self, batch: &Batch, mut columns: Vec<ArrayRef>, out: &mut dyn Output) -> Result<()> {
        columns.extend(self.change.map(|change| batch.records.column(change).clone()));
        let options = RecordBatchOptions::new().with_row_count(Some(batch.num_rows()));
        out.emit(batch.with_records(RecordBatch::try_new_with_options(self.output.clone(), columns, &options)?));
        Ok(())
    }
}

impl Operator for Project {
    fn process(&mut self, _input: usize, batch: Batch, out: &mut dyn Output) -> Result<Progress> {
        match self.evaluate(&batch) {
            Ok(columns) => self.emit(&batch, columns, out)?,
            Err(_) => {
                if let Some(good) = isolate(self.expressions.iter(), &batch, out)? {
                    let columns = self.evaluate(&good).map_err(|error| {
                        OperatorError::internal("an expression failed on rows it had accepted").because(error)
                    })?;
                    self.emit(&good, columns, out)?;
                }
            }
        }
        Ok(Progress::Done)
    }
}

#[cfg(test)]
mod tests;
