//! The jobs of the matrix: how each is started, and what it must leave.

use std::collections::BTreeMap;
use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, OnceLock};

use crate::{command, defining, difference, files_below, root, run, succeed};

/// A query of the position reports.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Query {
    /// Tumbling windows.
    Tumble,
    /// Hopping windows.
    Hop,
    /// Session windows.
    Session,
    /// The newest row of each key.
    Latest,
}

impl Query {
    fn name(self) -> &'static str {
        match self {
            Query::Tumble => "tumble_1m_by_vehicle",
            Query::Hop => "hop_5m_1m_by_cell",
            Query::Session => "session_10m_by_vehicle",
            Query::Latest => "latest_by_vehicle",
        }
    }
}

/// A job whose undisturbed result is known.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Job {
    /// A NEXMark query, by its name, into a hash sink.
    Nexmark {
        /// Such as `q5`.
        query: &'static str,
        /// Events per second of event time: 1000, or 100000 for which windows are few and large.
        rate: u64,
    },
    /// A query over the real position reports, into a file.
    Positions(Query),
    /// The same into a directory of parts, which are shown checkpoint by checkpoint.
    PositionsInParts(Query),
    /// A window with a key for nearly every bid, so that checkpoints share most of what they hold, and with so many bids
    /// that the workers put state on disk.
    ManyKeys {
        /// Of all tables; every 1000 take some 42 kB of state.
        events: u64,
    },
    /// The generated fleet, four results and the broken records, each into a file.
    Trucks,
}

const MANY_KEYS: &str = r#"
name: many keys
parameters: {events: null, pace: 0}
operators:
  - {uid: bids, kind: nexmark, table: bid, events: "${events}", rate: 100000, pace: "${pace}"}
  - {uid: times, kind: watermark, input: bids, column: dateTime, max_out_of_orderness: 4 s}
  - uid: counts
    kind: window
    input: times
    key: [auction, bidder, dateTime]
    window: {type: tumble, size: 1 d}
    aggregates: [count(*) AS n]
  - {uid: out, kind: hash, input: counts}
"#;

/// The parameters of the fleet; two hours of it in some four seconds.
const FLEET: [(&str, &str); 2] = [("trucks", "200"), ("duration", "2 h")];
const FLEET_RESULTS: [&str; 5] = ["alerts", "broken", "latest", "regions", "silent"];

impl Job {
    /// All of them, each once.
    pub const ALL: [Job; 9] = [
        Job::Nexmark { query: "q5", rate: 1000 },
        Job::Positions(Query::Tumble),
        Job::Positions(Query::Latest),
        Job::Trucks,
        Job::Nexmark { query: "q8", rate: 1000 },
        Job::Positions(Query::Hop),
        Job::Positions(Query::Session),
        Job::Nexmark { query: "q11", rate: 1000 },
        Job::ManyKeys { events: 4_000_000 },
    ];

    /// Memory of its workers, where it is to be less than all of its state.
    pub(super) fn memory(self) -> Option<&'static str> {
        matches!(self, Job::ManyKeys { .. }).then_some("128MiB")
    }

    /// The same job with its output in a directory of parts, where there is such a form.
    pub fn in_parts(self) -> Job {
        match self {
            // What replaces rows is one file.
            Job::Positions(query) if query != Query::Latest => Job::PositionsInParts(query),
            other => other,
        }
    }

    /// Its definition; one that is no example is written below `scratch`.
    pub(super) fn file(self, scratch: &Path) -> Result<String, String> {
        let example = match self {
            Job::ManyKeys { .. } => {
                let file = scratch.join("many_keys.yaml");
                std::fs::write(&file, MANY_KEYS).map_err(|error| format!("write {}: {error}", file.display()))?;
                return Ok(file.display().to_string());
            }
            Job::Nexmark { query, .. } => format!("examples/nexmark/{query}.yaml"),
            Job::Positions(query) | Job::PositionsInParts(query) => format!("examples/positions/{}.yaml", query.name()),
            Job::Trucks => "examples/truck-tracking/trucks.yaml".to_owned(),
        };
        Ok(example)
    }

    /// Its parameters, with results below `scratch`.
    pub(super) fn definitions(self, scratch: &Path) -> Vec<(String, String)> {
        let owned = |(name, value): (&str, &str)| (name.to_owned(), value.to_owned());
        let output = |name: &str| owned(("output", &scratch.join(name).display().to_string()));
        let positions = || {
            let input = root().join("testdata/positions/positions.jsonl.gz").display().to_string();
            vec![owned(("input", &input)), owned(("rate", "40000"))]
        };
        match self {
            Job::Nexmark { rate, .. } => {
                [("events", "1000000"), ("rate", &rate.to_string()), ("pace", "250000")].map(owned).into()
            }
            Job::ManyKeys { events } => [("events", &*events.to_string()), ("pace", "1000000")].map(owned).into(),
            Job::Positions(_) => [positions(), vec![output("out.csv")]].concat(),
            Job::PositionsInParts(_) => [positions(), vec![output("out")]].concat(),
            Job::Trucks => [FLEET.map(owned).into(), vec![owned(("speedup", "1800")), output("out")]].concat(),
        }
    }

    /// Compares what it left.
    ///
    /// **Errors**: the first differences.
    pub(super) fn compare(self, scratch: &Path, info: &str) -> Result<(), String> {
        match self {
            Job::Nexmark { query, rate } => {
                let golden = if rate == 1000 { "golden-1M-rate1000.txt" } else { "golden-1M.txt" };
                let golden = read(&root().join("testdata/nexmark").join(golden))?;
                let line = golden.lines().find(|line| line.split(' ').next() == Some(query));
                let expected = line.and_then(|line| line.split_once(' ')).ok_or("no golden line")?.1;
                same_totals(&totals(info), expected)
            }
            Job::ManyKeys { events } => same_totals(&totals(info), &undisturbed_totals(events)?),
            Job::Positions(query) => {
                let file = scratch.join("out.csv");
                difference(&rows_of(std::slice::from_ref(&file))?, &expected(query)?)?;
                nothing_else(scratch, |path| path == file)
            }
            Job::PositionsInParts(query) => {
                let is_part = |path: &Path| path.extension().is_some_and(|extension| extension == "csv");
                nothing_else(scratch, is_part)?;
                difference(&rows_of(&files_below(scratch))?, &expected(query)?)
            }
            Job::Trucks => {
                let undisturbed = undisturbed_fleet();
                for (name, expected) in undisturbed {
                    let file = scratch.join("out").join(name).with_extension("csv");
                    difference(&rows_of(&[file])?, expected).map_err(|reason| format!("{name}: {reason}"))?;
                }
                nothing_else(scratch, |path| path.extension().is_some_and(|extension| extension == "csv"))
            }
        }
    }
}

impl fmt::Display for Job {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Job::Nexmark { query, rate: 1000 } => f.write_str(query),
            Job::Nexmark { query, rate } => write!(f, "{query} at {rate} events/s"),
            Job::Positions(query) => f.write_str(query.name()),
            Job::ManyKeys { .. } => f.write_str("many keys"),
            Job::PositionsInParts(query) => write!(f, "{}, in parts", query.name()),
            Job::Trucks => f.write_str("trucks"),
        }
    }
}

/// The totals of the hash sink, as golden lines have them.
fn totals(text: &str) -> String {
    let total = |name: &str| -> u64 {
        let behind = text.split(name).nth(1).unwrap_or_default();
        let behind = behind.trim_start_matches(|letter: char| !letter.is_ascii_digit());
        let digits = behind.split(|letter: char| !letter.is_ascii_digit()).next();
        digits.and_then(|text| text.parse().ok()).unwrap_or(0)
    };
    format!("{} {} {:016x}", total("hash_inserts"), total("hash_retracts"), total("hash_value"))
}

fn same_totals(found: &str, expected: &str) -> Result<(), String> {
    if found == expected { Ok(()) } else { Err(format!("the sink has '{found}', expected '{expected}'")) }
}

fn expected(query: Query) -> Result<Vec<String>, String> {
    rows_of(&[root().join(format!("testdata/positions/expected/{}.csv", query.name()))])
}

/// Header and sorted rows of CSV files with the same header.
fn rows_of(files: &[PathBuf]) -> Result<Vec<String>, String> {
    let (mut headers, mut rows) = (Vec::new(), Vec::new());
    for file in files {
        let text = read(file)?;
        let mut lines = text.lines().map(str::to_owned);
        headers.extend(lines.next().filter(|header| !headers.contains(header)));
        rows.extend(lines);
    }
    rows.sort();
    Ok([headers, rows].concat())
}

fn nothing_else(directory: &Path, is_result: impl Fn(&Path) -> bool) -> Result<(), String> {
    let is_hidden = |path: &Path| path.file_name().is_some_and(|name| name.to_string_lossy().starts_with('.'));
    let left: Vec<_> =
        files_below(directory).into_iter().filter(|path| is_hidden(path) || !is_result(path)).take(5).collect();
    if left.is_empty() { Ok(()) } else { Err(format!("more than the result is left: {left:?}")) }
}

fn read(path: &Path) -> Result<String, String> {
    std::fs::read_to_string(path).map_err(|error| format!("read {}: {error}", path.display()))
}

/// The totals of the job with many keys when nothing disturbs it; played once for each number of events.
fn undisturbed_totals(events: u64) -> Result<String, String> {
    static TOTALS: Mutex<BTreeMap<u64, String>> = Mutex::new(BTreeMap::new());
    let mut known = TOTALS.lock().expect("no holder panics");
    if let Some(totals) = known.get(&events) {
        return Ok(totals.clone());
    }
    let directory = tempfile::tempdir().map_err(|error| format!("a directory for the undisturbed run: {error}"))?;
    let job = Job::ManyKeys { events }.file(directory.path())?;
    let summary = directory.path().join("summary.json");
    let arguments = ["local", "run", &job, "-p", "2", "--summary", &summary.display().to_string()];
    let output = run(defining(command(&arguments), &[("events", &events.to_string())]));
    if !output.status.success() {
        return Err(format!("the undisturbed run fails: {}", String::from_utf8_lossy(&output.stderr)));
    }
    let totals = totals(&read(&summary)?);
    known.insert(events, totals.clone());
    Ok(totals)
}

/// What the fleet's job leaves when nothing disturbs it; played once.
fn undisturbed_fleet() -> &'static BTreeMap<&'static str, Vec<String>> {
    static RESULTS: OnceLock<BTreeMap<&'static str, Vec<String>>> = OnceLock::new();
    RESULTS.get_or_init(|| {
        let directory = tempfile::tempdir().expect("a directory for the undisturbed run");
        let output = directory.path().join("out").display().to_string();
        let definitions = [&FLEET[..], &[("output", &output)]].concat();
        let job = Job::Trucks.file(directory.path()).expect("an example of the repository");
        succeed(defining(command(&["local", "run", &job, "-p", "2"]), &definitions));
        let rows = |name: &str| {
            let rows = rows_of(&[directory.path().join("out").join(name).with_extension("csv")]);
            rows.unwrap_or_else(|reason| panic!("the undisturbed run leaves all results: {reason}"))
        };
        FLEET_RESULTS.map(|name| (name, rows(name))).into()
    })
}
