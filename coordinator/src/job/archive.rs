//! Jobs that have ended, on disk: one file `archive/<job id>.binpb` each, an encoded `weir.v1.JobDetails`, so that
//! their states and counts outlive the process. At most [`ENDED_JOBS_MAX`] are kept.

use std::fs;
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use prost::Message;
use weir_core::JobId;
use weir_proto::v1::JobDetails;

use crate::error::CoordinatorError;

/// Ended jobs that are kept.
pub(crate) const ENDED_JOBS_MAX: usize = 1000;

/// The directory of ended jobs.
#[derive(Clone, Debug)]
pub(crate) struct Archive {
    dir: PathBuf,
}

impl Archive {
    /// Uses `data_dir/archive`; makes it when missing.
    pub(crate) fn open(data_dir: &Path) -> Result<Self, CoordinatorError> {
        let dir = data_dir.join("archive");
        fs::create_dir_all(&dir).map_err(|source| CoordinatorError::DataDir { path: dir.clone(), source })?;
        Ok(Archive { dir })
    }

    /// Reads all jobs. A file that cannot be read is left where it is, with a warning: it is one old job.
    pub(crate) fn load(&self) -> Result<Vec<(JobId, JobDetails)>, CoordinatorError> {
        let in_dir = |source| CoordinatorError::DataDir { path: self.dir.clone(), source };
        let mut jobs = Vec::new();
        for entry in fs::read_dir(&self.dir).map_err(in_dir)? {
            let path = entry.map_err(in_dir)?.path();
            if path.extension().is_none_or(|extension| extension != "binpb") {
                continue;
            }
            match read(&path) {
                Ok(job) => jobs.push(job),
                Err(error) => tracing::warn!(path = %path.display(), %error, "cannot read an ended job"),
            }
        }
        Ok(jobs)
    }

    /// Keeps a job: written beside and renamed, so that a file is whole or not there.
    pub(crate) fn store(&self, id: JobId, details: &JobDetails) -> io::Result<()> {
        let temporary = self.dir.join(format!("{id}.tmp"));
        let mut file = fs::File::create(&temporary)?;
        file.write_all(&details.encode_to_vec())?;
        file.sync_all()?;
        fs::rename(&temporary, self.path(id))
    }

    /// Forgets a job.
    pub(crate) fn remove(&self, id: JobId) -> io::Result<()> {
        fs::remove_file(self.path(id))
    }

    fn path(&self, id: JobId) -> PathBuf {
        self.dir.join(format!("{id}.binpb"))
    }
}

fn read(path: &Path) -> io::Result<(JobId, JobDetails)> {
    let details = JobDetails::decode(fs::read(path)?.as_slice()).map_err(io::Error::other)?;
    let summary = details.summary.as_ref().ok_or_else(|| io::Error::other("it has no summary"))?;
    Ok((summary.job_id.parse().map_err(io::Error::other)?, details))
}

#[cfg(test)]
mod tests {
    use weir_proto::v1::JobSummary;

    use super::*;

    #[test]
    fn ended_jobs_outlive_the_process() {
        let dir = tempfile::tempdir().expect("a directory");
        let archive = Archive::open(dir.path()).expect("open");
        let id = JobId(7);
        let summary = JobSummary { job_id: id.to_string(), ..JobSummary::default() };
        let details = JobDetails { summary: Some(summary), late_records: 3, ..JobDetails::default() };
        archive.store(id, &details).expect("store");
        fs::write(dir.path().join("archive/torn.binpb"), [0xff]).expect("write");
        let again = Archive::open(dir.path()).expect("open again");
        assert_eq!(again.load().expect("load"), [(id, details)]);
        again.remove(id).expect("remove");
        assert_eq!(again.load().expect("load"), []);
    }
}
