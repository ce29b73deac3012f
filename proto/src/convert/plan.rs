//! `weir.v1.JobPlan` <-> [`JobPlan`]. Schemas travel as Arrow IPC schema messages, so that types, nullability and
//! metadata (the event-time column) arrive as they left. A plan that was read is sound: every index in it leads
//! somewhere.

use std::collections::BTreeMap;
use std::sync::Arc;

use arrow_ipc::convert::try_schema_from_ipc_buffer;
use arrow_ipc::writer::{DictionaryTracker, IpcDataGenerator, IpcWriteOptions, write_message};
use arrow_schema::{Schema, SchemaRef};
use weir_core::{EdgeId, OperatorUid, OutputTag, Value, VertexId};
use weir_graph::limits::{COLUMNS_MAX, OPERATORS_MAX, PARALLELISM_MAX};
use weir_graph::plan::PlannedRole;
use weir_graph::{Edge, JobOptions, JobPlan, Partitioning, Phase, PlannedOperator, Route, Target, Vertex};

use super::ConvertError;
use super::value::{map_to_struct, struct_to_map};
use crate::v1;

/// Most vertices, edges, operators of a chain, routes: planning at most doubles operators (two phases), and an operator
/// feeds at most all others.
const PLAN_COUNT_MAX: usize = 4 * OPERATORS_MAX;

/// Spells the options as configuration; reading it again gives the same options.
pub fn options_to_config(options: &JobOptions) -> BTreeMap<String, String> {
    options.to_config()
}

/// Writes a schema as an encapsulated Arrow IPC message.
pub fn schema_to_bytes(schema: &Schema) -> Vec<u8> {
    let options = IpcWriteOptions::default();
    let mut dictionaries = DictionaryTracker::new(false);
    let encoded =
        IpcDataGenerator::default().schema_to_bytes_with_dictionary_tracker(schema, &mut dictionaries, &options);
    let mut bytes = Vec::new();
    write_message(&mut bytes, encoded, &options).expect("a vector takes every write");
    bytes
}

/// Reads a schema from an encapsulated Arrow IPC message.
///
/// **Errors**: bytes that are no such message.
pub fn schema_from_bytes(bytes: &[u8]) -> Result<SchemaRef, ConvertError> {
    let wrong = |reason: String| ConvertError::new("", format!("is not an Arrow schema: {reason}"));
    // Arrow checks the layout of the buffer and then panics on types it does not know; a worker must not.
    match std::panic::catch_unwind(|| try_schema_from_ipc_buffer(bytes)) {
        Ok(Ok(schema)) => Ok(Arc::new(schema)),
        Ok(Err(error)) => Err(wrong(error.to_string())),
        Err(_) => Err(wrong("it has a type that Arrow cannot read".to_owned())),
    }
}

/// Writes a plan.
pub fn plan_to_proto(plan: &JobPlan) -> v1::JobPlan {
    v1::JobPlan {
        name: plan.name.clone(),
        config: options_to_config(&plan.options).into_iter().collect(),
        vertices: plan.vertices.iter().map(vertex_to_proto).collect(),
        edges: plan.edges.iter().map(edge_to_proto).collect(),
    }
}

fn vertex_to_proto(vertex: &Vertex) -> v1::Vertex {
    v1::Vertex {
        name: vertex.name.clone(),
        parallelism: vertex.parallelism,
        operators: vertex.operators.iter().map(operator_to_proto).collect(),
    }
}

fn operator_to_proto(operator: &PlannedOperator) -> v1::PlannedOperator {
    let role = match operator.role {
        PlannedRole::Source => v1::Role::Source,
        PlannedRole::Operator => v1::Role::Operator,
        PlannedRole::Sink => v1::Role::Sink,
    };
    let phase = match operator.phase {
        Phase::Whole => v1::Phase::Whole,
        Phase::Local => v1::Phase::Local,
        Phase::Final => v1::Phase::Final,
    };
    v1::PlannedOperator {
        uid: operator.uid.0.clone(),
        kind: operator.kind.clone(),
        role: role.into(),
        settings: Some(map_to_struct(&operator.settings)),
        phase: phase.into(),
        input_schemas: operator.inputs.iter().map(|schema| schema_to_bytes(schema)).collect(),
        output_schema: schema_to_bytes(&operator.output),
        has_projection: operator.projection.is_some(),
        projection: operator.projection.clone().unwrap_or_default(),
        routes: operator.routes.iter().map(route_to_proto).collect(),
    }
}

fn route_to_proto(route: &Route) -> v1::Route {
    let output = match route.output {
        OutputTag::Main => v1::OutputTag::Main,
        OutputTag::Late => v1::OutputTag::Late,
        OutputTag::DeadLetter => v1::OutputTag::DeadLetter,
        OutputTag::Raw => v1::OutputTag::Raw,
    };
    let target = match route.target {
        Target::Operator { index, input } => {
            v1::route::Target::Operator(v1::ChainedTarget { index: index as u32, input: input as u32 })
        }
        Target::Edge(edge) => v1::route::Target::EdgeId(edge.0),
    };
    v1::Route { output: output.into(), target: Some(target) }
}

fn edge_to_proto(edge: &Edge) -> v1::Edge {
    let partitioning = match edge.partitioning {
        Partitioning::Forward => v1::Partitioning::Forward,
        Partitioning::Hash { .. } => v1::Partitioning::Hash,
        Partitioning::Rebalance => v1::Partitioning::Rebalance,
        Partitioning::Rescale => v1::Partitioning::Rescale,
    };
    let key_columns = match &edge.partitioning {
        Partitioning::Hash { columns } => columns.iter().map(|column| *column as u32).collect(),
        _ => Vec::new(),
    };
    v1::Edge {
        source_vertex_id: edge.source.0,
        target_vertex_id: edge.target.0,
        input: edge.input as u32,
        partitioning: partitioning.into(),
        key_columns,
        schema: schema_to_bytes(&edge.schema),
    }
}

/// Reads a plan.
///
/// **Errors**: unknown enum values, schemas that are none, options out of bounds, indexes that lead nowhere.
pub fn plan_from_proto(plan: v1::JobPlan) -> Result<JobPlan, ConvertError> {
    let vertices = read_list("vertices", plan.vertices, |index, vertex| vertex_from_proto(index as u32, vertex))?;
    let edges = read_list("edges", plan.edges, |index, edge| edge_from_proto(index as u32, edge, &vertices))?;
    check_routes(&vertices, &edges)?;
    Ok(JobPlan { name: plan.name, options: options_from_config(plan.config)?, vertices, edges })
}

fn read_list<P, D>(
    name: &str,
    items: Vec<P>,
    mut read: impl FnMut(usize, P) -> Result<D, ConvertError>,
) -> Result<Vec<D>, ConvertError> {
    if items.len() > PLAN_COUNT_MAX {
        return Err(ConvertError::new(name, format!("{} of them; at most {PLAN_COUNT_MAX}", items.len())));
    }
    let place = |index: usize| format!("{name}[{index}]");
    items
        .into_iter()
        .enumerate()
        .map(|(index, item)| read(index, item).map_err(|error| error.within(&place(index))))
        .collect()
}

fn options_from_config(config: impl IntoIterator<Item = (String, String)>) -> Result<JobOptions, ConvertError> {
    let config = config.into_iter().map(|(name, text)| (name, Value::Text(text))).collect();
    let mut problems = Vec::new();
    let options = JobOptions::read(&config, &mut problems);
    match problems.into_iter().next() {
        None => Ok(options),
        Some(problem) => Err(ConvertError::new(format!("config.{}", problem.field), problem.reason)),
    }
}

fn vertex_from_proto(index: u32, vertex: v1::Vertex) -> Result<Vertex, ConvertError> {
    if !(1..=PARALLELISM_MAX).contains(&vertex.parallelism) {
        let reason = format!("is {}; must be from 1 to {PARALLELISM_MAX}", vertex.parallelism);
        return Err(ConvertError::new("parallelism", reason));
    }
    if vertex.operators.is_empty() {
        return Err(ConvertError::new("operators", "is empty"));
    }
    let operators = read_list("operators", vertex.operators, |_, operator| operator_from_proto(operator))?;
    Ok(Vertex { id: VertexId(index), name: vertex.name, parallelism: vertex.parallelism, operators })
}

fn operator_from_proto(operator: v1::PlannedOperator) -> Result<PlannedOperator, ConvertError> {
    let role = match operator.role() {
        v1::Role::Unspecified => return Err(unknown("role", operator.role)),
        v1::Role::Source => PlannedRole::Source,
        v1::Role::Operator => PlannedRole::Operator,
        v1::Role::Sink => PlannedRole::Sink,
    };
    let phase = match operator.phase() {
        v1::Phase::Unspecified => return Err(unknown("phase", operator.phase)),
        v1::Phase::Whole => Phase::Whole,
        v1::Phase::Local => Phase::Local,
        v1::Phase::Final => Phase::Final,
    };
    Ok(PlannedOperator {
        uid: OperatorUid(operator.uid),
        kind: operator.kind,
        role,
        settings: struct_to_map(operator.settings).map_err(|error| error.within("settings"))?,
        phase,
        inputs: read_list("input_schemas", operator.input_schemas, |_, bytes| schema_from_bytes(&bytes))?,
        output: schema_from_bytes(&operator.output_schema).map_err(|error| error.within("output_schema"))?,
        projection: operator.has_projection.then_some(operator.projection),
        routes: read_list("routes", operator.routes, |_, route| route_from_proto(route))?,
    })
}

fn route_from_proto(route: v1::Route) -> Result<Route, ConvertError> {
    let output = match route.output() {
        v1::OutputTag::Unspecified => return Err(unknown("output", route.output)),
        v1::OutputTag::Main => OutputTag::Main,
        v1::OutputTag::Late => OutputTag::Late,
        v1::OutputTag::DeadLetter => OutputTag::DeadLetter,
        v1::OutputTag::Raw => OutputTag::Raw,
    };
    let target = match route.target {
        None => return Err(ConvertError::new("target", "is missing")),
        Some(v1::route::Target::Operator(to)) => {
            Target::Operator { index: to.index as usize, input: to.input as usize }
        }
        Some(v1::route::Target::EdgeId(edge)) => Target::Edge(EdgeId(edge)),
    };
    Ok(Route { output, target })
}

fn edge_from_proto(index: u32, edge: v1::Edge, vertices: &[Vertex]) -> Result<Edge, ConvertError> {
    let vertex = |field: &str, id: u32| match vertices.get(id as usize) {
        Some(vertex) => Ok(vertex),
        None => Err(ConvertError::new(field, format!("there is no vertex {id}"))),
    };
    let source = vertex("source_vertex_id", edge.source_vertex_id)?;
    let target = vertex("target_vertex_id", edge.target_vertex_id)?;
    let schema = schema_from_bytes(&edge.schema).map_err(|error| error.within("schema"))?;
    let partitioning = match edge.partitioning() {
        v1::Partitioning::Unspecified => return Err(unknown("partitioning", edge.partitioning)),
        v1::Partitioning::Forward if source.parallelism != target.parallelism => {
            let reason = format!("FORWARD from {} to {} subtasks", source.parallelism, target.parallelism);
            return Err(ConvertError::new("partitioning", reason));
        }
        v1::Partitioning::Forward => Partitioning::Forward,
        v1::Partitioning::Hash => Partitioning::Hash { columns: key_columns(edge.key_columns, &schema)? },
        v1::Partitioning::Rebalance => Partitioning::Rebalance,
        v1::Partitioning::Rescale => Partitioning::Rescale,
    };
    check_input("input", edge.input as usize, &target.operators[0])?;
    Ok(Edge {
        id: EdgeId(index),
        source: source.id,
        target: target.id,
        input: edge.input as usize,
        partitioning,
        schema,
    })
}

fn key_columns(columns: Vec<u32>, schema: &Schema) -> Result<Vec<usize>, ConvertError> {
    if columns.len() > COLUMNS_MAX {
        return Err(ConvertError::new("key_columns", format!("{} columns; at most {COLUMNS_MAX}", columns.len())));
    }
    match columns.iter().find(|column| **column as usize >= schema.fields().len()) {
        None => Ok(columns.into_iter().map(|column| column as usize).collect()),
        Some(column) => Err(ConvertError::new("key_columns", format!("the schema has no column {column}"))),
    }
}

fn check_routes(vertices: &[Vertex], edges: &[Edge]) -> Result<(), ConvertError> {
    for vertex in vertices {
        for (sender, operator) in vertex.operators.iter().enumerate() {
            for (index, route) in operator.routes.iter().enumerate() {
                let field = format!("vertices[{}].operators[{sender}].routes[{index}]", vertex.id);
                check_route(vertex, sender, route.target, edges).map_err(|error| error.within(&field))?;
            }
        }
    }
    Ok(())
}

fn check_route(vertex: &Vertex, sender: usize, target: Target, edges: &[Edge]) -> Result<(), ConvertError> {
    match target {
        Target::Operator { index, input } => match vertex.operators.get(index) {
            Some(receiver) if index > sender => check_input("operator.input", input, receiver),
            _ => Err(ConvertError::new("operator.index", format!("{index} is no later operator of the chain"))),
        },
        Target::Edge(id) => match edges.get(id.index()) {
            Some(edge) if edge.source == vertex.id => Ok(()),
            Some(edge) => Err(ConvertError::new("edge_id", format!("edge {id} begins at vertex {}", edge.source))),
            None => Err(ConvertError::new("edge_id", format!("there is no edge {id}"))),
        },
    }
}

fn check_input(field: &str, input: usize, receiver: &PlannedOperator) -> Result<(), ConvertError> {
    if input < receiver.inputs.len() {
        return Ok(());
    }
    let reason = format!("'{}' has {} inputs, so there is no input {input}", receiver.uid, receiver.inputs.len());
    Err(ConvertError::new(field, reason))
}

fn unknown(field: &str, number: i32) -> ConvertError {
    ConvertError::new(field, format!("{number} is not a value that this version knows"))
}

#[cfg(test)]
#[path = "plan_tests.rs"]
mod tests;
