//! What every checkpoint store keeps, run against memory, a local directory and an S3 server over the wire.

use std::path::PathBuf;
use std::sync::Arc;

use bytes::Bytes;
use futures::future::join_all;
use tempfile::TempDir;
use weir_checkpoint::state_object::{SectionHeader, StateObjectWriter};
use weir_checkpoint::{CheckpointStore, MemoryCheckpoints, ObjectRef, SectionRef, StoreOptions, layout, open};
use weir_core::random::SplitMix64;
use weir_testkit::{S3Server, SystemClock};

mod support;
use support::s3_options;

/// A store under test, what keeps it alive, and how to damage an object behind its back.
struct Subject {
    name: &'static str,
    store: Arc<dyn CheckpointStore>,
    tampered: Tampered,
}

/// Where the bytes of a store lie.
enum Tampered {
    /// In memory.
    Memory(MemoryCheckpoints),
    /// In a directory, below a path.
    Directory(TempDir, PathBuf),
    /// In the directory of a server, below a prefix.
    Server(Box<S3Server>, String),
}

impl Tampered {
    /// Replaces an object's bytes, or removes it.
    fn replace(&self, path: &str, bytes: Option<Bytes>) {
        let file = match self {
            Tampered::Memory(store) => return store.damage(path, bytes),
            Tampered::Directory(directory, below) => directory.path().join(below).join(path),
            Tampered::Server(server, prefix) => server.file(&format!("{prefix}/{path}")),
        };
        match bytes {
            Some(bytes) => std::fs::write(file, bytes).expect("a test may write its own file"),
            None => std::fs::remove_file(file).expect("a test may remove its own file"),
        }
    }
}

/// Small ranges, so that a small object is read in several.
const RANGE_BYTES: u64 = 1000;

async fn subjects() -> Vec<Subject> {
    let memory = MemoryCheckpoints::new();
    let directory = TempDir::new().expect("a test may make a temporary directory");
    let url = format!("{}/not/there/yet", directory.path().display());
    let options = StoreOptions { range_bytes: RANGE_BYTES, ..StoreOptions::default() };
    let local = open(&url, &options, clock(), Box::new(SplitMix64::new(1))).expect("it is a good address");
    let server = S3Server::start().await;
    let options = StoreOptions { range_bytes: RANGE_BYTES, ..s3_options(&server, server.address()) };
    let s3 = open("s3://checkpoints/some/prefix", &options, clock(), Box::new(SplitMix64::new(2)));
    vec![
        Subject { name: "memory", store: Arc::new(memory.clone()), tampered: Tampered::Memory(memory) },
        Subject { name: "local", store: local, tampered: Tampered::Directory(directory, "not/there/yet".into()) },
        Subject {
            name: "s3",
            store: s3.expect("it is a good address"),
            tampered: Tampered::Server(Box::new(server), "some/prefix".into()),
        },
    ]
}

fn clock() -> Arc<SystemClock> {
    Arc::new(SystemClock::default())
}

fn bytes(length: usize, seed: u64) -> Bytes {
    use weir_core::Random;
    let mut random = SplitMix64::new(seed);
    (0..length).map(|_| random.next_u64() as u8).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_store_keeps_the_contract() {
    for subject in subjects().await {
        let (name, store) = (subject.name, subject.store.as_ref());
        store.check().await.unwrap_or_else(|error| panic!("{name}: {}", weir_core::error::report(&error)));
        assert_eq!(store.list("").await.expect(name), [], "{name}: the check leaves nothing behind");

        puts_are_final(name, store).await;
        objects_come_back(name, store).await;
        listings_are_exact(name, store).await;
        one_of_eight_wins(name, store).await;
        damage_is_named(&subject).await;
        paths_stay_inside(name, store).await;
    }
}

async fn puts_are_final(name: &str, store: &dyn CheckpointStore) {
    let ours = bytes(100, 1);
    let object = store.put_new("a/chk-1/manifest", ours.clone()).await.expect(name);
    assert_eq!(object, weir_checkpoint::state_object::object_ref("a/chk-1/manifest", &ours), "{name}");
    assert_eq!(store.put_new("a/chk-1/manifest", ours.clone()).await.expect(name), object, "{name}: the same bytes");
    for others in [bytes(100, 2), bytes(10, 3), bytes(5000, 4), ours.slice(1..), Bytes::new()] {
        let error = store.put_new("a/chk-1/manifest", others).await.expect_err(name);
        assert_eq!(error.code(), "checkpoint-already-exists", "{name}");
        assert!(error.to_string().contains("a/chk-1/manifest"), "{name}: {error}");
    }
    assert_eq!(store.get_small("a/chk-1/manifest").await.expect(name), ours, "{name}");
    store.delete("a/chk-1/manifest").await.expect(name);
    store.delete("a/chk-1/manifest").await.expect(name);
    assert_eq!(store.get_small("a/chk-1/manifest").await.expect_err(name).code(), "checkpoint-not-found");
    assert_eq!(store.get(&object).await.expect_err(name).code(), "checkpoint-not-found", "{name}");
    assert_eq!(store.get_small("a").await.expect_err(name).code(), "checkpoint-not-found", "{name}: a directory");
}

async fn objects_come_back(name: &str, store: &dyn CheckpointStore) {
    for (index, length) in [0, 1, 999, 1000, 1001, 2000, 25_001, 300_000].into_iter().enumerate() {
        let path = format!("b/data/{index}");
        let ours = bytes(length, index as u64);
        let object = store.put_new(&path, ours.clone()).await.expect(name);
        assert_eq!(store.get(&object).await.expect(name), ours, "{name}: {length} bytes");
    }
    let (ours, sections) = object("b/data/x");
    store.put_new("b/data/x", ours).await.expect(name);
    for (index, section) in sections.iter().enumerate() {
        let payload = store.get_section(section).await.expect(name);
        assert_eq!(payload, bytes(700 * index, index as u64), "{name}: section {index}");
    }
}

fn object(path: &str) -> (Bytes, Vec<SectionRef>) {
    let mut writer = StateObjectWriter::new();
    for index in 0..4 {
        let header = SectionHeader { table: "t".to_owned(), rows: index, first_key_group: 1, last_key_group: 2 };
        writer.append(header, &bytes(700 * index as usize, index)).expect("it is good");
    }
    writer.finish(path)
}

async fn listings_are_exact(name: &str, store: &dyn CheckpointStore) {
    let listed = |objects: Vec<weir_checkpoint::ListedObject>| -> Vec<(String, u64)> {
        objects.into_iter().map(|object| (object.path, object.length)).collect()
    };
    for path in ["c/x/1", "c/x/2", "c/xy/3", "c/z"] {
        store.put_new(path, bytes(7, 0)).await.expect(name);
    }
    let expected = |paths: &[&str]| paths.iter().map(|path| (path.to_string(), 7)).collect::<Vec<_>>();
    for prefix in ["c/x", "c/x/"] {
        assert_eq!(listed(store.list(prefix).await.expect(name)), expected(&["c/x/1", "c/x/2"]), "{name}: {prefix}");
    }
    assert_eq!(listed(store.list("c").await.expect(name)), expected(&["c/x/1", "c/x/2", "c/xy/3", "c/z"]), "{name}");
    assert_eq!(store.list("nothing/there").await.expect(name), [], "{name}");
    let all = store.list("").await.expect(name);
    assert!(all.len() > 4 && all.is_sorted_by(|a, b| a.path < b.path), "{name}");
    for path in ["c/x/1", "c/x/2", "c/xy/3", "c/z"] {
        store.delete(path).await.expect(name);
    }
    assert_eq!(store.list("c").await.expect(name), [], "{name}");
}

/// Eight writers, eight contents, one name: one wins, and its bytes are there. At sizes where a server answers a loser
/// with a reset, too.
async fn one_of_eight_wins(name: &str, store: &dyn CheckpointStore) {
    for (round, length) in [100, 100, 100, 1 << 20, 3 << 20].into_iter().enumerate() {
        let path = format!("race/chk-{round}/manifest");
        let contents: Vec<Bytes> = (0..8).map(|writer| bytes(length, 100 + writer)).collect();
        let puts = contents.iter().map(|content| store.put_new(&path, content.clone()));
        let outcomes = join_all(puts).await;
        let winners: Vec<usize> = (0..8).filter(|writer| outcomes[*writer].is_ok()).collect();
        assert_eq!(winners.len(), 1, "{name}, {length} bytes: {outcomes:?}");
        for outcome in outcomes.iter().filter_map(|outcome| outcome.as_ref().err()) {
            assert_eq!(outcome.code(), "checkpoint-already-exists", "{name}, {length} bytes: {outcome}");
        }
        let object = outcomes[winners[0]].as_ref().expect("it has won");
        assert_eq!(store.get(object).await.expect(name), contents[winners[0]], "{name}");
    }
}

/// Carries b7 and b9 of the failure list: what is damaged in the store is reported by name and never given out.
async fn damage_is_named(subject: &Subject) {
    let (name, store, path) = (subject.name, subject.store.as_ref(), "d/data/x");
    let (ours, sections) = object(path);
    let object = store.put_new(path, ours.clone()).await.expect(name);
    let last = sections.last().expect("there are four");
    let mut flipped = ours.to_vec();
    let byte = flipped.len() - 100;
    flipped[byte] ^= 1;
    let longer = [&ours[..], b"x"].concat();
    let cases: [(&str, Option<Vec<u8>>, &str); 5] = [
        ("a flipped bit", Some(flipped), "checkpoint-checksum"),
        ("a cut", Some(ours[..1500].to_vec()), "checkpoint-torn"),
        ("a cut to nothing", Some(Vec::new()), "checkpoint-torn"),
        ("a byte more", Some(longer), "checkpoint-torn"),
        ("gone", None, "checkpoint-not-found"),
    ];
    for (what, damaged, code) in cases {
        subject.tampered.replace(path, damaged.map(Bytes::from));
        for error in [store.get(&object).await.expect_err(what), store.get_section(last).await.expect_err(what)] {
            assert_eq!(error.code(), code, "{name}, {what}: {error}");
            assert!(error.to_string().contains(path), "{name}, {what}: {error}");
        }
        subject.tampered.replace(path, Some(ours.clone()));
        assert_eq!(store.get(&object).await.expect(name), ours, "{name}");
    }
    // Whatever a reference says, nothing outside its object is read and nothing is believed for its sake.
    let other = SectionRef { checksum: last.checksum ^ 1, ..last.clone() };
    assert_eq!(store.get_section(&other).await.expect_err(name).code(), "checkpoint-checksum", "{name}");
    let outside = SectionRef { offset: u64::MAX - 1, ..last.clone() };
    assert_eq!(store.get_section(&outside).await.expect_err(name).code(), "checkpoint-malformed", "{name}");
    let huge = ObjectRef { length: u64::MAX, ..object.clone() };
    assert_eq!(store.get(&huge).await.expect_err(name).code(), "checkpoint-torn", "{name}");
}

async fn paths_stay_inside(name: &str, store: &dyn CheckpointStore) {
    for path in ["../x", "a/../../x", "/x", "a//b", ""] {
        let object = ObjectRef { path: path.to_owned(), length: 1, checksum: 0 };
        let codes = [
            store.put_new(path, bytes(1, 0)).await.expect_err(name).code(),
            store.get(&object).await.expect_err(name).code(),
            store.get_small(path).await.expect_err(name).code(),
            store.delete(path).await.expect_err(name).code(),
        ];
        assert_eq!(codes, ["checkpoint-malformed"; 4], "{name}: {path:?}");
    }
    assert!(layout::check_path("a/b").is_ok());
}

/// A probe object that is in the way of nobody: many checks at once, as many workers start.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn local_puts_and_deletes_of_one_directory_do_not_disturb_each_other() {
    let directory = TempDir::new().expect("a test may make a temporary directory");
    let url = directory.path().display().to_string();
    let store = open(&url, &StoreOptions::default(), clock(), Box::new(SplitMix64::new(1))).expect("it is good");
    let checks = join_all((0..40).map(|_| store.check())).await;
    checks.into_iter().collect::<Result<Vec<()>, _>>().expect("each has its own probe");
    assert_eq!(store.list("").await.expect("it is there"), []);
    assert_eq!(std::fs::read_dir(directory.path()).expect("it is there").count(), 0, "no empty directories are left");
}

/// What a killed process leaves of a put is seen by a listing, so that a sweep can remove it, and is no object's name.
#[tokio::test]
async fn unfinished_files_are_listed() {
    let directory = TempDir::new().expect("a test may make a temporary directory");
    std::fs::create_dir(directory.path().join("data")).expect("it is new");
    std::fs::write(directory.path().join("data/.tmp-1234"), b"half").expect("it is new");
    let url = format!("file://{}", directory.path().display());
    let store = open(&url, &StoreOptions::default(), clock(), Box::new(SplitMix64::new(1))).expect("it is good");
    assert_eq!(store.url(), url);
    let listed = store.list("").await.expect("it is there");
    assert_eq!(listed.iter().map(|object| object.path.as_str()).collect::<Vec<_>>(), ["data/.tmp-1234"]);
    assert!(listed[0].modified_unix_ms > 1_600_000_000_000, "{listed:?}");
}

#[tokio::test]
async fn a_file_in_the_place_of_a_directory_is_named() {
    let directory = TempDir::new().expect("a test may make a temporary directory");
    std::fs::write(directory.path().join("file"), b"").expect("it is new");
    let url = format!("{}/file/chk", directory.path().display());
    let store = open(&url, &StoreOptions::default(), clock(), Box::new(SplitMix64::new(1))).expect("it is good");
    let error = store.check().await.expect_err("a file is no directory");
    let report = weir_core::error::report(&error);
    assert!(report.contains("failed at its put") && report.contains("file/chk"), "{report}");
    assert_eq!(error.code(), "checkpoint-store-refused");
}

/// The kernel's own directories take no files, whoever asks; that is a matter of rights, and the message says so.
#[cfg(target_os = "linux")]
#[tokio::test]
async fn a_directory_that_may_not_be_written_is_named() {
    let store = open("/sys/weir", &StoreOptions::default(), clock(), Box::new(SplitMix64::new(1))).expect("it is good");
    let error = store.check().await.expect_err("nobody may write there");
    let report = weir_core::error::report(&error);
    assert_eq!(error.code(), "checkpoint-store-permission", "{report}");
    assert!(report.contains("/sys/weir/probe/") && report.contains("owner and mode"), "{report}");
}
