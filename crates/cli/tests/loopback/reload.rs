//! What changes while a node runs: configuration, certificate.

use rustix::process::Signal;

use crate::support::{Node, Organization, Plan, eventually, tool};

fn quiet_node(organization: &Organization) -> Node {
    Node::start(&organization.planned(
        "node-1",
        Plan {
            sections: "logging: {level: info}".to_owned(),
            ..Plan::default()
        },
    ))
}

#[test]
fn given_another_log_level_when_reloaded_then_it_is_in_force_at_once() {
    let organization = Organization::new();
    let node = quiet_node(&organization);
    node.edit("level: info", "level: debug");

    let reloaded = node.warren(["reload", "--json"]).json();

    assert_eq!(reloaded["applied"], serde_json::json!(["logging.level"]));
    node.request("GET", "/api/v1/nothing").send();
    node.logs("DEBUG");
}

#[test]
fn given_a_hang_up_signal_when_received_then_the_configuration_is_read_again() {
    let organization = Organization::new();
    let node = quiet_node(&organization);
    node.edit("level: info", "level: debug");

    node.signal(Signal::HUP);

    node.logs("configuration read again");
}

#[test]
fn given_a_key_that_cannot_change_while_running_when_reloaded_then_it_is_named() {
    let organization = Organization::new();
    let node = quiet_node(&organization);
    node.edit("region: us-west", "region: eu-north");

    let reloaded = node.warren(["reload", "--json"]).json();

    assert_eq!(
        reloaded["needs_restart"],
        serde_json::json!(["network.region"])
    );
    assert_eq!(reloaded["applied"], serde_json::json!([]));
    assert_eq!(
        node.warren(["status", "--json"]).json()["region"],
        "us-west"
    );
}

#[test]
fn given_lowered_admission_when_reloaded_then_it_is_refused_and_the_command_fails() {
    let organization = Organization::new();
    let node = quiet_node(&organization);
    node.edit("security: {", "security: {admission: open, ");
    node.edit("level: info", "level: debug");

    let refused = node.warren(["reload"]);

    assert_eq!(refused.code, Some(1), "{refused:?}");
    let told = String::from_utf8(refused.stdout).unwrap() + &refused.stderr;
    assert!(told.contains("network.security.admission"), "{told}");
    assert!(
        !told.contains("applied"),
        "nothing of it may be taken: {told}"
    );
}

#[test]
fn given_a_broken_configuration_when_reloaded_then_the_one_in_force_stays() {
    let organization = Organization::new();
    let node = quiet_node(&organization);
    node.edit("region: us-west", "regoin: us-west");

    let refusal = node.warren([
        "--api",
        &format!("http://{}", node.api()),
        "--token-file",
        node.path("data/admin.token").to_str().unwrap(),
        "reload",
    ]);

    assert_eq!(refusal.code, Some(1), "{refusal:?}");
    assert!(refusal.stderr.contains("regoin"), "{}", refusal.stderr);
    assert_eq!(node.get("/ready").status, 200);
}

/// Serial of the certificate that the API serves now.
fn served_serial(node: &Node) -> String {
    let server = node.api().to_string();
    let script = format!(
        "openssl s_client -connect {server} </dev/null 2>/dev/null | openssl x509 -noout -serial"
    );
    tool("sh", &node.folder, ["-c", &script]).ok()
}

fn serial_in_file(node: &Node) -> String {
    let files = ["x509", "-noout", "-serial", "-in", "node_cert.pem"];
    tool("openssl", &node.folder, files).ok()
}

fn over_tls(organization: &Organization) -> Node {
    let home = organization.planned(
        "node-1",
        Plan {
            api: ", tls: {enabled: true}".to_owned(),
            ..Plan::default()
        },
    );
    let node = Node::launch(&home, &[]);
    eventually("the API answers", || {
        (home.warren(["health"]).code == Some(0)).then_some(())
    });
    node
}

#[test]
fn given_a_new_certificate_when_put_in_place_then_the_next_handshake_serves_it() {
    if tool(
        "sh",
        std::path::Path::new("/"),
        ["-c", "command -v openssl"],
    )
    .code
        != Some(0)
    {
        return warren_lab::skip("reload::new_certificate", "needs openssl");
    }
    let organization = Organization::new();
    let node = over_tls(&organization);
    let before = served_serial(&node);

    node.issue(&organization, "node-1", &["storage", "admin"])
        .ok();

    assert_ne!(serial_in_file(&node), before);
    eventually("the new certificate is served", || {
        (served_serial(&node) != before).then_some(())
    });
}

#[test]
fn given_the_certificate_of_another_node_when_put_in_place_then_the_old_one_stays_and_the_log_says_so()
 {
    let organization = Organization::new();
    let node = quiet_node(&organization);
    let other = organization.home("other");

    std::fs::copy(other.path("node_cert.pem"), node.path("node_cert.pem")).unwrap();

    node.logs("the old one stays");
    assert_eq!(node.get("/ready").status, 200);
    let third = organization.planned(
        "node-3",
        Plan {
            bootstrap: vec![node.address()],
            ..Plan::default()
        },
    );
    Node::start(&third).meets(&node);
}

#[test]
fn given_a_certificate_with_another_capability_when_put_in_place_then_status_tells_it() {
    let organization = Organization::new();
    let node = quiet_node(&organization);

    node.issue(&organization, "node-1", &["storage", "admin", "relay"])
        .ok();

    eventually("the capability is in force", || {
        let status = node.warren(["status", "--json"]).json();
        status["certificate"]["capabilities"]
            .to_string()
            .contains("relay")
            .then_some(())
    });
}
