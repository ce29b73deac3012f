//! Operator descriptors: what each built-in kind of operator can be told, read from settings. The planner reads them
//! to check and type a job, workers read them again to build the operator; both use this one definition.

use std::collections::BTreeMap;

use weir_core::{Settings, Value};

use crate::limits::COLUMNS_MAX;
use crate::window::WindowSpec;
use crate::window_schema::{WINDOW_END, WINDOW_START};

/// What an operator does, with its settings. **Units**: times and durations in microseconds.
#[derive(Clone, Debug, PartialEq)]
pub enum OperatorKind {
    /// A connector that produces rows; its settings belong to the connector.
    Source,
    /// A connector that takes rows; its settings belong to the connector.
    Sink,
    /// Keeps the rows for which the predicate is true.
    Filter(Filter),
    /// Computes new columns.
    Project(Project),
    /// One row per element of an array.
    FlatMap(FlatMap),
    /// Rows of all inputs, one stream.
    Union,
    /// Sends rows of equal keys to the same subtask.
    KeyBy(KeyBy),
    /// Names the event-time column and makes watermarks.
    Watermark(WatermarkStrategy),
    /// Aggregates per key and window.
    Window(WindowAggregate),
    /// Joins two inputs within windows.
    WindowJoin(WindowJoin),
    /// The best rows of each window.
    WindowTopN(WindowTopN),
    /// The newest row of each key, as upserts.
    LastByKey(LastByKey),
    /// The first row of each key by event time, once.
    FirstByKey(FirstByKey),
    /// Keys from which nothing was heard for a while.
    Absence(Absence),
}

/// Settings of `filter`.
#[derive(Clone, Debug, PartialEq)]
pub struct Filter {
    /// SQL condition; null counts as false.
    pub predicate: String,
}

/// Settings of `project`.
#[derive(Clone, Debug, PartialEq)]
pub struct Project {
    /// Select items: `column`, `expression AS name`, `*`.
    pub columns: Vec<String>,
}

/// Settings of `flat_map`.
#[derive(Clone, Debug, PartialEq)]
pub struct FlatMap {
    /// The array column.
    pub array: String,
    /// Name of the element column that replaces it.
    pub name: String,
    /// Whether a row with a null or empty array stays, with a null element.
    pub keep_empty: bool,
}

/// Settings of `key_by`.
#[derive(Clone, Debug, PartialEq)]
pub struct KeyBy {
    /// Key columns.
    pub key: Vec<String>,
}

/// Settings of `watermark`.
#[derive(Clone, Debug, PartialEq)]
pub struct WatermarkStrategy {
    /// Name of the event-time column, existing or (with `time`) new.
    pub column: String,
    /// SQL expression for the event time; the column itself when absent.
    pub time: Option<String>,
    /// How far a row may lie behind the newest of its split without being late.
    pub max_out_of_orderness: i64,
    /// After how long without rows a split stops holding the watermark back; never when absent.
    pub idle_timeout: Option<i64>,
    /// How far a row may lie ahead of the wall clock before it is a bad record; no limit when absent.
    pub max_future_skew: Option<i64>,
}

/// Settings of `window`.
#[derive(Clone, Debug, PartialEq)]
pub struct WindowAggregate {
    /// Key columns; none for one result per window.
    pub key: Vec<String>,
    /// Kind of window.
    pub window: WindowSpec,
    /// Aggregate calls with names; none for the distinct keys of each window.
    pub aggregates: Vec<String>,
    /// How long after its end a window still takes rows and updates its result.
    pub allowed_lateness: i64,
    /// Whether rows may be aggregated before the exchange.
    pub two_phase: bool,
}

/// Which rows a join keeps.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum JoinType {
    /// Pairs only.
    Inner,
    /// Pairs, and left rows without a partner.
    Left,
    /// Pairs, and right rows without a partner.
    Right,
    /// Pairs, and rows of both sides without a partner.
    Full,
}

/// Settings of `window_join`.
#[derive(Clone, Debug, PartialEq)]
pub struct WindowJoin {
    /// Key columns of the first input.
    pub left_key: Vec<String>,
    /// Key columns of the second input, in the same order.
    pub right_key: Vec<String>,
    /// Kind of window; `same` joins results of windows on their bounds.
    pub window: WindowSpec,
    /// Which rows are kept.
    pub join_type: JoinType,
}

/// Settings of `window_top_n`.
#[derive(Clone, Debug, PartialEq)]
pub struct WindowTopN {
    /// Columns besides the window within which rows compete; none for one list per window.
    pub partition: Vec<String>,
    /// Orderings: `column`, `column DESC`.
    pub order_by: Vec<String>,
    /// How many rows are kept.
    pub limit: i64,
    /// Whether rows that tie with the last kept one are kept too (RANK instead of ROW_NUMBER).
    pub ties: bool,
    /// Name of a column with the rank from 1; none when absent.
    pub rank_column: Option<String>,
}

/// Settings of `last_by_key`.
#[derive(Clone, Debug, PartialEq)]
pub struct LastByKey {
    /// Key columns.
    pub key: Vec<String>,
    /// Columns that say which row is newer; event time when empty. On a tie the row that came later wins.
    pub order_by: Vec<String>,
    /// How long after its last row a key is remembered, in event time; for ever when absent.
    pub state_ttl: Option<i64>,
}

/// Settings of `first_by_key`.
#[derive(Clone, Debug, PartialEq)]
pub struct FirstByKey {
    /// Key columns.
    pub key: Vec<String>,
    /// How long after its last row a key is remembered, in event time; for ever when absent.
    pub state_ttl: Option<i64>,
}

/// Settings of `absence`.
#[derive(Clone, Debug, PartialEq)]
pub struct Absence {
    /// Key columns.
    pub key: Vec<String>,
    /// How long a key must be silent, in event time.
    pub timeout: i64,
}

/// Names of all built-in kinds that are not connectors.
pub const KINDS: &[&str] = &[
    "filter",
    "project",
    "flat_map",
    "union",
    "key_by",
    "watermark",
    "window",
    "window_join",
    "window_top_n",
    "last_by_key",
    "first_by_key",
    "absence",
];

const WINDOWS: &[&str] = &["tumble", "hop", "cumulate", "session"];
const JOIN_WINDOWS: &[&str] = &["tumble", "hop", "cumulate", "same"];

impl OperatorKind {
    /// Reads the settings of a built-in kind; `None` when `kind` is not one. Problems are recorded in `settings`, whose
    /// `finish` the caller must call.
    pub fn read(kind: &str, settings: &Settings<'_>) -> Option<OperatorKind> {
        let duration = |field: &str| settings.duration(field).map(|duration| duration.as_micros() as i64);
        Some(match kind {
            "filter" => OperatorKind::Filter(Filter { predicate: settings.required_text("predicate") }),
            "project" => OperatorKind::Project(Project { columns: columns(settings, "columns", true) }),
            "flat_map" => {
                let array = settings.required_text("array");
                let name = settings.text("as").unwrap_or_else(|| array.clone());
                OperatorKind::FlatMap(FlatMap {
                    array,
                    name,
                    keep_empty: settings.boolean("keep_empty").unwrap_or(false),
                })
            }
            "union" => OperatorKind::Union,
            "key_by" => OperatorKind::KeyBy(KeyBy { key: columns(settings, "key", true) }),
            "watermark" => OperatorKind::Watermark(WatermarkStrategy {
                column: settings.required_text("column"),
                time: settings.text("time"),
                max_out_of_orderness: duration("max_out_of_orderness").unwrap_or(0),
                idle_timeout: duration("idle_timeout"),
                max_future_skew: duration("max_future_skew"),
            }),
            "window" => OperatorKind::Window(WindowAggregate {
                key: columns(settings, "key", false),
                window: WindowSpec::read(settings, WINDOWS),
                aggregates: columns(settings, "aggregates", false),
                allowed_lateness: duration("allowed_lateness").unwrap_or(0),
                two_phase: settings.boolean("two_phase").unwrap_or(true),
            }),
            "window_join" => OperatorKind::WindowJoin(WindowJoin {
                left_key: columns(settings, "left_key", true),
                right_key: columns(settings, "right_key", true),
                window: WindowSpec::read(settings, JOIN_WINDOWS),
                join_type: match settings.choice("join", &["inner", "left", "right", "full"]) {
                    Some("left") => JoinType::Left,
                    Some("right") => JoinType::Right,
                    Some("full") => JoinType::Full,
                    _ => JoinType::Inner,
                },
            }),
            "window_top_n" => OperatorKind::WindowTopN(WindowTopN {
                partition: columns(settings, "partition", false),
                order_by: columns(settings, "order_by", true),
                limit: settings.integer("limit", 1..=1_000_000).unwrap_or(1),
                ties: settings.boolean("ties").unwrap_or(false),
                rank_column: settings.text("rank_column"),
            }),
            "last_by_key" => OperatorKind::LastByKey(LastByKey {
                key: columns(settings, "key", true),
                order_by: columns(settings, "order_by", false),
                state_ttl: state_ttl(settings),
            }),
            "first_by_key" => OperatorKind::FirstByKey(FirstByKey {
                key: columns(settings, "key", true),
                state_ttl: state_ttl(settings),
            }),
            "absence" => OperatorKind::Absence(Absence {
                key: columns(settings, "key", true),
                timeout: settings.required_duration("timeout").as_micros() as i64,
            }),
            _ => return None,
        })
    }

    /// Reads settings that the planner has already accepted (a worker building its part of a plan).
    ///
    /// **Errors**: all problems in one sentence; only possible when coordinator and worker differ in version.
    pub fn read_planned(kind: &str, uid: &str, settings: &BTreeMap<String, Value>) -> Result<OperatorKind, String> {
        let settings = Settings::new(uid, settings);
        let read =
            OperatorKind::read(kind, &settings).ok_or_else(|| format!("operator '{uid}': unknown kind '{kind}'"));
        let problems = settings.finish();
        if problems.is_empty() {
            read
        } else {
            Err(problems.iter().map(ToString::to_string).collect::<Vec<_>>().join("; "))
        }
    }

    /// How many inputs the kind takes: least and most.
    pub fn input_bounds(&self) -> (usize, usize) {
        match self {
            OperatorKind::Source => (0, 0),
            OperatorKind::Union => (2, crate::limits::INPUTS_MAX),
            OperatorKind::WindowJoin(_) => (2, 2),
            _ => (1, 1),
        }
    }

    /// The columns by which rows must be spread over subtasks, for kinds with one keyed input.
    pub fn partition_key(&self) -> Option<Vec<String>> {
        match self {
            OperatorKind::KeyBy(KeyBy { key })
            | OperatorKind::Window(WindowAggregate { key, .. })
            | OperatorKind::LastByKey(LastByKey { key, .. })
            | OperatorKind::FirstByKey(FirstByKey { key, .. })
            | OperatorKind::Absence(Absence { key, .. }) => Some(key.clone()),
            OperatorKind::WindowTopN(top) => {
                let mut key = vec![WINDOW_START.to_owned(), WINDOW_END.to_owned()];
                key.extend(top.partition.iter().cloned());
                Some(key)
            }
            _ => None,
        }
    }

    /// The columns by which rows of one input must be spread over subtasks; `None` when any spread will do.
    pub fn input_key(&self, input: usize) -> Option<Vec<String>> {
        match self {
            OperatorKind::WindowJoin(join) => {
                Some(if input == 0 { join.left_key.clone() } else { join.right_key.clone() })
            }
            _ => self.partition_key(),
        }
    }

    /// Whether the kind has a `late` output.
    pub fn has_late_output(&self) -> bool {
        match self {
            OperatorKind::Window(_)
            | OperatorKind::WindowJoin(_)
            | OperatorKind::FirstByKey(_)
            | OperatorKind::WindowTopN(_)
            | OperatorKind::Absence(_) => true,
            OperatorKind::LastByKey(last) => last.state_ttl.is_some(),
            _ => false,
        }
    }

    /// Whether the kind needs event time and watermarks.
    pub fn needs_event_time(&self) -> bool {
        match self {
            OperatorKind::Window(_)
            | OperatorKind::WindowJoin(_)
            | OperatorKind::WindowTopN(_)
            | OperatorKind::FirstByKey(_)
            | OperatorKind::Absence(_) => true,
            OperatorKind::LastByKey(last) => last.order_by.is_empty() || last.state_ttl.is_some(),
            _ => false,
        }
    }
}

fn state_ttl(settings: &Settings<'_>) -> Option<i64> {
    let ttl = settings.duration("state_ttl")?.as_micros() as i64;
    if ttl == 0 {
        settings.problem("state_ttl", "must be longer than zero; leave it out to remember keys for ever");
    }
    Some(ttl.max(1))
}

fn columns(settings: &Settings<'_>, field: &str, is_required: bool) -> Vec<String> {
    let names = if is_required { settings.required_texts(field) } else { settings.texts(field).unwrap_or_default() };
    if names.len() > COLUMNS_MAX {
        settings.problem(field, format!("has {} items; at most {COLUMNS_MAX}", names.len()));
    }
    names
}
