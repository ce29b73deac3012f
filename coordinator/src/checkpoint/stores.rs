//! Opens the stores that jobs keep their checkpoints in: the job's own, or a directory of the coordinator's when it names
//! none; and the directory of a savepoint.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;

use parking_lot::Mutex;
use weir_checkpoint::{CheckpointError, CheckpointStore, StoreOptions};
use weir_core::random::{Random, SplitMix64};
use weir_core::{Clock, JobId};
use weir_graph::config::CheckpointOptions;

/// Opens stores; cheap to clone.
#[derive(Clone, Debug)]
pub(crate) struct Stores {
    default_dir: PathBuf,
    clock: Arc<dyn Clock>,
    random: Arc<Mutex<SplitMix64>>,
}

impl Stores {
    /// Jobs that name no directory keep their checkpoints in `default_dir`.
    pub(crate) fn new(default_dir: PathBuf, clock: Arc<dyn Clock>, seed: u64) -> Self {
        Stores { default_dir, clock, random: Arc::new(Mutex::new(SplitMix64::new(seed))) }
    }

    /// The store of a job. Nothing is asked of it yet.
    ///
    /// **Errors**: `StoreUrl`, for an address or a key that cannot be right.
    pub(crate) fn of_job(&self, options: &CheckpointOptions) -> Result<Arc<dyn CheckpointStore>, CheckpointError> {
        match &options.dir {
            Some(url) => self.open(url, &options.store),
            None => self.open(&self.default_dir.display().to_string(), &options.store),
        }
    }

    /// The store at an address, with the S3 keys of a job.
    pub(crate) fn open(
        &self,
        url: &str,
        keys: &BTreeMap<String, String>,
    ) -> Result<Arc<dyn CheckpointStore>, CheckpointError> {
        let random = Box::new(SplitMix64::new(self.draw()));
        weir_checkpoint::open(url, &StoreOptions::from_config(keys)?, Arc::clone(&self.clock), random)
    }

    /// A new directory for a savepoint, below `directory`.
    pub(crate) fn savepoint_directory(&self, job: JobId, directory: &str) -> String {
        let name = weir_checkpoint::layout::savepoint_directory(job, &mut *self.random.lock());
        format!("{}/{name}", directory.trim_end_matches('/'))
    }

    /// A random word.
    pub(crate) fn draw(&self) -> u64 {
        self.random.lock().next_u64()
    }

    /// A random number in `[0, 1)`.
    pub(crate) fn draw_unit(&self) -> f64 {
        self.random.lock().unit()
    }
}
