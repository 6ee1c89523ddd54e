//! Seeds from `warren-identity`.

use std::time::Duration;

use rustls_pki_types::UnixTime;
use warren_fuzz::world;
use warren_identity::join::{JoinSecret, JoinToken};
use warren_identity::{
    Capabilities, CrlRequest, Csr, LeafRequest, NodeRecord, RevokedSerial, Serial, Signed,
    encode_chain,
};

use super::Seeds;

/// The seeds of this crate's targets.
pub(crate) fn seeds() -> anyhow::Result<Vec<(&'static str, Seeds)>> {
    Ok(vec![
        ("identity_chain", chains()?),
        ("identity_crl", lists()?),
        (
            "identity_csr",
            vec![(
                "request",
                Csr::create_pem(&world::node(1), "node-1")?.into_bytes(),
            )],
        ),
        ("identity_join_token", tokens()?),
        (
            "identity_key",
            vec![("key", world::node(1).to_pem().as_bytes().to_vec())],
        ),
        ("identity_node_record", records()?),
    ])
}

fn later(days: u64) -> UnixTime {
    UnixTime::since_unix_epoch(Duration::from_secs(world::now().as_secs() + days * 86_400))
}

fn chains() -> anyhow::Result<Seeds> {
    let plain = world::leaf_request(1, Capabilities::none());
    let many = Capabilities::parse([
        "storage",
        "discovery",
        "route:192.168.4.0/24",
        "something-new",
    ])?;
    let companion_key = Some(world::node(2).companion_key().public_key().to_vec());
    let with_companion = LeafRequest {
        companion_key,
        ..world::leaf_request(2, many)
    };
    let issue = |request, serial: u8| {
        world::authority().issue(request, world::now(), Serial::from_random([serial; 16]))
    };
    Ok(vec![
        ("leaf", encode_chain(issue(&plain, 1)?.chain_der())),
        (
            "leaf-with-companion",
            encode_chain(issue(&with_companion, 2)?.chain_der()),
        ),
        (
            "ca-alone",
            encode_chain(std::slice::from_ref(world::authority().certificate())),
        ),
        ("no-certificate", encode_chain(&[])),
    ])
}

fn lists() -> anyhow::Result<Seeds> {
    let sign = |revoked, number| {
        let request = CrlRequest {
            number,
            this_update: world::now(),
            next_update: later(7),
            revoked,
        };
        world::authority().sign_crl(&request)
    };
    let peer = RevokedSerial::peer(&world::node(3).peer_id(), world::now());
    Ok(vec![
        ("empty", sign(Vec::new(), 1)?),
        ("one-peer", sign(vec![peer], 2)?),
    ])
}

fn tokens() -> anyhow::Result<Seeds> {
    let token = |hint: Option<&str>| {
        JoinToken::new(
            world::authority().certificate(),
            JoinSecret::from_random([5; 32]),
            hint.map(Into::into),
        )
    };
    Ok(vec![
        ("bare", token(None)?.to_text().as_bytes().to_vec()),
        (
            "with-hint",
            token(Some("org_acme_corp"))?.to_text().as_bytes().to_vec(),
        ),
        ("other-version", b"warren-join-2.AAAA".to_vec()),
    ])
}

fn records() -> anyhow::Result<Seeds> {
    let record = world::record(1);
    let bare = NodeRecord {
        region: None,
        roles: Vec::new(),
        addresses: Vec::new(),
        ..record.clone()
    };
    Ok(vec![
        ("whole", Signed::sign(record, &world::node(1))?.to_bytes()),
        ("bare", Signed::sign(bare, &world::node(1))?.to_bytes()),
    ])
}
