//! `weir.v1.JobGraph` <-> [`SubmittedJob`]. Only what would be dangerous to look at is refused here; everything else
//! is the planner's, which answers with all problems at once.

use weir_core::Value;
use weir_graph::limits::{INPUTS_MAX, OPERATORS_MAX};
use weir_graph::{SubmittedJob, SubmittedOperator};

use super::ConvertError;
use super::value::{map_to_struct, struct_to_map};
use crate::v1;

/// Reads a submitted job.
///
/// **Errors**: too many operators or inputs, settings that nest too deep.
pub fn job_from_proto(job: v1::JobGraph) -> Result<SubmittedJob, ConvertError> {
    let count = job.operators.len();
    if count > OPERATORS_MAX {
        return Err(ConvertError::new("operators", format!("{count} operators; at most {OPERATORS_MAX}")));
    }
    let read =
        |(index, operator)| operator_from_proto(operator).map_err(|error| error.within(&format!("operators[{index}]")));
    Ok(SubmittedJob {
        name: job.name,
        config: job.config.into_iter().map(|(name, text)| (name, Value::Text(text))).collect(),
        operators: job.operators.into_iter().enumerate().map(read).collect::<Result<_, _>>()?,
    })
}

fn operator_from_proto(operator: v1::Operator) -> Result<SubmittedOperator, ConvertError> {
    let count = operator.inputs.len();
    if count > INPUTS_MAX {
        return Err(ConvertError::new("inputs", format!("{count} inputs; at most {INPUTS_MAX}")));
    }
    Ok(SubmittedOperator {
        settings: struct_to_map(operator.settings).map_err(|error| error.within("settings"))?,
        uid: operator.uid,
        kind: operator.kind,
        parallelism: operator.parallelism,
        inputs: operator.inputs,
    })
}

/// Writes a job for submission. Configuration values travel as text; null ones, being absent, do not travel.
pub fn job_to_proto(job: &SubmittedJob) -> v1::JobGraph {
    let config = job.config.iter().filter(|(_, value)| **value != Value::Null);
    v1::JobGraph {
        name: job.name.clone(),
        config: config.map(|(name, value)| (name.clone(), config_text(value))).collect(),
        operators: job.operators.iter().map(operator_to_proto).collect(),
    }
}

fn config_text(value: &Value) -> String {
    value.as_text().map_or_else(|| value.to_string(), str::to_owned)
}

fn operator_to_proto(operator: &SubmittedOperator) -> v1::Operator {
    v1::Operator {
        uid: operator.uid.clone(),
        kind: operator.kind.clone(),
        parallelism: operator.parallelism,
        inputs: operator.inputs.clone(),
        settings: Some(map_to_struct(&operator.settings)),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::convert::strategies;

    proptest! {
        #[test]
        fn jobs_survive_the_wire(job in strategies::job()) {
            prop_assert_eq!(job_from_proto(job_to_proto(&job)), Ok(job));
        }
    }

    #[test]
    fn configuration_travels_as_text() {
        let mut job = SubmittedJob::default();
        job.config.insert("parallelism.default".into(), Value::Integer(2));
        job.config.insert("slot.request.timeout".into(), Value::Null);
        let read = job_from_proto(job_to_proto(&job)).expect("right");
        assert_eq!(Vec::from_iter(read.config), [("parallelism.default".to_owned(), Value::from("2"))]);
    }

    #[test]
    fn too_many_operators_or_inputs_are_refused() {
        let many = v1::JobGraph { operators: vec![v1::Operator::default(); OPERATORS_MAX + 1], ..Default::default() };
        assert_eq!(job_from_proto(many).expect_err("refused").field, "operators");
        let wide = v1::Operator { inputs: vec!["a".into(); INPUTS_MAX + 1], ..Default::default() };
        let wide = v1::JobGraph { operators: vec![v1::Operator::default(), wide], ..Default::default() };
        assert_eq!(job_from_proto(wide).expect_err("refused").field, "operators[1].inputs");
    }
}
