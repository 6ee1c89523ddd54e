//! The organisation that the corpus is from: one CA and a few nodes, made from fixed keys, at one fixed moment.
//!
//! So a committed chain verifies wherever it is replayed, and every signature that verifies was made here.

use std::sync::LazyLock;
use std::time::Duration;

use rustls_pki_types::UnixTime;
use warren_identity::{
    CaRequest, CertificateAuthority, NodeKey, OrganizationId, PeerId, Roots, Serial,
};
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
