//! Which output of a job is published, which is not, and who owes an answer. Pure: the master sends what it says.

use std::collections::BTreeMap;

use weir_core::{ErrorDomain, OperatorUid, WorkerId};
use weir_proto::v1::{Committable, Failure};

/// Tries for one sink before its failure counts; only failures of something outside are tried again.
pub const TRIES_MAX: u32 = 3;

/// Whether output is made visible or removed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Purpose {
    /// Make it visible.
    Publish,
    /// Remove it.
    Discard,
}

#[derive(Clone, PartialEq, Debug)]
enum Status {
    /// To be sent.
    Owed,
    /// Sent to this worker.
    Sent(WorkerId),
    /// Published, or removed.
    Done,
    /// Given up.
    Failed,
}

#[derive(Debug)]
struct SinkOutput {
    /// By subtask, so that they are published in this order.
    committables: BTreeMap<u32, Vec<Committable>>,
    status: Status,
    tries: u32,
}

/// What an answer of a worker leads to.
#[derive(Clone, PartialEq, Debug)]
pub enum Step {
    /// The answer is stale.
    Ignore,
    /// Others still owe an answer.
    Wait,
    /// Send it again after a pause; this many tries failed.
    Retry(u32),
    /// All sinks are settled; the first failure, if there was one.
    Settled(Option<Failure>),
}

/// The prepared output of one job.
#[derive(Debug, Default)]
pub struct Publication {
    sinks: BTreeMap<OperatorUid, SinkOutput>,
    failure: Option<Failure>,
}

impl Publication {
    /// Takes what a finished task prepared.
    pub fn collect(&mut self, committables: Vec<Committable>) {
        for committable in committables {
            let sink = OperatorUid(committable.operator.clone());
            let output = self.sinks.entry(sink).or_insert_with(|| SinkOutput {
                committables: BTreeMap::new(),
                status: Status::Owed,
                tries: 0,
            });
            output.committables.entry(committable.subtask_index).or_default().push(committable);
        }
    }

    /// Has a sink sent, whether it prepared something or not.
    pub fn want(&mut self, sink: OperatorUid) {
        let nothing = || SinkOutput { committables: BTreeMap::new(), status: Status::Owed, tries: 0 };
        self.sinks.entry(sink).or_insert_with(nothing);
    }

    /// Begins to publish or discard: the sinks to send, in order. What is published already is not discarded.
    pub fn begin(&mut self) -> Vec<OperatorUid> {
        self.failure = None;
        let mut owed = Vec::new();
        for (sink, output) in self.sinks.iter_mut().filter(|(_, output)| output.status != Status::Done) {
            output.status = Status::Owed;
            output.tries = 0;
            owed.push(sink.clone());
        }
        owed
    }

    /// Whether a sink is to be sent.
    pub fn is_owed(&self, sink: &OperatorUid) -> bool {
        self.sinks.get(sink).is_some_and(|output| output.status == Status::Owed)
    }

    /// Whether no sink owes an answer.
    pub fn is_settled(&self) -> bool {
        self.sinks.values().all(|output| matches!(output.status, Status::Done | Status::Failed))
    }

    /// Sinks that are not settled.
    pub fn unsettled(&self) -> Vec<String> {
        let open = self.sinks.iter().filter(|(_, output)| matches!(output.status, Status::Owed | Status::Sent(_)));
        open.map(|(sink, _)| sink.0.clone()).collect()
    }

    /// What to send for a sink, in the order of subtasks.
    pub fn committables(&self, sink: &OperatorUid) -> Vec<Committable> {
        let output = self.sinks.get(sink);
        output.into_iter().flat_map(|output| output.committables.values().flatten().cloned()).collect()
    }

    /// Remembers who was asked.
    pub fn sent(&mut self, sink: &OperatorUid, worker: WorkerId) {
        if let Some(output) = self.sinks.get_mut(sink) {
            output.status = Status::Sent(worker);
            output.tries += 1;
        }
    }

    /// A worker answered for a sink.
    pub fn answered(&mut self, sink: &OperatorUid, worker: &WorkerId, failure: Option<Failure>) -> Step {
        let Some(output) = self.sinks.get_mut(sink) else { return Step::Ignore };
        if output.status != Status::Sent(worker.clone()) {
            return Step::Ignore;
        }
        match failure {
            None => output.status = Status::Done,
            Some(failure) if failure.domain == ErrorDomain::External.to_string() && output.tries < TRIES_MAX => {
                output.status = Status::Owed;
                return Step::Retry(output.tries);
            }
            Some(failure) => {
                output.status = Status::Failed;
                self.failure.get_or_insert(failure);
            }
        }
        self.step()
    }

    /// Nobody can be asked for a sink.
    pub fn give_up(&mut self, sink: &OperatorUid, failure: Failure) -> Step {
        if let Some(output) = self.sinks.get_mut(sink) {
            output.status = Status::Failed;
            self.failure.get_or_insert(failure);
        }
        self.step()
    }

    /// A worker is gone: the sinks it owed an answer for are to be sent to another. Publishing twice changes nothing.
    pub fn worker_lost(&mut self, worker: &WorkerId) -> Vec<OperatorUid> {
        let mut owed = Vec::new();
        for (sink, output) in &mut self.sinks {
            if output.status == Status::Sent(worker.clone()) {
                output.status = Status::Owed;
                owed.push(sink.clone());
            }
        }
        owed
    }

    fn step(&self) -> Step {
        if self.is_settled() { Step::Settled(self.failure.clone()) } else { Step::Wait }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn committable(sink: &str, subtask_index: u32) -> Committable {
        Committable { operator: sink.to_owned(), subtask_index, description: None }
    }

    fn failure(domain: ErrorDomain) -> Option<Failure> {
        Some(Failure { code: "sink-io".to_owned(), domain: domain.to_string(), ..Failure::default() })
    }

    fn two_sinks() -> Publication {
        let mut publication = Publication::default();
        publication.collect(vec![committable("b", 1), committable("a", 0)]);
        publication.collect(vec![committable("b", 0)]);
        publication
    }

    #[test]
    fn output_is_grouped_by_sink_in_the_order_of_subtasks() {
        let mut publication = two_sinks();
        assert_eq!(publication.begin(), ["a".into(), "b".into()]);
        let subtasks: Vec<u32> =
            publication.committables(&"b".into()).iter().map(|committable| committable.subtask_index).collect();
        assert_eq!(subtasks, [0, 1]);
    }

    #[test]
    fn external_failure_is_tried_again_then_counts() {
        let mut publication = two_sinks();
        publication.begin();
        publication.sent(&"a".into(), "w".into());
        assert_eq!(publication.answered(&"a".into(), &"w".into(), None), Step::Wait);
        for tries in 1..TRIES_MAX {
            publication.sent(&"b".into(), "w".into());
            let step = publication.answered(&"b".into(), &"w".into(), failure(ErrorDomain::External));
            assert_eq!(step, Step::Retry(tries));
        }
        publication.sent(&"b".into(), "w".into());
        let step = publication.answered(&"b".into(), &"w".into(), failure(ErrorDomain::External));
        assert_eq!(step, Step::Settled(failure(ErrorDomain::External)));
        assert_eq!(publication.begin(), ["b".into()], "what is published is not discarded");
    }

    #[test]
    fn failure_of_the_user_counts_at_once() {
        let mut publication = Publication::default();
        publication.collect(vec![committable("a", 0)]);
        publication.begin();
        publication.sent(&"a".into(), "w".into());
        let step = publication.answered(&"a".into(), &"w".into(), failure(ErrorDomain::User));
        assert_eq!(step, Step::Settled(failure(ErrorDomain::User)));
    }

    #[test]
    fn lost_worker_passes_its_debt_on() {
        let mut publication = two_sinks();
        for sink in publication.begin() {
            publication.sent(&sink, "w1".into());
        }
        assert_eq!(publication.worker_lost(&"w1".into()), ["a".into(), "b".into()]);
        assert_eq!(publication.answered(&"a".into(), &"w1".into(), None), Step::Ignore);
        publication.sent(&"a".into(), "w2".into());
        assert_eq!(publication.answered(&"a".into(), &"w2".into(), None), Step::Wait);
    }

    proptest! {
        #[test]
        fn settled_means_every_sink_answered(answers in prop::collection::vec((0..3u8, 0..3u8), 0..40)) {
            let mut publication = Publication::default();
            publication.collect((0..3).map(|sink| committable(&sink.to_string(), 0)).collect());
            for sink in publication.begin() {
                publication.sent(&sink, "w".into());
            }
            for (sink, outcome) in answers {
                let sink = OperatorUid(sink.to_string());
                let outcome = match outcome {
                    0 => None,
                    1 => failure(ErrorDomain::External),
                    _ => failure(ErrorDomain::User),
                };
                match publication.answered(&sink, &"w".into(), outcome) {
                    Step::Retry(_) => publication.sent(&sink, "w".into()),
                    Step::Settled(_) => prop_assert!(publication.unsettled().is_empty()),
                    Step::Wait => prop_assert!(!publication.unsettled().is_empty()),
                    Step::Ignore => {}
                }
            }
        }
    }
}
