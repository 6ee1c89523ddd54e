//! Members of an organisation, with files as members have them.
#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::path::Path;
use std::time::Duration;

use warren_example_calculator::Files;
use warren_identity::{
    CaRequest, Capabilities, CertificateAuthority, LeafRequest, NodeKey, OrganizationId, Serial,
    UnixTime, WildcardNames,
};

const DAY: Duration = Duration::from_secs(24 * 3600);

/// The CA of an organisation; another seed makes another one.
pub(crate) fn authority(seed: u8) -> CertificateAuthority {
    let request = CaRequest {
        organization: OrganizationId::new("org_calculators").unwrap(),
        key_material: zeroize::Zeroizing::new([seed; 32]),
        serial: Serial::from_random([1; 16]),
        validity: DAY,
    };
    CertificateAuthority::create(&request, UnixTime::now()).unwrap()
}

/// The files of a new member, in `folder`.
pub(crate) fn member(ca: &CertificateAuthority, folder: &Path, name: &str, seed: u8) -> Files {
    let key = NodeKey::from_seed([seed; 32]);
    let request = LeafRequest {
        peer_id: key.peer_id(),
        name: name.into(),
        dns: Vec::new(),
        ip: vec!["127.0.0.1".parse().unwrap()],
        capabilities: Capabilities::parse(["worker"]).unwrap(),
        validity: DAY,
        companion_key: Some(key.companion_key().public_key().to_vec()),
        wildcards: WildcardNames::Refuse,
    };
    let serial = Serial::from_random([seed; 16]);
    let leaf = ca.issue(&request, UnixTime::now(), serial).unwrap();
    let files = Files {
        cert: folder.join(format!("{name}.pem")),
        key: folder.join(format!("{name}.key")),
        ca: folder.join("ca.pem"),
    };
    std::fs::write(&files.cert, leaf.to_pem()).unwrap();
    std::fs::write(&files.key, key.to_pem().as_bytes()).unwrap();
    std::fs::write(&files.ca, ca.certificate_pem()).unwrap();
    files
}
