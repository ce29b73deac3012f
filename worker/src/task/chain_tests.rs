//! Tests of the chain: routing, order, unfinished operators, side outputs, ends.

use std::sync::Arc;

use arrow_array::{ArrayRef, Int64Array, RecordBatch};
use weir_core::batch::dead_letter_schema;
use weir_graph::plan::PlannedRole;
use weir_graph::{Phase, Route};
use weir_operator_api::Result;
use weir_testkit::FakeClock;

use super::*;
use crate::task::suspects::{SuspectRows, fingerprints};

fn batch(numbers: impl IntoIterator<Item = i64>) -> Batch {
    let column: ArrayRef = Arc::new(Int64Array::from_iter_values(numbers));
    Batch::new(RecordBatch::try_from_iter([("n", column)]).expect("one column"), 0)
}

/// Passes rows on in `pieces` pieces per call, the rest by `resume`; row 13 is bad, row 99 is late, row 66 is an error.
struct Pieces {
    pieces: usize,
    left: Vec<Batch>,
    watermark: Option<EventTime>,
}

impl Operator for Pieces {
    fn process(&mut self, _: usize, batch: Batch, out: &mut dyn Output) -> Result<Progress> {
        assert!(self.left.is_empty() && self.watermark.is_none(), "input came before the last was finished");
        let numbers = batch.records.column(0).as_any().downcast_ref::<Int64Array>().expect("numbers").clone();
        if numbers.values().contains(&66) {
            return Err(OperatorError::user("no-66", "sixty-six is not allowed"));
        }
        if numbers.values().contains(&99) {
            out.emit_to(OutputTag::Late, batch);
            return Ok(Progress::Done);
        }
        if numbers.values().contains(&13) {
            let original = Some("13".to_owned());
            let message = "unlucky".to_owned();
            out.bad(vec![BadRecord { code: "bad-13", message, source: None, position: Some(1), original }]);
            return Ok(Progress::Done);
        }
        self.left = (0..self.pieces).map(|_| batch.clone()).collect();
        self.resume(out)
    }

    fn on_watermark(&mut self, watermark: EventTime, _: &mut dyn Output) -> Result<Progress> {
        self.watermark = Some(watermark);
        Ok(Progress::More)
    }

    fn resume(&mut self, out: &mut dyn Output) -> Result<Progress> {
        if let Some(piece) = self.left.pop() {
            out.emit(piece);
        } else if let Some(watermark) = self.watermark.take() {
            out.watermark(watermark);
        }
        Ok(if self.left.is_empty() && self.watermark.is_none() { Progress::Done } else { Progress::More })
    }
}

fn planned(uid: &str, routes: Vec<Route>) -> PlannedOperator {
    PlannedOperator {
        uid: uid.into(),
        kind: "pieces".to_owned(),
        role: PlannedRole::Operator,
        settings: Default::default(),
        phase: Phase::Whole,
        inputs: vec![dead_letter_schema()],
        output: dead_letter_schema(),
        projection: None,
        routes,
    }
}

fn route(output: OutputTag, target: Target) -> Route {
    Route { output, target }
}

fn to(index: usize) -> Target {
    Target::Operator { index, input: 0 }
}

/// a -> b -> edge 0; b.late -> edge 1; b.dead_letter -> edge 2; a -> sink too.
fn chain() -> (Chain, Vec<Arc<OperatorMetrics>>) {
    let plan = vec![
        planned("a", vec![route(OutputTag::Main, to(1)), route(OutputTag::Main, to(2))]),
        planned(
            "b",
            vec![
                route(OutputTag::Main, Target::Edge(EdgeId(0))),
                route(OutputTag::Late, Target::Edge(EdgeId(1))),
                route(OutputTag::DeadLetter, Target::Edge(EdgeId(2))),
            ],
        ),
        planned("sink", Vec::new()),
    ];
    let metrics: Vec<Arc<OperatorMetrics>> = (0..3).map(|_| Arc::default()).collect();
    let pieces = || Body::Operator(Some(Box::new(Pieces { pieces: 2, left: Vec::new(), watermark: None })));
    let bodies = vec![pieces(), pieces(), Body::Sink(0)];
    let parts = bodies.into_iter().zip(metrics.iter().cloned()).collect();
    (Chain::new(&plan, parts, Arc::new(FakeClock::default()), 0), metrics)
}

/// Everything that leaves the chain until it is done, one word each.
fn drain(chain: &mut Chain) -> Vec<String> {
    let mut words = Vec::new();
    loop {
        while let Some(pending) = chain.pop() {
            words.push(match pending {
                Pending::Edge(edge, StreamElement::Batch(batch)) => format!("edge {edge}: {} rows", batch.num_rows()),
                Pending::Edge(edge, element) => format!("edge {edge}: {element:?}"),
                Pending::Sink { batch, .. } => format!("sink: {} rows", batch.num_rows()),
                Pending::SinkBarrier { node, checkpoint, .. } => {
                    chain.sink_froze(node, checkpoint).expect("no error");
                    format!("sink: barrier {checkpoint}")
                }
                Pending::SinkEnd { node } => {
                    chain.sink_ended(node);
                    "sink: end".to_owned()
                }
            });
        }
        if !chain.advance().expect("no error") {
            return words;
        }
    }
}

#[test]
fn rows_are_routed_and_unfinished_operators_get_no_other_input() {
    let (mut chain, metrics) = chain();
    chain.process(0, batch([1, 2])).expect("no error");
    // a emits twice, b emits twice for each; the sink takes from a.
    let words = drain(&mut chain);
    assert_eq!(words.iter().filter(|word| *word == "edge 0: 2 rows").count(), 4, "{words:?}");
    assert_eq!(words.iter().filter(|word| *word == "sink: 2 rows").count(), 2, "{words:?}");
    let counted = |of: &OperatorMetrics| (of.records_in.load(Relaxed), of.records_out.load(Relaxed));
    assert_eq!((counted(&metrics[0]), counted(&metrics[1])), ((2, 4), (4, 8)));
    assert_eq!(metrics[2].records_in.load(Relaxed), 4);
}

#[test]
fn what_comes_while_an_operator_is_unfinished_waits_in_order() {
    let (mut chain, _) = chain();
    chain.output(0).emit(batch([1]));
    chain.output(0).emit(batch([1, 2]));
    chain.output(0).watermark(EventTime(3));
    let words = drain(&mut chain);
    let to_edge: Vec<&String> = words.iter().filter(|word| word.starts_with("edge 0")).collect();
    let expected = ["1 rows", "1 rows", "2 rows", "2 rows", "Watermark(3us)"].map(|word| format!("edge 0: {word}"));
    assert_eq!(to_edge, expected.iter().collect::<Vec<_>>());
}

#[test]
fn watermark_and_end_reach_all_edges_also_of_side_outputs_and_never_go_back() {
    let (mut chain, metrics) = chain();
    chain.watermark(EventTime(5)).expect("no error");
    let words = drain(&mut chain);
    assert_eq!(words, ["edge 0: Watermark(5us)", "edge 1: Watermark(5us)", "edge 2: Watermark(5us)"]);
    assert_eq!(metrics[2].watermark_in.load(Relaxed), 5);
    chain.watermark(EventTime(4)).expect("no error");
    assert_eq!(drain(&mut chain), Vec::<String>::new());
    chain.idle(true).expect("no error");
    chain.idle(true).expect("no error");
    assert_eq!(drain(&mut chain), ["edge 0: Idle", "edge 1: Idle", "edge 2: Idle"]);
    chain.end().expect("no error");
    let words = drain(&mut chain);
    assert_eq!(words, ["edge 0: EndOfInput", "edge 1: EndOfInput", "edge 2: EndOfInput", "sink: end"]);
}

#[test]
fn late_and_bad_rows_are_counted_and_leave_by_their_outputs() {
    let (mut chain, metrics) = chain();
    let b = Arc::clone(&metrics[1]);
    chain.output(0).emit(batch([99]));
    chain.output(0).emit(batch([13]));
    let words = drain(&mut chain);
    assert_eq!(words, ["edge 1: 1 rows", "sink: 1 rows", "edge 2: 1 rows", "sink: 1 rows"].map(str::to_owned));
    assert_eq!((b.late_records.load(Relaxed), b.bad_records.load(Relaxed)), (1, 1));
    // Where nobody listens they are counted all the same.
    chain.process(0, batch([99])).expect("no error");
    assert_eq!(drain(&mut chain), Vec::<String>::new());
    assert_eq!(metrics[0].late_records.load(Relaxed), 1);
}

#[test]
fn error_of_a_chained_operator_names_it() {
    let (mut chain, _) = chain();
    chain.output(0).emit(batch([66]));
    let error = chain.check().expect_err("66 is an error");
    assert_eq!((error.code, error.operator), ("no-66", Some("b".into())));
}

fn look(number: i64) -> u64 {
    fingerprints(0, &batch([number]).records).expect("it has a text")[0]
}

#[test]
fn d10_failure_says_which_rows_the_innermost_operator_was_given() {
    let (mut chain, _) = chain();
    chain.output(0).emit(batch([5, 66, 7]));
    let error = chain.check().expect_err("66 is an error");
    let mut rows = vec![look(5), look(66), look(7)];
    rows.sort_unstable();
    assert_eq!(error.suspects.as_deref(), Some(&SuspectRows { operator: 1, rows }));
    // A panic leaves its place behind.
    let (mut chain, _) = self::chain();
    chain.process(0, batch([1])).expect("no error");
    let panicked = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
        chain
            .run_on(1, Unfinished::Call, Some(Rows { input: 0, batch: batch([8]), suspect: None }), |_, _| panic!("no"))
    }));
    let error = chain.blame(TaskError::panic(panicked.expect_err("it panics").as_ref()));
    assert_eq!(error.suspects.as_deref(), Some(&SuspectRows { operator: 1, rows: vec![look(8)] }));
    // What no row has caused has no suspects, and neither has what failed outside.
    let (mut chain, _) = self::chain();
    chain.run(1, Unfinished::Call, |_, _| Err(OperatorError::internal("a watermark")));
    assert_eq!(chain.check().expect_err("it failed").suspects, None);
    let rows = Rows { input: 0, batch: batch([8]), suspect: None };
    chain.run_on(1, Unfinished::Call, Some(rows), |_, _| Err(OperatorError::external("sink-io", "full")));
    assert_eq!(chain.check().expect_err("it failed").suspects, None);
}

#[test]
fn d10_suspect_is_tried_alone_and_set_aside_when_it_is_told_so() {
    let (mut chain, _) = chain();
    chain.be_careful([(1, Careful::new([(look(66), 0)], String::new()))]);
    chain.output(0).emit(batch([5, 66, 7]));
    let error = loop {
        match chain.advance() {
            Ok(is_going_on) => assert!(is_going_on, "66 is an error"),
            Err(error) => break error,
        }
    };
    let to_edge = std::iter::from_fn(|| chain.pop()).filter(|pending| matches!(pending, Pending::Edge(EdgeId(0), _)));
    assert_eq!(to_edge.count(), 2, "what is in front of it goes its way");
    assert_eq!(error.suspects.as_deref(), Some(&SuspectRows { operator: 1, rows: vec![look(66)] }));

    let (mut chain, metrics) = self::chain();
    chain.be_careful([(1, Careful::new([(look(66), 1), (look(7), 0)], "a panic".to_owned()))]);
    chain.output(0).emit(batch([5, 66, 7, 8, 9]));
    chain.output(0).emit(batch([1, 2, 3]));
    let words = drain(&mut chain);
    let edges: Vec<&String> = words.iter().filter(|word| word.starts_with("edge")).collect();
    let expected =
        ["edge 0: 1 rows", "edge 0: 1 rows", "edge 2: 1 rows", "edge 0: 1 rows", "edge 0: 1 rows", "edge 0: 2 rows"];
    assert_eq!(edges[..6], expected.iter().collect::<Vec<_>>(), "in order, the one by the dead letters");
    assert_eq!(edges[6..], ["edge 0: 2 rows", "edge 0: 3 rows", "edge 0: 3 rows"]);
    let b = &metrics[1];
    assert_eq!((b.records_in.load(Relaxed), b.bad_records.load(Relaxed)), (7, 1));
    assert_eq!(chain.passed(), [SuspectRows { operator: 1, rows: vec![look(66), look(7)] }]);
    chain.trust();
    chain.output(0).emit(batch([66]));
    assert!(chain.check().is_err(), "nobody is careful any more");
}
