//! `warren status`, `peers`, `connect`, `nat-check`, `dht`, `cert renew`, `reload` and `health`: questions to a running node.

use std::collections::BTreeMap;
use std::process::ExitCode;

use reqwest::Method;
use warren_api::types::{
    ConnectRequest, Connected, Nat, Peer, Peers, Reloaded, Renewed, RoutingTable, Status,
};
use warren_config::Multiaddr;

use crate::args::{Endpoint, PeerStatus, PeersArgs};
use crate::client::ApiClient;
use crate::output::{self, Format, print_line, table};

pub(crate) async fn status(client: &ApiClient, format: Format) -> anyhow::Result<()> {
    let status: Status = client.get("/api/v1/status").await?;
    Ok(format.print(&status, status_text)?)
}

/// Each topic with the number of peers its messages go to.
fn gossip_text(meshes: &BTreeMap<String, usize>) -> String {
    let topics: Vec<String> = meshes
        .iter()
        .map(|(topic, peers)| format!("{topic} to {peers}"))
        .collect();
    topics.join(", ")
}

fn status_text(status: &Status) -> String {
    let certificate = &status.certificate;
    let storage = &status.storage;
    let mut rows = vec![
        (
            "node",
            format!("{} of {}", status.node_id, status.organization_id),
        ),
        ("peer id", status.peer_id.clone()),
        (
            "version",
            format!("{}, up {}", status.version, span(status.uptime_seconds)),
        ),
        ("roles", status.roles.join(", ")),
        ("region", status.region.clone().unwrap_or_default()),
        ("state", status.readiness.clone()),
        ("mesh", status.listen_addresses.join(" ")),
        (
            "bulk port",
            status.transfer_address.clone().unwrap_or_default(),
        ),
        ("peers", status.peers.to_string()),
        ("gossip", gossip_text(&status.gossip_mesh_peers)),
        (
            "storage",
            format!(
                "{} documents, {} of {}",
                storage.documents,
                output::bytes(storage.used_bytes),
                output::capacity(storage.max_bytes)
            ),
        ),
        (
            "certificate",
            format!(
                "until {}{}",
                certificate.not_after,
                if certificate.renewal_due {
                    ", due for renewal"
                } else {
                    ""
                }
            ),
        ),
        ("may", certificate.capabilities.join(", ")),
    ];
    for (name, state) in &status.components {
        let word = state["status"].as_str().unwrap_or_default();
        if word != "ok" {
            rows.push((
                "attention",
                format!(
                    "{name} is {word}: {}",
                    state["reason"].as_str().unwrap_or("no reason given")
                ),
            ));
        }
    }
    rows.extend(
        status
            .warnings
            .iter()
            .map(|warning| ("warning", warning.clone())),
    );
    let lines: Vec<String> = rows
        .iter()
        .filter(|(_, value)| !value.is_empty())
        .map(|(key, value)| format!("{key:<12} {value}"))
        .collect();
    lines.join("\n")
}

/// Seconds for people, in the two largest units that are not zero.
fn span(seconds: u64) -> String {
    let parts = [(86_400, "d"), (3_600, "h"), (60, "m"), (1, "s")];
    let mut left = seconds;
    let mut shown = Vec::new();
    for (length, unit) in parts {
        let count = left / length;
        left %= length;
        if count > 0 && shown.len() < 2 {
            shown.push(format!("{count}{unit}"));
        }
    }
    if shown.is_empty() {
        "0s".to_owned()
    } else {
        shown.join(" ")
    }
}

pub(crate) async fn peers(
    client: &ApiClient,
    args: &PeersArgs,
    format: Format,
) -> anyhow::Result<()> {
    let status = args.status.map(|status| match status {
        PeerStatus::Online => "online",
        PeerStatus::Offline => "offline",
        PeerStatus::Unreachable => "unreachable",
    });
    let query = [("status", status), ("region", args.region.as_deref())];
    let peers = client
        .list::<Peers>("/api/v1/network/peers", &query, None)
        .await?;
    let all = Peers {
        total: peers.len(),
        peers,
        next_cursor: None,
    };
    Ok(format.print(&all, |all| match all.total {
        0 => "no peers: `warren connect MULTIADDR` connects to one, `warren status` says what is missing".to_owned(),
        _ => table(
            &["peer", "name", "region", "status", "path", "rtt", "address"],
            &all.peers.iter().map(peer_row).collect::<Vec<_>>(),
        ),
    })?)
}

fn peer_row(peer: &Peer) -> Vec<String> {
    vec![
        peer.peer_id.clone(),
        peer.node_name.clone().unwrap_or_default(),
        peer.region.clone().unwrap_or_default(),
        peer.status.clone(),
        peer.path.clone().unwrap_or_default(),
        peer.latency_ms
            .map(|latency| format!("{latency} ms"))
            .unwrap_or_default(),
        peer.addresses.first().cloned().unwrap_or_default(),
    ]
}

pub(crate) async fn connect(
    client: &ApiClient,
    multiaddr: &Multiaddr,
    format: Format,
) -> anyhow::Result<()> {
    let body = ConnectRequest {
        multiaddr: Some(multiaddr.to_string()),
        ..ConnectRequest::default()
    };
    let request = client
        .request(Method::POST, "/api/v1/network/connect")
        .json(&body);
    let connected: Connected = client.send(request).await?.json().await?;
    Ok(format.print(&connected, |connected| {
        format!(
            "connected to {} in {} ms",
            connected.peer_id, connected.latency_ms
        )
    })?)
}

pub(crate) async fn nat_check(client: &ApiClient, format: Format) -> anyhow::Result<()> {
    let nat: Nat = client.get("/api/v1/network/nat").await?;
    Ok(format.print(&nat, |nat| {
        let mut lines = vec![
            format!("{}, NAT: {}", nat.reachability, nat.nat),
            nat.summary.clone(),
        ];
        for (what, addresses) in [
            ("seen by peers at", &nat.observed_addresses),
            ("reachable at", &nat.confirmed_addresses),
            ("mapped by the gateway", &nat.mapped_addresses),
            ("relayed by", &nat.relays),
        ] {
            lines.extend(
                addresses
                    .iter()
                    .map(|address| format!("{what:<22} {address}")),
            );
        }
        lines.push(format!(
            "hole punches           {} worked, {} did not",
            nat.hole_punches_succeeded, nat.hole_punches_failed
        ));
        lines.join("\n")
    })?)
}

pub(crate) async fn dht(client: &ApiClient, format: Format) -> anyhow::Result<()> {
    let routing: RoutingTable = client.get("/api/v1/network/dht/routing-table").await?;
    Ok(format.print(&routing, |routing| {
        let rows = routing.buckets.iter().flat_map(|bucket| {
            bucket.peers.iter().map(|peer| {
                let state = if peer.connected { "connected" } else { "known" };
                let address = peer.addresses.first().cloned().unwrap_or_default();
                vec![
                    bucket.common_prefix_bits.to_string(),
                    peer.peer_id.clone(),
                    state.to_owned(),
                    address,
                ]
            })
        });
        match routing.total {
            0 => "the routing table is empty: it fills as peers connect; `warren peers` lists them"
                .to_owned(),
            _ => table(
                &["bucket", "peer", "state", "address"],
                &rows.collect::<Vec<_>>(),
            ),
        }
    })?)
}

/// Exit code 1 where the node refused: nothing of the new configuration is in force then.
pub(crate) async fn reload(client: &ApiClient, format: Format) -> anyhow::Result<ExitCode> {
    let reloaded: Reloaded = client
        .send(client.request(Method::POST, "/api/v1/reload"))
        .await?
        .json()
        .await?;
    format.print(&reloaded, |reloaded| {
        let mut lines = Vec::new();
        for (what, keys) in [
            ("applied", &reloaded.applied),
            ("needs a restart", &reloaded.needs_restart),
            ("refused: would lower protection", &reloaded.refused),
            ("warning", &reloaded.warnings),
        ] {
            lines.extend(keys.iter().map(|key| format!("{what}: {key}")));
        }
        if lines.is_empty() {
            "nothing has changed".to_owned()
        } else {
            lines.join("\n")
        }
    })?;
    Ok(if reloaded.refused.is_empty() {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}

pub(crate) async fn renew(client: &ApiClient, format: Format) -> anyhow::Result<()> {
    let renewed: Renewed = client
        .send(client.request(Method::POST, "/api/v1/certificate/renew"))
        .await?
        .json()
        .await?;
    Ok(format.print(&renewed, |renewed| {
        format!("renewed until {}", renewed.not_after)
    })?)
}

/// The probe of container health checks: prints the report, exits 0 or 1.
pub(crate) async fn health(
    client: &ApiClient,
    endpoint: Endpoint,
    format: Format,
) -> anyhow::Result<ExitCode> {
    let path = match endpoint {
        Endpoint::Health => "/health",
        Endpoint::Ready => "/ready",
    };
    let (passes, body) = client.probe(path).await?;
    match (format, serde_json::from_str(&body)) {
        (Format::Text, Ok(report)) => print_line(&health_text(&report))?,
        _ => print_line(&body)?,
    }
    Ok(if passes {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}

/// The verdict, and each part with its state. `/health` gives a part as its state alone, `/ready` with the reason beside it.
fn health_text(report: &serde_json::Value) -> String {
    let text = |value: &serde_json::Value| value.as_str().unwrap_or_default().to_owned();
    let parts = report["components"].as_object().into_iter().flatten();
    let rows: Vec<Vec<String>> = parts
        .map(|(name, state)| match state {
            serde_json::Value::String(word) => vec![name.clone(), word.clone(), String::new()],
            state => vec![name.clone(), text(&state["status"]), text(&state["reason"])],
        })
        .collect();
    let verdict = text(&report["status"]);
    let columns = match rows.iter().all(|row| row[2].is_empty()) {
        true => &["part", "state"][..],
        false => &["part", "state", "reason"],
    };
    match rows.is_empty() {
        true => verdict,
        false => format!("{verdict}\n\n{}", table(columns, &rows)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn health_is_told_part_by_part() {
        let report = serde_json::json!({"status": "not ready", "components": {
            "mesh": {"status": "ok"}, "peers": {"status": "starting", "reason": "nobody yet"}}});
        assert_eq!(
            health_text(&report),
            "not ready\n\npart   state     reason\nmesh   ok\npeers  starting  nobody yet"
        );
        let alive = serde_json::json!({"status": "healthy", "components": {"mesh": "ok", "storage": "failing"}});
        assert_eq!(
            health_text(&alive),
            "healthy\n\npart     state\nmesh     ok\nstorage  failing"
        );
        assert_eq!(
            health_text(&serde_json::json!({"status": "healthy"})),
            "healthy"
        );
    }

    #[test]
    fn spans_show_their_two_largest_units() {
        let shown: Vec<String> = [0, 59, 61, 3_600, 93_784].map(span).into();
        assert_eq!(shown, ["0s", "59s", "1m 1s", "1h", "1d 2h"]);
    }
}
