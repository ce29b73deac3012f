//! Makes the input files that scenarios read, once; later runs use them again.

use std::fs::{self, File};
use std::io::{BufReader, BufWriter};
use std::path::PathBuf;
use std::process::{Command, Stdio};

use anyhow::{Context, ensure};

use crate::measure::Bench;
use crate::scenario::{Input, Scenario};

/// The path that `${input}` of the scenario's job stands for; `None` when it reads no file.
pub fn input(scenario: &Scenario, bench: &Bench) -> anyhow::Result<Option<PathBuf>> {
    match scenario.input {
        Input::Generated => Ok(None),
        Input::Positions(copies) => positions(copies, bench).map(Some),
        Input::Trucks => trucks(scenario.events, bench).map(Some),
    }
}

/// A directory with the plain positions file under several names.
fn positions(copies: u32, bench: &Bench) -> anyhow::Result<PathBuf> {
    let directory = bench.out.join(format!("positions-{copies}"));
    if directory.join("done").exists() {
        return Ok(directory.join("*.jsonl"));
    }
    fs::create_dir_all(&directory)?;
    let plain = directory.join("000.jsonl");
    let packed = Command::new("gzip")
        .args(["-dc", "testdata/positions/positions.jsonl.gz"])
        .stdout(Stdio::piped())
        .spawn()
        .context("start gzip")?;
    let reader = packed.stdout.context("gzip has no output")?;
    std::io::copy(&mut BufReader::new(reader), &mut BufWriter::new(File::create(&plain)?))?;
    for copy in 1..copies {
        fs::copy(&plain, directory.join(format!("{copy:03}.jsonl")))?;
    }
    File::create(directory.join("done"))?;
    Ok(directory.join("*.jsonl"))
}

/// Reports of a fleet as JSON lines, written by Weir itself.
fn trucks(events: u64, bench: &Bench) -> anyhow::Result<PathBuf> {
    let path = bench.out.join(format!("trucks-{events}.jsonl"));
    if !path.exists() {
        let status = Command::new(&bench.weir)
            .args(["local", "run", "crates/bench/jobs/write_trucks.yaml", "-D", &format!("reports={events}")])
            .arg("-D")
            .arg(format!("output={}", path.display()))
            .stderr(Stdio::null())
            .status()
            .context("start weir")?;
        ensure!(status.success(), "writing the trucks ended with {status}");
    }
    Ok(path)
}
