//! However many tasks write how much to a store however slow: what is held is bounded, and all of it is written.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};
use std::time::Duration;

use proptest::prelude::*;
use tokio::runtime::Runtime;
use weir_core::Clock;
use weir_testkit::SystemClock;

use super::*;

const OBJECT: usize = 1 << 20;

fn runtime() -> Runtime {
    tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_time().build().expect("threads")
}

fn header() -> SectionHeader {
    SectionHeader { table: "t".to_owned(), rows: 1, first_key_group: 0, last_key_group: 0 }
}

fn append(objects: &mut Objects, bytes: usize, expected: usize) -> Result<Place, TaskError> {
    objects.append(header(), expected, |buffer| {
        buffer.resize(buffer.len() + bytes, 7);
        Ok(())
    })
}

/// What one task does: sections of these sizes; its uploader gives up after so many objects.
#[derive(Clone, Debug)]
struct Plan {
    sections: Vec<usize>,
    gives_up_after: Option<usize>,
}

fn plan() -> impl Strategy<Value = Plan> {
    let size = prop_oneof![1usize..1000, 1usize..OBJECT / SECTIONS_MIN];
    let gives_up_after = prop_oneof![3 => Just(None), 1 => (0usize..3).prop_map(Some)];
    (prop::collection::vec(size, 0..40), gives_up_after)
        .prop_map(|(sections, gives_up_after)| Plan { sections, gives_up_after })
}

/// Bytes held in full objects by everybody, and the most it ever was.
#[derive(Default)]
struct Held {
    now: AtomicUsize,
    most: AtomicUsize,
}

/// Uploads slowly; gives what it has seen, object by object, unless it gives up.
async fn upload(
    mut full: mpsc::Receiver<FullObject>,
    plan: Plan,
    buffers: ObjectBuffers,
    held: Arc<Held>,
) -> Vec<usize> {
    let mut seen = Vec::new();
    while let Some(object) = full.recv().await {
        if plan.gives_up_after == Some(seen.len()) {
            return seen;
        }
        assert!(object.len_bytes() <= OBJECT + 1000, "{}", object.len_bytes());
        let now = held.now.fetch_add(object.len_bytes(), SeqCst) + object.len_bytes();
        held.most.fetch_max(now, SeqCst);
        assert!(buffers.lent() <= 3);
        SystemClock::default().sleep(Duration::from_micros(300)).await;
        let (bytes, sections) = object.finish("x");
        held.now.fetch_sub(bytes.len(), SeqCst);
        seen.push(sections.len());
    }
    seen
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]
    /// Carries c3 of the failure list: tasks that share few buffers all come to an end, whoever gives up in between, and all
    /// buffers come back.
    #[test]
    fn c3_tasks_share_few_buffers_and_never_wait_for_each_other(plans in prop::collection::vec(plan(), 1..8)) {
        let runtime = runtime();
        let buffers = ObjectBuffers::new(OBJECT, 3);
        let held = Arc::new(Held::default());
        let tasks = plans.into_iter().map(|plan| {
            let (mut objects, full) = Objects::new(buffers.clone(), runtime.handle().clone());
            let sections = plan.sections.clone();
            let encoding = runtime.spawn_blocking(move || {
                let places = sections.iter().map(|bytes| append(&mut objects, *bytes, *bytes)).collect::<Result<Vec<_>, _>>();
                places.and_then(|places| objects.finish().map(|()| places))
            });
            let uploading = runtime.spawn(upload(full, plan.clone(), buffers.clone(), held.clone()));
            (plan, encoding, uploading)
        });
        let tasks: Vec<_> = tasks.collect();
        for (plan, encoding, uploading) in tasks {
            let ends = async {
                tokio::time::timeout(Duration::from_secs(60), async { (encoding.await, uploading.await) }).await
            };
            let (places, seen) = runtime.block_on(ends).expect("nobody waits for ever");
            let (places, seen) = (places.expect("it ends"), seen.expect("it ends"));
            match places {
                Ok(places) => {
                    let has_all = seen.iter().sum::<usize>() == places.len();
                    prop_assert!(has_all || plan.gives_up_after.is_some());
                    let is_there = |place: &Place| seen.get(place.object).is_some_and(|count| place.section < *count);
                    prop_assert!(!has_all || places.iter().all(is_there));
                }
                Err(_) => prop_assert!(plan.gives_up_after.is_some()),
            }
        }
        prop_assert_eq!(buffers.lent(), 0);
    }
}

/// Carries b10 of the failure list: a store that takes nothing holds back a bounded number of bytes, whatever is written.
#[test]
fn b10_store_that_stands_still_holds_back_no_more_than_the_allowance() {
    let runtime = runtime();
    let buffers = ObjectBuffers::new(OBJECT, 3);
    let written = Arc::new(AtomicUsize::new(0));
    let tasks: Vec<_> = (0..4)
        .map(|_| {
            let (mut objects, full) = Objects::new(buffers.clone(), runtime.handle().clone());
            let written = written.clone();
            let encoding = runtime.spawn_blocking(move || {
                while append(&mut objects, OBJECT / 16, OBJECT / 16).is_ok() {
                    written.fetch_add(OBJECT / 16, SeqCst);
                }
            });
            (full, encoding)
        })
        .collect();
    // Until nothing moves any more.
    let still = async {
        let mut before = usize::MAX;
        while before != written.load(SeqCst) || buffers.lent() < 3 {
            before = written.load(SeqCst);
            SystemClock::default().sleep(Duration::from_millis(50)).await;
        }
    };
    runtime.block_on(async { tokio::time::timeout(Duration::from_secs(60), still).await }).expect("it stands still");
    assert!(written.load(SeqCst) <= 3 * OBJECT + 4 * SMALL_BYTES, "{} bytes", written.load(SeqCst));
    for (full, encoding) in tasks {
        drop(full);
        runtime
            .block_on(async { tokio::time::timeout(Duration::from_secs(60), encoding).await })
            .expect("it hears")
            .expect("it ends");
    }
    assert_eq!(buffers.lent(), 0);
}

#[test]
fn little_state_waits_for_no_buffer() {
    let runtime = runtime();
    let buffers = ObjectBuffers::new(OBJECT, 2);
    let (full, _queue) = mpsc::channel::<()>(1);
    let held: Vec<_> = (0..2).map(|_| buffers.borrow(runtime.handle(), &full).expect("it is free")).collect();
    let (mut objects, mut queue) = Objects::new(buffers.clone(), runtime.handle().clone());
    append(&mut objects, 1000, 1000).expect("nobody has given up");
    objects.finish().expect("nobody has given up");
    assert_eq!(queue.blocking_recv().expect("one object").finish("x").1.len(), 1);
    drop(held);
}

#[test]
fn section_that_fails_leaves_no_trace() {
    let runtime = runtime();
    let (mut objects, mut queue) = Objects::new(ObjectBuffers::new(OBJECT, 2), runtime.handle().clone());
    let failing = objects.append(header(), 10, |buffer| {
        buffer.extend_from_slice(b"half");
        Err(TaskError::internal("internal", "it breaks"))
    });
    assert!(failing.is_err());
    assert_eq!(append(&mut objects, 3, 3).expect("it goes on"), Place { object: 0, section: 0 });
    objects.finish().expect("nobody has given up");
    let (bytes, _) = queue.blocking_recv().expect("one object").finish("x");
    let sections = weir_checkpoint::state_object::read_object(&bytes, "x").expect("it is whole");
    assert_eq!(sections.into_iter().map(|section| section.1).collect::<Vec<_>>(), [&[7, 7, 7][..]]);
}
