//! Rows and schemas as short text, both ways: `schema("truck STRING, t TIMESTAMP*")` and rows like `truck-1 12.5`.
//! Used by the script runner and by any test that needs a batch.
//!
//! A schema is `name TYPE [NOT NULL]` separated by commas, with the type names of job files; `*` after a type makes
//! that column the event time. A row is its values in the order of the columns, separated by blanks; rows are
//! separated by `|` or line ends. Timestamps are seconds since 1970 (`12.5`), or microseconds with the suffix `us`;
//! `-` is null; text with blanks, lists and structs are written as JSON.

use std::sync::Arc;

use arrow_array::cast::AsArray;
use arrow_array::types::{Int8Type, TimestampMicrosecondType};
use arrow_array::{Array, RecordBatch};
use arrow_cast::display::{ArrayFormatter, FormatOptions};
use arrow_schema::{DataType, Field, Schema, SchemaRef, TimeUnit};
use serde_json::Value;
use weir_core::batch::{CHANGE_COLUMN, event_time_index, with_event_time};
use weir_core::{ChangeKind, data_type};

/// Reads a schema.
pub fn schema(text: &str) -> SchemaRef {
    let mut event_time = None;
    let fields: Vec<Field> = split_columns(text)
        .into_iter()
        .map(|column| {
            let (name, mut rest) = column.split_once(char::is_whitespace).expect("a column is 'name TYPE'");
            let mut is_nullable = true;
            loop {
                rest = rest.trim();
                if let Some(before) = rest.strip_suffix('*') {
                    event_time = Some(name.to_owned());
                    rest = before;
                } else if let Some(before) = rest.strip_suffix("NOT NULL") {
                    is_nullable = false;
                    rest = before;
                } else {
                    break;
                }
            }
            let data_type = data_type::parse(rest).unwrap_or_else(|problem| panic!("column '{name}': {problem}"));
            Field::new(name, data_type, is_nullable)
        })
        .collect();
    with_event_time(&Schema::new(fields), event_time.as_deref())
}

/// Splits at commas that are not inside brackets.
fn split_columns(text: &str) -> Vec<&str> {
    let (mut depth, mut start, mut columns) = (0, 0, Vec::new());
    for (at, mark) in text.char_indices() {
        match mark {
            '<' | '(' => depth += 1,
            '>' | ')' => depth -= 1,
            ',' if depth == 0 => {
                columns.push(text[start..at].trim());
                start = at + 1;
            }
            _ => {}
        }
    }
    columns.push(text[start..].trim());
    columns.retain(|column| !column.is_empty());
    columns
}

/// Reads rows.
pub fn read_rows(schema: &SchemaRef, text: &str) -> RecordBatch {
    let mut rows = vec![Vec::new()];
    for token in tokens(text) {
        match token {
            Token::RowEnd => rows.push(Vec::new()),
            Token::Value(value) => rows.last_mut().expect("there is always a row").push(value),
        }
    }
    rows.retain(|row| !row.is_empty());
    let objects: Vec<Value> = rows
        .into_iter()
        .map(|row| {
            assert_eq!(row.len(), schema.fields().len(), "a row of '{text}' has another number of values than columns");
            let values = schema.fields().iter().zip(row);
            Value::Object(
                values.map(|(field, value)| (field.name().clone(), typed(value, field.data_type()))).collect(),
            )
        })
        .collect();
    let mut decoder = arrow_json::ReaderBuilder::new(Arc::clone(schema))
        .with_batch_size(objects.len().max(1))
        .build_decoder()
        .expect("the schema has types that JSON can carry");
    decoder.serialize(&objects).unwrap_or_else(|error| panic!("rows '{text}' do not fit the schema: {error}"));
    let records = decoder.flush().unwrap_or_else(|error| panic!("rows '{text}' do not fit the schema: {error}"));
    records.unwrap_or_else(|| RecordBatch::new_empty(Arc::clone(schema)))
}

enum Token {
    Value(Value),
    RowEnd,
}

fn tokens(text: &str) -> Vec<Token> {
    let mut tokens = Vec::new();
    let mut rest = text;
    loop {
        rest = rest.trim_start_matches([' ', '\t', '\r']);
        let Some(first) = rest.chars().next() else { return tokens };
        match first {
            '|' | '\n' => {
                tokens.push(Token::RowEnd);
                rest = &rest[1..];
            }
            '"' | '[' | '{' => {
                let mut values = serde_json::Deserializer::from_str(rest).into_iter::<Value>();
                let value = values.next().expect("there is a value").unwrap_or_else(|e| panic!("'{rest}': {e}"));
                rest = &rest[values.byte_offset()..];
                // Text in quotes stays text, also where it looks like a null.
                tokens.push(Token::Value(value));
            }
            _ => {
                let end = rest.find(|c: char| c.is_whitespace() || c == '|').unwrap_or(rest.len());
                let word = &rest[..end];
                tokens.push(Token::Value(if word == "-" { Value::Null } else { Value::String(format!("\0{word}")) }));
                rest = &rest[end..];
            }
        }
    }
}

/// Gives a bare word (marked by a leading NUL) the JSON form of its column's type.
fn typed(value: Value, data_type: &DataType) -> Value {
    let Value::String(text) = &value else { return value };
    let Some(word) = text.strip_prefix('\0') else { return value };
    match data_type {
        DataType::Timestamp(unit, _) => Value::from(match unit {
            TimeUnit::Second => micros(word) / 1_000_000,
            TimeUnit::Millisecond => micros(word) / 1_000,
            TimeUnit::Microsecond => micros(word),
            TimeUnit::Nanosecond => micros(word) * 1_000,
        }),
        DataType::Boolean => Value::from(word == "true"),
        number if number.is_numeric() => serde_json::from_str(word).unwrap_or_else(|_| Value::String(word.to_owned())),
        _ => Value::String(word.to_owned()),
    }
}

/// Reads seconds (`12.5`), microseconds with the suffix `us`, `min` or `max`. **Units**: gives microseconds.
pub fn micros(text: &str) -> i64 {
    let wrong = || -> ! { panic!("'{text}' is no time: write seconds like 12.5, or microseconds like 12500us") };
    match text {
        "min" => return i64::MIN,
        "max" => return i64::MAX,
        _ => {}
    }
    if let Some(number) = text.strip_suffix("us") {
        return number.parse().unwrap_or_else(|_| wrong());
    }
    let (whole, fraction) = text.split_once('.').unwrap_or((text, ""));
    let fraction_us: i64 = match fraction.len() {
        0..=6 => format!("{fraction:0<6}").parse().unwrap_or_else(|_| wrong()),
        _ => wrong(),
    };
    let whole_us = whole.parse::<i64>().unwrap_or_else(|_| wrong()) * 1_000_000;
    if text.starts_with('-') { whole_us - fraction_us } else { whole_us + fraction_us }
}

/// Prints microseconds as seconds, the way [`micros`] reads them.
pub fn seconds(time_us: i64) -> String {
    match time_us {
        i64::MIN => return "min".to_owned(),
        i64::MAX => return "max".to_owned(),
        _ => {}
    }
    let sign = if time_us < 0 { "-" } else { "" };
    let (whole, fraction) = (time_us.unsigned_abs() / 1_000_000, time_us.unsigned_abs() % 1_000_000);
    let digits = format!("{fraction:06}");
    match digits.trim_end_matches('0') {
        "" => format!("{sign}{whole}"),
        digits => format!("{sign}{whole}.{digits}"),
    }
}

/// Prints the names of the columns, the event time with a `*`; the hidden change column is left out.
pub fn header(schema: &Schema) -> String {
    let event_time = event_time_index(schema);
    let names: Vec<String> = schema
        .fields()
        .iter()
        .enumerate()
        .filter(|(_, field)| field.name() != CHANGE_COLUMN)
        .map(|(index, field)| format!("{}{}", field.name(), if Some(index) == event_time { "*" } else { "" }))
        .collect();
    names.join(" ")
}

/// Prints one line per row, the way [`read_rows`] reads them; rows of a changing stream begin with `+I` and the like.
pub fn print_rows(records: &RecordBatch) -> Vec<String> {
    let options = FormatOptions::default();
    let columns: Vec<_> = records
        .columns()
        .iter()
        .map(|column| ArrayFormatter::try_new(column.as_ref(), &options).expect("every type has a text form"))
        .collect();
    (0..records.num_rows())
        .map(|row| {
            let mut values: Vec<String> = Vec::new();
            for (index, column) in records.columns().iter().enumerate() {
                if records.schema_ref().field(index).name() == CHANGE_COLUMN {
                    let number = column.as_primitive::<Int8Type>().value(row);
                    values.insert(0, ChangeKind::from_i8(number).map_or("?", ChangeKind::symbol).to_owned());
                } else {
                    values.push(print_value(column.as_ref(), row, &columns[index]));
                }
            }
            values.join(" ")
        })
        .collect()
}

fn print_value(column: &dyn Array, row: usize, formatter: &ArrayFormatter<'_>) -> String {
    if column.is_null(row) {
        return "-".to_owned();
    }
    match column.data_type() {
        DataType::Timestamp(TimeUnit::Microsecond, _) => {
            seconds(column.as_primitive::<TimestampMicrosecondType>().value(row))
        }
        DataType::Utf8 => {
            let text = column.as_string::<i32>().value(row);
            let is_plain = !text.is_empty() && text != "-" && !text.contains([' ', '\t', '\n', '|', '"', '[', '{']);
            if is_plain { text.to_owned() } else { Value::from(text).to_string() }
        }
        _ => formatter.value(row).to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_survive_the_round_trip() {
        let schema = schema("a BIGINT NOT NULL, b STRING, t TIMESTAMP*, x ROW<c INT, d ARRAY<INT>>");
        assert_eq!(header(&schema), "a b t* x");
        assert!(!schema.field(0).is_nullable() && schema.field(1).is_nullable());
        let rows = read_rows(&schema, "1 x -12.5 - | 2 \"two words\" 0.000001 {\"c\": 1, \"d\": [2]} \n 3 - 3us -");
        assert_eq!(print_rows(&rows), ["1 x -12.5 -", "2 \"two words\" 0.000001 {c: 1, d: [2]}", "3 - 0.000003 -"]);
    }

    #[test]
    fn times_survive_the_round_trip() {
        for time in [0, 1, -1, 12_500_000, -12_500_000, i64::MAX, i64::MIN, i64::MAX - 1, 1_000_000] {
            let text = seconds(time);
            assert_eq!(if time == i64::MAX - 1 { time } else { micros(&text) }, time, "{text}");
        }
        assert_eq!(micros("-9223372036854775807us"), i64::MIN + 1);
    }
}
