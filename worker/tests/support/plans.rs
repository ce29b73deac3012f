//! Job plans built by hand: numbers, an exchange, a sink.

use std::collections::BTreeMap;

use weir_core::{EdgeId, OutputTag, Value, VertexId};
use weir_graph::plan::PlannedRole;
use weir_graph::{Edge, JobOptions, JobPlan, Partitioning, Phase, PlannedOperator, Route, Target, Vertex};

use super::connectors::schema;

/// What differs between the plans of tests.
pub struct Shape {
    pub sources: u32,
    pub sinks: u32,
    pub partitioning: Partitioning,
    pub source: Vec<(&'static str, Value)>,
    pub sink: Vec<(&'static str, Value)>,
    pub config: Vec<(&'static str, Value)>,
}

impl Default for Shape {
    fn default() -> Self {
        Shape {
            sources: 2,
            sinks: 2,
            partitioning: Partitioning::Hash { columns: vec![0] },
            source: Vec::new(),
            sink: Vec::new(),
            config: Vec::new(),
        }
    }
}

fn settings(pairs: &[(&'static str, Value)]) -> BTreeMap<String, Value> {
    pairs.iter().map(|(name, value)| ((*name).to_owned(), value.clone())).collect()
}

fn operator(uid: &str, kind: &str, role: PlannedRole, given: &[(&'static str, Value)]) -> PlannedOperator {
    PlannedOperator {
        uid: uid.into(),
        kind: kind.to_owned(),
        role,
        settings: settings(given),
        phase: Phase::Whole,
        inputs: if role == PlannedRole::Source { Vec::new() } else { vec![schema()] },
        output: schema(),
        projection: None,
        routes: Vec::new(),
    }
}

impl Shape {
    pub fn plan(&self) -> JobPlan {
        let mut source = operator("numbers", "numbers", PlannedRole::Source, &self.source);
        source.routes = vec![Route { output: OutputTag::Main, target: Target::Edge(EdgeId(0)) }];
        let sink = operator("out", "collect", PlannedRole::Sink, &self.sink);
        let vertex = |id: u32, parallelism: u32, operator: PlannedOperator| Vertex {
            id: VertexId(id),
            name: operator.uid.0.clone(),
            parallelism,
            operators: vec![operator],
        };
        let mut problems = Vec::new();
        let options = JobOptions::read(&settings(&self.config), &mut problems);
        assert_eq!(problems, []);
        JobPlan {
            name: "numbers".to_owned(),
            options,
            vertices: vec![vertex(0, self.sources, source), vertex(1, self.sinks, sink)],
            edges: vec![Edge {
                id: EdgeId(0),
                source: VertexId(0),
                target: VertexId(1),
                input: 0,
                partitioning: self.partitioning.clone(),
                schema: schema(),
            }],
        }
    }
}

/// An operator in a plan of several vertices.
pub struct Step {
    pub uid: String,
    pub kind: &'static str,
    pub role: PlannedRole,
    pub settings: Vec<(&'static str, Value)>,
    pub parallelism: u32,
    /// Earlier vertices it takes from, each with its partitioning. None: chained behind the last step.
    pub inputs: Option<Vec<(u32, Partitioning)>>,
}

/// A plan of these steps, the first of which is a source.
pub fn plan_of(steps: &[Step], config: &[(&'static str, Value)]) -> JobPlan {
    let mut problems = Vec::new();
    let options = JobOptions::read(&settings(config), &mut problems);
    assert_eq!(problems, []);
    let (mut vertices, mut edges): (Vec<Vertex>, Vec<Edge>) = (Vec::new(), Vec::new());
    for step in steps {
        let operator = operator(&step.uid, step.kind, step.role, &step.settings);
        let Some(inputs) = &step.inputs else {
            let chain = &mut vertices.last_mut().expect("a first step").operators;
            let target = Target::Operator { index: chain.len(), input: 0 };
            chain.last_mut().expect("not empty").routes.push(Route { output: OutputTag::Main, target });
            chain.push(operator);
            continue;
        };
        let id = VertexId(vertices.len() as u32);
        for (source, partitioning) in inputs {
            let edge = EdgeId(edges.len() as u32);
            let sender = vertices[*source as usize].operators.last_mut().expect("not empty");
            sender.routes.push(Route { output: OutputTag::Main, target: Target::Edge(edge) });
            let partitioning = partitioning.clone();
            edges.push(Edge {
                id: edge,
                source: VertexId(*source),
                target: id,
                input: 0,
                partitioning,
                schema: schema(),
            });
        }
        let (name, parallelism) = (step.uid.clone(), step.parallelism);
        vertices.push(Vertex { id, name, parallelism, operators: vec![operator] });
    }
    JobPlan { name: "steps".to_owned(), options, vertices, edges }
}
