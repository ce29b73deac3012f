//! Schemas and types: walks a job from its sources to its sinks, types every expression, checks every column, and
//! leaves out of sources what nobody reads. The second step of planning.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use arrow_schema::{Schema, SchemaRef};
use weir_core::batch::{event_time_index, is_changing};
use weir_core::key_group::KEY_GROUP_COUNT_DEFAULT;
use weir_core::settings::nearest;
use weir_core::{OutputTag, Problem, Settings, TypedAggregate, Value};

use crate::catalog::Catalog;
use crate::config::JobOptions;
use crate::descriptor::OperatorKind;
use crate::submitted::{SubmittedJob, SubmittedOperator};
use crate::topology::Topology;

mod kinds;
mod prune;

/// A job with all schemas known; operators stand after the ones they read from.
#[derive(Debug)]
pub struct StreamGraph {
    /// The operators.
    pub operators: Vec<Resolved>,
}

/// One operator with schemas.
#[derive(Debug)]
pub struct Resolved {
    /// The user's name.
    pub uid: String,
    /// Kind as written.
    pub kind_name: String,
    /// Kind as read.
    pub kind: OperatorKind,
    /// Settings as submitted.
    pub settings: BTreeMap<String, Value>,
    /// Subtasks.
    pub parallelism: u32,
    /// Its inputs.
    pub inputs: Vec<ResolvedInput>,
    /// Schema of its main output; a sink's is its input's.
    pub output: SchemaRef,
    /// Aggregate calls of a window.
    pub aggregates: Vec<TypedAggregate>,
    /// Columns of its input (by input) that its own expressions read; `None` when it reads all.
    pub reads: Option<BTreeSet<String>>,
    /// Columns a source is to produce, when it may leave some out.
    pub projection: Option<Vec<String>>,
    /// Whether the source can leave columns out.
    pub can_project: bool,
    /// Columns by which the input of a sink must be spread over its subtasks, when it matters.
    pub partition_by: Option<Vec<String>>,
}

/// One input with its schema.
#[derive(Clone, Debug)]
pub struct ResolvedInput {
    /// Index of the operator it comes from.
    pub from: usize,
    /// Which of its outputs.
    pub output: OutputTag,
    /// Schema of the rows.
    pub schema: SchemaRef,
}

/// Resolves a job whose wiring is known. Operators behind a problem are not looked at (their schemas are unknown), all
/// others are, so that every problem that can be known comes out. `None` when something is missing.
pub fn resolve(
    job: &SubmittedJob,
    topology: &Topology,
    options: &JobOptions,
    catalog: &dyn Catalog,
    problems: &mut Vec<Problem>,
) -> Option<StreamGraph> {
    let mut resolver = Resolver { job, topology, options, catalog, projections: BTreeMap::new() };
    let graph = resolver.walk(problems)?;
    if !problems.is_empty() {
        return None;
    }
    resolver.projections = prune::projections(&graph);
    if resolver.projections.is_empty() { Some(graph) } else { resolver.walk(problems) }
}

struct Resolver<'a> {
    job: &'a SubmittedJob,
    topology: &'a Topology,
    options: &'a JobOptions,
    catalog: &'a dyn Catalog,
    /// Columns to produce, by position in topological order.
    projections: BTreeMap<usize, Vec<String>>,
}

impl Resolver<'_> {
    fn walk(&self, problems: &mut Vec<Problem>) -> Option<StreamGraph> {
        // Position in topological order by submitted index; absent for operators that could not be resolved.
        let mut places: BTreeMap<usize, usize> = BTreeMap::new();
        let mut operators: Vec<Resolved> = Vec::new();
        for &index in &self.topology.order {
            let node = &self.topology.nodes[index];
            let inputs: Option<Vec<ResolvedInput>> = node
                .inputs
                .iter()
                .map(|input| {
                    let from = *places.get(&input.from)?;
                    let schema = crate::plan::output_schema(&operators[from], input.output);
                    Some(ResolvedInput { from, output: input.output, schema })
                })
                .collect();
            let (Some(kind), Some(inputs), true) = (&node.kind, inputs, node.is_connected) else { continue };
            let resolved =
                self.operator(operators.len(), &self.job.operators[index], (kind, inputs, &operators), problems);
            if let Some(resolved) = resolved {
                places.insert(index, operators.len());
                operators.push(resolved);
            }
        }
        (operators.len() == self.job.operators.len()).then_some(StreamGraph { operators })
    }

    fn operator(
        &self,
        position: usize,
        submitted: &SubmittedOperator,
        (kind, inputs, upstream): (&OperatorKind, Vec<ResolvedInput>, &[Resolved]),
        problems: &mut Vec<Problem>,
    ) -> Option<Resolved> {
        let settings = Settings::new(&submitted.uid, &submitted.settings);
        let context = kinds::Context { catalog: self.catalog, settings: &settings, inputs: &inputs };
        check_stream(kind, &context, upstream);
        let projection = self.projections.get(&position);
        let typed = kinds::resolve(kind, &submitted.kind, &context);
        let parallelism = self.parallelism(submitted, kind, typed.as_ref(), &settings);
        // Settings of built-in kinds were read before (topology); only what was found here counts.
        let is_connector = matches!(kind, OperatorKind::Source | OperatorKind::Sink);
        let found = settings.finish();
        let is_unknown_field = |problem: &Problem| !is_connector && problem.reason.starts_with("unknown field");
        problems.extend(found.into_iter().filter(|problem| !is_unknown_field(problem)));
        // With problems of its own an operator may still have a schema: what stands behind it can be checked too.
        let typed = typed?;
        let output = match projection {
            Some(columns) => project(&typed.output, columns),
            None => typed.output,
        };
        let mut settings = submitted.settings.clone();
        if typed.takes_store_keys {
            for (key, value) in &self.options.checkpoints.store {
                settings.entry(key.clone()).or_insert_with(|| Value::Text(value.clone()));
            }
        }
        Some(Resolved {
            uid: submitted.uid.clone(),
            kind_name: submitted.kind.clone(),
            kind: kind.clone(),
            settings,
            parallelism,
            inputs,
            output,
            aggregates: typed.aggregates,
            reads: typed.reads,
            projection: projection.cloned(),
            can_project: typed.can_project,
            partition_by: typed.partition_by,
        })
    }

    fn parallelism(
        &self,
        submitted: &SubmittedOperator,
        kind: &OperatorKind,
        typed: Option<&kinds::Typed>,
        settings: &Settings<'_>,
    ) -> u32 {
        let parallelism_max = typed.and_then(|typed| typed.parallelism_max);
        let is_spread_by_key = kind.input_key(0).is_some() || typed.is_some_and(|typed| typed.partition_by.is_some());

        let wanted = submitted.parallelism.unwrap_or(self.options.parallelism);
        let groups = self.options.key_group_count;
        if is_spread_by_key && wanted > groups {
            let cure =
                format!("raise pipeline.max-parallelism (default {KEY_GROUP_COUNT_DEFAULT}) or lower the parallelism");
            settings.problem("parallelism", format!("{wanted} is more than the job's {groups} key groups; {cure}"));
        }
        let is_single = matches!(kind, OperatorKind::Window(window) if window.key.is_empty());
        let max = if is_single { 1 } else { parallelism_max.unwrap_or(u32::MAX) };
        match submitted.parallelism {
            Some(set) if set > max && !is_single => {
                settings.problem(
                    "parallelism",
                    format!("{set} is more than this {} can use: at most {max}", submitted.kind),
                );
                max
            }
            _ => wanted.min(max),
        }
    }
}

/// Checks that the kind can take this kind of stream at all: event time where it is needed, no updates where they would
/// be counted twice.
fn check_stream(kind: &OperatorKind, context: &kinds::Context<'_>, upstream: &[Resolved]) {
    for input in context.inputs {
        if kind.needs_event_time() && event_time_index(&input.schema).is_none() {
            let reason = if has_event_time_above(upstream, input.from) {
                "needs event time, but the event-time column was dropped on the way: keep it, under its name, in every project before this operator"
            } else {
                "needs event time: put a watermark operator before it"
            };
            context.settings.problem("inputs", reason);
        }
        let late_of_join =
            input.output == OutputTag::Late && matches!(upstream[input.from].kind, OperatorKind::WindowJoin(_));
        if late_of_join && upstream[input.from].inputs[0].schema != upstream[input.from].inputs[1].schema {
            let reason = "a join has a late output only when both its inputs have the same columns";
            context.settings.problem("inputs", reason);
        }
        let takes_changes = matches!(
            kind,
            OperatorKind::Filter(_)
                | OperatorKind::Project(_)
                | OperatorKind::Union
                | OperatorKind::KeyBy(_)
                | OperatorKind::Sink
        );
        if is_changing(&input.schema) && !takes_changes {
            let uid = &upstream[input.from].uid;
            let reason = format!("'{uid}' updates its rows, and this operator takes only streams that never do");
            context.settings.problem("inputs", reason);
        }
    }
}

fn has_event_time_above(upstream: &[Resolved], from: usize) -> bool {
    event_time_index(&upstream[from].output).is_some()
        || upstream[from].inputs.iter().any(|input| has_event_time_above(upstream, input.from))
}

/// Keeps some columns of a schema.
fn project(schema: &Schema, columns: &[String]) -> SchemaRef {
    let fields: Vec<_> = columns.iter().filter_map(|name| schema.field_with_name(name).ok().cloned()).collect();
    Arc::new(Schema::new_with_metadata(fields, schema.metadata().clone()))
}

/// Says that a column does not exist, with its neighbours.
fn no_column(schema: &Schema, name: &str) -> (String, Option<String>) {
    let names: Vec<&str> = schema.fields().iter().map(|field| field.name().as_str()).collect();
    let near = nearest(name, names.iter().copied());
    (format!("there is no column '{name}'; the input has {}", names.join(", ")), near)
}
