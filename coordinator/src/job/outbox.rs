//! Committed output on its way to be visible: one cut per commit, published strictly in order. Pure: the master sends what
//! it says and tells it the answers.
//!
//! A cut that fails stays at the front: what is behind it may need what it shows. Publishing again what was published
//! changes nothing, so whatever was not confirmed is simply sent again.

use std::collections::{BTreeMap, VecDeque};

use weir_core::{OperatorUid, WorkerId};
use weir_proto::v1::{Committable, Failure};

use super::publication::{Publication, Step};

/// The checkpoint id of the cut at the end of a job.
pub const END: u64 = 0;

/// What an answer leads to.
#[derive(Clone, PartialEq, Debug)]
pub enum Progress {
    /// The answer is stale.
    Ignore,
    /// Other sinks still owe an answer.
    Wait,
    /// Send the sink again after a pause; this many tries failed.
    Retry(u32),
    /// The cut in front is published; the next one is in front now.
    Confirmed(u64),
    /// The cut in front cannot be published.
    Failed(Failure),
}

/// Cuts that are committed and not confirmed.
#[derive(Debug, Default)]
pub struct Outbox {
    cuts: VecDeque<(u64, Publication)>,
    has_begun: bool,
}

impl Outbox {
    /// A cut was committed.
    pub fn push(&mut self, checkpoint: u64, by_sink: BTreeMap<OperatorUid, Vec<Committable>>) {
        let mut publication = Publication::default();
        by_sink.into_values().for_each(|committables| publication.collect(committables));
        self.cuts.push_back((checkpoint, publication));
    }

    /// Forgets everything: a new attempt begins with what its manifest says.
    pub fn clear(&mut self) {
        self.cuts.clear();
        self.has_begun = false;
    }

    /// Whether everything is confirmed.
    pub fn is_empty(&self) -> bool {
        self.cuts.is_empty()
    }

    /// The cut in front.
    pub fn front(&self) -> Option<u64> {
        self.cuts.front().map(|(checkpoint, _)| *checkpoint)
    }

    /// Begins with the cut in front, unless that was done: the sinks to send, in order. A cut without sinks is confirmed at
    /// once.
    pub fn begin(&mut self) -> Result<Vec<OperatorUid>, u64> {
        match self.cuts.front_mut() {
            Some(_) if self.has_begun => Ok(Vec::new()),
            Some((checkpoint, publication)) => {
                let owed = publication.begin();
                if owed.is_empty() {
                    let checkpoint = *checkpoint;
                    self.cuts.pop_front();
                    return Err(checkpoint);
                }
                self.has_begun = true;
                Ok(owed)
            }
            None => Ok(Vec::new()),
        }
    }

    /// Begins with the cut in front once more, whatever came of it before.
    pub fn again(&mut self) {
        self.has_begun = false;
    }

    /// Whether a sink of the cut in front is to be sent.
    pub fn is_owed(&self, sink: &OperatorUid) -> bool {
        self.has_begun && self.cuts.front().is_some_and(|(_, publication)| publication.is_owed(sink))
    }

    /// What to send for a sink of the cut in front.
    pub fn committables(&self, sink: &OperatorUid) -> Vec<Committable> {
        self.cuts.front().map_or_else(Vec::new, |(_, publication)| publication.committables(sink))
    }

    /// Remembers who was asked.
    pub fn sent(&mut self, sink: &OperatorUid, worker: WorkerId) {
        if let Some((_, publication)) = self.cuts.front_mut() {
            publication.sent(sink, worker);
        }
    }

    /// Sinks of the cut in front that are not settled.
    pub fn unsettled(&self) -> Vec<String> {
        self.cuts.front().map_or_else(Vec::new, |(_, publication)| publication.unsettled())
    }

    /// A worker answered for a sink of a cut.
    pub fn answered(
        &mut self,
        checkpoint: u64,
        sink: &OperatorUid,
        worker: &WorkerId,
        failure: Option<Failure>,
    ) -> Progress {
        match self.cuts.front_mut() {
            Some((front, publication)) if *front == checkpoint && self.has_begun => {
                let step = publication.answered(sink, worker, failure);
                self.went(step)
            }
            _ => Progress::Ignore,
        }
    }

    /// A worker is gone: the sinks it owed an answer for are to be sent to another.
    pub fn worker_lost(&mut self, worker: &WorkerId) -> Vec<OperatorUid> {
        self.cuts.front_mut().map_or_else(Vec::new, |(_, publication)| publication.worker_lost(worker))
    }

    fn went(&mut self, step: Step) -> Progress {
        match step {
            Step::Ignore => Progress::Ignore,
            Step::Wait => Progress::Wait,
            Step::Retry(tries) => Progress::Retry(tries),
            Step::Settled(Some(failure)) => Progress::Failed(failure),
            Step::Settled(None) => {
                self.has_begun = false;
                let front = self.cuts.pop_front();
                front.map_or(Progress::Ignore, |(checkpoint, _)| Progress::Confirmed(checkpoint))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use weir_core::ErrorDomain;

    use super::*;

    fn cut(sinks: &[u8]) -> BTreeMap<OperatorUid, Vec<Committable>> {
        let of_sink = |sink: &u8| {
            let committable = Committable { operator: sink.to_string(), ..Committable::default() };
            (OperatorUid(sink.to_string()), vec![committable])
        };
        sinks.iter().map(of_sink).collect()
    }

    proptest! {
        /// Carries a7 of the failure list: answers that are late, lost or mixed up never put a cut before an earlier one.
        #[test]
        fn a7_cuts_are_confirmed_in_order_each_once(
            cuts in prop::collection::vec(prop::collection::btree_set(0..3u8, 0..3), 1..6),
            answers in prop::collection::vec((0..7u64, 0..3u8, 0..4u8), 0..120),
        ) {
            let mut outbox = Outbox::default();
            for (index, sinks) in (1u64..).zip(&cuts) {
                outbox.push(index, cut(&sinks.iter().copied().collect::<Vec<_>>()));
            }
            let worker = WorkerId::from("w");
            let mut confirmed = Vec::new();
            let mut published: Vec<(u64, String)> = Vec::new();
            for (checkpoint, sink, outcome) in answers {
                match outbox.begin() {
                    Err(checkpoint) => confirmed.push(checkpoint),
                    Ok(owed) => owed.iter().for_each(|sink| outbox.sent(sink, worker.clone())),
                }
                let sink = OperatorUid(sink.to_string());
                let failure = (outcome == 0)
                    .then(|| Failure { domain: ErrorDomain::External.to_string(), ..Failure::default() });
                let progress = outbox.answered(checkpoint, &sink, &worker, failure);
                // The last answer of a cut may report that another sink failed; this one is published all the same.
                if outcome != 0 && progress != Progress::Ignore {
                    published.push((checkpoint, sink.0.clone()));
                }
                match progress {
                    Progress::Retry(_) => outbox.sent(&sink, worker.clone()),
                    Progress::Failed(_) => outbox.again(),
                    Progress::Confirmed(done) => confirmed.push(done),
                    Progress::Wait | Progress::Ignore => {}
                }
            }
            prop_assert!(confirmed.iter().copied().eq(1..=confirmed.len() as u64), "{confirmed:?}");
            for checkpoint in confirmed {
                for sink in &cuts[checkpoint as usize - 1] {
                    prop_assert!(published.contains(&(checkpoint, sink.to_string())));
                }
            }
        }
    }
}
