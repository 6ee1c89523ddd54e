//! `check`, `config show`, `config schema`, `start --dry-run`.

use crate::support::{Home, Node, Organization, Plan, binary, tool, warren};

fn home(organization: &Organization) -> Home {
    organization.home("node-1")
}

#[test]
fn given_several_mistakes_when_checked_then_all_are_told_at_once_with_their_places() {
    let organization = Organization::new();
    let home = home(&organization);
    home.edit("region: us-west", "regoin: us-west");
    home.edit("roles: [storage]", "roles: [juggler]");

    let checked = home.warren(["check"]);

    assert_eq!(checked.code, Some(1));
    let told = String::from_utf8(checked.stdout).unwrap();
    assert!(
        told.contains("warren.yaml:4:3") && told.contains("region"),
        "{told}"
    );
    assert!(
        told.contains("juggler") && told.contains("2 problems"),
        "{told}"
    );
}

#[test]
fn given_a_certificate_of_another_key_when_checked_then_it_is_a_problem() {
    let organization = Organization::new();
    let (home, other) = (home(&organization), organization.home("other"));
    std::fs::copy(other.path("node_cert.pem"), home.path("node_cert.pem")).unwrap();

    let checked = home.warren(["check", "--json"]);

    assert_eq!(checked.code, Some(1));
    let told = String::from_utf8(checked.stdout).unwrap();
    assert!(told.contains(&other.peer_id), "{told}");
}

#[test]
fn given_two_broken_files_when_checked_then_both_are_told() {
    let organization = Organization::new();
    let home = home(&organization);
    std::fs::write(home.path("node_cert.pem"), "no certificate").unwrap();
    home.edit(
        organization.ca().join("ca_cert.pem").to_str().unwrap(),
        "/nowhere/ca.pem",
    );

    let checked = home.warren(["check"]);

    assert_eq!(checked.code, Some(1));
    let told = String::from_utf8(checked.stdout).unwrap();
    assert!(
        told.contains("node_cert.pem") && told.contains("/nowhere/ca.pem"),
        "{told}"
    );
}

#[test]
fn given_four_mistakes_of_four_kinds_when_checked_then_one_run_tells_them_all() {
    let organization = Organization::new();
    let home = home(&organization);
    home.edit(
        "region: us-west",
        "region: us-west\n  bootstrap_mode: sometimes",
    );
    let bulk = format!("listen_address: '{}:{}'", home.ip, Home::BULK_PORT);
    let mesh = format!("listen_address: '{}:{}'", home.ip, Home::MESH_PORT);
    home.edit(&bulk, &mesh);
    std::fs::remove_file(home.path("node_cert.pem")).unwrap();
    std::fs::write(home.path("data"), "in the way").unwrap();

    let checked = home.warren(["check"]);

    assert_eq!(checked.code, Some(1));
    let told = String::from_utf8(checked.stdout).unwrap();
    for expected in [
        "network.bootstrap_mode: 'sometimes' is not allowed here",
        "network.transfer.listen_address: ",
        "node_cert.pem is not there",
        "storage.path: ",
        "4 problems",
    ] {
        assert!(told.contains(expected), "{expected:?} is not in\n{told}");
    }
}

#[test]
fn given_the_key_of_another_node_and_no_ca_when_checked_then_both_are_told() {
    let organization = Organization::new();
    let (home, other) = (home(&organization), organization.home("other"));
    std::fs::copy(other.path("node.pem"), home.path("node.pem")).unwrap();
    home.edit(
        organization.ca().join("ca_cert.pem").to_str().unwrap(),
        "/nowhere/ca.pem",
    );

    let checked = home.warren(["check", "--json"]);

    assert_eq!(checked.code, Some(1));
    let told: serde_json::Value = serde_json::from_slice(&checked.stdout).unwrap();
    let errors = told["errors"].as_array().unwrap();
    assert_eq!(errors.len(), 2, "{told}");
    assert!(told.to_string().contains(&other.peer_id), "{told}");
}

#[test]
fn given_a_log_folder_that_cannot_be_made_when_checked_then_its_key_is_told() {
    let organization = Organization::new();
    let home = organization.planned(
        "node-1",
        Plan {
            sections: "logging: {file: node.pem/logs/node.log}".to_owned(),
            ..Plan::default()
        },
    );

    let checked = home.warren(["check"]);

    assert_eq!(checked.code, Some(1));
    let told = String::from_utf8(checked.stdout).unwrap();
    assert!(
        told.contains("logging.file: ") && told.contains("is no folder"),
        "{told}"
    );
}

#[test]
fn given_a_storage_folder_on_a_read_only_disk_when_checked_then_it_is_told_with_the_reason() {
    let organization = Organization::new();
    let home = home(&organization);
    if tool("unshare", &home.folder, ["-m", "true"]).code != Some(0) {
        warren_lab::skip(
            "configuration::read_only",
            "needs root, for a mount namespace",
        );
        return;
    }
    std::fs::create_dir(home.path("data")).unwrap();
    let script = "mount -t tmpfs -o ro none data && exec \"$0\" --config warren.yaml check";

    let checked = tool(
        "unshare",
        &home.folder,
        ["-m", "sh", "-c", script, binary().to_str().unwrap()],
    );

    assert_eq!(checked.code, Some(1), "{checked:?}");
    let told = String::from_utf8(checked.stdout).unwrap();
    assert!(
        told.contains("storage.path: ") && told.contains("Read-only") && told.contains("1 problem"),
        "{told}"
    );
}

#[test]
fn given_layers_when_shown_then_each_value_says_where_it_came_from() {
    let organization = Organization::new();
    let home = home(&organization);

    let shown = home
        .invocation()
        .args(["config", "show", "--json"])
        .env("WARREN_LOGGING__LEVEL", "debug")
        .run()
        .json();

    let line = |key: &str| {
        let lines = shown.as_array().unwrap();
        lines
            .iter()
            .find(|line| line["key"] == key)
            .unwrap()
            .clone()
    };
    assert_eq!(line("logging.level")["value"], "debug");
    assert!(
        line("logging.level")["origin"]
            .as_str()
            .unwrap()
            .contains("WARREN_LOGGING__LEVEL")
    );
    assert!(
        line("network.region")["origin"]
            .as_str()
            .unwrap()
            .contains("warren.yaml:4")
    );
    assert!(
        line("network.libp2p.dht.mode")["origin"]
            .as_str()
            .unwrap()
            .contains("default")
    );
}

#[test]
fn given_a_database_password_when_shown_then_it_is_hidden() {
    let organization = Organization::new();
    let home = organization.planned(
        "node-1",
        Plan {
            capabilities: vec!["storage", "discovery"],
            roles: "storage, discovery",
            sections:
                "discovery: {server: {database: {url: 'postgresql://warren:hunter2@db/warren'}}}"
                    .to_owned(),
            ..Plan::default()
        },
    );

    let shown = home.warren(["config", "show"]).ok();

    assert!(shown.contains("discovery.server.database.url"), "{shown}");
    assert!(!shown.contains("hunter2"), "{shown}");
}

#[test]
fn given_the_schema_when_asked_for_then_it_names_the_documented_keys() {
    let schema = warren(["config", "schema"]).json();

    let libp2p = &schema["properties"]["network"]["properties"]["libp2p"]["properties"];
    for key in [
        "peer_key",
        "listen_addresses",
        "bootstrap_peers",
        "dht",
        "mdns",
        "gossipsub",
    ] {
        assert!(libp2p[key].is_object(), "{key} is missing");
    }
}

#[test]
fn given_a_file_that_is_no_yaml_when_checked_then_the_place_is_told() {
    let organization = Organization::new();
    let home = home(&organization);
    std::fs::write(&home.config, "network: {node_id: [\n").unwrap();

    let checked = home.warren(["check"]);

    assert_eq!(checked.code, Some(1));
    let told = String::from_utf8(checked.stdout).unwrap();
    assert!(told.contains("warren.yaml:"), "{told}");
}

#[test]
fn given_no_configuration_when_a_node_is_started_then_the_next_step_is_told() {
    let refusal = warren(["start", "--config", "/nowhere/warren.yaml"]).failed();

    assert!(refusal.contains("/nowhere/warren.yaml"), "{refusal}");
}

#[test]
fn given_a_dry_run_when_started_then_nothing_is_made() {
    let organization = Organization::new();
    let home = home(&organization);

    let told = home.warren(["start", "--dry-run"]).ok();

    assert!(
        told.contains("node-1") && told.contains("storage"),
        "{told}"
    );
    assert!(!home.path("data").exists());
}

#[test]
fn given_the_json_log_format_when_a_node_runs_then_every_line_is_one_object_with_time_and_level() {
    let organization = Organization::new();
    let node = Node::start(&organization.planned(
        "node-1",
        Plan {
            sections: "logging: {format: json}".to_owned(),
            ..Plan::default()
        },
    ));
    node.put(b"something");

    for line in node.log().lines() {
        let entry: serde_json::Value = serde_json::from_str(line).unwrap();
        assert!(
            entry["timestamp"].is_string() && entry["level"].is_string(),
            "{line}"
        );
    }
}

#[test]
fn given_a_storage_folder_of_the_kernel_when_checked_then_it_is_a_problem() {
    let organization = Organization::new();
    let home = organization.home("node-1");
    let data = home.path("data").display().to_string();
    home.edit(&data, "/proc/nope");

    let checked = home.warren(["check"]);

    let told = String::from_utf8_lossy(&checked.stdout);
    assert_eq!(checked.code, Some(1), "{told}");
    assert!(told.contains("storage.path: /proc/nope"), "{told}");
}

#[test]
fn given_the_guides_file_of_a_discovery_server_when_checked_beside_its_certificate_then_it_is_valid()
 {
    let organization = Organization::new();
    let home = organization.planned(
        "discovery",
        Plan {
            capabilities: vec!["discovery"],
            ..Plan::default()
        },
    );
    let guide = concat!(env!("CARGO_MANIFEST_DIR"), "/../../docs/operations.md");
    let guide = std::fs::read_to_string(guide).unwrap();
    let (_, rest) = guide
        .split_once("put this beside it as `discovery.yaml`:\n\n```yaml\n")
        .unwrap();
    let (file, _) = rest.split_once("```").unwrap();
    std::fs::copy(
        organization.ca().join("ca_cert.pem"),
        home.path("ca_cert.pem"),
    )
    .unwrap();
    // The one thing that differs in a container is where it may write.
    let data = home.path("data").display().to_string();
    std::fs::write(&home.config, format!("{file}storage: {{path: {data}}}\n")).unwrap();

    let checked = home.warren(["check", "--json"]).json();

    assert_eq!(checked["valid"], true, "{checked}");
}
