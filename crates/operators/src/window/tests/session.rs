//! Sessions against their definition: after every batch the rows and sessions of a key that are no further than the
//! gap apart are joined, whatever the order.

use std::collections::BTreeMap;
use std::sync::Mutex;

use weir_state::store::{Entries, MemoryStore, StateStore};
use weir_state::{StateStoreError, StateStores};

use super::*;

#[derive(Clone, Debug, PartialEq)]
struct Session {
    rows: Vec<Row>,
    is_fired: bool,
}

impl Session {
    fn start(&self) -> i64 {
        self.rows.iter().map(|row| row.2).min().expect("sessions have rows")
    }

    fn last(&self) -> i64 {
        self.rows.iter().map(|row| row.2).max().expect("sessions have rows")
    }
}

struct Model {
    gap: i64,
    allowed_lateness: i64,
    watermark: i64,
    sessions: BTreeMap<Option<i64>, Vec<Session>>,
}

impl Model {
    fn found(&self, key: Option<i64>, session: &Session, change: i8) -> Found {
        let (start, end) = (session.start(), session.last() + self.gap);
        Found { end, start, key, change, values: values(&session.rows) }
    }

    fn is_closed(&self, session: &Session) -> bool {
        session.last() + self.gap - 1 <= self.watermark
    }

    fn is_late(&self, session: &Session) -> bool {
        session.last() + self.gap - 1 + self.allowed_lateness <= self.watermark
    }

    /// Joins whatever touches until nothing does.
    fn join(&self, mut sessions: Vec<Session>) -> Vec<Session> {
        sessions.sort_by_key(Session::start);
        let mut joined: Vec<Session> = Vec::new();
        for session in sessions {
            match joined.last_mut() {
                Some(before) if session.start() - before.last() <= self.gap => before.rows.extend(session.rows),
                _ => joined.push(session),
            }
        }
        joined
    }

    fn take(&mut self, key: Option<i64>, rows: Vec<Row>, outcome: &mut Outcome) {
        let before = self.sessions.remove(&key).unwrap_or_default();
        let single = |row: &Row| Session { rows: vec![*row], is_fired: false };
        let mut after = self.join(before.iter().cloned().chain(rows.iter().map(single)).collect());
        // What still is late touches neither a session nor a row that is on time.
        after.retain(|session| {
            let is_late = self.is_late(session);
            if is_late {
                outcome.late.extend(&session.rows);
            }
            !is_late
        });
        let bounds = |session: &Session| (session.start(), session.last());
        let fired = |wanted: &Session| before.iter().find(|old| old.is_fired && bounds(old) == bounds(wanted));
        for old in before.iter().filter(|old| old.is_fired) {
            if !after.iter().any(|new| bounds(new) == bounds(old)) {
                outcome.results.push(self.found(key, old, DELETE));
            }
        }
        for session in &mut after {
            let known = fired(session);
            session.is_fired = self.is_closed(session);
            match known {
                Some(old) if old.rows.len() == session.rows.len() => {}
                Some(_) => outcome.results.push(self.found(key, session, UPDATE)),
                None if session.is_fired => outcome.results.push(self.found(key, session, INSERT)),
                None => {}
            }
        }
        self.sessions.insert(key, after);
    }

    fn apply(&mut self, step: &Step) -> Outcome {
        let mut outcome = Outcome::default();
        match step {
            Step::Rows(rows) => {
                let mut by_key: BTreeMap<Option<i64>, Vec<Row>> = BTreeMap::new();
                rows.iter().for_each(|row| by_key.entry(row.0).or_default().push(*row));
                by_key.into_iter().for_each(|(key, rows)| self.take(key, rows, &mut outcome));
            }
            Step::Watermark(time) => {
                self.watermark = *time;
                let mut all = std::mem::take(&mut self.sessions);
                for (key, sessions) in &mut all {
                    for session in sessions.iter_mut().filter(|session| self.is_closed(session)) {
                        if !session.is_fired {
                            outcome.results.push(self.found(*key, session, INSERT));
                        }
                        session.is_fired = true;
                    }
                    sessions.retain(|session| !self.is_late(session));
                }
                self.sessions = all;
            }
        }
        outcome
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(600))]
    #[test]
    fn sessions_fire_once_with_all_their_rows(
        gap in 1i64..20,
        lateness in prop_oneof![Just(0i64), 1i64..40],
        batch_rows in 1usize..6,
        steps in steps(),
    ) {
        let mut model = Model { gap, allowed_lateness: lateness, watermark: i64::MIN, sessions: BTreeMap::new() };
        let mut runner = operator(WindowSpec::Session { gap }, lateness, Phase::Whole, batch_rows);
        for step in &steps {
            let found = apply(&mut runner, step);
            if let Step::Watermark(_) = step {
                let ends: Vec<i64> = found.results.iter().map(|found| found.end).collect();
                prop_assert!(ends.is_sorted(), "sessions fire in order of their ends");
            }
            prop_assert_eq!(found.sorted(), model.apply(step).sorted(), "after {:?}", step);
        }
    }
}

/// Sessions with a store of their own.
fn on_disk((gap, lateness): (i64, i64), aggregates: &[&str], stores: &StateStores) -> Runner {
    let window = WindowSpec::Session { gap };
    let aggregates = aggregates.iter().map(|sql| (*sql).to_owned()).collect();
    let descriptor = WindowAggregate { aggregates, ..descriptor(window, lateness) };
    let (inputs, output) = schemas(&descriptor, input(), Phase::Whole);
    let (mut context, clock) = script::context(inputs, output);
    (context.batch_rows, context.stores) = (3, stores.clone());
    let operator = super::super::create(&descriptor, Phase::Whole, &context).expect("the descriptor is right");
    Runner::new(operator, &context, clock)
}

const AGGREGATES: [&str; 3] = ["count(*) AS n", "sum(v) AS total", "min(v) AS least"];

/// A store whose disk is full now and then: each write takes one from the list of answers.
struct FullNowAndThen {
    store: MemoryStore,
    answers: Mutex<Vec<bool>>,
}

impl StateStore for FullNowAndThen {
    fn put(&self, entries: &Entries) -> Result<(), StateStoreError> {
        if self.answers.lock().expect("one thread").pop() == Some(false) {
            return Err(StateStoreError { place: "here".to_owned(), doing: "write", reason: "it is full".to_owned() });
        }
        self.store.put(entries)
    }

    fn get(&self, keys: &[Vec<u8>]) -> Result<Vec<Option<Vec<u8>>>, StateStoreError> {
        self.store.get(keys)
    }

    fn range(&self, from: &[u8], to: &[u8], count: usize) -> Result<Entries, StateStoreError> {
        self.store.range(from, to, count)
    }

    fn delete(&self, keys: &[Vec<u8>]) -> Result<(), StateStoreError> {
        self.store.delete(keys)
    }

    fn delete_range(&self, from: &[u8], to: &[u8]) -> Result<(), StateStoreError> {
        self.store.delete_range(from, to)
    }

    fn file(&self) -> Result<Box<dyn weir_state::store::StateFile>, StateStoreError> {
        self.store.file()
    }

    fn size_bytes(&self) -> u64 {
        self.store.size_bytes()
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]
    /// Whenever sessions leave memory, and whether the disk takes them or not: nothing changes, and nothing stays there.
    #[test]
    fn parked_sessions_fire_as_if_they_had_stayed(
        gap in 1i64..20,
        allowed_lateness in prop_oneof![Just(0i64), 1i64..60],
        steps in steps(),
        parks in prop::collection::vec(prop::bool::weighted(0.6), 14),
        answers in prop::collection::vec(prop::bool::weighted(0.8), 0..40),
    ) {
        let mut model = Model { gap, allowed_lateness, watermark: i64::MIN, sessions: BTreeMap::new() };
        let store = Arc::new(FullNowAndThen { store: MemoryStore::default(), answers: Mutex::new(answers) });
        let stores = {
            let store = store.clone();
            StateStores::new(move || Ok(store.clone()))
        };
        let mut runner = on_disk((gap, allowed_lateness), &AGGREGATES, &stores);
        for (step, parks) in steps.iter().zip(parks.iter().chain([&false])) {
            let answers_left = || store.answers.lock().expect("one thread").len();
            let before = answers_left();
            if *parks && runner.operator().spill().is_err() {
                prop_assert_ne!(before, answers_left(), "it fails with the disk only");
            }
            let found = apply(&mut runner, step);
            prop_assert_eq!(found.sorted(), model.apply(step).sorted(), "after {:?}", step);
        }
        prop_assert_eq!(stores.size_bytes(), 0);
    }
}

#[test]
fn parked_rows_count_as_those_that_came_first() {
    let stores = StateStores::in_memory();
    let mut runner = on_disk((5, 0), &["first(v) AS one", "last(v) AS other", "count(*) AS n"], &stores);
    for value in [1, 2, 3] {
        apply(&mut runner, &Step::Rows(vec![(Some(1), Some(value), 10)]));
        runner.operator().spill().expect("the store is there");
    }
    apply(&mut runner, &Step::Rows(vec![(Some(1), Some(4), 10)]));
    runner.watermark(EventTime(i64::MAX));
    let found = runner.recorder.rows(OutputTag::Main);
    assert!(found[0].ends_with(" 1 4 4"), "{found:?}");
}

#[test]
fn sessions_leave_memory() {
    let stores = StateStores::in_memory();
    let mut runner = on_disk((5, 0), &AGGREGATES, &stores);
    let empty = runner.operator().state_bytes();
    apply(&mut runner, &Step::Rows((0..5000).map(|key| (Some(key), Some(1), key % 50)).collect()));
    let full = runner.operator().state_bytes();
    runner.operator().spill().expect("the store is there");
    let parked = runner.operator().state_bytes();
    assert!(parked < empty + (full - empty) / 4, "{empty} {full} {parked}");
    assert!(stores.size_bytes() > 0);
    let found = apply(&mut runner, &Step::Watermark(i64::MAX));
    assert_eq!((found.results.len(), stores.size_bytes()), (5000, 0));
}

#[test]
fn rows_that_just_touch_an_emitted_session_on_disk_take_it_back() {
    for (watermark, times) in [(14, vec![15]), (17, vec![14, 19]), (14, vec![15, 30])] {
        let stores = StateStores::in_memory();
        let mut runner = on_disk((5, 100), &AGGREGATES, &stores);
        apply(&mut runner, &Step::Rows(vec![(Some(1), Some(1), 10)]));
        apply(&mut runner, &Step::Watermark(watermark));
        runner.operator().spill().expect("the store is there");
        let found = apply(&mut runner, &Step::Rows(times.iter().map(|time| (Some(1), Some(1), *time)).collect()));
        let expected = Found { end: 15, start: 10, key: Some(1), change: DELETE, values: (1, Some(1), Some(1)) };
        assert_eq!(found.results, [expected], "rows at {times:?} after {watermark}");
    }
}

/// Also when one watermark emits more than memory holds, and none of it may go.
#[test]
fn emitted_sessions_leave_memory_until_their_lateness_is_over() {
    let stores = StateStores::in_memory();
    let mut runner = on_disk((5, 1000), &AGGREGATES, &stores);
    let empty = runner.operator().state_bytes();
    apply(&mut runner, &Step::Rows((0..2000).map(|key| (Some(key), Some(1), key % 50)).collect()));
    let full = runner.operator().state_bytes();
    runner.operator().spill().expect("the store is there");
    let found = apply(&mut runner, &Step::Watermark(500));
    assert_eq!(found.results.len(), 2000);
    let parked = runner.operator().state_bytes();
    assert!(parked < empty + (full - empty) / 4, "{empty} {full} {parked}");
    let found = apply(&mut runner, &Step::Rows(vec![(Some(7), Some(1), 7)]));
    assert_eq!(found.results.iter().map(|found| (found.change, found.values.0)).collect::<Vec<_>>(), [(UPDATE, 2)]);
    assert_eq!(apply(&mut runner, &Step::Watermark(2000)), Outcome::default());
    assert_eq!(stores.size_bytes(), 0);
}

#[test]
fn sessions_give_their_memory_back() {
    let mut runner = operator(WindowSpec::Session { gap: 5 }, 0, Phase::Whole, 1000);
    let mut sizes = Vec::new();
    for round in 0..60i64 {
        let rows: Vec<Row> = (0..2000).map(|n| (Some(round * 2000 + n), Some(1), round * 10 + n % 3)).collect();
        apply(&mut runner, &Step::Rows(rows));
        apply(&mut runner, &Step::Watermark(round * 10));
        sizes.push(runner.operator().state_bytes());
    }
    assert!(sizes[59] <= sizes[20] * 11 / 10, "{sizes:?}");
}

#[test]
fn rows_of_one_key_far_apart_in_turn_stay_apart() {
    let mut runner = operator(WindowSpec::Session { gap: 2 }, 0, Phase::Whole, 1000);
    let rows: Vec<Row> = (0..60).map(|n| (Some(1), Some(1), n % 20 * 10 + n / 20)).collect();
    apply(&mut runner, &Step::Rows(rows));
    let found = apply(&mut runner, &Step::Watermark(i64::MAX));
    assert_eq!(found.results.len(), 20);
    assert!(found.results.iter().all(|found| found.values.0 == 3 && found.end - found.start == 4));
}
