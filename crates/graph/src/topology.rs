//! Which operator feeds which: reads names, kinds and inputs of a submitted job; finds dangling inputs and cycles (pure).
//! The first step of planning; schemas come in the next.

use std::collections::BTreeMap;

use weir_core::settings::nearest;
use weir_core::{OutputTag, Problem, Settings, Value};

use crate::catalog::{Catalog, Role};
use crate::descriptor::{KINDS, OperatorKind};
use crate::limits::{INPUTS_MAX, NAME_BYTES_MAX, OPERATORS_MAX, PARALLELISM_MAX, SETTINGS_DEPTH_MAX};
use crate::submitted::{SubmittedJob, SubmittedOperator};

/// The order and wiring of a job's operators.
#[derive(Debug)]
pub struct Topology {
    /// One per submitted operator, in the same order.
    pub nodes: Vec<Node>,
    /// Indexes of the nodes, each after all its inputs; nodes on a cycle or behind one are missing.
    pub order: Vec<usize>,
}

/// One operator's kind and inputs, as far as they could be read.
#[derive(Debug)]
pub struct Node {
    /// What it is; `None` when the kind is unknown.
    pub kind: Option<OperatorKind>,
    /// Where its rows come from; inputs that do not exist are missing.
    pub inputs: Vec<NodeInput>,
    /// Whether all its inputs exist and their number is right.
    pub is_connected: bool,
}

/// One input of an operator.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct NodeInput {
    /// Index of the operator it comes from.
    pub from: usize,
    /// Which of its outputs.
    pub output: OutputTag,
}

/// Checks names, kinds, inputs and the settings of built-in kinds; adds everything wrong to `problems`.
pub fn check(job: &SubmittedJob, catalog: &dyn Catalog, problems: &mut Vec<Problem>) -> Topology {
    check_job(job, problems);
    let by_uid = check_uids(job, problems);
    let connectors = catalog.connectors();
    let kinds: Vec<_> = job.operators.iter().map(|operator| read_kind(operator, &connectors, problems)).collect();
    let mut nodes = Vec::with_capacity(kinds.len());
    for (index, kind) in kinds.iter().enumerate() {
        nodes.push(connect(job, index, kind.as_ref(), (&by_uid, &kinds), problems));
    }
    for (node, kind) in nodes.iter_mut().zip(kinds) {
        node.kind = kind;
    }
    let order = sort(job, &nodes, problems);
    check_outputs_are_read(job, &nodes, problems);
    Topology { nodes, order }
}

fn problem(operator: &str, field: &str, reason: impl Into<String>) -> Problem {
    Problem { operator: operator.to_owned(), field: field.to_owned(), reason: reason.into(), nearest: None }
}

fn check_job(job: &SubmittedJob, problems: &mut Vec<Problem>) {
    if job.name.is_empty() || job.name.len() > NAME_BYTES_MAX {
        problems.push(problem("", "name", format!("a job needs a name of 1 to {NAME_BYTES_MAX} bytes")));
    }
    if job.operators.is_empty() {
        problems.push(problem("", "operators", "is empty: a job needs at least a source and a sink"));
    }
    if job.operators.len() > OPERATORS_MAX {
        let reason = format!("has {} operators; at most {OPERATORS_MAX}", job.operators.len());
        problems.push(problem("", "operators", reason));
    }
}

fn check_uids<'a>(job: &'a SubmittedJob, problems: &mut Vec<Problem>) -> BTreeMap<&'a str, usize> {
    let mut by_uid = BTreeMap::new();
    for (index, operator) in job.operators.iter().enumerate() {
        let uid = operator.uid.as_str();
        let is_name = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'_' || byte == b'-';
        if uid.is_empty() || uid.len() > NAME_BYTES_MAX || !uid.bytes().all(is_name) {
            let reason = format!("operator {index} needs a uid of 1 to {NAME_BYTES_MAX} letters, digits, '_' and '-'");
            problems.push(problem(uid, "uid", reason));
        }
        if by_uid.insert(uid, index).is_some() {
            problems.push(problem(uid, "uid", "is used by more than one operator; uids must be unique"));
        }
        if operator.parallelism.is_some_and(|parallelism| !(1..=PARALLELISM_MAX).contains(&parallelism)) {
            problems.push(problem(uid, "parallelism", format!("must be from 1 to {PARALLELISM_MAX}")));
        }
        if operator.settings.values().map(Value::depth).max().unwrap_or(0) > SETTINGS_DEPTH_MAX {
            problems.push(problem(uid, "", format!("settings nest deeper than {SETTINGS_DEPTH_MAX} levels")));
        }
    }
    by_uid
}

fn read_kind(
    operator: &SubmittedOperator,
    connectors: &[(&'static str, Role)],
    problems: &mut Vec<Problem>,
) -> Option<OperatorKind> {
    if let Some((_, role)) = connectors.iter().find(|(kind, _)| *kind == operator.kind) {
        return Some(if *role == Role::Source { OperatorKind::Source } else { OperatorKind::Sink });
    }
    let settings = Settings::new(&operator.uid, &operator.settings);
    let kind = OperatorKind::read(&operator.kind, &settings);
    if kind.is_some() {
        problems.extend(settings.finish());
    } else {
        let known: Vec<&str> = KINDS.iter().copied().chain(connectors.iter().map(|(kind, _)| *kind)).collect();
        let reason = format!("'{}' is not a kind of operator; known are {}", operator.kind, known.join(", "));
        let nearest = nearest(&operator.kind, known);
        problems.push(Problem { nearest, ..problem(&operator.uid, "kind", reason) });
    }
    kind
}

type Known<'a> = (&'a BTreeMap<&'a str, usize>, &'a [Option<OperatorKind>]);

fn connect(
    job: &SubmittedJob,
    index: usize,
    kind: Option<&OperatorKind>,
    known: Known<'_>,
    problems: &mut Vec<Problem>,
) -> Node {
    let operator = &job.operators[index];
    let mut inputs = Vec::new();
    for text in operator.inputs.iter().take(INPUTS_MAX + 1) {
        match read_input(job, text, known) {
            Ok(input) => inputs.push(input),
            Err((reason, nearest)) => problems.push(Problem { nearest, ..problem(&operator.uid, "inputs", reason) }),
        }
    }
    let mut is_connected = inputs.len() == operator.inputs.len();
    if let Some(kind) = kind {
        let (least, most) = if *kind == OperatorKind::Sink { (1, 1) } else { kind.input_bounds() };
        let count = operator.inputs.len();
        if !(least..=most).contains(&count) {
            is_connected = false;
            let needs = match (least, most) {
                (0, 0) => "takes no input: it is a source".to_owned(),
                (a, b) if a == b => format!("needs {a} input{}", if a == 1 { "" } else { "s" }),
                (a, b) => format!("needs {a} to {b} inputs"),
            };
            problems.push(problem(&operator.uid, "inputs", format!("{needs}, {count} given")));
        }
    }
    Node { kind: None, inputs, is_connected }
}

fn read_input(job: &SubmittedJob, text: &str, known: Known<'_>) -> Result<NodeInput, (String, Option<String>)> {
    let (uid, output) = text.split_once('.').unwrap_or((text, ""));
    let Some(&from) = known.0.get(uid) else {
        return Err((format!("'{text}': there is no operator '{uid}'"), nearest(uid, known.0.keys().copied())));
    };
    let kind = known.1[from].as_ref();
    let output = match output {
        "" if kind == Some(&OperatorKind::Sink) => {
            return Err((format!("'{uid}' is a sink ({}) and has no output", job.operators[from].kind), None));
        }
        "" => OutputTag::Main,
        "dead_letter" => OutputTag::DeadLetter,
        "late" if kind.is_none_or(OperatorKind::has_late_output) => OutputTag::Late,
        "late" => return Err((format!("'{uid}' ({}) has no late output", job.operators[from].kind), None)),
        other => {
            let reason = format!("'{text}': there is no output '{other}'; outputs are late and dead_letter");
            return Err((reason, nearest(other, ["late", "dead_letter"])));
        }
    };
    Ok(NodeInput { from, output })
}

/// Kahn's algorithm; ties in submitted order, so that the plan is the same every time.
fn sort(job: &SubmittedJob, nodes: &[Node], problems: &mut Vec<Problem>) -> Vec<usize> {
    let mut is_placed = vec![false; nodes.len()];
    let mut order = Vec::with_capacity(nodes.len());
    loop {
        let before = order.len();
        for (index, node) in nodes.iter().enumerate() {
            if !is_placed[index] && node.inputs.iter().all(|input| is_placed[input.from]) {
                is_placed[index] = true;
                order.push(index);
            }
        }
        if order.len() == before {
            break;
        }
    }
    if let Some(cycle) = find_cycle(nodes, &is_placed) {
        let names: Vec<&str> = cycle.iter().map(|index| job.operators[*index].uid.as_str()).collect();
        let reason = format!("the inputs form a cycle: {} -> {}", names.join(" -> "), names[0]);
        problems.push(problem(names[0], "inputs", reason));
    }
    order
}

/// Walks inputs backwards from an unplaced node until one repeats: every unplaced node has an unplaced input.
fn find_cycle(nodes: &[Node], is_placed: &[bool]) -> Option<Vec<usize>> {
    let mut path = vec![is_placed.iter().position(|placed| !placed)?];
    loop {
        let last = *path.last()?;
        let next = nodes[last].inputs.iter().map(|input| input.from).find(|from| !is_placed[*from])?;
        if let Some(start) = path.iter().position(|index| *index == next) {
            let mut cycle = path.split_off(start);
            cycle.reverse();
            return Some(cycle);
        }
        path.push(next);
    }
}

fn check_outputs_are_read(job: &SubmittedJob, nodes: &[Node], problems: &mut Vec<Problem>) {
    for (index, operator) in job.operators.iter().enumerate() {
        let is_sink = matches!(nodes[index].kind, Some(OperatorKind::Sink) | None);
        let main = NodeInput { from: index, output: OutputTag::Main };
        if !is_sink && !nodes.iter().any(|node| node.inputs.contains(&main)) {
            problems.push(problem(&operator.uid, "", "nobody reads its output; connect a sink, or remove it"));
        }
    }
}
