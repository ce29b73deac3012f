//! Sessions against their definition: after every batch the rows and sessions of a key that are no further than the
//! gap apart are joined, whatever the order.

use std::collections::BTreeMap;

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
