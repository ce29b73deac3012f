//! What an answer of an object store means. The only file that reads `object_store`'s errors; pure.

use bytes::Bytes;
use weir_core::error::chain;
use xxhash_rust::xxh3::Xxh3;

use crate::CheckpointError;
use crate::error::Cause;

/// Sorts an error of the client into the kinds of this crate. `Unreachable` means that asking again may help.
pub(crate) fn sort(operation: &'static str, place: &str, error: object_store::Error) -> CheckpointError {
    use object_store::Error;
    let place = place.to_owned();
    // Servers disagree on the status for the same failure (an unknown key is 403 or 404), so their code counts too.
    let text = chain(&error).join(": ");
    let says = |words: &[&str]| words.iter().any(|word| text.contains(word));
    let code = text.split_once("<Code>").and_then(|(_, after)| after.split_once("</Code>")).map(|(code, _)| code);
    let source = |error: Error| -> Cause { Box::new(error) };
    match error {
        error @ (Error::PermissionDenied { .. } | Error::Unauthenticated { .. }) => {
            CheckpointError::Permission { place, operation, source: source(error) }
        }
        error if code.is_some_and(is_denial) || says(&["code: AccessDenied"]) => {
            CheckpointError::Permission { place, operation, source: source(error) }
        }
        // A bucket, or something else that is not there; what asks for an object wants to know about the object.
        error @ Error::NotFound { .. } if code.is_some_and(|code| !["NoSuchKey", "NotFound"].contains(&code)) => {
            CheckpointError::Refused { place, operation, source: source(error) }
        }
        Error::NotFound { .. } => CheckpointError::NotFound { place },
        Error::AlreadyExists { .. } | Error::Precondition { .. } if operation == "put" => {
            CheckpointError::AlreadyExists { place }
        }
        // A conflict with another request; without a condition of ours it passes.
        error @ (Error::AlreadyExists { .. } | Error::Precondition { .. }) => {
            CheckpointError::Unreachable { place, operation, source: source(error) }
        }
        error @ Error::Generic { .. } if says(&["non-partial response"]) => {
            CheckpointError::Malformed { place, reason: format!("the store ignores ranges ({error})") }
        }
        // Words of the client for a Content-Range that is not the one asked for.
        error @ Error::Generic { .. } if says(&["Requested ", "Content-Range", "CONTENT_RANGE"]) => {
            CheckpointError::Malformed { place, reason: format!("the store gives another range ({error})") }
        }
        // The request came damaged; the next one will not.
        error if code.is_some_and(|code| DAMAGED_REQUEST.contains(&code)) => {
            CheckpointError::Unreachable { place, operation, source: source(error) }
        }
        error @ Error::Generic { .. } => match refusal(&text) {
            Some(507) => CheckpointError::DiskFull { place, source: source(error) },
            Some(_) => CheckpointError::Refused { place, operation, source: source(error) },
            None => CheckpointError::Unreachable { place, operation, source: source(error) },
        },
        error @ Error::JoinError { .. } => CheckpointError::Unreachable { place, operation, source: source(error) },
        error => CheckpointError::Refused { place, operation, source: source(error) },
    }
}

/// Codes of S3 for a request whose body is not the one that was signed.
const DAMAGED_REQUEST: &[&str] = &["XAmzContentSHA256Mismatch", "BadDigest", "InvalidDigest", "IncompleteBody"];

/// Whether a code of S3 says that we may not, or are not known.
fn is_denial(code: &str) -> bool {
    let known = ["AccessDenied", "SignatureDoesNotMatch", "ExpiredToken", "InvalidToken", "RequestTimeTooSkewed"];
    known.contains(&code) || code.contains("AccessKey") || code.contains("UserNotFound")
}

/// The status of an answer that will not change: 4xx (but not timeout, conflict, too many) and 507.
fn refusal(text: &str) -> Option<u16> {
    let (_, after) = text.split_once("status code: ")?;
    let status: u16 = after.get(..3)?.parse().ok()?;
    (matches!(status, 400..=499 | 507) && ![408, 409, 425, 429].contains(&status)).then_some(status)
}

/// Compares what is stored with what was to be written, chunk by chunk, without keeping it.
pub(crate) struct Comparison {
    ours: Bytes,
    at: usize,
    is_same_so_far: bool,
    hash: Xxh3,
}

/// What a comparison has found.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Stored {
    /// Our bytes, all of them.
    Ours,
    /// The beginning of our bytes: torn, here or on the wire; nobody else's.
    PartOfOurs {
        /// How many.
        bytes: u64,
    },
    /// Something else; the hash tells two such answers apart.
    Others {
        /// xxh3-128 of what came.
        hash: u128,
    },
}

impl Comparison {
    pub(crate) fn new(ours: Bytes) -> Self {
        Comparison { ours, at: 0, is_same_so_far: true, hash: Xxh3::new() }
    }

    /// Takes the next chunk; `false` when no more need be read: it is longer than ours.
    pub(crate) fn take(&mut self, chunk: &[u8]) -> bool {
        self.hash.update(chunk);
        let expected = self.ours.get(self.at..self.at + chunk.len());
        self.is_same_so_far &= expected == Some(chunk);
        self.at += chunk.len();
        self.at <= self.ours.len()
    }

    pub(crate) fn finish(self) -> Stored {
        match self.is_same_so_far {
            true if self.at == self.ours.len() => Stored::Ours,
            true => Stored::PartOfOurs { bytes: self.at as u64 },
            false => Stored::Others { hash: self.hash.digest128() },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn compare(ours: &'static [u8], chunks: &[&[u8]]) -> Stored {
        let mut comparison = Comparison::new(Bytes::from_static(ours));
        for chunk in chunks {
            if !comparison.take(chunk) {
                break;
            }
        }
        comparison.finish()
    }

    #[test]
    fn only_all_of_our_bytes_are_ours() {
        assert_eq!(compare(b"abc", &[b"ab", b"c"]), Stored::Ours);
        assert_eq!(compare(b"", &[]), Stored::Ours);
        assert_eq!(compare(b"abc", &[b"ab"]), Stored::PartOfOurs { bytes: 2 });
        assert_eq!(compare(b"abc", &[]), Stored::PartOfOurs { bytes: 0 });
        for others in [&[&b"abd"[..]][..], &[b"abc", b"d"], &[b"abcd"], &[b"x"], &[b"bc"]] {
            assert!(matches!(compare(b"abc", others), Stored::Others { .. }), "{others:?}");
        }
        assert_ne!(compare(b"abc", &[b"x"]), compare(b"abc", &[b"y"]));
    }

    #[test]
    fn statuses_that_will_not_change_are_refusals() {
        let status = |code: &str| refusal(&format!("Server returned non-2xx status code: {code} Word: body"));
        assert_eq!((status("400"), status("404"), status("507")), (Some(400), Some(404), Some(507)));
        for later in ["408", "409", "429", "500", "503"] {
            assert_eq!(status(later), None, "{later}");
        }
        assert_eq!(refusal("connection refused"), None);
    }
}
