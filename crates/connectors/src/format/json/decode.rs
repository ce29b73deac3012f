//! Decodes JSON lines into columns: the hot path of every job that reads JSON. Called by readers, block by block.
//!
//! The decoder expects fields in the order of the record before: a field costs one comparison of its whole `"name"`
//! with the expected one, and only a surprise costs a look-up. Values go straight into typed columns.
//!
//! A line that is no record of the schema becomes a bad text alone; what it had appended is taken back. The rules:
//! - Fields that the schema does not declare are skipped, but must be valid JSON; numbers in them may be of any size.
//! - A missing field or `null` is null, and a fault where the column is `NOT NULL`. Of repeated fields the last wins.
//! - Values are never converted between kinds: `"1"` is no number, `1.0` no whole number, `1` no text. Exceptions:
//!   DECIMAL reads numbers and texts, exactly; TIMESTAMP reads RFC 3339 texts and whole numbers (epoch milliseconds);
//!   FLOAT and DOUBLE read `"NaN"`, `"Infinity"` and `"-Infinity"`.
//! - Every line must be UTF-8. Values nest at most 100 levels deep. Lines of white space are skipped.

use arrow_array::{RecordBatch, RecordBatchOptions};
use arrow_schema::SchemaRef;
use weir_operator_api::{OperatorError, Result};

use super::scan::{
    Fault, Quoted, Scan, byte, colon, fault, float, float32, integer, literal, number_end, skip_space, skip_value,
    string_end, unescape,
};
use crate::format::column::{Column, Lists, Rows};
use crate::format::{BAD_TEXTS_MAX, BATCH_BYTES_MAX, BadText, Decode, Place, text, too_long};

/// Code of lines that are no records of the schema.
const CODE: &str = "bad-record-json";
/// Code of lines that are too long.
const CODE_TOO_LONG: &str = "bad-record-too-long";

/// Fields per record whose order is remembered.
const EXPECTED_MAX: usize = 1_024;
/// Bytes looked over at once for being ASCII.
const LOOK_BYTES: usize = 8 * 1024;
/// Longest field name that is remembered.
const EXPECTED_NAME_BYTES_MAX: usize = 256;

/// Decodes JSON lines into rows of one schema.
pub struct Decoder {
    schema: SchemaRef,
    columns: Vec<Column>,
    /// Per column: the stamp of the last record that had a value for it.
    stamps: Vec<u64>,
    required: Vec<bool>,
    stamp: u64,
    order: FieldOrder,
    current: Option<usize>,
    rows: usize,
    bytes: usize,
    line_bytes_max: usize,
}

impl Decoder {
    /// A decoder of rows of `schema`; lines longer than `line_bytes_max` are bad.
    ///
    /// **Errors**: a column type that JSON cannot be read into.
    pub fn new(schema: SchemaRef, line_bytes_max: usize) -> Result<Self> {
        let fields = schema.fields();
        let columns = fields.iter().map(|field| {
            Column::new(field.data_type())
                .ok_or_else(|| OperatorError::internal(format!("column '{}' cannot be read from JSON", field.name())))
        });
        let columns = columns.collect::<Result<Vec<_>>>()?;
        Ok(Decoder {
            stamps: vec![0; columns.len()],
            required: fields.iter().map(|field| !field.is_nullable()).collect(),
            order: FieldOrder::new(fields.iter().map(|field| field.name().as_str())),
            columns,
            schema,
            stamp: 0,
            current: None,
            rows: 0,
            bytes: 0,
            line_bytes_max,
        })
    }

    /// Reads the object that starts the line at the front of `bytes`.
    fn record(&mut self, bytes: &[u8]) -> Scan<()> {
        self.current = None;
        self.stamp += 1;
        let mut filled = 0;
        let mut at = skip_space(bytes, 0);
        if byte(bytes, at) != b'{' {
            return fault("expected an object", at);
        }
        at = skip_space(bytes, at + 1);
        if byte(bytes, at) == b'}' {
            at += 1;
        } else {
            let mut position = 0;
            loop {
                let target;
                (target, at) = self.order.field(bytes, at, position)?;
                position += 1;
                match target {
                    Some(index) => {
                        filled += usize::from(self.stamps[index] != self.stamp);
                        at = self.field(bytes, at, index)?;
                    }
                    None => at = skip_value(bytes, at)?,
                }
                if !matches!(byte(bytes, at), b',' | b'}') {
                    at = skip_space(bytes, at);
                }
                match byte(bytes, at) {
                    b',' => at = skip_space(bytes, at + 1),
                    b'}' => {
                        at += 1;
                        break;
                    }
                    _ => return fault("expected a comma or the end of the object", at),
                }
            }
        }
        at = skip_space(bytes, at);
        if byte(bytes, at) != b'\n' {
            return fault("unexpected text after the object", at);
        }
        if filled < self.columns.len() { self.fill_missing(at) } else { Ok(()) }
    }

    #[inline]
    fn field(&mut self, bytes: &[u8], at: usize, index: usize) -> Scan<usize> {
        self.current = Some(index);
        let column = &mut self.columns[index];
        if self.stamps[index] == self.stamp {
            column.truncate(self.rows);
        }
        self.stamps[index] = self.stamp;
        let end = if byte(bytes, at) == b'n' {
            if self.required[index] {
                return fault("null in a column that is NOT NULL", at);
            }
            column.push_null();
            literal(bytes, at, b"null", "expected a value")?
        } else {
            value(column, bytes, at)?
        };
        self.current = None;
        Ok(end)
    }

    fn fill_missing(&mut self, at: usize) -> Scan<()> {
        for index in 0..self.columns.len() {
            if self.stamps[index] != self.stamp {
                if self.required[index] {
                    self.current = Some(index);
                    return fault("the field is missing and the column is NOT NULL", at);
                }
                self.columns[index].push_null();
            }
        }
        Ok(())
    }

    #[cold]
    fn undo(&mut self, fault: Fault, place: Place, len: usize) -> BadText {
        self.columns.iter_mut().for_each(|column| column.truncate(self.rows));
        let at = fault.at + 1;
        let message = match self.current {
            Some(index) => {
                let field = self.schema.field(index);
                let type_name = weir_core::data_type::name(field.data_type());
                format!("column '{}' ({type_name}), byte {at}: {}", field.name(), fault.reason)
            }
            None => format!("byte {at}: {}", fault.reason),
        };
        BadText { code: CODE, message, place, len }
    }

    /// Decodes the line at the front of `rest`, which is `len` bytes long without its newline.
    #[inline]
    fn line(&mut self, rest: &[u8], len: usize, place: Place, is_ascii: bool) -> Option<BadText> {
        if len > self.line_bytes_max {
            let message = too_long(len as u64, self.line_bytes_max);
            return Some(BadText { code: CODE_TOO_LONG, message, place, len });
        }
        if !is_ascii && let Err(error) = std::str::from_utf8(&rest[..len]) {
            self.current = None;
            return Some(self.undo(Fault { reason: "not UTF-8", at: error.valid_up_to() }, place, len));
        }
        match self.record(rest) {
            Ok(()) => {
                self.rows += 1;
                self.bytes += len;
                None
            }
            Err(fault) => Some(self.undo(fault, place, len)),
        }
    }
}

impl Decode for Decoder {
    fn decode(&mut self, block: &[u8], place: &mut Place, rows_max: usize, bad: &mut Vec<BadText>) -> Result<()> {
        // Most blocks are ASCII, which is UTF-8: one look over some lines spares each of them its own.
        let (mut looked_until, mut is_ascii) = (0, false);
        while place.at < block.len() && self.rows < rows_max && !self.is_large() && bad.len() < BAD_TEXTS_MAX {
            let rest = &block[place.at..];
            let len = memchr::memchr(b'\n', rest).unwrap_or(rest.len());
            // A line is almost never blank; its first byte tells at once.
            let is_blank = byte(rest, 0) != b'{' && byte(rest, skip_space(rest, 0)) == b'\n';
            if place.at + len > looked_until {
                looked_until = place.at + len.max(LOOK_BYTES).min(rest.len());
                is_ascii = block[place.at..looked_until].is_ascii();
            }
            if !is_blank {
                bad.extend(self.line(rest, len, *place, is_ascii));
            }
            place.at += (len + 1).min(rest.len());
            place.lines += 1;
        }
        Ok(())
    }

    fn rows(&self) -> usize {
        self.rows
    }

    fn is_large(&self) -> bool {
        self.bytes >= BATCH_BYTES_MAX
    }

    fn take(&mut self) -> Result<RecordBatch> {
        let arrays = self.columns.iter_mut().map(Column::finish).collect::<std::result::Result<Vec<_>, _>>()?;
        let options = RecordBatchOptions::new().with_row_count(Some(self.rows));
        self.rows = 0;
        self.bytes = 0;
        Ok(RecordBatch::try_new_with_options(self.schema.clone(), arrays, &options)?)
    }
}

/// The fields of the record before, in their order.
struct FieldOrder {
    /// Declared names as JSON text without escapes, with their column.
    names: Vec<(Vec<u8>, usize)>,
    expected: Vec<Expected>,
}

/// One field of the record before.
struct Expected {
    /// `"name":`, as bytes of the text.
    text: Vec<u8>,
    column: Option<usize>,
}

impl FieldOrder {
    fn new<'a>(names: impl Iterator<Item = &'a str>) -> Self {
        let names: Vec<_> = names.enumerate().map(|(index, name)| (name.as_bytes().to_vec(), index)).collect();
        FieldOrder { names, expected: Vec::new() }
    }

    /// The column of the field whose key starts at `at`, if declared, and the place of its value.
    #[inline]
    fn field(&mut self, bytes: &[u8], at: usize, position: usize) -> Scan<(Option<usize>, usize)> {
        if let Some(expected) = self.expected.get(position)
            && bytes[at.min(bytes.len())..].starts_with(&expected.text)
        {
            let at = at + expected.text.len();
            return Ok((expected.column, if byte(bytes, at) > b' ' { at } else { skip_space(bytes, at) }));
        }
        self.surprise(bytes, at, position)
    }

    #[cold]
    fn surprise(&mut self, bytes: &[u8], at: usize, position: usize) -> Scan<(Option<usize>, usize)> {
        if byte(bytes, at) != b'"' {
            return fault("expected a field name in quotes", at);
        }
        let quoted = string_end(bytes, at + 1)?;
        let value = colon(bytes, quoted.end + 1)?;
        let column = if quoted.has_escapes {
            let mut name = Vec::new();
            unescape(bytes, at + 1, quoted.end, |piece| name.extend_from_slice(piece))?;
            self.column_of(&name, position)
        } else {
            self.column_of(&bytes[at + 1..quoted.end], position)
        };
        let is_adjacent = byte(bytes, quoted.end + 1) == b':';
        let len = quoted.end + 2 - at;
        if is_adjacent && len <= EXPECTED_NAME_BYTES_MAX && position < EXPECTED_MAX {
            if position >= self.expected.len() {
                self.expected.push(Expected { text: Vec::new(), column: None });
            }
            // `position` grows by one per field, so it is at most one past the end, unless names before it were too
            // long to be remembered: then the place is taken by this one and corrects itself with the next record.
            let last = self.expected.len() - 1;
            let slot = &mut self.expected[position.min(last)];
            slot.text.clear();
            slot.text.extend_from_slice(&bytes[at..at + len]);
            slot.column = column;
        }
        Ok((column, value))
    }

    /// Looks a name up, first where the declared order would have it.
    fn column_of(&self, name: &[u8], position: usize) -> Option<usize> {
        let start = position.min(self.names.len());
        let (before, after) = self.names.split_at(start);
        after.iter().chain(before).find(|(declared, _)| declared == name).map(|(_, index)| *index)
    }
}

/// Reads a value that is not null into a column; gives the place after it.
#[inline]
fn value(column: &mut Column, bytes: &[u8], at: usize) -> Scan<usize> {
    match column {
        Column::Text(texts) => {
            if byte(bytes, at) != b'"' {
                return fault("expected a text", at);
            }
            let quoted = string_end(bytes, at + 1)?;
            if quoted.has_escapes {
                let open = texts.open();
                unescape(bytes, at + 1, quoted.end, |piece| open.extend_from_slice(piece))?;
                texts.close();
            } else {
                texts.push(&bytes[at + 1..quoted.end]);
            }
            Ok(quoted.end + 1)
        }
        Column::Float64(numbers) => {
            let (number, end) = if byte(bytes, at) == b'"' { non_finite(bytes, at)? } else { float(bytes, at)? };
            numbers.push(number);
            Ok(end)
        }
        Column::Int64(numbers) => {
            let (number, end) = integer(bytes, at)?;
            numbers.push(number);
            Ok(end)
        }
        Column::Timestamp(numbers) => {
            let (time, end) = timestamp(bytes, at)?;
            numbers.push(time);
            Ok(end)
        }
        other => rare_value(other, bytes, at),
    }
}

/// The types that streams seldom carry, out of the way of the others.
fn rare_value(column: &mut Column, bytes: &[u8], at: usize) -> Scan<usize> {
    fn small<T: TryFrom<i64>>(bytes: &[u8], at: usize) -> Scan<(T, usize)> {
        let (number, end) = integer(bytes, at)?;
        match T::try_from(number) {
            Ok(number) => Ok((number, end)),
            Err(_) => fault("the number is too large for its type", at),
        }
    }
    macro_rules! push {
        ($numbers:expr, $read:expr) => {{
            let (number, end) = $read?;
            $numbers.push(number);
            Ok(end)
        }};
    }
    match column {
        Column::Boolean(booleans) => {
            let truth = byte(bytes, at) == b't';
            let end = literal(bytes, at, if truth { b"true" } else { b"false" }, "expected true or false")?;
            booleans.push(truth);
            Ok(end)
        }
        Column::Int8(numbers) => push!(numbers, small(bytes, at)),
        Column::Int16(numbers) => push!(numbers, small(bytes, at)),
        Column::Int32(numbers) => push!(numbers, small(bytes, at)),
        Column::Float32(numbers) if byte(bytes, at) == b'"' => {
            push!(numbers, non_finite(bytes, at).map(|(number, end)| (number as f32, end)))
        }
        Column::Float32(numbers) => push!(numbers, float32(bytes, at)),
        Column::Decimal(numbers, precision, scale) => push!(numbers, decimal(bytes, at, *precision, *scale)),
        Column::Date(numbers) => push!(numbers, date(bytes, at)),
        Column::List(lists) => list(lists, bytes, at),
        Column::Row(rows) => row(rows, bytes, at),
        Column::Text(_) | Column::Float64(_) | Column::Int64(_) | Column::Timestamp(_) => value(column, bytes, at),
    }
}

/// Reads a quoted value of a type whose texts never need escapes.
fn plain_text<'a>(bytes: &'a [u8], at: usize, expected: &'static str) -> Scan<(&'a [u8], usize)> {
    if byte(bytes, at) != b'"' {
        return fault(expected, at);
    }
    match string_end(bytes, at + 1)? {
        Quoted { end, has_escapes: false } => Ok((&bytes[at + 1..end], end + 1)),
        Quoted { .. } => fault(expected, at),
    }
}

fn non_finite(bytes: &[u8], at: usize) -> Scan<(f64, usize)> {
    const EXPECTED: &str = "expected a number";
    let (content, end) = plain_text(bytes, at, EXPECTED)?;
    match text::read_non_finite(content) {
        Some(number) => Ok((number, end)),
        None => fault(EXPECTED, at),
    }
}

fn timestamp(bytes: &[u8], at: usize) -> Scan<(i64, usize)> {
    const EXPECTED: &str = "expected a timestamp: RFC 3339 text or epoch milliseconds";
    const OUTSIDE: &str = "the timestamp is no valid time of the years 1 to 9999";
    let (time, end) = match byte(bytes, at) {
        b'"' => {
            let (content, end) = plain_text(bytes, at, EXPECTED)?;
            (text::read_timestamp(content), end)
        }
        b'-' | b'0'..=b'9' => {
            let (millis, end) = integer(bytes, at)?;
            (text::timestamp_from_millis(millis), end)
        }
        _ => return fault(EXPECTED, at),
    };
    match time {
        Some(time) => Ok((time, end)),
        None => fault(OUTSIDE, at),
    }
}

fn date(bytes: &[u8], at: usize) -> Scan<(i32, usize)> {
    const EXPECTED: &str = "expected a date like \"2018-08-01\"";
    let (content, end) = plain_text(bytes, at, EXPECTED)?;
    match text::read_date(content) {
        Some(days) => Ok((days, end)),
        None => fault(EXPECTED, at),
    }
}

fn decimal(bytes: &[u8], at: usize, precision: u8, scale: u8) -> Scan<(i128, usize)> {
    let (content, end) = if byte(bytes, at) == b'"' {
        plain_text(bytes, at, "expected a decimal number")?
    } else {
        let end = number_end(bytes, at)?;
        (&bytes[at..end], end)
    };
    match text::read_decimal(content, precision, scale) {
        Ok(number) => Ok((number, end)),
        Err(reason) => fault(reason, at),
    }
}

/// Reads a value that may be null, inside an array or a row. Depth is bounded by the declared type.
fn inner_value(column: &mut Column, bytes: &[u8], at: usize) -> Scan<usize> {
    if byte(bytes, at) == b'n' {
        column.push_null();
        literal(bytes, at, b"null", "expected a value")
    } else {
        value(column, bytes, at)
    }
}

fn list(lists: &mut Lists, bytes: &[u8], at: usize) -> Scan<usize> {
    if byte(bytes, at) != b'[' {
        return fault("expected an array", at);
    }
    let mut at = skip_space(bytes, at + 1);
    if byte(bytes, at) == b']' {
        lists.close();
        return Ok(at + 1);
    }
    loop {
        at = skip_space(bytes, inner_value(&mut lists.items, bytes, at)?);
        match byte(bytes, at) {
            b',' => at = skip_space(bytes, at + 1),
            b']' => {
                lists.close();
                return Ok(at + 1);
            }
            _ => return fault("expected a comma or the end of the array", at),
        }
    }
}

fn row(rows: &mut Rows, bytes: &[u8], at: usize) -> Scan<usize> {
    if byte(bytes, at) != b'{' {
        return fault("expected an object", at);
    }
    let mut at = skip_space(bytes, at + 1);
    if byte(bytes, at) == b'}' {
        rows.close();
        return Ok(at + 1);
    }
    loop {
        if byte(bytes, at) != b'"' {
            return fault("expected a field name in quotes", at);
        }
        let start = at + 1;
        let quoted = string_end(bytes, start)?;
        let index = if quoted.has_escapes {
            let mut name = Vec::new();
            unescape(bytes, start, quoted.end, |piece| name.extend_from_slice(piece))?;
            rows.index_of(&name)
        } else {
            rows.index_of(&bytes[start..quoted.end])
        };
        at = colon(bytes, quoted.end + 1)?;
        at = match index {
            Some(index) => {
                let closed = rows.closed();
                let column = &mut rows.columns[index];
                if column.len() > closed {
                    column.truncate(closed);
                }
                inner_value(column, bytes, at)?
            }
            None => skip_value(bytes, at)?,
        };
        at = skip_space(bytes, at);
        match byte(bytes, at) {
            b',' => at = skip_space(bytes, at + 1),
            b'}' => {
                rows.close();
                return Ok(at + 1);
            }
            _ => return fault("expected a comma or the end of the object", at),
        }
    }
}
