//! The names of everything in the checkpoint store. The only file that spells object paths.
//!
//! ```text
//! <store>/<job>/<incarnation>/chk-<id>/manifest            a checkpoint
//! <store>/<job>/<incarnation>/data/<term>-<attempt>/<uuid>   a state object
//! <directory>/manifest                                      a savepoint: a directory that may be moved
//! <directory>/data/<uuid>                                   its objects; its manifest names them relative to itself
//! ```
//! Paths are relative to their store, with `/` between segments. No path is the beginning of another one's directory
//! (`x` and `x/y`), which some stores cannot hold; every segment is short; nothing but lower case, digits, `-` and `/`
//! is used, so that no answer of a store that repeats a name can be taken for an error message.

use std::fmt;
use std::str::FromStr;

use weir_core::{AttemptNumber, CheckpointId, FencingToken, JobId, Random};

use crate::{CheckpointError, Result};

/// Longest segment any store takes, in bytes.
pub const SEGMENT_BYTES_MAX: usize = 255;
/// Longest path, in bytes; S3 takes 1,024 with the prefix of the store.
pub const PATH_BYTES_MAX: usize = 700;
/// Path of a savepoint's manifest in its directory, and the last segment of every other one's.
pub const MANIFEST: &str = "manifest";
/// How unfinished files of a local store begin; they are left behind only by a killed process.
pub(crate) const UNFINISHED: &str = ".tmp-";

/// One life of a job's state: automatic restarts keep it, a user's restore begins a new one.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Incarnation(pub u128);

impl Incarnation {
    /// Draws a new one.
    pub fn draw(random: &mut dyn Random) -> Self {
        Incarnation(draw_u128(random))
    }
}

impl fmt::Display for Incarnation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:032x}", self.0)
    }
}

impl fmt::Debug for Incarnation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// A text that is not 32 hexadecimal digits in lower case.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("'{0}' is not an incarnation: expected 32 hexadecimal digits in lower case")]
pub struct IncarnationError(pub String);

impl FromStr for Incarnation {
    type Err = IncarnationError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        parse_hex(text).map(Incarnation).ok_or_else(|| IncarnationError(text.to_owned()))
    }
}

/// Everything of one job: `<job>/`.
pub fn job_prefix(job: JobId) -> String {
    format!("{job}/")
}

/// Everything that one incarnation of a job has made: `<job>/<incarnation>/`.
pub fn incarnation_prefix(job: JobId, incarnation: Incarnation) -> String {
    format!("{job}/{incarnation}/")
}

/// The directory that names a checkpoint to users: `<job>/<incarnation>/chk-<id>`.
pub fn checkpoint_directory(job: JobId, incarnation: Incarnation, checkpoint: CheckpointId) -> String {
    format!("{job}/{incarnation}/chk-{checkpoint}")
}

/// The manifest of a checkpoint.
pub fn checkpoint_manifest(job: JobId, incarnation: Incarnation, checkpoint: CheckpointId) -> String {
    format!("{job}/{incarnation}/chk-{checkpoint}/{MANIFEST}")
}

/// A new name for a state object of a checkpoint, never given before.
pub fn state_object(job: JobId, incarnation: Incarnation, token: FencingToken, random: &mut dyn Random) -> String {
    format!("{job}/{incarnation}/data/{}-{}/{}", token.term, token.attempt, uuid(random))
}

/// A new name for an object of a savepoint, relative to the savepoint's directory.
pub fn savepoint_object(random: &mut dyn Random) -> String {
    format!("data/{}", uuid(random))
}

/// A new directory name for a savepoint, like Flink's: `savepoint-<6 digits of the job>-<12 random digits>`.
pub fn savepoint_directory(job: JobId, random: &mut dyn Random) -> String {
    format!("savepoint-{}-{:012x}", &job.to_string()[..6], random.next_u64() >> 16)
}

/// The object that the check of a store writes and deletes.
pub(crate) fn probe(random: &mut dyn Random) -> String {
    format!("probe/{}", uuid(random))
}

/// The place that a file of a local store is written to before it gets its name: next to it.
pub(crate) fn unfinished(path: &str, random: &mut dyn Random) -> String {
    let directory = path.rsplit_once('/').map_or(String::new(), |(directory, _)| format!("{directory}/"));
    format!("{directory}{UNFINISHED}{}", uuid(random))
}

/// What the path of an object says about it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Named {
    /// The manifest of a checkpoint.
    Manifest {
        /// Whose.
        job: JobId,
        /// Of which life.
        incarnation: Incarnation,
        /// Which.
        checkpoint: CheckpointId,
    },
    /// A state object, or an unfinished file on the way to one.
    StateObject {
        /// Whose.
        job: JobId,
        /// Of which life.
        incarnation: Incarnation,
        /// Who wrote it.
        token: FencingToken,
    },
}

/// Reads a path of a checkpoint store; `None` for anything this file does not name, also in another spelling.
pub fn parse(path: &str) -> Option<Named> {
    let segments: Vec<&str> = path.split('/').collect();
    let (job, incarnation, rest) = match segments.as_slice() {
        [job, incarnation, rest @ ..] => (JobId(parse_hex(job)?), Incarnation(parse_hex(incarnation)?), rest),
        _ => return None,
    };
    match rest {
        [directory, MANIFEST] => {
            let checkpoint = CheckpointId(parse_number(directory.strip_prefix("chk-")?)?);
            Some(Named::Manifest { job, incarnation, checkpoint })
        }
        ["data", token, _] => {
            let (term, attempt) = token.split_once('-')?;
            let attempt = AttemptNumber(u32::try_from(parse_number(attempt)?).ok()?);
            let token = FencingToken { term: parse_number(term)?, attempt };
            Some(Named::StateObject { job, incarnation, token })
        }
        _ => None,
    }
}

/// Refuses a path that could leave its store, or that some store cannot hold. Every path that comes out of a manifest
/// goes through here before a store sees it.
///
/// **Errors**: `Malformed`, with the path.
pub fn check_path(path: &str) -> Result<()> {
    let reason = if path.is_empty() {
        "an object's path is not empty"
    } else if path.len() > PATH_BYTES_MAX {
        "an object's path has at most 700 bytes"
    } else if path.split('/').any(|segment| segment.is_empty() || segment == "." || segment == "..") {
        "no segment of an object's path is empty, '.' or '..'"
    } else if path.split('/').any(|segment| segment.len() > SEGMENT_BYTES_MAX) {
        "no segment of an object's path has more than 255 bytes"
    } else if !path.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_./".contains(&byte)) {
        "an object's path has only letters, digits, '-', '_', '.' and '/'"
    } else {
        return Ok(());
    };
    Err(CheckpointError::Malformed { place: path.to_owned(), reason: reason.to_owned() })
}

/// Where a checkpoint or savepoint lies that a user named by its directory.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Located {
    /// The store its paths are relative to: a URL, or a plain directory as it was given.
    pub store: String,
    /// Path of the manifest in that store.
    pub manifest: String,
}

/// Finds store and manifest for the directory of a checkpoint or savepoint, or for its manifest, given as a URL or as a
/// plain directory. A checkpoint is known by its three last segments; anything else is a savepoint.
pub fn locate(directory: &str) -> Located {
    let directory = directory.trim_end_matches('/');
    let directory = directory.strip_suffix(&format!("/{MANIFEST}")).unwrap_or(directory).trim_end_matches('/');
    let mut cut = directory.len();
    for _ in 0..3 {
        cut = directory[..cut].rfind('/').unwrap_or(0);
    }
    let (store, path) = directory.split_at(cut);
    let manifest = format!("{}/{MANIFEST}", path.trim_start_matches('/'));
    match parse(&manifest) {
        Some(Named::Manifest { .. }) => {
            // A relative directory may begin with the job: then the store is the working directory.
            let store = if !store.is_empty() {
                store
            } else if path.starts_with('/') {
                "/"
            } else {
                "."
            };
            Located { store: store.to_owned(), manifest }
        }
        _ => Located { store: directory.to_owned(), manifest: MANIFEST.to_owned() },
    }
}

fn draw_u128(random: &mut dyn Random) -> u128 {
    (u128::from(random.next_u64()) << 64) | u128::from(random.next_u64())
}

/// A random UUID (RFC 9562, version 4) as text.
fn uuid(random: &mut dyn Random) -> String {
    let bits = draw_u128(random);
    let bits = (bits & !(0xf << 76) & !(0x3 << 62)) | (0x4 << 76) | (0x2 << 62);
    let digits = format!("{bits:032x}");
    let (a, b, c, d, e) = (&digits[..8], &digits[8..12], &digits[12..16], &digits[16..20], &digits[20..]);
    format!("{a}-{b}-{c}-{d}-{e}")
}

fn parse_hex(text: &str) -> Option<u128> {
    let is_ours = text.len() == 32 && text.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'));
    is_ours.then(|| u128::from_str_radix(text, 16).ok())?
}

/// A number as `Display` spells it: no sign, no leading zero.
fn parse_number(text: &str) -> Option<u64> {
    text.parse().ok().filter(|number: &u64| number.to_string() == text)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use weir_core::random::SplitMix64;

    const JOB: JobId = JobId(0xab);
    const INCARNATION: Incarnation = Incarnation(7);

    fn token(term: u64, attempt: u32) -> FencingToken {
        FencingToken { term, attempt: AttemptNumber(attempt) }
    }

    #[test]
    fn names_are_as_documented() {
        let mut random = SplitMix64::new(1);
        let prefix = "000000000000000000000000000000ab/00000000000000000000000000000007";
        assert_eq!(checkpoint_manifest(JOB, INCARNATION, CheckpointId(5)), format!("{prefix}/chk-5/manifest"));
        assert_eq!(
            state_object(JOB, INCARNATION, token(3, 2), &mut random),
            format!("{prefix}/data/3-2/910a2dec-8902-4cc1-beeb-8da1658eec67")
        );
        assert_eq!(savepoint_object(&mut random).len(), "data/".len() + 36);
        let savepoint = savepoint_directory(JOB, &mut random);
        assert!(savepoint.starts_with("savepoint-000000-") && savepoint.len() == 29, "{savepoint}");
    }

    #[test]
    fn directories_lead_to_store_and_manifest() {
        let chk = checkpoint_directory(JOB, INCARNATION, CheckpointId(5));
        let at = |store: &str, manifest: &str| Located { store: store.to_owned(), manifest: manifest.to_owned() };
        let manifest = format!("{chk}/manifest");
        for spelling in [chk.clone(), format!("{chk}/"), format!("{chk}/manifest")] {
            assert_eq!(locate(&format!("s3://b/p/{spelling}")), at("s3://b/p", &manifest));
            assert_eq!(locate(&format!("s3://b/{spelling}")), at("s3://b", &manifest));
            assert_eq!(locate(&format!("/data/{spelling}")), at("/data", &manifest));
            assert_eq!(locate(&format!("/{spelling}")), at("/", &manifest));
            assert_eq!(locate(&spelling), at(".", &manifest));
        }
        assert_eq!(locate("/data/savepoint-1-2/"), at("/data/savepoint-1-2", "manifest"));
        assert_eq!(locate("s3://b/x/manifest"), at("s3://b/x", "manifest"));
        assert_eq!(locate("mine"), at("mine", "manifest"));
    }

    #[test]
    fn paths_that_leave_the_store_are_refused() {
        let long = "a".repeat(256);
        for bad in ["", "/etc/passwd", "a/../b", "..", "a//b", "a/", "./a", "a\\b", "a b", "a\0", "é", &long] {
            assert_eq!(check_path(bad).expect_err("it is bad").code(), "checkpoint-malformed", "{bad:?}");
        }
        check_path("a-b/c_d/.tmp-e.f").expect("it is good");
    }

    proptest! {
        /// Carries b5 of the failure list: names are never given twice, and no name is the directory of another.
        #[test]
        fn b5_names_are_unique_and_read_back(seed in any::<u64>(), term in any::<u64>(), attempt in any::<u32>(), id in any::<u64>()) {
            let mut random = SplitMix64::new(seed);
            let mut paths = vec![
                checkpoint_manifest(JOB, INCARNATION, CheckpointId(id)),
                checkpoint_manifest(JOB, INCARNATION, CheckpointId(id.wrapping_add(1))),
            ];
            for _ in 0..8 {
                paths.push(state_object(JOB, INCARNATION, token(term, attempt), &mut random));
            }
            prop_assert_eq!(parse(&paths[0]), Some(Named::Manifest { job: JOB, incarnation: INCARNATION, checkpoint: CheckpointId(id) }));
            for path in &paths[2..] {
                prop_assert_eq!(parse(path), Some(Named::StateObject { job: JOB, incarnation: INCARNATION, token: token(term, attempt) }));
            }
            for (index, path) in paths.iter().enumerate() {
                prop_assert!(check_path(path).is_ok());
                let directory = format!("{path}/");
                let mut others = paths.iter().enumerate().filter(|(other, _)| *other != index);
                prop_assert!(others.all(|(_, other)| other != path && !other.starts_with(&directory)));
            }
        }
    }
}
