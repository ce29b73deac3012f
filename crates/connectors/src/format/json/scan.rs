//! The scanner of JSON texts: finds values, checks their grammar, reads numbers. `decode.rs` drives it; it must not know
//! columns or schemas.
//!
//! It is given the rest of a block, not one line: a raw newline is legal nowhere inside a JSON value, so scanning stops
//! there by itself, and words of eight bytes may be read across the end of a line. Past the end every byte reads as a
//! newline.
//!
//! **Source**: RFC 8259. Words of eight bytes are scanned as in Mycroft's zero-byte test and Lemire's
//! `parse_eight_digits_unrolled`.

/// Why a text is no record, and at which byte of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Fault {
    /// What is wrong.
    pub(super) reason: &'static str,
    /// Where, from the start of the line.
    pub(super) at: usize,
}

/// Result of scanning.
pub(super) type Scan<T> = Result<T, Fault>;

#[cold]
pub(super) fn fault<T>(reason: &'static str, at: usize) -> Scan<T> {
    Err(Fault { reason, at })
}

/// Deepest nesting of a value that is skipped.
const DEPTH_MAX: u32 = 100;

const ONES: u64 = 0x0101_0101_0101_0101;
const HIGHS: u64 = 0x8080_8080_8080_8080;

/// The byte at a place; a newline past the end.
#[inline(always)]
pub(super) fn byte(bytes: &[u8], at: usize) -> u8 {
    bytes.get(at).copied().unwrap_or(b'\n')
}

#[inline(always)]
fn word(bytes: &[u8], at: usize) -> Option<u64> {
    let chunk: &[u8; 8] = bytes.get(at..at.wrapping_add(8))?.try_into().ok()?;
    Some(u64::from_le_bytes(*chunk))
}

/// The place of the next byte that is not white space within the line.
#[inline(always)]
pub(super) fn skip_space(bytes: &[u8], mut at: usize) -> usize {
    while matches!(byte(bytes, at), b' ' | b'\t' | b'\r') {
        at += 1;
    }
    at
}

/// A string: from where it was asked for, its content ends at `end` (where the closing quote is).
#[derive(Clone, Copy, Debug)]
pub(super) struct Quoted {
    /// Place of the closing quote.
    pub(super) end: usize,
    /// Whether the content has escapes.
    pub(super) has_escapes: bool,
}

/// Finds the end of a string whose content starts at `at`.
///
/// **Errors**: a control character, or the line ends first. Escapes are not checked; see [`unescape`].
#[inline]
pub(super) fn string_end(bytes: &[u8], mut at: usize) -> Scan<Quoted> {
    let mut has_escapes = false;
    loop {
        while let Some(word) = word(bytes, at) {
            let quote = word ^ (ONES * b'"' as u64);
            let escape = word ^ (ONES * b'\\' as u64);
            // Each term marks the high bit of a byte that is a quote, a backslash or a control character. Marks above
            // the lowest may be wrong (borrows), the lowest never is.
            let marks = (quote.wrapping_sub(ONES) & !quote)
                | (escape.wrapping_sub(ONES) & !escape)
                | (word.wrapping_sub(ONES * 0x20) & !word);
            let marks = marks & HIGHS;
            if marks != 0 {
                at += (marks.trailing_zeros() / 8) as usize;
                break;
            }
            at += 8;
        }
        match byte(bytes, at) {
            b'"' => return Ok(Quoted { end: at, has_escapes }),
            b'\\' => {
                has_escapes = true;
                if byte(bytes, at + 1) < 0x20 {
                    return fault("the text is not closed by a quote", at);
                }
                at += 2;
            }
            b'\n' => return fault("the text is not closed by a quote", at),
            0..=0x1f => return fault("a control character inside a text", at),
            _ => at += 1,
        }
    }
}

fn hex(bytes: &[u8], at: usize) -> Option<u32> {
    let digits = bytes.get(at..at + 4)?;
    digits.iter().try_fold(0, |value, digit| Some(value * 16 + (*digit as char).to_digit(16)?))
}

/// Gives the pieces of a string's content with escapes resolved.
///
/// **Errors**: an escape that JSON does not know, or half a surrogate pair.
pub(super) fn unescape(bytes: &[u8], start: usize, end: usize, mut push: impl FnMut(&[u8])) -> Scan<()> {
    let content = &bytes[..end];
    let mut at = start;
    while at < end {
        let plain = memchr::memchr(b'\\', &content[at..]).map_or(end, |found| at + found);
        push(&content[at..plain]);
        if plain == end {
            break;
        }
        at = plain + 2;
        let simple = match content.get(plain + 1) {
            Some(b'"') => b'"',
            Some(b'\\') => b'\\',
            Some(b'/') => b'/',
            Some(b'b') => 0x08,
            Some(b'f') => 0x0c,
            Some(b'n') => b'\n',
            Some(b'r') => b'\r',
            Some(b't') => b'\t',
            Some(b'u') => {
                let Some(mut code) = hex(content, at) else { return fault("an escape \\u without four digits", plain) };
                at += 4;
                if (0xD800..0xDC00).contains(&code)
                    && content.get(at..at + 2) == Some(b"\\u".as_slice())
                    && let Some(low @ 0xDC00..0xE000) = hex(content, at + 2)
                {
                    code = 0x10000 + ((code - 0xD800) << 10) + (low - 0xDC00);
                    at += 6;
                }
                let Some(character) = char::from_u32(code) else {
                    return fault("an escape \\u that is half of a pair", plain);
                };
                push(character.encode_utf8(&mut [0; 4]).as_bytes());
                continue;
            }
            _ => return fault("an escape that JSON does not know", plain),
        };
        push(&[simple]);
    }
    Ok(())
}

const TENS: [u64; 9] = [1, 10, 100, 1_000, 10_000, 100_000, 1_000_000, 10_000_000, 100_000_000];

/// Reads up to eight digits at the front of a word: how many, and their value.
#[inline(always)]
fn digits_of_word(word: u64) -> (usize, u64) {
    let digits = word ^ (ONES * b'0' as u64);
    // A byte of 10 or more gets its high bit by adding 0x76 (or has it already).
    let others = (((digits & !HIGHS) + ONES * 0x76) | digits) & HIGHS;
    let count = (others.trailing_zeros() / 8) as usize;
    if count == 0 {
        return (0, 0);
    }
    // Zeros move in before the digits, so that there are always eight.
    let digits = digits << (64 - 8 * count);
    let pairs = digits.wrapping_mul(10).wrapping_add(digits >> 8);
    let low = (pairs & 0x0000_00FF_0000_00FF).wrapping_mul(0x000F_4240_0000_0064);
    let high = ((pairs >> 16) & 0x0000_00FF_0000_00FF).wrapping_mul(0x0000_2710_0000_0001);
    (count, (low.wrapping_add(high)) >> 32)
}

/// Continues `value` with the digits at `at`: the value (wrapped beyond 19 digits) and the place after them.
#[inline(always)]
fn digits(bytes: &[u8], mut at: usize, mut value: u64) -> (u64, usize) {
    while let Some(word) = word(bytes, at) {
        let (count, digits) = digits_of_word(word);
        value = value.wrapping_mul(TENS[count]).wrapping_add(digits);
        at += count;
        if count < 8 {
            return (value, at);
        }
    }
    while let digit @ b'0'..=b'9' = byte(bytes, at) {
        value = value.wrapping_mul(10).wrapping_add(u64::from(digit - b'0'));
        at += 1;
    }
    (value, at)
}

/// The place after a number.
///
/// **Errors**: not a number by JSON's grammar.
pub(super) fn number_end(bytes: &[u8], start: usize) -> Scan<usize> {
    let first = start + usize::from(byte(bytes, start) == b'-');
    let (_, mut at) = digits(bytes, first, 0);
    if at == first {
        return fault("expected a number", start);
    }
    if byte(bytes, first) == b'0' && at - first > 1 {
        return fault("a number with leading zeros", start);
    }
    if byte(bytes, at) == b'.' {
        let fraction = at + 1;
        at = digits(bytes, fraction, 0).1;
        if at == fraction {
            return fault("a number without digits after the point", start);
        }
    }
    if matches!(byte(bytes, at), b'e' | b'E') {
        at += 1;
        at += usize::from(matches!(byte(bytes, at), b'+' | b'-'));
        let exponent = at;
        at = digits(bytes, exponent, 0).1;
        if at == exponent {
            return fault("a number without digits in its exponent", start);
        }
    }
    Ok(at)
}

/// Reads a whole number: it and the place after it.
#[inline]
pub(super) fn integer(bytes: &[u8], start: usize) -> Scan<(i64, usize)> {
    let negative = byte(bytes, start) == b'-';
    let first = start + usize::from(negative);
    let (value, end) = digits(bytes, first, 0);
    let count = end - first;
    let is_plain = !matches!(byte(bytes, end), b'.' | b'e' | b'E');
    if is_plain && (count == 1 || ((2..=18).contains(&count) && byte(bytes, first) != b'0')) {
        return Ok((if negative { -(value as i64) } else { value as i64 }, end));
    }
    integer_slowly(bytes, start)
}

#[cold]
fn integer_slowly(bytes: &[u8], start: usize) -> Scan<(i64, usize)> {
    if !matches!(byte(bytes, start), b'-' | b'0'..=b'9') {
        return fault("expected a whole number", start);
    }
    let end = number_end(bytes, start)?;
    let text = &bytes[start..end];
    if text.iter().any(|byte| matches!(byte, b'.' | b'e' | b'E')) {
        return fault("expected a whole number, found one with a fraction or exponent", start);
    }
    match std::str::from_utf8(text).ok().and_then(|text| text.parse().ok()) {
        Some(number) => Ok((number, end)),
        None => fault("the number is too large for its type", start),
    }
}

/// Powers of ten that a double holds exactly.
const EXACT_TENS: [f64; 23] = [
    1e0, 1e1, 1e2, 1e3, 1e4, 1e5, 1e6, 1e7, 1e8, 1e9, 1e10, 1e11, 1e12, 1e13, 1e14, 1e15, 1e16, 1e17, 1e18, 1e19, 1e20,
    1e21, 1e22,
];

/// Reads a number as a double, correctly rounded: it and the place after it.
///
/// Up to 2^53 with up to 22 fraction digits both the digits and the power of ten are exact doubles, so one division
/// rounds once, which is what correct rounding means.
///
/// **Source**: W. D. Clinger, "How to Read Floating Point Numbers Accurately", 1990.
#[inline]
pub(super) fn float(bytes: &[u8], start: usize) -> Scan<(f64, usize)> {
    let negative = byte(bytes, start) == b'-';
    let first = start + usize::from(negative);
    let (whole, point) = digits(bytes, first, 0);
    if byte(bytes, point) == b'.' {
        let (value, end) = digits(bytes, point + 1, whole);
        let (whole_count, fraction_count) = (point - first, end - point - 1);
        let is_plain = whole_count == 1 || (whole_count > 1 && byte(bytes, first) != b'0');
        if is_plain
            && fraction_count > 0
            && whole_count + fraction_count <= 19
            && value <= 1 << 53
            && !matches!(byte(bytes, end), b'e' | b'E')
        {
            let number = value as f64 / EXACT_TENS[fraction_count];
            return Ok((if negative { -number } else { number }, end));
        }
    }
    float_slowly(bytes, start)
}

#[inline(never)]
fn float_slowly(bytes: &[u8], start: usize) -> Scan<(f64, usize)> {
    let end = number_end(bytes, start)?;
    match fast_float2::parse::<f64, _>(&bytes[start..end]) {
        Ok(number) if number.is_finite() => Ok((number, end)),
        _ => fault("the number is too large for its type", start),
    }
}

/// Reads a number as a single-precision float, rounded once from its text.
pub(super) fn float32(bytes: &[u8], start: usize) -> Scan<(f32, usize)> {
    let end = number_end(bytes, start)?;
    match fast_float2::parse::<f32, _>(&bytes[start..end]) {
        Ok(number) if number.is_finite() => Ok((number, end)),
        _ => fault("the number is too large for its type", start),
    }
}

/// The place after a word like `null`.
#[inline]
pub(super) fn literal(bytes: &[u8], at: usize, text: &'static [u8], reason: &'static str) -> Scan<usize> {
    if bytes.get(at..at + text.len()) == Some(text) { Ok(at + text.len()) } else { fault(reason, at) }
}

/// The place after any value; its grammar is checked, numbers may be of any size.
pub(super) fn skip_value(bytes: &[u8], mut at: usize) -> Scan<usize> {
    // One bit per open level: 1 for an object, 0 for an array.
    let (mut levels, mut depth) = (0u128, 0u32);
    loop {
        let opened = match byte(bytes, at) {
            b'"' => {
                at = skip_string(bytes, at)?;
                false
            }
            b'{' | b'[' if depth == DEPTH_MAX => return fault("values nest too deep", at),
            open @ (b'{' | b'[') => {
                levels = levels << 1 | u128::from(open == b'{');
                depth += 1;
                at = skip_space(bytes, at + 1);
                true
            }
            b't' => {
                at = literal(bytes, at, b"true", "expected a value")?;
                false
            }
            b'f' => {
                at = literal(bytes, at, b"false", "expected a value")?;
                false
            }
            b'n' => {
                at = literal(bytes, at, b"null", "expected a value")?;
                false
            }
            b'-' | b'0'..=b'9' => {
                at = number_end(bytes, at)?;
                false
            }
            _ => return fault("expected a value", at),
        };
        let mut is_empty = opened;
        // After a value: close levels, or go on to the next value of the innermost one.
        loop {
            if depth == 0 {
                return Ok(at);
            }
            let in_object = levels & 1 == 1;
            at = skip_space(bytes, at);
            match (byte(bytes, at), in_object) {
                (b'}', true) | (b']', false) => {
                    levels >>= 1;
                    depth -= 1;
                    at += 1;
                    is_empty = false;
                    continue;
                }
                (b',', _) if !is_empty => at = skip_space(bytes, at + 1),
                _ if is_empty => {}
                _ => return fault("expected a comma or the end of an object or array", at),
            }
            if in_object {
                at = skip_key(bytes, at)?;
            }
            break;
        }
    }
}

fn skip_string(bytes: &[u8], at: usize) -> Scan<usize> {
    let quoted = string_end(bytes, at + 1)?;
    if quoted.has_escapes {
        unescape(bytes, at + 1, quoted.end, |_| {})?;
    }
    Ok(quoted.end + 1)
}

/// The place of the value after a key that is not looked at.
fn skip_key(bytes: &[u8], at: usize) -> Scan<usize> {
    if byte(bytes, at) != b'"' {
        return fault("expected a field name in quotes", at);
    }
    colon(bytes, skip_string(bytes, at)?)
}

/// The place of the value after the colon that must follow a key.
#[inline]
pub(super) fn colon(bytes: &[u8], at: usize) -> Scan<usize> {
    let at = skip_space(bytes, at);
    if byte(bytes, at) != b':' {
        return fault("expected a colon after the field name", at);
    }
    Ok(skip_space(bytes, at + 1))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn integers_agree_with_std(number in any::<i64>(), shift in 0u32..63, tail in "[,} ]{0,9}") {
            let number = number >> shift;
            let text = format!("{number}{tail}");
            prop_assert_eq!(integer(text.as_bytes(), 0), Ok((number, number.to_string().len())));
        }

        #[test]
        fn floats_agree_with_std(text in "-?(0|[1-9][0-9]{0,20})(\\.[0-9]{1,25})?([eE][+-]?[0-9]{1,3})?") {
            let expected: f64 = text.parse().expect("a number");
            let line = format!("{text},");
            match float(line.as_bytes(), 0) {
                Ok((number, end)) => prop_assert_eq!((number.to_bits(), end), (expected.to_bits(), text.len())),
                Err(_) => prop_assert!(expected.is_infinite()),
            }
        }

        #[test]
        fn string_ends_agree_with_a_plain_search(text in "[a-z\\PC]{0,30}", tail in "[ -~]{0,12}") {
            let clean: String = text.chars().filter(|c| !matches!(c, '"' | '\\')).collect();
            let line = format!("{clean}\"{tail}");
            prop_assert_eq!(string_end(line.as_bytes(), 0).map(|quoted| quoted.end), Ok(clean.len()));
        }
    }
}
