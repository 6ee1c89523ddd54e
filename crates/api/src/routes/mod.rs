//! One file per subject. The routes and their OpenAPI description come from one list, so neither can lack the other.

mod answer;
mod archive;
mod documents;
pub(crate) mod health;
pub(crate) mod network;
mod status;
mod store;

use axum::Router;
use axum::extract::DefaultBodyLimit;
use utoipa::openapi::OpenApi;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use self::health::Monitored;
use crate::error::ApiError;
use crate::state::ApiState;

/// Bytes that a JSON body may have; documents stream and are bounded by the store's quota.
const MAX_JSON_BYTES: usize = 256 * 1024;

/// The open routes.
pub(crate) fn monitoring() -> OpenApiRouter<Monitored> {
    OpenApiRouter::new()
        .routes(routes!(health::health))
        .routes(routes!(health::ready))
        .routes(routes!(health::metrics))
}

/// The routes behind the guard.
fn management() -> OpenApiRouter<ApiState> {
    let streaming = OpenApiRouter::new()
        .routes(routes!(documents::put, documents::list))
        .routes(routes!(documents::put_directory))
        .layer(DefaultBodyLimit::disable());
    OpenApiRouter::new()
        .routes(routes!(documents::one, documents::remove))
        .routes(routes!(documents::content))
        .routes(routes!(documents::chunk))
        .routes(routes!(store::verify))
        .routes(routes!(store::gc))
        .routes(routes!(network::peers))
        .routes(routes!(network::connect))
        .routes(routes!(network::bootstrap))
        .routes(routes!(network::register))
        .routes(routes!(network::routing_table))
        .routes(routes!(network::nat))
        .routes(routes!(network::bandwidth))
        .routes(routes!(status::status))
        .routes(routes!(status::reload))
        .routes(routes!(status::renew))
        .routes(routes!(status::grant))
        .layer(DefaultBodyLimit::max(MAX_JSON_BYTES))
        .merge(streaming)
}

/// Every route, and the description of them all.
pub(crate) fn all(state: ApiState) -> (Router, OpenApi) {
    let monitored = Monitored {
        health: state.health.clone(),
        metrics: state.metrics.clone(),
    };
    let (open, mut description) = monitoring().split_for_parts();
    let (managed, guarded) = management().split_for_parts();
    description.merge(guarded);
    (
        open.with_state(monitored).merge(managed.with_state(state)),
        description,
    )
}

/// The description of every route.
pub(crate) fn description() -> OpenApi {
    let mut description = monitoring().into_openapi();
    description.merge(management().into_openapi());
    description
}

/// Runs blocking store work off the runtime's own threads.
pub(crate) async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> T + Send + 'static,
) -> Result<T, ApiError> {
    tokio::task::spawn_blocking(work)
        .await
        .map_err(|error| ApiError::internal(format!("the request broke off: {error}")))
}
