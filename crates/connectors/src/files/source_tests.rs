//! The file source as a whole: what is read from which files, however they are cut, compressed or broken.

use std::collections::BTreeMap;
use std::io::Write;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use arrow_array::RecordBatch;
use arrow_array::cast::AsArray;
use arrow_array::types::Int64Type;
use expect_test::{Expect, expect};
use proptest::prelude::*;
use weir_core::{Clock, OperatorUid, Settings, SplitIndex, SubtaskIndex, Value};
use weir_operator_api::{BadRecord, ReaderContext, Result, SourceEvent, SourceFactory, Split, SystemClock};

use super::FileSource;
use crate::source_contract::SleepClock;

type Map = BTreeMap<String, Value>;

fn settings(path: &Path, more: &[(&str, Value)]) -> Map {
    let mut map = BTreeMap::from([
        ("path".to_owned(), Value::from(path.to_str().expect("UTF-8"))),
        ("schema".to_owned(), Value::from(vec![Value::from("n BIGINT NOT NULL"), Value::from("s STRING")])),
    ]);
    map.extend(more.iter().map(|(name, value)| ((*name).to_owned(), value.clone())));
    map
}

fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_current_thread().enable_time().build().expect("a runtime")
}

fn context(settings: &Map, splits: Vec<Split>, batch_rows: usize) -> ReaderContext {
    ReaderContext {
        uid: OperatorUid::from("in"),
        settings: settings.clone(),
        subtask: SubtaskIndex(0),
        parallelism: 1,
        split_count: splits.len() as u32,
        splits,
        projection: None,
        batch_rows,
        flush_interval: Duration::from_millis(5),
        clock: Arc::new(SystemClock::default()),
    }
}

async fn splits(settings: &Map, parallelism: u32) -> Result<Vec<Split>> {
    FileSource.enumerate(&OperatorUid::from("in"), settings, parallelism).await
}

/// Everything a reader of all splits gives.
#[derive(Default, Debug)]
struct Read {
    batches: Vec<(SplitIndex, RecordBatch)>,
    bad: Vec<BadRecord>,
    finished: Vec<SplitIndex>,
}

impl Read {
    fn numbers(&self) -> Vec<i64> {
        let columns = self.batches.iter().map(|(_, rows)| rows.column(0).as_primitive::<Int64Type>());
        columns.flat_map(|column| column.values().to_vec()).collect()
    }
}

async fn read_splits(settings: &Map, splits: Vec<Split>, batch_rows: usize) -> Result<Read> {
    read_context(context(settings, splits, batch_rows)).await
}

async fn read_context(context: ReaderContext) -> Result<Read> {
    let batch_rows = context.batch_rows;
    let mut reader = FileSource.reader(context).await?;
    let mut read = Read::default();
    loop {
        match reader.next().await? {
            SourceEvent::Batch(batch) => {
                assert!(batch.num_rows() > 0 && batch.num_rows() <= batch_rows && batch.origin_us > 0);
                read.batches.push((batch.split.expect("a split"), batch.records));
            }
            SourceEvent::Bad(bad) => read.bad.extend(bad),
            SourceEvent::SplitFinished(index) => read.finished.push(index),
            SourceEvent::EndOfInput => return Ok(read),
        }
    }
}

fn read_all(settings: &Map, parallelism: u32) -> Result<Read> {
    runtime().block_on(async {
        let splits = splits(settings, parallelism).await?;
        let read = read_splits(settings, splits.clone(), 3).await?;
        assert_eq!(read.finished, splits.iter().map(|split| split.index).collect::<Vec<_>>());
        Ok(read)
    })
}

fn lines(numbers: std::ops::Range<i64>) -> String {
    numbers.map(|n| format!("{{\"n\":{n},\"s\":\"{}\"}}\n", "x".repeat((n % 7) as usize))).collect()
}

fn gzip(text: &str) -> Vec<u8> {
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    encoder.write_all(text.as_bytes()).expect("compresses");
    encoder.finish().expect("compresses")
}

#[test]
fn directory_is_read_in_order_of_names_whatever_the_compression() {
    let directory = tempfile::tempdir().expect("a directory");
    let put = |name: &str, bytes: &[u8]| std::fs::write(directory.path().join(name), bytes).expect("writes");
    put("a.json", lines(0..4).trim_end().as_bytes());
    put("b.json.gz", &[gzip(&lines(4..6)), gzip(&lines(6..9))].concat());
    put("c.json.zst", &zstd::encode_all(lines(9..12).as_bytes(), 1).expect("compresses"));
    put("d.json", b"");
    put(".hidden.json", b"broken");
    put("e.json.inprogress", b"broken");
    std::fs::create_dir(directory.path().join("deeper")).expect("a directory");
    let read = read_all(&settings(directory.path(), &[("format", "json".into())]), 1).expect("reads");
    assert_eq!(read.numbers(), (0..12).collect::<Vec<_>>());
    assert_eq!(read.finished.len(), 4);
    let pattern = settings(&directory.path().join("*.json.*z*"), &[("format", "json".into())]);
    assert_eq!(read_all(&pattern, 1).expect("reads").numbers(), (4..12).collect::<Vec<_>>());
}

#[test]
fn missing_files_are_told_by_name() {
    let directory = tempfile::tempdir().expect("a directory");
    let check = |path: &str, expected: Expect| {
        let error = read_all(&settings(&directory.path().join(path), &[("format", "json".into())]), 1);
        let error = error.expect_err("nothing to read");
        let text = error.message.replace(directory.path().to_str().expect("UTF-8"), "DIR");
        expected.assert_eq(&format!("{}: {text}", error.code));
    };
    check("no.json", expect!["file-not-found: 'DIR/no.json' does not exist"]);
    check("*.json", expect!["file-not-found: 'DIR/*.json' matches no file"]);
    check("no/*.json", expect!["file-not-found: 'DIR/no' does not exist"]);
    check("", expect!["file-not-found: 'DIR/' is a directory without files to read"]);
}

#[test]
fn truncated_compression_is_an_error_not_an_end() {
    let directory = tempfile::tempdir().expect("a directory");
    for (name, bytes) in [
        ("a.json.gz", gzip(&lines(0..2000))),
        ("a.json.zst", zstd::encode_all(lines(0..2000).as_bytes(), 1).expect("compresses")),
    ] {
        let path = directory.path().join(name);
        std::fs::write(&path, &bytes[..bytes.len() - 9]).expect("writes");
        let error = read_all(&settings(&path, &[]), 1).expect_err("truncated");
        assert_eq!(error.code, "file-read");
        assert!(error.message.contains(name) && error.message.contains("in the middle"), "{error}");
    }
}

#[test]
fn bad_lines_carry_file_and_place() {
    let directory = tempfile::tempdir().expect("a directory");
    let path = directory.path().join("a.json");
    let long = format!("{{\"n\":5,\"s\":\"{}\"}}", "y".repeat(200));
    std::fs::write(&path, format!("\u{feff}{}\r\n\nbroken\n{long}\n{}", lines(0..1).trim_end(), lines(1..2)))
        .expect("writes");
    let read = read_all(&settings(&path, &[("max_line_bytes", Value::Integer(100))]), 1).expect("reads");
    assert_eq!(read.numbers(), [0, 1]);
    let bad: Vec<_> = read.bad.iter().map(|bad| (bad.code, bad.position, bad.message.as_str())).collect();
    assert_eq!(
        bad,
        [
            ("bad-record-json", Some(3), "line 3: byte 1: expected an object"),
            ("bad-record-too-long", Some(4), "line 4: the line has 214 bytes, more than 100 (max_line_bytes)"),
        ]
    );
    assert_eq!(read.bad[0].source.as_deref(), path.to_str());
    assert_eq!(read.bad[0].original.as_deref(), Some("broken"));

    std::fs::write(&path, format!("{}broken\n{}", lines(0..500), lines(500..1000))).expect("writes");
    let cut = settings(&path, &[("split_bytes", Value::Integer(2048))]);
    let read = read_all(&cut, 1).expect("reads");
    assert_eq!(read.numbers(), (0..1000).collect::<Vec<_>>());
    let offset = lines(0..500).len() as i64;
    assert_eq!(read.bad[0].position, Some(offset));
    assert_eq!(read.bad[0].message, format!("line at byte offset {offset}: byte 1: expected an object"));
}

#[test]
fn line_longer_than_memory_allows_is_skipped_whole() {
    let directory = tempfile::tempdir().expect("a directory");
    let path = directory.path().join("a.json");
    let text = format!("{}{}\n{}broken", lines(0..3), "z".repeat(3_500_000), lines(3..6));
    std::fs::write(&path, &text).expect("writes");
    let read = read_all(&settings(&path, &[("max_line_bytes", Value::Integer(1000))]), 1).expect("reads");
    assert_eq!(read.numbers(), (0..6).collect::<Vec<_>>());
    let bad: Vec<_> = read.bad.iter().map(|bad| (bad.code, bad.position)).collect();
    assert_eq!(bad, [("bad-record-too-long", Some(4)), ("bad-record-json", Some(8))]);
    assert!(read.bad[0].message.contains("3500000 bytes"), "{}", read.bad[0].message);
    assert!(read.bad[0].original.as_ref().is_some_and(|text| text.len() < 70_000));
}

#[test]
fn csv_is_cut_only_where_quotes_cannot_hide_line_ends() {
    let directory = tempfile::tempdir().expect("a directory");
    let path = directory.path().join("a.csv");
    let rows: String = (0..400).map(|n| format!("\"text\n{n}\",{n}\n")).collect();
    std::fs::write(&path, format!("s,n\n{rows}")).expect("writes");
    let size = ("split_bytes", Value::Integer(1024));
    let whole = read_all(&settings(&path, std::slice::from_ref(&size)), 4).expect("reads");
    assert_eq!((whole.numbers(), whole.finished.len()), ((0..400).collect::<Vec<_>>(), 1));

    let rows: String = (0..400).map(|n| format!("text {n},{n}\n")).collect();
    std::fs::write(&path, format!("s,n\n{rows}")).expect("writes");
    let cut = read_all(&settings(&path, &[size, ("quoted_newlines", false.into())]), 4).expect("reads");
    assert_eq!(cut.numbers(), (0..400).collect::<Vec<_>>());
    assert!(cut.finished.len() > 3);

    std::fs::write(&path, "s,m\n").expect("writes");
    let error = read_all(&settings(&path, &[]), 1).expect_err("a column is missing");
    assert_eq!(error.code, "file-header");
    assert!(error.message.ends_with("a.csv': the header has no column 'n'; it has s, m"), "{error}");
}

#[test]
fn splits_that_follow_in_time_hold_only_when_they_begin() {
    let directory = tempfile::tempdir().expect("a directory");
    for name in ["a.json", "b.json"] {
        std::fs::write(directory.path().join(name), lines(0..1)).expect("writes");
    }
    let held = |more: &[(&str, Value)]| {
        let settings = settings(directory.path(), &[&[("format", Value::from("json"))], more].concat());
        runtime().block_on(async {
            let splits = splits(&settings, 1).await.expect("lists");
            let reader = FileSource.reader(context(&settings, splits.clone(), 10)).await.expect("opens");
            splits.iter().map(|split| reader.holds_watermark(split)).collect::<Vec<_>>()
        })
    };
    assert_eq!(held(&[]), [true, true]);
    assert_eq!(held(&[("time_ordered", true.into())]), [true, false]);
}

#[test]
fn dropped_calls_lose_no_row() {
    let directory = tempfile::tempdir().expect("a directory");
    let path = directory.path().join("a.json");
    std::fs::write(&path, lines(0..50_000)).expect("writes");
    let settings = settings(&path, &[]);
    let runtime = tokio::runtime::Builder::new_current_thread().max_blocking_threads(1).build().expect("a runtime");
    runtime.block_on(async {
        let splits = splits(&settings, 1).await.expect("lists");
        let mut reader = FileSource.reader(context(&settings, splits, 1000)).await.expect("opens");
        // The only thread that may block is held until a call was dropped, so at least one is.
        let (release, held) = std::sync::mpsc::sync_channel::<()>(1);
        let holder = tokio::task::spawn_blocking(move || held.recv());
        let (mut rows, mut dropped) = (0, 0);
        loop {
            let event = tokio::select! {
                biased;
                event = reader.next() => event.expect("reads"),
                () = std::future::ready(()) => {
                    dropped += 1;
                    release.send(()).ok();
                    tokio::task::yield_now().await;
                    continue;
                }
            };
            match event {
                SourceEvent::Batch(batch) => rows += batch.num_rows(),
                SourceEvent::EndOfInput => break,
                _ => {}
            }
        }
        assert_eq!(rows, 50_000);
        assert!(dropped > 0, "the test must have dropped a call");
        holder.await.expect("ends").ok();
    });
}

/// Reads a file of 100 rows with a clock of its own: rows per batch, and the time when it ended.
fn read_paced(more: &[(&str, Value)]) -> (Vec<usize>, Duration) {
    let directory = tempfile::tempdir().expect("a directory");
    let path = directory.path().join("a.json");
    std::fs::write(&path, lines(0..100)).expect("writes");
    let settings = settings(&path, more);
    let clock = Arc::new(SleepClock::default());
    let read = runtime().block_on(async {
        let splits = splits(&settings, 1).await.expect("lists");
        let mut context = context(&settings, splits, 1000);
        context.clock = Arc::<SleepClock>::clone(&clock);
        read_context(context).await.expect("reads")
    });
    assert_eq!(read.numbers(), (0..100).collect::<Vec<_>>());
    (read.batches.iter().map(|(_, rows)| rows.num_rows()).collect(), clock.monotonic())
}

#[test]
fn rate_and_event_time_hold_rows_back() {
    let (rows, end) = read_paced(&[]);
    assert_eq!((rows, end), (vec![100], Duration::ZERO));
    let (rows, end) = read_paced(&[("rate", Value::Integer(1000))]);
    assert!(rows.len() >= 16 && rows.iter().all(|rows| *rows <= 6), "{rows:?}");
    assert!((99..101).contains(&end.as_millis()), "{end:?}");
    // Row n has event time n ms: at a tenth of its speed each row comes alone, 10 ms after the one before.
    let pace = Value::from([("event_time", "n".into()), ("speedup", Value::Float(0.1))]);
    let (rows, end) = read_paced(&[("pace", pace)]);
    assert_eq!(rows, [1; 100]);
    assert!((990..992).contains(&end.as_millis()), "{end:?}");
}

#[test]
fn all_wrong_settings_are_told_at_once() {
    let map = BTreeMap::from([
        ("path".to_owned(), Value::from("dir*/x.txt")),
        ("format".to_owned(), Value::from("jsn")),
        ("delimiter".to_owned(), Value::from("::")),
        (
            "schema".to_owned(),
            Value::from(vec![
                Value::from([("n", "BIGNT".into())]),
                Value::from("a STRING"),
                Value::from([("name", "a".into()), ("type", "INT".into())]),
                Value::from("alone"),
            ]),
        ),
        ("pace".to_owned(), Value::from([("event_time", "t".into()), ("speed", Value::Integer(1))])),
        ("split_bytes".to_owned(), Value::Integer(1)),
        ("compresion".to_owned(), Value::from("gzip")),
    ]);
    let settings = Settings::new("in", &map);
    assert!(FileSource.describe(&settings).is_none());
    let problems: Vec<_> = settings.finish().iter().map(ToString::to_string).collect();
    expect![[r#"
        operator 'in', path: 'dir*/x.txt': '*' may only stand in the last part of a path
        operator 'in', schema[0]: 'BIGNT' is not a column type; known are BOOLEAN, TINYINT, SMALLINT, INT, BIGINT, FLOAT, DOUBLE, DECIMAL(p,s), STRING, BYTES, DATE, TIMESTAMP(p), ARRAY<t>, ROW<name t, ...>
        operator 'in', schema[2]: the column 'a' is declared twice
        operator 'in', schema[3]: expected a column as 'name TYPE' or {name: .., type: ..}, found "alone"
        operator 'in', format: 'jsn' is not one of json, csv; did you mean 'json'?
        operator 'in', split_bytes: expected a whole number from 1024 to 9223372036854775807, found a whole number: 1
        operator 'in', pace.speed: unknown field; known here: event_time, speedup; did you mean 'speedup'?
        operator 'in', compresion: unknown field; known here: compression, delimiter, format, header, max_line_bytes, null, pace, path, quoted_newlines, rate, schema, split_bytes, time_ordered; did you mean 'compression'?
    "#]]
    .assert_eq(&(problems.join("\n") + "\n"));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(40))]
    #[test]
    fn any_cut_gives_each_record_once(
        texts in proptest::collection::vec("[a-z]{0,40}", 0..40),
        cuts in proptest::collection::btree_set(1i64..1500, 0..6),
        ending in prop_oneof![Just("\n"), Just("\r\n"), Just("\n\n")],
        closed: bool,
    ) {
        let directory = tempfile::tempdir().expect("a directory");
        let path = directory.path().join("a.json");
        let rows = texts.iter().enumerate().map(|(n, text)| format!("{{\"n\":{n},\"s\":\"{text}\"}}"));
        let mut text = rows.collect::<Vec<_>>().join(ending);
        if closed {
            text.push_str(ending);
        }
        std::fs::write(&path, &text).expect("writes");
        let cuts: Vec<i64> = cuts.into_iter().filter(|cut| *cut < text.len() as i64).collect();
        let starts = [&[0], cuts.as_slice()].concat();
        let splits = starts.iter().enumerate().map(|(index, start)| {
            let mut description = BTreeMap::from([
                ("path".to_owned(), Value::from(path.to_str().expect("UTF-8"))),
                ("start".to_owned(), Value::Integer(*start)),
            ]);
            if let Some(end) = starts.get(index + 1) {
                description.insert("end".to_owned(), Value::Integer(*end));
            }
            Split { index: SplitIndex(index as u32), description: Value::Map(description), position: None }
        });
        let read = runtime().block_on(read_splits(&settings(&path, &[]), splits.collect(), 7)).expect("reads");
        prop_assert_eq!(read.numbers(), (0..texts.len() as i64).collect::<Vec<_>>());
        prop_assert_eq!(read.bad, vec![]);
        prop_assert_eq!(read.finished.len(), starts.len());
    }
}
