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
