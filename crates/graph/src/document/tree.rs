//! YAML text -> a tree of [`Value`]s, for the document reader. Bounded in bytes, depth and what aliases expand to;
//! keys that are given twice are problems, not silently the last one.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::fmt;

use serde::de::{DeserializeSeed, Deserializer, EnumAccess, Error, IgnoredAny, MapAccess, SeqAccess, Visitor};
use weir_core::{Problem, Value};

use super::problem;
use crate::limits::{GRAPH_BYTES_MAX, SETTINGS_DEPTH_MAX};

/// Deepest level of a document, from 0: around the settings are the document, the list of operators, the operator.
const DEPTH_MAX: usize = SETTINGS_DEPTH_MAX + 2;

/// Reads a document; `None` after a problem with the text as a whole.
pub(super) fn read(text: &str, file_name: &str, problems: &mut Vec<Problem>) -> Option<Value> {
    if text.len() > GRAPH_BYTES_MAX {
        let reason = format!("has {} bytes; a job has at most {GRAPH_BYTES_MAX}", text.len());
        problems.push(problem(file_name, reason));
        return None;
    }
    let mut reader = Reader { bytes_left: GRAPH_BYTES_MAX, problems: Vec::new() };
    let seed = Node { reader: &mut reader, path: String::new(), depth: 0 };
    let result = seed.deserialize(serde_yaml_ng::Deserializer::from_str(text));
    problems.append(&mut reader.problems);
    result.map_err(|error| problems.push(syntax_problem(&error, file_name))).ok()
}

fn syntax_problem(error: &serde_yaml_ng::Error, file_name: &str) -> Problem {
    let message = error.to_string();
    match error.location() {
        Some(at) => {
            let place = format!(" at line {} column {}", at.line(), at.column());
            let message = message.replacen(&place, "", 1);
            problem(&format!("{file_name}:{}:{}", at.line(), at.column()), format!("cannot be read as YAML: {message}"))
        }
        None => problem(file_name, format!("cannot be read as YAML: {message}")),
    }
}

/// What is common to all nodes of a document.
struct Reader {
    /// What the tree may still grow by; aliases would let a small text grow without end.
    bytes_left: usize,
    problems: Vec<Problem>,
}

impl Reader {
    fn grow<E: Error>(&mut self, bytes: usize) -> Result<(), E> {
        let left = self.bytes_left.checked_sub(bytes + 1);
        self.bytes_left = left.ok_or_else(|| {
            E::custom(format!("the document grows beyond {GRAPH_BYTES_MAX} bytes (do aliases repeat it?)"))
        })?;
        Ok(())
    }
}

/// One node of the tree to be read.
struct Node<'r> {
    reader: &'r mut Reader,
    path: String,
    depth: usize,
}

impl<'de> DeserializeSeed<'de> for Node<'_> {
    type Value = Value;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Value, D::Error> {
        if self.depth > DEPTH_MAX {
            let reason = format!("nests too deep: settings have at most {SETTINGS_DEPTH_MAX} levels");
            self.reader.problems.push(problem(&self.path, reason));
            return deserializer.deserialize_ignored_any(IgnoredAny).map(|_| Value::Null);
        }
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Node<'_> {
    type Value = Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a value")
    }

    fn visit_unit<E: Error>(self) -> Result<Value, E> {
        self.reader.grow(0).map(|()| Value::Null)
    }

    fn visit_none<E: Error>(self) -> Result<Value, E> {
        self.visit_unit()
    }

    fn visit_bool<E: Error>(self, truth: bool) -> Result<Value, E> {
        self.reader.grow(0).map(|()| Value::Bool(truth))
    }

    fn visit_i64<E: Error>(self, number: i64) -> Result<Value, E> {
        self.reader.grow(0).map(|()| Value::Integer(number))
    }

    fn visit_u64<E: Error>(self, number: u64) -> Result<Value, E> {
        // Settings read numbers from text too, and no other value holds this one exactly.
        self.reader
            .grow(0)
            .map(|()| i64::try_from(number).map_or_else(|_| Value::Text(number.to_string()), Value::from))
    }

    fn visit_f64<E: Error>(self, number: f64) -> Result<Value, E> {
        self.reader.grow(0).map(|()| Value::Float(number))
    }

    fn visit_str<E: Error>(self, text: &str) -> Result<Value, E> {
        self.reader.grow(text.len()).map(|()| Value::from(text))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Value, A::Error> {
        self.reader.grow(0)?;
        let mut list = Vec::new();
        loop {
            let path = format!("{}[{}]", self.path, list.len());
            match items.next_element_seed(Node { reader: self.reader, path, depth: self.depth + 1 })? {
                Some(item) => list.push(item),
                None => return Ok(Value::List(list)),
            }
        }
    }

    fn visit_map<A: MapAccess<'de>>(self, mut fields: A) -> Result<Value, A::Error> {
        self.reader.grow(0)?;
        let mut map = BTreeMap::new();
        while let Some(name) = fields.next_key_seed(Name)? {
            self.reader.grow(name.len())?;
            let path = if self.path.is_empty() { name.clone() } else { format!("{}.{name}", self.path) };
            match map.entry(name) {
                Entry::Occupied(_) => {
                    self.reader.problems.push(problem(&path, "is given twice; remove one"));
                    fields.next_value::<IgnoredAny>()?;
                }
                Entry::Vacant(place) => {
                    let node = Node { reader: self.reader, path, depth: self.depth + 1 };
                    place.insert(fields.next_value_seed(node)?);
                }
            }
        }
        Ok(Value::Map(map))
    }

    fn visit_enum<A: EnumAccess<'de>>(self, _: A) -> Result<Value, A::Error> {
        Err(A::Error::custom("YAML tags (!name) have no meaning here"))
    }
}

/// The name of a field: any plain value as its text.
struct Name;

impl<'de> DeserializeSeed<'de> for Name {
    type Value = String;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<String, D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Name {
    type Value = String;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the name of a field")
    }

    fn visit_str<E: Error>(self, text: &str) -> Result<String, E> {
        Ok(text.to_owned())
    }

    fn visit_bool<E: Error>(self, truth: bool) -> Result<String, E> {
        Ok(truth.to_string())
    }

    fn visit_i64<E: Error>(self, number: i64) -> Result<String, E> {
        Ok(number.to_string())
    }

    fn visit_u64<E: Error>(self, number: u64) -> Result<String, E> {
        Ok(number.to_string())
    }

    fn visit_f64<E: Error>(self, number: f64) -> Result<String, E> {
        Ok(number.to_string())
    }
}
