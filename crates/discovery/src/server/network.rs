//! `/api/v1/network/*` and `/health`.

use std::{
    collections::BTreeMap,
    sync::{Arc, PoisonError},
};

use axum::{
    Json,
    extract::{Query, State},
    http::{StatusCode, header},
    response::{IntoResponse, Response},
};
use base64::{Engine as _, engine::general_purpose::STANDARD as BASE64};
use multiaddr::Multiaddr;
use serde_json::json;
use warren_identity::{Member, NodeRecord, OrganizationId, PeerId, Signed, UnixMillis};

use super::{BootstrapAccess, Seed, Shared, Snapshot, auth::Call, error::ApiError, now};
use crate::{
    core::registry::{Change, DEFAULT_PAGE, Entry, MAX_PAGE, PeerQuery, Registration},
    engine::EngineError,
    wire::{
        BootstrapAnswer, LeaveAnswer, MAX_ADDRESSES, MAX_TEXT_BYTES, PeerEntry, PeersAnswer,
        PeersQuery, RegisterAnswer, RegisterRequest,
    },
};

/// Live nodes in a bootstrap list: enough to be in the mesh at once, the DHT knows the rest.
const MAX_BOOTSTRAP_PEERS: u32 = 100;

/// `GET /api/v1/network/bootstrap`
pub(crate) async fn bootstrap(
    State(shared): State<Arc<Shared>>,
    call: Call,
) -> Result<Response, ApiError> {
    let organization = match call.organization(&shared) {
        Ok(organization) => organization,
        Err(_) if shared.bootstrap_access == BootstrapAccess::Anyone && call.is_anonymous() => {
            shared.trust.roots().organization().clone()
        }
        Err(error) => return Err(error),
    };
    let (entries, stale_seconds) = shared.live_or_snapshot(&organization).await?;
    let mut peers: BTreeMap<PeerId, PeerEntry> = entries
        .into_iter()
        .map(|entry| {
            (
                entry.registration.peer_id,
                peer_entry(entry, now(), shared.ttl),
            )
        })
        .collect();
    let seeds = shared.seeds.iter();
    for seed in seeds.filter(|seed| {
        seed.organization
            .as_ref()
            .is_none_or(|own| *own == organization)
    }) {
        match peers.get_mut(&seed.peer_id) {
            Some(live) => {
                let missing = seed
                    .addresses
                    .iter()
                    .filter(|address| !live.addresses.contains(address));
                let missing: Vec<_> = missing.cloned().collect();
                live.addresses.extend(missing);
            }
            None => {
                peers.insert(seed.peer_id, seed_entry(seed));
            }
        }
    }
    Ok(Json(BootstrapAnswer {
        peers: peers.into_values().collect(),
        stale_seconds,
    })
    .into_response())
}

impl Shared {
    /// The live nodes, or what they were when the registry could last be asked, with the age of that in seconds. The seeds
    /// alone are an answer too: a registry that was never reached gives an empty list.
    async fn live_or_snapshot(
        &self,
        organization: &OrganizationId,
    ) -> Result<(Vec<Entry>, Option<u64>), ApiError> {
        let now = now();
        match self
            .registry
            .recent(organization.clone(), MAX_BOOTSTRAP_PEERS, now)
            .await
        {
            Ok(entries) => {
                let snapshot = Snapshot {
                    taken_at: now,
                    entries: entries.clone(),
                };
                self.snapshots
                    .lock()
                    .unwrap_or_else(PoisonError::into_inner)
                    .insert(organization.clone(), snapshot);
                Ok((entries, None))
            }
            Err(error @ EngineError::Unavailable { .. }) => {
                let snapshots = self
                    .snapshots
                    .lock()
                    .unwrap_or_else(PoisonError::into_inner);
                match snapshots.get(organization) {
                    Some(snapshot) => {
                        let age = now.since(snapshot.taken_at).as_secs();
                        Ok((snapshot.entries.clone(), Some(age)))
                    }
                    None if self.seeds.is_empty() => Err(error.into()),
                    None => Ok((Vec::new(), Some(0))),
                }
            }
            Err(error) => Err(error.into()),
        }
    }
}

fn seed_entry(seed: &Seed) -> PeerEntry {
    PeerEntry {
        peer_id: seed.peer_id,
        addresses: seed.addresses.clone(),
        region: seed.region.clone(),
        capabilities: Vec::new(),
        organization_id: seed.organization.clone(),
        node_name: None,
        status: None,
        uptime_seconds: None,
        last_seen_at: None,
        roles: Vec::new(),
        bulk_addresses: Vec::new(),
        record: None,
    }
}

fn peer_entry(entry: Entry, now: UnixMillis, ttl: std::time::Duration) -> PeerEntry {
    let status = entry.status(now, ttl);
    let registration = entry.registration;
    PeerEntry {
        peer_id: registration.peer_id,
        addresses: registration.addresses,
        region: registration.region,
        capabilities: registration.capabilities,
        organization_id: Some(registration.organization),
        node_name: Some(registration.name),
        status: Some(status),
        uptime_seconds: Some(entry.last_seen_at.since(entry.registered_at).as_secs()),
        last_seen_at: Some(entry.last_seen_at.rfc3339()),
        roles: registration.roles,
        bulk_addresses: registration.bulk_addresses,
        record: registration.record.map(|record| BASE64.encode(record)),
    }
}

/// `POST /api/v1/network/register`
pub(crate) async fn register(
    State(shared): State<Arc<Shared>>,
    call: Call,
) -> Result<Response, ApiError> {
    let caller = call.member(&shared)?;
    let request: RegisterRequest = call.json()?;
    let registration = registration(request, &caller.member).inspect_err(|_| {
        shared.metrics.registered("refused");
    })?;
    let (entry, change) = shared
        .registry
        .register(registration, caller.stamp, now(), shared.ttl)
        .await
        .map_err(ApiError::from)
        .inspect_err(|_| shared.metrics.registered("refused"))?;
    let (status, change) = match change {
        Change::Created => (StatusCode::CREATED, "created"),
        Change::Updated => (StatusCode::OK, "updated"),
        Change::Unchanged => (StatusCode::OK, "unchanged"),
    };
    shared.metrics.registered(change);
    tracing::debug!(peer_id = %entry.registration.peer_id, change, "registered");
    Ok((status, Json(register_answer(&entry, change, &shared))).into_response())
}

fn register_answer(entry: &Entry, change: &str, shared: &Shared) -> RegisterAnswer {
    RegisterAnswer {
        registered: true,
        change: change.to_owned(),
        peer_id: entry.registration.peer_id,
        organization_id: entry.registration.organization.clone(),
        expires_at: entry.expires_at.rfc3339(),
        ttl_seconds: shared.ttl.as_secs(),
    }
}

/// Holds what the body says against what the certificate proves. Capabilities and name come from the certificate alone.
fn registration(request: RegisterRequest, member: &Member) -> Result<Registration, ApiError> {
    if request.organization_id != member.organization {
        return Err(ApiError::new(
            StatusCode::FORBIDDEN,
            "organization_mismatch",
            format!(
                "the certificate is of organisation {}, the registration says {}",
                member.organization, request.organization_id
            ),
        ));
    }
    if request.peer_id != member.peer_id {
        return Err(ApiError::new(
            StatusCode::FORBIDDEN,
            "peer_id_mismatch",
            format!(
                "the certificate is of {}, the registration says {}; a node registers itself only",
                member.peer_id, request.peer_id
            ),
        ));
    }
    check_contents(&request)?;
    let record = match &request.record {
        Some(text) => Some(node_record(text, &request, member)?),
        None => None,
    };
    let told = record.as_ref().map(|signed| signed.value().clone());
    Ok(Registration {
        peer_id: member.peer_id,
        organization: member.organization.clone(),
        name: member.name.clone(),
        region: request.region,
        addresses: request.addresses,
        bulk_addresses: told
            .as_ref()
            .map_or_else(Vec::new, |told| told.bulk_addresses.clone()),
        roles: told
            .as_ref()
            .map_or_else(Vec::new, |told| told.roles.clone()),
        capabilities: member
            .capabilities
            .iter()
            .map(ToString::to_string)
            .collect(),
        sequence: told.map_or(0, |told| told.sequence),
        record: record.map(|signed| signed.to_bytes()),
        certificate_ends_at: UnixMillis::from_secs(member.not_after.as_secs()),
    })
}

/// What must hold of a registration whoever makes it.
fn check_contents(request: &RegisterRequest) -> Result<(), ApiError> {
    let unprocessable = |code, message: String| {
        Err(ApiError::new(
            StatusCode::UNPROCESSABLE_ENTITY,
            code,
            message,
        ))
    };
    if let Err(error) = request.public_key.check(request.peer_id) {
        return unprocessable("public_key_mismatch", error.to_string());
    }
    if request.addresses.len() > MAX_ADDRESSES {
        let count = request.addresses.len();
        return unprocessable(
            "too_many_addresses",
            format!("{count} addresses are too many; at most {MAX_ADDRESSES} are kept"),
        );
    }
    for address in &request.addresses {
        if address.len() > MAX_TEXT_BYTES || address.parse::<Multiaddr>().is_err() {
            let shown: String = address.chars().take(80).collect();
            return unprocessable(
                "bad_address",
                format!("`{shown}` is no multiaddress, such as /ip4/10.0.1.5/tcp/4001"),
            );
        }
    }
    let region_is_odd =
        |region: &String| region.len() > MAX_TEXT_BYTES || region.chars().any(char::is_control);
    if request.region.as_ref().is_some_and(region_is_odd) {
        return unprocessable(
            "bad_region",
            format!("a region is at most {MAX_TEXT_BYTES} printable bytes"),
        );
    }
    Ok(())
}

fn node_record(
    text: &str,
    request: &RegisterRequest,
    member: &Member,
) -> Result<Signed<NodeRecord>, ApiError> {
    let refuse =
        |message: String| ApiError::new(StatusCode::UNPROCESSABLE_ENTITY, "bad_record", message);
    let bytes = BASE64
        .decode(text)
        .map_err(|_| refuse("`record` is not base64".into()))?;
    let signed = Signed::<NodeRecord>::decode(&bytes).map_err(|error| refuse(error.to_string()))?;
    let record = signed.value();
    member
        .check_record(record)
        .map_err(|reason| refuse(format!("`record` is not acceptable: {reason}")))?;
    if record.addresses == request.addresses && record.region == request.region {
        Ok(signed)
    } else {
        Err(refuse(
            "`record` says something else than the registration around it: addresses and region must be equal".into(),
        ))
    }
}

/// `POST /api/v1/network/heartbeat`; no body is needed, the caller is the node.
pub(crate) async fn heartbeat(
    State(shared): State<Arc<Shared>>,
    call: Call,
) -> Result<Response, ApiError> {
    let caller = call.member(&shared)?;
    let entry = shared
        .registry
        .heartbeat(caller.member.peer_id, caller.stamp, now(), shared.ttl)
        .await?;
    Ok(Json(register_answer(&entry, "unchanged", &shared)).into_response())
}

/// `DELETE /api/v1/network/register`: the caller leaves.
pub(crate) async fn leave(
    State(shared): State<Arc<Shared>>,
    call: Call,
) -> Result<Response, ApiError> {
    let caller = call.member(&shared)?;
    let removed = shared
        .registry
        .leave(caller.member.peer_id, caller.stamp, now())
        .await?;
    if removed {
        shared.metrics.registered("left");
    }
    Ok(Json(LeaveAnswer { removed }).into_response())
}

/// `GET /api/v1/network/peers`
pub(crate) async fn peers(
    State(shared): State<Arc<Shared>>,
    call: Call,
) -> Result<Response, ApiError> {
    let caller = call.member(&shared)?;
    let Query(query) = Query::<PeersQuery>::try_from_uri(&call.parts.uri).map_err(|rejection| {
        ApiError::bad_request(format!(
            "the query is not understood: {}",
            rejection.body_text()
        ))
    })?;
    if let Some(wanted) = &query.organization
        && *wanted != caller.member.organization.as_str()
    {
        return Err(ApiError::new(
            StatusCode::FORBIDDEN,
            "foreign_organization",
            format!(
                "you belong to {} and may list its peers only",
                caller.member.organization
            ),
        ));
    }
    let limit = query.limit.unwrap_or(DEFAULT_PAGE);
    if limit == 0 || limit > MAX_PAGE {
        return Err(ApiError::bad_request(format!(
            "`limit` must be 1 to {MAX_PAGE}"
        )));
    }
    let after = match query.cursor.as_deref().map(str::parse::<PeerId>) {
        None => None,
        Some(Ok(peer_id)) => Some(peer_id),
        Some(Err(_)) => {
            return Err(ApiError::bad_request(
                "`cursor` must be the `next_cursor` of the page before",
            ));
        }
    };
    let now = now();
    let query = PeerQuery {
        organization: caller.member.organization,
        region: query.region,
        status: query.status,
        limit,
        after,
    };
    let page = shared.registry.peers(query, now, shared.ttl).await?;
    let last = page.entries.last().filter(|_| page.more);
    let next_cursor = last.map(|entry| entry.registration.peer_id.to_string());
    Ok(Json(PeersAnswer {
        peers: page
            .entries
            .into_iter()
            .map(|entry| peer_entry(entry, now, shared.ttl))
            .collect(),
        total: page.total,
        limit,
        next_cursor,
    })
    .into_response())
}

/// `GET /api/v1/network/crl`: the lists in force, as PEM. Of the server's own organisation, for its members.
pub(crate) async fn crl(
    State(shared): State<Arc<Shared>>,
    call: Call,
) -> Result<Response, ApiError> {
    call.member(&shared)?.require_own()?;
    Ok((
        [(header::CONTENT_TYPE, "application/x-pem-file")],
        shared.trust.revocations().to_pem(),
    )
        .into_response())
}

/// `GET /health`: for front ends and probes; says nothing of the members.
pub(crate) async fn health(State(shared): State<Arc<Shared>>) -> Response {
    if shared.metrics.registry_up.get() == 1 {
        Json(json!({ "status": "healthy" })).into_response()
    } else {
        let answer = Json(
            json!({ "status": "degraded", "reason": "the registry's database does not answer" }),
        );
        (StatusCode::SERVICE_UNAVAILABLE, answer).into_response()
    }
}
