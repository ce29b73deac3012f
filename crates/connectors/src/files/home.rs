//! Where the files of a sink stand: a directory of this machine, or a bucket. Paths are spelled alike (`/out/a.csv`,
//! `s3://bucket/out/a.csv`), so writer and committer need not know. Everything here blocks.

use std::collections::BTreeMap;
use std::fs::{self, File, OpenOptions};
use std::io::{self, ErrorKind, Write};
use std::path::Path;

use weir_operator_api::{OperatorError, Result};

use crate::files::bucket::{Access, Bucket, Uploaded};
use crate::files::join::part_lost;
use crate::files::memory::FilePart;
use crate::files::names::{Hidden, read_hidden, read_upload};
use crate::files::part::{create_directory, sink_io, sync_directory};

/// Where files stand; cheap to clone.
#[derive(Clone, Debug)]
pub enum Home {
    /// On this machine, or what is mounted there.
    Disk,
    /// In a bucket.
    Bucket(Bucket),
}

/// A file being written.
pub enum Out {
    /// On disk.
    File(File),
    /// To a bucket.
    Upload(Box<crate::files::bucket::Upload>),
}

/// A file that is whole and durable.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ended {
    /// Its size.
    pub bytes: u64,
    /// xxh3-64 of its bytes, where it may be read from a bucket again.
    pub hash: Option<u64>,
    /// What completes it, in a bucket.
    pub upload: Option<Uploaded>,
}

impl Home {
    /// Where files of this path stand.
    ///
    /// **Errors**: `sink-io` of the user.
    pub fn of(path: &Path, access: &Access) -> Result<Home> {
        match path.to_str() {
            Some(url) if weir_s3::address::is_s3(url) => Ok(Home::Bucket(Bucket::open(url, access)?)),
            _ => Ok(Home::Disk),
        }
    }

    /// Makes a directory ready to be written to.
    ///
    /// **Errors**: `sink-io`.
    pub fn prepare(&self, directory: &Path) -> Result<()> {
        match self {
            Home::Disk => create_directory(directory),
            Home::Bucket(bucket) => bucket.check(directory),
        }
    }

    /// Makes the names in a directory durable.
    ///
    /// **Errors**: `sink-io`.
    pub fn sync(&self, directory: &Path) -> Result<()> {
        match self {
            Home::Disk => sync_directory(directory),
            // What a bucket has acknowledged is durable.
            Home::Bucket(_) => Ok(()),
        }
    }

    /// Creates a file; one of that name is not replaced, and in a bucket none can be.
    ///
    /// **Errors**: `sink-io`.
    pub fn create(&self, path: &Path) -> Result<Out> {
        match self {
            Home::Disk => {
                let file = OpenOptions::new().write(true).create_new(true).open(path);
                Ok(Out::File(file.map_err(|error| sink_io("create", path, error))?))
            }
            Home::Bucket(bucket) => Ok(Out::Upload(Box::new(bucket.begin(path)?))),
        }
    }

    /// Removes a hidden file or an open upload; one that is gone already is fine.
    ///
    /// **Errors**: `sink-io`.
    pub fn remove(&self, path: &Path) -> Result<()> {
        match self {
            Home::Disk => match fs::remove_file(path) {
                Err(error) if error.kind() != ErrorKind::NotFound => Err(sink_io("remove", path, error)),
                _ => Ok(()),
            },
            Home::Bucket(bucket) => bucket.remove(path),
        }
    }

    /// Whether a file stands there.
    ///
    /// **Errors**: `sink-io`.
    pub fn has(&self, path: &Path) -> Result<bool> {
        match self {
            Home::Disk => Ok(path.is_file()),
            Home::Bucket(bucket) => Ok(bucket.size(path)?.is_some()),
        }
    }

    /// Checks that the hidden parts of a single file are there.
    ///
    /// **Errors**: `sink-part-lost`, `sink-io`.
    pub fn require(&self, directory: &Path, parts: &[FilePart]) -> Result<()> {
        match self {
            Home::Disk => parts.iter().try_for_each(|part| {
                let path = directory.join(&part.name);
                path.metadata().map(drop).map_err(|error| part_lost(&path, error))
            }),
            Home::Bucket(_) if parts.is_empty() => Ok(()),
            Home::Bucket(bucket) => {
                let listed = bucket.hidden_in(directory)?;
                let sizes: BTreeMap<&str, u64> =
                    listed.iter().map(|object| (object.name.as_str(), object.bytes)).collect();
                match parts.iter().find(|part| sizes.get(part.name.as_str()) != Some(&part.bytes)) {
                    Some(lost) => Err(part_lost(&directory.join(&lost.name), "it is not in the bucket, or not whole")),
                    None => Ok(()),
                }
            }
        }
    }

    /// Removes hidden files and open uploads of a job and sink that are `unwanted`. A directory that is gone holds none.
    ///
    /// **Errors**: `sink-io`.
    pub fn sweep(&self, directory: &Path, mark: &str, unwanted: impl Fn(&str, Hidden) -> bool) -> Result<()> {
        let is_left = |name: &str| read_hidden(mark, name).is_some_and(|hidden| unwanted(name, hidden));
        match self {
            Home::Disk => {
                let entries = match fs::read_dir(directory) {
                    Err(error) if error.kind() == ErrorKind::NotFound => return Ok(()),
                    entries => entries.map_err(|error| sink_io("list", directory, error))?,
                };
                for entry in entries {
                    let name = entry.map_err(|error| sink_io("list", directory, error))?.file_name();
                    let Some(name) = name.to_str().filter(|name| is_left(name)) else { continue };
                    self.sweep_away(directory, name)?;
                }
                Ok(())
            }
            Home::Bucket(bucket) => {
                for (name, id) in bucket.uploads_in(directory)? {
                    let is_unwanted = read_upload(mark, &name).is_some_and(|part| unwanted(&name, Hidden::Part(part)));
                    if is_unwanted || is_left(&name) {
                        tracing::debug!(name, directory = %directory.display(), "aborting an upload that is left over");
                        bucket.abort(&directory.join(&name), &id)?;
                    }
                }
                let hidden = bucket.hidden_in(directory)?;
                hidden
                    .iter()
                    .filter(|object| is_left(&object.name))
                    .try_for_each(|object| self.sweep_away(directory, &object.name))
            }
        }
    }

    fn sweep_away(&self, directory: &Path, name: &str) -> Result<()> {
        tracing::debug!(name, directory = %directory.display(), "removing a hidden file that is left over");
        self.remove(&directory.join(name))
    }
}

impl Out {
    /// Ends the file and makes it durable; `path` is what messages call it. On disk its name is durable only when the
    /// directory is.
    ///
    /// **Errors**: `sink-io`.
    pub fn finish(self, path: &Path) -> Result<Ended> {
        match self {
            Out::File(file) => {
                file.sync_all().map_err(|error| sink_io("sync", path, error))?;
                let bytes = file.metadata().map_err(|error| sink_io("look at", path, error))?.len();
                Ok(Ended { bytes, hash: None, upload: None })
            }
            Out::Upload(upload) => {
                let (uploaded, hash) = upload.finish()?;
                Ok(Ended { bytes: uploaded.bytes, hash: Some(hash), upload: Some(uploaded) })
            }
        }
    }
}

impl Write for Out {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match self {
            Out::File(file) => file.write(bytes),
            Out::Upload(upload) => upload.write(bytes),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        match self {
            Out::File(file) => file.flush(),
            Out::Upload(upload) => upload.flush(),
        }
    }
}

/// The homes of a publisher's paths, each opened once.
#[derive(Debug)]
pub struct Homes {
    access: Access,
    buckets: BTreeMap<String, Bucket>,
}

impl Homes {
    /// Reached in this way.
    pub fn new(access: Access) -> Self {
        Homes { access, buckets: BTreeMap::new() }
    }

    /// Where files of this path stand.
    ///
    /// **Errors**: `sink-io` of the user.
    pub fn of(&mut self, path: &Path) -> Result<Home> {
        let text = path.to_str().ok_or_else(|| OperatorError::internal("a path is not UTF-8"))?;
        if !weir_s3::address::is_s3(text) {
            return Ok(Home::Disk);
        }
        let known = self.buckets.iter().find(|(root, _)| {
            text.strip_prefix(root.as_str()).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
        });
        if let Some((_, bucket)) = known {
            return Ok(Home::Bucket(bucket.clone()));
        }
        let bucket = Bucket::open(text, &self.access)?;
        self.buckets.insert(bucket.root().to_owned(), bucket.clone());
        Ok(Home::Bucket(bucket))
    }
}
