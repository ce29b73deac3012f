//! The frame around JSON files of the checkpoint store: one line that says what it is, how long and with which checksum.
//! Used by `manifest.rs` and `task_state.rs`; it does not know what is inside.
//!
//! The line is `<magic> <version> <length of the body> <checksum>\n` and stays so in all versions. The checksum is
//! xxh3-128 over the line up to the space before it, and the body; so a changed bit anywhere is found before anything is
//! believed, also in the version. Only one spelling of a line is accepted.

use bytes::{BufMut, Bytes, BytesMut};
use xxhash_rust::xxh3::Xxh3;

use crate::{CheckpointError, Result};

/// No line is longer: magic, two numbers of at most 20 digits, 32 digits, three spaces and the end.
const LINE_BYTES_MAX: usize = 128;

fn checksum(start: &str, body: &[u8]) -> u128 {
    let mut hash = Xxh3::new();
    hash.update(start.as_bytes());
    hash.update(body);
    hash.digest128()
}

fn start(magic: &str, version: u32, length: usize) -> String {
    format!("{magic} {version} {length}")
}

/// Puts the line in front of the body.
pub(crate) fn seal(magic: &str, version: u32, body: &[u8]) -> Bytes {
    let start = start(magic, version, body.len());
    let checksum = checksum(&start, body);
    let mut bytes = BytesMut::with_capacity(LINE_BYTES_MAX + body.len());
    bytes.put_slice(format!("{start} {checksum:032x}\n").as_bytes());
    bytes.put_slice(body);
    bytes.freeze()
}

/// Gives version and body back when every byte is as it was written.
///
/// **Errors**: `Malformed` when it is something else, `Torn` when bytes are missing or too many, `Checksum` when a byte is
/// wrong, `NewerFormat` when it is whole and a later version wrote it.
pub(crate) fn open<'a>(magic: &str, newest: u32, bytes: &'a [u8], place: &str) -> Result<(u32, &'a [u8])> {
    let malformed = |reason: &str| CheckpointError::Malformed { place: place.to_owned(), reason: reason.to_owned() };
    let torn = |expected: usize| CheckpointError::Torn {
        place: place.to_owned(),
        expected_bytes: expected as u64,
        actual_bytes: bytes.len() as u64,
    };
    let head = &bytes[..bytes.len().min(LINE_BYTES_MAX)];
    let Some(end) = head.iter().position(|byte| *byte == b'\n') else {
        let is_start =
            bytes.len() < LINE_BYTES_MAX && magic.as_bytes().starts_with(&head[..head.len().min(magic.len())]);
        // Cut within its first line: the length is not known, only that it is more.
        return Err(if is_start { torn(bytes.len() + 1) } else { malformed(&format!("it is not a {magic} file")) });
    };
    let line = std::str::from_utf8(&head[..end]).map_err(|_| malformed(&format!("it is not a {magic} file")))?;
    let mut fields = line.split(' ');
    if fields.next() != Some(magic) {
        return Err(malformed(&format!("it is not a {magic} file")));
    }
    let version: Option<u32> = fields.next().and_then(|field| field.parse().ok());
    let length: Option<usize> = fields.next().and_then(|field| field.parse().ok());
    let written = fields.next().and_then(|field| u128::from_str_radix(field, 16).ok());
    let (Some(version), Some(length), Some(written)) = (version, length, written) else {
        return Err(malformed("its first line is damaged"));
    };
    let start = start(magic, version, length);
    if line != format!("{start} {written:032x}") {
        return Err(malformed("its first line is damaged"));
    }
    let body = &bytes[end + 1..];
    if body.len() != length {
        return Err(torn((end + 1).saturating_add(length)));
    }
    let actual = checksum(&start, body);
    if actual != written {
        return Err(CheckpointError::Checksum { place: place.to_owned(), expected: written, actual });
    }
    if version > newest {
        return Err(CheckpointError::NewerFormat { place: place.to_owned(), found: version, newest });
    }
    Ok((version, body))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_later_version_is_named_only_when_it_is_whole() {
        let bytes = seal("weir-x", 7, b"{}");
        let error = open("weir-x", 3, &bytes, "a/b").expect_err("7 is newer than 3");
        assert_eq!(error.code(), "checkpoint-newer-format");
        assert_eq!(error.to_string(), "'a/b' has format version 7; this version of weir reads up to 3");

        // The same digit by a flipped bit is damage, not a version.
        let mut flipped = seal("weir-x", 3, b"{}").to_vec();
        let digit = flipped.iter().position(|byte| *byte == b'3').expect("the version is in the line");
        flipped[digit] ^= 4;
        let error = open("weir-x", 3, &flipped, "a/b").expect_err("a bit is wrong");
        assert_eq!(error.code(), "checkpoint-checksum");
    }

    #[test]
    fn other_files_are_refused_by_name() {
        for other in [&b""[..], b"\n", b"\xff\xfe\n", b"weir-y 1 0 00\n", b"PK\x03\x04", &[0; 4096]] {
            let error = open("weir-x", 3, other, "a/b").expect_err("it is no such file");
            assert!(error.is_damage() && error.to_string().contains("'a/b'"), "{error}");
        }
    }
}
