//! Tests of the fleet as a whole: the same stream in any number of splits, its bounds and shares, and the truth against
//! a recomputation from nothing but the rows.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use arrow_array::RecordBatch;
use arrow_array::cast::AsArray;
use arrow_array::types::{Int64Type, TimestampMicrosecondType};
use expect_test::expect;
use weir_core::{Settings, SubtaskIndex, Value};
use weir_operator_api::{BadRecord, ReaderContext, SourceEvent, SourceFactory, SourceReader, Split};
use weir_testkit::FakeClock;

use super::FleetSource;
use super::plan::{Fleet, FleetSettings};
use super::stream::SplitStream;
use super::truth;

type Fields = BTreeMap<String, Value>;

fn fields(pairs: &[(&str, Value)]) -> Fields {
    pairs.iter().map(|(name, value)| ((*name).to_owned(), value.clone())).collect()
}

/// A fleet small enough for a debug build and rich in everything that can go wrong.
fn rough(trucks: i64, duration: &str) -> Fields {
    fields(&[
        ("seed", Value::Integer(7)),
        ("trucks", Value::Integer(trucks)),
        ("duration", duration.into()),
        ("report_interval", "30 s".into()),
        ("duplicates", Value::Float(0.05)),
        ("stored_and_forwarded", Value::Float(0.05)),
        ("malformed", Value::Float(0.02)),
        ("silent", Value::Float(0.3)),
        ("delayed", Value::Float(0.4)),
    ])
}

fn fleet(fields: &Fields) -> Arc<Fleet> {
    let settings = Settings::new("fleet", fields);
    let read = FleetSettings::read(&settings).expect("settings are right");
    assert_eq!(settings.finish(), []);
    Arc::new(Fleet::new(read))
}

fn context(settings: &Fields, splits: Vec<Split>, batch_rows: usize, clock: &FakeClock) -> ReaderContext {
    ReaderContext {
        uid: "fleet".into(),
        settings: settings.clone(),
        subtask: SubtaskIndex(0),
        parallelism: 1,
        split_count: splits.len() as u32,
        splits,
        projection: None,
        batch_rows,
        flush_interval: Duration::from_millis(5),
        clock: Arc::new(clock.clone()),
    }
}

async fn splits(settings: &Fields, parallelism: u32) -> Vec<Split> {
    FleetSource.enumerate(&"fleet".into(), settings, parallelism).await.expect("splits need nothing outside")
}

#[derive(Default)]
struct Read {
    rows: Vec<RecordBatch>,
    bad: Vec<BadRecord>,
    finished: usize,
}

async fn drain(mut reader: Box<dyn SourceReader>) -> Read {
    let mut read = Read::default();
    loop {
        match reader.next().await.expect("the generator does not fail") {
            SourceEvent::Batch(batch) => read.rows.push(batch.records),
            SourceEvent::Bad(bad) => read.bad.extend(bad),
            SourceEvent::SplitFinished(_) => read.finished += 1,
            SourceEvent::EndOfInput => return read,
        }
    }
}

async fn read(settings: &Fields, splits: Vec<Split>, batch_rows: usize) -> Read {
    let context = context(settings, splits, batch_rows, &FakeClock::default());
    drain(FleetSource.reader(context).await.expect("settings are right")).await
}

async fn read_all(settings: &Fields) -> Read {
    read(settings, splits(settings, 1).await, 1_000).await
}

/// A row as text, every column.
fn lines(rows: &RecordBatch) -> Vec<String> {
    let options = arrow_cast::display::FormatOptions::default();
    let columns: Vec<_> = rows
        .columns()
        .iter()
        .map(|column| arrow_cast::display::ArrayFormatter::try_new(column, &options).expect("a plain column"))
        .collect();
    let line = |row| columns.iter().map(|column| column.value(row).to_string()).collect::<Vec<_>>().join(",");
    (0..rows.num_rows()).map(line).collect()
}

/// What the truth and a job need to know of a report. **Units**: milliseconds since 1970.
#[derive(Clone, Debug)]
struct Row {
    truck: String,
    shipment: String,
    status: String,
    planned: i64,
    event: i64,
    received: i64,
    remaining_m: i64,
    cruise_kmh: i64,
}

fn rows(batches: &[RecordBatch]) -> Vec<Row> {
    let mut rows = Vec::new();
    for batch in batches {
        let column = |name: &str| batch.column_by_name(name).expect("a column of the fleet");
        let text = |name: &str, row: usize| column(name).as_string::<i32>().value(row).to_owned();
        let time = |name: &str, row: usize| column(name).as_primitive::<TimestampMicrosecondType>().value(row) / 1_000;
        let number = |name: &str, row: usize| column(name).as_primitive::<Int64Type>().value(row);
        rows.extend((0..batch.num_rows()).map(|row| Row {
            truck: text("truck_id", row),
            shipment: text("shipment_id", row),
            status: text("status", row),
            planned: time("planned_arrival", row),
            event: time("event_time", row),
            received: time("received_at", row),
            remaining_m: number("remaining_m", row),
            cruise_kmh: number("cruise_kmh", row),
        }));
    }
    rows
}

#[tokio::test]
async fn first_reports_of_a_seed_never_change() {
    let settings = fields(&[("seed", 7.into()), ("trucks", 3.into()), ("duration", "20 s".into())]);
    let read = read_all(&settings).await;
    let lines: Vec<String> = read.rows.iter().flat_map(lines).collect();
    expect![[r#"
        truck-000002,shipment-000002-0002,italy,44.38883,11.43374,67.6,driving,2024-01-01T06:57:00Z,40.8518,14.2681,456.514,456514,69,2024-01-01T00:00:02.783Z,2024-01-01T00:00:04.744Z
        truck-000000,shipment-000000-0001,iberia,42.355625,-0.35093,63.5,driving,2024-01-01T04:05:00Z,41.3874,2.1686,234.747,234747,62,2024-01-01T00:00:07.024Z,2024-01-01T00:00:08.008Z
        truck-000001,shipment-000001-0001,visegrad,52.2297,21.0122,0.0,loading,2024-01-01T04:07:00Z,54.352,18.6466,283.537,283537,74,2024-01-01T00:00:08.386Z,2024-01-01T00:00:09.460Z
        truck-000002,shipment-000002-0002,italy,44.387358,11.435003,69.2,driving,2024-01-01T06:57:00Z,40.8518,14.2681,456.322,456322,69,2024-01-01T00:00:12.783Z,2024-01-01T00:00:13.686Z
        truck-000000,shipment-000000-0001,iberia,42.354936,-0.349056,62.5,driving,2024-01-01T04:05:00Z,41.3874,2.1686,234.575,234575,62,2024-01-01T00:00:17.024Z,2024-01-01T00:00:17.883Z
        truck-000001,shipment-000001-0001,visegrad,52.2297,21.0122,0.0,loading,2024-01-01T04:07:00Z,54.352,18.6466,283.537,283537,74,2024-01-01T00:00:18.386Z,2024-01-01T00:00:18.519Z
    "#]].assert_eq(&(lines.join("\n") + "\n"));
}

#[tokio::test]
async fn any_number_of_splits_and_any_batch_gives_the_same_reports() {
    let settings = rough(40, "1 h");
    let mut all: Vec<(Vec<String>, Vec<String>)> = Vec::new();
    for (parallelism, batch_rows, is_together) in [(1, 1_000, false), (3, 7, false), (4, 100, true), (50, 1, false)] {
        let splits = splits(&settings, parallelism).await;
        let groups: Vec<Vec<Split>> =
            if is_together { vec![splits] } else { splits.into_iter().map(|split| vec![split]).collect() };
        let (mut reports, mut bad) = (Vec::new(), Vec::new());
        let mut finished = 0;
        for group in groups {
            let read = read(&settings, group, batch_rows).await;
            assert!(read.rows.iter().all(|rows| (1..=batch_rows).contains(&rows.num_rows())));
            reports.extend(read.rows.iter().flat_map(lines));
            bad.extend(read.bad.iter().map(|bad| format!("{bad:?}")));
            finished += read.finished;
        }
        assert_eq!(finished, parallelism as usize);
        reports.sort_unstable();
        bad.sort_unstable();
        all.push((reports, bad));
    }
    assert!(all[0].0.len() > 4_000 && !all[0].1.is_empty());
    assert!(all.windows(2).all(|pair| pair[0] == pair[1]));
}

#[tokio::test]
async fn reports_come_in_order_of_arrival_and_within_the_disorder() {
    let settings = rough(60, "2 h");
    let rows = rows(&read_all(&settings).await.rows);
    assert!(rows.windows(2).all(|pair| pair[0].received <= pair[1].received));
    let stored = rows.iter().filter(|row| row.received - row.event > 30_000).count();
    assert!(stored > 0 && rows.iter().all(|row| (0..600_000).contains(&(row.received - row.event))));

    let calm: Fields = settings.into_iter().chain(fields(&[("stored_and_forwarded", 0.into())])).collect();
    let rows = self::rows(&read_all(&calm).await.rows);
    assert!(rows.iter().all(|row| (0..=30_000).contains(&(row.received - row.event))));
}

#[tokio::test]
async fn shares_are_near_their_settings() {
    let settings = rough(300, "3 h");
    let read = read_all(&settings).await;
    let rows = rows(&read.rows);
    let distinct: BTreeSet<(&str, i64)> = rows.iter().map(|row| (row.truck.as_str(), row.event)).collect();
    let reports = (distinct.len() + read.bad.len()) as f64;
    let near = |what: &str, found: f64, share: f64| {
        assert!((found / reports - share).abs() < share * 0.2, "{what}: {} instead of {share}", found / reports);
    };
    near("duplicates", (rows.len() - distinct.len()) as f64, 0.05);
    near("malformed", read.bad.len() as f64, 0.02);
    let stored = rows.iter().filter(|row| row.received - row.event > 30_000).count();
    near("stored and forwarded", stored as f64, 0.05);
    let fleet = fleet(&settings);
    let silent = (0..300).filter(|truck| truth::silent_truck(&fleet, *truck).is_some()).count() as f64;
    assert!((silent / 284.0 - 0.3).abs() < 0.08, "{silent} silent trucks");
    let shipments: BTreeSet<&str> = rows.iter().map(|row| row.shipment.as_str()).collect();
    let late: usize = (0..300).map(|truck| truth::late_shipments(&fleet, truck).len()).sum();
    // Some shipments begin or end outside of the stream, before or after their incident.
    let share = late as f64 / shipments.len() as f64;
    assert!((0.15..0.45).contains(&share), "{late} of {} shipments late", shipments.len());
}

/// What a job would find, by the definition in the header of `truth`, from nothing but the rows.
fn late_by_brute_force(rows: &[Row]) -> BTreeMap<String, (i64, i64)> {
    let mut known: BTreeMap<String, (i64, i64)> = BTreeMap::new();
    for row in rows {
        let delay = row.event + row.remaining_m * 36 / (row.cruise_kmh * 10) * 1_000 - row.planned;
        if row.received - row.event <= 30_000 && row.status != "delivered" && delay > 900_000 {
            let found = (row.event, delay / 1_000);
            let first = known.entry(row.shipment.clone()).or_insert(found);
            *first = found.min(*first);
        }
    }
    known
}

/// Silences of ten minutes or more that become known before the stream ends, from nothing but the rows.
fn silent_by_brute_force(rows: &[Row], is_used: impl Fn(&Row) -> bool) -> Vec<String> {
    let mut events: BTreeMap<&str, BTreeSet<i64>> = BTreeMap::new();
    for row in rows.iter().filter(|row| is_used(row)) {
        events.entry(&row.truck).or_default().insert(row.event);
    }
    let last_of_all = rows.iter().map(|row| row.event).max().expect("there are rows");
    let mut silent = Vec::new();
    for (truck, events) in events {
        let events: Vec<i64> = events.into_iter().collect();
        for (place, last) in events.iter().enumerate() {
            let next = events.get(place + 1);
            if next.copied().unwrap_or(last_of_all) - last >= 600_000 {
                silent.push(format!("{truck},{last},{}", next.map(i64::to_string).unwrap_or_default()));
            }
        }
    }
    silent
}

#[tokio::test]
async fn truth_is_what_the_rows_tell() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let path = folder.path().join("deep/truth.csv");
    let text = path.to_str().expect("a UTF-8 path").to_owned();
    for (seed, interval) in [(7, "30 s"), (8, "10 s"), (9, "60 s")] {
        let more = [
            ("seed", Value::Integer(seed)),
            ("report_interval", interval.into()),
            ("truth_path", text.as_str().into()),
        ];
        let settings: Fields = rough(80, "5 h").into_iter().chain(fields(&more)).collect();
        let rows = rows(&read_all(&settings).await.rows);

        let written = std::fs::read_to_string(&path).expect("the truth was written");
        let mut found = late_by_brute_force(&rows);
        assert!(found.len() > 20, "{} late shipments", found.len());
        for line in written.lines().skip(1) {
            let cells: Vec<&str> = line.split(',').collect();
            let [shipment, truck, known_at, estimated, last] = cells[..] else { panic!("{line}") };
            assert_eq!(shipment[8..15], truck[5..12], "{line}");
            let known = found.remove(shipment).map(|(at, delay)| (at.to_string(), delay.to_string()));
            assert_eq!(known, Some((known_at.to_owned(), estimated.to_owned())), "{line}");
            assert!(last.is_empty() || last.parse::<i64>().is_ok_and(|last| last > 900), "{line}");
        }
        assert_eq!(found, BTreeMap::new(), "seed {seed}");

        let silent_path = truth::silent_path(&path);
        let written = std::fs::read_to_string(&silent_path).expect("the silences were written");
        let mut truth: Vec<&str> = written.lines().skip(1).collect();
        truth.sort_unstable();
        assert!(truth.len() > 10, "{written}");
        assert_eq!(silent_by_brute_force(&rows, |_| true), truth, "seed {seed}");
        // A job that loses every stored report as late finds the same silences.
        assert_eq!(silent_by_brute_force(&rows, |row| row.received - row.event <= 30_000), truth, "seed {seed}");
    }
    let left: Vec<_> = std::fs::read_dir(folder.path().join("deep")).expect("the folder is there").collect();
    assert_eq!(left.len(), 2, "{left:?}");
}

#[tokio::test]
async fn truth_that_cannot_be_written_ends_the_job_with_the_path() {
    let file = tempfile::NamedTempFile::new().expect("a temporary file");
    let path = file.path().join("truth.csv");
    let text = path.to_str().expect("a UTF-8 path");
    let settings: Fields = rough(2, "1 h").into_iter().chain(fields(&[("truth_path", text.into())])).collect();
    let context = context(&settings, splits(&settings, 1).await, 1_000, &FakeClock::default());
    let mut reader = FleetSource.reader(context).await.expect("settings are right");
    let error = loop {
        match reader.next().await {
            Ok(SourceEvent::EndOfInput) => panic!("a file is no folder"),
            Ok(_) => {}
            Err(error) => break error,
        }
    };
    assert_eq!(error.code, "fleet-truth-io");
    assert!(error.message.contains(text), "{error}");
}

#[tokio::test]
async fn silences_stay_clear_of_dead_zones() {
    let more = [("silent", Value::Float(1.0)), ("stored_and_forwarded", Value::Float(0.1)), ("delayed", 0.into())];
    let settings: Fields = rough(400, "100 min").into_iter().chain(fields(&more)).collect();
    let rows = rows(&read_all(&settings).await.rows);
    let fleet = fleet(&settings);
    let start = fleet.settings.start_unix_ms;
    let truth: Vec<String> = (0..400)
        .filter_map(|truck| truth::silent_truck(&fleet, truck))
        .map(|silent| {
            let next = silent.next_report_ms.map(|next| (start + next).to_string()).unwrap_or_default();
            format!("truck-{:06},{},{next}", silent.truck, start + silent.last_report_ms)
        })
        .collect();
    assert!(truth.len() > 350, "{}", truth.len());
    assert_eq!(silent_by_brute_force(&rows, |row| row.received - row.event <= 30_000), truth);
}

#[test]
fn told_to_stop_the_truth_leaves_no_file() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let fleet = fleet(&rough(20, "1 h"));
    truth::write(&fleet, &folder.path().join("truth.csv"), &true.into()).expect("nothing to write");
    assert_eq!(std::fs::read_dir(folder.path()).expect("the folder is there").count(), 0);
}

#[test]
fn memory_follows_the_trucks_and_not_the_length_of_the_stream() {
    assert!(size_of::<super::truck::Truck>() <= 256, "{}", size_of::<super::truck::Truck>());
    let stored = fields(&[("stored_and_forwarded", Value::Float(0.1)), ("report_interval", "1 s".into())]);
    let settings: Fields = rough(50, "2 h").into_iter().chain(stored).collect();
    let mut stream = SplitStream::new(fleet(&settings), 0, 1);
    let (mut most, mut out) = (0, Vec::new());
    while stream.take(100, &mut out) {
        most = most.max(stream.waiting());
        out.clear();
    }
    // 50 reports a second, up to 30 s under way, and now and then a dead zone of ten minutes that arrives at once.
    assert!(most < 50 * 30 + 3 * 600, "{most} reports at once");
}

#[tokio::test]
async fn malformed_report_is_a_broken_line_with_its_truck() {
    let settings: Fields = rough(2, "1 h").into_iter().chain(fields(&[("malformed", Value::Float(0.5))])).collect();
    let bad = read_all(&settings).await.bad;
    assert!(bad.len() > 50);
    for bad in &bad {
        let original = bad.original.as_deref().expect("the text as it came");
        assert!(bad.code == "bad-record-fleet" && original.starts_with('{') && !original.ends_with('}'), "{bad:?}");
        assert!(bad.source.as_deref().is_some_and(|source| source.starts_with("fleet with seed 7, truck-00000")));
    }
}

#[tokio::test]
async fn paced_reports_come_at_the_speed_of_event_time() {
    let clock = FakeClock::default();
    let settings = fields(&[("trucks", 50.into()), ("duration", "60 s".into()), ("speedup", 10.into())]);
    let context = context(&settings, splits(&settings, 2).await, 8_192, &clock);
    let mut reader = FleetSource.reader(context).await.expect("settings are right");
    let mut newest = 0;
    for step in 0..100 {
        loop {
            let mut next = std::pin::pin!(reader.next());
            match next.as_mut().poll(&mut std::task::Context::from_waker(std::task::Waker::noop())) {
                std::task::Poll::Ready(Ok(SourceEvent::Batch(batch))) => {
                    let rows = rows(&[batch.records]);
                    newest = rows.iter().map(|row| row.received - 1_704_067_200_000).max().expect("never empty");
                    assert!(newest <= step * 1_000, "{newest} after {step} seconds of event time");
                }
                std::task::Poll::Ready(Ok(SourceEvent::EndOfInput)) => {
                    assert!((60..=91).contains(&step), "{step}");
                    return;
                }
                std::task::Poll::Ready(_) => {}
                std::task::Poll::Pending => break,
            }
        }
        assert!(step < 15 || newest > (step - 5) * 1_000 || step > 60, "{newest} after {step} seconds of event time");
        clock.advance(Duration::from_millis(100));
    }
    panic!("the stream did not end");
}

#[test]
fn wrong_settings_are_answered_all_at_once_with_the_cure() {
    let wrong = fields(&[
        ("trucks", Value::Integer(0)),
        ("regions", Value::from(vec!["germny".into(), "italy".into(), "italy".into()])),
        ("start", "yesterday".into()),
        ("duration", "20 min".into()),
        ("reports", 5.into()),
        ("disorder_max", "10 min".into()),
        ("silent", Value::Float(0.1)),
        ("pace", 5.into()),
        ("speedup", 5.into()),
        ("truth", "x".into()),
    ]);
    let settings = Settings::new("fleet", &wrong);
    assert!(FleetSource.describe(&settings).is_none());
    let lines: String = settings.finish().iter().map(|problem| format!("{problem}\n")).collect();
    expect![[r#"
        operator 'fleet', trucks: expected a whole number from 1 to 1000000, found a whole number: 0
        operator 'fleet', regions: 'germny' is not a region; known are iberia, france, britain, germany, italy, nordics, visegrad, danube; did you mean 'germany'?
        operator 'fleet', regions: names 'italy' twice
        operator 'fleet', start: 'yesterday' is not a time from 1970 to 2199 like '2024-01-01T00:00:00Z'
        operator 'fleet', disorder_max: must be from 0 s to 120 s
        operator 'fleet', reports: cannot be set together with duration; leave one out
        operator 'fleet', speedup: cannot be set together with pace; leave one out
        operator 'fleet', truth: unknown field; known here: delayed, disorder_max, duplicates, duration, malformed, pace, regions, report_interval, reports, seed, silent, speedup, start, stored_and_forwarded, trucks, truth_path
    "#]].assert_eq(&lines);
    let short = fields(&[("duration", "20 min".into()), ("silent", Value::Float(0.1))]);
    let settings = Settings::new("fleet", &short);
    FleetSource.describe(&settings);
    let lines: String = settings.finish().iter().map(|problem| format!("{problem}\n")).collect();
    expect![[r#"
        operator 'fleet', silent: needs at least 40 min of event time: a silence begins after 10 min and must become known
    "#]].assert_eq(&lines);
}
