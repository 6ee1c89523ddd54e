//! What can be wrong when a node starts: one clear message, exit code 1, nothing half started.

use std::net::{TcpListener, UdpSocket};

use crate::support::{Home, Node, Organization, Plan, warren};

#[test]
fn given_a_truncated_key_when_started_then_the_file_and_the_reason_are_told() {
    let organization = Organization::new();
    let home = organization.home("node-1");
    let key = std::fs::read_to_string(home.path("node.pem")).unwrap();
    std::fs::write(home.path("node.pem"), &key[..60]).unwrap();

    let refusal = home.warren(["start"]).failed();

    assert!(refusal.contains("node.pem"), "{refusal}");
    assert!(!home.path("data").exists());
}

#[test]
fn given_the_certificate_of_another_key_when_started_then_both_peers_are_told() {
    let organization = Organization::new();
    let (home, other) = (organization.home("node-1"), organization.home("other"));
    std::fs::copy(other.path("node_cert.pem"), home.path("node_cert.pem")).unwrap();

    let refusal = home.warren(["start"]).failed();

    assert!(
        refusal.contains(&home.peer_id) && refusal.contains(&other.peer_id),
        "{refusal}"
    );
}

#[test]
fn given_a_certificate_of_another_authority_when_started_then_it_is_told() {
    let organization = Organization::new();
    let (home, foreign) = (organization.home("node-1"), Organization::new());
    home.issue(&foreign, "node-1", &["storage"]).ok();

    let refusal = home.warren(["start"]).failed();

    assert!(
        refusal.contains("node_cert.pem") && refusal.contains("CA"),
        "{refusal}"
    );
}

#[test]
fn given_a_role_without_its_capability_when_started_then_both_are_told() {
    let organization = Organization::new();
    let home = organization.planned(
        "node-1",
        Plan {
            capabilities: vec!["storage"],
            roles: "storage, discovery",
            ..Plan::default()
        },
    );
    home.edit(
        "roles:",
        "discovery: {server: {listen_address: '127.0.0.1:0'}}\nroles:",
    );

    let refusal = home.warren(["start"]).failed();

    assert!(
        refusal.contains("discovery") && refusal.contains("capability"),
        "{refusal}"
    );
}

#[test]
fn given_a_configuration_that_is_no_yaml_when_started_then_the_place_is_told() {
    let organization = Organization::new();
    let home = organization.home("node-1");
    std::fs::write(&home.config, "\u{0}\u{1}{{{{").unwrap();

    let refusal = home.warren(["start"]).failed();

    assert!(refusal.contains("warren.yaml"), "{refusal}");
}

#[test]
fn given_the_api_port_in_use_when_started_then_the_key_to_change_is_told() {
    let organization = Organization::new();
    let home = organization.home("node-1");
    let _taken = TcpListener::bind((home.ip, Home::API_PORT)).unwrap();

    let refusal = home.warren(["start"]).failed();

    assert!(
        refusal.contains("api.listen_address") && refusal.contains("18080"),
        "{refusal}"
    );
}

#[test]
fn given_the_mesh_port_in_use_when_started_then_the_key_to_change_is_told() {
    let organization = Organization::new();
    let home = organization.home("node-1");
    let _taken = TcpListener::bind((home.ip, Home::MESH_PORT)).unwrap();

    let refusal = home.warren(["start"]).failed();

    assert!(
        refusal.contains("listen_addresses") && refusal.contains("14001"),
        "{refusal}"
    );
}

#[test]
fn given_the_mesh_udp_port_in_use_when_started_then_the_key_to_change_is_told() {
    let organization = Organization::new();
    let home = organization.home("node-1");
    let _taken = UdpSocket::bind((home.ip, Home::MESH_PORT)).unwrap();

    let refusal = home.warren(["start"]).failed();

    assert!(
        refusal.contains("listen_addresses") && refusal.contains("quic"),
        "{refusal}"
    );
}

#[test]
fn given_the_bulk_port_in_use_when_started_then_the_key_to_change_is_told() {
    let organization = Organization::new();
    let home = organization.home("node-1");
    let _taken = TcpListener::bind((home.ip, Home::BULK_PORT)).unwrap();

    let refusal = home.warren(["start"]).failed();

    assert!(
        refusal.contains("network.transfer.listen_address") && refusal.contains("14002"),
        "{refusal}"
    );
}

#[test]
fn given_the_discovery_port_in_use_when_started_then_the_key_to_change_is_told() {
    let organization = Organization::new();
    let home = organization.planned(
        "node-1",
        Plan {
            capabilities: vec!["storage", "discovery"],
            roles: "storage, discovery",
            ..Plan::default()
        },
    );
    let server = format!("{}:{}", home.ip, Home::DISCOVERY_PORT);
    home.edit(
        "roles:",
        &format!("discovery: {{server: {{listen_address: '{server}'}}}}\nroles:"),
    );
    let _taken = TcpListener::bind(&server).unwrap();

    let refusal = home.warren(["start"]).failed();

    assert!(
        refusal.contains("discovery.server.listen_address"),
        "{refusal}"
    );
}

#[test]
fn given_the_monitoring_port_in_use_when_started_then_the_key_to_change_is_told() {
    let organization = Organization::new();
    let home = organization.home("node-1");
    home.edit(
        "roles:",
        &format!(
            "monitoring: {{listen_address: '{}:19100'}}\nroles:",
            home.ip
        ),
    );
    let _taken = TcpListener::bind((home.ip, 19100)).unwrap();

    let refusal = home.warren(["start"]).failed();

    assert!(refusal.contains("monitoring.listen_address"), "{refusal}");
}

#[test]
fn given_a_store_in_use_when_a_second_node_starts_on_it_then_it_is_told() {
    let organization = Organization::new();
    let (first, second) = (organization.home("node-1"), organization.home("node-2"));
    second.edit(
        second.path("data").to_str().unwrap(),
        first.path("data").to_str().unwrap(),
    );
    let _first = Node::start(&first);

    let refusal = second.warren(["start"]).failed();

    assert!(
        refusal.contains("in use") || refusal.contains("another"),
        "{refusal}"
    );
}

#[test]
fn given_a_storage_path_that_is_a_file_when_started_then_it_is_told() {
    let organization = Organization::new();
    let home = organization.home("node-1");
    std::fs::write(home.path("data"), "a file").unwrap();

    let refusal = home.warren(["start"]).failed();

    assert!(
        refusal.contains(home.path("data").to_str().unwrap()),
        "{refusal}"
    );
}

/// Issues the node's certificate as `days_ago` days ago (negative: in the future), for `days` days.
fn issue_at(organization: &Organization, home: &Home, days_ago: i64, days: u64) {
    use std::time::Duration;
    use warren_identity::{
        Capabilities, CertificateAuthority, LeafRequest, NodeKey, Serial, WildcardNames,
    };
    let read = |path: std::path::PathBuf| std::fs::read_to_string(path).unwrap();
    let ca = organization.ca();
    let (cert, key) = (read(ca.join("ca_cert.pem")), read(ca.join("ca_key.pem")));
    let authority = CertificateAuthority::from_pem(&cert, &key, None).unwrap();
    let node = NodeKey::from_pem(&read(home.path("node.pem"))).unwrap();
    let request = LeafRequest {
        peer_id: node.peer_id(),
        name: "node-1".to_owned(),
        dns: Vec::new(),
        ip: Vec::new(),
        capabilities: Capabilities::parse(["storage"]).unwrap(),
        validity: Duration::from_secs(days * 86_400),
        companion_key: None,
        wildcards: WildcardNames::Refuse,
    };
    let serial = Serial::from_random([7; 16]);
    let leaf = authority
        .issue(&request, before_now(days_ago), serial)
        .unwrap();
    std::fs::write(home.path("node_cert.pem"), leaf.to_pem()).unwrap();
}

fn before_now(days: i64) -> warren_identity::UnixTime {
    use warren_identity::UnixTime;
    let now = i64::try_from(UnixTime::now().as_secs()).unwrap();
    let then = u64::try_from(now - days * 86_400).unwrap();
    UnixTime::since_unix_epoch(std::time::Duration::from_secs(then))
}

/// An organisation whose authority has been there for a while.
fn old_organization() -> Organization {
    use warren_identity::{CA_VALIDITY, CaRequest, CertificateAuthority, OrganizationId, Serial};
    let organization = Organization::without_ca("org_acme_corp");
    let request = CaRequest {
        organization: OrganizationId::new(&organization.id).unwrap(),
        key_material: zeroize::Zeroizing::new([3; 32]),
        serial: Serial::from_random([9; 16]),
        validity: CA_VALIDITY,
    };
    let authority = CertificateAuthority::create(&request, before_now(30)).unwrap();
    let ca = organization.ca();
    std::fs::create_dir(&ca).unwrap();
    std::fs::write(ca.join("ca_cert.pem"), authority.certificate_pem()).unwrap();
    std::fs::write(ca.join("ca_key.pem"), authority.key_pem().as_bytes()).unwrap();
    crate::support::tool("chmod", &ca, ["400", "ca_key.pem"]).ok();
    organization
}

#[test]
fn given_an_expired_certificate_when_started_then_its_end_and_the_remedy_are_told() {
    let organization = old_organization();
    let home = organization.home("node-1");
    issue_at(&organization, &home, 4, 1);

    let refusal = home.warren(["start"]).failed();

    assert!(refusal.contains("expired at 20"), "{refusal}");
    assert!(refusal.contains("warren ca issue"), "{refusal}");
}

#[test]
fn given_a_clock_three_days_slow_when_started_then_the_certificate_of_the_future_is_told() {
    let organization = old_organization();
    let home = organization.home("node-1");
    // A clock that is slow here sees what a right clock sees of a certificate issued in three days.
    issue_at(&organization, &home, -3, 30);

    let refusal = home.warren(["start"]).failed();

    assert!(refusal.contains("clock"), "{refusal}");
}

#[test]
fn given_an_unset_variable_in_the_configuration_when_started_then_key_and_variable_are_told() {
    let organization = Organization::new();
    let home = organization.home("node-1");
    home.edit("region: us-west", "region: ${NOBODY_SETS_THIS}");

    let refusal = home.warren(["start"]).failed();

    assert!(
        refusal.contains("NOBODY_SETS_THIS") && refusal.contains("network.region"),
        "{refusal}"
    );
}

#[test]
fn given_a_missing_configuration_when_any_command_asks_a_node_then_it_says_how_to_name_one() {
    let refusal = warren(["status", "--config", "/nowhere/node.yaml"]).failed();

    assert!(refusal.contains("/nowhere/node.yaml"), "{refusal}");
}
