//! Manifests out of answers: nothing is left out, nothing is taken from a stranger.

use std::sync::Arc;

use weir_checkpoint::TaskState;
use weir_core::{AttemptNumber, SplitIndex, Value, VertexId};
use weir_graph::{JobOptions, Vertex};

use super::*;

fn operator(uid: &str, role: PlannedRole) -> PlannedOperator {
    PlannedOperator {
        uid: uid.into(),
        kind: format!("{uid}_kind"),
        role,
        settings: BTreeMap::new(),
        phase: Phase::Whole,
        inputs: Vec::new(),
        output: Arc::new(arrow_schema::Schema::empty()),
        projection: None,
        routes: Vec::new(),
    }
}

fn plan() -> JobPlan {
    let operators = vec![operator("in", PlannedRole::Source), operator("out", PlannedRole::Sink)];
    JobPlan {
        name: "job".to_owned(),
        options: JobOptions::read(&BTreeMap::new(), &mut Vec::new()),
        vertices: vec![Vertex { id: VertexId(0), name: "in -> out".to_owned(), parallelism: 2, operators }],
        edges: Vec::new(),
    }
}

fn heading() -> Heading {
    Heading {
        job: JobId(1),
        incarnation: Incarnation(2),
        token: FencingToken { term: 1, attempt: AttemptNumber(1) },
        graph: Bytes::new(),
        checkpoint: CheckpointId(5),
        kind: CheckpointKind::Checkpoint,
        created_unix_ms: 0,
    }
}

fn split(index: u32) -> Split {
    Split { index: SplitIndex(index), description: Value::Integer(i64::from(index)), position: None }
}

fn splits() -> BTreeMap<OperatorUid, SourceSplits> {
    let finished =
        SplitState { index: SplitIndex(1), description: Value::Integer(1), position: None, is_finished: true };
    let open = vec![split(0), split(2), split(3)];
    BTreeMap::from([("in".into(), SourceSplits { open, finished: vec![finished], owners: None })])
}

/// The answer of a subtask that stands in these splits and has prepared one part.
fn answer(subtask: u32, splits: &[u32]) -> Answer {
    let mut source = SubtaskState::new(SubtaskIndex(subtask));
    let place = |index: &u32| SplitState {
        index: SplitIndex(*index),
        description: Value::Null,
        position: Some(Value::Integer(9)),
        is_finished: false,
    };
    source.splits = splits.iter().map(place).collect();
    let mut sink = SubtaskState::new(SubtaskIndex(subtask));
    sink.committables = vec![Value::Integer(i64::from(subtask))];
    let operators = vec![
        OperatorTaskState { uid: "in".into(), state: source },
        OperatorTaskState { uid: "out".into(), state: sink },
    ];
    Answer { state: TaskState { operators }, is_final: false }
}

fn answers(first: Answer, second: Answer) -> BTreeMap<TaskKey, Answer> {
    BTreeMap::from([(TaskKey::new(0, 0), first), (TaskKey::new(0, 1), second)])
}

fn reason(answers: BTreeMap<TaskKey, Answer>) -> String {
    let failure = manifest(heading(), &plan(), answers, Some(&splits())).expect_err("it is wrong");
    assert_eq!(failure.code(), "checkpoint-invalid");
    failure.sentence()
}

#[test]
fn answers_become_a_manifest_with_every_split_and_committable() {
    // Open splits 0, 2, 3 are dealt in turn: 0 and 3 to the first, 2 to the second.
    let answers = answers(answer(0, &[0, 3]), answer(1, &[2]));
    let manifest = manifest(heading(), &plan(), answers, Some(&splits())).expect("all have answered");
    manifest.encode().expect("it keeps the rules of the format");
    let source = &manifest.operators[0];
    let all: Vec<(u32, bool, Value)> = source
        .subtasks
        .iter()
        .flat_map(|subtask| &subtask.splits)
        .map(|split| (split.index.0, split.is_finished, split.description.clone()))
        .collect();
    let expected = [(0, false), (1, true), (3, false), (2, false)];
    assert_eq!(all, expected.map(|(index, is_finished)| (index, is_finished, Value::Integer(i64::from(index)))));
    let committed = committables(&manifest);
    let subtasks: Vec<u32> = committed[&"out".into()].iter().map(|committable| committable.subtask_index).collect();
    assert_eq!(subtasks, [0, 1]);
    assert!(!is_final(&manifest));
}

#[test]
fn split_that_is_left_out_or_invented_fails_the_checkpoint() {
    assert!(reason(answers(answer(0, &[0]), answer(1, &[2]))).contains("split 3"));
    assert!(reason(answers(answer(0, &[0, 3]), answer(1, &[2, 7]))).contains("split 7"));
}

#[test]
fn answer_of_a_stranger_fails_the_checkpoint() {
    assert!(reason(BTreeMap::from([(TaskKey::new(0, 0), answer(0, &[0, 3]))])).contains("did not answer"));
    assert!(reason(answers(answer(1, &[0, 3]), answer(1, &[2]))).contains("of subtask 1"));
    let mut stranger = answer(1, &[2]);
    stranger.state.operators[1].uid = "ghost".into();
    assert!(reason(answers(answer(0, &[0, 3]), stranger)).contains("'ghost'"));
}

#[test]
fn what_was_committed_is_forgotten() {
    let both = answers(answer(0, &[0, 3]), answer(1, &[2]));
    let committed = manifest(heading(), &plan(), both, Some(&splits())).expect("all have answered");
    let mut left = answer(1, &[]).state;
    left.operators[1].state.committables.push(Value::Integer(77));
    forget_committed(&mut left, TaskKey::new(0, 1), &committed);
    assert_eq!(left.operators[1].state.committables, [Value::Integer(77)]);
}

#[test]
fn committables_that_are_listed_twice_are_kept_once() {
    let committable = |sink: &str, subtask_index| Committable {
        operator: sink.to_owned(),
        subtask_index,
        description: Some(convert::value_to_proto(&Value::Integer(1))),
    };
    let listed = vec![committable("a", 0), committable("a", 1), committable("a", 0), committable("b", 0)];
    assert_eq!(distinct(listed).len(), 3);
}
