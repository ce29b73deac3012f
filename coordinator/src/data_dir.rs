//! The coordinator's directory: one process at a time, and a term that grows with every start.
//!
//! The term is the first half of every fencing token. One coordinator without a replicated log gets it from a file; a
//! replicated one will get it from its election, behind the same type.

use std::fs::{self, File, TryLockError};
use std::io::Write;
use std::path::{Path, PathBuf};

use crate::error::CoordinatorError;

/// Leadership over a data directory; held as long as this value lives.
#[derive(Debug)]
pub(crate) struct Leadership {
    term: u64,
    _lock: File,
}

impl Leadership {
    /// Locks the directory and begins the next term.
    pub(crate) fn acquire(data_dir: &Path) -> Result<Self, CoordinatorError> {
        let failed = |path: &Path| {
            let path = path.to_owned();
            move |source| CoordinatorError::DataDir { path, source }
        };
        fs::create_dir_all(data_dir).map_err(failed(data_dir))?;
        let lock_path = data_dir.join("coordinator.lock");
        let lock = File::create(&lock_path).map_err(failed(&lock_path))?;
        match lock.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => return Err(CoordinatorError::DataDirInUse { path: data_dir.to_owned() }),
            Err(TryLockError::Error(source)) => return Err(failed(&lock_path)(source)),
        }
        let term_path = data_dir.join("term");
        let term = next_term(&term_path).map_err(failed(&term_path))?;
        Ok(Leadership { term, _lock: lock })
    }

    /// The term; greater than that of every coordinator before on this directory.
    pub(crate) fn term(&self) -> u64 {
        self.term
    }
}

fn next_term(path: &PathBuf) -> std::io::Result<u64> {
    let last = match fs::read_to_string(path) {
        Ok(text) => text.trim().parse::<u64>().map_err(std::io::Error::other)?,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => 0,
        Err(error) => return Err(error),
    };
    let term = last.checked_add(1).ok_or_else(|| std::io::Error::other("no term is left"))?;
    let temporary = path.with_extension("tmp");
    let mut file = File::create(&temporary)?;
    writeln!(file, "{term}")?;
    file.sync_all()?;
    fs::rename(&temporary, path)?;
    if let Some(dir) = path.parent() {
        File::open(dir)?.sync_all()?;
    }
    Ok(term)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn term_grows_with_every_start() {
        let dir = tempfile::tempdir().expect("a directory");
        let terms: Vec<u64> =
            (0..3).map(|_| Leadership::acquire(dir.path()).expect("the directory is free").term()).collect();
        assert_eq!(terms, [1, 2, 3]);
    }

    #[test]
    fn second_coordinator_on_a_directory_is_refused() {
        let dir = tempfile::tempdir().expect("a directory");
        let _first = Leadership::acquire(dir.path()).expect("the directory is free");
        let error = Leadership::acquire(dir.path()).expect_err("the directory is taken");
        assert_eq!(error.code(), "data-dir-in-use");
    }
}
