//! Where CSV records end. Used by the decoder and by readers that cut blocks (pure).
//!
//! A quote opens a quoted field only at the start of a field; inside, two quotes stand for one, and line ends belong to
//! the field. Anywhere else a quote is an ordinary character.

/// The place after the record that starts at the front of `bytes`, its line end included.
///
/// **Shapes**: `None` when the bytes end inside the record: without a line end, or inside quotes.
pub(super) fn record_end(bytes: &[u8], delimiter: u8) -> Option<usize> {
    let mut at = 0;
    loop {
        // At the start of a field.
        if bytes.get(at) == Some(&b'"') {
            at = quoted_end(bytes, at)?;
        }
        at += memchr::memchr2(delimiter, b'\n', &bytes[at..])?;
        at += 1;
        if bytes[at - 1] == b'\n' {
            return Some(at);
        }
    }
}

/// The place after the closing quote of the field whose opening quote is at `at`.
pub(super) fn quoted_end(bytes: &[u8], at: usize) -> Option<usize> {
    let mut at = at + 1;
    loop {
        at += memchr::memchr(b'"', &bytes[at..])? + 1;
        if bytes.get(at) != Some(&b'"') {
            return Some(at);
        }
        at += 1;
    }
}

/// The place after the last whole record of `bytes`, which start at the start of a record; `None` when there is none.
pub fn last_record_end(bytes: &[u8], delimiter: u8) -> Option<usize> {
    let mut end = 0;
    while let Some(len) = record_end(&bytes[end..], delimiter) {
        end += len;
    }
    (end > 0).then_some(end)
}
