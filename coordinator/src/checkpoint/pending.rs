//! Who still owes an answer to a checkpoint. Pure: told what tasks answer, it says when the checkpoint is whole or lost.
//!
//! ```text
//! every task: acknowledged, or FINISHED before it saw the barrier (its final state is its answer)  -> complete
//! one declines, or the time is over                                                                -> failed
//! ```
//! A FINISHED task that has not answered has not seen the barrier: workers report the answer to a barrier before the end
//! (control.proto). A first answer counts; whatever comes later, or after the checkpoint is settled, changes nothing.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use weir_checkpoint::TaskState;
use weir_core::CheckpointId;
use weir_proto::v1::CheckpointStats;

use crate::job::state::TaskKey;

/// What a task gave to a checkpoint.
#[derive(Clone, PartialEq, Debug)]
pub struct Answer {
    /// Its operators.
    pub state: TaskState,
    /// Whether the task has finished: nothing more comes from it.
    pub is_final: bool,
}

/// What an event did to a checkpoint.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Step {
    /// Nothing: it is stale, or of an unknown task.
    Ignored,
    /// Others still owe an answer.
    Waiting,
    /// The last answer has come; it says so once.
    Complete,
    /// It is lost; it says so once.
    Failed,
}

/// One checkpoint under way.
#[derive(Debug)]
pub struct Pending {
    checkpoint: CheckpointId,
    owed: BTreeSet<TaskKey>,
    answers: BTreeMap<TaskKey, Answer>,
    costs: CheckpointStats,
    deadline: Duration,
    is_settled: bool,
}

impl Pending {
    /// A checkpoint that is being triggered: all of `tasks` answer by `deadline`, those in `finals` have done so.
    pub fn new(
        checkpoint: CheckpointId,
        tasks: impl IntoIterator<Item = TaskKey>,
        finals: BTreeMap<TaskKey, TaskState>,
        deadline: Duration,
    ) -> Self {
        let owed = tasks.into_iter().filter(|task| !finals.contains_key(task)).collect();
        let answers = finals.into_iter().map(|(task, state)| (task, Answer { state, is_final: true })).collect();
        Pending { checkpoint, owed, answers, costs: CheckpointStats::default(), deadline, is_settled: false }
    }

    /// Which.
    pub fn checkpoint(&self) -> CheckpointId {
        self.checkpoint
    }

    /// When it is to be given up.
    pub fn deadline(&self) -> Duration {
        self.deadline
    }

    /// Who owes an answer.
    pub fn owing(&self) -> &BTreeSet<TaskKey> {
        &self.owed
    }

    /// What the tasks said of its cost so far: the greatest durations, the sums of bytes.
    pub fn costs(&self) -> &CheckpointStats {
        &self.costs
    }

    /// A task has written its part.
    pub fn acknowledged(&mut self, task: TaskKey, state: TaskState, stats: &CheckpointStats) -> Step {
        let step = self.answer(task, Answer { state, is_final: false });
        if step != Step::Ignored {
            let costs = &mut self.costs;
            costs.start_delay_us = costs.start_delay_us.max(stats.start_delay_us);
            costs.alignment_us = costs.alignment_us.max(stats.alignment_us);
            costs.freeze_us = costs.freeze_us.max(stats.freeze_us);
            costs.write_us = costs.write_us.max(stats.write_us);
            costs.upload_us = costs.upload_us.max(stats.upload_us);
            costs.bytes = costs.bytes.saturating_add(stats.bytes);
            costs.new_bytes = costs.new_bytes.saturating_add(stats.new_bytes);
            costs.in_flight_bytes = costs.in_flight_bytes.saturating_add(stats.in_flight_bytes);
            costs.is_unaligned |= stats.is_unaligned;
        }
        step
    }

    /// A task has finished.
    pub fn finished(&mut self, task: TaskKey, state: TaskState) -> Step {
        self.answer(task, Answer { state, is_final: true })
    }

    /// A task cannot write its part. What a task that has answered says does not count: it was ordered what it had
    /// finished before.
    pub fn declined(&mut self, task: TaskKey) -> Step {
        if self.is_settled || !self.owed.contains(&task) {
            return Step::Ignored;
        }
        self.is_settled = true;
        Step::Failed
    }

    /// Time has passed.
    pub fn at(&mut self, now: Duration) -> Step {
        if self.is_settled || now < self.deadline {
            return Step::Ignored;
        }
        self.is_settled = true;
        Step::Failed
    }

    /// Takes out everything that was answered; whole when [`Step::Complete`] was said.
    pub fn take_answers(&mut self) -> BTreeMap<TaskKey, Answer> {
        std::mem::take(&mut self.answers)
    }

    /// What was answered so far.
    pub fn answers(&self) -> &BTreeMap<TaskKey, Answer> {
        &self.answers
    }

    fn answer(&mut self, task: TaskKey, answer: Answer) -> Step {
        if self.is_settled || !self.owed.remove(&task) {
            return Step::Ignored;
        }
        self.answers.insert(task, answer);
        if !self.owed.is_empty() {
            return Step::Waiting;
        }
        self.is_settled = true;
        Step::Complete
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn task(index: u32) -> TaskKey {
        TaskKey::new(index / 2, index % 2)
    }

    fn at(ms: u64) -> Duration {
        Duration::from_millis(ms)
    }

    #[test]
    fn final_states_count_and_costs_are_gathered() {
        let finals = BTreeMap::from([(task(0), TaskState::default())]);
        let mut pending = Pending::new(CheckpointId(3), (0..3).map(task), finals, at(100));
        let stats = |us, bytes| CheckpointStats { freeze_us: us, bytes, ..CheckpointStats::default() };
        assert_eq!(pending.acknowledged(task(1), TaskState::default(), &stats(9, 10)), Step::Waiting);
        assert_eq!(pending.acknowledged(task(1), TaskState::default(), &stats(99, 10)), Step::Ignored);
        assert_eq!(pending.declined(task(1)), Step::Ignored, "it has answered");
        assert_eq!(pending.finished(task(2), TaskState::default()), Step::Complete);
        assert_eq!((pending.costs().freeze_us, pending.costs().bytes), (9, 10));
        let finals: Vec<bool> = pending.take_answers().values().map(|answer| answer.is_final).collect();
        assert_eq!(finals, [true, false, true]);
    }

    proptest! {
        /// Against the plainest model: the set of who has answered.
        #[test]
        fn complete_only_when_all_have_answered(
            finals in prop::collection::btree_set(0..6u32, 0..4),
            steps in prop::collection::vec((0..8u32, 0..12u8), 0..60),
        ) {
            let ready = finals.iter().map(|index| (task(*index), TaskState::default())).collect();
            let mut pending = Pending::new(CheckpointId(1), (0..6).map(task), ready, at(1000));
            let mut answered = finals;
            let (mut is_settled, mut now) = (false, 0);
            for (index, kind) in steps {
                now += 10;
                let is_owing = index < 6 && !answered.contains(&index);
                let step = match kind {
                    0 => pending.declined(task(index)),
                    1 => pending.at(at(now)),
                    2..6 => pending.finished(task(index), TaskState::default()),
                    _ => pending.acknowledged(task(index), TaskState::default(), &CheckpointStats::default()),
                };
                let expected = match kind {
                    _ if is_settled => Step::Ignored,
                    0 if is_owing => Step::Failed,
                    0 | 1 => Step::Ignored,
                    _ if !is_owing => Step::Ignored,
                    _ if answered.len() == 5 => Step::Complete,
                    _ => Step::Waiting,
                };
                prop_assert_eq!(step, expected);
                is_settled |= matches!(step, Step::Failed | Step::Complete);
                if matches!(step, Step::Waiting | Step::Complete) {
                    answered.insert(index);
                }
                prop_assert_eq!(pending.owing().len(), 6 - answered.len());
            }
            let step = pending.at(at(1000));
            prop_assert_eq!(step, if is_settled { Step::Ignored } else { Step::Failed });
        }
    }
}
