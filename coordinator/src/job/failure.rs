//! Failures that the coordinator itself finds, as the data that `weir info` shows. Codes are pages in `docs/errors`.

use std::time::Duration;

use weir_core::{ErrorDomain, Problem, WorkerId};
use weir_proto::v1::Failure;

use super::state::TaskState;

fn failure(code: &str, domain: ErrorDomain, message: String, now_unix_us: i64) -> Failure {
    Failure {
        code: code.to_owned(),
        domain: domain.to_string(),
        chain: vec![message],
        failed_at_unix_ms: now_unix_us / 1000,
        ..Failure::default()
    }
}

/// A failure that the coordinator finds, with its code.
pub(crate) fn of_coordinator(code: &str, domain: ErrorDomain, message: String, now_unix_us: i64) -> Failure {
    failure(code, domain, message, now_unix_us)
}

/// Problems as one sentence.
pub(crate) fn listed(problems: &[Problem]) -> String {
    problems.iter().map(Problem::to_string).collect::<Vec<_>>().join("; ")
}

/// Prints a time limit as a user would write it.
pub(crate) fn seconds(duration: Duration) -> String {
    if duration.subsec_millis() == 0 {
        format!("{} s", duration.as_secs())
    } else {
        format!("{} ms", duration.as_millis())
    }
}

/// Why a job waits, in words; also the heart of [`no_slots`].
pub(crate) fn waiting_for(needed: u32, free: u32) -> String {
    let plural = if needed == 1 { "" } else { "s" };
    let verb = if free == 1 { "is" } else { "are" };
    format!("needs {needed} slot{plural}, {free} {verb} free")
}

/// The job waited too long for slots. One that has run before waits on, as its restart strategy says: workers may come
/// back.
pub(crate) fn no_slots((needed, free): (u32, u32), waited: Duration, has_run: bool, now_unix_us: i64) -> Failure {
    let message = format!(
        "{} after {}: start more workers, lower the parallelism or raise slot.request.timeout",
        waiting_for(needed, free),
        seconds(waited)
    );
    let domain = if has_run { ErrorDomain::External } else { ErrorDomain::User };
    failure("no-slots", domain, message, now_unix_us)
}

/// A worker went away with tasks of the job on it.
pub(crate) fn worker_lost(worker: &WorkerId, why: &str, now_unix_us: i64) -> Failure {
    let message = format!("worker {worker} was lost: {why}");
    Failure { worker: worker.0.clone(), ..failure("worker-lost", ErrorDomain::External, message, now_unix_us) }
}

/// Tasks did not come up in time.
pub(crate) fn deploy_timeout(ready: usize, all: usize, waited: Duration, now_unix_us: i64) -> Failure {
    let message = format!("only {ready} of {all} tasks came up within {}", seconds(waited));
    failure("deploy-timeout", ErrorDomain::External, message, now_unix_us)
}

/// Output was not published in time.
pub(crate) fn publish_timeout(waiting: &[String], waited: Duration, now_unix_us: i64) -> Failure {
    let message = format!("output of sink {} was not published within {}", waiting.join(", "), seconds(waited));
    failure("publish-timeout", ErrorDomain::External, message, now_unix_us)
}

/// There is no worker that could publish.
pub(crate) fn no_publisher(sink: &str, now_unix_us: i64) -> Failure {
    let message = format!("no worker is left that could publish the output of sink '{sink}'");
    failure("worker-lost", ErrorDomain::External, message, now_unix_us)
}

/// A worker ended a task without giving the reason it owes.
pub(crate) fn unexplained(state: TaskState, worker: &WorkerId, now_unix_us: i64) -> Failure {
    let message = match state {
        TaskState::Canceled => {
            "the worker stopped the task without being told to: it is shutting down or lost its coordinator"
        }
        _ => "the task failed without giving a reason",
    };
    Failure {
        worker: worker.0.clone(),
        ..failure("task-canceled", ErrorDomain::External, message.to_owned(), now_unix_us)
    }
}
