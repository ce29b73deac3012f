//! A state object: one file of many sections, each readable and verifiable on its own. Workers write them at checkpoints
//! and read sections of them at a restore. What a section holds is opaque here.
//!
//! A disk format, all numbers little-endian:
//! ```text
//! object   "WEIRDATA" (8 bytes) · version (u32) · 0 (u32) · section · section ...
//! section  checksum (u128) · version (u32) · length of the name (u32) · rows (u64) · length of the payload (u64)
//!          · first key group (u32) · last key group (u32) · name of the table · payload
//! ```
//! The checksum is xxh3-128 over the rest of its section. A reference points at a whole section and repeats checksum,
//! rows and key groups, so a section that is not the one meant is found, also when it is whole.

use bytes::{BufMut, Bytes};
use xxhash_rust::xxh3::xxh3_128;

use crate::manifest::{ObjectRef, SectionRef};
use crate::{CheckpointError, Result};

/// Version that this program writes, and the newest it reads. In version 1 no payload was packed; the rest is the same.
pub const FORMAT_VERSION: u32 = 2;

const MAGIC: &[u8; 8] = b"WEIRDATA";
const OBJECT_HEADER_BYTES: usize = 16;
const CHECKSUM_BYTES: usize = 16;
/// Checksum, version, length of the name, rows, length of the payload, two key groups.
const SECTION_HEADER_BYTES: usize = CHECKSUM_BYTES + 4 + 4 + 8 + 8 + 4 + 4;
/// Where in a section the length of its payload stands.
const PAYLOAD_LENGTH_AT: usize = CHECKSUM_BYTES + 4 + 4 + 8;
/// Longest name of a table, in bytes.
pub const TABLE_NAME_BYTES_MAX: usize = 255;

/// What a section says of itself before its payload.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct SectionHeader {
    /// Name of the table.
    pub table: String,
    /// Rows in the payload.
    pub rows: u64,
    /// First key group with rows in it; 0 in a shared table.
    pub first_key_group: u32,
    /// Last key group with rows in it; 0 in a shared table.
    pub last_key_group: u32,
}

/// Where an object begins in memory, so that a disk can take it from there without a copy. **Units**: bytes.
pub const ALIGNMENT: usize = 4096;

/// Collects the sections of one object, in one buffer.
#[derive(Debug)]
pub struct StateObjectWriter {
    bytes: Vec<u8>,
    /// Where in the buffer the object begins.
    start: usize,
    sections: Vec<Written>,
}

#[derive(Debug)]
struct Written {
    offset: usize,
    length: usize,
    checksum: u128,
    header: SectionHeader,
}

impl Default for StateObjectWriter {
    fn default() -> Self {
        Self::new()
    }
}

impl StateObjectWriter {
    /// An object without sections.
    pub fn new() -> Self {
        let mut bytes = Vec::new();
        bytes.put_slice(MAGIC);
        bytes.put_u32_le(FORMAT_VERSION);
        bytes.put_u32_le(0);
        StateObjectWriter { bytes, start: 0, sections: Vec::new() }
    }

    /// Goes on in another buffer, whose content is overwritten. There the object is aligned to [`ALIGNMENT`], as long as the
    /// buffer has room for it and for as much in front.
    pub fn continue_in(&mut self, mut buffer: Vec<u8>) {
        buffer.clear();
        let start = buffer.as_ptr().align_offset(ALIGNMENT).min(ALIGNMENT);
        buffer.resize(start, 0);
        buffer.extend_from_slice(&self.bytes[self.start..]);
        (self.bytes, self.start) = (buffer, start);
    }

    /// Appends a section and returns its index, which is its place in the references of [`StateObjectWriter::finish`].
    ///
    /// **Errors**: `Malformed` for a name of a table that is too long, or key groups out of order.
    pub fn append(&mut self, header: SectionHeader, payload: &[u8]) -> Result<usize> {
        self.append_with(
            header,
            |error| error,
            |bytes| {
                bytes.extend_from_slice(payload);
                Ok(())
            },
        )
    }

    /// As [`StateObjectWriter::append`], of a payload that `write` appends to what the buffer holds, in place.
    ///
    /// **Errors**: those of `write`, after which nothing of the section is left; those of [`StateObjectWriter::append`] as
    /// `refused` makes them.
    pub fn append_with<E>(
        &mut self,
        header: SectionHeader,
        refused: impl FnOnce(CheckpointError) -> E,
        write: impl FnOnce(&mut Vec<u8>) -> std::result::Result<(), E>,
    ) -> std::result::Result<usize, E> {
        if header.table.len() > TABLE_NAME_BYTES_MAX || header.first_key_group > header.last_key_group {
            let (first, last) = (header.first_key_group, header.last_key_group);
            return Err(refused(CheckpointError::Malformed {
                place: format!("state table {:.255}", header.table),
                reason: format!("a name of {} bytes, key groups {first} to {last}", header.table.len()),
            }));
        }
        let offset = self.bytes.len();
        let bytes = &mut self.bytes;
        bytes.put_u128_le(0);
        bytes.put_u32_le(FORMAT_VERSION);
        bytes.put_u32_le(header.table.len() as u32);
        bytes.put_u64_le(header.rows);
        bytes.put_u64_le(0);
        bytes.put_u32_le(header.first_key_group);
        bytes.put_u32_le(header.last_key_group);
        bytes.put_slice(header.table.as_bytes());
        let start = bytes.len();
        if let Err(error) = write(bytes) {
            bytes.truncate(offset);
            return Err(error);
        }
        assert!(bytes.len() >= start, "a payload is appended");
        let payload_bytes = (bytes.len() - start) as u64;
        let section = &mut bytes[offset..];
        section[PAYLOAD_LENGTH_AT..PAYLOAD_LENGTH_AT + 8].copy_from_slice(&payload_bytes.to_le_bytes());
        let (length, checksum) = (section.len(), xxh3_128(&section[CHECKSUM_BYTES..]));
        section[..CHECKSUM_BYTES].copy_from_slice(&checksum.to_le_bytes());
        self.sections.push(Written { offset: offset - self.start, length, checksum, header });
        Ok(self.sections.len() - 1)
    }

    /// Bytes so far.
    pub fn len_bytes(&self) -> usize {
        self.bytes.len() - self.start
    }

    /// Whether nothing was appended.
    pub fn is_empty(&self) -> bool {
        self.sections.is_empty()
    }

    /// The object to store at `path`, and the references to its sections in the order they were appended.
    pub fn finish(self, path: &str) -> (Bytes, Vec<SectionRef>) {
        let (bytes, start, sections) = self.finish_buffer(path);
        (Bytes::from(bytes).slice(start..), sections)
    }

    /// As [`StateObjectWriter::finish`], with the buffer that was written to, and where in it the object begins.
    pub fn finish_buffer(self, path: &str) -> (Vec<u8>, usize, Vec<SectionRef>) {
        let (bytes, start) = (self.bytes, self.start);
        let object = object_ref(path, &bytes[start..]);
        let reference = |section: Written| SectionRef {
            object: object.clone(),
            offset: section.offset as u64,
            length: section.length as u64,
            checksum: section.checksum,
            rows: section.header.rows,
            first_key_group: section.header.first_key_group,
            last_key_group: section.header.last_key_group,
        };
        let sections = self.sections.into_iter().map(reference).collect();
        (bytes, start, sections)
    }
}

/// The reference to an object with this content.
pub fn object_ref(path: &str, bytes: &[u8]) -> ObjectRef {
    ObjectRef { path: path.to_owned(), length: bytes.len() as u64, checksum: xxh3_128(bytes) }
}

/// Gives header and payload of the section that `reference` points at, out of exactly the bytes it points at; `place` is
/// the object's address, for messages.
///
/// **Errors**: `Torn`, `Checksum`, `NewerFormat`; `Malformed` when it is whole and not the one meant.
pub fn open_section(reference: &SectionRef, bytes: Bytes, place: &str) -> Result<(SectionHeader, Bytes)> {
    if bytes.len() as u64 != reference.length {
        let (expected_bytes, actual_bytes) = (reference.length, bytes.len() as u64);
        return Err(CheckpointError::Torn { place: place.to_owned(), expected_bytes, actual_bytes });
    }
    let (header, payload) = read_section(bytes, Some(reference.checksum), place)?;
    let said = (header.rows, header.first_key_group, header.last_key_group);
    if said != (reference.rows, reference.first_key_group, reference.last_key_group) {
        return Err(CheckpointError::Malformed {
            place: place.to_owned(),
            reason: format!("the section at byte {} is not the one that is meant", reference.offset),
        });
    }
    Ok((header, payload))
}

/// Reads a whole object: every section of it, each verified. For tools and tests; restores read single sections.
///
/// **Errors**: as [`open_section`].
pub fn read_object(bytes: &Bytes, place: &str) -> Result<Vec<(SectionHeader, Bytes)>> {
    let torn = |expected: u64| CheckpointError::Torn {
        place: place.to_owned(),
        expected_bytes: expected,
        actual_bytes: bytes.len() as u64,
    };
    let malformed = |reason: &str| CheckpointError::Malformed { place: place.to_owned(), reason: reason.to_owned() };
    if bytes.len() < OBJECT_HEADER_BYTES {
        return Err(torn(OBJECT_HEADER_BYTES as u64));
    }
    if &bytes[..8] != MAGIC {
        return Err(malformed("it is not a state object"));
    }
    check_version(u32_at(bytes, 8), place)?;
    if u32_at(bytes, 12) != 0 {
        return Err(malformed("its header is damaged"));
    }
    let mut sections = Vec::new();
    let mut offset = OBJECT_HEADER_BYTES;
    while offset < bytes.len() {
        let rest = bytes.slice(offset..);
        if rest.len() < SECTION_HEADER_BYTES {
            return Err(torn((offset + SECTION_HEADER_BYTES) as u64));
        }
        let length = section_length(&rest);
        if length > rest.len() as u64 {
            return Err(torn((offset as u64).saturating_add(length)));
        }
        let section = rest.slice(..length as usize);
        offset += section.len();
        sections.push(read_section(section, None, place)?);
    }
    Ok(sections)
}

fn read_section(bytes: Bytes, expected: Option<u128>, place: &str) -> Result<(SectionHeader, Bytes)> {
    let malformed = |reason: &str| CheckpointError::Malformed { place: place.to_owned(), reason: reason.to_owned() };
    if bytes.len() < SECTION_HEADER_BYTES {
        return Err(malformed("a section is shorter than its header"));
    }
    let (head, rest) = bytes.split_at(CHECKSUM_BYTES);
    let written = u128::from_le_bytes(head.try_into().expect("16 bytes were split off"));
    let actual = xxh3_128(rest);
    let expected = expected.unwrap_or(written);
    if actual != expected || written != expected {
        let actual = if actual == expected { written } else { actual };
        return Err(CheckpointError::Checksum { place: place.to_owned(), expected, actual });
    }
    check_version(u32_at(&bytes, 16), place)?;
    if section_length(&bytes) != bytes.len() as u64 {
        return Err(malformed("a section has another length than it says"));
    }
    let name_end = SECTION_HEADER_BYTES + u32_at(&bytes, 20) as usize;
    let table = std::str::from_utf8(&bytes[SECTION_HEADER_BYTES..name_end])
        .map_err(|_| malformed("the name of a table is not text"))?;
    let header = SectionHeader {
        table: table.to_owned(),
        rows: u64_at(&bytes, 24),
        first_key_group: u32_at(&bytes, 40),
        last_key_group: u32_at(&bytes, 44),
    };
    Ok((header, bytes.slice(name_end..)))
}

/// Length of the section that begins here, from its header; the header is there, the rest may be missing.
fn section_length(bytes: &[u8]) -> u64 {
    (SECTION_HEADER_BYTES as u64 + u64::from(u32_at(bytes, 20))).saturating_add(u64_at(bytes, 32))
}

fn check_version(found: u32, place: &str) -> Result<()> {
    match found {
        1..=FORMAT_VERSION => Ok(()),
        0 => Err(CheckpointError::Malformed { place: place.to_owned(), reason: "format version 0".to_owned() }),
        _ => Err(CheckpointError::NewerFormat { place: place.to_owned(), found, newest: FORMAT_VERSION }),
    }
}

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes(bytes[at..at + 4].try_into().expect("four bytes are four bytes"))
}

fn u64_at(bytes: &[u8], at: usize) -> u64 {
    u64::from_le_bytes(bytes[at..at + 8].try_into().expect("eight bytes are eight bytes"))
}

#[cfg(test)]
mod tests;
