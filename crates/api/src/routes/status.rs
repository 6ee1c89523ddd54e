//! `/api/v1/status`, `/api/v1/reload`, `/api/v1/certificate/renew` and `/api/v1/join/tokens`: the node as a whole.

use std::time::SystemTime;

use axum::Json;
use axum::extract::State;
use axum::extract::rejection::JsonRejection;
use axum::http::StatusCode;
use jiff::Timestamp;
use warren_identity::UnixTime;

use super::blocking;
use crate::error::{ApiError, ErrorBody};
use crate::state::ApiState;
use crate::types::{
    CertificateStatus, Grant, GrantRequest, Reloaded, Renewed, Status, StorageStatus,
};

/// How the node is doing.
#[utoipa::path(get, path = "/api/v1/status", tag = "node", responses((status = 200, body = Status)))]
pub(crate) async fn status(State(state): State<ApiState>) -> Result<Json<Status>, ApiError> {
    let ready = state.health.ready();
    let store = state.store.clone();
    let usage = blocking(move || store.usage())
        .await?
        .map_err(super::answer::read_error)?;
    let uptime = Timestamp::now()
        .duration_since(state.facts.started_at)
        .as_secs();
    let listen_addresses = state.mesh.announced_addresses().await;
    Ok(Json(Status {
        node_id: state.facts.node_id.clone(),
        peer_id: state.trust.peer_id().to_string(),
        organization_id: state.trust.organization().as_str().to_owned(),
        region: state.facts.region.clone(),
        roles: state.facts.roles.clone(),
        version: state.facts.version.to_owned(),
        started_at: state.facts.started_at.to_string(),
        uptime_seconds: u64::try_from(uptime).unwrap_or(0),
        readiness: ready.status.to_owned(),
        components: ready
            .components
            .into_iter()
            .map(|(name, state)| (name.to_owned(), state))
            .collect(),
        listen_addresses: listen_addresses.iter().map(ToString::to_string).collect(),
        transfer_address: state
            .facts
            .transfer_address
            .map(|address| address.to_string()),
        peers: state.mesh.peers().await.len(),
        gossip_mesh_peers: state.mesh.gossip_meshes().await,
        storage: StorageStatus {
            documents: usage.documents,
            used_bytes: usage.stored_bytes,
            max_bytes: state.facts.max_store_bytes,
        },
        certificate: certificate(&state),
        warnings: state.facts.warnings.clone(),
    }))
}

fn certificate(state: &ApiState) -> CertificateStatus {
    let member = state.trust.own_member();
    let not_after = member.as_ref().and_then(|member| {
        super::network::rfc3339(
            SystemTime::UNIX_EPOCH + std::time::Duration::from_secs(member.not_after.as_secs()),
        )
    });
    CertificateStatus {
        not_after: not_after.unwrap_or_else(|| "no certificate".to_owned()),
        renewal_due: state.trust.renewal_due(UnixTime::now()),
        capabilities: member
            .iter()
            .flat_map(|member| member.capabilities.iter())
            .map(ToString::to_string)
            .collect(),
        revocation_list_number: state.trust.revocations().highest_number(),
    }
}

/// Reads the configuration again and applies what can change while running.
#[utoipa::path(post, path = "/api/v1/reload", tag = "node",
    responses((status = 200, body = Reloaded), (status = 422, body = ErrorBody)))]
pub(crate) async fn reload(State(state): State<ApiState>) -> Result<Json<Reloaded>, ApiError> {
    Ok(Json(state.control.reload().await?))
}

/// Has the node's certificate renewed now, by its own issuer or a discovery server that issues.
#[utoipa::path(post, path = "/api/v1/certificate/renew", tag = "node",
    responses((status = 200, body = Renewed), (status = 409, body = ErrorBody), (status = 503, body = ErrorBody)))]
pub(crate) async fn renew(State(state): State<ApiState>) -> Result<Json<Renewed>, ApiError> {
    Ok(Json(state.control.renew().await?))
}

/// Makes a one-time join token; needs the roles `discovery` and `issuer`.
#[utoipa::path(post, path = "/api/v1/join/tokens", request_body = GrantRequest, tag = "node",
    responses((status = 201, body = Grant), (status = 404, body = ErrorBody), (status = 422, body = ErrorBody), (status = 503, body = ErrorBody)))]
pub(crate) async fn grant(
    State(state): State<ApiState>,
    body: Result<Json<GrantRequest>, JsonRejection>,
) -> Result<(StatusCode, Json<Grant>), ApiError> {
    let Json(request) = body.map_err(|rejection| ApiError::bad_request(rejection.body_text()))?;
    Ok((
        StatusCode::CREATED,
        Json(state.control.grant(request).await?),
    ))
}
