//! Two phases against one: several local instances with watermarks and idleness of their own, one final instance, and
//! beside them an operator in one phase that gets the same rows. Results and late rows must agree.

use std::collections::BTreeMap;

use super::*;

/// What happens to one of the local instances.
#[derive(Clone, Debug)]
enum LocalStep {
    Rows(Vec<Row>),
    /// The watermark grows by so much.
    Advance(i64),
    Idle,
}

const LOCALS: usize = 3;

fn local_steps() -> impl Strategy<Value = Vec<(usize, LocalStep)>> {
    let step = prop_oneof![
        5 => rows().prop_map(LocalStep::Rows),
        5 => (0i64..25).prop_map(LocalStep::Advance),
        1 => Just(LocalStep::Idle),
    ];
    prop::collection::vec((0..LOCALS, step), 1..30)
}

fn window() -> impl Strategy<Value = WindowSpec> {
    prop_oneof![
        (1i64..30).prop_map(|size| WindowSpec::Tumble { size, offset: 3 }),
        (1i64..30, 1i64..30).prop_map(|(a, b)| WindowSpec::Hop { size: a.max(b), slide: a.min(b), offset: 1 }),
        (1i64..10, 1i64..6).prop_map(|(step, n)| WindowSpec::Cumulate { size: step * n, step, offset: 0 }),
        (1i64..20).prop_map(|gap| WindowSpec::Session { gap }),
    ]
}

struct Sender {
    operator: Runner,
    watermark: i64,
    is_idle: bool,
}

type Table = BTreeMap<(Option<i64>, i64, i64), (i64, Option<i64>, Option<i64>)>;

/// The table that a stream of results leaves behind.
fn fold(table: &mut Table, found: Vec<Found>) {
    for found in found {
        let place = (found.key, found.start, found.end);
        let before = if found.change == DELETE { table.remove(&place) } else { table.insert(place, found.values) };
        assert_eq!(before.is_some(), found.change != INSERT, "{found:?} follows {before:?}");
    }
}

/// Moves what a sender emitted to the receiver; gives the watermark or idleness that came along.
fn deliver(sender: &mut Sender, receiver: &mut Runner) {
    for element in sender.operator.recorder.take() {
        match element {
            Recorded::Batch(OutputTag::Main, batch) => receiver.batch(1, batch),
            Recorded::Batch(OutputTag::Raw, batch) => receiver.batch(0, batch),
            Recorded::Watermark(time) => sender.watermark = time.0,
            Recorded::Idle(is_idle) => sender.is_idle = is_idle,
            other => panic!("a local phase does not send {other:?}"),
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]
    #[test]
    fn two_phases_agree_with_one(
        window in window(),
        lateness in prop_oneof![Just(0i64), 1i64..40],
        batch_rows in 1usize..6,
        steps in local_steps(),
    ) {
        let mut senders: Vec<Sender> = (0..LOCALS)
            .map(|_| Sender {
                operator: operator(window, lateness, Phase::Local, batch_rows),
                watermark: i64::MIN,
                is_idle: false,
            })
            .collect();
        let mut last = operator(window, lateness, Phase::Final, batch_rows);
        let mut whole = operator(window, lateness, Phase::Whole, batch_rows);
        let (mut two, mut one) = (Outcome::default(), Outcome::default());
        let (mut two_table, mut one_table) = (BTreeMap::new(), BTreeMap::new());
        let mut watermark = i64::MIN;
        let ends = (0..LOCALS).map(|index| (index, LocalStep::Advance(i64::MAX)));
        for (index, step) in steps.into_iter().chain(ends) {
            let sender = &mut senders[index];
            if sender.is_idle && !matches!(step, LocalStep::Idle) {
                sender.operator.idle(false);
            }
            match &step {
                LocalStep::Rows(rows) => {
                    sender.operator.batch(0, batch(rows));
                    whole.batch(0, batch(rows));
                }
                LocalStep::Advance(by) => {
                    let now = if sender.watermark == i64::MIN { -10 } else { sender.watermark };
                    sender.operator.watermark(EventTime(now.saturating_add(*by)));
                }
                LocalStep::Idle => sender.operator.idle(true),
            }
            deliver(sender, &mut last);
            let now = senders.iter().filter(|sender| !sender.is_idle).map(|sender| sender.watermark).min();
            if let Some(now) = now.filter(|now| *now > watermark) {
                watermark = now;
                last.watermark(EventTime(now));
                whole.watermark(EventTime(now));
            }
            for (runner, total, table) in
                [(&mut last, &mut two, &mut two_table), (&mut whole, &mut one, &mut one_table)]
            {
                let outcome = outcome(runner);
                total.late.extend(outcome.late);
                fold(table, outcome.results);
            }
        }
        prop_assert_eq!(two.sorted(), one.sorted());
        prop_assert_eq!(two_table, one_table);
    }
}

#[test]
fn local_phase_sends_one_row_per_key_and_slice_before_the_watermark() {
    let mut local = operator(WindowSpec::Hop { size: 20, slide: 10, offset: 0 }, 0, Phase::Local, 1000);
    for _ in 0..50 {
        local.batch(0, batch(&[(Some(1), Some(1), 5), (Some(2), Some(1), 5), (Some(1), Some(1), 15)]));
    }
    assert!(local.recorder.elements().is_empty(), "everything is held");
    local.watermark(EventTime(8));
    assert!(local.recorder.batches(OutputTag::Main).is_empty(), "no window is complete");
    local.recorder.take();
    local.watermark(EventTime(9));
    assert_eq!(local.recorder.rows(OutputTag::Main).len(), 2, "the first slice");
    assert!(matches!(local.recorder.take().last(), Some(Recorded::Watermark(EventTime(9)))));
    local.idle(true);
    assert_eq!(local.recorder.rows(OutputTag::Main).len(), 1, "the rest");
    assert_eq!(local.operator().state_bytes(), 0);
}

#[test]
fn local_phase_gives_up_when_it_does_not_pay() {
    let mut local = operator(WindowSpec::Tumble { size: 1000, offset: 0 }, 0, Phase::Local, 8192);
    let mut raw = 0;
    for round in 0..200 {
        let rows: Vec<Row> = (0..1000).map(|n| (Some(round * 1000 + n), Some(1), 5)).collect();
        local.batch(0, batch(&rows));
        raw += local.recorder.batches(OutputTag::Raw).len();
        local.recorder.take();
    }
    assert!(raw > 100, "{raw} of 200 batches were passed on");
}
