//! From operators to what runs: aggregations cut into a local and a final phase, and a partitioning for each link (pure).

use std::sync::Arc;

use arrow_schema::{Field, Schema, SchemaRef};
use weir_core::batch::{dead_letter_schema, is_changing};
use weir_core::{OperatorUid, OutputTag};

use super::{Partitioning, Phase, PlannedOperator, PlannedRole};
use crate::descriptor::{OperatorKind, WindowAggregate};
use crate::resolve::{Resolved, StreamGraph};
use crate::window_schema;

/// Operators as they will run, producers before consumers.
pub(super) struct PhysicalGraph {
    pub(super) operators: Vec<PhysicalOperator>,
    pub(super) links: Vec<Link>,
}

pub(super) struct PhysicalOperator {
    pub(super) planned: PlannedOperator,
    pub(super) parallelism: u32,
    /// Columns by which its main output is already spread over its subtasks.
    partitioned_by: Option<Vec<String>>,
}

pub(super) struct Link {
    pub(super) from: usize,
    pub(super) output: OutputTag,
    pub(super) to: usize,
    pub(super) input: usize,
    pub(super) partitioning: Partitioning,
    pub(super) schema: SchemaRef,
}

/// Where an operator of the stream graph ended up.
struct Place {
    /// Whose main and late outputs are the operator's.
    main: usize,
    /// All parts that may find bad records.
    parts: Vec<usize>,
}

pub(super) fn expand(graph: StreamGraph) -> PhysicalGraph {
    let mut physical = PhysicalGraph { operators: Vec::new(), links: Vec::new() };
    let mut places: Vec<Place> = Vec::with_capacity(graph.operators.len());
    for resolved in &graph.operators {
        let place = match two_phase(&physical, &places, resolved) {
            Some((window, partial)) => physical.add_two_phase(resolved, window, partial, &places),
            None => physical.add_whole(resolved, &places),
        };
        places.push(place);
    }
    physical
}

/// Whether aggregation before the exchange can pay: there is an exchange, and every aggregate has a partial form.
fn two_phase<'a>(
    physical: &PhysicalGraph,
    places: &[Place],
    resolved: &'a Resolved,
) -> Option<(&'a WindowAggregate, SchemaRef)> {
    let OperatorKind::Window(window) = &resolved.kind else { return None };
    let upstream = &physical.operators[places[resolved.inputs[0].from].main];
    let is_exchanged = upstream.parallelism > 1 || resolved.parallelism > 1;
    let is_in_place =
        upstream.partitioned_by.as_ref() == Some(&window.key) && upstream.parallelism == resolved.parallelism;
    if !window.two_phase || !is_exchanged || is_in_place {
        return None;
    }
    let keys: Vec<Field> = fields(&resolved.inputs[0].schema, &window.key);
    Some((window, window_schema::partial_schema(&keys, window.window, &resolved.aggregates)?))
}

fn fields(schema: &Schema, names: &[String]) -> Vec<Field> {
    names.iter().filter_map(|name| schema.field_with_name(name).ok().cloned()).collect()
}

fn indexes(schema: &Schema, names: &[String]) -> Vec<usize> {
    names.iter().filter_map(|name| schema.index_of(name).ok()).collect()
}

impl PhysicalGraph {
    fn add_whole(&mut self, resolved: &Resolved, places: &[Place]) -> Place {
        let key = resolved.kind.partition_key();
        let partitioned_by = match &resolved.kind {
            OperatorKind::WindowJoin(_) | OperatorKind::WindowTopN(_) => None,
            _ if key.is_some() => key.clone(),
            OperatorKind::Filter(_) => self.operators[places[resolved.inputs[0].from].main].partitioned_by.clone(),
            _ => None,
        };
        let index = self.push(resolved, Phase::Whole, resolved.parallelism, partitioned_by);
        for (input, from) in resolved.inputs.iter().enumerate() {
            let key = resolved.kind.input_key(input).or_else(|| resolved.partition_by.clone());
            for part in sources_of(&places[from.from], from.output) {
                self.link(part, from.output, index, input, key.as_deref(), &from.schema);
            }
        }
        Place { main: index, parts: vec![index] }
    }

    fn add_two_phase(
        &mut self,
        resolved: &Resolved,
        window: &WindowAggregate,
        partial: SchemaRef,
        places: &[Place],
    ) -> Place {
        let input = &resolved.inputs[0];
        let senders = sources_of(&places[input.from], input.output);
        let parallelism = self.operators[senders[0]].parallelism;
        let local = self.push(resolved, Phase::Local, parallelism, None);
        self.operators[local].planned.output = Arc::clone(&partial);
        for sender in senders {
            self.link(sender, input.output, local, 0, None, &input.schema);
        }
        let last = self.push(resolved, Phase::Final, resolved.parallelism, Some(window.key.clone()));
        self.operators[last].planned.inputs.push(Arc::clone(&partial));
        self.link(local, OutputTag::Raw, last, 0, Some(&window.key), &input.schema);
        self.link(local, OutputTag::Main, last, 1, Some(&window.key), &partial);
        Place { main: last, parts: vec![local, last] }
    }

    fn push(
        &mut self,
        resolved: &Resolved,
        phase: Phase,
        parallelism: u32,
        partitioned_by: Option<Vec<String>>,
    ) -> usize {
        let role = match resolved.kind {
            OperatorKind::Source => PlannedRole::Source,
            OperatorKind::Sink => PlannedRole::Sink,
            _ => PlannedRole::Operator,
        };
        let planned = PlannedOperator {
            uid: OperatorUid(resolved.uid.clone()),
            kind: resolved.kind_name.clone(),
            role,
            settings: resolved.settings.clone(),
            phase,
            inputs: resolved.inputs.iter().map(|input| Arc::clone(&input.schema)).collect(),
            output: Arc::clone(&resolved.output),
            projection: resolved.projection.clone(),
            routes: Vec::new(),
        };
        self.operators.push(PhysicalOperator { planned, parallelism, partitioned_by });
        self.operators.len() - 1
    }

    #[allow(clippy::too_many_arguments, reason = "the six facts of a link, passed once")]
    fn link(
        &mut self,
        from: usize,
        output: OutputTag,
        to: usize,
        input: usize,
        key: Option<&[String]>,
        schema: &SchemaRef,
    ) {
        let (sender, receiver) = (&self.operators[from], &self.operators[to]);
        let is_equal = sender.parallelism == receiver.parallelism;
        let is_in_place =
            output == OutputTag::Main && key.is_some() && sender.partitioned_by.as_deref() == key && is_equal;
        let partitioning = match key {
            _ if is_equal && receiver.parallelism == 1 => Partitioning::Forward,
            _ if is_in_place => Partitioning::Forward,
            Some(key) if receiver.parallelism > 1 && !key.is_empty() => {
                Partitioning::Hash { columns: indexes(schema, key) }
            }
            Some(_) => Partitioning::Rescale,
            None if is_equal => Partitioning::Forward,
            None if is_changing(schema) || receiver.parallelism == 1 => Partitioning::Rescale,
            None => Partitioning::Rebalance,
        };
        self.links.push(Link { from, output, to, input, partitioning, schema: Arc::clone(schema) });
    }
}

fn sources_of(place: &Place, output: OutputTag) -> Vec<usize> {
    if output == OutputTag::DeadLetter { place.parts.clone() } else { vec![place.main] }
}

/// Schema of one output of an operator.
pub(crate) fn output_schema(operator: &Resolved, output: OutputTag) -> SchemaRef {
    match output {
        OutputTag::DeadLetter => dead_letter_schema(),
        OutputTag::Late => operator.inputs.first().map_or_else(dead_letter_schema, |input| Arc::clone(&input.schema)),
        OutputTag::Main | OutputTag::Raw => Arc::clone(&operator.output),
    }
}
