//! The contract of sinks over the wire: a real S3 server, and between it and the sink a proxy that loses, cuts and
//! refuses. Guards what `sink_contract_tests.rs` guards on disk, and `b10` (answers that are lost) at publishing.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::Path;
use std::time::Duration;

use proptest::prelude::*;
use proptest::test_runner::TestRunner;
use weir_core::Value;
use weir_s3::{Environment, Limits, S3Options};
use weir_testkit::s3_server::{BUCKET, credentials};
use weir_testkit::{Fault, FaultProxy, S3Server};

use super::FileSink;
use super::bucket::{Access, Bucket, LIMITS};
use super::memory::MERGED_PARTS;
use super::sink_contract_tests::{cancelled, names, rows_of, small_cuts, sorted, visible_rows};
use crate::sink_contract::{Death, Play, Step, key_of, script};
use crate::source_contract::Fields;

/// Short waits, so that faults that cost a timeout are over soon.
fn limits() -> Limits {
    Limits { request_timeout: Duration::from_millis(1500), call_deadline: Duration::from_secs(20), ..LIMITS }
}

fn sink(server: &S3Server) -> FileSink {
    FileSink::with(Environment::of(server.environment()), limits())
}

fn settings(address: SocketAddr, path: &str, more: &[(&str, Value)]) -> Fields {
    let mut map = Fields::from([
        ("path".to_owned(), Value::Text(format!("s3://{BUCKET}/{path}"))),
        ("s3.endpoint".to_owned(), Value::Text(format!("http://{address}"))),
        ("s3.path-style-access".to_owned(), Value::Bool(true)),
    ]);
    map.extend(more.iter().map(|(name, value)| ((*name).to_owned(), value.clone())));
    map
}

/// What is open or hidden in a directory of the bucket.
async fn leftovers(server: &S3Server, directory: &str) -> Vec<String> {
    let options =
        S3Options { endpoint: Some(format!("http://{}", server.address())), path_style: true, ..S3Options::default() };
    let access = Access { options, environment: Environment::of(server.environment()), limits: limits() };
    let url = format!("s3://{BUCKET}/{directory}");
    let looked = tokio::task::spawn_blocking(move || {
        let bucket = Bucket::open(&url, &access).expect("it is a good address");
        let open = bucket.uploads_in(Path::new(&url)).expect("lists").into_iter().map(|(name, _)| name);
        open.chain(bucket.hidden_in(Path::new(&url)).expect("lists").into_iter().map(|object| object.name)).collect()
    });
    looked.await.expect("no panic")
}

fn run<T>(work: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime").block_on(work)
}

fn runner(cases: u32) -> TestRunner {
    TestRunner::new(ProptestConfig { cases, failure_persistence: None, ..ProptestConfig::default() })
}

#[test]
fn a5_a7_a8_a11_a12_directory_in_a_bucket_shows_each_row_once_and_only_what_is_published() {
    let server = run(S3Server::start());
    let format = prop_oneof![Just(("csv", "none")), Just(("json", "gzip")), Just(("parquet", "zstd"))];
    let roll = prop_oneof![
        Just(vec![]),
        Just(vec![("roll_bytes", Value::Integer(30))]),
        Just(vec![("roll_interval", Value::from("10 s"))])
    ];
    let cases = std::cell::Cell::new(0);
    let case = (script(20), format, roll, 1usize..4, any::<bool>());
    let ran = runner(30).run(&case, |(script, (format, compression), roll, parallelism, again)| {
        let directory = format!("d{}/out", cases.replace(cases.get() + 1));
        let more = [&[("format", format.into()), ("compression", compression.into())], roll.as_slice()].concat();
        let target = server.file(&directory);
        run(async {
            let sink = sink(&server);
            let mut play = Play::open(&sink, settings(server.address(), &directory, &more), parallelism).await;
            play.run(&script, |play| {
                let published = sorted(&play.covered[..play.published_rows]);
                assert_eq!(visible_rows(&target), published, "only what is published");
            })
            .await;
            play.end(again).await;
            assert_eq!(visible_rows(&target), sorted(&play.covered));
            assert_eq!(leftovers(&server, &directory).await, [""; 0]);
        });
        let (visible, hidden) = names(&target);
        prop_assert_eq!(hidden, Vec::<String>::new());
        for name in visible {
            prop_assert!(!rows_of(&target.join(&name)).is_empty(), "{} is empty", name);
        }
        Ok(())
    });
    ran.expect("every script keeps the contract");
}

#[test]
fn a5_a7_a8_a11_a12_single_file_in_a_bucket_is_shown_once_and_whole() {
    let server = run(S3Server::start());
    let name = prop_oneof![Just("out.csv"), Just("out.csv.gz"), Just("out.json.zst"), Just("out.parquet")];
    let cases = std::cell::Cell::new(0);
    let case = (script(20), name, any::<bool>(), any::<bool>());
    let ran = runner(30).run(&case, |(script, name, has_old, again)| {
        let directory = format!("f{}", cases.replace(cases.get() + 1));
        let target = server.file(&directory).join(name);
        if has_old {
            std::fs::create_dir_all(server.file(&directory)).expect("a test may make a directory");
            std::fs::write(&target, "old").expect("writes");
        }
        run(async {
            let (sink, path) = (sink(&server), format!("{directory}/{name}"));
            let mut play = Play::open(&sink, settings(server.address(), &path, &[]), 1).await;
            play.run(&script, |_| {
                let old = std::fs::read_to_string(&target).ok();
                assert_eq!(old.as_deref(), has_old.then_some("old"), "readers see nothing before the end");
            })
            .await;
            play.end(again).await;
            assert_eq!(rows_of(&target), play.covered, "all rows in their order");
            assert_eq!(leftovers(&server, &directory).await, [""; 0]);
        });
        prop_assert_eq!(names(&server.file(&directory)), (vec![name.to_owned()], vec![]));
        Ok(())
    });
    ran.expect("every script keeps the contract");
}

#[test]
fn last_row_per_key_and_many_small_parts_in_a_bucket() {
    let server = run(S3Server::start());
    run(async {
        let sink = sink(&server);
        let map = settings(server.address(), "u/last.csv", &[("upsert_key", "k".into())]);
        let mut play = Play::open(&sink, map, 1).await;
        play.run(&small_cuts(5), |_| {}).await;
        play.end(false).await;
        let last: BTreeMap<i64, i64> = play.covered.iter().map(|row| (key_of(*row), *row)).collect();
        assert_eq!(visible_rows(&server.file("u")), sorted(&last.into_values().collect::<Vec<_>>()));
        assert_eq!(leftovers(&server, "u").await, [""; 0]);
        for name in ["many.csv", "many.parquet"] {
            let map = settings(server.address(), &format!("m/{name}"), &[]);
            let mut play = Play::open(&sink, map, 1).await;
            play.run(&small_cuts(2 * MERGED_PARTS), |_| {}).await;
            let crash = Step::Crash { prepared: 1, at_end: false, how: Death::Killed, parallelism: 1 };
            play.run(&[Step::Write { subtask: 0, rows: 1 }, crash], |_| {}).await;
            play.end(false).await;
            assert_eq!(rows_of(&server.file(&format!("m/{name}"))), play.covered, "all rows in their order");
            assert_eq!(leftovers(&server, "m").await, [""; 0]);
        }
    });
}

/// What may befall the request that makes output visible.
fn publish_faults() -> Vec<Vec<Fault>> {
    let mut faults = vec![vec![Fault::HalfHead], vec![Fault::Delay(Duration::from_millis(300))]];
    for applied in [false, true] {
        faults.extend([500, 503, 409].map(|code| vec![Fault::Status { code, applied }]));
        faults.extend(
            [Fault::Fin { applied }, Fault::Reset { applied }, Fault::Silence { applied }].map(|one| vec![one]),
        );
    }
    faults.push(vec![Fault::Reset { applied: true }; 3]);
    faults.push(vec![Fault::Status { code: 503, applied: false }; 4]);
    faults
}

#[test]
fn b10_lost_answers_at_publishing_show_each_row_once() {
    let server = run(S3Server::start());
    for (number, faults) in publish_faults().into_iter().enumerate() {
        for name in ["", "out.json"] {
            run(async {
                let proxy = FaultProxy::start(server.address()).await;
                let (sink, directory) = (sink(&server), format!("p{number}{name}"));
                let path = format!("{directory}/{name}");
                let format = if name.is_empty() { &[("format", "json".into())][..] } else { &[] };
                let mut play = Play::open(&sink, settings(proxy.address(), &path, format), 1).await;
                play.run(&small_cuts(3), |_| {}).await;
                let output = play.prepare_end().await;
                // The first request of a single file begins its upload: both, and all later ones, are broken.
                proxy.next("POST", faults.clone());
                play.publish_all(&output).await.expect("it is published");
                assert_eq!(proxy.waiting(), 0, "{faults:?} came");
                play.publish_all(&output).await.expect("and again");
                assert_eq!(visible_rows(&server.file(&directory)), sorted(&play.covered), "{name} {faults:?}");
                assert_eq!(leftovers(&server, &directory).await, [""; 0], "{name} {faults:?}");
            });
        }
    }
}

#[test]
fn faults_while_writing_cost_time_and_no_row() {
    let server = run(S3Server::start());
    let broken = [
        ("POST", Fault::Reset { applied: true }),
        ("POST", Fault::Status { code: 503, applied: false }),
        ("PUT", Fault::Reset { applied: true }),
        ("PUT", Fault::Fin { applied: false }),
        ("PUT", Fault::Status { code: 503, applied: true }),
        ("PUT", Fault::FlipRequestBit(9)),
        ("GET", Fault::FlipAnswerBit(9)),
        ("GET", Fault::Truncate { keep: 3, is_length_matching: true }),
        ("GET", Fault::Status { code: 503, applied: false }),
    ];
    for (number, (method, fault)) in broken.into_iter().enumerate() {
        run(async {
            let proxy = FaultProxy::start(server.address()).await;
            let (sink, directory) = (sink(&server), format!("w{number}"));
            let map = settings(proxy.address(), &format!("{directory}/out.csv"), &[]);
            let mut play = Play::open(&sink, map, 1).await;
            proxy.next(method, [fault.clone()]);
            play.run(&small_cuts(3), |_| {}).await;
            let output = play.prepare_end().await;
            play.publish_all(&output).await.expect("it is published");
            assert_eq!(proxy.waiting(), 0, "{method} {fault:?} came");
            assert_eq!(rows_of(&server.file(&directory).join("out.csv")), play.covered, "{method} {fault:?}");
            assert_eq!(leftovers(&server, &directory).await, [""; 0], "{method} {fault:?}");
        });
    }
}

#[test]
fn lost_parts_are_an_error_and_never_a_shorter_file() {
    let server = run(S3Server::start());
    for (name, is_damaged) in [("out.csv", false), ("out.parquet", false), ("out.csv", true)] {
        run(async {
            let directory = format!("l{}{is_damaged}", name.len());
            let sink = sink(&server);
            let mut play = Play::open(&sink, settings(server.address(), &format!("{directory}/{name}"), &[]), 1).await;
            play.run(&small_cuts(5), |_| {}).await;
            let output = play.prepare_end().await;
            let hidden = names(&server.file(&directory)).1;
            let part = server.file(&directory).join(&hidden[2]);
            match is_damaged {
                false => std::fs::remove_file(part).expect("removes"),
                true => {
                    let bytes = std::fs::read(&part).expect("reads");
                    std::fs::write(part, vec![b'1'; bytes.len()]).expect("writes");
                }
            }
            let error = play.publish_all(&output).await.expect_err("a part is not what it was");
            assert_eq!(error.code, "sink-part-lost", "{error}");
            assert!(error.message.contains(&hidden[2]), "{error}");
            assert_eq!(names(&server.file(&directory)).0, [""; 0], "nothing is shown");
        });
    }
    run(async {
        let sink = sink(&server);
        let map = settings(server.address(), "aborted", &[("format", "csv".into())]);
        let mut play = Play::open(&sink, map, 1).await;
        play.run(&small_cuts(1), |_| {}).await;
        let output = play.prepare_end().await;
        sink_committer(&sink, &server).await.discard(output.clone()).await.expect("discards");
        let error = play.publish_all(&output).await.expect_err("the upload is gone");
        assert_eq!(error.code, "sink-part-lost", "{error}");
    });
}

async fn sink_committer(sink: &FileSink, server: &S3Server) -> Box<dyn weir_operator_api::sink::SinkCommitter> {
    use weir_operator_api::SinkFactory;
    sink.committer(&settings(server.address(), "any", &[("format", "csv".into())])).await.expect("opens")
}

#[test]
fn only_dead_uploads_of_the_same_job_and_sink_are_swept() {
    let server = run(S3Server::start());
    run(async {
        let mark = "000000000000000000000000000000db-8bb39110";
        let (ours, newer) = (format!("part-{mark}-2-1-1-7.csv"), format!("part-{mark}-2-2-1-7.csv"));
        let mut kept = vec![
            newer,
            "part-000000000000000000000000000000dc-8bb39110-2-1-1-7.csv".to_owned(),
            "part-000000000000000000000000000000db-00000000-2-1-1-7.csv".to_owned(),
            "other.csv".to_owned(),
        ];
        let begin = [&[ours][..], &kept].concat();
        let options = S3Options {
            endpoint: Some(format!("http://{}", server.address())),
            path_style: true,
            ..S3Options::default()
        };
        let access = Access { options, environment: Environment::of(server.environment()), limits: limits() };
        let begun = tokio::task::spawn_blocking(move || {
            let bucket = Bucket::open(&format!("s3://{BUCKET}/s"), &access).expect("it is a good address");
            begin.iter().for_each(|name| {
                bucket.begin(Path::new(&format!("s3://{BUCKET}/s/{name}"))).map(drop).expect("begins");
            });
        });
        begun.await.expect("no panic");
        let sink = sink(&server);
        let mut play = Play::open(&sink, settings(server.address(), "s", &[("format", "csv".into())]), 1).await;
        let crash = Step::Crash { prepared: 0, at_end: false, how: Death::Killed, parallelism: 1 };
        play.run(&[Step::Write { subtask: 0, rows: 1 }, Step::Checkpoint { completes: true }, crash], |_| {}).await;
        play.end(false).await;
        assert_eq!(names(&server.file("s")).0.len(), 1);
        let mut left = leftovers(&server, "s").await;
        left.sort();
        kept.sort();
        assert_eq!(left, kept);
    });
}

#[test]
fn cancelled_jobs_leave_no_upload_and_no_part_in_a_bucket() {
    let server = run(S3Server::start());
    let cases = std::cell::Cell::new(0);
    let case = (script(12), any::<bool>(), any::<bool>(), 1usize..3);
    let ran = runner(20).run(&case, |(script, keeps, is_file, parallelism)| {
        let script: Vec<Step> = script.into_iter().filter(|step| !matches!(step, Step::Zombie { .. })).collect();
        let directory = format!("c{}", cases.replace(cases.get() + 1));
        let path = if is_file { format!("{directory}/out.csv") } else { directory.clone() };
        run(async {
            let sink = sink(&server);
            let map = settings(server.address(), &path, &[("format", "csv".into())]);
            let mut play = Play::open(&sink, map, parallelism).await;
            cancelled(&mut play, &script, (Death::Killed, keeps)).await;
            if !is_file {
                assert_eq!(visible_rows(&server.file(&directory)), sorted(&play.covered));
            }
            if !is_file || !keeps {
                assert_eq!(leftovers(&server, &directory).await, [""; 0]);
            }
            if keeps {
                play.resume().await;
                play.end(false).await;
                assert_eq!(visible_rows(&server.file(&directory)), sorted(&play.covered));
                assert_eq!(leftovers(&server, &directory).await, [""; 0]);
            }
        });
        Ok(())
    });
    ran.expect("every script keeps the contract");
}

#[test]
fn buckets_that_cannot_be_used_are_told_at_once() {
    use weir_operator_api::SinkFactory;
    let server = run(S3Server::start());
    run(async {
        let wrong_key = FileSink::with(Environment::of(credentials("nobody", "nothing")), limits());
        let no_key = FileSink::with(Environment::default(), limits());
        let good = sink(&server);
        for (sink, path) in [(&wrong_key, "out.csv"), (&no_key, "out.csv"), (&good, "../no-such-bucket/out.csv")] {
            let mut map = settings(server.address(), path, &[]);
            if path.starts_with("..") {
                map.insert("path".to_owned(), "s3://no-such-bucket/out.csv".into());
            }
            let context = crate::sink_contract::context(&map, 1);
            let error = sink.writer(context).await.err().expect("it cannot be used");
            let told = weir_core::error::report(&error);
            assert_eq!((error.code, error.domain), ("sink-io", weir_core::ErrorDomain::User), "{told}");
        }
        let problems = |path: &str| {
            let map = settings(server.address(), "x", &[("path", path.into()), ("format", "csv".into())]);
            let reader = weir_core::Settings::new("out", &map);
            good.describe(&reader, &crate::sink_contract::schema());
            reader.finish().len()
        };
        assert_eq!(["s3://UP/x", "s3://bucket/a//b", "s3://bucket/../b", "s3://bucket/a/"].map(problems), [1, 1, 1, 0]);
    });
}
