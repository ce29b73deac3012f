//! Where a reader stands in a split of a file, and how it knows on its return that the file is still the same (pure).
//! The reader keeps it, `blocks.rs` checks it when it opens the file again.
//!
//! A position names the place where the batch began whose rows are being given, and how many of its rows were given: so
//! no place has to be kept for every row. Bad records leave before the rows they stand between, so they have a place of
//! their own.
//! ```text
//! lines   r1 r2 x3 r4 | r5 ...        batch of three rows, x3 is bad and was given first
//! stand   ^                           given: x3, r1, r2  =>  stand at r1, rows 2, bad_until behind r4
//! ```

use std::collections::BTreeMap;

use weir_core::Value;
use weir_operator_api::{OperatorError, Result, Split};
use xxhash_rust::xxh3::xxh3_64;

/// Bytes that are looked at to know a file again.
pub const CHECK_BYTES: usize = 4096;

/// Some bytes of a file, to know it again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Check {
    /// How many bytes.
    pub len: u64,
    hash: u64,
}

impl Check {
    /// Remembers bytes; none are nothing to remember.
    pub fn of(bytes: &[u8]) -> Option<Check> {
        (!bytes.is_empty()).then(|| Check { len: bytes.len() as u64, hash: xxh3_64(bytes) })
    }

    /// Whether these are the bytes.
    pub fn holds(&self, bytes: &[u8]) -> bool {
        bytes.len() as u64 == self.len && xxh3_64(bytes) == self.hash
    }
}

/// A place between two batches.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Stand {
    /// Byte in the (decompressed) file at which the next record begins; `None` before the first batch.
    pub offset: Option<u64>,
    /// Lines before it, counted from the start of the split.
    pub lines: u64,
    /// Size of the file when it was opened; compressed, if it is compressed.
    pub size_bytes: u64,
    /// The bytes before `offset`; without an offset the first ones of the split.
    pub check: Option<Check>,
}

/// Where a reader stands in one split.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct FilePosition {
    /// Where the batch at hand began.
    pub stand: Stand,
    /// Rows behind the stand that were given.
    pub rows: u64,
    /// Bad records that start before this byte were given.
    pub bad_until: u64,
    /// Newest event time that was given, when the source plays at the pace of event time. **Units**: microseconds.
    pub newest_us: Option<i64>,
}

impl FilePosition {
    /// Puts it into the words of a checkpoint.
    pub fn to_value(&self) -> Value {
        let number = |number: u64| Value::Integer(number as i64);
        let mut map = BTreeMap::from([
            ("lines".to_owned(), number(self.stand.lines)),
            ("size".to_owned(), number(self.stand.size_bytes)),
            ("rows".to_owned(), number(self.rows)),
            ("bad_until".to_owned(), number(self.bad_until)),
        ]);
        if let Some(offset) = self.stand.offset {
            map.insert("offset".to_owned(), number(offset));
        }
        if let Some(check) = self.stand.check {
            map.insert("check_bytes".to_owned(), number(check.len));
            map.insert("check".to_owned(), Value::Text(format!("{:016x}", check.hash)));
        }
        if let Some(newest_us) = self.newest_us {
            // As text: not every 64-bit number survives as a number.
            map.insert("newest_us".to_owned(), Value::Text(newest_us.to_string()));
        }
        Value::Map(map)
    }

    /// Reads the position of a split; the default at its beginning.
    ///
    /// **Errors**: internal, when the words are not ours.
    pub fn of_split(split: &Split) -> Result<FilePosition> {
        let Some(value) = &split.position else { return Ok(FilePosition::default()) };
        FilePosition::of_value(value)
            .ok_or_else(|| OperatorError::internal(format!("not a position in a split of a file source: {value}")))
    }

    fn of_value(value: &Value) -> Option<FilePosition> {
        let map = value.as_map()?;
        let number = |name: &str| match map.get(name) {
            Some(Value::Integer(number)) => u64::try_from(*number).ok(),
            _ => None,
        };
        let text = |name: &str| map.get(name).and_then(Value::as_text);
        let check = match (number("check_bytes"), text("check")) {
            (Some(len), Some(hash)) => Some(Check { len, hash: u64::from_str_radix(hash, 16).ok()? }),
            (None, None) => None,
            _ => return None,
        };
        Some(FilePosition {
            stand: Stand { offset: number("offset"), lines: number("lines")?, size_bytes: number("size")?, check },
            rows: number("rows")?,
            bad_until: number("bad_until")?,
            newest_us: text("newest_us").map(str::parse).transpose().ok()?,
        })
    }
}

/// The error of a file that is not the one that was read before.
pub fn file_changed(path: &str, how: &str) -> OperatorError {
    let message = format!("'{path}' is not the file that was read before the job was restored: {how}");
    OperatorError::user("file-changed", message)
}

#[cfg(test)]
mod tests {
    use super::*;
    use weir_core::SplitIndex;

    #[test]
    fn positions_survive_their_words() {
        let whole = FilePosition {
            stand: Stand { offset: Some(7), lines: 2, size_bytes: 1 << 40, check: Check::of(b"abc") },
            rows: 3,
            bad_until: 9,
            newest_us: Some(i64::MIN),
        };
        for position in [whole, FilePosition::default()] {
            let split = |position| Split { index: SplitIndex(0), description: Value::Null, position };
            assert_eq!(FilePosition::of_split(&split(Some(position.to_value()))).expect("ours"), position);
            assert!(FilePosition::of_split(&split(Some(Value::Integer(1)))).is_err());
            assert_eq!(FilePosition::of_split(&split(None)).expect("the beginning"), FilePosition::default());
        }
    }
}
