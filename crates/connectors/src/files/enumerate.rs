//! Which splits a file source has: lists files, then cuts those that can be cut. The coordinator asks once per job
//! start; the same files always give the same splits.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

use weir_core::{SplitIndex, Value};
use weir_operator_api::{OperatorError, Result, Split};

use crate::files::compression::Compression;
use crate::files::settings::{SPLIT_BYTES_DEFAULT, SourceSettings};

/// No piece is cut smaller than this for the sake of parallelism alone.
const PIECE_BYTES_MIN: u64 = 256 * 1024;

/// Ending of files that are still being written.
pub const IN_PROGRESS: &str = ".inprogress";

/// A file to read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FileToRead {
    /// Where it is.
    pub path: String,
    /// How long it is.
    pub size_bytes: u64,
    /// Whether it may be cut at any line.
    pub is_cuttable: bool,
}

/// What one split is: the lines of a file that start in `start..end`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FilePiece {
    /// The file.
    pub path: String,
    /// First byte.
    pub start: u64,
    /// Byte after the last; the end of the file when absent.
    pub end: Option<u64>,
}

impl FilePiece {
    /// Puts it into a split's words.
    pub fn to_value(&self) -> Value {
        let mut map = BTreeMap::from([
            ("path".to_owned(), Value::Text(self.path.clone())),
            ("start".to_owned(), Value::Integer(self.start as i64)),
        ]);
        if let Some(end) = self.end {
            map.insert("end".to_owned(), Value::Integer(end as i64));
        }
        Value::Map(map)
    }

    /// Reads a split's words.
    ///
    /// **Errors**: internal, when they are not ours.
    pub fn of_value(value: &Value) -> Result<FilePiece> {
        let wrong = || OperatorError::internal(format!("not a split of a file source: {value}"));
        let map = value.as_map().ok_or_else(wrong)?;
        let number = |name: &str| match map.get(name) {
            Some(Value::Integer(number)) => u64::try_from(*number).ok(),
            _ => None,
        };
        Ok(FilePiece {
            path: map.get("path").and_then(Value::as_text).ok_or_else(wrong)?.to_owned(),
            start: number("start").ok_or_else(wrong)?,
            end: number("end"),
        })
    }
}

/// Lists the files and cuts them. Blocks: call it where blocking is allowed.
///
/// **Errors**: `file-not-found` when a path names nothing to read, `file-read` when the system refuses.
pub fn enumerate(settings: &SourceSettings, parallelism: u32) -> Result<Vec<Split>> {
    let mut paths = BTreeSet::new();
    for path in &settings.paths {
        paths.extend(expand(path)?);
    }
    let mut files = Vec::new();
    for path in paths {
        let metadata = fs::metadata(&path).map_err(|error| refused("look at", &path, error))?;
        let is_plain = settings.compression_of(&path) == Compression::None;
        let name = path.to_str().ok_or_else(|| {
            OperatorError::user("file-read", format!("the name of '{}' is not UTF-8: rename the file", path.display()))
        })?;
        files.push(FileToRead {
            path: name.to_owned(),
            size_bytes: metadata.len(),
            is_cuttable: is_plain && metadata.is_file() && settings.format.is_line_cuttable(),
        });
    }
    let pieces = cut(&files, settings.split_bytes, parallelism);
    let splits = pieces.iter().enumerate().map(|(index, piece)| Split {
        index: SplitIndex(index as u32),
        description: piece.to_value(),
        position: None,
    });
    Ok(splits.collect())
}

/// Cuts files into splits, in order of path and place (pure).
///
/// Without a size from the user, splits are [`SPLIT_BYTES_DEFAULT`] long, or shorter when there would be fewer splits
/// than subtasks.
pub fn cut(files: &[FileToRead], split_bytes: Option<u64>, parallelism: u32) -> Vec<FilePiece> {
    let count = |bytes: u64| -> u64 {
        files.iter().map(|file| if file.is_cuttable { file.size_bytes.div_ceil(bytes).max(1) } else { 1 }).sum()
    };
    let bytes = split_bytes.unwrap_or_else(|| {
        if count(SPLIT_BYTES_DEFAULT) >= u64::from(parallelism) {
            return SPLIT_BYTES_DEFAULT;
        }
        let cuttable: u64 = files.iter().filter(|file| file.is_cuttable).map(|file| file.size_bytes).sum();
        cuttable.div_ceil(u64::from(parallelism.max(1))).clamp(PIECE_BYTES_MIN, SPLIT_BYTES_DEFAULT)
    });
    let mut pieces = Vec::new();
    for file in files {
        let piece_count = if file.is_cuttable { file.size_bytes.div_ceil(bytes.max(1)).max(1) } else { 1 };
        // Equal pieces, not full ones and a small rest.
        let place = |index: u64| (u128::from(file.size_bytes) * u128::from(index) / u128::from(piece_count)) as u64;
        for index in 0..piece_count {
            let end = (index + 1 < piece_count).then(|| place(index + 1));
            pieces.push(FilePiece { path: file.path.clone(), start: place(index), end });
        }
    }
    pieces
}

fn refused(verb: &str, path: &Path, error: std::io::Error) -> OperatorError {
    OperatorError::external("file-read", format!("cannot {verb} '{}'", path.display())).because(error)
}

fn not_found(path: &str, what: &str) -> OperatorError {
    OperatorError::user("file-not-found", format!("'{path}' {what}"))
}

/// The files that a path, directory or pattern names.
fn expand(path: &str) -> Result<Vec<PathBuf>> {
    let (directory, pattern) = split_pattern(path);
    if let Some(pattern) = pattern {
        let found =
            list(&directory, |name| matches(pattern, name) && (pattern.starts_with('.') || !name.starts_with('.')))?;
        return if found.is_empty() { Err(not_found(path, "matches no file")) } else { Ok(found) };
    }
    match fs::metadata(path) {
        Ok(metadata) if metadata.is_dir() => {
            let found = list(Path::new(path), |name| !name.starts_with('.') && !name.ends_with(IN_PROGRESS))?;
            if found.is_empty() { Err(not_found(path, "is a directory without files to read")) } else { Ok(found) }
        }
        Ok(_) => Ok(vec![PathBuf::from(path)]),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Err(not_found(path, "does not exist")),
        Err(error) => Err(refused("look at", Path::new(path), error)),
    }
}

/// Directory and last part of a path whose last part holds a `*`.
fn split_pattern(path: &str) -> (PathBuf, Option<&str>) {
    let (directory, last) = match path.rsplit_once('/') {
        Some(("", last)) => ("/", last),
        Some((directory, last)) => (directory, last),
        None => (".", path),
    };
    (PathBuf::from(directory), last.contains('*').then_some(last))
}

fn list(directory: &Path, wanted: impl Fn(&str) -> bool) -> Result<Vec<PathBuf>> {
    let entries = fs::read_dir(directory).map_err(|error| match error.kind() {
        std::io::ErrorKind::NotFound => not_found(&directory.display().to_string(), "does not exist"),
        _ => refused("list", directory, error),
    })?;
    let mut found = Vec::new();
    for entry in entries {
        let entry = entry.map_err(|error| refused("list", directory, error))?;
        let name = entry.file_name();
        if wanted(&name.to_string_lossy()) {
            let path = if directory == Path::new(".") { PathBuf::from(&name) } else { entry.path() };
            let metadata = fs::metadata(&path).map_err(|error| refused("look at", &path, error))?;
            if metadata.is_file() {
                found.push(path);
            }
        }
    }
    found.sort();
    Ok(found)
}

/// Whether a name fits a pattern in which `*` stands for any text.
fn matches(pattern: &str, name: &str) -> bool {
    let parts: Vec<&str> = pattern.split('*').collect();
    let [first, middle @ .., last] = parts.as_slice() else { return pattern == name };
    let Some(mut rest) = name.strip_prefix(first) else { return false };
    for part in middle {
        match rest.find(part) {
            Some(at) => rest = &rest[at + part.len()..],
            None => return false,
        }
    }
    rest.ends_with(last)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn file(path: &str, size_bytes: u64, is_cuttable: bool) -> FileToRead {
        FileToRead { path: path.to_owned(), size_bytes, is_cuttable }
    }

    #[test]
    fn patterns_match_as_in_a_shell() {
        for (pattern, name, expected) in [
            ("*.json", "a.json", true),
            ("*.json", "a.jsonl", false),
            ("a*c*e", "abcde", true),
            ("a*c*e", "abde", false),
            ("*", "x", true),
            ("a*a", "a", false),
            ("plain", "plain", true),
        ] {
            assert_eq!(matches(pattern, name), expected, "{pattern} {name}");
        }
    }

    #[test]
    fn every_subtask_gets_work_from_a_file_that_can_be_cut() {
        let mega = 1024 * 1024;
        assert_eq!(cut(&[file("a", 25 * mega, true)], None, 1).len(), 1);
        assert_eq!(cut(&[file("a", 25 * mega, true)], None, 4).len(), 4);
        assert_eq!(cut(&[file("a", 200 * mega, true)], None, 2).len(), 4);
        assert_eq!(cut(&[file("a", 600 * 1024, true)], None, 16).len(), 3, "pieces keep a least size");
        assert_eq!(cut(&[file("a", 25 * mega, false), file("b", 0, true)], None, 4).len(), 2);
        assert_eq!(cut(&[file("a", 25 * mega, true)], Some(30 * mega), 4).len(), 1, "the user's size stands");
    }

    proptest! {
        #[test]
        fn pieces_cover_each_file_once(sizes in proptest::collection::vec((0u64..1_000_000, any::<bool>()), 1..5), bytes in 1024u64..100_000) {
            let files: Vec<_> = sizes.iter().enumerate().map(|(i, (size, cuttable))| file(&i.to_string(), *size, *cuttable)).collect();
            let pieces = cut(&files, Some(bytes), 3);
            for file in &files {
                let own: Vec<_> = pieces.iter().filter(|piece| piece.path == file.path).collect();
                prop_assert_eq!(own[0].start, 0);
                prop_assert_eq!(own[own.len() - 1].end, None);
                prop_assert!(own.windows(2).all(|pair| pair[0].end == Some(pair[1].start) && pair[0].start < pair[1].start));
            }
            for piece in &pieces {
                prop_assert_eq!(FilePiece::of_value(&piece.to_value()).expect("ours"), piece.clone());
            }
        }
    }
}
