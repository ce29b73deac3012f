//! Tests of `tracker.rs`: cases, and the definition against whole histories, also cut by checkpoints.

use super::*;
use proptest::prelude::*;
use std::collections::BTreeMap;

const A: SplitIndex = SplitIndex(0);
const B: SplitIndex = SplitIndex(1);

#[test]
fn slowest_split_holds_the_watermark() {
    let mut tracker = WatermarkTracker::new(10, None);
    tracker.on_added(A);
    tracker.on_added(B);
    tracker.on_rows(Some(A), Some(100));
    assert_eq!(tracker.advance(), None);
    tracker.on_rows(Some(B), Some(50));
    assert_eq!(tracker.advance(), Some(EventTime(39)));
    tracker.on_finished(B);
    assert_eq!(tracker.advance(), Some(EventTime(89)));
    tracker.on_finished(A);
    assert_eq!(tracker.advance(), None);
    assert_eq!(tracker.at_end(), None);
}

#[test]
fn input_ends_at_the_same_time_whichever_split_ends_first() {
    for finished in [[A, B], [B, A]] {
        let mut tracker = WatermarkTracker::new(10, None);
        tracker.on_rows(Some(A), Some(100));
        tracker.on_rows(Some(B), Some(50));
        let mut last = tracker.advance();
        for split in finished {
            tracker.on_finished(split);
            last = tracker.advance().or(last);
        }
        assert_eq!(tracker.at_end().or(last), Some(EventTime(89)), "finished in the order {finished:?}");
    }
}

#[test]
fn late_split_does_not_pull_the_watermark_back() {
    let mut tracker = WatermarkTracker::new(0, None);
    tracker.on_rows(Some(A), Some(100));
    assert_eq!(tracker.advance(), Some(EventTime(99)));
    tracker.on_added(B);
    tracker.on_rows(Some(B), Some(20));
    assert_eq!(tracker.advance(), None);
    tracker.on_rows(Some(B), Some(120));
    assert_eq!(tracker.advance(), None);
    tracker.on_rows(Some(A), Some(130));
    assert_eq!(tracker.advance(), Some(EventTime(119)));
}

/// Carries d1: a split that wakes up neither stalls the watermark for good nor pulls it back.
#[test]
fn d1_split_that_wakes_up_holds_the_watermark_again() {
    let mut tracker = WatermarkTracker::new(0, Some(1000));
    tracker.on_added(A);
    tracker.on_added(B);
    tracker.on_rows(Some(A), Some(100));
    for _ in 0..3 {
        tracker.on_waited(500);
        tracker.on_rows(Some(A), Some(100));
    }
    assert_eq!(tracker.advance(), Some(EventTime(99)), "b is idle and holds nothing");
    assert_eq!(tracker.on_rows(Some(B), Some(10)), Idleness::Unchanged);
    tracker.on_rows(Some(A), Some(200));
    assert_eq!(tracker.advance(), None, "b is active and holds the watermark");
    tracker.on_rows(Some(B), Some(150));
    assert_eq!(tracker.advance(), Some(EventTime(149)));
}

#[test]
fn idleness_is_told_when_all_splits_are_idle_and_when_one_wakes_up() {
    let mut tracker = WatermarkTracker::new(0, Some(1000));
    tracker.on_added(A);
    tracker.on_rows(Some(A), Some(100));
    assert_eq!(tracker.on_waited(2000), Idleness::Unchanged, "the rows came within that time");
    assert_eq!(tracker.on_waited(999), Idleness::Unchanged);
    assert_eq!(tracker.on_waited(1), Idleness::BecameIdle);
    assert_eq!(tracker.on_waited(1000), Idleness::Unchanged);
    assert_eq!(tracker.on_rows(Some(A), None), Idleness::BecameActive, "a bad row is a sign of life too");
}

/// Carries d3: a source that is held up by backpressure reports no waiting, however long it takes.
#[test]
fn d3_time_under_backpressure_makes_nothing_idle() {
    let mut tracker = WatermarkTracker::new(0, Some(1));
    tracker.on_added(A);
    tracker.on_added(B);
    for time in 0..1000 {
        assert_eq!(tracker.on_rows(Some(A), Some(time)), Idleness::Unchanged);
        assert_eq!(tracker.advance(), None, "b was never waited for, so it still counts");
    }
}

/// Carries d4: arithmetic at the ends of time neither wraps nor makes the last watermark.
#[test]
fn d4_extreme_times_saturate() {
    for time in [i64::MIN, i64::MIN + 1, -1, 0, i64::MAX - 1, i64::MAX] {
        for disorder in [0, 1, i64::MAX] {
            let mut tracker = WatermarkTracker::new(disorder, Some(i64::MAX));
            tracker.on_rows(None, Some(time));
            let watermark = tracker.advance();
            assert!(watermark.is_none_or(|watermark| watermark < EventTime::MAX && watermark.0 < time));
            tracker.on_waited(i64::MAX);
            tracker.on_waited(i64::MAX);
            tracker.on_waited(i64::MAX);
        }
    }
}

#[derive(Clone, Debug)]
enum Event {
    Added(u32),
    Finished(u32),
    Rows(u32, Option<i64>),
    Waited(i64),
}

fn event() -> impl Strategy<Value = Event> {
    let time = prop_oneof![8 => (0i64..100).prop_map(Some), 1 => Just(None), 1 => any::<i64>().prop_map(Some)];
    prop_oneof![
        2 => (0u32..4).prop_map(Event::Added),
        1 => (0u32..4).prop_map(Event::Finished),
        8 => (0u32..4, time).prop_map(|(split, time)| Event::Rows(split, time)),
        4 => (0i64..60).prop_map(Event::Waited),
    ]
}

/// The definition, written down from the whole history each time.
fn model(history: &[Event], disorder: i64, timeout: i64) -> (Option<i64>, bool) {
    let (mut alive, mut finished) = (BTreeSet::new(), BTreeSet::new());
    let (mut time_max, mut quiet) = (BTreeMap::new(), BTreeMap::new());
    let mut fresh = BTreeSet::new();
    for event in history {
        match *event {
            Event::Added(split) | Event::Rows(split, _)
                if !finished.contains(&split) || matches!(event, Event::Added(_)) =>
            {
                if alive.insert(split) {
                    quiet.insert(split, 0);
                    time_max.remove(&split);
                    fresh.insert(split);
                }
                if let Event::Rows(_, time) = event {
                    quiet.insert(split, 0);
                    fresh.insert(split);
                    if let Some(time) = time {
                        let greatest = time_max.entry(split).or_insert(*time);
                        *greatest = (*greatest).max(*time);
                    }
                }
            }
            Event::Finished(split) => {
                alive.remove(&split);
                finished.insert(split);
            }
            Event::Waited(0) => {}
            Event::Waited(us) => {
                for split in alive.iter().filter(|split| !fresh.contains(split)) {
                    *quiet.entry(*split).or_insert(0) += us;
                }
                fresh.clear();
            }
            _ => {}
        }
    }
    let active: Vec<_> = alive.iter().filter(|split| quiet[split] < timeout).collect();
    let watermark = |split: &u32| {
        time_max.get(split).map_or(i64::MIN, |time: &i64| time.saturating_sub(disorder).saturating_sub(1))
    };
    (active.iter().map(|split| watermark(split)).min(), !alive.is_empty() && active.is_empty())
}

proptest! {
    /// Carries d1: whatever splits do, the watermark is the greatest that the definition ever allowed, so it
    /// neither goes back nor stalls, and idleness is told exactly when it changes.
    #[test]
    fn d1_tracker_follows_the_definition(events in prop::collection::vec(event(), 0..60), disorder in 0i64..20) {
        const TIMEOUT: i64 = 100;
        let mut tracker = WatermarkTracker::new(disorder, Some(TIMEOUT));
        let (mut last, mut is_idle) = (i64::MIN, false);
        let mut readded = BTreeSet::new();
        for (count, event) in events.iter().enumerate() {
            // A finished split is not added again.
            if let Event::Finished(split) = event { readded.insert(*split); }
            if matches!(event, Event::Added(split) if readded.contains(split)) { return Ok(()); }
            let told = match *event {
                Event::Added(split) => tracker.on_added(SplitIndex(split)),
                Event::Finished(split) => tracker.on_finished(SplitIndex(split)),
                Event::Rows(split, time) => tracker.on_rows(Some(SplitIndex(split)), time),
                Event::Waited(us) => tracker.on_waited(us),
            };
            let (allowed, all_idle) = model(&events[..=count], disorder, TIMEOUT);
            let expected = allowed.filter(|allowed| *allowed > last);
            prop_assert_eq!(tracker.advance(), expected.map(EventTime));
            last = expected.unwrap_or(last);
            if allowed.is_some() || all_idle {
                let expected = match (is_idle, all_idle) {
                    (false, true) => Idleness::BecameIdle,
                    (true, false) => Idleness::BecameActive,
                    _ => Idleness::Unchanged,
                };
                prop_assert_eq!(told, expected);
                is_idle = all_idle;
            }
        }
    }
}

/// What a tracker is after a restart, with these splits as its own.
fn restored(from: &[&WatermarkTracker], own: &[SplitIndex]) -> WatermarkTracker {
    let states: Vec<_> = from.iter().map(|tracker| tracker.snapshot()).collect();
    let ended = states.iter().map(|state| state.1).max().expect("there was a tracker");
    let mut tracker = WatermarkTracker::new(from[0].disorder_us, from[0].idle_timeout_us);
    tracker.restore(states.into_iter().flat_map(|state| state.0).collect(), ended);
    for split in own {
        assert_eq!(tracker.on_added(*split), Idleness::Unchanged, "nothing is told before all splits are here");
    }
    tracker
}

#[test]
fn restored_tracker_says_again_what_it_said_and_nothing_less() {
    let mut before = WatermarkTracker::new(0, None);
    before.on_rows(Some(A), Some(100));
    assert_eq!(before.advance(), Some(EventTime(99)));
    before.on_added(B);
    let mut after = restored(&[&before], &[A, B]);
    assert_eq!(after.settle(), Some(EventTime(99)));
    assert_eq!(after.settle(), None, "once");
    after.on_rows(Some(B), Some(50));
    assert_eq!(after.advance(), None);
    after.on_rows(Some(B), Some(150));
    assert_eq!(after.advance(), None, "a stands where it stood");
    after.on_rows(Some(A), Some(120));
    assert_eq!(after.advance(), Some(EventTime(119)));
}

#[test]
fn restored_tracker_says_what_the_subtasks_of_its_own_splits_said() {
    let (mut fast, mut slow) = (WatermarkTracker::new(0, None), WatermarkTracker::new(0, None));
    fast.on_rows(Some(A), Some(100));
    slow.on_rows(Some(B), Some(50));
    assert_eq!((fast.advance(), slow.advance()), (Some(EventTime(99)), Some(EventTime(49))));
    for (own, said) in [(&[A][..], 99), (&[B], 49), (&[A, B], 49), (&[], 49)] {
        assert_eq!(restored(&[&fast, &slow], own).settle(), Some(EventTime(said)), "with the splits {own:?}");
    }
    // Rows without a split: every subtask had one, and it is not added.
    let [mut fast, mut slow] = [(); 2].map(|()| WatermarkTracker::new(0, None));
    fast.on_rows(None, Some(100));
    slow.on_rows(None, Some(50));
    assert_eq!((fast.advance(), slow.advance()), (Some(EventTime(99)), Some(EventTime(49))));
    let mut after = restored(&[&fast, &slow], &[]);
    assert_eq!(after.settle(), Some(EventTime(49)));
    after.on_rows(None, Some(10));
    assert_eq!(after.advance(), None);
}

/// Carries c5: splits that another subtask reads now do not come back with the next checkpoint.
#[test]
fn c5_splits_of_others_are_not_kept_again() {
    let (mut one, mut other) = (WatermarkTracker::new(0, None), WatermarkTracker::new(0, None));
    one.on_rows(Some(A), Some(100));
    other.on_rows(Some(B), Some(50));
    let (splits, _) = restored(&[&one, &other], &[B]).snapshot();
    assert_eq!(splits.iter().map(|split| split.index).collect::<Vec<_>>(), [Some(B)]);
}

/// Carries d1.
#[test]
fn d1_restored_splits_are_told_as_idle_only_when_all_are() {
    let mut before = WatermarkTracker::new(0, Some(1000));
    before.on_rows(Some(A), Some(100));
    before.on_rows(Some(B), Some(50));
    before.on_waited(1);
    before.on_waited(999);
    before.on_rows(Some(B), Some(50));
    assert_eq!(before.on_waited(1), Idleness::Unchanged);
    assert_eq!(before.on_waited(1), Idleness::Unchanged, "a is idle, b is not");
    let mut after = restored(&[&before], &[A, B]);
    assert_eq!(after.on_waited(0), Idleness::Unchanged);
    let mut after = restored(&[&before], &[A]);
    assert_eq!(after.on_waited(0), Idleness::BecameIdle);
    assert_eq!(after.on_rows(Some(A), None), Idleness::BecameActive);
}

/// The input ends at the greatest watermark of any split, also of those that were finished before the checkpoint.
#[test]
fn restored_input_ends_at_the_same_time() {
    let mut before = WatermarkTracker::new(0, None);
    before.on_rows(Some(A), Some(100));
    before.on_rows(Some(B), Some(50));
    before.on_finished(A);
    assert_eq!(before.advance(), Some(EventTime(49)));
    let mut after = restored(&[&before], &[B]);
    assert_eq!(after.settle(), Some(EventTime(49)));
    after.on_finished(B);
    assert_eq!((after.advance(), after.at_end()), (None, Some(EventTime(99))));
}
