//! A discovery server that keeps its registry in PostgreSQL, by one line of configuration (RD-55).

use warren_lab::PostgresServer;

use crate::support::{Home, Node, Organization, Plan, Request, eventually};

/// A home whose node runs the discovery server on this database and nothing beside it.
fn server(organization: &Organization, database: &str) -> Home {
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
        &format!(
            "discovery: {{server: {{listen_address: '{listen}', database: {{url: '{database}'}}}}}}\nroles:"
        ),
    );
    home
}

fn client(organization: &Organization, name: &str, server: &Home) -> Node {
    Node::start_with(
        &organization.home(name),
        &[
            ("WARREN_BOOTSTRAP_MODE", "client"),
            (
                "WARREN_DISCOVERY_URL",
                &format!("https://{}:{}", server.ip, Home::DISCOVERY_PORT),
            ),
        ],
    )
}

/// Waits until so many nodes are in the server's registry.
fn counts(server: &Node, nodes: usize) {
    let line = format!("warren_discovery_active_nodes{{organization=\"org_acme_corp\"}} {nodes}");
    eventually(&line, || {
        let metrics = Request::new(server.api(), "GET", "/metrics").send().text();
        metrics.lines().any(|known| known == line).then_some(())
    });
}

#[test]
fn given_a_registry_in_postgresql_when_the_server_restarts_then_registrations_are_still_there() {
    let Some(postgres) = PostgresServer::own("discovery_postgres::restart") else {
        return;
    };
    let organization = Organization::new();
    let home = server(&organization, &postgres.database());
    let server = Node::start(&home);
    let first = client(&organization, "node-1", &home);
    let second = client(&organization, "node-2", &home);
    second.meets(&first);
    counts(&server, 3);

    // Killed, so that neither takes itself off the list.
    drop((first, second));
    assert!(server.stop().success());
    let server = Node::start(&home);

    counts(&server, 3);
    assert!(
        !home.path("data/discovery.redb").exists(),
        "the registry is in PostgreSQL"
    );
}

#[test]
fn given_postgresql_away_when_it_is_back_then_the_running_server_takes_registrations_again() {
    let Some(postgres) = PostgresServer::own("discovery_postgres::away") else {
        return;
    };
    let organization = Organization::new();
    let home = server(&organization, &postgres.database());
    let server = Node::start(&home);
    postgres.stop();
    server.logs("the registry's database cannot be used right now");

    postgres.start();

    let _client = client(&organization, "node-1", &home);
    counts(&server, 2);
}
