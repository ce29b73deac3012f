//! The operators of a task: a tree, run by direct calls. What leaves the tree (rows for an edge or a sink) waits in a
//! list, in order; the task sends it before it gives the chain anything new. Synchronous; knows no channels.
//!
//! An operator that answers `More` is *unfinished*: what its parent emits into it meanwhile waits in its inbox. The task
//! calls [`Chain::advance`] until nobody is unfinished. The deepest goes first, so that an operator is never asked for
//! more while its own children are still busy with the last piece.
//!
//! A barrier walks the tree like rows do: each operator sends what it holds back, is frozen, and only then passes the
//! barrier on. What was frozen waits in [`Chain::frozen`] until the barrier has left the last operator.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;

use weir_core::{
    Barrier, Batch, CheckpointId, Clock, EdgeId, EventTime, OperatorUid, Passage, StreamElement, SubtaskIndex,
};
use weir_graph::{PlannedOperator, Target};
use weir_operator_api::{BadRecord, Operator, OperatorError, OperatorMetrics, Output, OutputTag, Progress, SplitEvent};
use weir_state::StateTable;

use self::care::{AtWork, Rows};
use super::bad_log::BadLog;
use super::suspects::{Careful, Fingerprint};
use crate::error::TaskError;
use crate::snapshot::OperatorSnapshot;
use crate::snapshot::restore::RestoredOperator;
use crate::snapshot::take::{counters, resume_counters};

mod care;

/// What an operator of the chain is.
pub enum Body {
    /// The head of a source task; the task itself reads.
    Source,
    /// Called directly. Taken out while it runs, so that it can call its children.
    Operator(Option<Box<dyn Operator>>),
    /// Written by the task; the number of the task's sink.
    Sink(usize),
}

/// What leaves the chain.
#[derive(Debug)]
pub enum Pending {
    /// For an exchange.
    Edge(EdgeId, StreamElement),
    /// Rows for a sink: its number and its place in the chain.
    Sink {
        /// The task's sink.
        sink: usize,
        /// The operator of the chain.
        node: usize,
        /// The rows.
        batch: Batch,
    },
    /// A sink has got the rows in front of a barrier: it is to prepare them, then [`Chain::sink_froze`] is due.
    SinkBarrier {
        /// The task's sink.
        sink: usize,
        /// The operator of the chain.
        node: usize,
        /// Of which checkpoint.
        checkpoint: CheckpointId,
    },
    /// A sink has got its last rows: [`Chain::sink_ended`] is due, after what those rows brought back.
    SinkEnd {
        /// The operator of the chain.
        node: usize,
    },
}

/// A call of an operator.
#[derive(Debug)]
enum Call {
    Batch {
        input: usize,
        batch: Batch,
        bytes: usize,
    },
    /// A part of a batch that has a row under suspicion in it, or that row.
    Piece {
        input: usize,
        batch: Batch,
        suspect: Option<Fingerprint>,
    },
    Watermark(EventTime),
    Idle(bool),
    Split(SplitEvent),
    Barrier(CheckpointId),
    End,
}

struct Node {
    uid: OperatorUid,
    metrics: Arc<OperatorMetrics>,
    body: Body,
    routes: Vec<(OutputTag, Target)>,
    /// Chained operators on any output, each once: control elements go to each once.
    children: Vec<usize>,
    /// Edges on any output, each once.
    edges: Vec<EdgeId>,
    watermark_in: EventTime,
    watermark_out: EventTime,
    is_idle: bool,
    has_ended: bool,
    /// Answered `More`: to what kind of call.
    unfinished: Option<Unfinished>,
    inbox: VecDeque<Call>,
    bad_log: BadLog,
    /// Its rows are records that can be set aside.
    takes_records: bool,
    /// Rows that have killed its task.
    careful: Option<Box<Careful>>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Unfinished {
    Call,
    Barrier(CheckpointId),
    End,
}

/// The operators of one task.
pub struct Chain {
    nodes: Vec<Node>,
    pending: VecDeque<Pending>,
    error: Option<TaskError>,
    clock: Arc<dyn Clock>,
    subtask: u32,
    frozen: Vec<Option<OperatorSnapshot>>,
    /// Of the barrier at hand.
    passage: Passage,
    at_work: AtWork,
}

impl Chain {
    /// Puts a chain together: the planned operators with what runs them and their counters.
    pub fn new(
        planned: &[PlannedOperator],
        parts: Vec<(Body, Arc<OperatorMetrics>)>,
        clock: Arc<dyn Clock>,
        subtask: u32,
    ) -> Self {
        let nodes = planned.iter().zip(parts).map(|(planned, (body, metrics))| Node::new(planned, body, metrics));
        let nodes: Vec<Node> = nodes.collect();
        let frozen = vec![None; nodes.len()];
        let (pending, at_work) = (VecDeque::new(), AtWork::default());
        Chain { nodes, pending, error: None, clock, subtask, frozen, passage: Passage::Waits, at_work }
    }

    /// The next thing to send.
    pub fn pop(&mut self) -> Option<Pending> {
        self.pending.pop_front()
    }

    /// Gives rows of one input to the head operator.
    pub fn process(&mut self, input: usize, batch: Batch) -> Result<(), TaskError> {
        let bytes = batch.size_bytes();
        self.call(0, Call::Batch { input, batch, bytes });
        self.check()
    }

    /// Raises the watermark of the head operator.
    pub fn watermark(&mut self, watermark: EventTime) -> Result<(), TaskError> {
        self.call(0, Call::Watermark(watermark));
        self.check()
    }

    /// Tells the head operator that its inputs are idle, or active again.
    pub fn idle(&mut self, is_idle: bool) -> Result<(), TaskError> {
        self.call(0, Call::Idle(is_idle));
        self.check()
    }

    /// No input follows.
    pub fn end(&mut self) -> Result<(), TaskError> {
        self.call(0, Call::End);
        self.check()
    }

    /// A barrier has come on all inputs of the head operator, or has overtaken what is in front of it there.
    pub fn barrier(&mut self, Barrier { checkpoint, passage }: Barrier) -> Result<(), TaskError> {
        self.passage = passage;
        self.frozen.iter_mut().for_each(|frozen| *frozen = None);
        self.call(0, Call::Barrier(checkpoint));
        self.check()
    }

    /// A sink has prepared what came in front of the barrier; its bad records have been given to [`Chain::bad`].
    pub fn sink_froze(&mut self, node: usize, checkpoint: CheckpointId) -> Result<(), TaskError> {
        self.freeze(node, checkpoint);
        self.check()
    }

    /// What the operators held at the last barrier, in chain order, when it has passed all of them.
    pub fn frozen(&mut self) -> Vec<OperatorSnapshot> {
        self.frozen.iter_mut().filter_map(Option::take).collect()
    }

    /// Where the operators stand at the end: no rows of state are left.
    pub fn ended(&self) -> Vec<OperatorSnapshot> {
        self.nodes.iter().map(|node| node.snapshot(self.subtask, true)).collect()
    }

    /// Gives operators back what a checkpoint held, before any input, and tells everyone downstream how far the
    /// watermark had come.
    ///
    /// **Errors**: state that an operator cannot read.
    pub fn restore(&mut self, mut restored: BTreeMap<OperatorUid, RestoredOperator>) -> Result<(), TaskError> {
        for node in &mut self.nodes {
            let Some(state) = restored.remove(&node.uid) else { continue };
            resume_counters(&node.metrics, &state.counters);
            (node.watermark_in, node.watermark_out) = (state.watermark_in, state.watermark_out);
            node.metrics.watermark_in.store(state.watermark_in.0, Relaxed);
            node.metrics.watermark_out.store(state.watermark_out.0, Relaxed);
            if let Body::Operator(Some(operator)) = &mut node.body {
                let taken = operator.restore(state.tables, state.watermark_in);
                taken.map_err(|error| TaskError::of_operator(&node.uid, &error))?;
            }
        }
        for index in 0..self.nodes.len() {
            let watermark = self.nodes[index].watermark_out;
            if watermark > EventTime::MIN {
                self.to_edges(index, &StreamElement::Watermark(watermark));
            }
        }
        Ok(())
    }

    /// Gives an operator more rows of a keyed table, after [`Chain::restore`].
    ///
    /// **Errors**: state that it cannot read.
    pub fn restore_rows(&mut self, uid: &OperatorUid, table: StateTable) -> Result<(), TaskError> {
        for node in self.nodes.iter_mut().filter(|node| node.uid == *uid) {
            if let Body::Operator(Some(operator)) = &mut node.body {
                let taken = operator.restore(vec![table.clone()], node.watermark_in);
                taken.map_err(|error| TaskError::of_operator(&node.uid, &error))?;
            }
        }
        Ok(())
    }

    /// Input watermark of the head operator.
    pub fn head_watermark(&self) -> EventTime {
        self.nodes[0].watermark_in
    }

    /// Rows that the source at the head has read.
    pub fn emit_source(&mut self, batch: Batch) -> Result<(), TaskError> {
        self.output(0).emit(batch);
        self.check()
    }

    /// News of the splits of the source at the head.
    pub fn split(&mut self, event: SplitEvent) -> Result<(), TaskError> {
        self.output(0).split(event);
        self.check()
    }

    /// Bad records of a source or sink.
    pub fn bad(&mut self, node: usize, bad: Vec<BadRecord>) -> Result<(), TaskError> {
        self.output(node).bad(bad);
        self.check()
    }

    /// No bad records of this sink follow.
    pub fn sink_ended(&mut self, node: usize) {
        self.pass_end(node);
    }

    /// Lets the deepest unfinished operator go on by one step; `false` when there is none. What it emitted is to be sent
    /// before the next call.
    pub fn advance(&mut self) -> Result<bool, TaskError> {
        let Some(node) = self.nodes.iter().rposition(|node| node.unfinished.is_some()) else { return Ok(false) };
        let kind = self.nodes[node].unfinished.take().unwrap_or(Unfinished::Call);
        self.run(node, kind, |operator, out| operator.resume(out));
        while self.error.is_none() && self.nodes[node].unfinished.is_none() {
            let Some(call) = self.nodes[node].inbox.pop_front() else { break };
            self.perform(node, call);
        }
        self.check()?;
        Ok(true)
    }

    /// Whether an operator has more to emit before it can take anything.
    pub fn is_unfinished(&self) -> bool {
        self.nodes.iter().any(|node| node.unfinished.is_some())
    }

    /// Bytes of state in all operators.
    pub fn state_bytes(&self) -> usize {
        let of = |node: &Node| match &node.body {
            Body::Operator(Some(operator)) => operator.state_bytes(),
            _ => 0,
        };
        self.nodes.iter().map(of).sum()
    }

    /// Puts the state of operators on disk where they can. Nothing may be unfinished.
    ///
    /// **Errors**: the first; the state is still whole.
    pub fn spill(&mut self) -> Result<(), TaskError> {
        let mut result = Ok(());
        for node in &mut self.nodes {
            if let Body::Operator(Some(operator)) = &mut node.body
                && let Err(error) = operator.spill()
            {
                result = result.and(Err(TaskError::of_operator(&node.uid, &error)));
            }
        }
        result
    }

    fn check(&mut self) -> Result<(), TaskError> {
        self.error.take().map_or(Ok(()), Err)
    }

    fn output(&mut self, node: usize) -> ChainOutput<'_> {
        ChainOutput { chain: self, node }
    }

    fn call(&mut self, node: usize, call: Call) {
        if self.error.is_some() {
            return;
        }
        // An inbox is only filled while its operator is unfinished or is being caught up.
        if self.nodes[node].unfinished.is_some() || !self.nodes[node].inbox.is_empty() {
            self.nodes[node].inbox.push_back(call);
        } else {
            self.perform(node, call);
        }
    }

    fn perform(&mut self, index: usize, call: Call) {
        let node = &mut self.nodes[index];
        match call {
            Call::Batch { input, batch, bytes } if node.careful.is_some() => {
                self.perform_carefully(index, input, batch, bytes);
            }
            Call::Batch { input, batch, bytes } => {
                self.perform_rows(index, Rows { input, batch, suspect: None }, bytes);
            }
            Call::Piece { input, batch, suspect } => self.perform_piece(index, input, batch, suspect),
            Call::Watermark(watermark) if watermark > node.watermark_in => {
                node.watermark_in = watermark;
                node.metrics.watermark_in.store(watermark.0, Relaxed);
                match node.body {
                    Body::Operator(_) => {
                        self.run(index, Unfinished::Call, |operator, out| operator.on_watermark(watermark, out));
                    }
                    Body::Source | Body::Sink(_) => self.output(index).watermark(watermark),
                }
            }
            // A watermark that does not rise says nothing.
            Call::Watermark(_) => {}
            Call::Idle(is_idle) => match node.body {
                Body::Operator(_) => self.run(index, Unfinished::Call, |operator, out| {
                    operator.on_idle(is_idle, out).map(|()| Progress::Done)
                }),
                Body::Source | Body::Sink(_) => self.output(index).idle(is_idle),
            },
            Call::Split(event) => {
                if matches!(node.body, Body::Operator(_)) {
                    self.run(index, Unfinished::Call, |operator, out| operator.on_split(event, out));
                }
            }
            Call::Barrier(checkpoint) => match node.body {
                Body::Operator(_) => {
                    self.run(index, Unfinished::Barrier(checkpoint), |operator, out| operator.on_barrier(out));
                }
                Body::Source => self.freeze(index, checkpoint),
                Body::Sink(sink) => self.pending.push_back(Pending::SinkBarrier { sink, node: index, checkpoint }),
            },
            Call::End if node.has_ended => {}
            Call::End => {
                node.has_ended = true;
                match node.body {
                    Body::Operator(_) => self.run(index, Unfinished::End, |operator, out| operator.on_end(out)),
                    Body::Source => self.pass_end(index),
                    Body::Sink(_) => self.pending.push_back(Pending::SinkEnd { node: index }),
                }
            }
        }
    }

    fn perform_rows(&mut self, index: usize, rows: Rows, bytes: usize) {
        let node = &mut self.nodes[index];
        OperatorMetrics::add(&node.metrics.records_in, rows.batch.num_rows());
        OperatorMetrics::add(&node.metrics.bytes_in, bytes);
        match node.body {
            Body::Sink(sink) => self.pending.push_back(Pending::Sink { sink, node: index, batch: rows.batch }),
            Body::Source => self.output(index).emit(rows.batch),
            Body::Operator(_) => {
                let (input, batch) = (rows.input, rows.batch.clone());
                self.run_on(index, Unfinished::Call, Some(rows), |operator, out| operator.process(input, batch, out));
            }
        }
    }

    fn run(
        &mut self,
        index: usize,
        kind: Unfinished,
        call: impl FnOnce(&mut dyn Operator, &mut dyn Output) -> Result<Progress, OperatorError>,
    ) {
        self.run_on(index, kind, None, call);
    }

    fn run_on(
        &mut self,
        index: usize,
        kind: Unfinished,
        rows: Option<Rows>,
        call: impl FnOnce(&mut dyn Operator, &mut dyn Output) -> Result<Progress, OperatorError>,
    ) {
        let Body::Operator(slot) = &mut self.nodes[index].body else { return };
        let Some(mut operator) = slot.take() else {
            let uid = &self.nodes[index].uid;
            self.error =
                Some(TaskError::internal("internal", format!("operator '{uid}' was called within its own call")));
            return;
        };
        self.at_work.begin(index, rows);
        let progress = call(operator.as_mut(), &mut self.output(index));
        if let Body::Operator(slot) = &mut self.nodes[index].body {
            *slot = Some(operator);
        }
        if let Err(error) = &progress
            && self.error.is_none()
        {
            self.error = Some(self.blame(TaskError::of_operator(&self.nodes[index].uid, error)));
        }
        self.at_work.end();
        match progress {
            Ok(Progress::More) => self.nodes[index].unfinished = Some(kind),
            Ok(Progress::Done) => match kind {
                Unfinished::Call => {}
                Unfinished::Barrier(checkpoint) => self.freeze(index, checkpoint),
                Unfinished::End => self.pass_end(index),
            },
            Err(_) => {}
        }
    }

    /// Freezes an operator, then passes the barrier on.
    fn freeze(&mut self, index: usize, checkpoint: CheckpointId) {
        let subtask = self.subtask;
        let node = &mut self.nodes[index];
        let mut snapshot = node.snapshot(subtask, false);
        if let Body::Operator(Some(operator)) = &mut node.body {
            match operator.freeze() {
                Ok(tables) => snapshot.tables = tables,
                Err(error) => {
                    let error = TaskError::of_operator(&node.uid, &error);
                    self.error.get_or_insert(error);
                    return;
                }
            }
        }
        self.frozen[index] = Some(snapshot);
        self.to_edges(index, &StreamElement::Barrier(Barrier { checkpoint, passage: self.passage }));
        self.to_children(index, || Call::Barrier(checkpoint));
    }

    fn pass_end(&mut self, index: usize) {
        self.to_edges(index, &StreamElement::EndOfInput);
        self.to_children(index, || Call::End);
    }

    #[allow(clippy::wrong_self_convention, reason = "it sends to them, it does not convert")]
    fn to_edges(&mut self, index: usize, element: &StreamElement) {
        for edge in &self.nodes[index].edges {
            self.pending.push_back(Pending::Edge(*edge, element.clone()));
        }
    }

    #[allow(clippy::wrong_self_convention, reason = "it sends to them, it does not convert")]
    fn to_children(&mut self, index: usize, call: impl Fn() -> Call) {
        for place in 0..self.nodes[index].children.len() {
            let child = self.nodes[index].children[place];
            self.call(child, call());
        }
    }
}

impl Node {
    fn new(planned: &PlannedOperator, body: Body, metrics: Arc<OperatorMetrics>) -> Self {
        let (mut children, mut edges) = (Vec::new(), Vec::new());
        for route in &planned.routes {
            match route.target {
                Target::Operator { index, .. } if !children.contains(&index) => children.push(index),
                Target::Edge(edge) if !edges.contains(&edge) => edges.push(edge),
                _ => {}
            }
        }
        Node {
            uid: planned.uid.clone(),
            metrics,
            body,
            routes: planned.routes.iter().map(|route| (route.output, route.target)).collect(),
            children,
            edges,
            watermark_in: EventTime::MIN,
            watermark_out: EventTime::MIN,
            is_idle: false,
            has_ended: false,
            unfinished: None,
            inbox: VecDeque::new(),
            bad_log: BadLog::default(),
            takes_records: care::takes_records(planned),
            careful: None,
        }
    }
}

impl Node {
    /// Where the operator stands, without its rows.
    fn snapshot(&self, subtask: u32, has_ended: bool) -> OperatorSnapshot {
        OperatorSnapshot {
            uid: self.uid.clone(),
            subtask: SubtaskIndex(subtask),
            has_ended,
            watermark_in: self.watermark_in,
            watermark_out: self.watermark_out,
            counters: counters(&self.metrics),
            tables: Vec::new(),
            splits: Vec::new(),
            sink_states: Vec::new(),
            committables: Vec::new(),
        }
    }
}

/// The output of one operator of the chain.
struct ChainOutput<'a> {
    chain: &'a mut Chain,
    node: usize,
}

impl Output for ChainOutput<'_> {
    fn emit_to(&mut self, tag: OutputTag, batch: Batch) {
        let rows = batch.num_rows();
        if rows == 0 {
            return;
        }
        let node = &self.chain.nodes[self.node];
        let bytes = if node.routes.is_empty() && tag != OutputTag::Main { 0 } else { batch.size_bytes() };
        match tag {
            OutputTag::Main => {
                OperatorMetrics::add(&node.metrics.records_out, rows);
                OperatorMetrics::add(&node.metrics.bytes_out, bytes);
                OperatorMetrics::add(&node.metrics.batches_out, 1);
            }
            OutputTag::Late => OperatorMetrics::add(&node.metrics.late_records, rows),
            OutputTag::DeadLetter | OutputTag::Raw => {}
        }
        for place in 0..node.routes.len() {
            match self.chain.nodes[self.node].routes[place] {
                (of, Target::Operator { index, input }) if of == tag => {
                    self.chain.call(index, Call::Batch { input, batch: batch.clone(), bytes });
                }
                (of, Target::Edge(edge)) if of == tag => {
                    self.chain.pending.push_back(Pending::Edge(edge, StreamElement::Batch(batch.clone())));
                }
                _ => {}
            }
        }
    }

    fn bad(&mut self, bad: Vec<BadRecord>) {
        let Some(first) = bad.first() else { return };
        let (wall_us, now) = (self.chain.clock.wall_unix_us(), self.chain.clock.monotonic());
        let subtask = self.chain.subtask;
        let node = &mut self.chain.nodes[self.node];
        OperatorMetrics::add(&node.metrics.bad_records, bad.len());
        if let Some(suppressed) = node.bad_log.on_bad(bad.len(), now) {
            tracing::warn!(
                operator = %node.uid, subtask, code = first.code, source = first.source.as_deref(),
                position = first.position, suppressed, "bad record: {}", first.message
            );
        }
        if self.is_connected(OutputTag::DeadLetter) {
            let records = BadRecord::to_records(self.chain.nodes[self.node].uid.as_str(), &bad);
            self.emit_to(OutputTag::DeadLetter, Batch::new(records, wall_us));
        }
    }

    fn is_connected(&self, tag: OutputTag) -> bool {
        self.chain.nodes[self.node].routes.iter().any(|(of, _)| *of == tag)
    }

    fn watermark(&mut self, watermark: EventTime) {
        let node = &mut self.chain.nodes[self.node];
        if watermark <= node.watermark_out {
            return;
        }
        node.watermark_out = watermark;
        node.metrics.watermark_out.store(watermark.0, Relaxed);
        self.chain.to_edges(self.node, &StreamElement::Watermark(watermark));
        self.chain.to_children(self.node, || Call::Watermark(watermark));
    }

    fn idle(&mut self, is_idle: bool) {
        let node = &mut self.chain.nodes[self.node];
        if is_idle == node.is_idle {
            return;
        }
        node.is_idle = is_idle;
        let element = if is_idle { StreamElement::Idle } else { StreamElement::Active };
        self.chain.to_edges(self.node, &element);
        self.chain.to_children(self.node, || Call::Idle(is_idle));
    }

    fn split(&mut self, event: SplitEvent) {
        self.chain.to_children(self.node, || Call::Split(event));
    }
}

#[cfg(test)]
#[path = "chain_tests.rs"]
mod tests;
