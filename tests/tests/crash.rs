//! Jobs under which something is broken while they run: the results must be those of an undisturbed run, to the row.
//!
//! The short form runs here; `WEIR_CRASH_RUNS` sets how many runs are made (`make crash` makes many). A failure names its
//! run, which `WEIR_CRASH_FIRST` repeats.

#![allow(clippy::disallowed_methods, reason = "real processes live on the real clock")]

use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Instant;

use weir_tests::crash::{Run, Summary, play};

/// Runs of the short form: each fault four times, some 80 s.
const SHORT: u64 = 28;
/// Runs that go on at once: most of a run is waiting.
const LANES: usize = 2;

fn number(name: &str) -> Option<u64> {
    std::env::var(name).ok().and_then(|text| text.parse().ok())
}

#[test]
fn results_survive_crashes() {
    let first = number("WEIR_CRASH_FIRST").unwrap_or(0);
    let end = first + number("WEIR_CRASH_RUNS").unwrap_or(SHORT);
    let next = AtomicU64::new(first);
    let (summary, failures) = (Mutex::new(Summary::default()), Mutex::new(Vec::new()));
    std::thread::scope(|scope| {
        for _ in 0..LANES {
            scope.spawn(|| {
                loop {
                    let run = Run::draw(next.fetch_add(1, Relaxed));
                    if run.number >= end {
                        return;
                    }
                    let began = Instant::now();
                    let result = play(&run);
                    let seconds = began.elapsed().as_secs_f64();
                    match &result {
                        Ok(said) => eprintln!("{run}: as undisturbed, {seconds:.1} s ({said})"),
                        Err(reason) => eprintln!("{run}: DIFFERS, {seconds:.1} s: {reason}"),
                    }
                    summary.lock().expect("no holder panics").add(&run, result.is_ok());
                    if let Err(reason) = result {
                        failures.lock().expect("no holder panics").push(format!("{run}: {reason}"));
                    }
                }
            });
        }
    });
    eprintln!("\n{}", summary.into_inner().expect("no holder panics"));
    let failures = failures.into_inner().expect("no holder panics");
    assert!(failures.is_empty(), "{} run(s) differ:\n{}", failures.len(), failures.join("\n"));
}
