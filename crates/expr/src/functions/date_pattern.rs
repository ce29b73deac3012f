//! Patterns of `date_format`: Java's `DateTimeFormatter` letters, as in Flink. *Pure*.
//!
//! | letter | what | forms |
//! |---|---|---|
//! | `y` `u` | year | `yyyy`, `yy` (last two digits), `y` |
//! | `M` `L` | month | `M`, `MM`, `MMM` (Jan), `MMMM` (January) |
//! | `d` `D` | day of month, of year | `d`, `dd`; `D`, `DDD` |
//! | `E` | weekday | `E` to `EEE` (Mon), `EEEE` (Monday) |
//! | `H` `h` `k` `K` `a` | hour 0-23, 1-12, 1-24, 0-11, AM or PM | one or two letters; `a` |
//! | `m` `s` | minute, second | one or two letters |
//! | `S` | fraction of a second | one to nine digits |
//! | `'...'` | text as it is; `''` is a quote | |
//!
//! Any other letter is refused; other characters stand for themselves. **Source**: the Java 17 documentation of
//! `java.time.format.DateTimeFormatter`.

use std::fmt::{self, Write};

use chrono::{DateTime, Datelike, Timelike, Utc};

/// A pattern, read.
#[derive(Debug, PartialEq)]
pub(super) struct DatePattern {
    pieces: Vec<Piece>,
}

#[derive(Debug, PartialEq)]
enum Piece {
    Text(String),
    /// A letter and how often it is repeated.
    Letters(char, usize),
}

impl DatePattern {
    /// Reads a pattern.
    ///
    /// **Errors**: a sentence.
    pub(super) fn parse(pattern: &str) -> Result<DatePattern, String> {
        let mut pieces = Vec::new();
        let mut chars = pattern.chars().peekable();
        while let Some(c) = chars.next() {
            if c == '\'' {
                pieces.push(Piece::Text(quoted(&mut chars, pattern)?));
            } else if c.is_ascii_alphabetic() {
                let mut count = 1;
                while chars.next_if_eq(&c).is_some() {
                    count += 1;
                }
                check(c, count, pattern)?;
                pieces.push(Piece::Letters(c, count));
            } else if let Some(Piece::Text(text)) = pieces.last_mut() {
                text.push(c);
            } else {
                pieces.push(Piece::Text(c.to_string()));
            }
        }
        Ok(DatePattern { pieces })
    }

    /// Writes a time.
    pub(super) fn write(&self, time: &DateTime<Utc>, out: &mut impl Write) -> fmt::Result {
        for piece in &self.pieces {
            match piece {
                Piece::Text(text) => out.write_str(text)?,
                Piece::Letters(letter, count) => write_letters(*letter, *count, time, out)?,
            }
        }
        Ok(())
    }
}

fn quoted(chars: &mut std::iter::Peekable<std::str::Chars<'_>>, pattern: &str) -> Result<String, String> {
    if chars.next_if_eq(&'\'').is_some() {
        return Ok("'".to_owned());
    }
    let mut text = String::new();
    while let Some(c) = chars.next() {
        if c != '\'' {
            text.push(c);
        } else if chars.next_if_eq(&'\'').is_some() {
            text.push('\'');
        } else {
            return Ok(text);
        }
    }
    Err(format!("the date pattern \"{pattern}\" has a quote that does not end"))
}

fn check(letter: char, count: usize, pattern: &str) -> Result<(), String> {
    let most = match letter {
        'y' | 'u' | 'M' | 'L' | 'E' => 4,
        'D' => 3,
        'd' | 'H' | 'h' | 'k' | 'K' | 'm' | 's' => 2,
        'S' => 9,
        'a' => 1,
        _ => {
            return Err(format!(
                "'{letter}' in the date pattern \"{pattern}\" is not known; use y M d D E H h a m s S, and quote text: 'T'"
            ));
        }
    };
    if count > most || (matches!(letter, 'y' | 'u') && count == 3) {
        let run: String = std::iter::repeat_n(letter, count).collect();
        return Err(format!("'{run}' in the date pattern \"{pattern}\" has too many letters or too few"));
    }
    Ok(())
}

const MONTHS: [&str; 12] = [
    "January",
    "February",
    "March",
    "April",
    "May",
    "June",
    "July",
    "August",
    "September",
    "October",
    "November",
    "December",
];
const WEEKDAYS: [&str; 7] = ["Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday"];

fn write_letters(letter: char, count: usize, time: &DateTime<Utc>, out: &mut impl Write) -> fmt::Result {
    let name = |names: &[&'static str], index: u32, is_long: bool| {
        let name = names[index as usize];
        if is_long { name } else { &name[..3] }
    };
    match (letter, count) {
        ('y' | 'u', 2) => write!(out, "{:02}", time.year().rem_euclid(100)),
        ('M' | 'L', 3 | 4) => out.write_str(name(&MONTHS, time.month0(), count == 4)),
        ('E', _) => out.write_str(name(&WEEKDAYS, time.weekday().num_days_from_monday(), count == 4)),
        ('a', _) => out.write_str(if time.hour() < 12 { "AM" } else { "PM" }),
        ('S', _) => write!(out, "{:0count$}", time.nanosecond() / 10_u32.pow(9 - count as u32)),
        _ => write!(out, "{:0count$}", number(letter, time)),
    }
}

fn number(letter: char, time: &DateTime<Utc>) -> i64 {
    let hour = time.hour();
    i64::from(match letter {
        'M' | 'L' => time.month(),
        'd' => time.day(),
        'D' => time.ordinal(),
        'H' => hour,
        'h' => hour12(hour),
        'k' => {
            if hour == 0 {
                24
            } else {
                hour
            }
        }
        'K' => hour % 12,
        'm' => time.minute(),
        's' => time.second(),
        _ => return i64::from(time.year()),
    })
}

fn hour12(hour: u32) -> u32 {
    if hour.is_multiple_of(12) { 12 } else { hour % 12 }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn format(pattern: &str, micros: i64) -> String {
        let time = DateTime::from_timestamp_micros(micros).expect("in range");
        let mut text = String::new();
        DatePattern::parse(pattern).expect("a good pattern").write(&time, &mut text).expect("strings take all");
        text
    }

    #[test]
    fn letters_mean_what_java_says() {
        // 2018-08-01 05:04:03.000417 UTC, a Wednesday.
        let time = 1_533_099_843_000_417;
        for (pattern, expected) in [
            ("yyyy-MM-dd HH:mm:ss.SSS", "2018-08-01 05:04:03.000"),
            ("yyyy-MM-dd'T'HH:mm:ss.SSSSSS'Z'", "2018-08-01T05:04:03.000417Z"),
            ("y/M/d H:m:s", "2018/8/1 5:4:3"),
            ("yy MMM MMMM EEE EEEE D", "18 Aug August Wed Wednesday 213"),
            ("KK kk", "05 05"),
            ("", ""),
        ] {
            assert_eq!(format(pattern, time), expected, "{pattern}");
        }
        assert_eq!(format("h 'o''clock' a", time), "5 o'clock AM");
        assert_eq!(format("''yy''", time), "'18'");
        assert_eq!(format("hh KK kk a", 0), "12 00 24 AM");
        assert_eq!(format("yyyy-MM-dd HH:mm:ss.SSSSSS", -1), "1969-12-31 23:59:59.999999");
        assert_eq!(format("yyyy", -62_135_596_800_000_000), "0001");
    }

    #[test]
    fn unknown_patterns_are_refused() {
        for pattern in ["YYYY", "yyy", "dddd", "'open", "z", "MMMMM", "S.SSSSSSSSSS"] {
            assert!(DatePattern::parse(pattern).is_err(), "{pattern}");
        }
    }
}
