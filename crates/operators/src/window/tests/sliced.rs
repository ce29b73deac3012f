//! Windows in slices against their definition: every window keeps its rows, nothing is cut or merged.

use std::collections::{BTreeMap, BTreeSet};

use super::*;

fn spec() -> impl Strategy<Value = WindowSpec> {
    let offset = -5i64..5;
    prop_oneof![
        (1i64..30, offset.clone()).prop_map(|(size, offset)| WindowSpec::Tumble { size, offset }),
        (1i64..30, 1i64..30, offset.clone()).prop_map(|(a, b, offset)| WindowSpec::Hop {
            size: a.max(b),
            slide: a.min(b),
            offset
        }),
        (1i64..10, 1i64..6, offset).prop_map(|(step, n, offset)| WindowSpec::Cumulate { size: step * n, step, offset }),
    ]
}

type Place = ((i64, i64), Option<i64>);

struct Model {
    window: WindowSpec,
    allowed_lateness: i64,
    watermark: i64,
    /// Rows by window and key.
    rows: BTreeMap<Place, Vec<Row>>,
    emitted: BTreeSet<Place>,
}

impl Model {
    fn found(&self, place: Place, change: i8) -> Found {
        let ((start, end), key) = place;
        Found { end, start, key, change, values: values(&self.rows[&place]) }
    }

    fn apply(&mut self, step: &Step) -> Outcome {
        let mut outcome = Outcome::default();
        match step {
            Step::Rows(rows) => {
                let mut touched = BTreeSet::new();
                for row in rows {
                    let mut windows = self.window.windows_of_slice(self.window.slice_start(row.2));
                    windows.retain(|window| window.1 - 1 + self.allowed_lateness > self.watermark);
                    if windows.is_empty() {
                        outcome.late.push(*row);
                    }
                    for window in windows {
                        self.rows.entry((window, row.0)).or_default().push(*row);
                        if window.1 - 1 <= self.watermark {
                            touched.insert((window, row.0));
                        }
                    }
                }
                for place in touched {
                    let change = if self.emitted.insert(place) { INSERT } else { UPDATE };
                    outcome.results.push(self.found(place, change));
                }
            }
            Step::Watermark(time) => {
                let (before, now) = (self.watermark, *time);
                let is_complete = |place: &&Place| before < place.0.1 - 1 && place.0.1 - 1 <= now;
                let complete: Vec<Place> = self.rows.keys().filter(is_complete).copied().collect();
                self.watermark = *time;
                for place in complete {
                    assert!(self.emitted.insert(place), "a window fires once");
                    outcome.results.push(self.found(place, INSERT));
                }
            }
        }
        outcome
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]
    #[test]
    fn windows_fire_once_with_all_their_rows(
        window in spec(),
        lateness in prop_oneof![Just(0i64), 1i64..40],
        batch_rows in 1usize..6,
        steps in steps(),
    ) {
        let mut model = Model {
            window,
            allowed_lateness: lateness,
            watermark: i64::MIN,
            rows: BTreeMap::new(),
            emitted: BTreeSet::new(),
        };
        let mut runner = operator(window, lateness, Phase::Whole, batch_rows);
        for step in &steps {
            let found = apply(&mut runner, step);
            if let Step::Watermark(_) = step {
                let ends: Vec<i64> = found.results.iter().map(|found| found.end).collect();
                prop_assert!(ends.is_sorted(), "windows fire in order of their ends");
            }
            prop_assert_eq!(found.sorted(), model.apply(step).sorted(), "after {:?}", step);
        }
        runner.end();
        prop_assert_eq!(outcome(&mut runner), Outcome::default());
        prop_assert_eq!(runner.operator().state_bytes(), 0);
    }
}

#[test]
fn windows_give_their_memory_back() {
    let window = WindowSpec::Hop { size: 40, slide: 10, offset: 0 };
    let mut runner = operator(window, 0, Phase::Whole, 1000);
    let mut sizes = Vec::new();
    for round in 0..40i64 {
        let rows: Vec<Row> = (0..2000).map(|n| (Some(round * 2000 + n), Some(1), round * 10)).collect();
        apply(&mut runner, &Step::Rows(rows));
        apply(&mut runner, &Step::Watermark(round * 10));
        sizes.push(runner.operator().state_bytes());
    }
    assert!(sizes[39] > 0 && sizes[39] == sizes[20], "{sizes:?}");
    apply(&mut runner, &Step::Watermark(i64::MAX));
    assert_eq!(runner.operator().state_bytes(), 0);
}

/// What is done to an operator between two steps.
#[derive(Clone, Copy, Debug)]
enum Strain {
    None,
    Spill,
    /// A checkpoint that is being written for so many steps.
    Freeze(usize),
}

fn strains() -> impl Strategy<Value = Vec<Strain>> {
    let strain = prop_oneof![
        4 => Just(Strain::None),
        2 => Just(Strain::Spill),
        3 => (0usize..4).prop_map(Strain::Freeze),
    ];
    prop::collection::vec(strain, 14)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1500))]
    /// Late rows update, and new keys are inserted, the same whatever parts a slice has: layers that checkpoints hold for
    /// some time, layers that are being merged, runs on disk.
    #[test]
    fn late_rows_update_their_windows_wherever_slices_lie(
        window in spec(),
        lateness in 1i64..60,
        steps in steps(),
        strains in strains(),
    ) {
        let (rows, emitted) = (BTreeMap::new(), BTreeSet::new());
        let mut model = Model { window, allowed_lateness: lateness, watermark: i64::MIN, rows, emitted };
        let mut runner = operator(window, lateness, Phase::Whole, 3);
        let mut held = Vec::new();
        for (index, (step, strain)) in steps.iter().zip(strains.iter().chain([&Strain::None])).enumerate() {
            match strain {
                Strain::None => {}
                Strain::Spill => runner.operator().spill().expect("the store is there"),
                Strain::Freeze(count) => {
                    held.push((index + count, runner.operator().freeze().expect("nothing is being emitted")));
                }
            }
            let found = apply(&mut runner, step);
            prop_assert_eq!(found.sorted(), model.apply(step).sorted(), "after {:?}", step);
            held.retain(|(until, _)| *until > index);
        }
        drop(held);
        prop_assert_eq!(runner.operator().state_bytes(), 0);
    }
}

#[test]
fn late_rows_count_as_those_that_came_last_wherever_the_others_lie() {
    let aggregates = ["first(v) AS one", "last(v) AS other", "count(*) AS n"].map(str::to_owned).to_vec();
    let window = WindowSpec::Tumble { size: 10, offset: 0 };
    let descriptor = WindowAggregate { aggregates, ..descriptor(window, 50) };
    let mut runner = operator_of(&descriptor, input(), Phase::Whole, 100);
    let add = |runner: &mut Runner, value: i64| {
        runner.batch(0, batch(&[(Some(1), Some(value), 5)]));
        runner.recorder.rows(OutputTag::Main)
    };
    add(&mut runner, 1);
    runner.operator().spill().expect("the store is there");
    add(&mut runner, 2);
    runner.watermark(EventTime(20));
    runner.operator().spill().expect("the store is there");
    runner.recorder.take();
    let found = add(&mut runner, 3);
    assert!(found.last().is_some_and(|row| row.ends_with(" 1 3 3")), "{found:?}");
    let held = runner.operator().freeze().expect("nothing is being emitted");
    let found = add(&mut runner, 4);
    assert!(found.last().is_some_and(|row| row.ends_with(" 1 4 4")), "{found:?}");
    drop(held);
    let found = add(&mut runner, 5);
    assert!(found.last().is_some_and(|row| row.ends_with(" 1 5 5")), "{found:?}");
}
