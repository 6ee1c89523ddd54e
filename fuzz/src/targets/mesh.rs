//! What nodes say to each other before and after they know each other: see `warren_mesh::fuzz`.

use std::sync::LazyLock;

use warren_identity::{CertificateDer, Member, Refusal, Revocations, Roots, verify_member};
use warren_mesh::fuzz::Parties;

use crate::world;

static ROOTS: LazyLock<Roots> = LazyLock::new(world::roots);

static PARTIES: LazyLock<Parties<'static>> = LazyLock::new(|| Parties {
    dialler: world::party(1),
    listener: world::party(2),
    verify: &verify,
});

/// Two members of the organisation, and its verdict on chains.
#[must_use]
pub fn parties() -> &'static Parties<'static> {
    &PARTIES
}

fn verify(chain: &[Vec<u8>]) -> Result<Member, Refusal> {
    let chain: Vec<CertificateDer<'_>> = chain.iter().map(|der| der.as_slice().into()).collect();
    verify_member(&chain, &ROOTS, &Revocations::none(), world::now())
}

/// Messages of the admission protocol.
pub fn admission(data: &[u8]) -> bool {
    warren_mesh::fuzz::admission(data, parties())
}

/// A gossip message of the mesh's own topic.
pub fn gossip(data: &[u8]) -> bool {
    warren_mesh::fuzz::gossip(data)
}

/// The first bytes of a substream.
pub fn opening(data: &[u8]) -> bool {
    warren_mesh::fuzz::opening(data)
}

/// A sync request or answer.
pub fn sync(data: &[u8]) -> bool {
    warren_mesh::fuzz::sync(data)
}
