//! Verified reads over whatever can read a range: length and checksum of every byte, before any byte is used. Shared by
//! all stores. A store's own answer proves nothing: short, changed and surplus bytes come with a status of success.

use async_trait::async_trait;
use bytes::{Bytes, BytesMut};
use futures::{StreamExt, TryStreamExt, stream};
use xxhash_rust::xxh3::xxh3_128;

use super::READS_MAX;
use crate::manifest::{ObjectRef, SectionRef};
use crate::{CheckpointError, Result, layout, state_object};

/// Ranges of one object that are read at once; the store bounds its requests besides.
const RANGES_AT_ONCE: usize = 4;
/// Room that is made on the word of a reference alone; more only as bytes come.
const TRUSTED_BYTES_MAX: u64 = 64 << 20;

/// Reads ranges of objects.
#[async_trait]
pub(crate) trait RangeReader: Send + Sync {
    /// The full address of an object, for messages.
    fn place(&self, path: &str) -> String;

    /// Reads `[start, start + length)`, which lies in the object; exactly as many bytes, not verified otherwise.
    ///
    /// **Errors**: `Torn` when the object or the answer has another length.
    async fn read_range(&self, object: &ObjectRef, start: u64, length: u64) -> Result<Bytes>;
}

/// Reads a whole object in ranges of `range_bytes` and verifies it; what came damaged is asked for again.
pub(crate) async fn read_object(reader: &dyn RangeReader, object: &ObjectRef, range_bytes: u64) -> Result<Bytes> {
    layout::check_path(&object.path)?;
    let mut read = 1;
    loop {
        match read_once(reader, object, range_bytes.max(1)).await {
            Err(error) if error.is_damage() && read < READS_MAX => again(&error, &mut read),
            outcome => return outcome,
        }
    }
}

async fn read_once(reader: &dyn RangeReader, object: &ObjectRef, range_bytes: u64) -> Result<Bytes> {
    let place = || reader.place(&object.path);
    let starts = stream::iter((0..object.length.div_ceil(range_bytes).max(1)).map(|index| index * range_bytes));
    let reads = starts.map(|start| reader.read_range(object, start, range_bytes.min(object.length - start)));
    let mut reads = reads.buffered(RANGES_AT_ONCE);
    let first = reads.try_next().await?.unwrap_or_default();
    let bytes = if first.len() as u64 >= object.length {
        first
    } else {
        let mut bytes = BytesMut::with_capacity(object.length.min(TRUSTED_BYTES_MAX) as usize);
        bytes.extend_from_slice(&first);
        while let Some(range) = reads.try_next().await? {
            bytes.extend_from_slice(&range);
        }
        bytes.freeze()
    };
    if bytes.len() as u64 != object.length {
        return Err(torn(place(), object.length, bytes.len() as u64));
    }
    let actual = xxh3_128(&bytes);
    match actual == object.checksum {
        true => Ok(bytes),
        false => Err(CheckpointError::Checksum { place: place(), expected: object.checksum, actual }),
    }
}

/// Reads one section and gives its payload; what came damaged is asked for again.
pub(crate) async fn read_section(reader: &dyn RangeReader, section: &SectionRef) -> Result<Bytes> {
    let object = &section.object;
    layout::check_path(&object.path)?;
    let end = section.offset.checked_add(section.length);
    if end.is_none_or(|end| end > object.length) {
        let reason = format!("a section at byte {} of {} bytes does not fit it", section.offset, section.length);
        return Err(CheckpointError::Malformed { place: reader.place(&object.path), reason });
    }
    let mut read = 1;
    loop {
        let outcome = match reader.read_range(object, section.offset, section.length).await {
            Ok(bytes) => state_object::open_section(section, bytes, &reader.place(&object.path)),
            Err(error) => Err(error),
        };
        match outcome {
            Err(error) if error.is_damage() && read < READS_MAX => again(&error, &mut read),
            outcome => return outcome.map(|(_, payload)| payload),
        }
    }
}

fn again(error: &CheckpointError, read: &mut u32) {
    tracing::warn!(read = *read, error = %error, "an object came damaged and is read again");
    *read += 1;
}

pub(crate) fn torn(place: String, expected_bytes: u64, actual_bytes: u64) -> CheckpointError {
    CheckpointError::Torn { place, expected_bytes, actual_bytes }
}

/// Refuses what is too large for a manifest and its first line.
pub(crate) fn check_small(length: u64, manifest_bytes_max: usize, place: impl Fn() -> String) -> Result<()> {
    let most = small_bytes_max(manifest_bytes_max);
    match length <= most {
        true => Ok(()),
        false => Err(CheckpointError::Malformed {
            place: place(),
            reason: format!("{length} bytes; a manifest has at most {most}"),
        }),
    }
}

/// A manifest and its first line.
pub(crate) fn small_bytes_max(manifest_bytes_max: usize) -> u64 {
    manifest_bytes_max as u64 + 1024
}

/// The prefix of a listing as a directory: empty, or ending in a slash.
pub(crate) fn directory(prefix: &str) -> Result<String> {
    let prefix = prefix.trim_end_matches('/');
    if prefix.is_empty() {
        return Ok(String::new());
    }
    layout::check_path(prefix)?;
    Ok(format!("{prefix}/"))
}
