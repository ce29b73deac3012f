//! The real positions give exactly the expected results: at every parallelism and batch size, from one file or many, in
//! one process or over two workers; with a short watermark, results and late records add up to the whole.

use std::io::Read;
use std::path::{Path, PathBuf};

use weir_tests::{Cluster, assert_same, command, defining, root, sorted_lines, succeed};

const JOBS: [&str; 4] = ["tumble_1m_by_vehicle", "hop_5m_1m_by_cell", "session_10m_by_vehicle", "latest_by_vehicle"];
const INPUT: &str = "testdata/positions/positions.jsonl.gz";

fn expected(job: &str) -> Vec<String> {
    sorted_lines(&root().join(format!("testdata/positions/expected/{job}.csv")))
}

struct Workspace(tempfile::TempDir);

impl Workspace {
    fn new() -> Self {
        Workspace(tempfile::tempdir().expect("a directory for results"))
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    /// Runs a job in one process and compares its result.
    fn check(&self, job: &str, parallelism: &str, input: &str, config: &[(&str, &str)]) {
        let output = self.path(&format!("{job}.csv"));
        let output_text = output.display().to_string();
        let run = command(&["local", "run", &format!("examples/positions/{job}.yaml"), "-p", parallelism]);
        succeed(defining(defining(run, &[("input", input), ("output", &output_text)]), config));
        let what = format!("{job}, parallelism {parallelism}, input {input}, {config:?}");
        assert_same(&sorted_lines(&output), &expected(job), &what);
    }

    /// Cuts the input: `count` files of consecutive lines, or of every count-th line.
    fn cut(&self, count: usize, is_consecutive: bool) -> PathBuf {
        let text = lines();
        let lines: Vec<&str> = text.lines().collect();
        let directory = self.path(if is_consecutive { "consecutive" } else { "dealt" });
        std::fs::create_dir_all(&directory).expect("a directory for the parts");
        let share = lines.len().div_ceil(count);
        for part in 0..count {
            let is_mine = |index: usize| if is_consecutive { index / share == part } else { index % count == part };
            let mine: String = lines
                .iter()
                .enumerate()
                .filter(|(index, _)| is_mine(*index))
                .flat_map(|(_, line)| [*line, "\n"])
                .collect();
            std::fs::write(directory.join(format!("part-{part}.jsonl")), mine).expect("write a part");
        }
        directory
    }
}

fn lines() -> String {
    let file = std::fs::File::open(root().join(INPUT)).expect("the positions are there");
    let mut text = String::new();
    flate2::read::GzDecoder::new(file).read_to_string(&mut text).expect("the positions unpack");
    text
}

#[test]
fn results_are_exact_at_every_parallelism() {
    let workspace = Workspace::new();
    for job in JOBS {
        for parallelism in ["1", "2", "4"] {
            workspace.check(job, parallelism, INPUT, &[]);
        }
    }
}

#[test]
fn results_do_not_depend_on_batch_sizes() {
    let workspace = Workspace::new();
    for job in JOBS {
        workspace.check(job, "2", INPUT, &[("execution.batch.target-rows", "1")]);
        workspace.check(
            job,
            "4",
            INPUT,
            &[("execution.batch.target-rows", "333"), ("execution.buffer-timeout.interval", "0 ms")],
        );
        workspace.check(job, "2", INPUT, &[("execution.exchange.credit-bytes", "1")]);
    }
}

#[test]
fn results_do_not_depend_on_how_the_input_is_cut() {
    let workspace = Workspace::new();
    let plain = workspace.path("whole.jsonl");
    std::fs::write(&plain, lines()).expect("write the plain input");
    let inputs = [plain, workspace.cut(7, true), workspace.cut(5, false)];
    for job in JOBS {
        for input in &inputs {
            workspace.check(job, "4", &input.display().to_string(), &[]);
        }
    }
}

#[test]
fn results_are_exact_over_two_workers() {
    let workspace = Workspace::new();
    let cluster = Cluster::start(2, 2);
    for job in JOBS {
        let output = workspace.path(&format!("{job}.csv"));
        let file = format!("examples/positions/{job}.yaml");
        let definitions = [("input", INPUT), ("output", output.to_str().expect("a text path"))];
        succeed(defining(cluster.client(&["run", &file, "-p", "4"]), &definitions));
        assert_same(&sorted_lines(&output), &expected(job), &format!("{job} over two workers"));
    }
}

fn count_reports(path: &Path) -> usize {
    sorted_lines(path)[1..]
        .iter()
        .map(|line| line.split(',').nth(2).and_then(|n| n.parse::<usize>().ok()).expect("reports"))
        .sum()
}

#[test]
fn results_and_late_records_add_up_to_the_whole() {
    let workspace = Workspace::new();
    for parallelism in ["1", "3"] {
        let (output, late) = (workspace.path("timely.csv"), workspace.path("late.csv"));
        let run = command(&["local", "run", "examples/positions/tumble_1m_by_vehicle_late.yaml", "-p", parallelism]);
        let text = |path: &Path| path.display().to_string();
        succeed(defining(run, &[("input", INPUT), ("output", &text(&output)), ("late_output", &text(&late))]));
        let late_count = sorted_lines(&late).len() - 1;
        assert!(late_count > 0, "with a watermark of 10 s some records must be late");
        assert_eq!(count_reports(&output) + late_count, 139_098, "parallelism {parallelism}");
    }
}
