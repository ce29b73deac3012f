//! Fencing tokens, task ids and committables <-> domain ids. A committable is plain data here: its sink's uid, the
//! subtask that wrote it, and the connector's own words.

use weir_core::{AttemptNumber, FencingToken, JobId, OperatorUid, SubtaskIndex, Value, VertexId};

use super::ConvertError;
use super::value::{value_from_proto, value_to_proto};
use crate::v1;

/// Reads whose message this is.
///
/// **Errors**: no token, a malformed job id, attempt 0.
pub fn token_from_proto(token: Option<v1::FencingToken>) -> Result<(JobId, FencingToken), ConvertError> {
    let token = token.ok_or_else(|| ConvertError::new("token", "is missing"))?;
    let job = token.job_id.parse().map_err(|error| ConvertError::new("token.job_id", format!("{error}")))?;
    if token.attempt == 0 {
        return Err(ConvertError::new("token.attempt", "attempts count from 1"));
    }
    Ok((job, FencingToken { term: token.term, attempt: AttemptNumber(token.attempt) }))
}

/// Writes whose message this is.
pub fn token_to_proto(job: JobId, token: FencingToken) -> v1::FencingToken {
    v1::FencingToken { job_id: job.to_string(), term: token.term, attempt: token.attempt.0 }
}

/// Reads which task is meant. Whether the plan has it is for the caller to check.
///
/// **Errors**: no task.
pub fn task_from_proto(task: Option<v1::TaskId>) -> Result<(VertexId, SubtaskIndex), ConvertError> {
    let task = task.ok_or_else(|| ConvertError::new("task", "is missing"))?;
    Ok((VertexId(task.vertex_id), SubtaskIndex(task.subtask_index)))
}

/// Writes which task is meant.
pub fn task_to_proto(vertex: VertexId, subtask: SubtaskIndex) -> v1::TaskId {
    v1::TaskId { vertex_id: vertex.0, subtask_index: subtask.0 }
}

/// Reads output that waits for its commit: sink, subtask, description.
///
/// **Errors**: no uid, or a description that nests too deep.
pub fn committable_from_proto(
    committable: v1::Committable,
) -> Result<(OperatorUid, SubtaskIndex, Value), ConvertError> {
    if committable.operator.is_empty() {
        return Err(ConvertError::new("operator", "a committable names its sink"));
    }
    let description =
        value_from_proto(committable.description.unwrap_or_default()).map_err(|error| error.within("description"))?;
    Ok((OperatorUid(committable.operator), SubtaskIndex(committable.subtask_index), description))
}

/// Writes output that waits for its commit.
pub fn committable_to_proto(sink: &OperatorUid, subtask: SubtaskIndex, description: &Value) -> v1::Committable {
    v1::Committable {
        operator: sink.0.clone(),
        subtask_index: subtask.0,
        description: Some(value_to_proto(description)),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::convert::strategies;

    proptest! {
        #[test]
        fn tokens_survive_the_wire(job: u128, term: u64, attempt in 1u32..) {
            let token = FencingToken { term, attempt: AttemptNumber(attempt) };
            prop_assert_eq!(token_from_proto(Some(token_to_proto(JobId(job), token))), Ok((JobId(job), token)));
        }

        #[test]
        fn committables_survive_the_wire(subtask: u32, description in strategies::value()) {
            let (sink, subtask) = (OperatorUid::from("out"), SubtaskIndex(subtask));
            let read = committable_from_proto(committable_to_proto(&sink, subtask, &description));
            prop_assert_eq!(read, Ok((sink, subtask, description)));
        }
    }

    #[test]
    fn a_message_without_a_whole_token_is_refused() {
        let token = |job_id: &str, attempt| v1::FencingToken { job_id: job_id.into(), term: 1, attempt };
        let job = JobId(7).to_string();
        for (wrong, field) in
            [(None, "token"), (Some(token("7", 1)), "token.job_id"), (Some(token(&job, 0)), "token.attempt")]
        {
            assert_eq!(token_from_proto(wrong).expect_err("refused").field, field);
        }
    }
}
