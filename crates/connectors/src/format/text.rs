//! Single values as text, both ways: dates, timestamps, decimals and numbers read exactly, and columns written the way
//! text formats and text sinks show them. It must not know any record format.

use std::sync::Arc;

use arrow_array::cast::AsArray;
use arrow_array::types::{
    Date32Type, Decimal128Type, Float32Type, Float64Type, Int8Type, Int16Type, Int32Type, Int64Type,
    TimestampMicrosecondType,
};
use arrow_array::{
    Array, ArrayRef, BinaryArray, BooleanArray, Date32Array, Decimal128Array, Float32Array, Float64Array, Int8Array,
    Int16Array, Int32Array, Int64Array, ListArray, StringArray, StructArray, TimestampMicrosecondArray,
};
use arrow_schema::{ArrowError, DataType, TimeUnit};
use weir_core::EventTime;
use weir_core::batch::event_time_type;

const DAY_US: i64 = 86_400_000_000;

/// Days from 1970-01-01 to a date of the Gregorian calendar.
///
/// **Source**: Howard Hinnant, "chrono-Compatible Low-Level Date Algorithms", `days_from_civil`.
fn days_from_date(year: i64, month: i64, day: i64) -> i64 {
    let year = if month <= 2 { year - 1 } else { year };
    let era = year.div_euclid(400);
    let year_of_era = year.rem_euclid(400);
    let day_of_year = (153 * ((month + 9) % 12) + 2) / 5 + day - 1;
    let day_of_era = year_of_era * 365 + year_of_era / 4 - year_of_era / 100 + day_of_year;
    era * 146_097 + day_of_era - 719_468
}

/// Year, month and day of a number of days since 1970-01-01; the inverse of [`days_from_date`].
fn date_from_days(days: i64) -> (i64, i64, i64) {
    let days = days + 719_468;
    let era = days.div_euclid(146_097);
    let day_of_era = days.rem_euclid(146_097);
    let year_of_era = (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let month_index = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * month_index + 2) / 5 + 1;
    let month = if month_index < 10 { month_index + 3 } else { month_index - 9 };
    (year_of_era + era * 400 + i64::from(month <= 2), month, day)
}

fn two(text: &[u8], at: usize) -> Option<i64> {
    match text.get(at..at + 2)? {
        [tens @ b'0'..=b'9', ones @ b'0'..=b'9'] => Some(i64::from(tens - b'0') * 10 + i64::from(ones - b'0')),
        _ => None,
    }
}

fn month_days(year: i64, month: i64) -> i64 {
    match month {
        2 if year % 4 == 0 && (year % 100 != 0 || year % 400 == 0) => 29,
        2 => 28,
        4 | 6 | 9 | 11 => 30,
        _ => 31,
    }
}

/// Reads `yyyy-mm-dd` as days since 1970-01-01.
pub fn read_date(text: &[u8]) -> Option<i32> {
    if text.len() != 10 || text[4] != b'-' || text[7] != b'-' {
        return None;
    }
    let year = two(text, 0)? * 100 + two(text, 2)?;
    let (month, day) = (two(text, 5)?, two(text, 8)?);
    let valid = (1..=12).contains(&month) && (1..=month_days(year, month)).contains(&day);
    if valid { i32::try_from(days_from_date(year, month, day)).ok() } else { None }
}

/// Reads an RFC 3339 timestamp as microseconds since 1970 UTC.
///
/// A space may stand for the `T`, and a missing zone means UTC, as Flink and SQL write timestamps. Digits beyond
/// microseconds are cut off. A leap second (`:60`) is not accepted.
pub fn read_timestamp(text: &[u8]) -> Option<i64> {
    let days = i64::from(read_date(text.get(..10)?)?);
    if !matches!(text.get(10)?, b'T' | b't' | b' ') || *text.get(13)? != b':' || *text.get(16)? != b':' {
        return None;
    }
    let (hour, minute, second) = (two(text, 11)?, two(text, 14)?, two(text, 17)?);
    if hour > 23 || minute > 59 || second > 59 {
        return None;
    }
    let mut at = 19;
    let mut micros = 0;
    if text.get(at) == Some(&b'.') {
        at += 1;
        let digits = text[at..].iter().take_while(|byte| byte.is_ascii_digit()).count();
        if digits == 0 {
            return None;
        }
        for index in 0..6 {
            let digit = if index < digits { i64::from(text[at + index] - b'0') } else { 0 };
            micros = micros * 10 + digit;
        }
        at += digits;
    }
    let zone_minutes = match text.get(at..)? {
        b"" | b"Z" | b"z" => 0,
        [sign @ (b'+' | b'-'), _, _, b':', _, _] => {
            let (hours, minutes) = (two(text, at + 1)?, two(text, at + 4)?);
            if hours > 23 || minutes > 59 {
                return None;
            }
            (hours * 60 + minutes) * if *sign == b'-' { -1 } else { 1 }
        }
        _ => return None,
    };
    let seconds = days * 86_400 + (hour * 60 + minute - zone_minutes) * 60 + second;
    let time = seconds * 1_000_000 + micros;
    EventTime(time).is_sane().then_some(time)
}

/// Turns epoch milliseconds into microseconds; `None` outside the years 1 to 9999.
pub fn timestamp_from_millis(millis: i64) -> Option<i64> {
    let time = millis.checked_mul(1000)?;
    EventTime(time).is_sane().then_some(time)
}

/// Reads a decimal number (`-12.340`, `1e3`) exactly at `scale`.
///
/// **Errors**: the reason, when it is no number, does not fit, or would lose digits.
pub fn read_decimal(text: &[u8], precision: u8, scale: u8) -> Result<i128, &'static str> {
    const NOT_A_NUMBER: &str = "expected a decimal number";
    const TOO_LARGE: &str = "the number has more digits than the DECIMAL's precision";
    let (negative, text) = match text {
        [b'-', rest @ ..] => (true, rest),
        [b'+', rest @ ..] => (false, rest),
        _ => (false, text),
    };
    let split = text.iter().position(|byte| matches!(byte, b'e' | b'E')).unwrap_or(text.len());
    let exponent: i32 = match text.get(split + 1..) {
        None => 0,
        Some(digits) => std::str::from_utf8(digits).ok().and_then(|digits| digits.parse().ok()).ok_or(NOT_A_NUMBER)?,
    };
    let (mut value, mut seen, mut fraction, mut in_fraction) = (0i128, false, 0i32, false);
    let mut trailing_zeros = 0i32;
    for byte in &text[..split] {
        match byte {
            b'0'..=b'9' => {
                seen = true;
                fraction += i32::from(in_fraction);
                // Zeros wait until another digit follows, so that 1.5000... of any length is read exactly.
                if *byte == b'0' {
                    trailing_zeros += i32::from(value != 0);
                    continue;
                }
                for _ in 0..=trailing_zeros {
                    value = value.checked_mul(10).ok_or(TOO_LARGE)?;
                }
                trailing_zeros = 0;
                value = value.checked_add(i128::from(byte - b'0')).ok_or(TOO_LARGE)?;
            }
            b'.' if !in_fraction => in_fraction = true,
            _ => return Err(NOT_A_NUMBER),
        }
    }
    if !seen {
        return Err(NOT_A_NUMBER);
    }
    if value == 0 {
        return Ok(0);
    }
    // value * 10^(trailing_zeros + exponent - fraction) is the number; the column stores number * 10^scale.
    let shift = i64::from(trailing_zeros) + i64::from(exponent) - i64::from(fraction) + i64::from(scale);
    if shift < 0 {
        return Err("the number has more fraction digits than the DECIMAL's scale");
    }
    let power = u32::try_from(shift).ok().and_then(|shift| 10i128.checked_pow(shift)).ok_or(TOO_LARGE)?;
    let value = value.checked_mul(power).ok_or(TOO_LARGE)?;
    if value >= 10i128.pow(u32::from(precision)) {
        return Err(TOO_LARGE);
    }
    Ok(if negative { -value } else { value })
}

/// How timestamps are written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TimeStyle {
    /// RFC 3339 in UTC with as many of no, three or six fraction digits as it needs: `2018-08-01T05:00:00.123Z`.
    Rfc3339,
    /// Milliseconds since 1970, rounded down.
    EpochMillis,
}

/// Appends `yyyy-mm-dd`.
pub fn write_date(days: i32, out: &mut Vec<u8>) {
    let (year, month, day) = date_from_days(i64::from(days));
    out.extend_from_slice(format!("{year:04}-{month:02}-{day:02}").as_bytes());
}

fn push_two(number: i64, out: &mut Vec<u8>) {
    out.extend_from_slice(&[b'0' + (number / 10 % 10) as u8, b'0' + (number % 10) as u8]);
}

/// Appends a time in microseconds since 1970.
pub fn write_timestamp(time_us: i64, style: TimeStyle, out: &mut Vec<u8>) {
    if style == TimeStyle::EpochMillis {
        out.extend_from_slice(itoa::Buffer::new().format(time_us.div_euclid(1000)).as_bytes());
        return;
    }
    let (year, month, day) = date_from_days(time_us.div_euclid(DAY_US));
    if (0..=9999).contains(&year) {
        push_two(year / 100, out);
        push_two(year % 100, out);
    } else {
        // No source lets such a time in, but a computed column may hold one.
        out.extend_from_slice(format!("{year:+}").as_bytes());
    }
    let in_day = time_us.rem_euclid(DAY_US);
    let seconds = in_day / 1_000_000;
    for (mark, number) in
        [(b'-', month), (b'-', day), (b'T', seconds / 3600), (b':', seconds / 60 % 60), (b':', seconds % 60)]
    {
        out.push(mark);
        push_two(number, out);
    }
    let micros = in_day % 1_000_000;
    if micros != 0 {
        let digits = format!("{micros:06}");
        out.push(b'.');
        out.extend_from_slice(if micros % 1000 == 0 { &digits.as_bytes()[..3] } else { digits.as_bytes() });
    }
    out.push(b'Z');
}

/// Appends a decimal with all digits of its scale: 438535000 at scale 6 is `438.535000`.
pub fn write_decimal(value: i128, scale: i8, out: &mut Vec<u8>) {
    if value < 0 {
        out.push(b'-');
    }
    let mut buffer = itoa::Buffer::new();
    let digits = buffer.format(value.unsigned_abs()).as_bytes();
    let Ok(scale) = usize::try_from(scale) else {
        out.extend_from_slice(digits);
        out.extend(std::iter::repeat_n(b'0', usize::from(scale.unsigned_abs())));
        return;
    };
    if scale == 0 {
        out.extend_from_slice(digits);
    } else if digits.len() > scale {
        let (whole, fraction) = digits.split_at(digits.len() - scale);
        out.extend_from_slice(whole);
        out.push(b'.');
        out.extend_from_slice(fraction);
    } else {
        out.extend_from_slice(b"0.");
        out.extend(std::iter::repeat_n(b'0', scale - digits.len()));
        out.extend_from_slice(digits);
    }
}

/// Appends the shortest text that reads back as the same number, always with a fraction or an exponent (`38000.0`,
/// `1e16`); `NaN`, `Infinity` and `-Infinity` by these names.
pub fn write_float(number: impl ryu::Float + Into<f64> + Copy, out: &mut Vec<u8>) {
    let wide: f64 = number.into();
    if wide.is_finite() {
        out.extend_from_slice(ryu::Buffer::new().format_finite(number).as_bytes());
    } else {
        out.extend_from_slice(non_finite_name(wide).as_bytes());
    }
}

fn non_finite_name(number: f64) -> &'static str {
    if number.is_nan() {
        "NaN"
    } else if number > 0.0 {
        "Infinity"
    } else {
        "-Infinity"
    }
}

/// Reads `NaN`, `Infinity` and `-Infinity`, the numbers that JSON cannot write as numbers.
pub fn read_non_finite(text: &[u8]) -> Option<f64> {
    match text {
        b"NaN" => Some(f64::NAN),
        b"Infinity" => Some(f64::INFINITY),
        b"-Infinity" => Some(f64::NEG_INFINITY),
        _ => None,
    }
}

/// A column ready to be written value by value: the type is looked at once per batch, not once per value.
pub enum TextColumn {
    /// `BOOLEAN`
    Boolean(BooleanArray),
    /// `TINYINT`
    Int8(Int8Array),
    /// `SMALLINT`
    Int16(Int16Array),
    /// `INT`
    Int32(Int32Array),
    /// `BIGINT`
    Int64(Int64Array),
    /// `FLOAT`
    Float32(Float32Array),
    /// `DOUBLE`
    Float64(Float64Array),
    /// `DECIMAL` with its scale
    Decimal(Decimal128Array, i8),
    /// `STRING`
    Text(StringArray),
    /// `BYTES`
    Bytes(BinaryArray),
    /// `DATE`
    Date(Date32Array),
    /// `TIMESTAMP`
    Timestamp(TimestampMicrosecondArray),
    /// `ARRAY` and its items
    List(ListArray, Box<TextColumn>),
    /// `ROW` and its fields by name
    Row(StructArray, Vec<(String, TextColumn)>),
}

impl TextColumn {
    /// Looks at a column. Types outside the list users can declare are first cast to the nearest that is on it.
    ///
    /// **Errors**: when there is none.
    pub fn new(array: &ArrayRef) -> Result<TextColumn, ArrowError> {
        Ok(match array.data_type() {
            DataType::Boolean => TextColumn::Boolean(array.as_boolean().clone()),
            DataType::Int8 => TextColumn::Int8(array.as_primitive::<Int8Type>().clone()),
            DataType::Int16 => TextColumn::Int16(array.as_primitive::<Int16Type>().clone()),
            DataType::Int32 => TextColumn::Int32(array.as_primitive::<Int32Type>().clone()),
            DataType::Int64 => TextColumn::Int64(array.as_primitive::<Int64Type>().clone()),
            DataType::Float32 => TextColumn::Float32(array.as_primitive::<Float32Type>().clone()),
            DataType::Float64 => TextColumn::Float64(array.as_primitive::<Float64Type>().clone()),
            DataType::Decimal128(_, scale) => {
                TextColumn::Decimal(array.as_primitive::<Decimal128Type>().clone(), *scale)
            }
            DataType::Utf8 => TextColumn::Text(array.as_string::<i32>().clone()),
            DataType::Binary => TextColumn::Bytes(array.as_binary::<i32>().clone()),
            DataType::Date32 => TextColumn::Date(array.as_primitive::<Date32Type>().clone()),
            DataType::Timestamp(TimeUnit::Microsecond, _) => {
                TextColumn::Timestamp(array.as_primitive::<TimestampMicrosecondType>().clone())
            }
            DataType::List(_) => {
                let list = array.as_list::<i32>().clone();
                let items = TextColumn::new(list.values())?;
                TextColumn::List(list, Box::new(items))
            }
            DataType::Struct(fields) => {
                let row = array.as_struct().clone();
                let columns = fields.iter().zip(row.columns());
                let named = columns.map(|(field, column)| Ok((field.name().clone(), TextColumn::new(column)?)));
                let named = named.collect::<Result<Vec<_>, ArrowError>>()?;
                TextColumn::Row(row, named)
            }
            other => {
                let nearest = nearest_type(other).ok_or_else(|| {
                    ArrowError::NotYetImplemented(format!("values of type {other} cannot be written as text"))
                })?;
                TextColumn::new(&arrow_cast::cast(array, &nearest)?)?
            }
        })
    }

    /// Whether the value of a row is null.
    pub fn is_null(&self, row: usize) -> bool {
        match self {
            TextColumn::Boolean(array) => array.is_null(row),
            TextColumn::Int8(array) => array.is_null(row),
            TextColumn::Int16(array) => array.is_null(row),
            TextColumn::Int32(array) => array.is_null(row),
            TextColumn::Int64(array) => array.is_null(row),
            TextColumn::Float32(array) => array.is_null(row),
            TextColumn::Float64(array) => array.is_null(row),
            TextColumn::Decimal(array, _) => array.is_null(row),
            TextColumn::Text(array) => array.is_null(row),
            TextColumn::Bytes(array) => array.is_null(row),
            TextColumn::Date(array) => array.is_null(row),
            TextColumn::Timestamp(array) => array.is_null(row),
            TextColumn::List(array, _) => array.is_null(row),
            TextColumn::Row(array, _) => array.is_null(row),
        }
    }

    /// Appends the bare text of a value (no quotes, no escapes); `null` for nulls. Bytes are hexadecimal; arrays are
    /// `[a, b]` and rows `(a, b)`, as Flink prints them.
    pub fn write(&self, row: usize, style: TimeStyle, out: &mut Vec<u8>) {
        if self.is_null(row) {
            out.extend_from_slice(b"null");
            return;
        }
        let integer = |number: i64, out: &mut Vec<u8>| {
            out.extend_from_slice(itoa::Buffer::new().format(number).as_bytes());
        };
        match self {
            TextColumn::Boolean(array) => out.extend_from_slice(if array.value(row) { b"true" } else { b"false" }),
            TextColumn::Int8(array) => integer(array.value(row).into(), out),
            TextColumn::Int16(array) => integer(array.value(row).into(), out),
            TextColumn::Int32(array) => integer(array.value(row).into(), out),
            TextColumn::Int64(array) => integer(array.value(row), out),
            TextColumn::Float32(array) => write_float(array.value(row), out),
            TextColumn::Float64(array) => write_float(array.value(row), out),
            TextColumn::Decimal(array, scale) => write_decimal(array.value(row), *scale, out),
            TextColumn::Text(array) => out.extend_from_slice(array.value(row).as_bytes()),
            TextColumn::Bytes(array) => {
                array.value(row).iter().for_each(|byte| out.extend_from_slice(format!("{byte:02x}").as_bytes()));
            }
            TextColumn::Date(array) => write_date(array.value(row), out),
            TextColumn::Timestamp(array) => write_timestamp(array.value(row), style, out),
            TextColumn::List(array, items) => {
                out.push(b'[');
                for (index, item) in list_range(array, row).enumerate() {
                    if index > 0 {
                        out.extend_from_slice(b", ");
                    }
                    items.write(item, style, out);
                }
                out.push(b']');
            }
            TextColumn::Row(_, columns) => {
                out.push(b'(');
                for (index, (_, column)) in columns.iter().enumerate() {
                    if index > 0 {
                        out.extend_from_slice(b", ");
                    }
                    column.write(row, style, out);
                }
                out.push(b')');
            }
        }
    }
}

/// The items of one list, as indexes into its values.
pub fn list_range(array: &ListArray, row: usize) -> std::ops::Range<usize> {
    let offsets = array.value_offsets();
    offsets[row] as usize..offsets[row + 1] as usize
}

/// Whether values of a type have a text.
pub fn can_write(data_type: &DataType) -> bool {
    match data_type {
        DataType::List(item) => can_write(item.data_type()),
        DataType::Struct(fields) => fields.iter().all(|field| can_write(field.data_type())),
        DataType::Boolean | DataType::Utf8 | DataType::Binary | DataType::Date32 => true,
        DataType::Decimal128(_, _) | DataType::Float32 | DataType::Float64 => true,
        DataType::Timestamp(_, _) => true,
        other => other.is_signed_integer() || nearest_type(other).is_some_and(|nearest| can_write(&nearest)),
    }
}

fn nearest_type(data_type: &DataType) -> Option<DataType> {
    Some(match data_type {
        DataType::LargeUtf8 | DataType::Utf8View => DataType::Utf8,
        DataType::LargeBinary | DataType::BinaryView | DataType::FixedSizeBinary(_) => DataType::Binary,
        DataType::UInt8 | DataType::UInt16 | DataType::UInt32 => DataType::Int64,
        DataType::UInt64 => DataType::Decimal128(20, 0),
        DataType::Float16 => DataType::Float32,
        DataType::Decimal32(precision, scale) | DataType::Decimal64(precision, scale) => {
            DataType::Decimal128(*precision, *scale)
        }
        DataType::Date64 => DataType::Date32,
        DataType::Timestamp(_, _) => event_time_type(),
        DataType::Dictionary(_, values) => values.as_ref().clone(),
        DataType::LargeList(item) | DataType::FixedSizeList(item, _) => DataType::List(Arc::clone(item)),
        DataType::Null | DataType::Time32(_) | DataType::Time64(_) | DataType::Interval(_) | DataType::Duration(_) => {
            DataType::Utf8
        }
        _ => return None,
    })
}

/// Looks at all columns but those named.
///
/// **Errors**: a type that has no text.
pub fn text_columns(rows: &arrow_array::RecordBatch, without: &str) -> Result<Vec<TextColumn>, ArrowError> {
    let schema = rows.schema_ref();
    let shown = schema.fields().iter().zip(rows.columns()).filter(|(field, _)| field.name() != without);
    shown.map(|(_, column)| TextColumn::new(column)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn timestamp_text(time_us: i64) -> String {
        let mut out = Vec::new();
        write_timestamp(time_us, TimeStyle::Rfc3339, &mut out);
        String::from_utf8(out).expect("text")
    }

    fn decimal_text(value: i128, scale: i8) -> String {
        let mut out = Vec::new();
        write_decimal(value, scale, &mut out);
        String::from_utf8(out).expect("text")
    }

    #[test]
    fn timestamps_in_the_forms_people_write() {
        let time = 1_533_099_600_123_000;
        for text in [
            "2018-08-01T05:00:00.123Z",
            "2018-08-01 05:00:00.123",
            "2018-08-01T07:00:00.123+02:00",
            "2018-07-31t23:30:00.123-05:30",
            "2018-08-01T05:00:00.123000999Z",
        ] {
            assert_eq!(read_timestamp(text.as_bytes()), Some(time), "{text}");
        }
        assert_eq!(timestamp_text(time), "2018-08-01T05:00:00.123Z");
        assert_eq!(timestamp_text(1_000_001), "1970-01-01T00:00:01.000001Z");
        assert_eq!(timestamp_text(0), "1970-01-01T00:00:00Z");
        for bad in [
            "",
            "2018-08-01",
            "2018-02-29T00:00:00Z",
            "2018-08-01T24:00:00Z",
            "2018-08-01T05:00:60Z",
            "2018-08-01T05:00:00.Z",
            "2018-08-01T05:00:00+0200",
            "2018-08-01T05:00:00Zx",
            "0000-01-01T00:00:00Z",
        ] {
            assert_eq!(read_timestamp(bad.as_bytes()), None, "{bad}");
        }
    }

    #[test]
    fn decimals_are_exact_or_refused() {
        for (text, expected) in [
            ("438.535", Ok(438_535_000)),
            ("-0.000001", Ok(-1)),
            ("1e3", Ok(1_000_000_000)),
            ("12.5000000000000000000000000000000000000000000", Ok(12_500_000)),
            ("0e99", Ok(0)),
            ("+7", Ok(7_000_000)),
            ("1200e-2", Ok(12_000_000)),
        ] {
            assert_eq!(read_decimal(text.as_bytes(), 12, 6), expected, "{text}");
        }
        for bad in [
            "",
            "-",
            ".",
            "1.0000001",
            "1000000",
            "1e99",
            "1e",
            "1x",
            "1.2.3",
            "99999999999999999999999999999999999999999",
        ] {
            assert!(read_decimal(bad.as_bytes(), 12, 6).is_err(), "{bad}");
        }
        assert_eq!(decimal_text(438_535_000, 6), "438.535000");
        assert_eq!(decimal_text(-5, 3), "-0.005");
        assert_eq!(decimal_text(0, 2), "0.00");
        assert_eq!(decimal_text(7, 0), "7");
    }

    #[test]
    fn floats_keep_a_fraction() {
        let text = |number: f64| {
            let mut out = Vec::new();
            write_float(number, &mut out);
            String::from_utf8(out).expect("text")
        };
        assert_eq!([38000.0, 0.1, -0.0, 1e16].map(text), ["38000.0", "0.1", "-0.0", "1e16"]);
        assert_eq!([f64::NAN, f64::INFINITY, f64::NEG_INFINITY].map(text), ["NaN", "Infinity", "-Infinity"]);
    }

    proptest! {
        #[test]
        fn timestamps_survive_the_round_trip(time in EventTime::SANE_MIN.0..=EventTime::SANE_MAX.0) {
            prop_assert_eq!(read_timestamp(timestamp_text(time).as_bytes()), Some(time));
        }

        #[test]
        fn dates_agree_with_chrono(days in -719_162i32..=2_932_896) {
            let mut out = Vec::new();
            write_date(days, &mut out);
            let date = chrono::DateTime::from_timestamp(i64::from(days) * 86_400, 0).expect("in range").date_naive();
            prop_assert_eq!(String::from_utf8_lossy(&out), date.to_string());
            prop_assert_eq!(read_date(&out), Some(days));
        }

        #[test]
        fn decimals_survive_the_round_trip(value in -(10i128.pow(30))..10i128.pow(30), scale in 0u8..=20) {
            prop_assert_eq!(read_decimal(decimal_text(value, scale as i8).as_bytes(), 38, scale), Ok(value));
        }

        #[test]
        fn any_bytes_are_read_or_refused(bytes in proptest::collection::vec(any::<u8>(), 0..40)) {
            let _ = (read_date(&bytes), read_timestamp(&bytes), read_decimal(&bytes, 38, 10));
        }
    }
}
