//! Discovery servers alone bring nodes together (RD-54 to RD-58), with the documented variables.

use crate::support::{Home, Node, Organization, Plan, Request, eventually};

/// A node that runs the discovery server and nothing beside it.
fn server(organization: &Organization) -> Node {
    let home = organization.planned(
        "discovery",
        Plan {
            capabilities: vec!["discovery", "relay"],
            roles: "discovery, relay",
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

fn url(server: &Home) -> String {
    format!("https://{}:{}", server.ip, Home::DISCOVERY_PORT)
}

#[test]
fn given_a_seed_when_started_with_the_documented_variables_then_it_is_well_and_registers() {
    let organization = Organization::new();
    let server = server(&organization);

    let seed = Node::start_with(
        &organization.home("seed"),
        &[
            ("WARREN_BOOTSTRAP_MODE", "seed"),
            ("WARREN_DISCOVERY_URL", &url(&server)),
        ],
    );

    eventually("the seed is registered", || {
        let metrics = Request::new(server.api(), "GET", "/metrics").send().text();
        metrics
            .contains("warren_discovery_active_nodes")
            .then_some(())
    });
    eventually("the discovery client stands", || {
        let ready = Request::new(seed.api(), "GET", "/ready").send().json();
        (ready["components"]["discovery"]["status"] == "ok").then_some(())
    });
}

#[test]
fn given_a_discovery_server_when_started_then_its_log_names_where_each_part_listens() {
    let organization = Organization::new();
    let server = server(&organization);

    server.logs(&format!(
        "listening on {}:{} for the discovery server",
        server.ip,
        Home::DISCOVERY_PORT
    ));
    // It does not store, so it opens no port for that.
    assert!(!server.log().contains("for bulk"), "{}", server.log());
}

#[test]
fn given_a_node_without_the_role_storage_when_put_then_it_refuses_and_serves_nobody_what_it_got() {
    let organization = Organization::new();
    let server = server(&organization);
    let plan = || Plan {
        bootstrap: vec![server.address()],
        ..Plan::default()
    };
    let node = Node::start(&organization.planned("node-1", plan()));
    node.meets(&server);
    let refused = server.invocation().args(["put", "-"]).input(b"x").run();
    let folder = organization.folder().join("folder");
    std::fs::create_dir(&folder).unwrap();
    let refused_folder = server.warren(["put", folder.to_str().unwrap()]);
    for refused in [refused, refused_folder] {
        let said = refused.failed();
        assert!(said.contains("does not run the role storage"), "{said}");
    }

    let (id, bytes) = node.put_noise(7, 200_000);
    assert!(server.content(&id).bytes() == bytes, "it reads as anybody");
    assert!(node.stop().success());
    let reader = Node::start(&organization.planned("node-2", plan()));
    reader.meets(&server);

    let said = reader.content(&id).failed();
    assert!(said.contains("cannot be retrieved"), "{said}");
}

#[test]
fn given_a_discovery_server_alone_when_two_clients_start_then_they_find_each_other() {
    let organization = Organization::new();
    let server = server(&organization);
    let client = |name: &str| {
        Node::start_with(
            &organization.home(name),
            &[
                ("WARREN_BOOTSTRAP_MODE", "client"),
                ("WARREN_DISCOVERY_URL", &url(&server)),
            ],
        )
    };

    let (first, second) = (client("node-1"), client("node-2"));

    second.meets(&first);
    let (id, bytes) = first.put_noise(1, 400_000);
    assert!(second.content(&id).bytes() == bytes);
}

#[test]
fn given_discovery_down_when_a_client_has_bootstrap_peers_then_it_joins_through_them() {
    let organization = Organization::new();
    let first = Node::start(&organization.home("node-1"));

    let second = Node::start_with(
        &organization.planned(
            "node-2",
            Plan {
                bootstrap: vec![first.address()],
                ..Plan::default()
            },
        ),
        &[
            ("WARREN_BOOTSTRAP_MODE", "client"),
            ("WARREN_DISCOVERY_URL", "https://127.0.0.1:9"),
        ],
    );

    assert!(second.online().contains(&first.peer_id));
}

#[test]
fn given_discovery_down_and_nobody_else_when_a_client_starts_then_it_is_alive_and_says_what_it_waits_for()
 {
    let organization = Organization::new();
    let home = organization.home("node-1");
    let mut node = Node::launch(
        &home,
        &[
            ("WARREN_BOOTSTRAP_MODE", "client"),
            ("WARREN_DISCOVERY_URL", "https://127.0.0.1:9"),
        ],
    );
    eventually("the node is alive", || node.answers("/health"));

    let ready = eventually("the failure is told", || {
        let ready = Request::new(home.api(), "GET", "/ready").send();
        ready
            .text()
            .contains("no discovery server answers")
            .then_some(ready)
    });

    assert_eq!(ready.status, 503);
}
