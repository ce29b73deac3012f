//! Tests of the conversion of plans: everything survives, and nothing unsound gets in.

use arrow_schema::{DataType, Field};
use proptest::prelude::*;
use weir_core::batch::{EVENT_TIME_KEY, event_time_type};

use super::*;
use crate::convert::strategies;

fn schema() -> SchemaRef {
    let item = Field::new("item", DataType::Decimal128(38, 6), true);
    let fields = vec![
        Field::new("key", DataType::Utf8, false),
        Field::new("event_time", event_time_type(), false),
        Field::new("prices", DataType::List(Arc::new(item)), true),
    ];
    Arc::new(Schema::new_with_metadata(fields, [(EVENT_TIME_KEY.into(), "event_time".into())].into()))
}

fn operator(uid: &str, role: PlannedRole, inputs: usize, routes: Vec<Route>) -> PlannedOperator {
    PlannedOperator {
        uid: uid.into(),
        kind: "filter".into(),
        role,
        settings: BTreeMap::from([("predicate".to_owned(), Value::from("key > 'a'"))]),
        phase: if inputs == 2 { Phase::Final } else { Phase::Whole },
        inputs: vec![schema(); inputs],
        output: schema(),
        projection: (inputs == 0).then(|| vec!["key".to_owned()]),
        routes,
    }
}

fn plan(options: JobOptions) -> JobPlan {
    let by = |output, target| Route { output, target };
    let source = operator(
        "in",
        PlannedRole::Source,
        0,
        vec![
            by(OutputTag::Main, Target::Operator { index: 1, input: 0 }),
            by(OutputTag::DeadLetter, Target::Edge(EdgeId(1))),
        ],
    );
    let filter = operator("filter", PlannedRole::Operator, 1, vec![by(OutputTag::Main, Target::Edge(EdgeId(0)))]);
    let sink = operator("out", PlannedRole::Sink, 2, Vec::new());
    let edge = |id, partitioning, input| Edge {
        id: EdgeId(id),
        source: VertexId(0),
        target: VertexId(1),
        input,
        partitioning,
        schema: schema(),
    };
    JobPlan {
        name: "job".into(),
        options,
        vertices: vec![
            Vertex { id: VertexId(0), name: "in -> filter".into(), parallelism: 2, operators: vec![source, filter] },
            Vertex { id: VertexId(1), name: "out".into(), parallelism: 1, operators: vec![sink] },
        ],
        edges: vec![edge(0, Partitioning::Hash { columns: vec![0, 1] }, 0), edge(1, Partitioning::Rescale, 1)],
    }
}

fn default_options() -> JobOptions {
    JobOptions::read(&BTreeMap::new(), &mut Vec::new())
}

proptest! {
    #[test]
    fn options_survive_as_configuration(options in strategies::options()) {
        prop_assert_eq!(options_from_config(options_to_config(&options)), Ok(options));
    }
}

#[test]
fn every_configuration_key_is_spelled() {
    let spelled: Vec<String> = options_to_config(&default_options()).into_keys().collect();
    // Of the restart strategies only the keys of the chosen one are.
    let is_spelled = |name: &str| !["fixed-delay.", "failure-rate."].iter().any(|part| name.contains(part));
    let names = weir_graph::config::KEYS.iter().map(|key| key.name);
    let mut known: Vec<&str> = names.filter(|name| is_spelled(name)).collect();
    known.sort_unstable();
    assert_eq!(spelled, known);
}

#[test]
fn plans_survive_the_wire_with_their_schemas() {
    let plan = plan(default_options());
    let read = plan_from_proto(plan_to_proto(&plan)).expect("right");
    assert_eq!(format!("{read:?}"), format!("{plan:?}"));
    assert_eq!(read.edges[0].schema.metadata()[EVENT_TIME_KEY], "event_time");
}

/// Breaks a right plan in one place and names the field that must be blamed.
fn check(blamed: &str, spoil: impl FnOnce(&mut v1::JobPlan)) {
    let mut message = plan_to_proto(&plan(default_options()));
    spoil(&mut message);
    let error = plan_from_proto(message).expect_err(blamed);
    assert_eq!(error.field, blamed, "{error}");
}

#[test]
fn unsound_plans_are_refused_with_the_field() {
    check("vertices[0].parallelism", |plan| plan.vertices[0].parallelism = 0);
    check("vertices[1].operators", |plan| plan.vertices[1].operators.clear());
    check("vertices[0].operators[1].role", |plan| plan.vertices[0].operators[1].role = 99);
    check("vertices[0].operators[1].phase", |plan| plan.vertices[0].operators[1].phase = 0);
    check("vertices[0].operators[0].output_schema", |plan| plan.vertices[0].operators[0].output_schema.truncate(9));
    check("vertices[1].operators[0].input_schemas[1]", |plan| {
        plan.vertices[1].operators[0].input_schemas[1] = b"garbage".to_vec();
    });
    check("vertices[0].operators[0].routes[0].target", |plan| plan.vertices[0].operators[0].routes[0].target = None);
    check("vertices[0].operators[0].routes[0].operator.index", |plan| {
        let target = v1::ChainedTarget { index: 0, input: 0 };
        plan.vertices[0].operators[0].routes[0].target = Some(v1::route::Target::Operator(target));
    });
    check("vertices[0].operators[1].routes[0].edge_id", |plan| {
        plan.vertices[0].operators[1].routes[0].target = Some(v1::route::Target::EdgeId(7));
    });
    check("edges[0].target_vertex_id", |plan| plan.edges[0].target_vertex_id = 2);
    check("edges[0].input", |plan| plan.edges[0].input = 2);
    check("edges[0].key_columns", |plan| plan.edges[0].key_columns = vec![3]);
    check("edges[1].partitioning", |plan| plan.edges[1].partitioning = v1::Partitioning::Forward.into());
    check("config.paralelism", |plan| {
        plan.config.insert("paralelism".into(), "1".into());
    });
}

proptest! {
    #[test]
    fn damaged_schemas_never_panic(position: proptest::sample::Index, byte: u8) {
        let mut bytes = schema_to_bytes(&schema());
        let position = position.index(bytes.len());
        bytes[position] = byte;
        let _ = schema_from_bytes(&bytes);
    }
}
