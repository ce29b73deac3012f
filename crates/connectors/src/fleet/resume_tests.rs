//! A restored job reads on where it stood: disorder, duplicates, dead zones and broken reports come as they would have.

use proptest::prelude::*;
use weir_core::{SplitIndex, Value};
use weir_operator_api::{SourceFactory, Split};

use super::FleetSource;
use crate::source_contract::{Fields, Given, Leg, check, context, read, resume};

fn run<T>(work: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread().build().expect("a runtime").block_on(work)
}

async fn splits(settings: &Fields, parallelism: u32) -> Vec<Split> {
    FleetSource.enumerate(&"source".into(), settings, parallelism).await.expect("splits need nothing outside")
}

fn settings(pairs: &[(&str, Value)]) -> Fields {
    pairs.iter().map(|(name, value)| ((*name).to_owned(), value.clone())).collect()
}

fn leg() -> impl Strategy<Value = Leg> {
    let rows = prop_oneof![Just(1usize), 2usize..50, Just(1_000)];
    (1usize..4, rows, 0usize..80).prop_map(|(parallelism, batch_rows, events)| Leg { parallelism, batch_rows, events })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(60))]
    #[test]
    fn restored_readers_go_on_where_the_old_ones_stood(
        (seed, trucks, minutes) in (0i64..1_000, 1i64..60, 1i64..150),
        interval in prop_oneof![Just("30 s"), Just("60 s"), Just("7 s")],
        disorder in prop_oneof![Just("0 s"), Just("30 s"), Just("120 s")],
        (stored, malformed, is_paced, is_narrow) in (0usize..3, 0usize..3, any::<bool>(), any::<bool>()),
        parallelism in 1u32..4,
        legs in proptest::collection::vec(leg(), 0..6),
    ) {
        let share = |which: usize, most: f64| Value::Float([0.0, most / 10.0, most][which]);
        let mut more = vec![
            ("seed", Value::Integer(seed)),
            ("trucks", Value::Integer(trucks)),
            ("duration", Value::Text(format!("{minutes} min"))),
            ("report_interval", interval.into()),
            ("disorder_max", disorder.into()),
            ("duplicates", Value::Float(0.2)),
            ("stored_and_forwarded", share(stored, 0.1)),
            ("malformed", share(malformed, 0.5)),
        ];
        if is_paced {
            more.push(("speedup", Value::Integer(1_000)));
        }
        let settings = settings(&more);
        let projection = is_narrow.then(|| vec!["truck_id".to_owned(), "received_at".to_owned()]);
        run(async { check(&FleetSource, &settings, splits(&settings, parallelism).await, projection, &legs).await });
    }
}

#[test]
fn truth_is_written_though_the_first_split_ends_before_a_crash() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("truth.csv");
    let text = path.to_str().expect("UTF-8");
    let settings = settings(&[
        ("trucks", 30.into()),
        ("duration", "2 h".into()),
        ("delayed", Value::Float(0.9)),
        ("truth_path", text.into()),
    ]);
    run(async {
        let all = splits(&settings, 2).await;
        let mut reader = FleetSource.reader(context(&settings, all.clone(), 2, 1_000)).await.expect("opens");
        let mut given = Given::default();
        while !given.finished.contains(&SplitIndex(0)) {
            read(reader.as_mut(), 1, &mut given).await.expect("reads");
        }
        assert!(path.is_file(), "the truth comes before its split is finished");
        let open = resume(&all, reader.positions().expect("known"));
        drop(reader);
        let mut reader = FleetSource.reader(context(&settings, open, 2, 1_000)).await.expect("opens");
        read(reader.as_mut(), usize::MAX, &mut given).await.expect("reads");
        drop(reader);
        let lines: Vec<String> = std::fs::read_to_string(&path).expect("reads").lines().map(str::to_owned).collect();
        let mut distinct = lines.clone();
        distinct.dedup();
        assert!(lines.len() > 5 && distinct == lines, "written once: {lines:?}");
    });
    let left: Vec<_> = std::fs::read_dir(folder.path()).expect("lists").collect();
    assert_eq!(left.len(), 2, "{left:?}");
}
