//! The management API: what people and programs ask of one node over HTTP, described by its own OpenAPI document.
//!
//! Owns the routes, their wire types ([`types`], shared with the command line), who may call them ([`guard`]) and the
//! accept loop ([`serve`]).
//! Never does: anything a plane should decide. A route parses, calls, and words the answer.
//! Start reading at [`routes`], then follow one route to the plane it calls.

mod error;
pub mod guard;
mod metrics;
pub mod piece_stream;
mod range;
mod routes;
pub mod serve;
mod state;
pub mod traffic_log;
pub mod types;

use std::sync::Arc;

use axum::extract::Request;
use axum::http::{HeaderValue, Method, header};
use axum::middleware::{self, Next};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use axum::{Extension, Json, Router};
use utoipa::OpenApi as _;
use utoipa::openapi::OpenApi;
use utoipa::openapi::security::{Http, HttpAuthScheme, SecurityScheme};

pub use axum::http::StatusCode;
pub use error::{ApiError, ErrorBody, ErrorDetail};
pub use routes::network::total_traffic;
pub use state::{ApiState, Control, ControlFuture, Held, NodeFacts};

use crate::guard::{ClientIdentity, Guard};
use crate::metrics::Refusals;
use crate::routes::health::Monitored;

/// Where the API describes itself.
pub const OPENAPI_PATH: &str = "/api/v1/openapi.json";

#[derive(utoipa::OpenApi)]
#[openapi(
    info(title = "Warren management API", description = "One node of a Warren network. All but /health, /ready and /metrics want the admin token."),
    security(("token" = [])),
    paths(openapi)
)]
struct Description;

/// This description.
#[utoipa::path(get, path = OPENAPI_PATH, tag = "node", responses((status = 200, description = "OpenAPI 3.1 document")))]
async fn openapi(document: Extension<Arc<OpenApi>>) -> Json<OpenApi> {
    Json(document.0.as_ref().clone())
}

/// The whole API behind its guard.
pub fn router(state: ApiState, guard: Guard) -> Router {
    let refusals = Refusals::register(&state.metrics);
    let (routes, description) = described(state);
    let guard = Arc::new(guard);
    routes
        .route(
            OPENAPI_PATH,
            get(openapi).layer(Extension(Arc::new(description))),
        )
        .fallback(unknown_path)
        .method_not_allowed_fallback(wrong_method)
        .layer(middleware::from_fn(
            move |client: Extension<ClientIdentity>, request: Request, next: Next| {
                let (guard, refusals) = (Arc::clone(&guard), refusals.clone());
                async move { admit(&guard, &refusals, client.0, request, next).await }
            },
        ))
}

/// Health, readiness and metrics, and nothing else: for the read-only monitoring listener.
pub fn monitoring_router(
    health: warren_telemetry::Health,
    metrics: warren_telemetry::Metrics,
) -> Router {
    let (routes, _) = routes::monitoring().split_for_parts();
    routes
        .with_state(Monitored { health, metrics })
        .fallback(not_for_monitoring)
        .method_not_allowed_fallback(only_read)
}

fn described(state: ApiState) -> (Router, OpenApi) {
    let (routes, paths) = routes::all(state);
    (routes, complete(paths))
}

/// The OpenAPI document of the whole API, as [`OPENAPI_PATH`] serves it.
#[must_use]
pub fn description() -> OpenApi {
    complete(routes::description())
}

fn complete(paths: OpenApi) -> OpenApi {
    let mut description = Description::openapi();
    description.merge(paths);
    let scheme = SecurityScheme::Http(Http::new(HttpAuthScheme::Bearer));
    description
        .components
        .get_or_insert_default()
        .add_security_scheme("token", scheme);
    description
}

async fn admit(
    guard: &Guard,
    refusals: &Refusals,
    client: ClientIdentity,
    request: Request,
    next: Next,
) -> Response {
    let (head, body) = request.into_parts();
    if let Err(refusal) = guard.check(&head, client) {
        refusals.count(refusal.code());
        return refusal.into_response();
    }
    let changes = !matches!(head.method, Method::GET | Method::HEAD);
    if changes {
        // The audit trail of who changed what; bodies may hold secrets and are left out.
        let by = match client {
            ClientIdentity::Admin => "certificate",
            ClientIdentity::Anonymous => "token",
        };
        tracing::info!(method = %head.method, path = head.uri.path(), by, "management request");
    }
    let mut response = next.run(Request::from_parts(head, body)).await;
    let headers = response.headers_mut();
    headers
        .entry(header::X_CONTENT_TYPE_OPTIONS)
        .or_insert(HeaderValue::from_static("nosniff"));
    headers
        .entry(header::CACHE_CONTROL)
        .or_insert(HeaderValue::from_static("no-store"));
    response
}

async fn unknown_path(request: Request) -> ApiError {
    ApiError::not_found(format!(
        "there is nothing at {}: {OPENAPI_PATH} lists what there is",
        request.uri().path()
    ))
}

async fn not_for_monitoring(request: Request) -> ApiError {
    ApiError::not_found(format!(
        "there is nothing at {}: this listener serves {} and no more",
        request.uri().path(),
        guard::PUBLIC_PATHS.join(", ")
    ))
}

async fn only_read(request: Request) -> ApiError {
    ApiError::new(
        axum::http::StatusCode::METHOD_NOT_ALLOWED,
        "method_not_allowed",
        format!(
            "this listener is read only: {} takes GET, not {}",
            request.uri().path(),
            request.method()
        ),
    )
}

async fn wrong_method(request: Request) -> ApiError {
    ApiError::new(
        axum::http::StatusCode::METHOD_NOT_ALLOWED,
        "method_not_allowed",
        format!(
            "{} does not take {}: {OPENAPI_PATH} says what it takes",
            request.uri().path(),
            request.method()
        ),
    )
}
