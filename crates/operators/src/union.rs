//! Rows of all inputs as one stream. Inputs may differ in what may be null; the rows get the common schema.

use arrow_array::RecordBatch;
use arrow_schema::SchemaRef;
use weir_core::Batch;
use weir_operator_api::{Operator, OperatorContext, Output, Progress, Result};

/// Builds the operator of one subtask.
pub fn create(context: &OperatorContext) -> Result<Box<dyn Operator>> {
    Ok(Box::new(Union { output: context.output.clone() }))
}

struct Union {
    output: SchemaRef,
}

impl Operator for Union {
    fn process(&mut self, _input: usize, batch: Batch, out: &mut dyn Output) -> Result<Progress> {
        if *batch.records.schema_ref() == self.output {
            out.emit(batch);
        } else {
            let columns = batch.records.columns().to_vec();
            out.emit(batch.with_records(RecordBatch::try_new(self.output.clone(), columns)?));
        }
        Ok(Progress::Done)
    }
}
