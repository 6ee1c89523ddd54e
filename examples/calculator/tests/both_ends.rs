//! The example's two ends in one process, with files as a member has them.
#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::path::Path;
use std::time::Duration;

use warren_example_calculator::{Files, bind, connect, tour};
use warren_identity::{
    CaRequest, Capabilities, CertificateAuthority, LeafRequest, NodeKey, OrganizationId, Serial,
    UnixTime, WildcardNames,
};

const DAY: Duration = Duration::from_secs(24 * 3600);

fn authority() -> CertificateAuthority {
    let request = CaRequest {
        organization: OrganizationId::new("org_calculators").unwrap(),
        key_material: zeroize::Zeroizing::new([7; 32]),
        serial: Serial::from_random([1; 16]),
        validity: DAY,
    };
    CertificateAuthority::create(&request, UnixTime::now()).unwrap()
}

/// The files of a new member, in `folder`.
fn member(ca: &CertificateAuthority, folder: &Path, name: &str, seed: u8) -> Files {
    let key = NodeKey::from_seed([seed; 32]);
    let request = LeafRequest {
        peer_id: key.peer_id(),
        name: name.into(),
        dns: Vec::new(),
        ip: Vec::new(),
        capabilities: Capabilities::parse(["worker"]).unwrap(),
        validity: DAY,
        companion_key: None,
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

#[tokio::test]
async fn given_a_server_when_the_client_tours_it_then_every_method_answers() {
    let folder = tempfile::tempdir().unwrap();
    let ca = authority();
    let server_files = member(&ca, folder.path(), "server", 2);
    let client_files = member(&ca, folder.path(), "client", 3);
    let server = bind(&server_files, "127.0.0.1:0".parse().unwrap()).unwrap();
    let address = server.local_address().unwrap();
    let running = server.clone();
    tokio::spawn(async move { running.run().await });

    let calculator = connect(&client_files, address).await.unwrap();
    let lines = tour(&calculator, 2, 3).await.unwrap();

    assert_eq!(
        lines,
        [
            "2 + 3 = 5",
            "refused: 9223372036854775807 and 1 make more than 64 bits hold",
            "2 + 3 + 5 = 10",
            "so far: 2",
            "so far: 5",
            "so far: 10",
            "sum 0 was 5",
        ]
    );
}
