//! The organisation that the corpus is from: one CA and a few nodes, made from fixed keys, at one fixed moment.
//!
//! So a committed chain verifies wherever it is replayed, and every signature that verifies was made here.

use std::sync::LazyLock;
use std::time::Duration;

use rustls_pki_types::UnixTime;
use warren_identity::{
    CaRequest, Capabilities, CertificateAuthority, LeafRequest, NodeKey, NodeRecord,
    OrganizationId, PeerId, Roots, Serial, Signed, WildcardNames,
};
use warren_mesh::fuzz::Party;
use zeroize::Zeroizing;

static AUTHORITY: LazyLock<CertificateAuthority> = LazyLock::new(|| {
    let request = CaRequest {
        organization: organization(),
        key_material: Zeroizing::new([7; 32]),
        serial: Serial::from_random([9; 16]),
        validity: Duration::from_secs(10 * 365 * 86_400),
    };
    CertificateAuthority::create(&request, now()).expect("fixed inputs that are valid")
});

/// The moment at which everything was issued, and is judged.
#[must_use]
pub fn now() -> UnixTime {
    UnixTime::since_unix_epoch(Duration::from_secs(1_800_000_000))
}

/// Its name.
#[must_use]
pub fn organization() -> OrganizationId {
    OrganizationId::new("org_acme_corp").expect("a valid organisation id")
}

/// Its certificate authority.
#[must_use]
pub fn authority() -> &'static CertificateAuthority {
    &AUTHORITY
}

/// The roots its members trust.
#[must_use]
pub fn roots() -> Roots {
    authority().roots().clone()
}

/// The key of its `number`th node.
#[must_use]
pub fn node(number: u8) -> NodeKey {
    NodeKey::from_seed([number; 32])
}

/// The nodes that were ever issued a leaf.
#[must_use]
pub fn issued() -> [PeerId; 2] {
    [node(1).peer_id(), node(2).peer_id()]
}

/// A request for the leaf of a node.
#[must_use]
pub fn leaf_request(number: u8, capabilities: Capabilities) -> LeafRequest {
    LeafRequest {
        peer_id: node(number).peer_id(),
        name: format!("node-{number}"),
        dns: vec![format!("node{number}.acme.com")],
        ip: vec![
            [10, 0, 1, number].into(),
            std::net::Ipv6Addr::LOCALHOST.into(),
        ],
        capabilities,
        validity: Duration::from_secs(365 * 86_400),
        companion_key: None,
        wildcards: WildcardNames::Refuse,
    }
}

/// What a node says of itself.
#[must_use]
pub fn record(number: u8) -> NodeRecord {
    NodeRecord {
        peer_id: node(number).peer_id(),
        organization: organization(),
        name: format!("node-{number}"),
        region: Some("us-west".into()),
        roles: vec!["storage".into(), "discovery".into()],
        addresses: vec![
            format!("/ip4/10.0.1.{number}/tcp/4001"),
            format!("/ip4/10.0.1.{number}/udp/4001/quic-v1"),
        ],
        bulk_addresses: vec![format!("10.0.1.{number}:4002")],
        sequence: 3,
        issued_at_unix_s: now().as_secs(),
    }
}

/// A node as it shows itself to others.
#[must_use]
pub fn party(number: u8) -> Party {
    let capabilities = Capabilities::parse(["storage", "discovery"]).expect("known capabilities");
    let leaf = authority()
        .issue(
            &leaf_request(number, capabilities),
            now(),
            Serial::from_random([number; 16]),
        )
        .expect("a request that the CA grants");
    Party {
        peer_id: node(number).peer_id(),
        chain: leaf.chain_der().iter().map(|der| der.to_vec()).collect(),
        record: Signed::sign(record(number), &node(number)).expect("a record of its own"),
    }
}
