//! A checkpoint store that is gone for a while costs checkpoints, not the job; when it returns, the next checkpoint follows.
//! `WEIR_OUTAGE_SECONDS` makes the outage longer than the few seconds of the short form.

#![allow(clippy::disallowed_methods, reason = "real processes live on the real clock")]

use std::time::{Duration, Instant};

use weir_testkit::fault_proxy::Fault;
use weir_testkit::s3_server::BUCKET;
use weir_testkit::{FaultProxy, S3Server};
use weir_tests::{Cluster, succeed};

/// Longest time from the store's return to the next checkpoint.
const NEXT_AFTER: Duration = Duration::from_secs(30);

fn completed(cluster: &Cluster, job: &str) -> (u64, String) {
    let info = succeed(cluster.client(&["info", job]));
    let line = info.lines().find(|line| line.starts_with("Checkpoints")).unwrap_or_default();
    (line.split_whitespace().nth(1).and_then(|count| count.parse().ok()).unwrap_or(0), info)
}

/// Waits for more completed checkpoints than `known`; how long that took.
fn next_checkpoint(cluster: &Cluster, job: &str, known: u64) -> Duration {
    let started = Instant::now();
    loop {
        let (count, info) = completed(cluster, job);
        if count > known {
            return started.elapsed();
        }
        assert!(started.elapsed() < NEXT_AFTER, "no checkpoint within {NEXT_AFTER:?}:\n{info}");
        std::thread::sleep(Duration::from_millis(50));
    }
}

/// Runs a job on a store that is gone in one way for some time.
fn outage(fault: &Fault) {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build();
    let runtime = runtime.expect("a runtime");
    let (_server, proxy) = runtime.block_on(async {
        let server = S3Server::start().await;
        let proxy = FaultProxy::start(server.address()).await;
        (server, proxy)
    });
    let seconds = std::env::var("WEIR_OUTAGE_SECONDS").ok().and_then(|text| text.parse().ok()).unwrap_or(6);
    let (endpoint, directory) = (format!("http://{}", proxy.address()), format!("s3://{BUCKET}/state"));
    let cluster = Cluster::start(2, 2);
    let definitions = [
        ("events", "1000000000"),
        ("rate", "1000"),
        ("pace", "50000"),
        ("s3.endpoint", endpoint.as_str()),
        ("s3.path-style-access", "true"),
        ("execution.checkpointing.dir", directory.as_str()),
        ("execution.checkpointing.interval", "300 ms"),
        ("execution.checkpointing.timeout", "5 s"),
    ];
    let id = cluster.submit(&["examples/nexmark/q5.yaml", "-p", "2"], &definitions);
    cluster.wait_for(&id, "State      RUNNING");
    next_checkpoint(&cluster, &id, 1);
    let methods = ["GET", "PUT", "HEAD", "DELETE", "POST"];
    methods.iter().for_each(|method| proxy.always(method, fault.clone()));
    std::thread::sleep(Duration::from_secs(seconds));
    let (known, info) = completed(&cluster, &id);
    assert!(info.contains("State      RUNNING") && !info.contains("Restarts"), "{fault:?}:\n{info}");
    methods.iter().for_each(|method| proxy.always(method, Fault::None));
    let took = next_checkpoint(&cluster, &id, known);
    eprintln!("{fault:?} for {seconds} s: the next checkpoint came {took:?} after the store");
    let (_, info) = completed(&cluster, &id);
    assert!(info.contains("State      RUNNING") && !info.contains("Restarts"), "{fault:?}:\n{info}");
}

#[test]
fn store_that_breaks_every_connection_costs_checkpoints_only() {
    outage(&Fault::Reset { applied: false });
}

#[test]
fn store_that_refuses_costs_checkpoints_only() {
    outage(&Fault::Status { code: 503, applied: false });
}

#[test]
fn store_that_is_silent_costs_checkpoints_only() {
    outage(&Fault::Silence { applied: false });
}
