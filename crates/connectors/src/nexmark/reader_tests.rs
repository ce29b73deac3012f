//! Tests of the reader: the same rows in any number of splits, small batches, pace.

use std::collections::BTreeMap;
use std::time::Duration;

use arrow_array::cast::AsArray;
use arrow_array::types::Int64Type;
use weir_core::{SubtaskIndex, Value};
use weir_operator_api::{SourceFactory, Split};
use weir_testkit::FakeClock;

use super::*;
use crate::nexmark::NexmarkSource;

fn settings(table: &str, events: i64, pace: i64) -> BTreeMap<String, Value> {
    let fields = [("table", table.into()), ("events", events.into()), ("rate", 1_000.into()), ("pace", pace.into())];
    fields.into_iter().map(|(name, value)| (name.to_owned(), value)).collect()
}

fn context(
    settings: BTreeMap<String, Value>,
    splits: Vec<Split>,
    batch_rows: usize,
    clock: &FakeClock,
) -> ReaderContext {
    ReaderContext {
        uid: "source".into(),
        settings,
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

async fn splits(settings: &BTreeMap<String, Value>, parallelism: u32) -> Vec<Split> {
    NexmarkSource.enumerate(&"source".into(), settings, parallelism).await.expect("splits need nothing outside")
}

/// All values of the first column, and the rows of each batch.
async fn read(mut reader: Box<dyn SourceReader>) -> (Vec<i64>, Vec<usize>) {
    let (mut values, mut sizes) = (Vec::new(), Vec::new());
    loop {
        match reader.next().await.expect("generators do not fail") {
            SourceEvent::Batch(batch) => {
                assert!(batch.split.is_some());
                sizes.push(batch.num_rows());
                values.extend(batch.records.column(0).as_primitive::<Int64Type>().values().iter());
            }
            SourceEvent::EndOfInput => return (values, sizes),
            SourceEvent::SplitFinished(_) | SourceEvent::Bad(_) => {}
        }
    }
}

#[tokio::test]
async fn any_number_of_splits_and_any_batch_gives_the_same_rows() {
    let clock = FakeClock::default();
    for (table, rows) in [("person", 210), ("auction", 630), ("bid", 9_660)] {
        let settings = settings(table, 10_500, 0);
        let mut all = Vec::new();
        for (parallelism, batch_rows) in [(1, 8_192), (2, 100), (5, 1), (300, 7)] {
            let mut values = Vec::new();
            for split in splits(&settings, parallelism).await {
                let context = context(settings.clone(), vec![split], batch_rows, &clock);
                let (some, sizes) = read(NexmarkSource.reader(context).await.expect("settings are right")).await;
                assert!(sizes.iter().all(|size| *size <= batch_rows), "{sizes:?} above {batch_rows}");
                values.extend(some);
            }
            values.sort_unstable();
            assert_eq!(values.len(), rows);
            all.push(values);
        }
        assert!(all.windows(2).all(|pair| pair[0] == pair[1]), "{table}");
    }
}

#[tokio::test]
async fn several_splits_in_one_reader_advance_together() {
    let settings = settings("person", 1_000, 0);
    let splits = splits(&settings, 4).await;
    let context = context(settings, splits, 1, &FakeClock::default());
    let (ids, _) = read(NexmarkSource.reader(context).await.expect("settings are right")).await;
    assert_eq!(ids, (1_000..1_020).collect::<Vec<i64>>());
}

#[tokio::test]
async fn rare_rows_come_in_batches_that_span_few_events() {
    let settings = settings("person", 1_000_000, 0);
    let splits = splits(&settings, 1).await;
    let context = context(settings, splits, 8_192, &FakeClock::default());
    let (ids, sizes) = read(NexmarkSource.reader(context).await.expect("settings are right")).await;
    assert_eq!(ids.len(), 20_000);
    assert!(sizes.iter().all(|size| size * 50 <= EVENTS_PER_BATCH_MAX), "{sizes:?}");
}

#[tokio::test]
async fn paced_rows_come_when_they_are_due() {
    let clock = FakeClock::default();
    let settings = settings("bid", 1_000, 12_500);
    let splits = splits(&settings, 1).await;
    let mut reader = NexmarkSource.reader(context(settings, splits, 8_192, &clock)).await.expect("settings are right");
    let mut rows = Vec::new();
    for millisecond in 0..100 {
        // A future that is dropped and made anew loses nothing.
        while let Ok(Ok(SourceEvent::Batch(batch))) = polled(reader.next()) {
            rows.push((millisecond, batch.num_rows()));
        }
        clock.advance(Duration::from_millis(1));
    }
    // A block is due every 4 ms, and the first of two waits up to 5 ms for the other.
    let expected: Vec<_> = (0..10).map(|piece| (piece * 8 + 4, 92)).collect();
    assert_eq!(rows, expected);
}

#[tokio::test]
async fn live_stream_has_brought_what_came_before_it_was_read() {
    let clock = FakeClock::default();
    let mut settings = settings("bid", 1_000, 12_500);
    // It began 39 ms ago: blocks 0 to 9 are there, the next one comes in 1 ms.
    settings.insert("live_since_ms".to_owned(), Value::Integer(clock.wall_unix_us() / 1000 - 39));
    let mut splits = splits(&settings, 1).await;
    // A restored reader stands behind the second block.
    splits[0].position = Some(Value::Integer(92));
    let mut reader = NexmarkSource.reader(context(settings, splits, 92, &clock)).await.expect("settings are right");
    // Between building and reading, time passes: it counts for the stream.
    clock.advance(Duration::from_millis(1));
    let mut rows = Vec::new();
    for millisecond in 0..40 {
        while let Ok(Ok(SourceEvent::Batch(batch))) = polled(reader.next()) {
            rows.push((millisecond, batch.num_rows()));
        }
        clock.advance(Duration::from_millis(1));
    }
    let at_once: usize = rows.iter().filter(|(at, _)| *at == 0).map(|(_, rows)| rows).sum();
    assert_eq!(at_once, 46 * 8, "blocks 2 to 9 at once: {rows:?}");
    assert_eq!(rows.iter().map(|(_, rows)| rows).sum::<usize>(), 46 * 18);
}

/// Polls once and drops the future: cancel safety is part of what is tested.
fn polled<F: Future>(future: F) -> Result<F::Output, ()> {
    let mut future = std::pin::pin!(future);
    match future.as_mut().poll(&mut std::task::Context::from_waker(std::task::Waker::noop())) {
        std::task::Poll::Ready(output) => Ok(output),
        std::task::Poll::Pending => Err(()),
    }
}
