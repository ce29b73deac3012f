//! Random jobs with the smallest buffers: one byte of credit per channel and batches of a few rows. Each must come to
//! its end, with the results it has with large buffers.

use std::fmt::Write;
use std::path::Path;

use weir_tests::{command, succeed};

/// A multiplicative hash; the jobs are the same in every run.
struct Dice(u64);

impl Dice {
    fn below(&mut self, bound: u64) -> u64 {
        self.0 = self.0.wrapping_mul(0xD134_2543_DE82_EF95).wrapping_add(1);
        (self.0 >> 33) % bound
    }
}

/// One or two sources, a few steps over streams of bids that fork and join, and a sink on everything that is open.
fn random_job(seed: u64) -> String {
    let mut dice = Dice(seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1);
    let mut job = format!("name: random-{seed}\nparameters: {{events: null}}\noperators:\n");
    let mut add = |line: String| writeln!(job, "  - {{{line}}}").expect("strings take all");
    let mut streams = Vec::new();
    for source in 0..1 + dice.below(2) {
        let parallelism = 1 + dice.below(3);
        add(format!(
            "uid: bids{source}, kind: nexmark, table: bid, events: \"${{events}}\", parallelism: {parallelism}"
        ));
        add(format!(
            "uid: times{source}, kind: watermark, input: bids{source}, column: dateTime, max_out_of_orderness: 1 s, \
             parallelism: {parallelism}"
        ));
        streams.push(format!("times{source}"));
    }
    for step in 0..3 + dice.below(5) {
        let parallelism = 1 + dice.below(4);
        let from = streams[dice.below(streams.len() as u64) as usize].clone();
        let other = streams[dice.below(streams.len() as u64) as usize].clone();
        match dice.below(4) {
            0 => {
                add(format!(
                    "uid: s{step}, kind: filter, input: {from}, predicate: price % {} > 0, parallelism: {parallelism}",
                    2 + dice.below(3)
                ));
                streams.push(format!("s{step}"));
            }
            1 if other != from => {
                add(format!("uid: s{step}, kind: union, inputs: [{from}, {other}], parallelism: {parallelism}"));
                streams.push(format!("s{step}"));
            }
            2 => {
                add(format!(
                    "uid: w{step}, kind: window, input: {from}, key: [auction], window: {{type: tumble, size: 1 s}}, \
                     aggregates: [\"count(*) AS n\"], parallelism: {parallelism}"
                ));
                add(format!("uid: k{step}, kind: hash, input: w{step}, parallelism: {}", 1 + dice.below(3)));
                add(format!("uid: l{step}, kind: hash, input: w{step}.late"));
            }
            _ => {
                add(format!("uid: k{step}, kind: hash, input: {from}, parallelism: {parallelism}"));
            }
        }
    }
    // Whatever nobody reads gets a sink.
    for stream in streams {
        add(format!("uid: end-{stream}, kind: hash, input: {stream}"));
    }
    job
}

fn run(file: &Path, summary: &Path, small: bool) -> serde_json::Value {
    let mut command = command(&["local", "run"]);
    command.arg(file).arg("--summary").arg(summary).args(["-D", "events=3000"]);
    if small {
        for setting in [
            "execution.exchange.credit-bytes=1",
            "execution.batch.target-rows=5",
            "execution.buffer-timeout.interval=0 ms",
        ] {
            command.args(["-D", setting]);
        }
    }
    succeed(command);
    let text = std::fs::read_to_string(summary).expect("a summary");
    let summary: serde_json::Value = serde_json::from_str(&text).expect("JSON");
    summary["sinks"].clone()
}

/// Carries c3 of the failure list.
#[test]
fn c3_random_jobs_end_with_the_smallest_buffers() {
    let directory = tempfile::tempdir().expect("a directory for the jobs");
    for seed in 0..30 {
        let file = directory.path().join("job.yaml");
        let text = random_job(seed);
        std::fs::write(&file, &text).expect("write the job");
        let summary = directory.path().join("summary.json");
        let (large, small) = (run(&file, &summary, false), run(&file, &summary, true));
        assert!(large.as_array().is_some_and(|reports| !reports.is_empty()), "{large}\n{text}");
        assert_eq!(small, large, "{text}");
    }
}
