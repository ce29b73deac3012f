//! What every source must keep when a job is restored: read up to any place, taken up again by readers that get the
//! splits dealt anew, the stream is the stream read straight through. The tests of each source call [`check`].

use std::collections::BTreeMap;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::task::Poll;
use std::time::Duration;

use arrow_array::RecordBatch;
use weir_core::{Clock, SplitIndex, SubtaskIndex, Value};
use weir_operator_api::{
    BadRecord, ReaderContext, Result, SourceEvent, SourceFactory, SourceReader, Split, SplitPosition,
};

/// Settings of a source.
pub(crate) type Fields = BTreeMap<String, Value>;

/// Time that passes only by sleeping.
#[derive(Debug, Default)]
pub(crate) struct SleepClock(AtomicU64);

impl Clock for SleepClock {
    fn wall_unix_us(&self) -> i64 {
        1 + self.0.load(Relaxed) as i64
    }

    fn monotonic(&self) -> Duration {
        Duration::from_micros(self.0.load(Relaxed))
    }

    fn sleep(&self, duration: Duration) -> Pin<Box<dyn Future<Output = ()> + Send>> {
        self.0.fetch_add(duration.as_micros() as u64 + 1, Relaxed);
        Box::pin(std::future::ready(()))
    }
}

/// One run of a job between two restores.
#[derive(Clone, Debug)]
pub(crate) struct Leg {
    /// Subtasks that the splits are dealt to.
    pub(crate) parallelism: usize,
    /// Rows per batch.
    pub(crate) batch_rows: usize,
    /// Events each subtask gives before the barrier.
    pub(crate) events: usize,
}

/// What was given, by split: rows as text. Bad records have no split.
#[derive(Default, Debug)]
pub(crate) struct Given {
    pub(crate) rows: BTreeMap<SplitIndex, Vec<String>>,
    pub(crate) bad: Vec<BadRecord>,
    pub(crate) finished: Vec<SplitIndex>,
}

impl Given {
    fn take(&mut self, event: SourceEvent) {
        match event {
            SourceEvent::Batch(batch) => {
                assert!(batch.num_rows() > 0, "an empty batch");
                let split = batch.split.expect("a batch of a source has a split");
                self.rows.entry(split).or_default().extend(lines(&batch.records));
            }
            SourceEvent::Bad(bad) => self.bad.extend(bad),
            SourceEvent::SplitFinished(split) => {
                assert!(!self.finished.contains(&split), "{split} finished twice");
                self.finished.push(split);
            }
            SourceEvent::EndOfInput => {}
        }
    }

    fn sorted(mut self) -> Given {
        self.bad.sort_by_key(|bad| format!("{bad:?}"));
        self.finished.sort_unstable();
        self
    }
}

/// Rows as text, every column.
pub(crate) fn lines(rows: &RecordBatch) -> Vec<String> {
    let options = arrow_cast::display::FormatOptions::default();
    let columns: Vec<_> = rows
        .columns()
        .iter()
        .map(|column| arrow_cast::display::ArrayFormatter::try_new(column, &options).expect("a plain column"))
        .collect();
    let line = |row| columns.iter().map(|column| column.value(row).to_string()).collect::<Vec<_>>().join(",");
    (0..rows.num_rows()).map(line).collect()
}

/// The context of one reader.
pub(crate) fn context(settings: &Fields, splits: Vec<Split>, split_count: usize, batch_rows: usize) -> ReaderContext {
    ReaderContext {
        uid: "source".into(),
        settings: settings.clone(),
        subtask: SubtaskIndex(0),
        parallelism: 1,
        split_count: split_count as u32,
        splits,
        projection: None,
        batch_rows,
        flush_interval: Duration::from_millis(5),
        clock: Arc::new(SleepClock::default()),
    }
}

/// Gives up to `events` events of a reader to `given`.
pub(crate) async fn read(reader: &mut dyn SourceReader, events: usize, given: &mut Given) -> Result<()> {
    for _ in 0..events {
        let event = reader.next().await?;
        let is_end = matches!(event, SourceEvent::EndOfInput);
        given.take(event);
        if is_end {
            break;
        }
    }
    Ok(())
}

/// The splits that a restored job gets: the unfinished ones, from their positions.
pub(crate) fn resume(splits: &[Split], positions: Vec<SplitPosition>) -> Vec<Split> {
    let open = positions.into_iter().filter(|position| !position.is_finished);
    open.map(|SplitPosition { split, position, .. }| {
        let split = splits.iter().find(|known| known.index == split).expect("a split of the source");
        Split { position, ..split.clone() }
    })
    .collect()
}

/// Reads all splits straight through, then again over `legs` and to the end, and compares.
pub(crate) async fn check(
    factory: &dyn SourceFactory,
    settings: &Fields,
    splits: Vec<Split>,
    projection: Option<Vec<String>>,
    legs: &[Leg],
) -> Given {
    let reader = async |own: Vec<Split>, batch_rows: usize| {
        let context = context(settings, own, splits.len(), batch_rows);
        let context = ReaderContext { projection: projection.clone(), ..context };
        factory.reader(context).await.expect("the reader opens")
    };
    let mut straight = Given::default();
    read(reader(splits.clone(), 100).await.as_mut(), usize::MAX, &mut straight).await.expect("reads");

    let (mut given, mut open) = (Given::default(), splits.clone());
    let end = Leg { parallelism: 1, batch_rows: 64, events: usize::MAX };
    for leg in legs.iter().chain([&end]) {
        let mut positions = Vec::new();
        for subtask in 0..leg.parallelism {
            let own: Vec<_> = open.iter().filter(|s| s.index.index() % leg.parallelism == subtask).cloned().collect();
            let mut reader = reader(own, leg.batch_rows).await;
            read(reader.as_mut(), leg.events, &mut given).await.expect("reads");
            // A barrier may drop a call that waits.
            let polled = poll_once(reader.next()).await.map(|event| event.expect("reads"));
            polled.into_iter().for_each(|event| given.take(event));
            let found = reader.positions().expect("positions are known");
            positions.extend(found);
        }
        positions.sort_by_key(|position| position.split);
        let known: Vec<_> = positions.iter().map(|position| position.split).collect();
        assert_eq!(known, open.iter().map(|split| split.index).collect::<Vec<_>>(), "each split has its position");
        open = resume(&splits, positions);
    }
    assert_eq!(open, [], "all splits are finished");
    assert!(given.rows == straight.rows, "rows differ after {legs:?}");
    let (given, straight) = (given.sorted(), straight.sorted());
    let wrong = given.bad.iter().zip(&straight.bad).find(|(given, straight)| given != straight);
    let short = |bad: &BadRecord| format!("{bad:?}").chars().take(300).collect::<String>();
    let wrong = wrong.map(|(given, straight)| (short(given), short(straight)));
    assert_eq!((wrong, given.bad.len()), (None, straight.bad.len()), "bad records after {legs:?}");
    assert_eq!(given.finished, straight.finished, "after {legs:?}");
    straight
}

/// Polls a future once and drops it.
async fn poll_once<F: Future>(future: F) -> Option<F::Output> {
    let mut future = std::pin::pin!(future);
    let polled = std::future::poll_fn(|context| Poll::Ready(future.as_mut().poll(context))).await;
    if let Poll::Ready(output) = polled { Some(output) } else { None }
}
