//! Which source wins, and what is shown of it.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod sources;

use std::collections::BTreeSet;

use sources::{Sources, node, shown};
use warren_config::KEYS;

#[test]
fn given_all_four_layers_when_loaded_then_the_strongest_wins_and_is_named() {
    let key = "network.libp2p.mdns.interval";
    let default = Sources::new();
    let file = || Sources::new().file("a.yaml", "network: {libp2p: {mdns: {interval: 2m}}}");
    let env = || file().env("WARREN_NETWORK__LIBP2P__MDNS__INTERVAL", "180");
    let flag = env().flag("--mdns-interval", key, "4m");

    for (sources, value, origin) in [
        (default, "1m", "default"),
        (file(), "2m", "a.yaml:1:37"),
        (
            env(),
            "3m",
            "environment WARREN_NETWORK__LIBP2P__MDNS__INTERVAL",
        ),
        (flag, "4m", "flag --mdns-interval"),
    ] {
        assert_eq!(
            shown(&sources.loaded(), key),
            (value.to_owned(), origin.to_owned())
        );
    }
}

#[test]
fn given_one_section_in_two_files_when_loaded_then_it_is_merged_and_the_later_wins() {
    let loaded = Sources::new()
        .file(
            "a.yaml",
            "network: {node_id: a, region: us-west, replication: {mode: full, factor: 3}}",
        )
        .file(
            "b.yaml",
            "network: {node_id: b, libp2p: {dht: {mode: client}}, replication: {factor: 5}}",
        )
        .loaded();

    assert_eq!(
        shown(&loaded, "network.node_id"),
        ("b".to_owned(), "b.yaml:1:20".to_owned())
    );
    assert_eq!(
        shown(&loaded, "network.region"),
        ("us-west".to_owned(), "a.yaml:1:31".to_owned())
    );
    assert_eq!(shown(&loaded, "network.libp2p.dht.mode").0, "client");
    assert_eq!(
        loaded.settings.carried[0].value,
        serde_json::json!({"mode": "full", "factor": 5})
    );
}

#[test]
fn given_relative_paths_in_files_when_loaded_then_they_count_from_the_file_that_names_them() {
    let settings = Sources::new()
        .file(
            "/etc/warren/node.yaml",
            "network: {security: {tls_key: keys/node.pem}}",
        )
        .file("site/extra.yaml", "storage: {path: data}")
        .env("WARREN_TLS_CERT", "cert.pem")
        .settings();

    assert_eq!(
        settings.network.security.tls_key.to_str(),
        Some("/etc/warren/keys/node.pem")
    );
    assert_eq!(settings.storage.path.to_str(), Some("site/data"));
    assert_eq!(
        settings.api.token_file.to_str(),
        Some("site/data/admin.token")
    );
    assert_eq!(
        settings.network.security.tls_cert.to_str(),
        Some("cert.pem"),
        "a variable's path is the caller's"
    );
}

#[test]
fn given_variables_in_values_when_loaded_then_they_are_expanded_but_not_in_carried_sections() {
    let text = "\
network: {node_id: 'n-${HOSTNAME}', region: '${REGION:-eu}'}
discovery: {server: {database: {url: 'postgresql://u:${PASSWORD}@db/x'}}}
cdn: {token: '${CLOUDFLARE_API_TOKEN}'}
";

    let settings = node(text).env("PASSWORD", "hunter2").settings();

    assert_eq!(settings.network.node_id, "n-host7");
    assert_eq!(settings.network.region.as_deref(), Some("eu"));
    assert_eq!(
        settings.discovery_server.database_url.unwrap().expose(),
        "postgresql://u:hunter2@db/x"
    );
    assert_eq!(
        settings.carried[0].value["token"],
        "${CLOUDFLARE_API_TOKEN}"
    );
}

#[test]
fn given_secrets_when_shown_then_they_are_not() {
    let text = "\
discovery: {server: {database: {url: 'postgresql://u:hunter2@db/x'}}}
cdn: {token: hunter3}
";

    let loaded = node(text).loaded();

    let shown_text: String = loaded
        .effective()
        .iter()
        .map(|l| format!("{} {} {}\n", l.path, l.value, l.origin))
        .collect();
    assert!(
        shown_text.contains("discovery.server.database.url *** node.yaml:1:38"),
        "{shown_text}"
    );
    assert!(!shown_text.contains("hunter"), "{shown_text}");
    assert!(!format!("{:?}", loaded.settings.discovery_server).contains("hunter"));
}

#[test]
fn given_empty_and_null_values_when_loaded_then_they_count_as_not_set() {
    let loaded = node("network:\n  node_id:\n  libp2p: ~\n")
        .env("WARREN_ORG_ID", "")
        .loaded();

    assert_eq!(shown(&loaded, "network.node_id").0, "host7");
    assert_eq!(loaded.settings.network.organization_id, None);
}

#[test]
fn given_every_key_with_a_default_when_set_by_its_variable_then_config_show_names_the_variable() {
    let defaults = Sources::new().loaded();
    for key in KEYS.iter().filter(|key| !key.path.contains("[]")) {
        let (value, _) = shown(&defaults, key.path);
        if value.is_empty() {
            continue;
        }
        let loaded = Sources::new().env(&key.variable(), &value).loaded();
        assert_eq!(
            shown(&loaded, key.path),
            (value, format!("environment {}", key.variable())),
            "the normal form reads back"
        );
    }
}

#[test]
fn given_every_key_when_shown_then_each_has_one_line() {
    let lines: Vec<String> = Sources::new()
        .loaded()
        .effective()
        .into_iter()
        .map(|line| line.path)
        .collect();

    let unique: BTreeSet<&String> = lines.iter().collect();
    assert_eq!(unique.len(), lines.len());
    assert_eq!(
        lines.len(),
        KEYS.iter().filter(|key| !key.path.contains("[]")).count()
    );
}

#[test]
fn given_a_flag_for_an_unknown_key_when_loaded_then_it_is_a_problem() {
    let problems = Sources::new()
        .flag("--set", "network.node_ids", "x")
        .problems();

    assert!(
        problems.starts_with(
            "flag --set: network.node_ids: unknown key; did you mean network.node_id?"
        ),
        "{problems}"
    );
}
