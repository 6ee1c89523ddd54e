//! Certificates and CAs that near their end in running nodes, and what may take their place.

use std::time::{Duration, SystemTime};

use warren_daemon::ca_folder::CaFolder;
use warren_identity::{
    CaRequest, Capabilities, CertificateAuthority, CertificateFacts, LeafRequest, OrganizationId,
    Serial, UnixTime, WildcardNames, certificates_from_pem,
};

use crate::support::{Home, Node, Organization, Plan, eventually, warren, within};

/// Gives a home a certificate that ends this long from now; its beginning lies an hour back, as always.
fn reissue_for(organization: &Organization, home: &Home, name: &str, validity: Duration) {
    let request = LeafRequest {
        peer_id: home.peer_id.parse().unwrap(),
        name: name.to_owned(),
        dns: Vec::new(),
        ip: vec![home.ip.into()],
        capabilities: Capabilities::parse(["storage"]).unwrap(),
        validity,
        companion_key: None,
        wildcards: WildcardNames::Refuse,
    };
    let leaf = CaFolder::new(&organization.ca(), None)
        .issue(&request)
        .unwrap();
    std::fs::write(home.path("node_cert.pem"), leaf.to_pem()).unwrap();
}

/// When the certificate in the home's file ends.
fn end_of(home: &Home) -> SystemTime {
    let pem = std::fs::read_to_string(home.path("node_cert.pem")).unwrap();
    let der = certificates_from_pem(&pem).unwrap().remove(0);
    let end = CertificateFacts::parse(&der).unwrap().not_after;
    SystemTime::UNIX_EPOCH + Duration::from_secs(end.as_secs())
}

fn issuer(organization: &Organization) -> Node {
    let home = organization.planned(
        "issuer",
        Plan {
            capabilities: vec!["storage", "discovery"],
            roles: "storage, discovery, issuer",
            security: format!(", issuer_dir: {}", organization.ca().display()),
            ..Plan::default()
        },
    );
    let listen = format!("{}:{}", home.ip, Home::DISCOVERY_PORT);
    home.edit(
        "roles:",
        &format!("discovery: {{server: {{listen_address: '{listen}'}}}}\nroles:"),
    );
    Node::start(&home)
}

fn standing(node: &Node) -> String {
    let status = node.warren(["status", "--json"]).json();
    status["components"]["certificate"].to_string()
}

#[test]
fn given_a_certificate_that_is_about_to_end_when_its_node_runs_then_it_is_renewed_and_its_peers_talk_on()
 {
    let organization = Organization::new();
    let issuer = issuer(&organization);
    let home = organization.planned(
        "node-2",
        Plan {
            bootstrap: vec![issuer.address()],
            network: format!(
                "discovery: {{servers: ['https://{}:{}']}}",
                issuer.ip,
                Home::DISCOVERY_PORT
            ),
            ..Plan::default()
        },
    );
    reissue_for(&organization, &home, "node-2", Duration::from_secs(40));
    let first_end = end_of(&home);
    let node = Node::start(&home);
    node.meets(&issuer);

    node.logs("the node's certificate was renewed");
    assert!(end_of(&home) > first_end + Duration::from_secs(300 * 86_400));
    within(
        Duration::from_secs(60),
        "the first certificate has ended",
        || (SystemTime::now() > first_end + Duration::from_secs(2)).then_some(()),
    );

    let (theirs, their_bytes) = issuer.put_noise(1, 300_000);
    let (ours, our_bytes) = node.put_noise(2, 300_000);
    node.meets(&issuer);
    assert!(node.content(&theirs).bytes() == their_bytes);
    assert!(issuer.content(&ours).bytes() == our_bytes);
}

#[test]
fn given_a_certificate_without_the_capability_of_a_running_role_when_put_in_place_then_the_old_one_stays()
 {
    let organization = Organization::new();
    let node = Node::start(&organization.home("node-1"));
    let before = node.warren(["status", "--json"]).json();

    node.issue(&organization, "node-1", &["admin"]).ok();

    eventually("the refusal is told", || {
        standing(&node)
            .contains("lacks the capability `storage`")
            .then_some(())
    });
    let after = node.warren(["status", "--json"]).json();
    assert_eq!(after["certificate"], before["certificate"]);
    node.issue(&organization, "node-1", &["storage", "relay"])
        .ok();
    eventually("a good certificate is taken", || {
        standing(&node).contains("\"ok\"").then_some(())
    });
}

#[test]
fn given_a_ca_that_is_about_to_end_when_a_node_runs_then_log_and_status_say_so() {
    const DAY_S: u64 = 86_400;
    let organization = Organization::without_ca("org_acme_corp");
    let request = CaRequest {
        organization: OrganizationId::new(&organization.id).unwrap(),
        key_material: zeroize::Zeroizing::new([5; 32]),
        serial: Serial::from_random([9; 16]),
        validity: Duration::from_secs(400 * DAY_S),
    };
    let then = UnixTime::now().as_secs() - 380 * DAY_S;
    let then = UnixTime::since_unix_epoch(Duration::from_secs(then));
    let authority = CertificateAuthority::create(&request, then).unwrap();
    write_authority(&organization, &authority);

    let node = Node::start(&organization.home("node-1"));

    eventually("the CA's end is told", || {
        let standing = standing(&node);
        (standing.contains("degraded") && standing.contains("ca init --after")).then_some(())
    });
    node.logs("the CA `");
    assert_eq!(
        node.log().matches("make the next with").count(),
        1,
        "once is enough"
    );
}

fn write_authority(organization: &Organization, authority: &CertificateAuthority) {
    use std::os::unix::fs::PermissionsExt;
    let ca = organization.ca();
    std::fs::create_dir(&ca).unwrap();
    std::fs::write(ca.join("ca_cert.pem"), authority.certificate_pem()).unwrap();
    let key = ca.join("ca_key.pem");
    std::fs::write(&key, authority.key_pem()).unwrap();
    std::fs::set_permissions(&key, std::fs::Permissions::from_mode(0o600)).unwrap();
}

#[test]
fn given_a_revoked_serial_when_peers_learn_of_it_then_they_drop_the_node_until_it_has_another() {
    let organization = Organization::new();
    let ca = organization.ca();
    let ca = ca.to_str().unwrap();
    warren(["ca", "crl", "--dir", ca]).ok();
    let first = Node::start(&organization.planned(
        "node-1",
        Plan {
            security: format!(", crl: {ca}/crl.pem"),
            ..Plan::default()
        },
    ));
    let second = Node::start(&organization.planned(
        "node-2",
        Plan {
            bootstrap: vec![first.address()],
            ..Plan::default()
        },
    ));
    second.meets(&first);
    let file = second.path("node_cert.pem");
    let shown = warren(["cert", "show", file.to_str().unwrap(), "--json"]).json();
    let serial = shown[0]["serial"].as_str().unwrap().to_uppercase();

    let revoked = warren(["ca", "revoke", "--dir", ca, "--serial", &serial, "--json"]).json();

    assert_eq!(revoked["outcome"], "revoked", "{revoked}");
    eventually("the peer is dropped", || {
        (!first.online().contains(&second.peer_id)).then_some(())
    });
    second
        .issue(&organization, "node-2", &["storage", "admin"])
        .ok();
    second.logs("took the new certificate");
    eventually("the node with another certificate is back", || {
        second.warren(["connect", &first.address()]);
        first.online().contains(&second.peer_id).then_some(())
    });
}

#[test]
fn given_a_serial_when_revoked_then_it_is_read_in_every_usual_form_and_a_strange_one_is_told() {
    let organization = Organization::new();
    let ca = organization.ca();
    let revoke = |serial: &str| {
        warren([
            "ca",
            "revoke",
            "--force",
            "--dir",
            ca.to_str().unwrap(),
            "--serial",
            serial,
        ])
    };

    let unknown = revoke("serial=0A:BC").ok();
    let again = revoke("abc").ok();
    let no_serial = revoke("12D3KooW").usage();

    assert!(unknown.contains("does not know it"), "{unknown}");
    assert!(again.contains("revoked before"), "{again}");
    assert!(no_serial.contains("hexadecimal"), "{no_serial}");
}

#[test]
fn given_an_issuer_when_told_to_renew_then_its_certificate_is_new_and_in_force_at_once() {
    let organization = Organization::new();
    let issuer = issuer(&organization);
    let before = std::fs::read_to_string(issuer.path("node_cert.pem")).unwrap();

    let renewed = issuer.warren(["cert", "renew", "--json"]).json();

    assert_ne!(
        std::fs::read_to_string(issuer.path("node_cert.pem")).unwrap(),
        before
    );
    let status = issuer.warren(["status", "--json"]).json();
    let end = |value: &serde_json::Value| value["not_after"].as_str().unwrap()[..19].to_owned();
    assert_eq!(end(&status["certificate"]), end(&renewed));
}

#[test]
fn given_nobody_who_issues_when_told_to_renew_then_it_says_so_and_the_certificate_stays() {
    let organization = Organization::new();
    let node = Node::start(&organization.home("node-1"));
    let before = std::fs::read_to_string(node.path("node_cert.pem")).unwrap();

    let refusal = node.warren(["cert", "renew"]).failed();

    assert!(
        refusal.contains("the certificate in force stays") && refusal.contains("warren ca issue"),
        "{refusal}"
    );
    assert_eq!(
        std::fs::read_to_string(node.path("node_cert.pem")).unwrap(),
        before
    );
}

#[test]
fn given_an_issuer_when_a_second_ca_is_trusted_then_it_is_not_renewed_by_the_first() {
    let organization = Organization::new();
    let node = issuer(&organization);
    let before = node.warren(["status", "--json"]).json();
    let (old, new) = (organization.ca(), organization.folder().join("new-ca"));
    let text = |path: &std::path::Path| path.to_str().unwrap().to_owned();
    // Certificates tell seconds: the second CA begins after the leaf.
    let seconds = || {
        let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
        now.unwrap().as_secs()
    };
    let began = seconds();
    eventually("the next second", || (seconds() > began).then_some(()));
    warren([
        "ca",
        "init",
        "--org",
        &organization.id,
        "--dir",
        &text(&new),
        "--after",
        &text(&old),
    ])
    .ok();
    let roots = old.join("ca_cert.pem");
    let both =
        [&roots, &new.join("ca_cert.pem")].map(|path| std::fs::read_to_string(path).unwrap());
    std::fs::write(&roots, both.concat()).unwrap();
    node.logs("took the new CA certificates");
    // The keeper takes one thing after the other: with this it is done with what came before.
    let leaf = node.home.path("node_cert.pem");
    std::fs::write(&leaf, std::fs::read(&leaf).unwrap()).unwrap();
    node.logs("took the new certificate from");

    assert!(!node.log().contains("was renewed"), "{}", node.log());
    let after = node.warren(["status", "--json"]).json();
    assert_eq!(
        after["certificate"]["not_after"],
        before["certificate"]["not_after"]
    );
}
