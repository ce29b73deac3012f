//! A restored job reads files on where it stood, in any format and compression; a file that is another one is told.

use std::io::Write;
use std::path::Path;

use proptest::prelude::*;
use weir_core::Value;
use weir_operator_api::{OperatorError, SourceFactory, Split};

use super::FileSource;
use crate::source_contract::{Fields, Given, Leg, check, context, read, resume};

fn run<T>(work: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread().build().expect("a runtime").block_on(work)
}

fn settings(path: &Path, more: &[(&str, Value)]) -> Fields {
    let mut map = Fields::from([
        ("path".to_owned(), Value::from(path.to_str().expect("UTF-8"))),
        ("schema".to_owned(), Value::from(vec![Value::from("n BIGINT NOT NULL"), Value::from("s STRING")])),
    ]);
    map.extend(more.iter().map(|(name, value)| ((*name).to_owned(), value.clone())));
    map
}

async fn splits(settings: &Fields, parallelism: u32) -> Vec<Split> {
    FileSource.enumerate(&"source".into(), settings, parallelism).await.expect("lists")
}

fn compressed(text: &[u8], ending: &str) -> Vec<u8> {
    match ending {
        ".gz" => {
            // Two members, as if two files had been put together.
            let member = |text: &[u8]| {
                let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
                encoder.write_all(text).expect("compresses");
                encoder.finish().expect("compresses")
            };
            let (front, back) = text.split_at(text.len() / 3);
            [member(front), member(back)].concat()
        }
        ".zst" => zstd::encode_all(text, 1).expect("compresses"),
        _ => text.to_vec(),
    }
}

/// One line of a file: good, bad, blank, too long, or with a line end inside quotes.
fn record(format: &str, n: usize, kind: u8, len: usize) -> String {
    let text = "x".repeat(len);
    match (format, kind) {
        (_, 0) => "broken\n".to_owned(),
        (_, 1) => "\n".to_owned(),
        ("json", 2) => format!("{{\"n\":{n},\"s\":\"{}\"}}\n", "y".repeat(300 + 200 * len)),
        ("json", _) => format!("{{\"n\":{n},\"s\":\"{text}\"}}\r\n"),
        ("csv", 2) => format!("{n},{}\n", "y".repeat(300 + 200 * len)),
        ("csv", _) => format!("{n},{text}\n"),
        (_, 2) => format!("{n},\"{text}\n\"\"{text}\"\n"),
        (_, _) => format!("{n},\"{text}\"\r\n"),
    }
}

fn leg() -> impl Strategy<Value = Leg> {
    let rows = prop_oneof![Just(1usize), 2usize..20, Just(1_000)];
    (1usize..4, rows, 0usize..60).prop_map(|(parallelism, batch_rows, events)| Leg { parallelism, batch_rows, events })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(120))]
    #[test]
    fn restored_readers_go_on_where_the_old_ones_stood(
        format in prop_oneof![Just("json"), Just("csv"), Just("quoted")],
        ending in prop_oneof![Just(""), Just(""), Just(".gz"), Just(".zst")],
        files in proptest::collection::vec(proptest::collection::vec((0u8..9, 0usize..60), 0..150), 1..4),
        (is_marked, has_header, is_open) in (any::<bool>(), any::<bool>(), any::<bool>()),
        speed in 0usize..4,
        parallelism in 1u32..4,
        legs in proptest::collection::vec(leg(), 0..5),
    ) {
        let directory = tempfile::tempdir().expect("a directory");
        let extension = if format == "json" { "json" } else { "csv" };
        for (index, records) in files.iter().enumerate() {
            let mut text = if is_marked { "\u{feff}".to_owned() } else { String::new() };
            if format != "json" && has_header {
                text.push_str(if format == "csv" { "n,s\n" } else { "\"n\",\"s\"\r\n" });
            }
            let records = records.iter().enumerate();
            records.for_each(|(n, (kind, len))| text.push_str(&record(format, n, *kind, *len)));
            if is_open && text.ends_with('\n') {
                text.pop();
            }
            let path = directory.path().join(format!("{index}.{extension}{ending}"));
            std::fs::write(path, compressed(text.as_bytes(), ending)).expect("writes");
        }
        let pace = |speedup| Value::from([("event_time", "n".into()), ("speedup", Value::Float(speedup))]);
        let mut more = vec![("format", Value::from(extension)), ("split_bytes", Value::Integer(1024))];
        match speed {
            0 => {}
            1 => more.push(("rate", Value::Integer(1_000))),
            2 => more.push(("rate", Value::Integer(100))),
            _ => more.push(("pace", pace(0.1))),
        }
        if format != "json" {
            more.extend([("header", has_header.into()), ("quoted_newlines", (format == "quoted").into())]);
        }
        if format != "quoted" {
            more.push(("max_line_bytes", Value::Integer(200)));
        }
        let settings = settings(directory.path(), &more);
        run(async { check(&FileSource, &settings, splits(&settings, parallelism).await, None, &legs).await });
    }
}

fn lines(numbers: std::ops::Range<i64>) -> String {
    numbers.map(|n| format!("{{\"n\":{n},\"s\":\"text\"}}\n")).collect()
}

/// Reads `events` events of a file, puts another text into it, and goes on.
fn reread(name: &str, events: usize, rate: i64, text: &str) -> Result<Given, OperatorError> {
    let directory = tempfile::tempdir().expect("a directory");
    let path = directory.path().join(name);
    let ending = path.extension().map(|ending| format!(".{}", ending.to_str().expect("UTF-8"))).unwrap_or_default();
    std::fs::write(&path, compressed(lines(0..2_000).as_bytes(), &ending)).expect("writes");
    let settings = settings(&path, &[("rate", Value::Integer(rate))]);
    run(async {
        let all = splits(&settings, 1).await;
        let mut given = Given::default();
        let mut reader = FileSource.reader(context(&settings, all.clone(), 1, 100)).await?;
        read(reader.as_mut(), events, &mut given).await?;
        let open = resume(&all, reader.positions()?);
        std::fs::write(&path, compressed(text.as_bytes(), &ending)).expect("writes");
        let mut reader = FileSource.reader(context(&settings, open, 1, 100)).await?;
        read(reader.as_mut(), usize::MAX, &mut given).await?;
        Ok(given)
    })
}

#[test]
fn another_file_under_the_old_name_is_an_error_that_names_it() {
    for name in ["a.json", "a.json.gz", "a.json.zst"] {
        for (events, rate) in [(10, 0), (2, 1_000)] {
            let is_changed = |text: &str| {
                let error = reread(name, events, rate, text).expect_err("the file changed");
                assert!(error.code == "file-changed" && error.message.contains(name), "{name} {events}: {error}");
            };
            is_changed(&lines(0..300));
            is_changed("");
            is_changed(&lines(10_000..14_000));
        }
    }
}

#[test]
fn touched_or_grown_file_is_the_same_file() {
    for name in ["a.json", "a.json.gz"] {
        for (events, rate) in [(10, 0), (2, 1_000), (0, 0)] {
            let rows = |given: Given| given.rows.values().map(Vec::len).sum::<usize>();
            assert_eq!(rows(reread(name, events, rate, &lines(0..2_000)).expect("the same file")), 2_000);
            assert_eq!(rows(reread(name, events, rate, &lines(0..2_500)).expect("a grown file")), 2_500);
        }
    }
}
