//! `/api/v1/network/*`: peers, connections, routing table, NAT, traffic.

use std::collections::BTreeMap;
use std::time::{Duration, Instant, SystemTime};

use axum::Json;
use axum::extract::rejection::{JsonRejection, QueryRejection};
use axum::extract::{Query, State};
use axum::http::StatusCode;
use jiff::Timestamp;
use warren_mesh::{
    ConnectError, MemberInfo, Multiaddr, NatKind, NatStatus, PeerId, PeerInfo, Presence,
    Reachability, Traffic,
};

use crate::error::{ApiError, ErrorBody};
use crate::state::ApiState;
use crate::traffic_log::Totals;
use crate::types::{
    BandwidthQuery, BandwidthStats, Bootstrapped, Bucket, BucketPeer, ConnectRequest, Connected,
    Nat, Peer, PeerTraffic, Peers, PeersQuery, RoutingTable,
};

/// Peers on a page when nothing is said.
const DEFAULT_PEERS: usize = 50;
/// Most peers on a page.
const MAX_PEERS: usize = 500;
/// Addresses tried for one connect request.
const MAX_CONNECT_ADDRESSES: usize = 16;
/// Peers named in the traffic statistics.
const TOP_PEERS: usize = 10;

/// Connected peers and members known to this node.
#[utoipa::path(get, path = "/api/v1/network/peers", params(PeersQuery), tag = "network",
    responses((status = 200, body = Peers), (status = 400, body = ErrorBody)))]
pub(crate) async fn peers(
    State(state): State<ApiState>,
    query: Result<Query<PeersQuery>, QueryRejection>,
) -> Result<Json<Peers>, ApiError> {
    let Query(query) = query.map_err(|rejection| ApiError::bad_request(rejection.body_text()))?;
    if let Some(status) = query
        .status
        .as_deref()
        .filter(|status| !matches!(*status, "online" | "offline" | "unreachable"))
    {
        return Err(ApiError::bad_request(format!(
            "status {status:?} is none of online, offline, unreachable"
        )));
    }
    let limit = query.limit.unwrap_or(DEFAULT_PEERS);
    if limit == 0 || limit > MAX_PEERS {
        return Err(ApiError::bad_request(format!(
            "limit {limit} is not between 1 and {MAX_PEERS}"
        )));
    }
    let traffic = traffic_by_peer(&state);
    let now = Timestamp::now();
    let mut known: BTreeMap<String, Peer> = BTreeMap::new();
    for member in state.mesh.members().await {
        let peer = offline(&member, &traffic);
        known.insert(peer.peer_id.clone(), peer);
    }
    for info in state.mesh.peers().await {
        let peer = online(&info, &traffic, now);
        known.insert(peer.peer_id.clone(), peer);
    }
    let wanted = |peer: &Peer| {
        query
            .status
            .as_ref()
            .is_none_or(|status| &peer.status == status)
            && query
                .region
                .as_ref()
                .is_none_or(|region| peer.region.as_ref() == Some(region))
            && query
                .organization
                .as_ref()
                .is_none_or(|wanted| peer.organization_id.as_ref() == Some(wanted))
            && query
                .cursor
                .as_ref()
                .is_none_or(|cursor| &peer.peer_id > cursor)
    };
    let mut page: Vec<Peer> = known.into_values().filter(wanted).take(limit + 1).collect();
    let more = page.len() > limit;
    page.truncate(limit);
    let next_cursor = page
        .last()
        .filter(|_| more)
        .map(|peer| peer.peer_id.clone());
    Ok(Json(Peers {
        total: page.len(),
        peers: page,
        next_cursor,
    }))
}

fn traffic_by_peer(state: &ApiState) -> BTreeMap<PeerId, Traffic> {
    let mut by_peer: BTreeMap<PeerId, Traffic> = BTreeMap::new();
    for ((peer, _), traffic) in state.mesh.bandwidth() {
        if let Some(peer) = peer {
            let sum = by_peer.entry(peer).or_default();
            sum.sent += traffic.sent;
            sum.received += traffic.received;
        }
    }
    by_peer
}

fn online(info: &PeerInfo, traffic: &BTreeMap<PeerId, Traffic>, now: Timestamp) -> Peer {
    let moved = traffic.get(&info.peer_id).copied().unwrap_or_default();
    Peer {
        peer_id: info.peer_id.to_string(),
        node_name: info
            .record
            .as_ref()
            .map(|record| record.value().name.clone()),
        organization_id: info
            .member
            .as_ref()
            .map(|member| member.organization.as_str().to_owned()),
        status: "online".to_owned(),
        region: info
            .record
            .as_ref()
            .and_then(|record| record.value().region.clone()),
        capabilities: info
            .member
            .iter()
            .flat_map(|member| member.capabilities.iter())
            .map(ToString::to_string)
            .collect(),
        addresses: info.addresses.iter().map(ToString::to_string).collect(),
        connected_at: rfc3339(info.connected_at),
        latency_ms: info
            .latency
            .map(|latency| u64::try_from(latency.as_millis()).unwrap_or(u64::MAX)),
        protocols: info
            .protocols
            .iter()
            .map(|protocol| protocol.trim_start_matches('/').to_owned())
            .collect(),
        path: Some(
            if info.is_direct() {
                "direct"
            } else {
                "relayed"
            }
            .to_owned(),
        ),
        uptime_seconds: info
            .connected_at
            .elapsed()
            .map_or(0, |elapsed| elapsed.as_secs()),
        total_bytes_sent: moved.sent,
        total_bytes_received: moved.received,
        last_seen_at: Some(now.to_string()),
    }
}

fn offline(info: &MemberInfo, traffic: &BTreeMap<PeerId, Traffic>) -> Peer {
    let member = &info.member;
    let record = info.record.as_ref().map(|record| record.value());
    let moved = traffic.get(&member.peer_id).copied().unwrap_or_default();
    let seen = record.and_then(|record| {
        Timestamp::from_second(i64::try_from(record.issued_at_unix_s).ok()?).ok()
    });
    Peer {
        peer_id: member.peer_id.to_string(),
        node_name: record.map(|record| record.name.clone()),
        organization_id: Some(member.organization.as_str().to_owned()),
        status: match info.presence {
            Presence::Unreachable => "unreachable",
            // Who is connected is shown as such from what is known of its connections.
            Presence::Connected | Presence::Away => "offline",
        }
        .to_owned(),
        region: record.and_then(|record| record.region.clone()),
        capabilities: member
            .capabilities
            .iter()
            .map(ToString::to_string)
            .collect(),
        addresses: record
            .map(|record| record.addresses.clone())
            .unwrap_or_default(),
        connected_at: None,
        latency_ms: None,
        protocols: Vec::new(),
        path: None,
        uptime_seconds: 0,
        total_bytes_sent: moved.sent,
        total_bytes_received: moved.received,
        last_seen_at: seen.map(|seen| seen.to_string()),
    }
}

/// RFC 3339 in UTC, to the second.
pub(crate) fn rfc3339(time: SystemTime) -> Option<String> {
    let seconds = time.duration_since(SystemTime::UNIX_EPOCH).ok()?.as_secs();
    Some(
        Timestamp::from_second(i64::try_from(seconds).ok()?)
            .ok()?
            .to_string(),
    )
}

/// Connects to a peer and waits for the outcome.
#[utoipa::path(post, path = "/api/v1/network/connect", request_body = ConnectRequest, tag = "network",
    responses((status = 200, body = Connected), (status = 400, body = ErrorBody), (status = 403, body = ErrorBody), (status = 502, body = ErrorBody)))]
pub(crate) async fn connect(
    State(state): State<ApiState>,
    body: Result<Json<ConnectRequest>, JsonRejection>,
) -> Result<Json<Connected>, ApiError> {
    let Json(request) = body.map_err(|rejection| ApiError::bad_request(rejection.body_text()))?;
    let begun = Instant::now();
    let mut last = None;
    for address in connect_addresses(&request)? {
        match state.mesh.connect(address).await {
            Ok(peer) => {
                let info = state
                    .mesh
                    .peers()
                    .await
                    .into_iter()
                    .find(|info| info.peer_id == peer);
                return Ok(Json(Connected {
                    connected: true,
                    peer_id: peer.to_string(),
                    latency_ms: u64::try_from(begun.elapsed().as_millis()).unwrap_or(u64::MAX),
                    protocol_version: info
                        .and_then(|info| info.agent)
                        .unwrap_or_else(|| "unknown".to_owned()),
                }));
            }
            Err(error) => last = Some(error),
        }
    }
    Err(last.map_or_else(
        || ApiError::bad_request("name a multiaddr, or a peer_id with addresses"),
        connect_error,
    ))
}

fn connect_addresses(request: &ConnectRequest) -> Result<Vec<Multiaddr>, ApiError> {
    let parse = |text: &str| {
        text.parse::<Multiaddr>().map_err(|error| {
            ApiError::bad_request(format!(
                "{text:?} is no multiaddr ({error}): write /ip4/10.0.1.5/tcp/4001/p2p/12D3KooW…"
            ))
        })
    };
    match (&request.multiaddr, &request.peer_id) {
        (Some(multiaddr), None) if request.addresses.is_empty() => {
            let address = parse(multiaddr)?;
            if !multiaddr.contains("/p2p/") {
                return Err(ApiError::bad_request(format!(
                    "{multiaddr} names no peer: add /p2p/ and its peer id"
                )));
            }
            Ok(vec![address])
        }
        (None, Some(peer_id)) if !request.addresses.is_empty() => {
            if request.addresses.len() > MAX_CONNECT_ADDRESSES {
                return Err(ApiError::bad_request(format!(
                    "name at most {MAX_CONNECT_ADDRESSES} addresses"
                )));
            }
            let peer: PeerId = peer_id.parse().map_err(|error| {
                ApiError::bad_request(format!("{peer_id:?} is no peer id: {error}"))
            })?;
            let with_peer = |text: &String| {
                let address = parse(text)?;
                address.with_p2p(peer).map_err(|address| {
                    ApiError::bad_request(format!("{address} names another peer than {peer}"))
                })
            };
            request.addresses.iter().map(with_peer).collect()
        }
        _ => Err(ApiError::bad_request(
            "name either a multiaddr, or a peer_id with addresses",
        )),
    }
}

fn connect_error(error: ConnectError) -> ApiError {
    let (status, code) = match &error {
        ConnectError::WrongPeer { .. } => (StatusCode::BAD_GATEWAY, "wrong_peer"),
        ConnectError::Refused(_) => (StatusCode::FORBIDDEN, "admission_refused"),
        ConnectError::Ourselves(_) => (StatusCode::BAD_REQUEST, "bad_request"),
        ConnectError::Unreachable { .. } => (StatusCode::BAD_GATEWAY, "unreachable"),
        ConnectError::TimedOut { .. } => (StatusCode::GATEWAY_TIMEOUT, "timed_out"),
        ConnectError::Limit(_) => (StatusCode::TOO_MANY_REQUESTS, "limit"),
        ConnectError::Stopped => (StatusCode::SERVICE_UNAVAILABLE, "unavailable"),
    };
    ApiError::new(status, code, error.to_string())
}

/// Asks the discovery servers and dials the bootstrap peers again.
#[utoipa::path(post, path = "/api/v1/network/bootstrap", tag = "network",
    responses((status = 200, body = Bootstrapped), (status = 503, body = ErrorBody)))]
pub(crate) async fn bootstrap(
    State(state): State<ApiState>,
) -> Result<Json<Bootstrapped>, ApiError> {
    state.control.bootstrap().await?;
    let connected_peers = state.mesh.peers().await.len();
    let routing_table_size = state
        .mesh
        .routing_table()
        .await
        .iter()
        .map(|bucket| bucket.peers.len())
        .sum();
    Ok(Json(Bootstrapped {
        bootstrapped: connected_peers > 0,
        connected_peers,
        routing_table_size,
    }))
}

/// Registers with the discovery servers.
#[utoipa::path(post, path = "/api/v1/network/register", tag = "network",
    responses((status = 204), (status = 409, body = ErrorBody)))]
pub(crate) async fn register(State(state): State<ApiState>) -> Result<StatusCode, ApiError> {
    state.control.register().await?;
    Ok(StatusCode::NO_CONTENT)
}

/// The DHT routing table.
#[utoipa::path(get, path = "/api/v1/network/dht/routing-table", tag = "network", responses((status = 200, body = RoutingTable)))]
pub(crate) async fn routing_table(State(state): State<ApiState>) -> Json<RoutingTable> {
    let buckets: Vec<Bucket> = state
        .mesh
        .routing_table()
        .await
        .into_iter()
        .map(|bucket| Bucket {
            common_prefix_bits: bucket.common_prefix_bits,
            peers: bucket
                .peers
                .into_iter()
                .map(|entry| BucketPeer {
                    peer_id: entry.peer_id.to_string(),
                    addresses: entry.addresses.iter().map(ToString::to_string).collect(),
                    connected: entry.connected,
                })
                .collect(),
        })
        .collect();
    let total = buckets.iter().map(|bucket| bucket.peers.len()).sum();
    Json(RoutingTable { buckets, total })
}

/// What kind of NAT the node is behind.
#[utoipa::path(get, path = "/api/v1/network/nat", tag = "network", responses((status = 200, body = Nat)))]
pub(crate) async fn nat(State(state): State<ApiState>) -> Json<Nat> {
    let status = state.mesh.nat_status().await;
    let texts = |addresses: &[Multiaddr]| addresses.iter().map(ToString::to_string).collect();
    let reachability = match status.reachability {
        Reachability::Public => "public",
        Reachability::Private => "private",
        Reachability::Unknown => "unknown",
    };
    let kind = match status.kind {
        NatKind::None => "none",
        NatKind::Cone => "cone",
        NatKind::Symmetric => "symmetric",
        NatKind::Unknown => "unknown",
    };
    Json(Nat {
        reachability: reachability.to_owned(),
        nat: kind.to_owned(),
        summary: nat_summary(&status).to_owned(),
        observed_addresses: texts(&status.observed),
        confirmed_addresses: texts(&status.confirmed),
        mapped_addresses: texts(&status.mapped),
        relays: status.relays.iter().map(ToString::to_string).collect(),
        hole_punches_succeeded: status.hole_punches_succeeded,
        hole_punches_failed: status.hole_punches_failed,
    })
}

fn nat_summary(status: &NatStatus) -> &'static str {
    match (status.reachability, status.kind) {
        (Reachability::Public, _) => "others can dial this node directly",
        (Reachability::Private, NatKind::Cone) => {
            "others cannot dial this node, but hole punching works: connections become direct"
        }
        (Reachability::Private, NatKind::Symmetric) => {
            "others cannot dial this node and its NAT gives each peer another port: peers behind such a NAT reach it through a relay only"
        }
        (Reachability::Private, _) => {
            "others cannot dial this node; a firewall stands between, or too few peers have told what they see"
        }
        (Reachability::Unknown, _) => {
            "no peer has tried to dial this node yet: connect to one, or wait half a minute"
        }
    }
}

/// Traffic within a period.
#[utoipa::path(get, path = "/api/v1/network/stats/bandwidth", params(BandwidthQuery), tag = "network",
    responses((status = 200, body = BandwidthStats), (status = 400, body = ErrorBody)))]
pub(crate) async fn bandwidth(
    State(state): State<ApiState>,
    query: Result<Query<BandwidthQuery>, QueryRejection>,
) -> Result<Json<BandwidthStats>, ApiError> {
    let Query(query) = query.map_err(|rejection| ApiError::bad_request(rejection.body_text()))?;
    let period = query.period.unwrap_or_else(|| "1h".to_owned());
    let hours = match period.as_str() {
        "1h" => 1,
        "24h" => 24,
        "7d" => 7 * 24,
        "30d" => 30 * 24,
        _ => {
            return Err(ApiError::bad_request(format!(
                "period {period:?} is none of 1h, 24h, 7d, 30d"
            )));
        }
    };
    let window = state.traffic.window(
        Duration::from_secs(hours * 3600),
        total_traffic(&state),
        Instant::now(),
    );
    let mbps = |bytes: u64| match window.covered.as_secs_f64() {
        seconds if seconds > 0.0 => bytes as f64 * 8.0 / 1e6 / seconds,
        _ => 0.0,
    };
    let mut top: Vec<(PeerId, Traffic)> = traffic_by_peer(&state).into_iter().collect();
    top.sort_by_key(|(_, traffic)| std::cmp::Reverse(traffic.sent + traffic.received));
    let top_peers = top
        .into_iter()
        .take(TOP_PEERS)
        .map(|(peer, traffic)| PeerTraffic {
            peer_id: peer.to_string(),
            bytes_sent: traffic.sent,
            bytes_received: traffic.received,
        });
    Ok(Json(BandwidthStats {
        period,
        covered_seconds: window.covered.as_secs(),
        total_bytes_sent: window.totals.sent,
        total_bytes_received: window.totals.received,
        sent_mbps: mbps(window.totals.sent),
        received_mbps: mbps(window.totals.received),
        top_peers: top_peers.collect(),
    }))
}

/// The counters as they stand.
pub fn total_traffic(state: &ApiState) -> Totals {
    state
        .mesh
        .bandwidth()
        .values()
        .fold(Totals::default(), |sum, traffic| Totals {
            sent: sum.sent + traffic.sent,
            received: sum.received + traffic.received,
        })
}
