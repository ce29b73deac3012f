//! Records under suspicion: the rows an operator was working on when its task died. The coordinator counts; here rows are
//! known again by their content, given to the operator one by one, and set aside when they have killed often enough. The
//! chain calls it, and only for operators under suspicion; it must not know why a task died.

use std::collections::BTreeMap;

use arrow_array::RecordBatch;
use weir_core::Batch;
use weir_operator_api::BadRecord;
use xxhash_rust::xxh3::xxh3_64_with_seed;

/// A record was set aside because its task died of it again and again.
pub const POISON_RECORD: &str = "poison-record";
/// Rows of a batch beyond which nobody tries to find the one.
const ROWS_MAX: usize = 256 * 1024;

/// The content of a row at one input of an operator: equal rows have equal ones. **Units**: none, a hash.
pub type Fingerprint = u64;

/// Rows that an operator was working on when its task died.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct SuspectRows {
    /// Place of the operator in its chain.
    pub operator: usize,
    /// What they look like; one when it was alone.
    pub rows: Vec<Fingerprint>,
}

/// What an operator is to be careful with.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Careful {
    /// How often each row is still to be set aside; 0 for rows that are only given alone.
    rows: BTreeMap<Fingerprint, u32>,
    /// What has killed it, in words.
    cause: String,
    /// Rows that need no care any more: they have passed alone, or were set aside.
    passed: Vec<Fingerprint>,
}

/// One part of a batch, in order.
#[derive(Debug)]
pub struct Piece {
    /// The rows.
    pub batch: Batch,
    /// A row under suspicion, alone.
    pub suspect: Option<Fingerprint>,
}

impl Careful {
    /// An operator with these rows under suspicion, each with the number of times it is to be set aside.
    pub fn new(rows: impl IntoIterator<Item = (Fingerprint, u32)>, cause: String) -> Self {
        Careful { rows: rows.into_iter().collect(), cause, passed: Vec::new() }
    }

    /// Whether any row is still looked for.
    pub fn is_over(&self) -> bool {
        self.rows.is_empty()
    }

    /// Nothing more is looked for.
    pub fn end(&mut self) {
        self.rows.clear();
    }

    /// Rows that need no care any more, since the attempt began.
    pub fn passed(&self) -> &[Fingerprint] {
        &self.passed
    }

    /// Cuts rows of one input so that each row under suspicion is alone; `None` when there is none among them.
    pub fn cut(&self, input: usize, batch: &Batch) -> Option<Vec<Piece>> {
        let texts = weir_operators::row_texts(&batch.records)?;
        let (mut pieces, mut from) = (Vec::new(), 0);
        for (row, text) in texts.iter().enumerate() {
            let suspect = fingerprint(input, text);
            if !self.rows.contains_key(&suspect) {
                continue;
            }
            if from < row {
                pieces.push(Piece { batch: slice(batch, from, row - from), suspect: None });
            }
            pieces.push(Piece { batch: slice(batch, row, 1), suspect: Some(suspect) });
            from = row + 1;
        }
        if pieces.is_empty() {
            return None;
        }
        if from < texts.len() {
            pieces.push(Piece { batch: slice(batch, from, texts.len() - from), suspect: None });
        }
        Some(pieces)
    }

    /// The row as a bad record, when it has killed often enough; else it is to be tried.
    pub fn set_aside(&mut self, suspect: Fingerprint, batch: &Batch) -> Option<BadRecord> {
        let left = self.rows.get_mut(&suspect).filter(|left| **left > 0)?;
        *left -= 1;
        if *left == 0 {
            self.rows.remove(&suspect);
            self.passed.push(suspect);
        }
        let original = weir_operators::row_texts(&batch.records).and_then(|texts| texts.into_iter().next());
        Some(BadRecord {
            code: POISON_RECORD,
            message: format!("the task died of this record again and again, last of: {}", self.cause),
            source: None,
            position: None,
            original: original.map(|text| BadRecord::original_text(&text)),
        })
    }

    /// The row was tried alone, and nothing happened.
    pub fn survived(&mut self, suspect: Fingerprint) {
        if self.rows.get(&suspect) == Some(&0) {
            self.rows.remove(&suspect);
            self.passed.push(suspect);
        }
    }
}

/// What rows of one input look like; `None` when they have no text form, or are too many to be told apart.
pub fn fingerprints(input: usize, records: &RecordBatch) -> Option<Vec<Fingerprint>> {
    if records.num_rows() > ROWS_MAX {
        return None;
    }
    let mut rows: Vec<_> = weir_operators::row_texts(records)?.iter().map(|text| fingerprint(input, text)).collect();
    rows.sort_unstable();
    rows.dedup();
    Some(rows)
}

fn fingerprint(input: usize, text: &[u8]) -> Fingerprint {
    xxh3_64_with_seed(text, input as u64)
}

fn slice(batch: &Batch, from: usize, count: usize) -> Batch {
    batch.with_records(batch.records.slice(from, count))
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use arrow_array::{ArrayRef, Int64Array};
    use proptest::prelude::*;

    use super::*;

    fn batch(numbers: &[i64]) -> Batch {
        let column: ArrayRef = Arc::new(Int64Array::from(numbers.to_vec()));
        Batch::new(RecordBatch::try_from_iter([("n", column)]).expect("one column"), 0)
    }

    fn look(number: i64) -> Fingerprint {
        fingerprints(0, &batch(&[number]).records).expect("it has a text")[0]
    }

    proptest! {
        #[test]
        fn pieces_are_the_batch_and_each_suspect_is_alone(
            numbers in prop::collection::vec(0..6i64, 0..40), suspects in prop::collection::btree_set(0..6i64, 0..4),
        ) {
            let careful = Careful::new(suspects.iter().map(|suspect| (look(*suspect), 0)), String::new());
            let pieces = careful.cut(0, &batch(&numbers));
            prop_assert_eq!(pieces.is_some(), numbers.iter().any(|number| suspects.contains(number)));
            let mut seen = Vec::new();
            for piece in pieces.unwrap_or_default() {
                let column = piece.batch.records.column(0);
                let values = column.as_any().downcast_ref::<Int64Array>().expect("numbers").values().to_vec();
                prop_assert!(!values.is_empty());
                prop_assert_eq!(piece.suspect.is_some(), values.iter().any(|value| suspects.contains(value)));
                prop_assert!(piece.suspect.is_none() || values.len() == 1);
                seen.extend(values);
            }
            prop_assert!(seen.is_empty() || seen == numbers);
        }
    }

    #[test]
    fn a_row_is_set_aside_as_often_as_it_is_told_and_then_let_through() {
        let mut careful = Careful::new([(look(7), 2), (look(8), 0)], "a panic".to_owned());
        assert_eq!(careful.set_aside(look(8), &batch(&[8])), None, "it is only tried alone");
        careful.survived(look(8));
        let aside = careful.set_aside(look(7), &batch(&[7])).expect("the first");
        assert_eq!((aside.code, aside.original.as_deref()), ("poison-record", Some(r#"{"n":7}"#)));
        careful.survived(look(7));
        assert!(!careful.is_over(), "one is left");
        assert!(careful.set_aside(look(7), &batch(&[7])).is_some());
        assert_eq!(careful.set_aside(look(7), &batch(&[7])), None, "a third one is innocent");
        assert!(careful.is_over());
        assert_eq!(careful.passed(), [look(8), look(7)]);
    }
}
