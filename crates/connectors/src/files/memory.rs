//! What a file sink remembers in a checkpoint (pure): which parts the checkpoint covers, and, where all output goes into
//! one file, the parts it will be put together from.
//!
//! A hidden part that no checkpoint covers was written by an attempt that died; its rows are written again by the next
//! one, so the part is removed. A covered one may still have to be published and is never touched.

use std::collections::BTreeMap;

use weir_core::{AttemptNumber, FencingToken, SubtaskIndex, Value};
use weir_operator_api::{OperatorError, Result, SinkState};

use crate::files::names::PartId;

/// Writers of attempts before this one that are remembered. Parts in directories are published before the next attempt
/// has a checkpoint, so the last attempt would do; checkpoints that are kept for long may count on older parts of a
/// single file, which has one writer per attempt.
const WRITERS_MAX: usize = 1024;

/// The parts that a checkpoint covers: per attempt and subtask, those with a number below a limit.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Covered(BTreeMap<(FencingToken, SubtaskIndex), u32>);

impl Covered {
    /// Covers the parts of a writer with numbers below `limit`.
    pub fn cover(&mut self, token: FencingToken, subtask: SubtaskIndex, limit: u32) {
        let entry = self.0.entry((token, subtask)).or_default();
        *entry = limit.max(*entry);
    }

    /// Whether a part is covered.
    pub fn covers(&self, part: PartId) -> bool {
        self.0.get(&(part.token, part.subtask)).is_some_and(|limit| part.number < *limit)
    }

    /// Forgets the oldest attempts, if there are many; the newest one never.
    fn forget_old(&mut self) {
        let newest = self.0.keys().next_back().map(|(token, _)| *token);
        while self.0.len() > WRITERS_MAX {
            match self.0.keys().next().map(|(token, _)| *token) {
                Some(oldest) if Some(oldest) != newest => self.0.retain(|(token, _), _| *token != oldest),
                _ => return,
            }
        }
    }
}

/// A finished, hidden part of the single file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FilePart {
    /// Its hidden name.
    pub name: String,
    /// Its size.
    pub bytes: u64,
    /// xxh3-64 of its bytes, in a bucket: what comes from there is not believed.
    pub hash: Option<u64>,
    /// How often it was put together out of smaller ones.
    pub level: u32,
}

impl FilePart {
    /// Puts it into words.
    pub fn to_value(&self) -> Value {
        let mut value = vec![
            ("name", self.name.as_str().into()),
            ("bytes", Value::Integer(self.bytes as i64)),
            ("level", Value::Integer(self.level.into())),
        ];
        // As text: a JSON number does not hold 64 bits everywhere.
        value.extend(self.hash.map(|hash| ("hash", Value::Text(hash.to_string()))));
        Value::Map(value.into_iter().map(|(name, value)| (name.to_owned(), value)).collect())
    }

    /// Reads its words; `None` when they are not ours.
    pub fn of_value(value: &Value) -> Option<FilePart> {
        let fields = value.as_map()?;
        let number = |name: &str| match fields.get(name) {
            Some(Value::Integer(number)) => u64::try_from(*number).ok(),
            _ => None,
        };
        let hash = match fields.get("hash") {
            Some(hash) => Some(hash.as_text()?.parse().ok()?),
            None => None,
        };
        Some(FilePart {
            name: fields.get("name")?.as_text()?.to_owned(),
            bytes: number("bytes")?,
            hash,
            level: u32::try_from(number("level")?).ok()?,
        })
    }
}

/// What a file sink remembers.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Memory {
    /// The mark of job and sink: what is covered is of theirs.
    pub mark: String,
    /// What the checkpoint covers, of this attempt and those before.
    pub covered: Covered,
    /// The parts of the single file, in their order.
    pub parts: Vec<FilePart>,
    /// The input has ended, everything was given to be published, and nothing can follow.
    pub is_finished: bool,
}

impl Memory {
    /// Puts it into the words of a checkpoint.
    pub fn to_value(&self) -> Value {
        let covered = self.covered.0.iter().map(|((token, subtask), limit)| {
            Value::from([
                ("term", Value::Text(token.term.to_string())),
                ("attempt", Value::Integer(token.attempt.0.into())),
                ("subtask", Value::Integer(subtask.0.into())),
                ("parts", Value::Integer((*limit).into())),
            ])
        });
        let parts = self.parts.iter().map(FilePart::to_value);
        Value::from([
            ("mark", self.mark.as_str().into()),
            ("covered", Value::List(covered.collect())),
            ("parts", Value::List(parts.collect())),
            ("is_finished", self.is_finished.into()),
        ])
    }

    /// Puts together what all subtasks remembered; nothing when nothing is restored. A job that begins with what another
    /// left goes on with its parts, and has written none of those that it covered: `mark` is the job's and sink's own.
    ///
    /// **Errors**: internal, when the words are not ours.
    pub fn of_restored(mark: &str, restored: &[SinkState]) -> Result<Memory> {
        let values: Vec<&Value> = restored.iter().flat_map(|state| &state.values).collect();
        let mut memory = Memory { mark: mark.to_owned(), is_finished: !values.is_empty(), ..Memory::default() };
        for value in values {
            let one = Memory::of_value(value)
                .ok_or_else(|| OperatorError::internal(format!("not the memory of a file sink: {value}")))?;
            if one.mark == mark {
                let covered = &mut memory.covered;
                one.covered.0.iter().for_each(|((token, subtask), limit)| covered.cover(*token, *subtask, *limit));
            }
            memory.parts.extend(one.parts);
            memory.is_finished &= one.is_finished;
        }
        memory.covered.forget_old();
        Ok(memory)
    }

    fn of_value(value: &Value) -> Option<Memory> {
        let map = value.as_map()?;
        let list = |name: &str| match map.get(name) {
            Some(Value::List(items)) => Some(items),
            _ => None,
        };
        let mark = map.get("mark").and_then(Value::as_text)?.to_owned();
        let is_finished = map.get("is_finished") == Some(&Value::Bool(true));
        let mut memory = Memory { mark, is_finished, ..Memory::default() };
        for item in list("covered")? {
            let fields = item.as_map()?;
            let number = |name: &str| match fields.get(name) {
                Some(Value::Integer(number)) => u32::try_from(*number).ok(),
                _ => None,
            };
            let term = fields.get("term")?.as_text()?.parse().ok()?;
            let token = FencingToken { term, attempt: AttemptNumber(number("attempt")?) };
            memory.covered.cover(token, SubtaskIndex(number("subtask")?), number("parts")?);
        }
        for item in list("parts")? {
            memory.parts.push(FilePart::of_value(item)?);
        }
        Some(memory)
    }
}

/// Parts of a single file that are put together at once. So there are at most 31 of each level, and a row is written
/// again once per level: four times in a million cuts.
pub const MERGED_PARTS: usize = 32;
/// Parts larger than this together are left alone: the stream waits meanwhile.
pub const MERGED_BYTES_MAX: u64 = 1024 * 1024 * 1024;

/// How many of the last parts are to be put together, if there are enough of one level and they are not larger than
/// `bytes_max` together.
pub fn parts_to_merge(parts: &[FilePart], bytes_max: u64) -> Option<std::ops::Range<usize>> {
    let start = parts.len().checked_sub(MERGED_PARTS)?;
    let last = &parts[start..];
    let is_level = last.iter().all(|part| part.level == last[0].level);
    let bytes: u64 = last.iter().map(|part| part.bytes).sum();
    (is_level && bytes <= bytes_max).then_some(start..parts.len())
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    fn token(term: u64, attempt: u32) -> FencingToken {
        FencingToken { term, attempt: AttemptNumber(attempt) }
    }

    fn state(subtask: u32, memory: &Memory) -> SinkState {
        SinkState { subtask: SubtaskIndex(subtask), values: vec![memory.to_value()], tables: Vec::new() }
    }

    #[test]
    fn memories_of_all_subtasks_are_put_together() {
        let ours = Memory { mark: "m".to_owned(), ..Memory::default() };
        let mut memories = [ours.clone(), ours];
        memories[0].covered.cover(token(u64::MAX, 1), SubtaskIndex(0), 3);
        memories[0].parts.push(FilePart { name: "a".to_owned(), bytes: 7, hash: Some(u64::MAX), level: 2 });
        memories[0].is_finished = true;
        memories[1].covered.cover(token(1, 2), SubtaskIndex(1), 5);
        let restored: Vec<_> = memories.iter().zip(0..).map(|(memory, subtask)| state(subtask, memory)).collect();
        let whole = Memory::of_restored("m", &restored).expect("ours");
        assert_eq!(whole.parts, memories[0].parts);
        assert!(!whole.is_finished && Memory::of_restored("m", &restored[..1]).expect("ours").is_finished);
        let part = |token, subtask, number| PartId { token, subtask: SubtaskIndex(subtask), number };
        for (covered, part) in [
            (true, part(token(u64::MAX, 1), 0, 2)),
            (false, part(token(u64::MAX, 1), 0, 3)),
            (false, part(token(u64::MAX, 1), 1, 0)),
            (true, part(token(1, 2), 1, 4)),
            (false, part(token(1, 3), 1, 4)),
        ] {
            assert_eq!(whole.covered.covers(part), covered, "{part:?}");
        }
        let nothing = Memory { mark: "m".to_owned(), ..Memory::default() };
        assert_eq!(Memory::of_restored("m", &[]).expect("nothing"), nothing);
        let other = Memory::of_restored("n", &restored).expect("ours");
        assert_eq!((other.parts, other.covered), (whole.parts, Covered::default()), "another job wrote them");
        let strange = SinkState { values: vec![Value::Integer(1)], ..state(0, &memories[0]) };
        assert!(Memory::of_restored("m", &[strange]).is_err());
    }

    #[test]
    fn old_attempts_are_forgotten() {
        let mut memory = Memory { mark: "m".to_owned(), ..Memory::default() };
        let tokens =
            (1..20).flat_map(|attempt| (0..100).map(move |subtask| (token(1, attempt), SubtaskIndex(subtask))));
        tokens.for_each(|(token, subtask)| memory.covered.cover(token, subtask, 1));
        let kept = Memory::of_restored("m", &[state(0, &memory)]).expect("ours").covered.0;
        let attempts: BTreeSet<u32> = kept.keys().map(|(token, _)| token.attempt.0).collect();
        assert_eq!((kept.len(), attempts), (1_000, (10..20).collect()));
    }

    #[test]
    fn small_parts_are_merged_and_rows_are_written_again_once_per_level() {
        let (mut parts, mut written) = (Vec::new(), 0);
        let part = |bytes, level| FilePart { name: String::new(), bytes, hash: None, level };
        for cuts in 1..=40_000u64 {
            parts.push(part(7, 0));
            while let Some(range) = parts_to_merge(&parts, MERGED_BYTES_MAX) {
                let (bytes, level) =
                    (parts[range.clone()].iter().map(|part| part.bytes).sum(), parts[range.start].level);
                written += bytes;
                parts.splice(range, [part(bytes, level + 1)]);
            }
            assert!(parts.len() <= 31 * 4 && written <= 3 * 7 * cuts, "{} parts, {written} bytes", parts.len());
            assert_eq!(parts.iter().map(|part| part.bytes).sum::<u64>(), 7 * cuts);
        }
        assert!(parts_to_merge(&vec![part(1 << 30, 0); 100], MERGED_BYTES_MAX).is_none(), "large parts are left alone");
    }
}
