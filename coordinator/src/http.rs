//! `/metrics` and `/healthz` of this process.

use axum::Router;
use axum::http::{StatusCode, header};
use axum::response::IntoResponse;
use axum::routing::get;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

use crate::config::MetricsRender;
use crate::error::CoordinatorError;

/// Serves until `closing`.
pub(crate) async fn serve(
    listener: TcpListener,
    metrics_render: Option<MetricsRender>,
    closing: CancellationToken,
) -> Result<(), CoordinatorError> {
    let metrics = move || async move {
        match metrics_render {
            Some(render) => ([(header::CONTENT_TYPE, "text/plain; version=0.0.4")], render()).into_response(),
            None => (StatusCode::NOT_FOUND, "this process keeps no metrics\n").into_response(),
        }
    };
    let router = Router::new().route("/metrics", get(metrics)).route("/healthz", get(|| async { "ok\n" }));
    let server = axum::serve(listener, router).with_graceful_shutdown(closing.cancelled_owned());
    server.await.map_err(CoordinatorError::ServeHttp)
}
