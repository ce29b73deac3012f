//! What is measured: jobs, sizes, and the source-only ceiling beside each.

/// One thing to measure.
#[derive(Clone)]
pub struct Scenario {
    /// Short name; the query's name for NEXMark.
    pub name: &'static str,
    /// What it shows, in words.
    pub what: &'static str,
    /// Job file, relative to the repository.
    pub job: &'static str,
    /// A job with the same source and nothing behind it, for the ceiling.
    pub ceiling: Option<&'static str>,
    /// Records that one run processes.
    pub events: u64,
    /// How many are counted as processed per run; the input's size where a file is read.
    pub input: Input,
    /// Processes it runs in.
    pub mode: Mode,
    /// Parallelism.
    pub parallelism: u32,
    /// Least million events per CPU-second on a quiet two-core machine; 0 for none.
    pub floor: f64,
    /// Further `-D name=value`.
    pub definitions: &'static [(&'static str, &'static str)],
    /// Memory of the worker; its default when absent.
    pub memory: Option<&'static str>,
}

/// Where the records come from.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Input {
    /// A generator inside the job.
    Generated,
    /// The real positions, this many copies of the file.
    Positions(u32),
    /// A fleet's reports as JSON lines, made once.
    Trucks,
}

/// In how many processes a scenario runs.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Mode {
    /// Coordinator and worker in one process.
    Local,
    /// A coordinator and two workers with one slot each.
    TwoWorkers,
}

const NEXMARK: Scenario = Scenario {
    name: "",
    what: "",
    job: "",
    ceiling: None,
    events: 20_000_000,
    input: Input::Generated,
    mode: Mode::Local,
    parallelism: 2,
    floor: 0.0,
    definitions: &[],
    memory: None,
};

/// All scenarios, sizes divided by `shrink`.
pub fn all(shrink: u64) -> Vec<Scenario> {
    let mut scenarios = nexmark();
    scenarios.extend(others());
    scenarios.extend(checkpoints());
    for scenario in &mut scenarios {
        scenario.events = (scenario.events / shrink.max(1) / 50).max(1) * 50;
        if let Input::Positions(copies) = &mut scenario.input {
            *copies = (*copies / shrink.max(1) as u32).max(1);
            scenario.events = u64::from(*copies) * 139_098;
        }
    }
    scenarios
}

fn nexmark() -> Vec<Scenario> {
    let query =
        |name, what, job, ceiling, floor| Scenario { name, what, job, ceiling: Some(ceiling), floor, ..NEXMARK };
    vec![
        query("q0", "pass through", "examples/nexmark/q0_blackhole.yaml", "crates/bench/jobs/source_q0.yaml", 6.0),
        query("q1", "currency, decimal", "examples/nexmark/q1_blackhole.yaml", "crates/bench/jobs/source_q0.yaml", 6.0),
        query("q2", "filter", "examples/nexmark/q2_blackhole.yaml", "crates/bench/jobs/source_q2.yaml", 6.0),
        query(
            "q7w",
            "highest bid per window",
            "examples/nexmark/q7w_blackhole.yaml",
            "crates/bench/jobs/source_q7w.yaml",
            5.0,
        ),
        query(
            "q8",
            "new users, window join",
            "examples/nexmark/q8_blackhole.yaml",
            "crates/bench/jobs/source_q8.yaml",
            6.0,
        ),
        query(
            "q5",
            "hot items, hopping window",
            "examples/nexmark/q5_blackhole.yaml",
            "crates/bench/jobs/source_q5.yaml",
            2.0,
        ),
        query(
            "q11",
            "sessions per bidder",
            "examples/nexmark/q11_blackhole.yaml",
            "crates/bench/jobs/source_q11.yaml",
            1.7,
        ),
        Scenario {
            mode: Mode::TwoWorkers,
            ..query(
                "q5-two-workers",
                "hot items, two workers over gRPC",
                "examples/nexmark/q5_blackhole.yaml",
                "crates/bench/jobs/source_q5.yaml",
                0.0,
            )
        },
    ]
}

fn others() -> Vec<Scenario> {
    vec![
        Scenario {
            name: "positions",
            what: "JSON lines of real positions, windows per vehicle and minute, written as CSV",
            job: "examples/positions/tumble_1m_by_vehicle.yaml",
            ceiling: Some("crates/bench/jobs/source_positions.yaml"),
            input: Input::Positions(20),
            events: 20 * 139_098,
            floor: 1.0,
            ..NEXMARK
        },
        Scenario {
            name: "trucks",
            what: "JSON lines of a fleet, reports and speed per region and minute, written as CSV",
            job: "crates/bench/jobs/trucks.yaml",
            ceiling: Some("crates/bench/jobs/source_trucks.yaml"),
            input: Input::Trucks,
            events: 3_000_000,
            floor: 1.0,
            ..NEXMARK
        },
        Scenario {
            name: "keys-10m",
            what: "tumbling count over 10 million keys; memory is the figure",
            job: "crates/bench/jobs/keys_10m.yaml",
            events: 166_700_000,
            ..NEXMARK
        },
        Scenario {
            name: "latency",
            what: "windowless job with an exchange, paced at half of what it can do (75 M events/s); latency is the figure",
            job: "crates/bench/jobs/latency.yaml",
            events: 370_000_000,
            definitions: &[("pace", "37000000")],
            ..NEXMARK
        },
    ]
}

/// How often checkpoints are taken: none, every 10 s (the default), every second.
const INTERVALS: [(&str, &[(&str, &str)]); 3] = [
    ("", &[("execution.checkpointing.interval", "0 s")]),
    ("-10s", &[("execution.checkpointing.interval", "10 s")]),
    ("-1s", &[("execution.checkpointing.interval", "1 s")]),
];

/// Fifty times as many events in the same event time, so that state does not fit a small memory.
const DENSE: &[(&str, &str)] = &[("rate", "5000000"), ("execution.checkpointing.interval", "10 s")];

const DENSE_SESSIONS: &[(&str, &str)] = &[("rate", "2000000"), ("execution.checkpointing.interval", "10 s")];

/// What checkpoints cost, and state beyond memory: the same jobs without either stand beside them, in the same run.
fn checkpoints() -> Vec<Scenario> {
    let jobs = [
        (["q5-long", "q5-long-10s", "q5-long-1s"], "examples/nexmark/q5_blackhole.yaml", 700_000_000),
        (["q11-long", "q11-long-10s", "q11-long-1s"], "examples/nexmark/q11_blackhole.yaml", 700_000_000),
        (["keys-again", "keys-again-10s", "keys-again-1s"], "crates/bench/jobs/keys_again.yaml", 8_000_000_000),
    ];
    let mut scenarios = Vec::new();
    for (names, job, events) in jobs {
        for (name, (_, definitions)) in names.into_iter().zip(INTERVALS) {
            let what = "the same job without checkpoints, with one every 10 s, and with one every second";
            scenarios.push(Scenario { name, what, job, events, definitions, ..NEXMARK });
        }
    }
    let dense = Scenario { events: 300_000_000, definitions: DENSE, memory: Some("128MiB"), ..NEXMARK };
    scenarios.push(Scenario {
        name: "q5-disk-10s",
        what: "hot items, 50 times as many in a window, with 128 MiB: state goes to RocksDB; a checkpoint every 10 s",
        job: "examples/nexmark/q5_blackhole.yaml",
        ..dense.clone()
    });
    scenarios.push(Scenario {
        name: "q11-disk-10s",
        what: "sessions, 20 times as many at once, with 128 MiB: state goes to RocksDB; a checkpoint every 10 s",
        job: "examples/nexmark/q11_blackhole.yaml",
        definitions: DENSE_SESSIONS,
        ..dense
    });
    let (_, definitions) = INTERVALS[0];
    let disk = Scenario { job: "crates/bench/jobs/keys_10m.yaml", events: 500_000_000, definitions, ..NEXMARK };
    scenarios.push(Scenario { name: "keys-30m", what: "30 million keys in memory", ..disk.clone() });
    scenarios.push(Scenario {
        name: "keys-30m-disk",
        what: "30 million keys with 128 MiB of memory: state goes to RocksDB",
        memory: Some("128MiB"),
        ..disk
    });
    scenarios
}

/// Scenarios to compare: the one, and the one it is measured against.
pub const RATIOS: [(&str, &str); 7] = [
    ("q5-long-10s", "q5-long"),
    ("q5-long-1s", "q5-long"),
    ("q11-long-10s", "q11-long"),
    ("q11-long-1s", "q11-long"),
    ("keys-again-10s", "keys-again"),
    ("keys-again-1s", "keys-again"),
    ("keys-30m-disk", "keys-30m"),
];
