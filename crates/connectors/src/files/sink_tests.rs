//! The contract of sink writers and committers, and what the files hold in the end.

use std::collections::BTreeMap;
use std::io::Read;
use std::path::Path;
use std::sync::Arc;

use arrow_array::{ArrayRef, Float64Array, Int8Array, RecordBatch, StringArray};
use arrow_schema::{DataType, Field, Schema, SchemaRef};
use expect_test::expect;
use weir_core::batch::change_field;
use weir_core::{
    AttemptNumber, Batch, CheckpointId, FencingToken, JobId, KeyGroupRange, OperatorUid, Settings, SubtaskIndex, Value,
};
use weir_operator_api::sink::SinkCommitter;
use weir_operator_api::{Committable, Cut, SinkContext, SinkFactory, SinkWriter, SystemClock};

use super::FileSink;

/// The sink under test.
static SINK: FileSink = FileSink::new();

type Map = BTreeMap<String, Value>;

fn plain_schema() -> SchemaRef {
    Arc::new(Schema::new(vec![Field::new("k", DataType::Utf8, true), Field::new("v", DataType::Float64, true)]))
}

fn changing_schema() -> SchemaRef {
    let mut fields: Vec<_> = plain_schema().fields().iter().map(|field| field.as_ref().clone()).collect();
    fields.push(change_field());
    Arc::new(Schema::new(fields))
}

fn rows(rows: &[(i8, &str, f64)], schema: SchemaRef) -> Batch {
    let mut columns: Vec<ArrayRef> = vec![
        Arc::new(StringArray::from_iter_values(rows.iter().map(|row| row.1))),
        Arc::new(Float64Array::from_iter_values(rows.iter().map(|row| row.2))),
    ];
    if schema.fields().len() == 3 {
        columns.push(Arc::new(Int8Array::from_iter_values(rows.iter().map(|row| row.0))));
    }
    Batch::new(RecordBatch::try_new(schema, columns).expect("fits"), 0)
}

fn settings(path: &Path, more: &[(&str, Value)]) -> Map {
    let mut map = BTreeMap::from([("path".to_owned(), Value::from(path.to_str().expect("UTF-8")))]);
    map.extend(more.iter().map(|(name, value)| ((*name).to_owned(), value.clone())));
    map
}

fn context(settings: &Map, input: SchemaRef, subtask: u32) -> SinkContext {
    SinkContext {
        job: JobId(0xdb),
        job_name: "job".to_owned(),
        uid: OperatorUid::from("out"),
        settings: settings.clone(),
        subtask: SubtaskIndex(subtask),
        parallelism: 2,
        key_group_count: 128,
        key_groups: KeyGroupRange::of_subtask(subtask, 2, 128),
        input,
        token: FencingToken { term: 1, attempt: AttemptNumber(1) },
        restored: Vec::new(),
        clock: Arc::new(SystemClock::default()),
    }
}

async fn writer(settings: &Map, input: SchemaRef) -> Box<dyn SinkWriter> {
    SINK.writer(context(settings, input, 0)).await.expect("opens")
}

async fn committer() -> Box<dyn SinkCommitter> {
    SINK.committer(&Map::new()).await.expect("opens")
}

fn run<T>(work: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread().build().expect("a runtime").block_on(work)
}

/// All files below a directory with their contents, hidden ones too.
fn files(directory: &Path) -> Vec<(String, String)> {
    let mut found: Vec<_> = std::fs::read_dir(directory)
        .expect("lists")
        .map(|entry| {
            let path = entry.expect("lists").path();
            let name = path.file_name().expect("a name").to_string_lossy().into_owned();
            (name, String::from_utf8_lossy(&std::fs::read(&path).expect("reads")).into_owned())
        })
        .collect();
    found.sort();
    found
}

async fn write_and_prepare(settings: &Map, batches: Vec<Batch>) -> Vec<Committable> {
    let mut writer = writer(settings, batches[0].records.schema()).await;
    for batch in batches {
        assert_eq!(writer.write(batch).await.expect("writes"), vec![]);
    }
    writer.prepare(Cut::End).await.expect("prepares").committables
}

#[test]
fn nothing_is_visible_before_publish_and_publishing_twice_changes_nothing() {
    let directory = tempfile::tempdir().expect("a directory");
    let target = directory.path().join("deep/er/out.csv");
    let more = [("format", "csv".into())];
    run(async {
        let batches = vec![rows(&[(0, "a,\"b\"", 38000.0)], plain_schema()), rows(&[(0, "c", 0.5)], plain_schema())];
        let committables = write_and_prepare(&settings(&target, &more), batches).await;
        let parent = target.parent().expect("a parent");
        assert_eq!(
            files(parent).iter().map(|file| file.0.as_str()).collect::<Vec<_>>(),
            [".out.csv.000000000000000000000000000000db-8bb39110-0-1-1-0.inprogress"]
        );
        let mut committer = committer().await;
        let expected = vec![("out.csv".to_owned(), "k,v\n\"a,\"\"b\"\"\",38000.0\nc,0.5\n".to_owned())];
        for _ in 0..2 {
            committer.publish(committables.clone()).await.expect("publishes");
            assert_eq!(files(parent), expected);
        }
        committer.discard(committables.clone()).await.expect("discards what is gone");
        assert_eq!(files(parent), expected, "published files are not discarded");
        std::fs::remove_file(&target).expect("removes");
        let error = committer.publish(committables).await.expect_err("both are gone");
        assert_eq!(error.code, "sink-part-lost");
    });
}

#[test]
fn publishing_replaces_an_older_file() {
    let directory = tempfile::tempdir().expect("a directory");
    let target = directory.path().join("out.json");
    std::fs::write(&target, "old").expect("writes");
    run(async {
        let committables =
            write_and_prepare(&settings(&target, &[]), vec![rows(&[(0, "a", 1.0)], plain_schema())]).await;
        assert_eq!(std::fs::read_to_string(&target).expect("reads"), "old");
        committer().await.publish(committables).await.expect("publishes");
    });
    assert_eq!(files(directory.path()), [("out.json".to_owned(), "{\"k\":\"a\",\"v\":1.0}\n".to_owned())]);
}

#[test]
fn abort_and_discard_leave_nothing() {
    let directory = tempfile::tempdir().expect("a directory");
    let parts =
        settings(&directory.path().join("parts"), &[("format", "json".into()), ("roll_bytes", Value::Integer(10))]);
    run(async {
        let mut writer = writer(&parts, plain_schema()).await;
        let mut committables = Vec::new();
        for prepares in [false, true] {
            for _ in 0..3 {
                writer.write(rows(&[(0, "a", 1.0)], plain_schema())).await.expect("writes");
            }
            if !prepares {
                let prepared = writer.prepare(Cut::Checkpoint(CheckpointId(1))).await.expect("prepares");
                committables = prepared.committables;
            }
        }
        assert_eq!(files(&directory.path().join("parts")).len(), 6);
        writer.abort().await;
        assert_eq!(files(&directory.path().join("parts")).len(), 3, "what was prepared is left alone");
        committer().await.discard(committables).await.expect("discards");
        assert_eq!(files(&directory.path().join("parts")), []);
    });
}

#[test]
fn directory_gets_rolled_parts_named_after_job_and_subtask() {
    let directory = tempfile::tempdir().expect("a directory");
    let map = settings(directory.path(), &[("format", "csv".into()), ("roll_bytes", Value::Integer(14))]);
    run(async {
        let batches = (0..3).map(|n| rows(&[(0, "abc", f64::from(n))], plain_schema())).collect();
        let committables = write_and_prepare(&map, batches).await;
        committer().await.publish(committables).await.expect("publishes");
    });
    let job = "000000000000000000000000000000db";
    let names: Vec<_> = files(directory.path()).into_iter().collect();
    let expected = [
        (format!("part-{job}-8bb39110-0-1-1-0.csv"), "k,v\nabc,0.0\nabc,1.0\n".to_owned()),
        (format!("part-{job}-8bb39110-0-1-1-1.csv"), "k,v\nabc,2.0\n".to_owned()),
    ];
    assert_eq!(names, expected);
}

#[test]
fn empty_result_still_writes_its_file() {
    let directory = tempfile::tempdir().expect("a directory");
    for name in ["out.csv", "out.json", "out.parquet"] {
        run(async {
            let map = settings(&directory.path().join(name), &[]);
            let committables =
                writer(&map, plain_schema()).await.prepare(Cut::End).await.expect("prepares").committables;
            committer().await.publish(committables).await.expect("publishes");
        });
    }
    let found = files(directory.path());
    assert_eq!(found[0], ("out.csv".to_owned(), "k,v\n".to_owned()));
    assert_eq!(found[1], ("out.json".to_owned(), String::new()));
    assert!(found[2].1.starts_with("PAR1"));
}

#[test]
fn last_row_per_key_is_written_in_order_of_keys() {
    let directory = tempfile::tempdir().expect("a directory");
    let target = directory.path().join("out.csv");
    let map = settings(&target, &[("upsert_key", "k".into())]);
    run(async {
        let (insert, before, after, delete) = (0, 1, 2, 3);
        let changes = vec![
            rows(&[(insert, "z", 1.0), (insert, "b", 1.0), (insert, "gone", 1.0)], changing_schema()),
            rows(&[(after, "z", 2.0), (before, "b", 1.0), (after, "b", 3.0), (delete, "gone", 1.0)], changing_schema()),
            // Takes back a row of another group that "z" no longer shows.
            rows(&[(before, "z", 1.0), (insert, "a", 4.0), (delete, "never", 1.0)], changing_schema()),
        ];
        let committables = write_and_prepare(&map, changes).await;
        committer().await.publish(committables).await.expect("publishes");
    });
    assert_eq!(std::fs::read_to_string(&target).expect("reads"), "k,v\na,4.0\nb,3.0\nz,2.0\n");
}

#[test]
fn compressed_text_and_parquet_are_read_back() {
    let directory = tempfile::tempdir().expect("a directory");
    let publish = |name: &str| {
        let map = settings(&directory.path().join(name), &[]);
        run(async {
            let many: Vec<_> = (0..200).map(|n| rows(&vec![(0, "key", f64::from(n)); 100], plain_schema())).collect();
            let committables = write_and_prepare(&map, many).await;
            committer().await.publish(committables).await.expect("publishes");
        });
        std::fs::read(directory.path().join(name)).expect("reads")
    };
    let expected: String = (0..20_000).map(|n| format!("{{\"k\":\"key\",\"v\":{}.0}}\n", n / 100)).collect();
    let mut text = String::new();
    flate2::read::GzDecoder::new(&publish("a.json.gz")[..]).read_to_string(&mut text).expect("decompresses");
    assert!(text == expected);
    assert!(zstd::decode_all(&publish("a.jsonl.zst")[..]).expect("decompresses") == expected.as_bytes());
    publish("a.parquet");
    let file = std::fs::File::open(directory.path().join("a.parquet")).expect("opens");
    let reader = parquet::arrow::arrow_reader::ParquetRecordBatchReader::try_new(file, 1024).expect("parquet");
    assert_eq!(reader.map(|rows| rows.expect("reads").num_rows()).sum::<usize>(), 20_000);
}

#[test]
fn unwritable_paths_are_told_at_once() {
    let directory = tempfile::tempdir().expect("a directory");
    std::fs::write(directory.path().join("file"), "in the way").expect("writes");
    let map = settings(&directory.path().join("file/out.csv"), &[]);
    let error = run(SINK.writer(context(&map, plain_schema(), 0))).err().expect("a file is in the way");
    assert_eq!(error.code, "sink-io");
    assert!(error.message.contains("/file'"), "{error}");
}

#[test]
fn changing_input_needs_an_upsert_key() {
    let check = |more: &[(&str, Value)], input: SchemaRef| {
        let map = settings(Path::new("out.csv"), more);
        let settings = Settings::new("out", &map);
        let properties = SINK.describe(&settings, &input);
        let problems: Vec<_> = settings.finish().iter().map(ToString::to_string).collect();
        (properties.map(|said| (said.parallelism_max, said.takes_changes, said.partition_by)), problems.join("\n"))
    };
    assert_eq!(check(&[], plain_schema()), (Some((Some(1), false, None)), String::new()));
    assert_eq!(
        check(&[("upsert_key", "k".into())], changing_schema()),
        (Some((Some(1), true, Some(vec!["k".to_owned()]))), String::new())
    );
    expect!["operator 'out', upsert_key: the input updates or takes back rows it sent before, and a file cannot: set upsert_key to the columns that identify a row, and the last row per key is written at the end"]
        .assert_eq(&check(&[], changing_schema()).1);
    expect!["operator 'out', upsert_key: the input has no column 'kk'; did you mean 'k'?"]
        .assert_eq(&check(&[("upsert_key", "kk".into())], plain_schema()).1);
}
