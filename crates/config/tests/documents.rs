//! The files of the RAGE documents and of the README load as they are, the brand in names and real peer ids aside.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod sources;

use std::path::Path;
use std::time::Duration;

use sources::{Sources, node, shown};
use warren_config::{Admission, DhtMode, Role};

const NETWORK_001: &str = include_str!("documents/network_001.yaml");
const NETWORK_000: &str = include_str!("documents/network_000.yaml");
const DISCOVERY: &str = include_str!("documents/discovery.yaml");
const TOPOLOGIES: &str = include_str!("documents/topologies.yaml");
const NODE: &str = include_str!("documents/node.yaml");

#[test]
fn given_the_network_layers_node_file_when_loaded_then_every_value_arrives() {
    let settings = Sources::new()
        .file("/etc/warren/network.yaml", NETWORK_001)
        .settings();

    let network = &settings.network;
    assert_eq!(network.node_id, "warren-node-1");
    assert_eq!(network.libp2p.listen_addresses.len(), 3);
    assert_eq!(
        network.libp2p.bootstrap_peers[1]
            .to_string()
            .split('/')
            .nth(2),
        Some("bootstrap.warren.network")
    );
    assert_eq!(network.libp2p.dht.mode, DhtMode::Server);
    assert_eq!(network.libp2p.mdns.interval, Duration::from_secs(60));
    assert_eq!(
        network.discovery.servers[1].as_str(),
        "https://discovery2.warren.network"
    );
    assert_eq!(
        network.discovery.registration.retry_interval,
        Duration::from_secs(60)
    );
    assert_eq!(
        network.security.tls_cert,
        Path::new("/etc/warren/certs/node.crt")
    );
    assert_eq!(
        network.libp2p.peer_key,
        Path::new("/etc/warren/certs/node.key"),
        "one key, named once"
    );
    assert_eq!(network.security.admission, Admission::Members);
    assert_eq!(
        settings.roles.iter().copied().collect::<Vec<_>>(),
        [Role::Storage]
    );
}

#[test]
fn given_the_network_layers_node_file_when_loaded_then_each_later_plane_is_named_once() {
    let warnings = Sources::new().file("network.yaml", NETWORK_001).warnings();

    assert_eq!(
        warnings,
        [
            "network.yaml:43:3: the cdn plane is not part of this build: network.cdn has no effect",
            "network.yaml:48:3: the replication plane is not part of this build: network.replication has no effect",
            "network.yaml:59:5: the federation plane is not part of this build: network.security.trust_model has no effect",
            "network.yaml:61:5: the access plane is not part of this build: network.security.acl_enforcement has no effect",
        ]
    );
}

#[test]
fn given_the_deployment_guides_node_file_when_loaded_then_every_value_arrives_without_warning() {
    let sources = Sources::new().file("network.yaml", NETWORK_000);

    let libp2p = sources.settings().network.libp2p;
    assert_eq!(libp2p.peer_key, Path::new("/etc/warren/peer_key.pem"));
    assert_eq!(libp2p.announce_addresses.len(), 2);
    assert_eq!(libp2p.dht.bootstrap_interval, Duration::from_secs(300));
    assert_eq!(
        (
            libp2p.gossipsub.d,
            libp2p.gossipsub.d_low,
            libp2p.gossipsub.d_high
        ),
        (6, 4, 12)
    );
    assert_eq!(sources.warnings(), [""; 0]);
}

#[test]
fn given_the_discovery_file_when_loaded_then_a_discovery_server_starts_beside_a_moved_api() {
    let sources = Sources::new().file("/etc/warren/discovery.yaml", DISCOVERY);

    let settings = sources.settings();
    let server = &settings.discovery_server;
    assert_eq!(
        settings.roles.iter().copied().collect::<Vec<_>>(),
        [Role::Discovery]
    );
    assert_eq!(server.listen_address.to_string(), "0.0.0.0:8080");
    assert_eq!(
        server.database_url.as_ref().unwrap().expose(),
        "postgresql://discovery:password@localhost/warren_discovery"
    );
    assert!(server.require_certificates);
    assert_eq!(server.ca_cert, Path::new("/etc/warren/ca.crt"));
    assert_eq!(server.bootstrap_peers.len(), 2);
    assert_eq!(server.bootstrap_peers[1].region.as_deref(), Some("us-east"));
    assert_eq!(settings.api.listen_address.to_string(), "127.0.0.1:8081");
    assert!(settings.relays_for_others());
    assert_eq!(
        sources.warnings(),
        [
            "/etc/warren/discovery.yaml:4:21: api.listen_address: the discovery server takes port 8080, so the management API \
          listens on 127.0.0.1:8081; set api.listen_address to choose another"
        ]
    );
}

#[test]
fn given_both_files_when_loaded_together_then_the_node_has_both_roles() {
    let settings = Sources::new()
        .file("network.yaml", NETWORK_001)
        .file("discovery.yaml", DISCOVERY)
        .settings();

    assert_eq!(
        settings.roles.iter().copied().collect::<Vec<_>>(),
        [Role::Storage, Role::Discovery]
    );
}

#[test]
fn given_the_topologies_keys_when_loaded_then_they_are_carried_with_one_warning_per_plane() {
    let sources = Sources::new().file("network.yaml", TOPOLOGIES);

    let loaded = sources.loaded();
    let planes: Vec<&str> = loaded
        .warnings
        .iter()
        .map(|w| {
            w.what
                .strip_prefix("the ")
                .unwrap()
                .split(' ')
                .next()
                .unwrap()
        })
        .collect();
    assert_eq!(planes, ["replication", "edge", "federation"]);
    let replication = loaded
        .settings
        .carried
        .iter()
        .find(|c| c.path == "network.replication")
        .unwrap();
    assert_eq!(
        replication.value["edge_nodes"][0]["filters"]["tags"],
        serde_json::json!(["critical", "global"])
    );
}

#[test]
fn given_the_readmes_node_file_when_loaded_then_every_value_arrives_without_warning() {
    let sources = Sources::new().file("/etc/warren/node.yaml", NODE);

    let settings = sources.settings();
    assert_eq!(
        settings.network.organization_id.as_deref(),
        Some("org_acme_corp")
    );
    assert_eq!(settings.network.region.as_deref(), Some("us-west"));
    assert_eq!(
        settings.network.security.ca_cert,
        Path::new("/etc/warren/ca/ca_cert.pem")
    );
    assert_eq!(
        settings.network.libp2p.peer_key,
        settings.network.security.tls_key
    );
    assert_eq!(settings.storage.max_size, 500_000_000_000);
    assert_eq!(sources.warnings(), [""; 0]);
}

#[test]
fn given_the_documents_variables_when_set_then_each_wins_over_the_file() {
    let loaded = Sources::new()
        .file("network.yaml", NETWORK_001)
        .env("WARREN_NODE_ID", "warren-node-prod-1")
        .env("WARREN_PEER_KEY_PATH", "/etc/warren/peer_key.pem")
        .env("WARREN_LISTEN_ADDRESS", "/ip4/0.0.0.0/tcp/4009")
        .env(
            "WARREN_DISCOVERY_SERVERS",
            "https://d3.warren.network,https://d4.warren.network",
        )
        .env("WARREN_AUTO_REGISTER", "false")
        .env("WARREN_CDN_ENABLED", "true")
        .env("CLOUDFLARE_ZONE_ID", "abc123...")
        .env("WARREN_REPLICATION_FACTOR", "3")
        .env("WARREN_SYNC_INTERVAL", "300")
        .env("WARREN_ORG_ID", "org_acme_corp")
        .env("WARREN_TLS_CERT", "/run/node.crt")
        .env("WARREN_TLS_KEY", "/run/node.key")
        .loaded();

    for (path, value, name) in [
        ("network.node_id", "warren-node-prod-1", "WARREN_NODE_ID"),
        (
            "network.libp2p.peer_key",
            "/etc/warren/peer_key.pem",
            "WARREN_PEER_KEY_PATH",
        ),
        (
            "network.libp2p.listen_addresses",
            "[/ip4/0.0.0.0/tcp/4009]",
            "WARREN_LISTEN_ADDRESS",
        ),
        (
            "network.discovery.servers",
            "[https://d3.warren.network, https://d4.warren.network]",
            "WARREN_DISCOVERY_SERVERS",
        ),
        (
            "network.discovery.registration.auto_register",
            "false",
            "WARREN_AUTO_REGISTER",
        ),
        ("network.organization_id", "org_acme_corp", "WARREN_ORG_ID"),
        (
            "network.security.tls_cert",
            "/run/node.crt",
            "WARREN_TLS_CERT",
        ),
        (
            "network.security.tls_key",
            "/run/node.key",
            "WARREN_TLS_KEY",
        ),
    ] {
        assert_eq!(
            shown(&loaded, path),
            (value.to_owned(), format!("environment {name}")),
            "{path}"
        );
    }
    assert_eq!(
        loaded
            .settings
            .carried
            .iter()
            .filter(|c| c.path.ends_with("default_factor"))
            .count(),
        1
    );
}

#[test]
fn given_the_seed_and_client_variables_when_set_then_mode_and_server_arrive() {
    for mode in ["seed", "client"] {
        let settings = Sources::new()
            .env("WARREN_BOOTSTRAP_MODE", mode)
            .env("WARREN_DISCOVERY_URL", "https://discovery.warren.network")
            .settings();

        assert_eq!(
            format!("{:?}", settings.network.bootstrap_mode).to_lowercase(),
            mode
        );
        assert_eq!(
            settings.network.discovery.servers[0].as_str(),
            "https://discovery.warren.network"
        );
    }
}

#[test]
fn given_both_discovery_variables_when_set_then_they_make_one_list() {
    let settings = Sources::new()
        .env(
            "WARREN_DISCOVERY_SERVERS",
            "https://a.example,https://b.example",
        )
        .env("WARREN_DISCOVERY_URL", "https://c.example")
        .settings();

    let servers: Vec<&str> = settings
        .network
        .discovery
        .servers
        .iter()
        .map(warren_config::Url::as_str)
        .collect();
    assert_eq!(
        servers,
        [
            "https://a.example",
            "https://b.example",
            "https://c.example"
        ]
    );
}

#[test]
fn given_the_topic_template_when_expanded_then_the_leading_org_is_stripped() {
    let gossipsub = node("").settings().network.libp2p.gossipsub;

    assert_eq!(
        gossipsub.topics_for("org_acme_corp"),
        [
            "warren.global",
            "warren.org.acme_corp",
            "warren.acl.updates"
        ]
    );
    assert_eq!(
        gossipsub.topics_for("acme"),
        ["warren.global", "warren.org.acme", "warren.acl.updates"]
    );
}
