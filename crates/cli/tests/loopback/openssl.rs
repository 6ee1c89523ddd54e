//! With plain `openssl`, as the deployment guide shows it (RD-59, RD-60, RD-62).

use std::path::Path;

use crate::support::{Finished, Home, Node, Organization, Plan, eventually, tool};

fn openssl<const N: usize>(folder: &Path, arguments: [&str; N]) -> Finished {
    tool("openssl", folder, arguments)
}

fn missing() -> bool {
    tool("sh", Path::new("/"), ["-c", "command -v openssl"]).code != Some(0)
}

/// The CA of the guide: RSA 4096, self-signed, ten years, a subject that names no organisation id.
fn guides_authority() -> Organization {
    let organization = Organization::without_ca("org_acme_corp");
    let ca = organization.ca();
    std::fs::create_dir(&ca).unwrap();
    openssl(&ca, ["genrsa", "-out", "ca_key.pem", "4096"]).ok();
    openssl(
        &ca,
        [
            "req",
            "-new",
            "-x509",
            "-days",
            "3650",
            "-key",
            "ca_key.pem",
            "-out",
            "ca_cert.pem",
            "-subj",
            "/C=US/ST=California/O=ACME Corp/CN=Warren CA",
        ],
    )
    .ok();
    tool("chmod", &ca, ["400", "ca_key.pem"]).ok();
    organization
}

/// The node certificate of the guide, beside the CA: RSA, a host name, no peer id.
fn guides_leaf(organization: &Organization, home: &Home) {
    let (ca, folder) = (organization.ca(), &home.folder);
    openssl(folder, ["genrsa", "-out", "api_key.new", "2048"]).ok();
    tool("chmod", folder, ["400", "api_key.new"]).ok();
    std::fs::rename(folder.join("api_key.new"), folder.join("api_key.pem")).unwrap();
    openssl(
        folder,
        [
            "req",
            "-new",
            "-key",
            "api_key.pem",
            "-out",
            "api_csr.pem",
            "-subj",
            "/C=US/ST=California/O=ACME Corp/CN=node1.acme.com",
        ],
    )
    .ok();
    let names = format!(
        "subjectAltName=DNS:node1.acme.com,DNS:*.acme.com,IP:{}\n",
        home.ip
    );
    std::fs::write(folder.join("ext.cnf"), names).unwrap();
    openssl(
        folder,
        [
            "x509",
            "-req",
            "-in",
            "api_csr.pem",
            "-CA",
            ca.join("ca_cert.pem").to_str().unwrap(),
            "-CAkey",
            ca.join("ca_key.pem").to_str().unwrap(),
            "-CAcreateserial",
            "-days",
            "365",
            "-extfile",
            "ext.cnf",
            "-out",
            "api_cert.pem",
        ],
    )
    .ok();
}

#[test]
fn given_our_certificates_when_openssl_verifies_them_then_they_hold() {
    if missing() {
        return warren_lab::skip("openssl::verify", "needs openssl");
    }
    let organization = Organization::new();
    let home = organization.home("node-1");
    let ca = organization.ca().join("ca_cert.pem");

    let verified = openssl(
        &home.folder,
        [
            "verify",
            "-x509_strict",
            "-CAfile",
            ca.to_str().unwrap(),
            "node_cert.pem",
        ],
    );

    assert!(verified.ok().contains("OK"));
}

#[test]
fn given_our_certificate_when_openssl_reads_its_end_then_it_is_the_one_we_show() {
    if missing() {
        return warren_lab::skip("openssl::enddate", "needs openssl");
    }
    let organization = Organization::new();
    let home = organization.home("node-1");

    let read = openssl(
        &home.folder,
        [
            "x509",
            "-enddate",
            "-dateopt",
            "iso_8601",
            "-noout",
            "-in",
            "node_cert.pem",
        ],
    )
    .ok();

    let shown = home
        .warren([
            "cert",
            "show",
            home.path("node_cert.pem").to_str().unwrap(),
            "--json",
        ])
        .json();
    let ours = shown[0]["not_after"].as_str().unwrap().replace('T', " ");
    assert_eq!(read, format!("notAfter={ours}"));
}

#[test]
fn given_our_revocation_list_when_openssl_checks_with_it_then_the_revoked_leaf_fails() {
    if missing() {
        return warren_lab::skip("openssl::crl", "needs openssl");
    }
    let organization = Organization::new();
    let (kept, revoked) = (organization.home("kept"), organization.home("revoked"));
    organization.revoke(&revoked.peer_id);
    let (ca, list) = (
        organization.ca().join("ca_cert.pem"),
        organization.ca().join("crl.pem"),
    );
    let verify = |home: &Home| {
        openssl(
            &home.folder,
            [
                "verify",
                "-crl_check",
                "-CAfile",
                ca.to_str().unwrap(),
                "-CRLfile",
                list.to_str().unwrap(),
                "node_cert.pem",
            ],
        )
    };

    assert_eq!(verify(&kept).code, Some(0), "{:?}", verify(&kept));
    let told = verify(&revoked).stderr;
    assert!(told.contains("revoked"), "{told}");
}

#[test]
fn given_the_guides_authority_when_it_signs_our_leaves_then_two_nodes_start_and_meet() {
    if missing() {
        return warren_lab::skip("openssl::authority", "needs openssl");
    }
    let organization = guides_authority();
    let first = Node::start(&organization.home("node-1"));

    let second = Node::start(&organization.planned(
        "node-2",
        Plan {
            bootstrap: vec![first.address()],
            ..Plan::default()
        },
    ));

    second.meets(&first);
    let (id, bytes) = first.put_noise(1, 300_000);
    assert!(second.content(&id).bytes() == bytes);
}

#[test]
fn given_the_guides_authority_when_no_organisation_is_named_then_issuing_says_what_to_add() {
    if missing() {
        return warren_lab::skip("openssl::organisation", "needs openssl");
    }
    let organization = guides_authority();
    let ca = organization.ca();
    let out = organization.folder().join("cert.pem");

    let refusal = crate::support::warren([
        "ca",
        "issue",
        "--dir",
        ca.to_str().unwrap(),
        "--peer",
        "12D3KooWA8EXV3KjBxEU5EnsPfneLx84vMWAtTBQBeyooN3hYKTQ",
        "--name",
        "n",
        "--out",
        out.to_str().unwrap(),
    ])
    .failed();

    assert!(refusal.contains("--org"), "{refusal}");
}

#[test]
fn given_the_guides_leaf_when_a_node_is_started_with_it_then_it_says_why_that_cannot_join() {
    if missing() {
        return warren_lab::skip("openssl::leaf", "needs openssl");
    }
    let organization = guides_authority();
    let home = organization.home("node-1");
    guides_leaf(&organization, &home);
    std::fs::copy(home.path("api_cert.pem"), home.path("node_cert.pem")).unwrap();

    let refusal = home.warren(["start"]).failed();

    assert!(
        refusal.contains("node_cert.pem") && refusal.contains("warren ca issue"),
        "{refusal}"
    );
}

/// A node whose API serves the guide's leaf.
fn with_guides_leaf(organization: &Organization) -> Node {
    let home = organization.planned(
        "node-1",
        Plan {
            api: ", tls: {enabled: true, cert: api_cert.pem, key: api_key.pem}".to_owned(),
            ..Plan::default()
        },
    );
    guides_leaf(organization, &home);
    let node = Node::launch(&home, &[]);
    eventually("the API answers over TLS", || {
        (home.warren(["health"]).code == Some(0)).then_some(())
    });
    node
}

#[test]
fn given_the_guides_leaf_when_the_api_serves_it_then_openssl_verifies_the_handshake() {
    if missing() {
        return warren_lab::skip("openssl::s_client", "needs openssl");
    }
    let organization = guides_authority();
    let node = with_guides_leaf(&organization);
    let (server, ca) = (
        node.api().to_string(),
        organization.ca().join("ca_cert.pem"),
    );

    let handshake = openssl(
        &node.folder,
        [
            "s_client",
            "-connect",
            &server,
            "-CAfile",
            ca.to_str().unwrap(),
            "-cert",
            "node_cert.pem",
            "-key",
            "node.pem",
            "-verify_return_error",
            "-brief",
        ],
    );

    assert_eq!(handshake.code, Some(0), "{handshake:?}");
    assert!(
        handshake.stderr.contains("CN = node1.acme.com")
            || handshake.stderr.contains("CN=node1.acme.com"),
        "{}",
        handshake.stderr
    );
}

#[test]
fn given_the_guides_leaf_when_it_is_renewed_on_disk_then_the_next_handshake_serves_the_new_one() {
    if missing() {
        return warren_lab::skip("openssl::renewed", "needs openssl");
    }
    let organization = guides_authority();
    let node = with_guides_leaf(&organization);
    let served = || {
        let script = format!(
            "openssl s_client -connect {} </dev/null 2>/dev/null | openssl x509 -noout -serial",
            node.api()
        );
        tool("sh", &node.folder, ["-c", &script]).ok()
    };
    let before = served();

    guides_leaf(&organization, &node);

    eventually("the new certificate is served", || {
        (served() != before).then_some(())
    });
    assert_eq!(
        served(),
        openssl(
            &node.folder,
            ["x509", "-noout", "-serial", "-in", "api_cert.pem"]
        )
        .ok()
    );
}

#[test]
fn given_discovery_wants_certificates_when_called_with_one_and_without_then_only_the_first_is_let_in()
 {
    if missing() {
        return warren_lab::skip("openssl::mutual", "needs openssl and curl");
    }
    let organization = Organization::new();
    let home = organization.planned(
        "node-1",
        Plan {
            capabilities: vec!["storage", "discovery", "admin"],
            roles: "storage, discovery",
            ..Plan::default()
        },
    );
    let server = format!("{}:{}", home.ip, Home::DISCOVERY_PORT);
    home.edit(
        "roles:",
        &format!("discovery: {{server: {{listen_address: '{server}'}}}}\nroles:"),
    );
    let node = Node::start(&home);
    let (url, ca) = (
        format!("https://{server}/api/v1/network/bootstrap"),
        organization.ca().join("ca_cert.pem"),
    );
    let curl = |identity: &[&str]| {
        let fixed = [
            "-sS",
            "-o",
            "answer",
            "-w",
            "%{http_code}",
            "--cacert",
            ca.to_str().unwrap(),
            &url,
        ];
        tool("curl", &node.folder, fixed.iter().chain(identity))
    };

    let with = curl(&["--cert", "node_cert.pem", "--key", "node.pem"]);
    let without = curl(&[]);

    assert_eq!(with.ok(), "200");
    assert_ne!(without.code, Some(0), "{without:?}");
}
