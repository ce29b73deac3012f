//! Fills `${name}` in the values of a document from `-D name=value` and the document's defaults.
//!
//! A text that is exactly `${name}` becomes the parameter's value, with its type; inside a longer text the value is
//! inserted as text. `$${` stands for `${`. Names of fields are never filled.

use std::collections::{BTreeMap, BTreeSet};

use weir_core::settings::nearest;
use weir_core::{Problem, Value};

use super::problem;
use crate::config::{KEYS, is_key};
use crate::limits::GRAPH_BYTES_MAX;

/// Fills the parameters in `root`, with the defaults in `declared` where `given` has no value.
pub(super) fn fill(root: &mut Value, declared: &Value, given: &BTreeMap<String, String>, problems: &mut Vec<Problem>) {
    let none = BTreeMap::new();
    let declared = match declared {
        Value::Null => &none,
        Value::Map(declared) => declared,
        other => {
            let reason = format!("expected a map of names and defaults, found {}", other.kind());
            problems.push(problem("parameters", reason));
            return;
        }
    };
    let mut filler = Filler { values: BTreeMap::new(), used: BTreeSet::new(), bytes_left: GRAPH_BYTES_MAX, problems };
    filler.declare(declared, given);
    filler.fill("", root);
    let used = filler.used;
    for name in given.keys().filter(|name| !is_key(name) && !declared.contains_key(*name) && !used.contains(*name)) {
        let known = declared.keys().chain(&used).map(String::as_str).chain(KEYS.iter().map(|key| key.name));
        let reason = "is neither a parameter of this job nor a configuration key";
        problems.push(Problem { nearest: nearest(name, known), ..problem(&format!("-D {name}"), reason) });
    }
}

struct Filler<'a> {
    /// Values by name; `None` for one that must be given and is not: that was reported already.
    values: BTreeMap<String, Option<Value>>,
    used: BTreeSet<String>,
    /// What filling may add to the document.
    bytes_left: usize,
    problems: &'a mut Vec<Problem>,
}

impl Filler<'_> {
    fn declare(&mut self, declared: &BTreeMap<String, Value>, given: &BTreeMap<String, String>) {
        for (name, default) in declared {
            let field = format!("parameters.{name}");
            if !is_name(name) {
                self.problems.push(problem(&field, "a parameter's name has letters, digits, '_', '-' and '.' only"));
            }
            if is_key(name) {
                self.problems
                    .push(problem(&field, "is a configuration key; set it in config, or rename the parameter"));
            }
            if *default == Value::Null && !given.contains_key(name) {
                self.problems.push(problem(&field, format!("has no default: give it with -D {name}=value")));
            }
            self.values.insert(name.clone(), Some(default.clone()).filter(|default| *default != Value::Null));
        }
        let parameters = given.iter().filter(|(name, _)| !is_key(name));
        self.values.extend(parameters.map(|(name, text)| (name.clone(), Some(scalar(text)))));
    }

    fn fill(&mut self, path: &str, value: &mut Value) {
        match value {
            Value::Text(text) if text.contains("${") => {
                if let Some(filled) = self.fill_text(path, text) {
                    *value = filled;
                }
            }
            Value::List(items) => {
                for (index, item) in items.iter_mut().enumerate() {
                    self.fill(&format!("{path}[{index}]"), item);
                }
            }
            Value::Map(fields) => {
                for (name, field) in fields {
                    self.fill(&if path.is_empty() { name.clone() } else { format!("{path}.{name}") }, field);
                }
            }
            _ => {}
        }
    }

    /// The text with its parameters filled in; `None` after a problem.
    fn fill_text(&mut self, path: &str, text: &str) -> Option<Value> {
        let whole = text.strip_prefix("${").and_then(|rest| rest.strip_suffix('}'));
        if let Some(name) = whole.filter(|name| is_name(name)) {
            return self.lookup(path, name);
        }
        let mut filled = String::new();
        let mut rest = text;
        while let Some(start) = rest.find("${") {
            let (before, after) = (&rest[..start], &rest[start + 2..]);
            if let Some(before) = before.strip_suffix('$') {
                filled += before;
                filled += "${";
                rest = after;
                continue;
            }
            let end = after.find('}').filter(|end| is_name(&after[..*end]));
            let Some(end) = end else {
                let reason = format!("'{text}' has a '${{' without 'name}}' behind it; write '$${{' for the two signs");
                self.problems.push(problem(path, reason));
                return None;
            };
            let value = self.lookup(path, &after[..end])?;
            filled += before;
            filled += &self.inserted(path, &after[..end], &value)?;
            rest = &after[end + 1..];
        }
        Some(Value::Text(filled + rest))
    }

    fn inserted(&mut self, path: &str, name: &str, value: &Value) -> Option<String> {
        match value {
            Value::Text(text) => Some(text.clone()),
            Value::List(_) | Value::Map(_) => {
                let reason = format!("'${{{name}}}' is {} and cannot stand inside a text", value.kind());
                self.problems.push(problem(path, reason));
                None
            }
            plain => Some(plain.to_string()),
        }
    }

    fn lookup(&mut self, path: &str, name: &str) -> Option<Value> {
        let is_new = self.used.insert(name.to_owned());
        let Some(value) = self.values.get(name) else {
            if is_new {
                let near = nearest(name, self.values.keys().map(String::as_str));
                let reason = format!("'${{{name}}}' has no value: give it with -D {name}=value");
                self.problems.push(Problem { nearest: near, ..problem(path, reason) });
            }
            return None;
        };
        let bytes = value.as_ref().map_or(0, |value| value.as_text().map_or(8, str::len));
        match self.bytes_left.checked_sub(bytes) {
            Some(left) => {
                self.bytes_left = left;
                value.clone()
            }
            None => {
                let reason = format!("'${{{name}}}' lets the document grow beyond {GRAPH_BYTES_MAX} bytes");
                self.problems.push(problem(path, reason));
                None
            }
        }
    }
}

fn is_name(name: &str) -> bool {
    let is_part = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'-' | b'.');
    !name.is_empty() && name.bytes().all(is_part)
}

/// A value from the command line: what YAML reads as a truth value or a number, is one, as long as it is spelled the
/// usual way; `1.10` and `0x1f` stay text, because a path or a name may look like that (and numbers are read from text).
fn scalar(text: &str) -> Value {
    let value = match serde_yaml_ng::from_str(text) {
        Ok(serde_yaml_ng::Value::Bool(truth)) => Value::Bool(truth),
        Ok(serde_yaml_ng::Value::Number(number)) => match number.as_i64() {
            Some(number) => Value::Integer(number),
            None => number.as_f64().map_or(Value::Null, Value::Float),
        },
        _ => Value::Null,
    };
    if value.to_string() == text && value != Value::Null { value } else { Value::from(text) }
}
