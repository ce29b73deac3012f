//! Sends rows of equal keys to the same subtask. The exchange before it does that; what is left is to pass rows on.

use weir_core::Batch;
use weir_operator_api::{Operator, Output, Progress, Result};

/// Builds the operator of one subtask.
pub fn create() -> Result<Box<dyn Operator>> {
    Ok(Box::new(KeyBy))
}

struct KeyBy;

impl Operator for KeyBy {
    fn process(&mut self, _input: usize, batch: Batch, out: &mut dyn Output) -> Result<Progress> {
        out.emit(batch);
        Ok(Progress::Done)
    }
}

#[cfg(test)]
mod tests {
    use expect_test::expect;
    use weir_testkit::{Runner, context, schema};

    #[test]
    fn rows_pass_as_they_are() {
        let schema = schema("a BIGINT, t TIMESTAMP*");
        let (context, clock) = context(vec![schema.clone()], schema);
        let mut runner = Runner::new(super::create().expect("nothing can fail"), &context, clock);
        expect![[r#"
            > rows 1 1 | 2 2
              main (a t*)
              main 1 1
              main 2 2
            > wm 2
              wm 2
        "#]]
        .assert_eq(&runner.run("rows 1 1 | 2 2\nwm 2"));
    }
}
