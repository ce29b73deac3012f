//! What is written for people: lines on standard output, numbers, sizes, times, errors.

use std::io::Write;

use chrono::DateTime;
use weir_core::Problem;

/// Writes a line on standard output. Nobody listening any more (`weir list | head`) is no error.
pub fn line(text: &str) {
    let _ = writeln!(std::io::stdout().lock(), "{}", text.trim_end());
}

/// A job that was not accepted.
#[derive(Debug, thiserror::Error)]
#[error("{}", refusal(problems))]
pub struct Refused {
    /// Everything that is wrong with it.
    pub problems: Vec<Problem>,
}

fn refusal(problems: &[Problem]) -> String {
    let count = match problems.len() {
        1 => "a problem".to_owned(),
        count => format!("{count} problems"),
    };
    problems.iter().fold(format!("the job was refused for {count}:"), |text, problem| format!("{text}\n  {problem}"))
}

/// An error and its causes, each once.
pub fn error_text(error: &anyhow::Error) -> String {
    let mut links: Vec<String> = Vec::new();
    for link in error.chain().map(ToString::to_string) {
        if !links.iter().any(|earlier| earlier.contains(&link)) {
            links.push(link);
        }
    }
    format!("weir: {}", links.join(": "))
}

/// A number with its thousands apart: `1,234,567`.
pub fn number(number: u64) -> String {
    let digits = number.to_string();
    let mut text = String::new();
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

/// A size in the unit that fits: `12.3 MB`.
pub fn bytes(bytes: u64) -> String {
    let units = ["kB", "MB", "GB", "TB", "PB", "EB"];
    if bytes < 1000 {
        return format!("{bytes} B");
    }
    let mut size = bytes as f64 / 1000.0;
    let mut unit = 0;
    while size >= 999.95 && unit + 1 < units.len() {
        size /= 1000.0;
        unit += 1;
    }
    format!("{size:.1} {}", units[unit])
}

/// How long something took: `0.42 s`, `12.3 s`, `3 min 07 s`, `2 h 05 min`.
pub fn duration_ms(millis: u64) -> String {
    let seconds = millis / 1000;
    match millis {
        0..10_000 => format!("{:.2} s", millis as f64 / 1e3),
        10_000..60_000 => format!("{:.1} s", millis as f64 / 1e3),
        60_000..3_600_000 => format!("{} min {:02} s", seconds / 60, seconds % 60),
        _ => format!("{} h {:02} min", seconds / 3600, seconds / 60 % 60),
    }
}

/// How long something short took: `840 us`, `12.3 ms`, then as [`duration_ms`].
pub fn duration_us(micros: u64) -> String {
    match micros {
        0..1_000 => format!("{micros} us"),
        1_000..1_000_000 => format!("{:.1} ms", micros as f64 / 1e3),
        _ => duration_ms(micros / 1000),
    }
}

/// A wall time: `2026-01-31 23:59:59`, UTC.
pub fn wall_ms(unix_ms: i64) -> String {
    let time = DateTime::from_timestamp_millis(unix_ms);
    time.map_or_else(|| "-".to_owned(), |time| time.format("%Y-%m-%d %H:%M:%S").to_string())
}

/// A watermark: `-` before the first, `end` when no more comes, else its time in UTC.
pub fn watermark_us(unix_us: i64) -> String {
    match unix_us {
        i64::MIN => "-".to_owned(),
        i64::MAX => "end".to_owned(),
        unix_us => match DateTime::from_timestamp_micros(unix_us) {
            Some(time) => time.format("%Y-%m-%d %H:%M:%S%.3f").to_string(),
            None => format!("{unix_us} us"),
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_as_people_write_them() {
        assert_eq!([0, 999, 1_000, 1_234_567].map(number), ["0", "999", "1,000", "1,234,567"]);
        assert_eq!(
            [0, 999, 1_000, 999_949, 999_950, u64::MAX].map(bytes),
            ["0 B", "999 B", "1.0 kB", "999.9 kB", "1.0 MB", "18.4 EB"]
        );
        assert_eq!(
            [420, 12_340, 187_000, 7_500_000].map(duration_ms),
            ["0.42 s", "12.3 s", "3 min 07 s", "2 h 05 min"]
        );
        assert_eq!([840, 12_340, 2_500_000].map(duration_us), ["840 us", "12.3 ms", "2.50 s"]);
    }

    #[test]
    fn watermarks_have_ends() {
        assert_eq!(
            [i64::MIN, i64::MAX, 0, i64::MIN + 1].map(watermark_us),
            ["-", "end", "1970-01-01 00:00:00.000", "-9223372036854775807 us"]
        );
    }

    #[test]
    fn refused_jobs_list_all_problems() {
        let problem = |field: &str| Problem {
            operator: "w".into(),
            field: field.into(),
            reason: "is wrong".into(),
            nearest: None,
        };
        let refused = Refused { problems: vec![problem("a"), problem("b")] };
        let text = error_text(&refused.into());
        expect_test::expect![[r#"
            weir: the job was refused for 2 problems:
              operator 'w', a: is wrong
              operator 'w', b: is wrong
        "#]]
        .assert_eq(&(text + "\n"));
    }
}
