//! What one task gives to a checkpoint, as it travels from worker to coordinator and back: the same operator states as in
//! the manifest, under the same kind of first line. It does not know the wire; the bytes are opaque there.

use bytes::Bytes;
use serde::{Deserialize, Serialize};
use weir_core::OperatorUid;

use crate::manifest::{SubtaskState, check_subtask, from_json, to_json};
use crate::{CheckpointError, Result, envelope, json};

/// Version that this program writes, and the newest it reads.
pub const FORMAT_VERSION: u32 = 2;

const MAGIC: &str = "weir-task-state";

/// The state of the operators of one task.
#[derive(Clone, PartialEq, Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TaskState {
    /// In the order of the chain.
    pub operators: Vec<OperatorTaskState>,
}

/// The state of one operator in one task. In the state that a task is restored from, an operator may come several times:
/// once for each old subtask it takes something from.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct OperatorTaskState {
    /// Which operator.
    #[serde(with = "json::operator_uid")]
    pub uid: OperatorUid,
    /// Its state in this subtask.
    pub state: SubtaskState,
}

impl TaskState {
    /// The bytes to send.
    ///
    /// **Errors**: `Malformed` when a rule of the format is broken.
    pub fn encode(&self) -> Result<Bytes> {
        self.validate("task state")?;
        Ok(envelope::seal(MAGIC, FORMAT_VERSION, &to_json(self, "task state")?))
    }

    /// Reads what [`TaskState::encode`] gave; `place` says whose, for messages.
    ///
    /// **Errors**: `Torn`, `Checksum`, `NewerFormat`, `Malformed`.
    pub fn decode(bytes: &[u8], place: &str) -> Result<TaskState> {
        let (_, body) = envelope::open(MAGIC, FORMAT_VERSION, bytes, place)?;
        let state: TaskState = from_json(body, place)?;
        state.validate(place)?;
        Ok(state)
    }

    /// Bytes of all sections that are named. **Units**: bytes.
    pub fn section_bytes(&self) -> u64 {
        let tables = self.operators.iter().flat_map(|operator| &operator.state.tables);
        tables.flat_map(|table| &table.sections).map(|section| section.length).sum()
    }

    /// Paths of the objects that the state refers to, some more than once.
    pub fn object_paths(&self) -> impl Iterator<Item = &str> {
        self.operators.iter().flat_map(|operator| {
            let tables = operator.state.tables.iter().flat_map(|table| &table.sections);
            let channels = operator.state.channels.iter().filter_map(|channel| channel.section.as_ref());
            tables.chain(channels).map(|section| section.object.path.as_str())
        })
    }

    fn validate(&self, place: &str) -> Result<()> {
        for operator in &self.operators {
            check_subtask(&operator.state).map_err(|reason| CheckpointError::Malformed {
                place: place.to_owned(),
                reason: format!("operator '{}': {reason}", operator.uid),
            })?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use weir_core::SubtaskIndex;

    #[test]
    fn travels_whole_or_not_at_all() {
        let operator = OperatorTaskState { uid: "count".into(), state: SubtaskState::new(SubtaskIndex(1)) };
        let state = TaskState { operators: vec![operator.clone(), operator] };
        let bytes = state.encode().expect("it keeps the rules");
        assert_eq!(TaskState::decode(&bytes, "task 1").expect("it is whole"), state);
        for end in 0..bytes.len() {
            let error = TaskState::decode(&bytes[..end], "task 1").expect_err("it is cut");
            assert_eq!(error.code(), "checkpoint-torn", "{end}");
        }
        assert!(crate::Manifest::decode(&bytes, "task 1").expect_err("it is no manifest").is_damage());
    }
}
