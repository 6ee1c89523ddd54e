//! Seeds from `warren-discovery`.

use serde_json::json;
use warren_discovery::wire::PublicKeyText;
use warren_fuzz::world;
use warren_identity::join::{JoinGrant, JoinRequest, JoinSecret, JoinToken, RenewRequest};
use warren_identity::{Capabilities, Csr};

use super::Seeds;

/// The seeds of this crate's targets.
pub(crate) fn seeds() -> anyhow::Result<Vec<(&'static str, Seeds)>> {
    Ok(vec![
        ("discovery_answers", answers()),
        ("discovery_requests", requests()?),
    ])
}

fn requests() -> anyhow::Result<Seeds> {
    let node = world::node(1);
    let register = json!({
        "peer_id": node.peer_id().to_string(),
        "addresses": ["/ip4/10.0.1.5/tcp/4001", "/ip4/10.0.1.5/udp/4001/quic-v1"],
        "organization_id": world::organization().as_str(),
        "public_key": PublicKeyText::new(&node.public_key()),
        "region": "us-west",
    });
    let of_another = json!({
        "peer_id": node.peer_id().to_string(),
        "addresses": [],
        "organization_id": world::organization().as_str(),
        "public_key": PublicKeyText::new(&world::node(2).public_key()),
    });
    let token = JoinToken::new(
        world::authority().certificate(),
        JoinSecret::from_random([5; 32]),
        None,
    )?;
    let grant = JoinGrant {
        token_hash: token.secret().token_hash(),
        name: "node-2".into(),
        capabilities: Capabilities::parse(["storage", "route:192.168.4.0/24"])?,
        dns: vec!["node2.acme.com".into()],
        ip: vec![[10, 0, 1, 6].into()],
        validity_s: 31_536_000,
        expires_at_unix_s: world::now().as_secs() + 86_400,
    };
    let join = JoinRequest::new(&token, &node, "node-1")?;
    Ok(texts([
        ("register", register),
        ("register-key-of-another", of_another),
        ("grant", serde_json::to_value(grant)?),
        ("join", serde_json::to_value(join)?),
        (
            "renew",
            serde_json::to_value(RenewRequest {
                csr_pem: Csr::create_pem(&node, "node-1")?,
            })?,
        ),
    ]))
}

fn answers() -> Seeds {
    let peer = json!({
        "peer_id": world::node(1).peer_id().to_string(),
        "addresses": ["/ip4/10.0.1.5/tcp/4001"],
        "region": "us-west-2",
        "capabilities": ["storage", "search", "federation"],
    });
    let error = json!({
        "code": "not_a_member",
        "message": "it belongs to another organisation",
        "details": {"nested": [1, null, {"deep": true}]},
        "request_id": "1",
        "timestamp": "2027-01-15T08:00:00Z",
    });
    let registered = json!({
        "registered": true,
        "change": "new",
        "peer_id": world::node(1).peer_id().to_string(),
        "organization_id": world::organization().as_str(),
        "expires_at": "2027-01-15T08:00:00Z",
        "ttl_seconds": 90,
    });
    texts([
        ("bootstrap", json!({"peers": [peer]})),
        ("no-peers", json!({"peers": []})),
        (
            "peers",
            json!({"peers": [peer], "total": 1, "limit": 100, "next_cursor": null}),
        ),
        ("registered", registered),
        ("removed", json!({"removed": true})),
        ("error", json!({"error": error})),
    ])
}

fn texts<const COUNT: usize>(bodies: [(&'static str, serde_json::Value); COUNT]) -> Seeds {
    bodies
        .into_iter()
        .map(|(name, body)| (name, body.to_string().into_bytes()))
        .collect()
}
