//! The committables of file sinks as words: what a writer asks the committer to do after the commit point (pure).

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use weir_core::{AttemptNumber, FencingToken, Value};
use weir_operator_api::{OperatorError, Result};

use crate::files::bucket::Uploaded;
use crate::files::memory::FilePart;
use crate::files::part::PartPaths;

/// What is to be done for one committable.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Commit {
    /// Give a part its visible name.
    Show(PartPaths),
    /// Turn an open upload into the object that readers see.
    Complete {
        /// Where it will stand.
        target: PathBuf,
        /// What is to be completed.
        upload: Uploaded,
    },
    /// Put the parts of a single file together and give the whole its visible name.
    Join(Join),
    /// The input of a directory has ended: the directory exists even if it is empty, and hidden parts of attempts before
    /// this one are gone.
    Close {
        /// Where.
        directory: PathBuf,
        /// Of which job and sink.
        mark: String,
        /// The attempt that has ended.
        token: FencingToken,
    },
}

/// A single file to be put together.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Join {
    /// Where its parts are, hidden.
    pub directory: PathBuf,
    /// The parts, in the order of the rows.
    pub parts: Vec<FilePart>,
    /// How many of the last ones no checkpoint holds: a job that fails before its end takes these back, and goes on
    /// from the others.
    pub fresh: usize,
    /// The name that readers know.
    pub file: String,
    /// Of which job and sink.
    pub mark: String,
    /// Parquet has to be read and written again; text is put end to end.
    pub is_parquet: bool,
}

fn path_text(path: &Path) -> Result<Value> {
    match path.to_str() {
        Some(text) => Ok(Value::Text(text.to_owned())),
        None => Err(OperatorError::user("sink-io", format!("the path '{}' is not UTF-8", path.display()))),
    }
}

impl Commit {
    /// Puts it into a committable's words.
    ///
    /// **Errors**: a path that is not UTF-8.
    pub fn to_value(&self) -> Result<Value> {
        Ok(match self {
            Commit::Show(paths) => {
                Value::from([("from", path_text(&paths.in_progress)?), ("to", path_text(&paths.target)?)])
            }
            Commit::Complete { target, upload } => Value::from([
                ("complete", path_text(target)?),
                ("upload", upload.id.as_str().into()),
                ("tags", Value::List(upload.tags.iter().map(|tag| tag.as_str().into()).collect())),
                ("bytes", Value::Text(upload.bytes.to_string())),
            ]),
            Commit::Join(join) => Value::from([
                ("join", Value::List(join.parts.iter().map(FilePart::to_value).collect())),
                ("fresh", Value::Integer(join.fresh as i64)),
                ("directory", path_text(&join.directory)?),
                ("file", join.file.as_str().into()),
                ("mark", join.mark.as_str().into()),
                ("is_parquet", join.is_parquet.into()),
            ]),
            Commit::Close { directory, mark, token } => Value::from([
                ("close", path_text(directory)?),
                ("mark", mark.as_str().into()),
                ("term", Value::Text(token.term.to_string())),
                ("attempt", Value::Integer(token.attempt.0.into())),
            ]),
        })
    }

    /// Reads a committable's words.
    ///
    /// **Errors**: internal, when they are not ours.
    pub fn of_value(value: &Value) -> Result<Commit> {
        value
            .as_map()
            .and_then(Commit::of_map)
            .ok_or_else(|| OperatorError::internal(format!("not a committable of a file sink: {value}")))
    }

    fn of_map(map: &BTreeMap<String, Value>) -> Option<Commit> {
        let text = |name: &str| map.get(name).and_then(Value::as_text).map(str::to_owned);
        let number = |name: &str| match map.get(name) {
            Some(Value::Integer(number)) => u32::try_from(*number).ok(),
            _ => None,
        };
        let path = |name: &str| text(name).map(PathBuf::from);
        if let (Some(in_progress), Some(target)) = (path("from"), path("to")) {
            return Some(Commit::Show(PartPaths { in_progress, target }));
        }
        if let Some(directory) = path("close") {
            let token = FencingToken { term: text("term")?.parse().ok()?, attempt: AttemptNumber(number("attempt")?) };
            return Some(Commit::Close { directory, mark: text("mark")?, token });
        }
        if let (Some(target), Some(Value::List(tags))) = (path("complete"), map.get("tags")) {
            let tags = tags.iter().map(|tag| tag.as_text().map(str::to_owned)).collect::<Option<Vec<_>>>()?;
            let upload = Uploaded { id: text("upload")?, tags, bytes: text("bytes")?.parse().ok()? };
            return Some(Commit::Complete { target, upload });
        }
        let Some(Value::List(parts)) = map.get("join") else { return None };
        let parts = parts.iter().map(FilePart::of_value).collect::<Option<Vec<_>>>()?;
        Some(Commit::Join(Join {
            directory: path("directory")?,
            fresh: number("fresh")? as usize,
            parts,
            file: text("file")?,
            mark: text("mark")?,
            is_parquet: map.get("is_parquet") == Some(&Value::Bool(true)),
        }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn committables_survive_their_words() {
        let token = FencingToken { term: u64::MAX, attempt: AttemptNumber(3) };
        let join = Join {
            directory: "/out".into(),
            parts: vec![
                FilePart { name: "a".to_owned(), bytes: 1, hash: None, level: 0 },
                FilePart { name: "b".to_owned(), bytes: 2, hash: Some(u64::MAX), level: 1 },
            ],
            fresh: 1,
            file: "out.csv".to_owned(),
            mark: "m".to_owned(),
            is_parquet: true,
        };
        for commit in [
            Commit::Show(PartPaths { in_progress: "/out/.a".into(), target: "/out/a".into() }),
            Commit::Complete {
                target: "s3://bucket/out/a".into(),
                upload: Uploaded { id: "u".to_owned(), tags: vec!["\"1\"".to_owned()], bytes: u64::MAX },
            },
            Commit::Join(join),
            Commit::Close { directory: "/out".into(), mark: "m".to_owned(), token },
        ] {
            let value = commit.to_value().expect("UTF-8");
            assert_eq!(Commit::of_value(&value).expect("ours"), commit);
        }
        assert!(Commit::of_value(&Value::Integer(1)).is_err());
    }
}
