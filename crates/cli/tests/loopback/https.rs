//! The management API over HTTPS, as the command line asks it.

use crate::support::{Home, Node, Organization, Plan, eventually, warren};

/// A node whose API speaks HTTPS with a certificate that names no address, as that of a machine that joined does.
fn nameless(organization: &Organization, name: &str) -> Node {
    let home = organization.planned(
        name,
        Plan {
            api: ", tls: {enabled: true}".to_owned(),
            ..Plan::default()
        },
    );
    let (ca, key, out) = (
        organization.ca(),
        home.path("node.pem"),
        home.path("node_cert.pem"),
    );
    let text = |path: &std::path::Path| path.to_str().unwrap().to_owned();
    let (ca, key, out) = (text(&ca), text(&key), text(&out));
    let issue = ["ca", "issue", "--dir", &ca, "--name", name, "--force"];
    let of = ["--key", &key, "--out", &out, "--capability", "storage"];
    warren(issue.iter().chain(&of)).ok();
    let node = Node::launch(&home, &[]);
    eventually("the node has written its token", || {
        home.path("data/admin.token").exists().then_some(())
    });
    node
}

fn token(home: &Home) -> String {
    home.path("data/admin.token").to_str().unwrap().to_owned()
}

#[test]
fn given_a_certificate_without_names_when_the_node_is_asked_by_its_configuration_then_it_answers() {
    let organization = Organization::new();
    let node = nameless(&organization, "node-1");

    let status = eventually("the node answers", || {
        let asked = node.warren(["status", "--json"]);
        (asked.code == Some(0)).then(|| asked.json())
    });

    assert_eq!(status["peer_id"], node.peer_id.as_str());
    let base = format!("https://{}", node.api());
    node.warren(["--api", &base, "status"]).ok();
}

#[test]
fn given_another_node_than_the_configured_one_when_asked_then_it_is_a_failure_of_tls() {
    let organization = Organization::new();
    let node = nameless(&organization, "node-1");
    let other = organization.home("node-2");
    let base = format!("https://{}", node.api());
    eventually("the node answers", || {
        (node.warren(["status"]).code == Some(0)).then_some(())
    });

    let mistaken = other
        .warren(["--api", &base, "--token-file", &token(&node), "status"])
        .failed();
    let unknown = warren([
        "--api",
        &base,
        "--token-file",
        &token(&node),
        "status",
        "--json",
    ]);

    assert!(
        mistaken.contains("TLS with the node") && mistaken.contains("certificate"),
        "{mistaken}"
    );
    assert!(!mistaken.contains("no node answers"), "{mistaken}");
    let unknown: serde_json::Value = serde_json::from_str(&unknown.failed()).unwrap();
    assert_eq!(unknown["error"]["code"], "tls", "{unknown}");
}

#[test]
fn given_the_other_scheme_when_asked_then_the_right_one_is_told() {
    let organization = Organization::new();
    let secure = nameless(&organization, "node-1");
    let plain = Node::start(&organization.home("node-2"));
    eventually("the node answers", || {
        (secure.warren(["status"]).code == Some(0)).then_some(())
    });
    let ask = |scheme: &str, node: &Node| {
        let base = format!("{scheme}://{}", node.api());
        node.warren(["--api", &base, "status"]).failed()
    };

    let to_secure = ask("http", &secure);
    let to_plain = ask("https", &plain);

    assert!(to_secure.contains("write https://"), "{to_secure}");
    assert!(to_plain.contains("write http://"), "{to_plain}");
}
