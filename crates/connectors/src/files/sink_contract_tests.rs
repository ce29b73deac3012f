//! Files hold each row once, whatever fails when: `a5` empty cuts, `a7` late and repeated publishing, `a8` the last cut,
//! `a11` nothing is shown before its cut is completed, `a12` a crash between a completed cut and its publishing.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::Read;
use std::path::Path;

use arrow_array::cast::AsArray;
use arrow_array::types::Int64Type;
use parquet::arrow::arrow_reader::ParquetRecordBatchReader;
use proptest::prelude::*;
use weir_core::Value;

use super::FileSink;
use super::enumerate::IN_PROGRESS;
use super::memory::MERGED_PARTS;
use crate::sink_contract::{Death, Play, Step, key_of, run, script};
use crate::source_contract::Fields;

/// The sink under test.
static SINK: FileSink = FileSink::new();

fn settings(path: &Path, more: &[(&str, Value)]) -> Fields {
    let mut map = Fields::from([("path".to_owned(), Value::from(path.to_str().expect("UTF-8")))]);
    map.extend(more.iter().map(|(name, value)| ((*name).to_owned(), value.clone())));
    map
}

/// The numbers of the rows in a file, in its order.
pub(super) fn rows_of(path: &Path) -> Vec<i64> {
    let name = path.to_str().expect("UTF-8");
    let file = File::open(path).expect("opens");
    if name.ends_with(".parquet") {
        let batches = ParquetRecordBatchReader::try_new(file, 100).expect("parquet");
        let numbers = |rows: arrow_array::RecordBatch| rows.column(1).as_primitive::<Int64Type>().values().to_vec();
        return batches.flat_map(|rows| numbers(rows.expect("reads"))).collect();
    }
    let mut text = String::new();
    match name.rsplit('.').next() {
        Some("gz") => flate2::read::MultiGzDecoder::new(file).read_to_string(&mut text),
        Some("zst") => zstd::Decoder::new(file).expect("a frame").read_to_string(&mut text),
        _ => { file }.read_to_string(&mut text),
    }
    .expect("reads");
    let mut lines = text.lines();
    if name.contains(".csv") {
        assert_eq!(lines.next(), Some("k,n"), "{name} has its header");
        return lines.map(|line| line.split(',').nth(1).expect("two cells").parse().expect("a number")).collect();
    }
    lines.map(|line| serde_json::from_str::<serde_json::Value>(line).expect("JSON")["n"].as_i64().expect("n")).collect()
}

/// The names of the files of a directory, hidden ones apart.
pub(super) fn names(directory: &Path) -> (Vec<String>, Vec<String>) {
    let Ok(entries) = fs::read_dir(directory) else { return Default::default() };
    let names = entries.map(|entry| entry.expect("lists").file_name().into_string().expect("UTF-8"));
    let (mut hidden, mut visible): (Vec<_>, Vec<_>) = names.partition(|name| name.starts_with('.'));
    assert!(hidden.iter().all(|name| name.ends_with(IN_PROGRESS)), "{hidden:?}");
    hidden.sort();
    visible.sort();
    (visible, hidden)
}

/// All rows that readers see.
pub(super) fn visible_rows(directory: &Path) -> Vec<i64> {
    let mut rows: Vec<i64> = names(directory).0.iter().flat_map(|name| rows_of(&directory.join(name))).collect();
    rows.sort_unstable();
    rows
}

pub(super) fn sorted(rows: &[i64]) -> Vec<i64> {
    let mut rows = rows.to_vec();
    rows.sort_unstable();
    rows
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(150))]
    #[test]
    fn a5_a7_a8_a11_a12_directory_shows_each_row_once_and_only_what_is_published(
        script in script(25),
        (format, compression) in prop_oneof![Just(("csv", "none")), Just(("json", "gzip")), Just(("parquet", "zstd"))],
        roll in prop_oneof![
            Just(vec![]), Just(vec![("roll_bytes", Value::Integer(30))]), Just(vec![("roll_interval", "10 s".into())])
        ],
        parallelism in 1usize..4,
        again: bool,
    ) {
        let directory = tempfile::tempdir().expect("a directory");
        let target = directory.path().join("out");
        let more = [&[("format", format.into()), ("compression", compression.into())], roll.as_slice()].concat();
        run(async {
            let mut play = Play::open(&SINK, settings(&target, &more), parallelism).await;
            play.run(&script, |play| {
                let published = sorted(&play.covered[..play.published_rows]);
                assert_eq!(visible_rows(&target), published, "only what is published");
            })
            .await;
            play.end(again).await;
            assert_eq!(visible_rows(&target), sorted(&play.covered));
        });
        let (visible, hidden) = names(&target);
        prop_assert_eq!(hidden, Vec::<String>::new());
        prop_assert!(target.is_dir(), "an empty result leaves its directory");
        for name in visible {
            prop_assert!(!rows_of(&target.join(&name)).is_empty(), "{} is empty", name);
        }
    }

    #[test]
    fn a5_a7_a8_a11_a12_single_file_is_shown_once_and_whole(
        script in script(25),
        name in prop_oneof![Just("out.csv"), Just("out.csv.gz"), Just("out.json.zst"), Just("out.parquet")],
        has_old: bool,
        again: bool,
    ) {
        let directory = tempfile::tempdir().expect("a directory");
        let target = directory.path().join(name);
        if has_old {
            fs::write(&target, "old").expect("writes");
        }
        run(async {
            let mut play = Play::open(&SINK, settings(&target, &[]), 1).await;
            play.run(&script, |_| {
                let old = fs::read_to_string(&target).ok();
                assert_eq!(old.as_deref(), has_old.then_some("old"), "readers see nothing before the end");
            })
            .await;
            play.end(again).await;
            assert_eq!(rows_of(&target), play.covered, "all rows in their order");
        });
        prop_assert_eq!(names(directory.path()), (vec![name.to_owned()], vec![]));
    }

    #[test]
    fn last_row_per_key_survives_crashes(
        script in script(25), is_file: bool, parallelism in 1usize..4, again: bool,
    ) {
        let directory = tempfile::tempdir().expect("a directory");
        let target = if is_file { directory.path().join("out.csv") } else { directory.path().to_path_buf() };
        let more = [("upsert_key", "k".into()), ("format", "csv".into())];
        run(async {
            let mut play = Play::open(&SINK, settings(&target, &more), parallelism).await;
            play.run(&script, |_| assert_eq!(names(directory.path()).0, [""; 0])).await;
            play.end(again).await;
            let last: BTreeMap<i64, i64> = play.covered.iter().map(|row| (key_of(*row), *row)).collect();
            assert_eq!(visible_rows(directory.path()), sorted(&last.into_values().collect::<Vec<_>>()));
        });
        prop_assert_eq!(names(directory.path()).1, Vec::<String>::new());
    }
}

/// A script of many small cuts, each with a row.
pub(super) fn small_cuts(count: usize) -> Vec<Step> {
    let cut = [Step::Write { subtask: 0, rows: 2 }, Step::Checkpoint { completes: true }];
    cut.iter().cycle().take(2 * count).cloned().collect()
}

#[test]
fn many_small_parts_are_put_together_and_old_checkpoints_stay_valid() {
    for name in ["out.csv", "out.json.gz", "out.parquet"] {
        let directory = tempfile::tempdir().expect("a directory");
        let target = directory.path().join(name);
        run(async {
            let mut play = Play::open(&SINK, settings(&target, &[]), 1).await;
            play.run(&small_cuts(5 * MERGED_PARTS), |_| {}).await;
            // The checkpoint before a merge can still be restored: a cut that merges and is never completed.
            let crash = Step::Crash { prepared: 1, at_end: false, how: Death::Killed, parallelism: 1 };
            for _ in 0..2 * MERGED_PARTS {
                play.run(&[Step::Write { subtask: 0, rows: 1 }, crash.clone()], |_| {}).await;
                play.run(&[Step::Checkpoint { completes: true }], |_| {}).await;
            }
            play.end(false).await;
            assert!(play.covered.len() > 10 * MERGED_PARTS);
            assert_eq!(rows_of(&target), play.covered, "all rows in their order");
        });
        assert_eq!(names(directory.path()), (vec![name.to_owned()], vec![]));
    }
}

#[test]
fn a12_publisher_that_dies_anywhere_is_followed_by_another() {
    for dies_after in 0..4 {
        let directory = tempfile::tempdir().expect("a directory");
        let target = directory.path().join("out.csv");
        run(async {
            let mut play = Play::open(&SINK, settings(&target, &[]), 1).await;
            play.run(&small_cuts(5), |_| {}).await;
            let hidden = |name: &str| directory.path().join(name);
            let output = play.prepare_end().await;
            let parts = names(directory.path()).1;
            assert_eq!(parts.len(), 5);
            let whole =
                hidden(&parts[0].replace("-0.inprogress", "-x.inprogress").replace("8bb39110-0", "8bb39110-whole-0"));
            // What a publisher leaves that dies: the whole half put together; or shown; or some parts removed as well.
            let all: String = parts.iter().map(|name| fs::read_to_string(hidden(name)).expect("reads")).collect();
            match dies_after {
                0 => fs::write(&whole, &all[..all.len() / 2]).expect("writes"),
                shown => {
                    fs::write(&target, &all).expect("writes");
                    parts[..shown - 1].iter().for_each(|name| fs::remove_file(hidden(name)).expect("removes"));
                }
            }
            play.publish_all(&output).await.expect("another publishes");
            play.publish_all(&output).await.expect("and again");
            assert_eq!(rows_of(&target), play.covered);
        });
        assert_eq!(names(directory.path()), (vec!["out.csv".to_owned()], vec![]), "after {dies_after}");
    }
}

#[test]
fn savepoint_still_holds_after_its_job_has_ended() {
    let files = [("out.csv", 1), ("out.csv", 4), ("out.json.gz", 3), ("out.parquet", 4)];
    for ((name, cuts), is_final) in files.iter().flat_map(|file| [(*file, false), (*file, true)]) {
        let directory = tempfile::tempdir().expect("a directory");
        let target = directory.path().join(name);
        run(async {
            let mut play = Play::open(&SINK, settings(&target, &[]), 1).await;
            play.run(&small_cuts(cuts), |_| {}).await;
            play.end_kept(is_final).await;
            assert_eq!(rows_of(&target), play.covered);
            assert_eq!(names(directory.path()).1.len(), cuts, "the savepoint counts on them");
            // The next job begins where the savepoint stands, and shows everything at its end.
            play.resume().await;
            play.run(&small_cuts(2), |_| {}).await;
            play.end(false).await;
            assert_eq!(rows_of(&target), play.covered, "all rows in their order");
        });
        assert_eq!(names(directory.path()), (vec![name.to_owned()], vec![]));
    }
}

#[test]
fn last_rows_go_on_from_a_savepoint_behind_which_the_input_ended() {
    for is_final in [false, true] {
        let directory = tempfile::tempdir().expect("a directory");
        let target = directory.path().join("out.csv");
        run(async {
            let mut play = Play::open(&SINK, settings(&target, &[("upsert_key", "k".into())]), 1).await;
            play.run(&small_cuts(1), |_| {}).await;
            play.end_kept(is_final).await;
            assert_eq!(visible_rows(directory.path()), sorted(&play.covered));
            play.resume().await;
            play.run(&small_cuts(3), |_| {}).await;
            play.end(false).await;
            let last: BTreeMap<i64, i64> = play.covered.iter().map(|row| (key_of(*row), *row)).collect();
            assert_eq!(visible_rows(directory.path()), sorted(&last.into_values().collect::<Vec<_>>()));
        });
    }
}

#[test]
fn parts_that_someone_removed_are_an_error_and_never_a_shorter_file() {
    for (name, removed) in [("out.csv", 0), ("out.csv", 3), ("out.parquet", 0), ("out.parquet", 4)] {
        let directory = tempfile::tempdir().expect("a directory");
        let target = directory.path().join(name);
        run(async {
            let mut play = Play::open(&SINK, settings(&target, &[]), 1).await;
            play.run(&small_cuts(5), |_| {}).await;
            let output = play.prepare_end().await;
            let parts = names(directory.path()).1;
            fs::remove_file(directory.path().join(&parts[removed])).expect("removes");
            let error = play.publish_all(&output).await.expect_err("a part is gone");
            assert_eq!(error.code, "sink-part-lost");
            assert!(error.message.contains(&parts[removed]), "{error}");
            assert!(!target.exists(), "nothing is shown");
            fs::remove_dir_all(directory.path()).expect("removes");
            let error = play.publish_all(&output).await.expect_err("the directory is gone");
            assert_eq!((error.code, error.domain), ("sink-part-lost", weir_core::ErrorDomain::External));
        });
    }
}

#[test]
fn only_dead_hidden_parts_of_the_same_job_and_sink_are_swept() {
    let directory = tempfile::tempdir().expect("a directory");
    let mark = "000000000000000000000000000000db-8bb39110";
    let (ours, newer) = (format!(".part-{mark}-2-1-1-7.csv"), format!(".part-{mark}-2-2-1-7.csv"));
    let foreign = [
        ".part-000000000000000000000000000000dc-8bb39110-2-1-1-7.csv".to_owned(),
        ".part-000000000000000000000000000000db-00000000-2-1-1-7.csv".to_owned(),
        ".hidden".to_owned(),
    ];
    let put = |name: &String| fs::write(directory.path().join(format!("{name}{IN_PROGRESS}")), "x").expect("writes");
    [&[ours, newer.clone()], &foreign[..]].concat().iter().for_each(put);
    run(async {
        let map = settings(directory.path(), &[("format", "csv".into())]);
        let mut play = Play::open(&SINK, map, 1).await;
        let crash = Step::Crash { prepared: 0, at_end: false, how: Death::Killed, parallelism: 1 };
        play.run(&[Step::Write { subtask: 0, rows: 1 }, Step::Checkpoint { completes: true }, crash], |_| {}).await;
        play.end(false).await;
    });
    let (visible, hidden) = names(directory.path());
    assert_eq!(visible.len(), 1);
    let mut kept: Vec<_> =
        [&[newer], &foreign[..]].concat().iter().map(|name| format!("{name}{IN_PROGRESS}")).collect();
    kept.sort();
    assert_eq!(hidden, kept);
}

/// Scripts that end with a cancel leave what a checkpoint that is kept counts on, and nothing else; of others nothing.
pub(super) async fn cancelled(play: &mut Play<'_>, script: &[Step], (how, keeps): (Death, bool)) {
    play.run(script, |_| {}).await;
    play.cancel(how, keeps).await;
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(100))]
    #[test]
    fn cancelled_jobs_leave_nothing_but_what_a_kept_checkpoint_counts_on(
        script in script(20),
        how in prop_oneof![Just(Death::Killed), Just(Death::Cancelled)],
        keeps: bool,
        is_file: bool,
        parallelism in 1usize..4,
    ) {
        // One that was given up may write what nobody sees to; it is no longer there.
        let script: Vec<Step> = script.into_iter().filter(|step| !matches!(step, Step::Zombie { .. })).collect();
        let directory = tempfile::tempdir().expect("a directory");
        let foreign = ".part-000000000000000000000000000000dc-8bb39110-0-1-1-0.csv.inprogress";
        fs::write(directory.path().join(foreign), "x").expect("writes");
        let target = if is_file { directory.path().join("out.csv") } else { directory.path().to_path_buf() };
        run(async {
            let mut play = Play::open(&SINK, settings(&target, &[("format", "csv".into())]), parallelism).await;
            cancelled(&mut play, &script, (how, keeps)).await;
            let (visible, hidden) = names(directory.path());
            let hidden: Vec<_> = hidden.into_iter().filter(|name| name != foreign).collect();
            if is_file {
                assert_eq!(visible, [""; 0], "nothing is shown");
                assert!(keeps || hidden.is_empty(), "{hidden:?}");
            } else {
                assert_eq!(visible_rows(directory.path()), sorted(&play.covered), "what was completed is shown");
                assert_eq!(hidden, [""; 0]);
            }
            if keeps {
                // The checkpoint still holds.
                play.resume().await;
                play.end(false).await;
                assert_eq!(visible_rows(directory.path()), sorted(&play.covered));
            }
        });
        let (_, hidden) = names(directory.path());
        prop_assert_eq!(hidden, [foreign], "nothing of another job is touched");
    }
}

#[test]
fn every_format_rolls_by_size_and_by_time() {
    let write = Step::Write { subtask: 0, rows: 2 };
    let apart = vec![write.clone(), write.clone(), Step::Wait, write.clone(), Step::Wait, write.clone()];
    let together = vec![write; 6];
    for (format, compression) in [("csv", "none"), ("json", "zstd"), ("csv", "gzip"), ("parquet", "zstd")] {
        // Two rows have 8 bytes as CSV, with a header of 4, and 28 as JSON; in memory they have 32 and more.
        let by_size = ("roll_bytes", Value::Integer(if format == "csv" { 9 } else { 20 }));
        let cases = [
            (by_size.clone(), &together, vec![2, 2, 2, 2, 2, 2]),
            (("roll_bytes", Value::Integer(1 << 30)), &together, vec![12]),
            (("roll_interval", Value::from("10 s")), &apart, vec![4, 2, 2]),
            (("roll_interval", Value::from("1 h")), &apart, vec![8]),
        ];
        for (roll, script, expected) in cases {
            let directory = tempfile::tempdir().expect("a directory");
            let more = [("format", format.into()), ("compression", compression.into()), roll.clone()];
            run(async {
                let mut play = Play::open(&SINK, settings(directory.path(), &more), 1).await;
                play.run(script, |_| {}).await;
                play.end(false).await;
                assert_eq!(visible_rows(directory.path()), sorted(&play.covered));
            });
            // By the number at the end of the name.
            let parts = names(directory.path()).0;
            let rows: Vec<usize> = parts.iter().map(|name| rows_of(&directory.path().join(name)).len()).collect();
            assert_eq!(rows, expected, "{format} {compression} {roll:?}");
        }
    }
}
