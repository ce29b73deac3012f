//! What is broken under a job, and how.

use std::fmt;
use std::process::Command;
use std::time::Duration;

use nix::sys::signal::Signal;

use weir_core::Random;
use weir_core::random::SplitMix64;

use super::store::BrokenStore;
use crate::{Cluster, Process};

/// Longer than a worker's lease.
const PAUSE: Duration = Duration::from_millis(4500);
/// How long a disk is full.
const FULL: Duration = Duration::from_millis(1500);
/// Requests to the checkpoint store that are cut.
const CUTS: u64 = 10;

/// What is done to a cluster.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Fault {
    /// One of two workers dies.
    KillWorker,
    /// Both workers die.
    KillAllWorkers,
    /// The coordinator dies and is started again.
    KillCoordinator,
    /// The whole cluster dies and is started again.
    KillEverything,
    /// A worker stands still for longer than its lease, then goes on: the zombie must not write.
    PauseWorker,
    /// Requests to the S3 server that holds the checkpoints are cut, and mostly a worker dies meanwhile.
    CutStore,
    /// For a while a worker can write to no disk: not its state, not its part of checkpoints, not its output.
    FullDisk,
}

impl Fault {
    /// All of them.
    pub const ALL: [Fault; 7] = [
        Fault::KillWorker,
        Fault::KillAllWorkers,
        Fault::KillCoordinator,
        Fault::KillEverything,
        Fault::PauseWorker,
        Fault::CutStore,
        Fault::FullDisk,
    ];

    /// Does it, and brings back as many processes as died. `store` is that of the job's checkpoints, when requests to it
    /// are to be cut.
    pub(super) fn strike(self, cluster: &mut Cluster, store: Option<&BrokenStore>, dice: &mut SplitMix64) {
        let index = dice.below(2) as usize;
        match self {
            Fault::KillWorker => {
                cluster.workers[index].signal(Signal::SIGKILL);
                cluster.add_worker(2);
            }
            Fault::KillAllWorkers => {
                cluster.workers.iter().take(2).for_each(|worker| worker.signal(Signal::SIGKILL));
                cluster.add_worker(2);
                cluster.add_worker(2);
            }
            Fault::KillCoordinator => cluster.restart_coordinator(),
            Fault::KillEverything => {
                cluster.workers.iter().for_each(|worker| worker.signal(Signal::SIGKILL));
                cluster.restart_coordinator();
                cluster.add_worker(2);
                cluster.add_worker(2);
            }
            Fault::PauseWorker => {
                cluster.workers[index].signal(Signal::SIGSTOP);
                std::thread::sleep(PAUSE);
                cluster.workers[index].signal(Signal::SIGCONT);
            }
            Fault::CutStore => {
                let killed_at = dice.below(CUTS * 3 / 2);
                for cut in 0..CUTS {
                    store.into_iter().for_each(|store| store.cut(dice));
                    if cut == killed_at {
                        cluster.workers[index].signal(Signal::SIGKILL);
                        cluster.add_worker(2);
                    }
                    std::thread::sleep(Duration::from_millis(dice.below(200)));
                }
            }
            Fault::FullDisk => {
                limit_files(&cluster.workers[index], "0");
                std::thread::sleep(FULL);
                limit_files(&cluster.workers[index], "unlimited");
            }
        }
    }
}

/// Sets how large a file of a process may become. No file may grow: what a full disk does, to this process alone, without
/// the rights that a file system of one's own needs. The process sees EFBIG where a disk says ENOSPC.
fn limit_files(process: &Process, bytes: &str) {
    let limit = [format!("--pid={}", process.id()), format!("--fsize={bytes}:unlimited")];
    let status = Command::new("prlimit").args(limit).status().expect("prlimit (util-linux) is on the machine");
    assert!(status.success(), "prlimit sets the limit of a process of ours");
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Fault::KillWorker => "kill a worker",
            Fault::KillAllWorkers => "kill all workers",
            Fault::KillCoordinator => "kill the coordinator",
            Fault::KillEverything => "kill the whole cluster",
            Fault::PauseWorker => "pause a worker",
            Fault::CutStore => "cut store requests",
            Fault::FullDisk => "fill a disk",
        })
    }
}
