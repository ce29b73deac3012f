//! The crash matrix: a job runs, something is broken under it at a moment of the run's own, and what it leaves must be
//! what the undisturbed run leaves. `tests/crash.rs` plays it against the product, `tests/planted.rs` against mistakes
//! that are planted in it. All of a run follows from its number; what differs is told, not thrown, so that both may judge.

mod fault;
mod job;
mod store;
mod summary;

use std::fmt;
use std::time::{Duration, Instant};

pub use fault::Fault;
pub use job::{Job, Query};
pub use summary::Summary;

use store::BrokenStore;
use weir_core::Random;
use weir_core::random::SplitMix64;

use crate::{Cluster, ClusterOptions, run};

/// Longest time a run may take.
pub const RUN_PATIENCE: Duration = Duration::from_secs(150);

/// Settings of every job of the matrix: many checkpoints in a short run.
const SETTINGS: [(&str, &str); 2] =
    [("execution.checkpointing.interval", "200 ms"), ("restart-strategy.exponential-delay.initial-backoff", "50 ms")];

/// One run of the matrix.
#[derive(Clone, Debug)]
pub struct Run {
    /// From which the rest follows.
    pub number: u64,
    /// What runs.
    pub job: Job,
    /// What is broken under it.
    pub fault: Fault,
    /// At what parallelism it runs.
    pub parallelism: u64,
    /// At what parallelism it is restored behind the fault.
    pub rescale_to: Option<u64>,
    /// When it is broken, from the submission.
    pub moment: Duration,
    /// More settings of the job.
    pub settings: Vec<(&'static str, &'static str)>,
    /// The mistake that is planted in all processes.
    pub bug: Option<&'static str>,
    /// How long it may take.
    pub patience: Duration,
}

impl Run {
    /// The run of a number. Faults and jobs take turns, so that a row of 63 numbers has each pair; the rest is thrown.
    pub fn draw(number: u64) -> Run {
        let mut dice = SplitMix64::new(number);
        let (faults, jobs) = (Fault::ALL.len() as u64, Job::ALL.len() as u64);
        let job = Job::ALL[((number + number / faults) % jobs) as usize];
        Run {
            number,
            job: if dice.below(2) == 0 { job } else { job.in_parts() },
            fault: Fault::ALL[(number % faults) as usize],
            parallelism: 1 + dice.below(4),
            rescale_to: (dice.below(3) == 0).then(|| 1 + dice.below(4)),
            moment: Duration::from_millis(300 + dice.below(2500)),
            settings: Vec::new(),
            bug: None,
            patience: RUN_PATIENCE,
        }
    }
}

impl fmt::Display for Run {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Run { number, job, fault, parallelism, moment, .. } = self;
        write!(f, "run {number}: {job} at parallelism {parallelism}, {fault} after {} ms", moment.as_millis())?;
        match self.rescale_to {
            Some(to) => write!(f, ", then parallelism {to}"),
            None => Ok(()),
        }
    }
}

/// Plays a run to its end. Gives what the job says of its checkpoints and restarts.
///
/// **Errors**: how what it left differs from what it must leave, or that the job did not finish, and what it said.
pub fn play(played: &Run) -> Result<String, String> {
    let scratch = tempfile::tempdir().map_err(|error| format!("a directory for the run: {error}"))?;
    let store = (played.fault == Fault::CutStore).then(BrokenStore::start);
    let environment = played.bug.map(|bug| (weir_core::planted::VARIABLE.to_owned(), bug.to_owned()));
    let options = ClusterOptions {
        environment: environment.into_iter().collect(),
        outlives_full_disk: played.fault == Fault::FullDisk,
        memory: played.job.memory(),
    };
    let mut cluster = Cluster::with(2, 2, options);
    let mut definitions = played.job.definitions(scratch.path());
    let owned = |(name, value): &(&str, &str)| (name.to_string(), value.to_string());
    definitions.extend(SETTINGS.iter().chain(&played.settings).map(owned));
    definitions.extend(store.iter().flat_map(BrokenStore::settings));
    let definitions: Vec<(&str, &str)> =
        definitions.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect();
    let (job, parallelism) = (played.job.file(scratch.path())?, played.parallelism.to_string());
    let id = cluster.submit(&[&job, "-p", &parallelism], &definitions);
    let deadline = Instant::now() + played.patience;
    std::thread::sleep(played.moment);
    played.fault.strike(&mut cluster, store.as_ref(), &mut SplitMix64::new(!played.number));
    if let Some(parallelism) = played.rescale_to {
        rescale(&cluster, &id, parallelism, deadline)?;
    }
    let info = cluster.until(&id, &[FINISHED], deadline)?;
    played.job.compare(scratch.path(), &info)?;
    let lines = info.lines().filter(|line| line.starts_with("Checkpoints") || line.starts_with("Restarts"));
    let said = lines.map(|line| line.split(';').next().unwrap_or(line));
    let said = said.flat_map(str::split_whitespace).collect::<Vec<_>>();
    Ok(said.join(" "))
}

const FINISHED: &str = "State      FINISHED";

/// Moves the job to another parallelism, from a checkpoint of its own; what has ended before needs it no more. A job that is
/// just coming back from the fault is asked again.
fn rescale(cluster: &Cluster, job: &str, parallelism: u64, deadline: Instant) -> Result<(), String> {
    loop {
        if cluster.until(job, &["State      RUNNING", FINISHED], deadline)?.contains(FINISHED) {
            return Ok(());
        }
        let output = run(cluster.client(&["rescale", job, "-p", &parallelism.to_string()]));
        if output.status.success() {
            return Ok(());
        }
        if Instant::now() >= deadline {
            return Err(format!("the job is not rescaled: {}", String::from_utf8_lossy(&output.stderr)));
        }
        std::thread::sleep(Duration::from_millis(100));
    }
}
