//! `/health`, `/ready`, `/metrics`: what load balancers and monitoring ask, without a token.

use axum::Json;
use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use warren_telemetry::{Health, HealthReport, Metrics, OPENMETRICS_CONTENT_TYPE};

/// What the open routes need: not more, so that the monitoring listener can give not more.
#[derive(Clone)]
pub(crate) struct Monitored {
    /// Which parts work.
    pub(crate) health: Health,
    /// What is counted.
    pub(crate) metrics: Metrics,
}

fn answer(report: HealthReport) -> Response {
    let status = if report.passes() {
        StatusCode::OK
    } else {
        StatusCode::SERVICE_UNAVAILABLE
    };
    (status, Json(report)).into_response()
}

/// Whether the process is well: 200 with the word `healthy`, or 503 without it.
#[utoipa::path(get, path = "/health", tag = "monitoring", security(()),
    responses((status = 200, description = "the body contains `healthy`"), (status = 503, description = "a vital part fails")))]
pub(crate) async fn health(State(monitored): State<Monitored>) -> Response {
    answer(monitored.health.live())
}

/// Whether the node can serve.
#[utoipa::path(get, path = "/ready", tag = "monitoring", security(()),
    responses((status = 200, description = "every part works"), (status = 503, description = "a part is starting or fails; the body says which")))]
pub(crate) async fn ready(State(monitored): State<Monitored>) -> Response {
    answer(monitored.health.ready())
}

/// Metrics in the OpenMetrics text format.
#[utoipa::path(get, path = "/metrics", tag = "monitoring", security(()), responses((status = 200, description = "OpenMetrics text")))]
pub(crate) async fn metrics(State(monitored): State<Monitored>) -> Response {
    (
        [(header::CONTENT_TYPE, OPENMETRICS_CONTENT_TYPE)],
        monitored.metrics.encode(),
    )
        .into_response()
}
