//! The job graph: operators chained into vertices, edges between them, all schemas resolved. It is what the coordinator
//! places and workers run; made by [`plan`], carried by the wire as it stands.

use std::collections::BTreeMap;

use arrow_schema::SchemaRef;
pub use weir_core::element::OutputTag;
use weir_core::{EdgeId, OperatorUid, Problem, Value, VertexId};

use crate::catalog::Catalog;
use crate::config::JobOptions;
use crate::submitted::SubmittedJob;

mod chain;
mod physical;

pub(crate) use physical::output_schema;

/// A job ready to be placed.
#[derive(Clone, Debug)]
pub struct JobPlan {
    /// Name shown to people.
    pub name: String,
    /// Options of the whole job.
    pub options: JobOptions,
    /// Chains of operators, in topological order; `VertexId` is the index.
    pub vertices: Vec<Vertex>,
    /// Exchanges between vertices; `EdgeId` is the index.
    pub edges: Vec<Edge>,
}

/// A chain of operators that runs as one task per subtask.
#[derive(Clone, Debug)]
pub struct Vertex {
    /// Index in the plan.
    pub id: VertexId,
    /// The uids of the chain joined by ` -> `.
    pub name: String,
    /// How many subtasks.
    pub parallelism: u32,
    /// The operators: a tree in topological order. `operators[0]` is the head: a source, or the one operator that all
    /// incoming edges feed.
    pub operators: Vec<PlannedOperator>,
}

/// Which part of an operator a planned operator is.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum Phase {
    /// All of it.
    Whole,
    /// Aggregation before the exchange: partials leave by `Main`, rows passed on as they are by `Raw`.
    Local,
    /// Aggregation after the exchange: input 0 takes rows, input 1 takes partials.
    Final,
}

/// One operator of a chain.
#[derive(Clone, Debug)]
pub struct PlannedOperator {
    /// The user's name.
    pub uid: OperatorUid,
    /// Kind, as in the job graph.
    pub kind: String,
    /// Whether the kind is a connector's source or sink, or a built-in operator.
    pub role: PlannedRole,
    /// Settings, as submitted and checked.
    pub settings: BTreeMap<String, Value>,
    /// Which part of the operator this is.
    pub phase: Phase,
    /// Schema of each input (none for a source). For [`Phase::Final`]: rows, partials.
    pub inputs: Vec<SchemaRef>,
    /// Schema of the main output (the input's for a sink).
    pub output: SchemaRef,
    /// Columns a source is to produce, when it may leave some out.
    pub projection: Option<Vec<String>>,
    /// Where each output goes. An output without a route is dropped (late and bad rows are counted all the same).
    pub routes: Vec<Route>,
}

/// Who runs a planned operator.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum PlannedRole {
    /// A source of the connector registry.
    Source,
    /// A built-in operator.
    Operator,
    /// A sink of the connector registry.
    Sink,
}

/// One way out of an operator.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Route {
    /// Which output.
    pub output: OutputTag,
    /// Where to.
    pub target: Target,
}

/// Where a route leads.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Target {
    /// An operator of the same chain, by a direct call.
    Operator {
        /// Index in [`Vertex::operators`], greater than the sender's.
        index: usize,
        /// Which of its inputs.
        input: usize,
    },
    /// An exchange.
    Edge(EdgeId),
}

/// An exchange between two vertices.
#[derive(Clone, Debug)]
pub struct Edge {
    /// Index in the plan.
    pub id: EdgeId,
    /// The sending vertex.
    pub source: VertexId,
    /// The receiving vertex.
    pub target: VertexId,
    /// Which input of the receiving head operator.
    pub input: usize,
    /// Which row goes to which subtask.
    pub partitioning: Partitioning,
    /// Schema of the rows.
    pub schema: SchemaRef,
}

/// Which row goes to which subtask of the receiving vertex.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Partitioning {
    /// Subtask i to subtask i; both sides have the same parallelism. One channel per subtask.
    Forward,
    /// By key group of the hash of these columns (indexes into the edge's schema).
    Hash {
        /// Key columns.
        columns: Vec<usize>,
    },
    /// Whole batches in turn to all subtasks.
    Rebalance,
    /// Each sender has one fixed receiver (`subtask * receivers / senders`), so that order is kept.
    Rescale,
}

impl JobPlan {
    /// Most slots the job needs: one slot holds one subtask of each vertex.
    pub fn slots_needed(&self) -> u32 {
        self.vertices.iter().map(|vertex| vertex.parallelism).max().unwrap_or(0)
    }

    /// The edges that end in `vertex`.
    pub fn inputs_of(&self, vertex: VertexId) -> impl Iterator<Item = &Edge> {
        self.edges.iter().filter(move |edge| edge.target == vertex)
    }

    /// A name of an edge that stays the same in every plan that has it: who sends, what, to whom, by which way.
    pub fn edge_name(&self, edge: &Edge) -> String {
        let name = self.way_of(edge);
        let earlier = self.edges.iter().filter(|other| other.id < edge.id && self.way_of(other) == name).count();
        if earlier == 0 { name } else { format!("{name} #{}", earlier + 1) }
    }

    fn way_of(&self, edge: &Edge) -> String {
        let senders = self.vertices.get(edge.source.index()).map_or(&[][..], |vertex| &vertex.operators);
        let routes = senders.iter().flat_map(|sender| sender.routes.iter().map(move |route| (sender, route)));
        let from = routes.filter(|(_, route)| route.target == Target::Edge(edge.id)).map(|(sender, route)| {
            let (uid, phase, output) = (&sender.uid, sender.phase, route.output);
            format!("{uid} {phase:?} {output:?}")
        });
        let head = self.vertices.get(edge.target.index()).and_then(|vertex| vertex.operators.first());
        let to = head.map_or_else(String::new, |head| format!("{} {:?}", head.uid, head.phase));
        let way = match &edge.partitioning {
            Partitioning::Hash { columns } => format!("Hash {columns:?}"),
            other => format!("{other:?}"),
        };
        format!("{} -> {to} {}: {way}", from.collect::<Vec<_>>().join(", "), edge.input)
    }

    /// The edges that begin in `vertex`.
    pub fn outputs_of(&self, vertex: VertexId) -> impl Iterator<Item = &Edge> {
        self.edges.iter().filter(move |edge| edge.source == vertex)
    }
}

impl Edge {
    /// The receiving subtasks that sending subtask `from` has a channel to.
    pub fn receivers(&self, from: u32, senders: u32, receivers: u32) -> std::ops::Range<u32> {
        match self.partitioning {
            Partitioning::Forward => from..from + 1,
            Partitioning::Hash { .. } | Partitioning::Rebalance => 0..receivers,
            Partitioning::Rescale => {
                let to = (u64::from(from) * u64::from(receivers) / u64::from(senders)) as u32;
                to..to + 1
            }
        }
    }
}

/// Checks a submitted job and plans it.
///
/// **Errors**: all problems at once, ordered as the operators were given.
pub fn plan(job: &SubmittedJob, catalog: &dyn Catalog) -> Result<JobPlan, Vec<Problem>> {
    let mut problems = Vec::new();
    let options = JobOptions::read(&job.config, &mut problems);
    let topology = crate::topology::check(job, catalog, &mut problems);
    let stream_graph = crate::resolve::resolve(job, &topology, &options, catalog, &mut problems);
    match stream_graph {
        Some(stream_graph) if problems.is_empty() => {
            Ok(chain::chain(&job.name, options, physical::expand(stream_graph)))
        }
        _ => Err(problems),
    }
}
