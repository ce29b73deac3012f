//! What the coordinator refuses at its doors, and what every gRPC client may rely on.

mod support;

use std::sync::Arc;

use support::*;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio_util::sync::CancellationToken;
use tonic::transport::Endpoint;
use tonic_health::pb::HealthCheckRequest;
use tonic_health::pb::health_client::HealthClient;
use tonic_reflection::pb::v1::ServerReflectionRequest;
use tonic_reflection::pb::v1::server_reflection_client::ServerReflectionClient;
use tonic_reflection::pb::v1::server_reflection_request::MessageRequest;
use tonic_reflection::pb::v1::server_reflection_response::MessageResponse;
use weir_coordinator::{Coordinator, CoordinatorConfig};
use weir_operator_api::{Registry, SystemClock};
use weir_proto::v1;
use weir_proto::v1::coordinator_message::Message as Order;
use weir_testkit::clock::FakeClock;

async fn problems(served: &mut Served, graph: v1::JobGraph) -> Vec<v1::Problem> {
    let answer = served
        .client
        .submit_job(v1::SubmitJobRequest { job: Some(graph), ..v1::SubmitJobRequest::default() })
        .await
        .expect("an answer");
    let answer = answer.into_inner();
    assert_eq!(answer.job_id, "");
    answer.problems
}

#[tokio::test]
async fn wrong_job_is_answered_with_all_its_problems() {
    let dir = tempfile::tempdir().expect("a directory");
    let mut served = Served::start(dir.path()).await;
    let mut graph = job(1, 1000);
    graph.operators[1].kind = "fake_sinc".to_owned();
    graph.config.insert("paralelism.default".to_owned(), "1".to_owned());
    let all: Vec<(String, String, String)> = problems(&mut served, graph)
        .await
        .into_iter()
        .map(|problem| (problem.operator, problem.field, problem.nearest))
        .collect();
    let expect = |operator: &str, field: &str, nearest: &str| {
        assert!(
            all.contains(&(operator.to_owned(), field.to_owned(), nearest.to_owned())),
            "{operator} {field} {nearest} is not in {all:?}"
        );
    };
    expect("", "paralelism.default", "parallelism.default");
    expect("in", "splits", "");
    expect("out", "kind", "fake_sink");
    served.ended().await;
}

#[tokio::test]
async fn source_that_cannot_be_listed_is_a_problem_of_its_operator() {
    let dir = tempfile::tempdir().expect("a directory");
    let mut served = Served::start(dir.path()).await;
    let problems = problems(&mut served, job(1, 0)).await;
    assert_eq!(problems.len(), 1);
    assert_eq!(problems[0].operator, "in");
    assert_eq!(problems[0].reason, "there is no file 'x.csv' [source-missing]");
    served.ended().await;
}

#[tokio::test]
async fn graph_beyond_the_size_limit_is_refused_with_a_sentence() {
    let dir = tempfile::tempdir().expect("a directory");
    let mut served = Served::start(dir.path()).await;
    let mut graph = job(1, 1);
    graph.name = "x".repeat(weir_graph::limits::GRAPH_BYTES_MAX);
    let problems = problems(&mut served, graph).await;
    assert!(problems[0].reason.contains("are allowed"), "{problems:?}");
    served.ended().await;
}

#[tokio::test]
async fn worker_of_another_version_is_refused() {
    let dir = tempfile::tempdir().expect("a directory");
    let mut served = Served::start(dir.path()).await;
    for wrong in [
        v1::Register { version: "0.0.0".to_owned(), ..register("a", 1) },
        v1::Register { slots: 0, ..register("a", 1) },
        register("", 1),
    ] {
        let mut worker = FakeWorker::connect(&served, wrong).await;
        let order = worker.next().await;
        assert!(matches!(&order, Some(Order::Refused(_))), "{order:?}");
        assert!(worker.next().await.is_none(), "the stream ends");
    }
    served.until_workers(0).await;
    served.ended().await;
}

#[tokio::test]
async fn health_is_served() {
    let dir = tempfile::tempdir().expect("a directory");
    let served = Served::start(dir.path()).await;
    let endpoint = Endpoint::from_shared(format!("http://{}", served.addr)).expect("an address");
    let channel = endpoint.connect().await.expect("connect");
    let mut health = HealthClient::new(channel);
    let request = HealthCheckRequest { service: "weir.v1.JobService".to_owned() };
    let answer = health.check(request).await.expect("an answer").into_inner();
    assert_eq!(answer.status(), tonic_health::pb::health_check_response::ServingStatus::Serving);
    drop(health);
    served.ended().await;
}

#[tokio::test]
async fn services_can_be_found_by_reflection() {
    let dir = tempfile::tempdir().expect("a directory");
    let served = Served::start(dir.path()).await;
    let endpoint = Endpoint::from_shared(format!("http://{}", served.addr)).expect("an address");
    let mut client = ServerReflectionClient::new(endpoint.connect().await.expect("connect"));
    let question = MessageRequest::ListServices(String::new());
    let request = ServerReflectionRequest { host: String::new(), message_request: Some(question) };
    let mut answers =
        client.server_reflection_info(tokio_stream::once(request)).await.expect("reflection").into_inner();
    let answer = answers.message().await.expect("a stream").expect("an answer");
    let Some(MessageResponse::ListServicesResponse(services)) = answer.message_response else {
        panic!("no services: {answer:?}")
    };
    let names: Vec<String> = services.service.into_iter().map(|service| service.name).collect();
    for name in ["weir.v1.JobService", "weir.v1.WorkerLinkService", "grpc.health.v1.Health"] {
        assert!(names.iter().any(|known| known == name), "{name} is not in {names:?}");
    }
    drop((answers, client));
    served.ended().await;
}

#[tokio::test]
async fn metrics_and_health_are_served_over_http() {
    let dir = tempfile::tempdir().expect("a directory");
    let mut config = CoordinatorConfig::new("127.0.0.1:0".parse().expect("an address"), dir.path());
    config.http = Some(config.listen);
    config.metrics_render = Some(Arc::new(|| "weir_coordinator_taskSlotsTotal 0\n".to_owned()));
    let bound = Coordinator::bind(config, Registry::default(), Arc::new(SystemClock::default())).await.expect("bind");
    let address = bound.http_addr().expect("HTTP is on");
    let shutdown = CancellationToken::new();
    let server = tokio::spawn(bound.serve(shutdown.clone()));
    for (path, expected) in [("/healthz", "ok"), ("/metrics", "taskSlotsTotal")] {
        let mut stream = TcpStream::connect(address).await.expect("connect");
        let request = format!("GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n");
        stream.write_all(request.as_bytes()).await.expect("write");
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.expect("read");
        assert!(answer.starts_with("HTTP/1.1 200") && answer.contains(expected), "{answer}");
    }
    shutdown.cancel();
    server.await.expect("no panic").expect("the server ends in order");
}

#[tokio::test]
async fn listener_beyond_loopback_is_refused() {
    let dir = tempfile::tempdir().expect("a directory");
    let config = CoordinatorConfig::new("0.0.0.0:0".parse().expect("an address"), dir.path());
    let bound = Coordinator::bind(config, Registry::default(), Arc::new(FakeClock::default())).await;
    assert_eq!(bound.err().map(|error| error.code()), Some("insecure-listener"));
}
