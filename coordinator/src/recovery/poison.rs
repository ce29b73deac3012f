//! Records that kill the task they come to: counts, finds the one among the rows of a batch, and says when it is to be set
//! aside. Pure: told of failures and of checkpoints. The master of a job asks it.
//!
//! ```text
//! 1st kill   the rows of a batch are under suspicion: the next attempt gives them to the operator one by one
//! 2nd kill   one row, alone: it is the one
//! 3rd kill   alone again: the next attempt puts it into the dead-letter output and goes on
//! ```
//! A row is known again by its content. Equal rows cannot be told apart: the first of them is set aside, and when the task
//! dies again of its like, two are. A row that lies behind a committed checkpoint does not come again and is forgotten.

use std::collections::BTreeMap;

use weir_core::CheckpointId;

/// Deaths of a task after which its record is set aside.
const KILLS_MAX: u32 = 3;
/// Deaths at one operator without finding anything, after which the cause is not looked for in a record any more.
const IN_VAIN_MAX: u32 = 6;
/// Committed checkpoints of one attempt after which nothing is under suspicion any more.
const CLEAN_CHECKPOINTS: u32 = 3;

/// An operator: its vertex, and its place in the chain.
pub type Place = (u32, u32);

/// The content of a row. **Units**: none, a hash.
pub type Row = u64;

#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
struct Kills {
    among_others: bool,
    alone: u32,
}

impl Kills {
    fn set_aside(self) -> u32 {
        (u32::from(self.among_others) + self.alone).saturating_sub(KILLS_MAX - 1)
    }
}

/// What is known of one operator.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
struct Suspicion {
    rows: BTreeMap<Row, Kills>,
    deaths_in_vain: u32,
    cause: String,
}

/// What an operator is to be careful with.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Careful {
    /// Which operator.
    pub place: Place,
    /// Rows, each with how many like it are to be set aside; 0 for those that are given alone.
    pub rows: Vec<(Row, u32)>,
    /// What the last task died of.
    pub cause: String,
}

/// The records under suspicion of one job.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Poison {
    operators: BTreeMap<Place, Suspicion>,
    /// Rows that lie in front of the cut of a checkpoint, until it is known to be committed.
    passed: BTreeMap<CheckpointId, Vec<(Place, Row)>>,
    clean_checkpoints: u32,
}

impl Poison {
    /// A task died while an operator was working on these rows. Answers whether another attempt may get past it.
    pub fn killed(&mut self, place: Place, rows: &[Row], cause: String) -> bool {
        let suspicion = self.operators.entry(place).or_default();
        suspicion.cause = cause;
        suspicion.deaths_in_vain += 1;
        match rows {
            [] => {}
            [row] => {
                let kills = suspicion.rows.entry(*row).or_default();
                kills.alone += 1;
                if kills.set_aside() > 0 {
                    suspicion.deaths_in_vain = 0;
                }
            }
            rows => rows.iter().for_each(|row| suspicion.rows.entry(*row).or_default().among_others = true),
        }
        suspicion.deaths_in_vain <= IN_VAIN_MAX
    }

    /// An attempt begins; with another plan the places mean nothing any more.
    pub fn attempt_begins(&mut self, has_another_plan: bool) {
        self.passed.clear();
        self.clean_checkpoints = 0;
        if has_another_plan {
            self.operators.clear();
        }
    }

    /// What the operators of an attempt are to be careful with.
    pub fn careful(&self) -> Vec<Careful> {
        let careful = |(place, suspicion): (&Place, &Suspicion)| Careful {
            place: *place,
            rows: suspicion.rows.iter().map(|(row, kills)| (*row, kills.set_aside())).collect(),
            cause: suspicion.cause.clone(),
        };
        self.operators.iter().filter(|(_, suspicion)| !suspicion.rows.is_empty()).map(careful).collect()
    }

    /// A task has answered to a checkpoint: these rows came in front of its cut and need no care behind it.
    pub fn passed(&mut self, checkpoint: CheckpointId, place: Place, rows: &[Row]) {
        self.passed.entry(checkpoint).or_default().extend(rows.iter().map(|row| (place, *row)));
    }

    /// A checkpoint is committed: what came in front of it does not come again.
    pub fn committed(&mut self, checkpoint: CheckpointId) {
        let later = self.passed.split_off(&CheckpointId(checkpoint.0 + 1));
        let passed = std::mem::replace(&mut self.passed, later);
        for (place, row) in passed.get(&checkpoint).into_iter().flatten() {
            if let Some(suspicion) = self.operators.get_mut(place) {
                suspicion.rows.remove(row);
            }
        }
        self.clean_checkpoints += 1;
        if self.clean_checkpoints >= CLEAN_CHECKPOINTS {
            self.operators.clear();
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const HERE: Place = (1, 2);

    /// Runs attempts over a stream of rows until it ends or `attempts_max` have died; which rows were set aside. A row kills
    /// when `kills` says so; batches hold `batch` rows; no checkpoint is ever committed.
    fn attempts(stream: &[Row], batch: usize, kills: impl Fn(usize) -> bool, attempts_max: u32) -> Option<Vec<usize>> {
        let mut poison = Poison::default();
        for _ in 0..attempts_max {
            poison.attempt_begins(false);
            let mut careful: BTreeMap<Row, u32> =
                poison.careful().into_iter().flat_map(|careful| careful.rows).collect();
            let mut aside = Vec::new();
            let numbered: Vec<(usize, Row)> = stream.iter().copied().enumerate().collect();
            let died = numbered.chunks(batch).find_map(|rows| {
                let mut together = Vec::new();
                for (at, row) in rows {
                    match careful.get_mut(row) {
                        Some(0) if kills(*at) => return Some(vec![*row]),
                        Some(0) => {}
                        Some(left) => {
                            *left -= 1;
                            aside.push(*at);
                        }
                        None => together.push((*at, *row)),
                    }
                }
                together.iter().any(|(at, _)| kills(*at)).then(|| together.iter().map(|(_, row)| *row).collect())
            });
            match died {
                None => return Some(aside),
                Some(rows) => assert!(poison.killed(HERE, &rows, "a panic".to_owned()), "it is worth another attempt"),
            }
        }
        None
    }

    #[test]
    fn d10_third_kill_sets_the_record_aside_and_nothing_else() {
        let stream: Vec<Row> = (0..50).collect();
        assert_eq!(attempts(&stream, 8, |at| at == 21, 3), None, "three attempts die of it");
        assert_eq!(attempts(&stream, 8, |at| at == 21, 4), Some(vec![21]));
        assert_eq!(attempts(&stream, 1, |at| at == 21, 4), Some(vec![21]), "alone from the start");
    }

    #[test]
    fn like_rows_are_set_aside_until_the_killer_is_among_them() {
        let stream = [7, 8, 7, 9];
        assert_eq!(attempts(&stream, 4, |at| at == 2, 9), Some(vec![0, 2]));
    }

    #[test]
    fn what_is_behind_a_commit_is_forgotten() {
        let mut poison = Poison::default();
        for rows in [&[4, 5, 6][..], &[5], &[5]] {
            assert!(poison.killed(HERE, rows, "it".to_owned()));
        }
        let rows = |poison: &Poison| poison.careful().into_iter().flat_map(|careful| careful.rows).collect::<Vec<_>>();
        assert_eq!(rows(&poison), [(4, 0), (5, 1), (6, 0)]);
        poison.attempt_begins(false);
        poison.passed(CheckpointId(8), HERE, &[4, 5]);
        poison.passed(CheckpointId(9), HERE, &[4, 5, 6]);
        assert_eq!(rows(&poison).len(), 3, "until it is committed");
        poison.committed(CheckpointId(8));
        assert_eq!(rows(&poison), [(6, 0)]);
        poison.attempt_begins(false);
        poison.committed(CheckpointId(9));
        assert_eq!(rows(&poison), [(6, 0)], "answers of an earlier attempt count no more");
        poison.committed(CheckpointId(10));
        poison.committed(CheckpointId(11));
        assert_eq!(poison.careful(), [], "three clean checkpoints");
        assert!(poison.killed(HERE, &[1], "it".to_owned()));
        poison.attempt_begins(true);
        assert_eq!(poison.careful(), [], "another plan");
    }

    #[test]
    fn deaths_that_no_row_explains_are_given_up() {
        let mut poison = Poison::default();
        let verdicts: Vec<bool> = (0..8).map(|_| poison.killed(HERE, &[1, 2], "it".to_owned())).collect();
        assert_eq!(verdicts, [true, true, true, true, true, true, false, false]);
    }

    proptest! {
        #[test]
        fn killers_are_found_whatever_the_batches(
            stream in prop::collection::vec(0..30u64, 1..60), killers in prop::collection::btree_set(0..60usize, 0..4), batch in 1..20usize,
        ) {
            let aside = attempts(&stream, batch, |at| killers.contains(&at), 400).expect("it gets through");
            let real: Vec<usize> = killers.into_iter().filter(|at| *at < stream.len()).collect();
            prop_assert!(real.iter().all(|at| aside.contains(at)));
            // Nothing is set aside but rows like a killer's, in front of it.
            prop_assert!(aside.iter().all(|at| real.iter().any(|killer| at <= killer && stream[*at] == stream[*killer])));
        }
    }
}
