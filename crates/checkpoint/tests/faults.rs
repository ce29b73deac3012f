//! The S3 store over a wire that breaks: between client and server stands a proxy that loses, delays, cuts and changes
//! what passes. Whatever happens, won stays won, lost stays lost, and damage is reported by name and never given out.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures::{StreamExt, stream};
use weir_checkpoint::state_object::{SectionHeader, StateObjectWriter};
use weir_checkpoint::store::Environment;
use weir_checkpoint::{
    CheckpointError, CheckpointKind, CheckpointStore, Incarnation, Manifest, S3Options, StoreOptions, open,
    read_manifest, write_manifest,
};
use weir_core::random::SplitMix64;
use weir_core::{AttemptNumber, CheckpointId, Clock, FencingToken, JobId, Random};
use weir_testkit::s3_server::credentials;
use weir_testkit::{Fault, FaultProxy, S3Server, SystemClock};

mod support;
use support::s3_options;

/// Short waits, so that faults that cost a timeout are over soon; long enough for a loaded machine.
const REQUEST_TIMEOUT: Duration = Duration::from_millis(1500);
const CALL_DEADLINE: Duration = Duration::from_secs(30);
/// Scenarios that run at once.
const AT_ONCE: usize = 12;
const URL: &str = "s3://checkpoints/p";

fn clock() -> Arc<SystemClock> {
    Arc::new(SystemClock::default())
}

fn options(server: &S3Server, proxy: &FaultProxy) -> StoreOptions {
    StoreOptions {
        request_timeout: REQUEST_TIMEOUT,
        call_deadline: CALL_DEADLINE,
        range_bytes: 1000,
        ..s3_options(server, proxy.address())
    }
}

fn open_with(options: &StoreOptions, seed: u64) -> Arc<dyn CheckpointStore> {
    open(URL, options, clock(), Box::new(SplitMix64::new(seed))).expect("it is a good address")
}

fn bytes(length: usize, seed: u64) -> Bytes {
    let mut random = SplitMix64::new(seed);
    (0..length).map(|_| random.next_u64() as u8).collect()
}

/// What may befall a request, with the request done or not.
fn put_faults() -> Vec<Fault> {
    let mut faults = vec![
        Fault::None,
        Fault::HalfHead,
        Fault::Delay(Duration::from_millis(300)),
        Fault::FlipRequestBit(17),
        Fault::Truncate { keep: 0, is_length_matching: false },
    ];
    for applied in [false, true] {
        faults.extend([500, 503, 409].map(|code| Fault::Status { code, applied }));
        faults.extend([Fault::Fin { applied }, Fault::Reset { applied }, Fault::Silence { applied }]);
    }
    faults
}

/// What may befall the look that settles an unclear put.
fn look_faults() -> Vec<Vec<Fault>> {
    vec![
        vec![],
        vec![Fault::FlipAnswerBit(100)],
        vec![Fault::FlipAnswerBit(100), Fault::FlipAnswerBit(101)],
        vec![Fault::Truncate { keep: 50, is_length_matching: true }],
        vec![Fault::Truncate { keep: 50, is_length_matching: false }],
        vec![Fault::Status { code: 503, applied: false }, Fault::Reset { applied: false }],
        vec![Fault::Silence { applied: false }],
        vec![Fault::HalfHead, Fault::Delay(Duration::from_millis(200))],
    ]
}

/// Carries b10 of the failure list, and the first trap of S3: an answer that is lost after the put was done comes back as
/// "already exists", and a conflict as the same with nothing there.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_put_is_settled_whatever_is_lost() {
    let server = S3Server::start().await;
    let direct = open_with(&s3_options(&server, server.address()), 1);
    let mut scenarios = Vec::new();
    for put in put_faults() {
        for look in look_faults() {
            for is_taken in [false, true] {
                scenarios.push((scenarios.len() as u64, put.clone(), look.clone(), is_taken));
            }
        }
    }
    let runs = scenarios.into_iter().map(|(index, put, look, is_taken)| {
        let (server, direct) = (&server, Arc::clone(&direct));
        async move {
            let what = format!("put meets {put:?}, look {look:?}, taken: {is_taken}");
            let proxy = FaultProxy::start(server.address()).await;
            proxy.next("PUT", [put]);
            proxy.next("GET", look);
            let store = open_with(&options(server, &proxy), index);
            let path = format!("chk-{index}/manifest");
            let (ours, rival) = (bytes(300, 2 * index), bytes(300, 2 * index + 1));
            if is_taken {
                direct.put_new(&path, rival.clone()).await.expect("nothing is in its way");
            }
            let outcome = store.put_new(&path, ours.clone()).await;
            let there = direct.get_small(&path).await.expect("one of the two has won");
            match outcome {
                Ok(_) => assert!(!is_taken && there == ours, "{what}"),
                Err(error) => {
                    assert!(is_taken && there == rival, "{what}: {}", weir_core::error::report(&error));
                    assert_eq!(error.code(), "checkpoint-already-exists", "{what}");
                    assert!(error.to_string().contains(&path), "{what}: {error}");
                }
            }
            assert!(proxy.seen("PUT") >= 1);
        }
    });
    stream::iter(runs).buffer_unordered(AT_ONCE).collect::<Vec<()>>().await;
}

/// A rival comes in between our put that was not done and our next one: lost is lost.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_rival_in_between_wins() {
    let server = S3Server::start().await;
    let direct = open_with(&s3_options(&server, server.address()), 1);
    let proxy = FaultProxy::start(server.address()).await;
    let store = open_with(&options(&server, &proxy), 2);
    proxy.next("PUT", [Fault::Silence { applied: false }]);
    let (ours, rival) = (bytes(300, 1), bytes(300, 2));
    let ours = store.put_new("a/manifest", ours);
    let rival = async {
        // Our put is under way, and silent.
        while proxy.seen("PUT") == 0 {
            clock().sleep(Duration::from_millis(5)).await;
        }
        direct.put_new("a/manifest", rival).await
    };
    let (ours, rival) = futures::join!(ours, rival);
    assert!(rival.is_ok());
    assert_eq!(ours.expect_err("the rival was first").code(), "checkpoint-already-exists");
}

fn object(path: &str) -> (Bytes, weir_checkpoint::SectionRef) {
    let mut writer = StateObjectWriter::new();
    let header = SectionHeader { table: "t".to_owned(), rows: 9, first_key_group: 1, last_key_group: 2 };
    writer.append(header.clone(), &bytes(400, 1)).expect("it is good");
    writer.append(header, &bytes(600, 2)).expect("it is good");
    let (bytes, mut sections) = writer.finish(path);
    (bytes, sections.remove(1))
}

/// What becomes of a read that meets the same fault every time.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Always {
    /// It tells of damage.
    Damage,
    /// It tells that the store cannot be reached.
    Unreachable,
    /// It comes through piece by piece.
    Right,
}

fn get_faults(whole: &[u8]) -> Vec<(Fault, Always)> {
    let replace = |status, body: &[u8]| Fault::Replace { status, body: body.to_vec() };
    let cut = |keep, is_length_matching| Fault::Truncate { keep, is_length_matching };
    vec![
        (Fault::None, Always::Right),
        (Fault::FlipAnswerBit(77), Always::Damage),
        (cut(100, true), Always::Damage),
        (cut(0, true), Always::Damage),
        // The range is ignored, openly and with a lie.
        (replace(200, whole), Always::Damage),
        (replace(206, whole), Always::Damage),
        (replace(206, b""), Always::Damage),
        (cut(400, false), Always::Right),
        (cut(0, false), Always::Unreachable),
        (Fault::HalfHead, Always::Unreachable),
        (Fault::Status { code: 500, applied: false }, Always::Unreachable),
        (Fault::Status { code: 503, applied: true }, Always::Unreachable),
        (Fault::Fin { applied: true }, Always::Unreachable),
        (Fault::Reset { applied: false }, Always::Unreachable),
        (Fault::Silence { applied: true }, Always::Unreachable),
    ]
}

/// Carries b9 of the failure list: a read that is hurt once comes out right; one that is hurt every time is reported.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn b9_reads_are_right_or_reported() {
    let server = S3Server::start().await;
    let direct = open_with(&s3_options(&server, server.address()), 1);
    let (whole, section) = object("a/data/x");
    let stored = direct.put_new("a/data/x", whole.clone()).await.expect("nothing is in its way");
    let runs = get_faults(&whole).into_iter().map(|(fault, always)| {
        let (server, section, stored, whole) = (&server, &section, &stored, &whole);
        async move {
            let proxy = FaultProxy::start(server.address()).await;
            let store = open_with(&options(server, &proxy), 2);
            proxy.next("GET", [fault.clone()]);
            assert_eq!(store.get_section(section).await.expect("hurt once"), bytes(600, 2), "{fault:?}");
            proxy.next("GET", [Fault::None, fault.clone()]);
            assert_eq!(store.get(stored).await.expect("hurt once"), *whole, "{fault:?}");
            assert_eq!(proxy.waiting(), 0, "{fault:?}: it was met");

            proxy.always("GET", fault.clone());
            let patient = StoreOptions { call_deadline: Duration::from_secs(3), ..options(server, &proxy) };
            let store = open_with(&patient, 3);
            let read = [
                store.get_section(section).await.map(|read| assert_eq!(read, bytes(600, 2), "{fault:?}")),
                store.get(stored).await.map(|read| assert_eq!(read, *whole, "{fault:?}")),
            ];
            for outcome in read {
                let became = match &outcome {
                    Ok(()) => Always::Right,
                    Err(error) if error.is_damage() => Always::Damage,
                    Err(CheckpointError::Unreachable { .. }) => Always::Unreachable,
                    Err(error) => panic!("{fault:?}: {}", weir_core::error::report(error)),
                };
                assert_eq!(became, always, "{fault:?}");
                if let Err(error) = outcome {
                    assert!(error.to_string().contains("s3://checkpoints/p/a/data/x"), "{fault:?}: {error}");
                }
            }
        }
    });
    stream::iter(runs).buffer_unordered(AT_ONCE).collect::<Vec<()>>().await;
}

/// Carries b9 of the failure list: the client goes on after a broken body with a range, the server ignores it, and the
/// answer is longer than the object. The client calls that a success.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn b9_range_ignored_on_resume_is_found() {
    let server = S3Server::start().await;
    let proxy = FaultProxy::start(server.address()).await;
    let store = open_with(&options(&server, &proxy), 1);
    let ours = bytes(900, 1);
    let object = store.put_new("a/data/x", ours.clone()).await.expect("nothing is in its way");
    for status in [200, 206] {
        let cut = Fault::Truncate { keep: 500, is_length_matching: false };
        proxy.next("GET", [cut, Fault::Replace { status, body: ours.to_vec() }]);
        assert_eq!(store.get(&object).await.expect("hurt once"), ours);
        assert_eq!(proxy.waiting(), 0);
    }
}

fn manifest() -> Manifest {
    Manifest {
        job: JobId(1),
        job_name: "j".repeat(300),
        incarnation: Incarnation(2),
        checkpoint: CheckpointId(3),
        kind: CheckpointKind::Checkpoint,
        attempt: FencingToken { term: 1, attempt: AttemptNumber(1) },
        created_unix_ms: 0,
        key_group_count: 128,
        graph: Bytes::new(),
        operators: Vec::new(),
    }
}

/// Carries b6 and b7 of the failure list: a manifest is read whole or its reading fails by name.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn b6_manifests_are_read_whole_or_reported() {
    let server = S3Server::start().await;
    let proxy = FaultProxy::start(server.address()).await;
    let store = open_with(&options(&server, &proxy), 1);
    let manifest = manifest();
    write_manifest(store.as_ref(), &manifest).await.expect("nothing is in its way");
    let cuts = [0, 1, 100, 400].map(|keep| Fault::Truncate { keep, is_length_matching: true });
    let flips = [0, 111, 2222].map(Fault::FlipAnswerBit);
    let open_cut = Fault::Truncate { keep: 100, is_length_matching: false };
    for fault in cuts.into_iter().chain(flips).chain([open_cut]) {
        proxy.next("GET", [fault.clone()]);
        let read = read_manifest(store.as_ref(), &manifest.path()).await.expect("hurt once");
        assert_eq!(read, manifest, "{fault:?}");
        if !matches!(fault, Fault::Truncate { is_length_matching: false, .. }) {
            proxy.next("GET", [fault.clone(), fault.clone(), fault.clone()]);
            let error = read_manifest(store.as_ref(), &manifest.path()).await.expect_err("hurt every time");
            assert!(error.is_damage() && error.to_string().contains(&manifest.path()), "{fault:?}: {error}");
        }
        assert_eq!(proxy.waiting(), 0, "{fault:?}: it was met");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn lists_and_deletes_come_through() {
    let server = S3Server::start().await;
    let runs = put_faults().into_iter().enumerate().map(|(index, fault)| {
        let server = &server;
        async move {
            let proxy = FaultProxy::start(server.address()).await;
            let store = open_with(&options(server, &proxy), index as u64);
            let path = format!("l{index}/x");
            store.put_new(&path, bytes(3, 1)).await.expect("nothing is in its way");
            // A list that is cut where its length says so is no list: the client must not take it for an empty one.
            proxy.next("GET", [fault.clone()]);
            let listed = store.list(&format!("l{index}")).await.expect("hurt once");
            assert_eq!(listed.len(), 1, "{fault:?}");
            for method in ["DELETE", "POST"] {
                proxy.next(method, [fault.clone()]);
            }
            store.delete(&path).await.unwrap_or_else(|error| panic!("{fault:?}: {}", weir_core::error::report(&error)));
            assert!(store.list(&format!("l{index}")).await.expect("nothing is in its way").is_empty(), "{fault:?}");
            assert_eq!(proxy.waiting(), 1, "{fault:?}: the list and the delete met it");
        }
    });
    stream::iter(runs).buffer_unordered(AT_ONCE).collect::<Vec<()>>().await;
}

/// Carries b10 of the failure list: a store that says "slow down" for ever costs the call its deadline, not more, and is
/// not stormed meanwhile.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn b10_calls_end_at_their_deadline() {
    let server = S3Server::start().await;
    for fault in [Fault::Status { code: 503, applied: false }, Fault::Silence { applied: false }] {
        let proxy = FaultProxy::start(server.address()).await;
        for method in ["PUT", "GET", "DELETE", "POST", "HEAD"] {
            proxy.always(method, fault.clone());
        }
        let deadline = Duration::from_secs(2);
        let store = open_with(&StoreOptions { call_deadline: deadline, ..options(&server, &proxy) }, 1);
        let clock = clock();
        let began = clock.monotonic();
        let object = weir_checkpoint::ObjectRef { path: "x".to_owned(), length: 5, checksum: 0 };
        let errors = futures::join!(
            store.put_new("x", bytes(5, 1)),
            store.get(&object),
            store.get_small("x"),
            store.list(""),
            store.delete("x"),
        );
        let took = clock.monotonic() - began;
        let codes = [
            errors.0.expect_err("no answer").code(),
            errors.1.expect_err("no answer").code(),
            errors.2.expect_err("no answer").code(),
            errors.3.expect_err("no answer").code(),
            errors.4.expect_err("no answer").code(),
        ];
        assert_eq!(codes, ["checkpoint-store-unreachable"; 5], "{fault:?}");
        assert!(took >= deadline && took < deadline * 3, "{fault:?}: {took:?}");
        assert!(proxy.seen("PUT") + proxy.seen("GET") < 150, "{fault:?}: backoff");
    }
}

/// Carries b10 of the failure list: however many tasks upload, so many requests are under way and not more.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn b10_requests_in_flight_are_bounded() {
    let server = S3Server::start().await;
    let proxy = FaultProxy::start(server.address()).await;
    proxy.always("PUT", Fault::Delay(Duration::from_millis(50)));
    let options = options(&server, &proxy);
    let store = open_with(&options, 1);
    let puts = (0..40).map(|index| {
        let store = &store;
        async move { store.put_new(&format!("f/{index}"), bytes(10, index)).await }
    });
    let outcomes = futures::future::join_all(puts).await;
    assert!(outcomes.iter().all(Result::is_ok), "{outcomes:?}");
    assert_eq!((options.requests_in_flight_max, proxy.in_flight_max()), (8, 8));
}

/// The server is gone for some seconds: what is called meanwhile waits and comes through.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_absent_server_is_waited_for() {
    let mut server = S3Server::start().await;
    let store = open_with(&StoreOptions { call_deadline: CALL_DEADLINE, ..s3_options(&server, server.address()) }, 1);
    let object = store.put_new("before", bytes(2000, 1)).await.expect("nothing is in its way");
    server.kill();
    let back = async {
        clock().sleep(Duration::from_secs(3)).await;
        server.start_again().await;
    };
    let (put, got, listed, ()) =
        futures::join!(store.put_new("during", bytes(10, 2)), store.get(&object), store.list(""), back);
    put.expect("the server came back");
    assert_eq!(got.expect("the server came back"), bytes(2000, 1));
    assert!(!listed.expect("the server came back").is_empty());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_check_says_which_step_failed_and_what_to_try() {
    let server = S3Server::start().await;
    let good = s3_options(&server, server.address());
    let check = async |url: &str, options: &StoreOptions| {
        let store = open(url, options, clock(), Box::new(SplitMix64::new(1))).expect("it is a good address");
        let error = store.check().await.expect_err("something is wrong");
        (error.code(), weir_core::error::report(&error))
    };
    for (key, secret) in [("nobody", "x"), ("weir-test-key", "wrong")] {
        let wrong = StoreOptions { environment: Environment::of(credentials(key, secret)), ..good.clone() };
        let (code, report) = check(URL, &wrong).await;
        assert_eq!(code, "checkpoint-store-permission", "{report}");
        assert!(report.contains("its put") && report.contains("AWS_ACCESS_KEY_ID"), "{report}");
        assert!(!report.contains(secret) || secret == "x", "{report}");
    }
    let (code, report) = check("s3://no-such-bucket/p", &good).await;
    assert_eq!(code, "checkpoint-store-refused", "{report}");
    assert!(report.contains("that the bucket exists"), "{report}");

    // A server that takes every put, condition or not: the second put of the check goes to another name.
    let proxy = FaultProxy::start(server.address()).await;
    let liar = open_with(&options(&server, &proxy), 1);
    proxy.next("PUT", [Fault::None, Fault::Status { code: 200, applied: false }]);
    let report = weir_core::error::report(&liar.check().await.expect_err("it overwrites"));
    assert!(report.contains("second put") && report.contains("If-None-Match"), "{report}");
}

/// What can be known to be wrong without asking the server is said when the store is opened.
#[test]
fn bad_options_are_refused_at_once() {
    let open_s3 = |endpoint: &str, allow_http, keys: Vec<(String, String)>| {
        let s3 = S3Options { endpoint: Some(endpoint.to_owned()), path_style: true, allow_http, region: None };
        let options = StoreOptions { s3, environment: Environment::of(keys), ..StoreOptions::default() };
        let opened = open(URL, &options, clock(), Box::new(SplitMix64::new(1)));
        opened.map(|_| ()).map_err(|error| (error.code(), error.to_string()))
    };
    let keys = || credentials("a", "b");
    for good in ["https://store.example", "http://127.0.0.1:1", "http://[::1]:1", "http://localhost:1"] {
        open_s3(good, false, keys()).expect(good);
    }
    open_s3("http://store.example", true, keys()).expect("it is allowed");
    for (endpoint, keys, reason) in [
        ("http://store.example:9000", keys(), "s3.allow-http"),
        ("store.example:9000", keys(), "begins with https://"),
        ("https://key:hunter2@store.example", keys(), "and nothing else"),
        ("https://store.example", Vec::new(), "AWS_ACCESS_KEY_ID"),
        ("https://store.example", keys()[..1].to_vec(), "Secret"),
    ] {
        let (code, text) = open_s3(endpoint, false, keys).expect_err(endpoint);
        assert_eq!(code, "checkpoint-store-url", "{text}");
        assert!(text.contains(reason) && !text.contains("hunter2"), "{text}");
    }
}

/// A proxy in the environment is for the world outside: a server on this machine is reached directly. Runs itself again
/// with the environment set, because a process must not change its own.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn proxies_of_the_environment_do_not_catch_loopback() {
    const INNER: &str = "WEIR_TEST_BEHIND_PROXY";
    if std::env::var_os(INNER).is_some() {
        let server = S3Server::start().await;
        let store = open_with(&s3_options(&server, server.address()), 1);
        store.check().await.expect("it is reached directly");
        return;
    }
    let mut command = std::process::Command::new(std::env::current_exe().expect("a test is a program"));
    command
        .args(["--exact", "proxies_of_the_environment_do_not_catch_loopback"])
        .env(INNER, "1")
        .env_remove("NO_PROXY");
    // Nobody listens there: who asks it fails.
    for name in ["HTTP_PROXY", "http_proxy", "HTTPS_PROXY", "https_proxy", "ALL_PROXY", "all_proxy"] {
        command.env(name, "http://127.0.0.1:9");
    }
    let output = command.env_remove("no_proxy").output().expect("a test can run itself");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stdout));
}
