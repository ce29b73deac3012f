//! Job documents: YAML (and JSON, which is YAML too) with parameters -> [`SubmittedJob`]. The client reads with it.
//!
//! Three steps, each of which goes on after a problem, so that all come out together: text to a tree of values
//! ([`tree`]), parameters into the tree ([`parameters`]), tree to a job. What kinds and settings mean is the planner's
//! and not looked at here.

use std::collections::BTreeMap;

use weir_core::settings::nearest;
use weir_core::{Problem, Settings, Value};

use crate::limits::{OPERATORS_MAX, PARALLELISM_MAX};
use crate::submitted::{SubmittedJob, SubmittedOperator};

mod parameters;
mod tree;

/// Fields of a document's top level.
const FIELDS: [&str; 4] = ["name", "parameters", "config", "operators"];

/// A job document with its parameters filled in.
#[derive(Clone, Debug, PartialEq)]
pub struct Document {
    /// The job, ready for submission.
    pub job: SubmittedJob,
}

/// Reads a document. `given` are the `-D` values: parameters, or configuration keys, which replace the document's.
///
/// **Errors**: everything that is wrong, each with its path; for text that is no YAML the line and column in
/// `file_name`.
pub fn read(text: &str, given: &BTreeMap<String, String>, file_name: &str) -> Result<Document, Vec<Problem>> {
    let mut problems = Vec::new();
    let mut root = match tree::read(text, file_name, &mut problems) {
        Some(Value::Map(root)) => root,
        Some(Value::Null) => return Err(vec![problem(file_name, "is empty; docs/job-graph.md has an example")]),
        Some(other) => {
            let reason = format!("expected a map with {}, found {}", FIELDS.join(", "), other.kind());
            return Err(vec![problem(file_name, reason)]);
        }
        None => return Err(problems),
    };
    for field in root.keys().filter(|field| !FIELDS.contains(&field.as_str())) {
        let reason = format!("unknown field; known here: {}", FIELDS.join(", "));
        problems.push(Problem { nearest: nearest(field, FIELDS), ..problem(field, reason) });
    }
    let declared = root.remove("parameters").unwrap_or(Value::Null);
    let mut root = Value::Map(root);
    parameters::fill(&mut root, &declared, given, &mut problems);
    let job = read_job(&root, given, &mut problems);
    if problems.is_empty() { Ok(Document { job }) } else { Err(problems) }
}

fn problem(field: &str, reason: impl Into<String>) -> Problem {
    Problem { operator: String::new(), field: field.to_owned(), reason: reason.into(), nearest: None }
}

fn read_job(root: &Value, given: &BTreeMap<String, String>, problems: &mut Vec<Problem>) -> SubmittedJob {
    let empty = BTreeMap::new();
    let root = root.as_map().unwrap_or(&empty);
    let settings = Settings::new("", root);
    let name = settings.required_text("name");
    FIELDS.iter().for_each(|field| settings.allow(field));
    // Unknown fields were reported before, with the fields of a document as candidates.
    problems.extend(settings.finish().into_iter().filter(|problem| problem.field == "name"));
    let mut config = read_config(root.get("config"), problems);
    let keys = given.iter().filter(|(name, _)| crate::config::is_key(name));
    config.extend(keys.map(|(name, text)| (name.clone(), Value::Text(text.clone()))));
    SubmittedJob { name, config, operators: read_operators(root.get("operators"), problems) }
}

fn read_config(config: Option<&Value>, problems: &mut Vec<Problem>) -> BTreeMap<String, Value> {
    match config {
        None | Some(Value::Null) => BTreeMap::new(),
        Some(Value::Map(config)) => {
            for (name, value) in config.iter().filter(|(_, value)| matches!(value, Value::List(_) | Value::Map(_))) {
                let reason = format!("expected one value, found {}; write keys with dots, in one piece", value.kind());
                problems.push(problem(&format!("config.{name}"), reason));
            }
            config.clone()
        }
        Some(other) => {
            problems.push(problem("config", format!("expected a map of keys, found {}", other.kind())));
            BTreeMap::new()
        }
    }
}

fn read_operators(operators: Option<&Value>, problems: &mut Vec<Problem>) -> Vec<SubmittedOperator> {
    match operators {
        None | Some(Value::Null) => {
            problems.push(problem("operators", "is missing: a job needs at least a source and a sink"));
            Vec::new()
        }
        Some(Value::List(operators)) if operators.len() > OPERATORS_MAX => {
            let reason = format!("has {} operators; at most {OPERATORS_MAX}", operators.len());
            problems.push(problem("operators", reason));
            Vec::new()
        }
        Some(Value::List(operators)) => {
            let read = |(index, operator)| read_operator(index, operator, problems);
            operators.iter().enumerate().filter_map(read).collect()
        }
        Some(other) => {
            problems.push(problem("operators", format!("expected a list of operators, found {}", other.kind())));
            Vec::new()
        }
    }
}

fn read_operator(index: usize, operator: &Value, problems: &mut Vec<Problem>) -> Option<SubmittedOperator> {
    let place = format!("operators[{index}]");
    let Some(fields) = operator.as_map() else {
        let reason = format!("expected a map with uid and kind, found {}", operator.kind());
        problems.push(problem(&place, reason));
        return None;
    };
    let uid = fields.get("uid").and_then(Value::as_text).unwrap_or_default();
    let settings = Settings::new(uid, fields);
    let read = SubmittedOperator {
        uid: settings.required_text("uid"),
        kind: settings.required_text("kind"),
        parallelism: settings.integer("parallelism", 1..=i64::from(PARALLELISM_MAX)).map(|number| number as u32),
        inputs: read_inputs(&settings),
        settings: fields.iter().filter(|(name, _)| !is_own(name)).map(|(k, v)| (k.clone(), v.clone())).collect(),
    };
    fields.keys().for_each(|name| settings.allow(name));
    problems.extend(settings.finish().into_iter().map(|problem| match problem.operator.as_str() {
        "" => Problem { field: format!("{place}.{}", problem.field), ..problem },
        _ => problem,
    }));
    Some(read)
}

/// Whether a field belongs to the operator as such and not to its kind.
fn is_own(field: &str) -> bool {
    ["uid", "kind", "parallelism", "input", "inputs"].contains(&field)
}

fn read_inputs(settings: &Settings<'_>) -> Vec<String> {
    if settings.has("input") && settings.has("inputs") {
        settings.problem("input", "give either input or inputs");
    }
    match settings.text("input") {
        Some(input) => vec![input],
        None => settings.texts("inputs").unwrap_or_default(),
    }
}

#[cfg(test)]
mod tests;
