//! Keeps the rows for which a predicate is true. Built by `create`; knows nothing of what the rows mean.

use arrow_array::BooleanArray;
use arrow_select::filter::filter_record_batch;
use weir_core::Batch;
use weir_expr::Predicate;
use weir_graph::descriptor;
use weir_operator_api::{Operator, OperatorContext, OperatorError, Output, Progress, Result};

use crate::bad_rows::{BAD_EXPRESSION, bad_rows};

/// Builds the operator of one subtask.
pub fn create(filter: &descriptor::Filter, context: &OperatorContext) -> Result<Box<dyn Operator>> {
    let predicate = Predicate::compile(&filter.predicate, &context.inputs[0])
        .map_err(|error| OperatorError::internal("a planned predicate does not compile").because(error))?;
    Ok(Box::new(Filter { predicate }))
}

struct Filter {
    predicate: Predicate,
}

impl Operator for Filter {
    fn process(&mut self, _input: usize, batch: Batch, out: &mut dyn Output) -> Result<Progress> {
        let mask = match self.predicate.evaluate(&batch.records) {
            Ok(mask) => mask,
            Err(_) => {
                let (mask, bad) = self.predicate.evaluate_rows(&batch.records);
                out.bad(bad_rows(BAD_EXPRESSION, &batch.records, bad)?);
                mask
            }
        };
        pass(batch, &mask, out)?;
        Ok(Progress::Done)
    }
}

fn pass(batch: Batch, mask: &BooleanArray, out: &mut dyn Output) -> Result<()> {
    match mask.true_count() {
        0 => {}
        all if all == batch.num_rows() => out.emit(batch),
        _ => out.emit(batch.with_records(filter_record_batch(&batch.records, mask)?)),
    }
    Ok(())
}

#[cfg(test)]
mod tests;
