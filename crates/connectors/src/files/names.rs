//! The names of part files (pure): no two jobs, sinks, attempts, subtasks or parts ever share one, and a name found on
//! disk tells whose it is.
//!
//! ```text
//! directory   part-<job>-<sink>-<subtask>-<term>-<attempt>-<n>.csv      hidden: .part-...csv.inprogress
//! in a bucket the same                                 hidden: an open upload of that name
//! one file    out.csv                                  hidden: .out.csv.<job>-<sink>-<subtask>-<term>-<attempt>-<n>.inprogress
//! ```
//! `<sink>` is a hash of the sink's uid. Term and attempt keep attempts apart: one that was given up and still runs
//! somewhere cannot touch what a newer one writes.

use std::path::{Path, PathBuf};

use weir_core::{AttemptNumber, FencingToken, JobId, OperatorUid, SubtaskIndex};
use xxhash_rust::xxh3::xxh3_64;

use crate::files::enumerate::IN_PROGRESS;
use crate::files::part::PartPaths;

/// What the names of part files begin with.
const PART: &str = "part-";

/// Which part of a sink's output a file is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct PartId {
    /// Term and attempt in which it was written.
    pub token: FencingToken,
    /// Who wrote it.
    pub subtask: SubtaskIndex,
    /// Counted from 0 by its writer.
    pub number: u32,
}

/// Where a sink writes, and the mark of job and sink that all its names carry.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Names {
    directory: PathBuf,
    /// The single file; part files in the directory when absent.
    file: Option<String>,
    /// Ending of part files, with its point.
    extension: String,
    mark: String,
    /// Whether nobody sees a file that is being written under its own name: an open upload.
    is_bucket: bool,
}

impl Names {
    /// The names of one sink of a job. `file` is the single file it writes, if it writes one.
    pub fn new(
        job: JobId,
        sink: &OperatorUid,
        (directory, file): (PathBuf, Option<String>),
        extension: String,
    ) -> Self {
        let mark = format!("{job}-{:08x}", xxh3_64(sink.as_str().as_bytes()) >> 32);
        let is_bucket = directory.to_str().is_some_and(weir_s3::address::is_s3);
        Names { directory, file, extension, mark, is_bucket }
    }

    /// Where everything is written.
    pub fn directory(&self) -> &Path {
        &self.directory
    }

    /// What all names of job and sink hold.
    pub fn mark(&self) -> &str {
        &self.mark
    }

    /// Where a part is written and where it will stand: under its own name, or as the single file.
    pub fn paths(&self, part: PartId) -> PartPaths {
        let FencingToken { term, attempt } = part.token;
        let stem = format!("{}-{}-{term}-{attempt}-{}", self.mark, part.subtask, part.number);
        let (target, hidden) = match &self.file {
            Some(file) => (file.clone(), format!(".{file}.{stem}{IN_PROGRESS}")),
            None => {
                let target = format!("{PART}{stem}{}", self.extension);
                let hidden = if self.is_bucket { target.clone() } else { format!(".{target}{IN_PROGRESS}") };
                (target, hidden)
            }
        };
        PartPaths { in_progress: self.directory.join(hidden), target: self.directory.join(target) }
    }
}

/// What a hidden file of a job and sink is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Hidden {
    /// A part.
    Part(PartId),
    /// The whole output, being put together by a publisher.
    Whole,
}

/// The name under which the single file `file` is put together; `publisher` is unique among publishers.
pub fn whole_name(file: &str, mark: &str, publisher: &str) -> String {
    format!(".{file}.{mark}-whole-{publisher}{IN_PROGRESS}")
}

/// What a name found on disk is to the job and sink of `mark`; `None` for everything that is not a hidden file of them.
pub fn read_hidden(mark: &str, name: &str) -> Option<Hidden> {
    let inner = name.strip_prefix('.')?.strip_suffix(IN_PROGRESS)?;
    let (_, rest) = inner.rsplit_once(mark)?;
    let words = rest.strip_prefix('-')?;
    if words.starts_with("whole-") {
        return Some(Hidden::Whole);
    }
    read_numbers(words).map(Hidden::Part)
}

/// Which part of the job and sink of `mark` an open upload of this name is; `None` for everything else.
pub fn read_upload(mark: &str, name: &str) -> Option<PartId> {
    read_numbers(name.strip_prefix(PART)?.strip_prefix(mark)?.strip_prefix('-')?)
}

/// Reads `<subtask>-<term>-<attempt>-<n>`; what follows a point does not matter.
fn read_numbers(words: &str) -> Option<PartId> {
    let (words, _) = words.split_once('.').unwrap_or((words, ""));
    let mut numbers = words.split('-').map(str::parse::<u64>);
    let mut next = || numbers.next()?.ok();
    let (subtask, term, attempt, number) = (next()?, next()?, next()?, next()?);
    let narrow = |number: u64| u32::try_from(number).ok();
    Some(PartId {
        token: FencingToken { term, attempt: AttemptNumber(narrow(attempt)?) },
        subtask: SubtaskIndex(narrow(subtask)?),
        number: narrow(number)?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn names(job: u128, sink: &str, file: Option<&str>) -> Names {
        let place = (PathBuf::from("/out"), file.map(str::to_owned));
        Names::new(JobId(job), &OperatorUid::from(sink), place, ".csv.gz".to_owned())
    }

    proptest! {
        #[test]
        fn hidden_names_tell_whose_they_are(
            term: u64, attempt: u32, subtask: u32, number: u32,
            file in prop_oneof![Just(None), Just(Some("out.csv.gz")), Just(Some("a-1-2-3-4.csv"))],
        ) {
            let part = PartId {
                token: FencingToken { term, attempt: AttemptNumber(attempt) },
                subtask: SubtaskIndex(subtask),
                number,
            };
            let ours = names(0xdb, "out", file);
            let paths = ours.paths(part);
            let name = paths.in_progress.file_name().expect("a name").to_str().expect("UTF-8");
            prop_assert_eq!(read_hidden(ours.mark(), name), Some(Hidden::Part(part)));
            for other in [names(0xdc, "out", file), names(0xdb, "late", file)] {
                prop_assert_eq!(read_hidden(other.mark(), name), None);
            }
            let visible = paths.target.file_name().expect("a name").to_str().expect("UTF-8");
            prop_assert_eq!(read_hidden(ours.mark(), visible), None);
            let place = (PathBuf::from("s3://bucket/out"), None);
            let uploads = Names::new(JobId(0xdb), &OperatorUid::from("out"), place, ".csv.gz".to_owned());
            let paths = uploads.paths(part);
            prop_assert_eq!(&paths.in_progress, &paths.target, "an open upload is not seen");
            let name = paths.target.file_name().expect("a name").to_str().expect("UTF-8");
            prop_assert_eq!(read_upload(uploads.mark(), name), Some(part));
            prop_assert_eq!(read_upload(names(0xdc, "out", None).mark(), name), None);
            prop_assert_eq!(read_upload(names(0xdb, "late", None).mark(), name), None);
        }
    }

    #[test]
    fn wholes_and_strangers_are_told_apart() {
        let names = names(1, "out", Some("o.csv"));
        let whole = whole_name("o.csv", names.mark(), "7-0");
        assert_eq!(read_hidden(names.mark(), &whole), Some(Hidden::Whole));
        for stranger in ["", ".", ".inprogress", ".o.csv.inprogress", "o.csv", ".x-1-2-3.inprogress"] {
            assert_eq!(read_hidden(names.mark(), stranger), None, "{stranger}");
        }
    }
}
