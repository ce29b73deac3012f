//! A restored job reads on where it stood: any table, any cut, any dealing of the splits.

use std::time::Duration;

use proptest::prelude::*;
use weir_core::Value;
use weir_operator_api::{ReaderContext, SourceEvent, SourceFactory, SourceReader, Split};
use weir_testkit::FakeClock;

use crate::nexmark::NexmarkSource;
use crate::source_contract::{Fields, Leg, check, context, resume};

fn settings(table: &str, events: i64, pace: i64) -> Fields {
    let fields = [("table", table.into()), ("events", events.into()), ("rate", 1_000.into()), ("pace", pace.into())];
    fields.into_iter().map(|(name, value)| (name.to_owned(), value)).collect()
}

async fn splits(settings: &Fields, parallelism: u32) -> Vec<Split> {
    NexmarkSource.enumerate(&"source".into(), settings, parallelism).await.expect("splits need nothing outside")
}

fn run<T>(work: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread().build().expect("a runtime").block_on(work)
}

fn leg() -> impl Strategy<Value = Leg> {
    let rows = prop_oneof![Just(1usize), 2usize..100, Just(1_000)];
    (1usize..5, rows, 0usize..40).prop_map(|(parallelism, batch_rows, events)| Leg { parallelism, batch_rows, events })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(60))]
    #[test]
    fn restored_readers_go_on_where_the_old_ones_stood(
        table in prop_oneof![Just("person"), Just("auction"), Just("bid")],
        blocks in 0i64..60,
        pace in prop_oneof![Just(0i64), Just(5_000)],
        parallelism in 1u32..4,
        is_narrow: bool,
        legs in proptest::collection::vec(leg(), 0..5),
    ) {
        let settings = settings(table, blocks * 50, pace);
        let projection = is_narrow.then(|| vec!["dateTime".to_owned(), "extra".to_owned()]);
        let straight = run(async {
            check(&NexmarkSource, &settings, splits(&settings, parallelism).await, projection, &legs).await
        });
        let per_block = match table { "person" => 1, "auction" => 3, _ => 46 };
        prop_assert_eq!(straight.rows.values().map(Vec::len).sum::<usize>() as i64, blocks * per_block);
    }
}

#[tokio::test]
async fn restored_pace_neither_bursts_nor_pauses() {
    let settings = settings("bid", 100_000, 50_000);
    let splits = splits(&settings, 2).await;
    let open = |splits: Vec<Split>, clock: &FakeClock| {
        let context = context(&settings, splits, 2, 8_192);
        NexmarkSource.reader(ReaderContext { clock: std::sync::Arc::new(clock.clone()), ..context })
    };
    let clock = FakeClock::default();
    let mut reader = open(splits.clone(), &clock).await.expect("opens");
    let before: usize = play(reader.as_mut(), &clock, 1_000).await.iter().sum();
    let splits = resume(&splits, reader.positions().expect("known"));
    assert!(splits.iter().all(|split| matches!(split.position, Some(Value::Integer(_)))), "{splits:?}");
    // The job was away for a minute.
    let clock = FakeClock::default();
    clock.advance(Duration::from_secs(60));
    let mut reader = open(splits, &clock).await.expect("opens");
    let after = play(reader.as_mut(), &clock, 1_000).await;
    // 50 events a millisecond are 46 bids.
    let (first, all) = (after[..100].iter().sum::<usize>(), after.iter().sum::<usize>());
    assert!((3_500..5_500).contains(&first), "{first} rows in the first 100 ms");
    assert!((43_000..48_000).contains(&before) && (43_000..48_000).contains(&all), "{before} and {all} rows");
}

/// Rows that come in each of some milliseconds.
async fn play(reader: &mut dyn SourceReader, clock: &FakeClock, millis: usize) -> Vec<usize> {
    let mut rows = Vec::new();
    for _ in 0..millis {
        let mut count = 0;
        loop {
            let mut next = std::pin::pin!(reader.next());
            match next.as_mut().poll(&mut std::task::Context::from_waker(std::task::Waker::noop())) {
                std::task::Poll::Ready(event) => match event.expect("generators do not fail") {
                    SourceEvent::Batch(batch) => count += batch.num_rows(),
                    SourceEvent::EndOfInput => break,
                    _ => {}
                },
                std::task::Poll::Pending => break,
            }
        }
        rows.push(count);
        clock.advance(Duration::from_millis(1));
    }
    rows
}
