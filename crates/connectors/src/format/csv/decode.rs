//! Decodes CSV records into columns. Called by readers, block by block.
//!
//! With a header columns are matched by name, so files may have more columns, or others first; without one they are
//! matched by place. A record that is not one of the schema becomes a bad text alone. The rules:
//! - A field that is the null text (empty by default) and is not quoted is null; a quoted empty field is an empty text.
//! - Numbers may have white space around them. Booleans are `true` and `false` in any case. TIMESTAMP reads RFC 3339
//!   texts and whole numbers (epoch milliseconds). ARRAY and ROW cannot be read from CSV.
//! - Every record must have as many fields as the header (or, without one, as the schema).
//! - A quote that is never closed spoils only the line it stands in.
//! - Empty lines are skipped.

use std::ops::Range;

use arrow_array::{RecordBatch, RecordBatchOptions};
use arrow_schema::SchemaRef;
use weir_operator_api::{OperatorError, Result};

use super::record::{quoted_end, record_end};
use crate::format::column::Column;
use crate::format::{BAD_TEXTS_MAX, BATCH_BYTES_MAX, BadText, Decode, Place, text, too_long};

/// Code of records that are not of the schema.
const CODE: &str = "bad-record-csv";
/// Code of records that are too long.
const CODE_TOO_LONG: &str = "bad-record-too-long";

/// How the text is to be read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Options {
    /// What stands between fields.
    pub delimiter: u8,
    /// The unquoted text that means null.
    pub null: String,
    /// Whether quoted fields may hold line ends.
    pub quoted_newlines: bool,
    /// Longest record.
    pub line_bytes_max: usize,
}

/// Decodes CSV records into rows of one schema.
pub struct Decoder {
    schema: SchemaRef,
    columns: Vec<Column>,
    options: Options,
    /// Per column: which field of a record it is.
    places: Vec<usize>,
    field_count: usize,
    /// Fields of the record at hand, as ranges of it, and whether they were quoted; kept to reuse its memory.
    fields: Vec<(Range<usize>, bool)>,
    unquoted: Vec<u8>,
    rows: usize,
    bytes: usize,
}

impl Decoder {
    /// A decoder of rows of `schema`, columns by place until [`Decoder::set_header`].
    ///
    /// **Errors**: a column type that CSV cannot be read into.
    pub fn new(schema: SchemaRef, options: Options) -> Result<Self> {
        let columns = schema.fields().iter().map(|field| {
            let column =
                Column::new(field.data_type()).filter(|column| !matches!(column, Column::List(_) | Column::Row(_)));
            column.ok_or_else(|| OperatorError::internal(format!("column '{}' cannot be read from CSV", field.name())))
        });
        let columns = columns.collect::<Result<Vec<_>>>()?;
        Ok(Decoder {
            places: (0..columns.len()).collect(),
            field_count: columns.len(),
            columns,
            schema,
            options,
            fields: Vec::new(),
            unquoted: Vec::new(),
            rows: 0,
            bytes: 0,
        })
    }

    /// Takes the header at the front of `block` and says where the first record starts; columns are matched by name from
    /// here on.
    ///
    /// **Errors**: a sentence, when a column is missing or doubled, or the header is no CSV.
    pub fn set_header(&mut self, block: &[u8]) -> std::result::Result<usize, String> {
        let end = self.record_end(block).unwrap_or(block.len());
        let header = content(&block[..end]);
        self.split_fields(header).map_err(|reason| format!("the header is no CSV: {reason}"))?;
        let mut names = Vec::new();
        for index in 0..self.fields.len() {
            let (range, is_quoted) = self.fields[index].clone();
            let raw = unquote(&header[range], is_quoted, &mut self.unquoted);
            names.push(String::from_utf8_lossy(raw).trim().to_owned());
        }
        for (index, field) in self.schema.fields().iter().enumerate() {
            let mut found = names.iter().enumerate().filter(|(_, name)| *name == field.name());
            let Some((place, _)) = found.next() else {
                return Err(format!("the header has no column '{}'; it has {}", field.name(), names.join(", ")));
            };
            if found.next().is_some() {
                return Err(format!("the header has the column '{}' twice", field.name()));
            }
            self.places[index] = place;
        }
        self.field_count = names.len();
        Ok(end)
    }

    fn record_end(&self, bytes: &[u8]) -> Option<usize> {
        if self.options.quoted_newlines {
            record_end(bytes, self.options.delimiter)
        } else {
            memchr::memchr(b'\n', bytes).map(|at| at + 1)
        }
    }

    /// Cuts a record into its fields.
    fn split_fields(&mut self, record: &[u8]) -> std::result::Result<(), &'static str> {
        self.fields.clear();
        let delimiter = self.options.delimiter;
        let mut at = 0;
        loop {
            if record.get(at) == Some(&b'"') {
                let end = quoted_end(record, at).ok_or("a quoted field is not closed")?;
                self.fields.push((at + 1..end - 1, true));
                match record.get(end) {
                    None => return Ok(()),
                    Some(byte) if *byte == delimiter => at = end + 1,
                    Some(_) => return Err("text follows the closing quote of a field"),
                }
            } else {
                let end = memchr::memchr(delimiter, &record[at..]).map_or(record.len(), |len| at + len);
                self.fields.push((at..end, false));
                if end == record.len() {
                    return Ok(());
                }
                at = end + 1;
            }
        }
    }

    fn append(&mut self, record: &[u8]) -> std::result::Result<(), String> {
        std::str::from_utf8(record).map_err(|_| "not UTF-8".to_owned())?;
        self.split_fields(record)?;
        if self.fields.len() != self.field_count {
            return Err(format!("{} fields where {} are expected", self.fields.len(), self.field_count));
        }
        for (index, column) in self.columns.iter_mut().enumerate() {
            let (range, is_quoted) = self.fields[self.places[index]].clone();
            let raw = unquote(&record[range], is_quoted, &mut self.unquoted);
            let field = self.schema.field(index);
            if !is_quoted && raw == self.options.null.as_bytes() {
                if !field.is_nullable() {
                    return Err(format!("column '{}': null in a column that is NOT NULL", field.name()));
                }
                column.push_null();
            } else if let Err(reason) = push_text(column, raw) {
                let type_name = weir_core::data_type::name(field.data_type());
                let found = String::from_utf8_lossy(&raw[..raw.len().min(100)]);
                return Err(format!("column '{}' ({type_name}): {reason}, found '{found}'", field.name()));
            }
        }
        Ok(())
    }

    fn record(&mut self, record: &[u8], place: Place) -> Option<BadText> {
        let len = record.len();
        if len > self.options.line_bytes_max {
            let message = too_long(len as u64, self.options.line_bytes_max);
            return Some(BadText { code: CODE_TOO_LONG, message, place, len });
        }
        match self.append(record) {
            Ok(()) => {
                self.rows += 1;
                self.bytes += len;
                None
            }
            Err(message) => {
                self.columns.iter_mut().for_each(|column| column.truncate(self.rows));
                Some(BadText { code: CODE, message, place, len })
            }
        }
    }
}

impl Decode for Decoder {
    fn decode(&mut self, block: &[u8], place: &mut Place, rows_max: usize, bad: &mut Vec<BadText>) -> Result<()> {
        while place.at < block.len() && self.rows < rows_max && !self.is_large() && bad.len() < BAD_TEXTS_MAX {
            let rest = &block[place.at..];
            // Without an end it is the last record, or its quotes are never closed: then its first line is taken alone.
            let end = self.record_end(rest).unwrap_or_else(|| {
                let whole = content(rest);
                match self.split_fields(whole) {
                    Ok(()) => rest.len(),
                    Err(_) => memchr::memchr(b'\n', rest).map_or(rest.len(), |at| at + 1),
                }
            });
            let record = content(&rest[..end]);
            if !record.is_empty() {
                bad.extend(self.record(record, *place));
            }
            place.at += end;
            place.lines += 1;
            if self.options.quoted_newlines {
                place.lines += memchr::memchr_iter(b'\n', record).count() as u64;
            }
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

/// A record without its line end.
fn content(record: &[u8]) -> &[u8] {
    let record = record.strip_suffix(b"\n").unwrap_or(record);
    record.strip_suffix(b"\r").unwrap_or(record)
}

/// The text of a field; doubled quotes become single ones in `scratch`.
fn unquote<'a>(raw: &'a [u8], is_quoted: bool, scratch: &'a mut Vec<u8>) -> &'a [u8] {
    if !is_quoted || memchr::memchr(b'"', raw).is_none() {
        return raw;
    }
    scratch.clear();
    let mut at = 0;
    while let Some(found) = memchr::memchr(b'"', &raw[at..]) {
        scratch.extend_from_slice(&raw[at..=at + found]);
        at += found + 2;
    }
    scratch.extend_from_slice(&raw[at.min(raw.len())..]);
    scratch
}

fn parse<T: std::str::FromStr>(raw: &[u8], expected: &'static str) -> std::result::Result<T, &'static str> {
    let text = std::str::from_utf8(raw.trim_ascii()).map_err(|_| expected)?;
    text.parse().map_err(|_| expected)
}

fn parse_float<T: fast_float2::FastFloat>(raw: &[u8]) -> std::result::Result<T, &'static str> {
    fast_float2::parse(raw.trim_ascii()).map_err(|_| "expected a number")
}

/// Reads the text of a field into a column.
fn push_text(column: &mut Column, raw: &[u8]) -> std::result::Result<(), &'static str> {
    const INTEGER: &str = "expected a whole number that fits the type";
    match column {
        Column::Boolean(booleans) => booleans.push(match raw.trim_ascii() {
            word if word.eq_ignore_ascii_case(b"true") => true,
            word if word.eq_ignore_ascii_case(b"false") => false,
            _ => return Err("expected true or false"),
        }),
        Column::Int8(numbers) => numbers.push(parse(raw, INTEGER)?),
        Column::Int16(numbers) => numbers.push(parse(raw, INTEGER)?),
        Column::Int32(numbers) => numbers.push(parse(raw, INTEGER)?),
        Column::Int64(numbers) => numbers.push(parse(raw, INTEGER)?),
        Column::Float32(numbers) => numbers.push(parse_float(raw)?),
        Column::Float64(numbers) => numbers.push(parse_float(raw)?),
        Column::Decimal(numbers, precision, scale) => {
            numbers.push(text::read_decimal(raw.trim_ascii(), *precision, *scale)?);
        }
        Column::Text(texts) => texts.push(raw),
        Column::Date(numbers) => {
            numbers.push(text::read_date(raw.trim_ascii()).ok_or("expected a date like 2018-08-01")?);
        }
        Column::Timestamp(numbers) => {
            let word = raw.trim_ascii();
            let millis = parse::<i64>(word, "").ok();
            let time = match millis {
                Some(millis) => text::timestamp_from_millis(millis),
                None => text::read_timestamp(word),
            };
            numbers.push(time.ok_or("expected a timestamp of the years 1 to 9999: RFC 3339 or epoch milliseconds")?);
        }
        Column::List(_) | Column::Row(_) => return Err("ARRAY and ROW cannot be read from CSV"),
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use arrow_array::cast::AsArray;
    use arrow_array::{Array, RecordBatch};
    use arrow_schema::{Field, Schema};
    use expect_test::{Expect, expect};
    use proptest::prelude::*;

    use super::*;
    use crate::format::Encode;
    use crate::format::csv::{Encoder, last_record_end};

    fn schema(columns: &[(&str, &str)]) -> SchemaRef {
        let fields = columns
            .iter()
            .map(|(name, type_name)| Field::new(*name, weir_core::data_type::parse(type_name).expect("a type"), true));
        Arc::new(Schema::new(fields.collect::<Vec<_>>()))
    }

    fn options() -> Options {
        Options { delimiter: b',', null: String::new(), quoted_newlines: true, line_bytes_max: 1000 }
    }

    fn decode(schema: SchemaRef, text: &[u8], options: Options) -> (RecordBatch, Vec<String>) {
        let mut decoder = Decoder::new(schema, options).expect("types fit");
        let at = decoder.set_header(text).expect("a header");
        let (mut place, mut bad) = (Place { at, lines: 1 }, Vec::new());
        while place.at < text.len() {
            decoder.decode(text, &mut place, usize::MAX, &mut bad).expect("decodes");
        }
        let bad = bad.iter().map(|bad| format!("line {}: {}", bad.place.lines + 1, bad.message)).collect();
        (decoder.take().expect("a batch"), bad)
    }

    fn check(columns: &[(&str, &str)], text: &str, expected: Expect) {
        let (rows, bad) = decode(schema(columns), text.as_bytes(), options());
        let mut out = Vec::new();
        let mut encoder = Encoder::new(rows.schema_ref(), Default::default());
        encoder.header(&mut out);
        encoder.rows(&rows, &mut out).expect("encodes");
        let shown = String::from_utf8(out).expect("text");
        expected.assert_eq(&(shown + &bad.iter().map(|line| format!("bad {line}\n")).collect::<String>()));
    }

    #[test]
    fn columns_are_matched_by_name_and_bad_records_stand_alone() {
        check(
            &[("b", "BIGINT"), ("a", "STRING"), ("t", "TIMESTAMP"), ("d", "DECIMAL(6,2)"), ("f", "DOUBLE")],
            "a,extra,b,f,d,t\r\nx,,1,1e2,1.5,2018-08-01T05:00:00Z\n\
             \"q\"\"uo\nte\",, 2 ,38000,7,1000\r\n\n,,,,,\n\"\",,3,,,\nfew,fields\nx,,one,,,\nx,,1,,1.234,\n\
             \"a\"b,,,,,\n\"open,,4,,,\nlast,,5,0.1,,",
            expect![[r#"
                b,a,t,d,f
                1,x,2018-08-01T05:00:00Z,1.50,100.0
                2,"q""uo
                te",1970-01-01T00:00:01Z,7.00,38000.0
                ,,,,
                3,"",,,
                5,last,,,0.1
                bad line 8: 2 fields where 6 are expected
                bad line 9: column 'b' (BIGINT): expected a whole number that fits the type, found 'one'
                bad line 10: column 'd' (DECIMAL(6,2)): the number has more fraction digits than the DECIMAL's scale, found '1.234'
                bad line 11: text follows the closing quote of a field
                bad line 12: a quoted field is not closed
            "#]],
        );
    }

    #[test]
    fn header_faults_are_told() {
        let mut decoder = Decoder::new(schema(&[("x", "INT")]), options()).expect("types fit");
        assert_eq!(decoder.set_header(b"a,b\n1,2\n"), Err("the header has no column 'x'; it has a, b".to_owned()));
        assert_eq!(decoder.set_header(b"x,x\n"), Err("the header has the column 'x' twice".to_owned()));
    }

    proptest! {
        #[test]
        fn texts_survive_the_round_trip(
            rows in proptest::collection::vec((proptest::option::of("\\PC{0,4}|[,\"\r\na ]{0,6}"), any::<Option<f64>>()), 1..20)
        ) {
            let schema = schema(&[("s", "STRING"), ("f", "DOUBLE")]);
            let texts: arrow_array::StringArray = rows.iter().map(|row| row.0.clone()).collect();
            let floats: arrow_array::Float64Array = rows.iter().map(|row| row.1).collect();
            let batch = RecordBatch::try_new(schema.clone(), vec![Arc::new(texts), Arc::new(floats)]).expect("fits");
            let mut out = Vec::new();
            let mut encoder = Encoder::new(&schema, Default::default());
            encoder.header(&mut out);
            encoder.rows(&batch, &mut out).expect("encodes");
            let (decoded, bad) = decode(schema, &out, options());
            prop_assert_eq!(bad, Vec::<String>::new());
            prop_assert_eq!(decoded.column(0).as_string::<i32>(), batch.column(0).as_string::<i32>());
            let bits = |rows: &RecordBatch| -> Vec<Option<u64>> {
                let floats = rows.column(1).as_primitive::<arrow_array::types::Float64Type>();
                floats.iter().map(|f| f.map(|f| if f.is_nan() { 0 } else { f.to_bits() })).collect()
            };
            prop_assert_eq!(bits(&decoded), bits(&batch));
        }

        #[test]
        fn any_bytes_are_decoded_or_refused(text in "[a,\"\r\n1.]{0,60}", at in 0usize..60, byte: u8) {
            let mut text = text.into_bytes();
            if let Some(place) = text.get_mut(at) {
                *place = byte;
            }
            let mut decoder = Decoder::new(schema(&[("a", "STRING"), ("b", "DOUBLE")]), options()).expect("types fit");
            let (mut place, mut bad) = (Place::default(), Vec::new());
            decoder.decode(&text, &mut place, usize::MAX, &mut bad).expect("decodes");
            prop_assert_eq!(place.at, text.len());
            let batch = decoder.take().expect("a batch");
            prop_assert!(batch.column(0).len() + bad.len() <= 1 + text.iter().filter(|byte| **byte == b'\n').count());
            if let Some(end) = last_record_end(&text, b',') {
                prop_assert_eq!(text[end - 1], b'\n');
            }
        }
    }
}
