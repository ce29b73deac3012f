//! Reads settings and collects **all** problems on the way, each with the operator, the field, the reason and,
//! where one is near, the right name. Used by every room that defines an operator, a connector or a configuration.

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::ops::RangeInclusive;
use std::time::Duration;

use crate::value::Value;

/// Something wrong with what a user submitted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    /// `uid` of the operator; empty when it concerns the whole job.
    pub operator: String,
    /// Path of the field inside the operator, like `window.size`; empty when it concerns the whole operator.
    pub field: String,
    /// What is wrong and what would be right.
    pub reason: String,
    /// The nearest right name, where it can be known.
    pub nearest: Option<String>,
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (self.operator.as_str(), self.field.as_str()) {
            ("", "") => {}
            ("", field) => write!(f, "{field}: ")?,
            (operator, "") => write!(f, "operator '{operator}': ")?,
            (operator, field) => write!(f, "operator '{operator}', {field}: ")?,
        }
        f.write_str(&self.reason)?;
        match &self.nearest {
            Some(name) => write!(f, "; did you mean '{name}'?"),
            None => Ok(()),
        }
    }
}

/// Finds the candidate most like `name`, if any is like it at all.
pub fn nearest<'a>(name: &str, candidates: impl IntoIterator<Item = &'a str>) -> Option<String> {
    let lower = name.to_lowercase();
    candidates
        .into_iter()
        .map(|candidate| (strsim::damerau_levenshtein(&lower, &candidate.to_lowercase()), candidate))
        .filter(|(distance, candidate)| *distance <= 1 + candidate.len().min(name.len()) / 3)
        .min()
        .map(|(_, candidate)| candidate.to_owned())
}

/// A reader over one map of settings.
///
/// Every getter records a problem when the value is wrong and then returns `None` or the default, so that reading
/// goes on and all problems come out together. [`Settings::finish`] reports the fields nobody asked for.
pub struct Settings<'a> {
    operator: String,
    path: String,
    fields: &'a BTreeMap<String, Value>,
    known: RefCell<BTreeSet<String>>,
    problems: RefCell<Vec<Problem>>,
}

impl<'a> Settings<'a> {
    /// Reads the settings of `operator` (empty for settings of the job).
    pub fn new(operator: &str, fields: &'a BTreeMap<String, Value>) -> Self {
        Self::at(operator, "", fields)
    }

    fn at(operator: &str, path: &str, fields: &'a BTreeMap<String, Value>) -> Self {
        Settings {
            operator: operator.to_owned(),
            path: path.to_owned(),
            fields,
            known: RefCell::default(),
            problems: RefCell::default(),
        }
    }

    /// The operator whose settings these are.
    pub fn operator(&self) -> &str {
        &self.operator
    }

    /// Records a problem with `field`.
    pub fn problem(&self, field: &str, reason: impl Into<String>) {
        self.problem_near(field, reason, None);
    }

    /// Records a problem with `field` and the name that was probably meant.
    pub fn problem_near(&self, field: &str, reason: impl Into<String>, nearest: Option<String>) {
        let problem =
            Problem { operator: self.operator.clone(), field: self.path_of(field), reason: reason.into(), nearest };
        self.problems.borrow_mut().push(problem);
    }

    fn path_of(&self, field: &str) -> String {
        match (self.path.as_str(), field) {
            ("", field) => field.to_owned(),
            (path, "") => path.to_owned(),
            (path, field) => format!("{path}.{field}"),
        }
    }

    /// The raw value of a field; null counts as absent.
    pub fn get(&self, field: &str) -> Option<&'a Value> {
        self.known.borrow_mut().insert(field.to_owned());
        self.fields.get(field).filter(|value| **value != Value::Null)
    }

    /// Whether the field is given.
    pub fn has(&self, field: &str) -> bool {
        self.get(field).is_some()
    }

    /// Marks a field as known without reading it.
    pub fn allow(&self, field: &str) {
        self.get(field);
    }

    fn typed<T>(&self, field: &str, expected: &str, read: impl Fn(&'a Value) -> Option<T>) -> Option<T> {
        let value = self.get(field)?;
        let read = read(value);
        if read.is_none() {
            self.problem(field, format!("expected {expected}, found {}: {value}", value.kind()));
        }
        read
    }

    fn required<T>(&self, field: &str, what: &str, value: Option<T>) -> Option<T> {
        if value.is_none() && !self.has(field) {
            self.problem(field, format!("is missing: expected {what}"));
        }
        value
    }

    /// Text; numbers and booleans are taken as their text.
    pub fn text(&self, field: &str) -> Option<String> {
        self.typed(field, "text", scalar_text)
    }

    /// Text that must be given; a problem and an empty text otherwise.
    pub fn required_text(&self, field: &str) -> String {
        self.required(field, "text", self.text(field)).unwrap_or_default()
    }

    /// `true` or `false`.
    pub fn boolean(&self, field: &str) -> Option<bool> {
        self.typed(field, "true or false", |value| match value {
            Value::Bool(truth) => Some(*truth),
            Value::Text(text) => text.parse().ok(),
            _ => None,
        })
    }

    /// A whole number within bounds; text of digits is read too (numbers above 2^53 need it in JSON and protobuf).
    pub fn integer(&self, field: &str, bounds: RangeInclusive<i64>) -> Option<i64> {
        let expected = format!("a whole number from {} to {}", bounds.start(), bounds.end());
        self.typed(field, &expected, |value| {
            let number = match value {
                Value::Integer(number) => Some(*number),
                Value::Text(text) => text.parse().ok(),
                _ => None,
            };
            number.filter(|number| bounds.contains(number))
        })
    }

    /// A number within bounds.
    pub fn number(&self, field: &str, bounds: RangeInclusive<f64>) -> Option<f64> {
        let expected = format!("a number from {} to {}", bounds.start(), bounds.end());
        self.typed(field, &expected, |value| {
            let number = match value {
                Value::Integer(number) => Some(*number as f64),
                Value::Float(number) => Some(*number),
                Value::Text(text) => text.parse().ok(),
                _ => None,
            };
            number.filter(|number| bounds.contains(number))
        })
    }

    /// A duration with its unit, like `500 ms`, `10s`, `1h 30min`.
    pub fn duration(&self, field: &str) -> Option<Duration> {
        let text = self.typed(field, "a duration with its unit, like '10 s'", scalar_text)?;
        match parse_duration(&text) {
            Ok(duration) => Some(duration),
            Err(reason) => {
                self.problem(field, reason);
                None
            }
        }
    }

    /// A duration that must be given and not zero; one microsecond otherwise, with a problem.
    pub fn required_duration(&self, field: &str) -> Duration {
        let duration = self.required(field, "a duration with its unit, like '10 s'", self.duration(field));
        if duration == Some(Duration::ZERO) {
            self.problem(field, "must be longer than zero");
        }
        duration.unwrap_or_default().max(Duration::from_micros(1))
    }

    /// One of a few words.
    pub fn choice(&self, field: &str, words: &[&'static str]) -> Option<&'static str> {
        let text = self.typed(field, &format!("one of {}", words.join(", ")), scalar_text)?;
        let found = words.iter().find(|word| word.eq_ignore_ascii_case(&text)).copied();
        if found.is_none() {
            let near = nearest(&text, words.iter().copied());
            self.problem_near(field, format!("'{text}' is not one of {}", words.join(", ")), near);
        }
        found
    }

    /// A list of texts; a single text counts as a list of one.
    pub fn texts(&self, field: &str) -> Option<Vec<String>> {
        self.typed(field, "text or a list of texts", |value| match value {
            Value::List(items) => items.iter().map(scalar_text).collect(),
            single => scalar_text(single).map(|text| vec![text]),
        })
    }

    /// A list of texts that must be given and not empty.
    pub fn required_texts(&self, field: &str) -> Vec<String> {
        let texts = self.required(field, "a list of texts", self.texts(field));
        if texts.as_ref().is_some_and(Vec::is_empty) {
            self.problem(field, "must not be empty");
        }
        texts.unwrap_or_default()
    }

    /// Settings inside settings. The caller hands the result of the inner [`Settings::finish`] to [`Settings::absorb`].
    pub fn nested(&self, field: &str) -> Option<Settings<'a>> {
        let fields = self.typed(field, "a map of settings", |value| value.as_map())?;
        Some(Settings::at(&self.operator, &self.path_of(field), fields))
    }

    /// A list of maps, each to be read like [`Settings::nested`].
    pub fn nested_list(&self, field: &str) -> Vec<Settings<'a>> {
        let Some(items) = self.typed(field, "a list of maps", |value| match value {
            Value::List(items) => Some(items),
            _ => None,
        }) else {
            return Vec::new();
        };
        let mut nested = Vec::new();
        for (index, item) in items.iter().enumerate() {
            let path = self.path_of(&format!("{field}[{index}]"));
            match item.as_map() {
                Some(fields) => nested.push(Settings::at(&self.operator, &path, fields)),
                None => self.problem(&format!("{field}[{index}]"), format!("expected a map, found {}", item.kind())),
            }
        }
        nested
    }

    /// Takes over problems found elsewhere.
    pub fn absorb(&self, problems: Vec<Problem>) {
        self.problems.borrow_mut().extend(problems);
    }

    /// Ends reading: all problems, with one for each field that nobody knows.
    pub fn finish(self) -> Vec<Problem> {
        let known = self.known.borrow().clone();
        for field in self.fields.keys().filter(|field| !known.contains(*field)) {
            let near = nearest(field, known.iter().map(String::as_str));
            let list = known.iter().map(String::as_str).collect::<Vec<_>>().join(", ");
            self.problem_near(field, format!("unknown field; known here: {list}"), near);
        }
        self.problems.into_inner()
    }
}

fn scalar_text(value: &Value) -> Option<String> {
    match value {
        Value::Text(text) => Some(text.clone()),
        Value::Integer(number) => Some(number.to_string()),
        Value::Float(number) => Some(number.to_string()),
        Value::Bool(truth) => Some(truth.to_string()),
        _ => None,
    }
}

/// Reads a duration as users write it: numbers with units, added up.
///
/// **Units**: `us`, `ms`, `s`, `min` (or `m`), `h`, `d`, also spelled out in English.
pub fn parse_duration(text: &str) -> Result<Duration, String> {
    let wrong = || format!("'{text}' is not a duration: write a number and a unit (us, ms, s, min, h, d), like '10 s'");
    let mut total_us = 0u64;
    let mut rest = text.trim();
    if rest.is_empty() {
        return Err(wrong());
    }
    while !rest.is_empty() {
        let digits = rest.find(|c: char| !c.is_ascii_digit()).ok_or_else(wrong)?;
        let number: u64 = rest[..digits].parse().map_err(|_| wrong())?;
        let after = rest[digits..].trim_start();
        let unit_end = after.find(|c: char| !c.is_ascii_alphabetic()).unwrap_or(after.len());
        let unit_us = match after[..unit_end].to_ascii_lowercase().as_str() {
            "us" | "micros" | "microsecond" | "microseconds" => 1,
            "ms" | "millis" | "millisecond" | "milliseconds" => 1_000,
            "s" | "sec" | "second" | "seconds" => 1_000_000,
            "m" | "min" | "minute" | "minutes" => 60_000_000,
            "h" | "hour" | "hours" => 3_600_000_000,
            "d" | "day" | "days" => 86_400_000_000u64,
            _ => return Err(wrong()),
        };
        total_us = number
            .checked_mul(unit_us)
            .and_then(|us| total_us.checked_add(us))
            .filter(|us| *us <= DURATION_MAX_US)
            .ok_or_else(|| format!("'{text}' is too long: at most 100 years"))?;
        rest = after[unit_end..].trim_start();
    }
    Ok(Duration::from_micros(total_us))
}

/// A hundred years: longer durations would overflow event-time arithmetic for nothing.
const DURATION_MAX_US: u64 = 36_525 * 86_400_000_000;

#[cfg(test)]
mod tests {
    use super::*;

    fn fields(value: Value) -> BTreeMap<String, Value> {
        value.as_map().expect("a map").clone()
    }

    #[test]
    fn all_problems_come_out_together() {
        let fields = fields(Value::from([
            ("kind", "window".into()),
            ("sise", "10 s".into()),
            ("lateness", "10".into()),
            ("n", Value::Integer(0)),
            ("mode", "sesion".into()),
            ("inner", Value::from([("x", Value::Bool(true))])),
        ]));
        let settings = Settings::new("w", &fields);
        settings.allow("kind");
        settings.required_duration("size");
        settings.duration("lateness");
        settings.integer("n", 1..=10);
        settings.choice("mode", &["tumble", "session"]);
        let inner = settings.nested("inner").expect("a map");
        inner.integer("x", 0..=1);
        settings.absorb(inner.finish());
        let lines: Vec<String> = settings.finish().iter().map(ToString::to_string).collect();
        expect_test::expect![[r#"
            operator 'w', size: is missing: expected a duration with its unit, like '10 s'
            operator 'w', lateness: '10' is not a duration: write a number and a unit (us, ms, s, min, h, d), like '10 s'
            operator 'w', n: expected a whole number from 1 to 10, found a whole number: 0
            operator 'w', mode: 'sesion' is not one of tumble, session; did you mean 'session'?
            operator 'w', inner.x: expected a whole number from 0 to 1, found a boolean: true
            operator 'w', sise: unknown field; known here: inner, kind, lateness, mode, n, size; did you mean 'size'?
        "#]]
        .assert_eq(&(lines.join("\n") + "\n"));
    }

    #[test]
    fn durations_as_people_write_them() {
        let seconds = |text: &str| parse_duration(text).map(|duration| duration.as_secs_f64());
        assert_eq!(seconds("10s"), Ok(10.0));
        assert_eq!(seconds("1h 30 min"), Ok(5400.0));
        assert_eq!(seconds("250 ms"), Ok(0.25));
        for bad in ["", "10", "s", "-1 s", "1.5 s", "10 parsecs", "99999999999999999999 s", "200000 d"] {
            assert!(parse_duration(bad).is_err(), "{bad}");
        }
    }
}
