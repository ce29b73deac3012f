//! The chain and records under suspicion: remembers what each operator is working on, says after a failure which rows it
//! was, and gives an operator under suspicion its suspects one by one. Part of the chain.

use std::collections::VecDeque;

use weir_core::{Batch, ErrorDomain};
use weir_graph::plan::PlannedRole;
use weir_graph::{Phase, PlannedOperator};

use super::{Call, Chain};
use crate::error::TaskError;
use crate::task::suspects::{Careful, Fingerprint, SuspectRows, fingerprints};

/// What the operators of a chain are working on, innermost last.
#[derive(Debug, Default)]
pub(super) struct AtWork(Vec<(usize, Option<Rows>)>);

/// Rows that an operator was given.
#[derive(Clone, Debug)]
pub(super) struct Rows {
    pub(super) input: usize,
    pub(super) batch: Batch,
    pub(super) suspect: Option<Fingerprint>,
}

impl AtWork {
    pub(super) fn begin(&mut self, node: usize, rows: Option<Rows>) {
        self.0.push((node, rows));
    }

    pub(super) fn end(&mut self) {
        self.0.pop();
    }
}

/// Whether rows of this operator are records that can be set aside: a partial result stands for many.
pub(super) fn takes_records(planned: &PlannedOperator) -> bool {
    planned.role != PlannedRole::Source && planned.phase != Phase::Final
}

impl Chain {
    /// Operators to be careful with, by their place in the chain.
    pub fn be_careful(&mut self, careful: impl IntoIterator<Item = (usize, Careful)>) {
        for (index, careful) in careful {
            if let Some(node) = self.nodes.get_mut(index).filter(|node| node.takes_records) {
                node.careful = Some(Box::new(careful));
            }
        }
    }

    /// No rows are under suspicion any more: those that killed an earlier attempt lie behind.
    pub fn trust(&mut self) {
        self.nodes.iter_mut().filter_map(|node| node.careful.as_mut()).for_each(|careful| careful.end());
    }

    /// Rows that need no care any more, by operator.
    pub fn passed(&self) -> Vec<SuspectRows> {
        let passed = |(operator, node): (usize, &super::Node)| {
            let rows = node.careful.as_ref()?.passed().to_vec();
            (!rows.is_empty()).then_some(SuspectRows { operator, rows })
        };
        self.nodes.iter().enumerate().filter_map(passed).collect()
    }

    /// A sink is about to write these rows.
    pub fn sink_begins(&mut self, node: usize, batch: &Batch) {
        let is_alone = batch.num_rows() == 1 && self.nodes[node].careful.is_some();
        let looks = if is_alone { fingerprints(0, &batch.records) } else { None };
        let suspect = looks.and_then(|looks| looks.first().copied());
        self.at_work.begin(node, Some(Rows { input: 0, batch: batch.clone(), suspect }));
    }

    /// The sink has written them.
    pub fn sink_wrote(&mut self) {
        self.at_work.end();
    }

    /// Says of a failure which rows may be its cause: those that the innermost operator at work was given. What failed
    /// outside of the job has no such cause.
    pub fn blame(&self, error: TaskError) -> TaskError {
        let Some((operator, Some(rows))) = self.at_work.0.last() else { return error };
        if error.domain == ErrorDomain::External || error.suspects.is_some() || !self.nodes[*operator].takes_records {
            return error;
        }
        let rows = match rows.suspect {
            Some(suspect) => Some(vec![suspect]),
            None => fingerprints(rows.input, &rows.batch.records),
        };
        let suspects = rows.map(|rows| Box::new(SuspectRows { operator: *operator, rows }));
        TaskError { suspects, ..error }
    }

    /// Gives rows to an operator under suspicion: those that are not suspect as they are, the others alone or not at all.
    pub(super) fn perform_carefully(&mut self, index: usize, input: usize, batch: Batch, bytes: usize) {
        let pieces = match &self.nodes[index].careful {
            Some(careful) if !careful.is_over() => careful.cut(input, &batch),
            _ => None,
        };
        let Some(pieces) = pieces else {
            return self.perform_rows(index, Rows { input, batch, suspect: None }, bytes);
        };
        let pieces: VecDeque<Call> =
            pieces.into_iter().map(|piece| Call::Piece { input, batch: piece.batch, suspect: piece.suspect }).collect();
        let inbox = &mut self.nodes[index].inbox;
        pieces.into_iter().rev().for_each(|piece| inbox.push_front(piece));
        // Calls behind them wait in the same inbox, if there are any: whoever lets them wait goes on with them.
        while self.error.is_none() && self.nodes[index].unfinished.is_none() {
            match self.nodes[index].inbox.pop_front() {
                Some(piece @ Call::Piece { .. }) => self.perform(index, piece),
                Some(other) => return self.nodes[index].inbox.push_front(other),
                None => return,
            }
        }
    }

    pub(super) fn perform_piece(&mut self, index: usize, input: usize, batch: Batch, suspect: Option<Fingerprint>) {
        let careful = self.nodes[index].careful.as_mut();
        let aside = careful.zip(suspect).and_then(|(careful, suspect)| careful.set_aside(suspect, &batch));
        if let Some(record) = aside {
            return weir_operator_api::Output::bad(&mut self.output(index), vec![record]);
        }
        let bytes = batch.size_bytes();
        self.perform_rows(index, Rows { input, batch, suspect }, bytes);
        if self.error.is_none()
            && let (Some(careful), Some(suspect)) = (&mut self.nodes[index].careful, suspect)
        {
            careful.survived(suspect);
        }
    }
}
