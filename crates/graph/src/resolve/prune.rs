//! Which columns of a source nobody reads: walks from the sinks back to the sources (pure).

use std::collections::{BTreeMap, BTreeSet};

use weir_core::OutputTag;

use super::{Resolved, StreamGraph};
use crate::descriptor::OperatorKind;

/// The columns each source should produce, by position, for those that can leave some out and have some to leave out.
pub(super) fn projections(graph: &StreamGraph) -> BTreeMap<usize, Vec<String>> {
    // Columns of each operator's main output that somebody reads.
    let mut read: Vec<BTreeSet<String>> = vec![BTreeSet::new(); graph.operators.len()];
    for (position, operator) in graph.operators.iter().enumerate().rev() {
        let is_late_read = graph
            .operators
            .iter()
            .any(|reader| reader.inputs.iter().any(|input| input.from == position && input.output == OutputTag::Late));
        for input in &operator.inputs {
            let all = || input.schema.fields().iter().map(|field| field.name().clone()).collect();
            let needed: BTreeSet<String> =
                if is_late_read { all() } else { needs(operator, &read[position]).unwrap_or_else(all) };
            if input.output == OutputTag::Late {
                // The late output repeats the operator's own input, which `is_late_read` keeps whole.
                continue;
            }
            read[input.from].extend(needed);
        }
    }
    let mut projections = BTreeMap::new();
    for (position, operator) in graph.operators.iter().enumerate().filter(|(_, operator)| operator.can_project) {
        let names = operator.output.fields().iter().map(|field| field.name().clone());
        let mut kept: Vec<String> = names.clone().filter(|name| read[position].contains(name)).collect();
        if kept.is_empty() {
            kept.extend(names.clone().take(1)); // Rows must be countable.
        }
        if kept.len() < operator.output.fields().len() {
            projections.insert(position, kept);
        }
    }
    projections
}

/// Columns an operator needs of its input when `read` is read of its output; `None` for all.
fn needs(operator: &Resolved, read: &BTreeSet<String>) -> Option<BTreeSet<String>> {
    let own = operator.reads.clone()?;
    Some(match &operator.kind {
        OperatorKind::Project(_) | OperatorKind::Window(_) => own,
        OperatorKind::Watermark(strategy) => {
            let passed = read.iter().filter(|name| **name != strategy.column).cloned();
            own.into_iter().chain(passed).collect()
        }
        _ => own.into_iter().chain(read.iter().cloned()).collect(),
    })
}
