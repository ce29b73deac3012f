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

#[cfg(test)]
mod tests {
    use expect_test::expect;
    use weir_testkit::{Runner, context, schema};

    #[test]
    fn rows_of_all_inputs_get_the_common_schema() {
        let inputs = vec![schema("a BIGINT NOT NULL, t TIMESTAMP*"), schema("a BIGINT, t TIMESTAMP*")];
        let (context, clock) = context(inputs, schema("a BIGINT, t TIMESTAMP*"));
        let mut runner = Runner::new(super::create(&context).expect("any inputs do"), &context, clock);
        expect![[r#"
            > rows 1 1 | 2 2
              main (a t*)
              main 1 1
              main 2 2
            > rows@1 - 3
              main - 3
            > wm 2
              wm 2
            > idle
              idle
            > end
        "#]]
        .assert_eq(&runner.run("rows 1 1 | 2 2\nrows@1 - 3\nwm 2\nidle\nend"));
    }
}
