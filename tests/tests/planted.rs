//! The crash tests, shown red: each mistake of `weir_core::planted` is planted in all processes, and the procedure of the
//! crash matrix must find it within a few runs. The run that found one is played again without it, and
//! must be green.

#![allow(clippy::disallowed_methods, reason = "real processes live on the real clock")]

use std::time::Duration;

use weir_core::planted;
use weir_tests::crash::{Fault, Job, Query, Run, play};

/// Runs in which a mistake must be found.
const RUNS_MAX: u64 = 5;

/// Restarts come to an end: a job that cannot be restored is to say so soon.
const SETTINGS: [(&str, &str); 3] = [
    ("restart-strategy.type", "fixed-delay"),
    ("restart-strategy.fixed-delay.attempts", "8"),
    ("restart-strategy.fixed-delay.delay", "50 ms"),
];

/// Plays until the mistake is found. `sign` is what a finding of it says: a failure of another kind is none.
fn check(bug: &'static str, (job, fault): (Job, Fault), parallelism: u64, rescale_to: Option<u64>, sign: &str) {
    for number in 0..RUNS_MAX {
        let run = Run {
            number,
            job,
            fault,
            parallelism,
            rescale_to,
            moment: Duration::from_millis(1200 + 150 * number),
            settings: SETTINGS.into(),
            bug: Some(bug),
            patience: Duration::from_secs(40),
        };
        match play(&run) {
            Ok(said) => eprintln!("{bug}: not found in {run} ({said})"),
            Err(reason) => {
                assert!(reason.contains(sign), "{bug}: {run} fails otherwise than by '{sign}': {reason}");
                eprintln!("{bug}: found in {run}");
                // It is the mistake that was found: without it the same run is green.
                play(&Run { bug: None, ..run }).expect("nothing is planted");
                return;
            }
        }
    }
    panic!("{bug} is not found in {RUNS_MAX} runs");
}

/// What differing rows say.
const DIFFERENT: &str = "lines, expected";
/// What a checkpoint says that cannot be read.
const GONE: &str = "checkpoint-not-found";

const PARTS: Job = Job::PositionsInParts(Query::Tumble);
const SHARING: Job = Job::ManyKeys { events: 3_000_000 };

#[test]
fn barrier_before_freeze_is_found() {
    check(planted::BARRIER_BEFORE_FREEZE, (Job::Positions(Query::Tumble), Fault::KillWorker), 2, None, DIFFERENT);
}

#[test]
fn offsets_after_barrier_are_found() {
    check(planted::OFFSETS_AFTER_BARRIER, (Job::Positions(Query::Tumble), Fault::KillAllWorkers), 2, None, DIFFERENT);
}

#[test]
fn notified_is_committed_is_found() {
    check(planted::NOTIFIED_IS_COMMITTED, (PARTS, Fault::KillCoordinator), 2, None, DIFFERENT);
}

#[test]
fn key_group_off_by_one_is_found() {
    check(planted::KEY_GROUP_OFF_BY_ONE, (Job::Positions(Query::Session), Fault::KillWorker), 2, Some(3), DIFFERENT);
}

#[test]
fn shared_object_deleted_early_is_found() {
    check(planted::SHARED_OBJECT_DELETED_EARLY, (SHARING, Fault::KillWorker), 2, None, GONE);
}

#[test]
fn manifest_before_last_object_is_found() {
    check(planted::MANIFEST_BEFORE_LAST_OBJECT, (SHARING, Fault::KillAllWorkers), 2, None, GONE);
}
