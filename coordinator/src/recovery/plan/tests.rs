//! Restores at any parallelism, against what every record and every split must find: exactly one owner.

use proptest::prelude::*;
use weir_checkpoint::{ChannelState, CheckpointKind, Incarnation, ObjectRef, SectionRef};
use weir_core::{AttemptNumber, EdgeId, FencingToken, JobId, KeyGroup, SplitIndex, Value, VertexId};
use weir_graph::{Edge, JobOptions, Partitioning, Vertex};

use super::*;

const KEY_GROUPS: u32 = 16;

fn operator(uid: &str, kind: &str, role: PlannedRole, phase: Phase) -> PlannedOperator {
    PlannedOperator {
        uid: uid.into(),
        kind: kind.to_owned(),
        role,
        settings: BTreeMap::new(),
        phase,
        inputs: Vec::new(),
        output: std::sync::Arc::new(arrow_schema::Schema::empty()),
        projection: None,
        routes: Vec::new(),
    }
}

/// `in` -> (local) `count` | `count` -> `out`, the second vertex at its own parallelism; one phase only at 1.
fn plan(sources: u32, counts: u32) -> JobPlan {
    let config = BTreeMap::from([("pipeline.max-parallelism".to_owned(), Value::Integer(i64::from(KEY_GROUPS)))]);
    let is_two_phase = sources > 1 || counts > 1;
    let mut first = vec![operator("in", "fake_source", PlannedRole::Source, Phase::Whole)];
    if is_two_phase {
        first.push(operator("count", "window", PlannedRole::Operator, Phase::Local));
    }
    let phase = if is_two_phase { Phase::Final } else { Phase::Whole };
    let second = vec![
        operator("count", "window", PlannedRole::Operator, phase),
        operator("out", "fake_sink", PlannedRole::Sink, Phase::Whole),
    ];
    let vertex = |id, parallelism, operators| Vertex { id: VertexId(id), name: String::new(), parallelism, operators };
    JobPlan {
        name: "job".to_owned(),
        options: JobOptions::read(&config, &mut Vec::new()),
        vertices: vec![vertex(0, sources, first), vertex(1, counts, second)],
        edges: Vec::new(),
    }
}

fn section(first: u32, last: u32, tag: u64) -> SectionRef {
    let path = format!("{:032x}/{:032x}/data/1-1/{tag}", 1, 2);
    SectionRef {
        object: ObjectRef { path, length: 100, checksum: 0 },
        offset: 0,
        length: 10,
        checksum: 0,
        rows: 1,
        first_key_group: first,
        last_key_group: last,
    }
}

fn table(name: &str, scope: TableScope, sections: Vec<SectionRef>) -> TableState {
    TableState { name: name.to_owned(), version: 1, scope, sections }
}

/// What a job of this plan leaves: every subtask of `count` one section per key group it owns, every split somewhere.
fn manifest(plan: &JobPlan, splits: &[(Option<i64>, bool)]) -> Manifest {
    let mut operators = Vec::new();
    for vertex in &plan.vertices {
        for operator in &vertex.operators {
            let subtask = |index: u32| {
                let mut state = SubtaskState::new(SubtaskIndex(index));
                state.watermark_in = EventTime(100 + i64::from(index));
                state.watermark_out = EventTime(50 + i64::from(index));
                state.counters = BTreeMap::from([("late_records".to_owned(), 3), ("records_in".to_owned(), 10)]);
                match (operator.role, operator.phase) {
                    (PlannedRole::Source, _) => {
                        let mine = (0u32..).zip(splits).filter(|(split, _)| split % vertex.parallelism == index);
                        let state_of = |(split, (position, is_finished)): (u32, &(Option<i64>, bool))| SplitState {
                            index: SplitIndex(split),
                            description: Value::Integer(i64::from(split)),
                            position: position.map(Value::Integer),
                            is_finished: *is_finished,
                        };
                        state.splits = mine.map(state_of).collect();
                        let rows = vec![section(0, 0, 1000 + u64::from(index))];
                        state.tables = vec![table("splits", TableScope::Shared, rows)];
                    }
                    (PlannedRole::Sink, _) => state.sink_states = vec![Value::Integer(i64::from(index))],
                    (_, Phase::Local) => {}
                    _ => {
                        let range = KeyGroupRange::of_subtask(index, vertex.parallelism, KEY_GROUPS);
                        let rows = (range.start..range.end).map(|group| section(group, group, u64::from(group)));
                        state.tables = vec![table("windows", TableScope::Keyed, rows.collect())];
                    }
                }
                state
            };
            operators.push(OperatorState {
                uid: state_uid(operator),
                kind: operator.kind.clone(),
                parallelism: vertex.parallelism,
                subtasks: (0..vertex.parallelism).map(subtask).collect(),
            });
        }
    }
    Manifest {
        job: JobId(1),
        job_name: "job".to_owned(),
        incarnation: Incarnation(2),
        checkpoint: CheckpointId(7),
        kind: CheckpointKind::Checkpoint,
        attempt: FencingToken { term: 1, attempt: AttemptNumber(1) },
        created_unix_ms: 0,
        key_group_count: KEY_GROUPS,
        graph: bytes::Bytes::new(),
        operators,
    }
}

fn of<'a>(restored: &'a Restored, vertex: u32, subtask: u32, uid: &str) -> Vec<&'a SubtaskState> {
    let task = restored.tasks.get(&TaskKey::new(vertex, subtask));
    let operators = task.iter().flat_map(|task| &task.operators);
    operators.filter(|operator| operator.uid == uid.into()).map(|operator| &operator.state).collect()
}

proptest! {
    /// Carries c2, c4 and c5 of the failure list.
    #[test]
    fn c4_every_key_group_and_split_has_one_owner_at_any_parallelism(
        old in (1..6u32, 1..6u32), new in (1..6u32, 1..6u32),
        splits in prop::collection::vec((prop::option::of(0..100i64), any::<bool>()), 0..12),
    ) {
        let manifest = manifest(&plan(old.0, old.1), &splits);
        manifest.encode().expect("it keeps the rules of the format");
        let plan = plan(new.0, new.1);
        let restored = restore(&manifest, &plan, Unclaimed::Refused).expect("the same job");
        // Keyed rows: whoever owns a key group has the one section with its rows.
        for group in 0..KEY_GROUPS {
            let owner = KeyGroup(group as u16).subtask(new.1, KEY_GROUPS);
            for subtask in 0..new.1 {
                let parts = of(&restored, 1, subtask, "count");
                let sections = parts.iter().flat_map(|part| &part.tables).flat_map(|table| &table.sections);
                let here = sections.filter(|section| section.first_key_group == group).count();
                prop_assert_eq!(here, usize::from(subtask == owner), "group {} at {}", group, subtask);
            }
        }
        // Splits: what is finished nobody gets, everything else one subtask, where it was left.
        let source = &restored.splits[&OperatorUid::from("in")];
        let open: Vec<usize> = (0..splits.len()).filter(|split| !splits[*split].1).collect();
        prop_assert_eq!(source.open.len() + source.finished.len(), splits.len());
        prop_assert!(source.open.iter().map(|split| split.index.index()).eq(open.iter().copied()));
        let mut dealt: Vec<SplitState> = Vec::new();
        for subtask in 0..new.0 {
            let parts = of(&restored, 0, subtask, "in");
            dealt.extend(parts.iter().flat_map(|part| part.splits.clone()));
            let shared = parts.iter().flat_map(|part| &part.tables).flat_map(|table| &table.sections).count();
            prop_assert_eq!(shared, old.0 as usize, "every subtask gets all shared rows, each once");
        }
        dealt.sort_by_key(|split| split.index);
        prop_assert!(dealt.iter().map(|split| split.index.index()).eq(open.iter().copied()));
        for split in dealt {
            prop_assert_eq!(split.position, splits[split.index.index()].0.map(Value::Integer));
        }
        // Sink states: each giver's to each subtask, once.
        for subtask in 0..new.1 {
            let parts = of(&restored, 1, subtask, "out");
            let givers: Vec<u32> = parts.iter().map(|part| part.subtask_index.0).collect();
            prop_assert!(givers.iter().copied().eq(0..old.1));
            prop_assert!(parts.iter().all(|part| part.sink_states == [Value::Integer(i64::from(part.subtask_index.0))]));
        }
        // Watermarks: the least; nobody is without.
        for (vertex, parallelism, uid) in [(0, new.0, "in"), (1, new.1, "count"), (1, new.1, "out")] {
            for subtask in 0..parallelism {
                let parts = of(&restored, vertex, subtask, uid);
                prop_assert!(!parts.is_empty());
                prop_assert!(parts.iter().all(|part| part.watermark_in == EventTime(100)));
                prop_assert!(parts.iter().all(|part| part.watermark_out == EventTime(50)));
            }
        }
        // Counters: summed, at subtask 0 only; of a part that is gone, what was late.
        let counted = |uid: &str, vertex: u32, parallelism: u32, name: &str| -> Vec<u64> {
            let count = |subtask| of(&restored, vertex, subtask, uid).iter().filter_map(|part| part.counters.get(name)).sum();
            (0..parallelism).map(count).collect()
        };
        let rows = counted("in", 0, new.0, "records_in");
        prop_assert_eq!((rows[0], rows.iter().sum::<u64>()), (10 * u64::from(old.0), 10 * u64::from(old.0)));
        let late: u64 = counted("count", 1, new.1, "late_records").iter().sum();
        let local: u64 = if new == (1, 1) { 0 } else { counted("count", 0, new.0, "late_records").iter().sum() };
        let had_local = if old == (1, 1) { 0 } else { 3 * u64::from(old.0) };
        prop_assert_eq!(late + local, 3 * u64::from(old.1) + had_local);
    }
}

#[test]
fn part_before_a_new_exchange_stands_where_its_other_part_stands() {
    let restored = restore(&manifest(&plan(1, 1), &[]), &plan(2, 2), Unclaimed::Refused).expect("the same job");
    for subtask in 0..2 {
        let local = of(&restored, 0, subtask, "count");
        assert_eq!(local.len(), 1);
        assert_eq!((local[0].watermark_in, local[0].watermark_out), (EventTime(100), EventTime(100)));
    }
}

#[test]
fn everything_that_does_not_fit_is_named_at_once() {
    let mut manifest = manifest(&plan(2, 2), &[(None, false)]);
    manifest.key_group_count = 32;
    let mut changed = plan(2, 2);
    changed.vertices[1].operators[0].kind = "top_n".to_owned();
    changed.vertices[1].operators[1].uid = "other".into();
    let problems = restore(&manifest, &changed, Unclaimed::Refused).expect_err("it does not fit");
    let places: Vec<(&str, &str)> =
        problems.iter().map(|problem| (problem.operator.as_str(), problem.field.as_str())).collect();
    assert_eq!(places, [("", "pipeline.max-parallelism"), ("count", "kind"), ("out", "")]);
    manifest.key_group_count = KEY_GROUPS;
    changed.vertices[1].operators[0].kind = "window".to_owned();
    assert_eq!(restore(&manifest, &changed, Unclaimed::Refused).expect_err("'out' has state").len(), 1);
    let restored = restore(&manifest, &changed, Unclaimed::LeftOut).expect("it is left out");
    assert_eq!(of(&restored, 1, 0, "other"), Vec::<&SubtaskState>::new(), "a new sink begins afresh");
}

/// An edge from the first vertex to the second.
fn with_edge(mut plan: JobPlan) -> JobPlan {
    plan.edges = vec![Edge {
        id: EdgeId(0),
        source: VertexId(0),
        target: VertexId(1),
        input: 0,
        partitioning: Partitioning::Hash { columns: vec![0] },
        schema: std::sync::Arc::new(arrow_schema::Schema::empty()),
    }];
    plan
}

/// A manifest in which the barrier overtook at the second subtask of `count`.
fn unaligned(plan: &JobPlan, splits: &[(Option<i64>, bool)]) -> Manifest {
    let mut manifest = manifest(plan, splits);
    let edge = plan.edge_name(&plan.edges[0]);
    let count = manifest.operators.iter_mut().find(|operator| operator.uid == "count".into()).expect("it is there");
    let channel = |sender, watermark, section| ChannelState {
        edge: edge.clone(),
        sender: SubtaskIndex(sender),
        watermark: EventTime(watermark),
        section,
    };
    count.subtasks[1].channels = vec![channel(0, 7, Some(section(0, 0, 77))), channel(1, 8, None)];
    manifest.encode().expect("it keeps the rules of the format");
    manifest
}

/// Carries c2 of the failure list: what is in flight goes back to the task it was in front of, and every task goes on from
/// its own watermarks and splits.
#[test]
fn c2_tasks_with_rows_in_flight_go_on_as_they_were() {
    let plan = with_edge(plan(2, 2));
    // Dealt anew, split 2 would go to subtask 1: 0 is finished.
    let manifest = unaligned(&plan, &[(Some(9), true), (Some(4), false), (Some(6), false)]);
    let restored = restore(&manifest, &plan, Unclaimed::Refused).expect("the same tasks");
    let shares = restored.splits[&OperatorUid::from("in")].shares(2);
    let indexes: Vec<Vec<u32>> = shares.iter().map(|share| share.iter().map(|split| split.index.0).collect()).collect();
    assert_eq!(indexes, [vec![2], vec![1]]);
    for subtask in 0..2 {
        for (vertex, uid) in [(0, "in"), (0, "count"), (1, "count"), (1, "out")] {
            let parts = of(&restored, vertex, subtask, uid);
            assert!(parts.iter().all(|part| part.watermark_in == EventTime(100 + i64::from(subtask))), "{uid}");
            assert!(parts.iter().all(|part| part.watermark_out == EventTime(50 + i64::from(subtask))), "{uid}");
            let channels: usize = parts.iter().map(|part| part.channels.len()).sum();
            assert_eq!(channels, if (vertex, subtask, uid) == (1, 1, "count") { 2 } else { 0 }, "{uid}");
        }
        let source = of(&restored, 0, subtask, "in");
        let own: Vec<u32> = source.iter().flat_map(|part| &part.splits).map(|split| split.index.0).collect();
        assert_eq!(own, indexes[subtask as usize]);
    }
}

/// Carries c2 of the failure list: other tasks cannot take back what is in flight, and do not try.
#[test]
fn c2_other_tasks_do_not_take_what_is_in_flight() {
    let manifest = unaligned(&with_edge(plan(2, 2)), &[]);
    for (other, what) in [
        (with_edge(plan(2, 3)), "another parallelism"),
        (with_edge(plan(1, 2)), "other senders"),
        (with_edge(plan(1, 1)), "one phase"),
        (plan(2, 2), "no such edge"),
    ] {
        assert!(!fits(&manifest, &other), "{what}");
        let problems = restore(&manifest, &other, Unclaimed::Refused).expect_err(what);
        assert!(problems.iter().any(|problem| problem.reason.contains("in flight")), "{what}: {problems:?}");
        let known = check(&manifest, &other, Unclaimed::Refused).expect("it can be settled first");
        assert_eq!(known, BTreeSet::from(["in".into()]));
    }
    assert!(fits(&super::tests::manifest(&plan(2, 2), &[]), &plan(3, 1)), "nothing is in flight");
}
