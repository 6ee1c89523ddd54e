//! What a person reads when a configuration is wrong.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod sources;

use sources::{Sources, node};

#[test]
fn given_two_files_full_of_mistakes_when_loaded_then_all_are_reported_at_once_with_their_places() {
    let network = "\
network:
  node_id: \"node 1\"
  organisation_id: org_acme_corp
  libp2p:
    peer_key: [a, b]
    mdsn:
      enabled: true
    dht: {enabled: yes, mode: sever}
    listen_addresses:
      - 0.0.0.0:4001
      - /ip4/0.0.0.0/tcp/4001
      - /ip4/10.0.0.256/tcp/4001
    bootstrap_peers:
      - /ip4/10.0.1.5/tcp/4001
      - /ip4/10.0.1.5/tcp/4001/p2p/12D3KooWB9...
  discovery:
    servers: [http://discovery1.warren.network]
    registration: {heartbeat_interval: soon}
  security:
    admission: everyone
    ca_cert: ${CA_FILE}
banana: true
";
    let node = "\
roles: [storage, exit, storrage]
api: 127.0.0.1:8080
storage:
  path: /a
  path: /b
  max_size: 5 elephants
peer_key: node.pem
";

    let problems = Sources::new()
        .file("network.yaml", network)
        .file("node.yaml", node)
        .env("WARREN_AUTO_REGISTER", "ja")
        .problems();

    assert_eq!(problems, include_str!("golden/problems.txt").trim_end());
}

#[test]
fn given_an_unquoted_comparison_when_loaded_then_the_hint_quotes_it() {
    let problems =
        node("network:\n  replication:\n    promote_if:\n      query_count: > 1000/day\n")
            .problems();

    assert!(problems.starts_with("node.yaml:4:"), "{problems}");
    assert!(
        problems.contains("a comparison needs quotes: query_count: \"> 1000/day\""),
        "{problems}"
    );
}

#[test]
fn given_files_that_are_no_configuration_when_loaded_then_the_reason_is_clear() {
    for (bytes, expected) in [
        (
            &b"\x7fELF\xff\x00"[..],
            "node.yaml:1:1: the file is no text: it is not UTF-8; is this the right file?",
        ),
        (
            b"hello",
            "node.yaml:1:1: a configuration is made of sections such as network:, this file holds a single value",
        ),
        (
            b"- a\n- b\n",
            "node.yaml:1:1: a configuration is made of sections such as network:, this file holds a list",
        ),
        (
            b"network: [1, 2]\n",
            "node.yaml:1:10: network: a section is needed here, not a list; allowed here: ",
        ),
        (b"a: b: c\n", "node.yaml:1:5: this is not valid YAML: "),
        (
            b"network:\n\tnode_id: a\n",
            "indent with spaces: YAML does not allow tabs",
        ),
    ] {
        let problems = node(bytes).problems();
        assert!(problems.contains(expected), "{problems}");
    }
}

#[test]
fn given_a_file_that_is_not_there_when_loaded_then_it_is_named() {
    let inputs = warren_config::Inputs {
        files: vec!["gone.yaml".into()],
        ..warren_config::Inputs::default()
    };

    let problems =
        warren_config::load(&inputs, |_| Err(std::io::ErrorKind::NotFound.into())).unwrap_err();

    assert!(
        problems
            .to_string()
            .starts_with("gone.yaml cannot be read: "),
        "{problems}"
    );
}

#[test]
fn given_a_wrong_secret_when_loaded_then_the_message_does_not_hold_it() {
    for url in [
        "mysql://u:hunter2@h/db",
        "[hunter2]",
        "postgresql://u:${hunter 2}@h",
        "{a: hunter2}",
    ] {
        let problems = node(format!(
            "discovery:\n  server:\n    database:\n      url: {url}\n"
        ))
        .load();
        let problems = problems.unwrap_err().to_string();
        assert!(!problems.contains("hunter"), "{problems}");
    }
}

#[test]
fn given_an_endless_list_of_mistakes_when_loaded_then_the_report_ends() {
    let text: String = (0..5000).map(|n| format!("key{n}: 1\n")).collect();

    let problems = node(text).load().unwrap_err();

    assert_eq!(
        (problems.listed.len(), problems.unlisted),
        (warren_config::MAX_PROBLEMS, 4900)
    );
    assert!(
        problems
            .to_string()
            .ends_with("… and 4900 more\n5000 problems in the configuration")
    );
}

#[test]
fn given_values_that_contradict_each_other_when_loaded_then_the_rule_is_told() {
    for (text, expected) in [
        (
            "api: {listen_address: '0.0.0.0:8080'}",
            "node.yaml:1:23: api.listen_address: 0.0.0.0:8080 can be reached from other machines, so the API must speak HTTPS; \
             set api.tls.enabled: true, or listen on 127.0.0.1",
        ),
        (
            "network: {bootstrap_mode: client, libp2p: {mdns: {enabled: false}}}",
            "network.bootstrap_mode: a client needs somebody to ask, and nobody is configured",
        ),
        (
            "roles: [issuer]",
            "node.yaml:1:8: roles: the role issuer signs certificates and has no CA to sign with",
        ),
        (
            "roles: []",
            "node.yaml:1:8: roles: the list must not be empty",
        ),
        (
            "network: {libp2p: {gossipsub: {d: 3}}}",
            "network.libp2p.gossipsub.d_low: 4 is more than d, which is 3",
        ),
        (
            "network: {libp2p: {gossipsub: {d: 20}}}",
            "network.libp2p.gossipsub.d_high: 12 is less than d, which is 20",
        ),
        (
            "monitoring: {listen_address: '0.0.0.0:8080'}",
            "monitoring.listen_address: 0.0.0.0:8080 is taken by api.listen_address, which listens on 127.0.0.1:8080",
        ),
        (
            "network: {transfer: {listen_address: '10.0.0.1:4001'}}",
            "10.0.0.1:4001 is taken by network.libp2p.listen_addresses, which listens on 0.0.0.0:4001",
        ),
        (
            "network: {libp2p: {announce_addresses: [/ip4/0.0.0.0/tcp/4001]}}",
            "network.libp2p.announce_addresses: nobody can dial '/ip4/0.0.0.0/tcp/4001'",
        ),
        (
            "network: {trust: {model: explicit}, security: {trust_model: web-of-trust}}",
            "network.trust.model: 'explicit' contradicts network.security.trust_model, which is 'web-of-trust'",
        ),
        (
            "network: {security: {admission: opne}}",
            "did you mean open?",
        ),
        (
            "roles: [hub]",
            "the role hub belongs to the edge plane, which this build does not run",
        ),
        (
            "roles: [vpn]",
            "vpn is a plane, which this build does not run, and no role: use storage, discovery,",
        ),
    ] {
        let problems = node(text).problems();
        assert!(problems.contains(expected), "{text} gave\n{problems}");
    }
}

#[test]
fn given_port_0_everywhere_when_loaded_then_nothing_clashes() {
    let text = "\
network: {libp2p: {listen_addresses: [/ip4/127.0.0.1/tcp/0]}, transfer: {listen_address: '127.0.0.1:0'}}
api: {listen_address: '127.0.0.1:0'}
monitoring: {listen_address: '127.0.0.1:0'}
";

    assert_eq!(node(text).settings().api.listen_address.port(), 0);
}

#[test]
fn given_the_api_on_another_address_with_tls_when_loaded_then_it_takes_the_nodes_certificate() {
    let text = "\
network: {security: {tls_cert: node.crt, tls_key: node.key}}
api: {listen_address: '0.0.0.0:8080', tls: {enabled: true}}
";

    let tls = node(text).settings().api.tls.unwrap();

    assert_eq!(
        (tls.cert.to_str(), tls.key.to_str()),
        (Some("node.crt"), Some("node.key"))
    );
}

#[test]
fn given_what_is_odd_but_works_when_loaded_then_it_is_warned_of() {
    for (text, expected) in [
        (
            "network: {libp2p: {peer_key: a.pem}, security: {tls_key: b.pem}}",
            "network.security.tls_key: b.pem is another file than network.libp2p.peer_key (a.pem)",
        ),
        (
            "{roles: [storage], discovery: {server: {listen_address: '0.0.0.0:9'}}}",
            "add the role discovery",
        ),
        (
            "{roles: [discovery], discovery: {server: {auth: {require_certificates: false}}}}",
            "callers of the discovery server may sign their requests instead of showing a certificate in TLS",
        ),
        (
            "network: {organization_id: org_acme_corp, libp2p: {gossipsub: {topics: [warren.org.org_acme_corp]}}}",
            "warren.org.org_acme_corp is not the topic of org_acme_corp, which is warren.org.acme_corp",
        ),
    ] {
        let warnings = node(text).warnings();
        assert_eq!(warnings.len(), 1, "{warnings:?}");
        assert!(warnings[0].contains(expected), "{warnings:?}");
    }
}

#[test]
fn given_a_variable_nobody_knows_when_loaded_then_it_is_warned_of_with_the_nearest() {
    let warnings = Sources::new()
        .env("WARREN_NODE_IDD", "x")
        .env("WARREN_NETWORK__LIBP2P__MDNS__ENABELD", "false")
        .env("WARREN_SOMETHING_ELSE_ENTIRELY", "x")
        .warnings();

    assert_eq!(
        warnings,
        [
            "environment WARREN_NETWORK__LIBP2P__MDNS__ENABELD: no setting has this variable; did you mean \
             WARREN_NETWORK__LIBP2P__MDNS__ENABLED?",
            "environment WARREN_NODE_IDD: no setting has this variable; did you mean WARREN_NODE_ID?",
            "environment WARREN_SOMETHING_ELSE_ENTIRELY: no setting has this variable; a key a.b.c has the variable \
             WARREN_A__B__C",
        ]
    );
}

#[test]
fn given_seeds_with_mistakes_when_loaded_then_each_item_is_checked() {
    let text = "\
discovery:
  server:
    bootstrap_peers:
      - peer_id: 12D3KooWA8...
        adresses: []
      - /ip4/10.0.1.5/tcp/4001
";

    let problems = node(text).problems();

    assert_eq!(
        problems,
        "\
node.yaml:4:9: discovery.server.bootstrap_peers[].addresses: it must be set in each item
node.yaml:4:9: discovery.server.bootstrap_peers[].organization: it must be set in each item
node.yaml:4:18: discovery.server.bootstrap_peers[].peer_id: '12D3KooWA8...' is no peer id: this is a placeholder: 'warren \
         peerid --key <file>' prints a node's
node.yaml:5:9: discovery.server.bootstrap_peers[].adresses: unknown key; did you mean addresses?
node.yaml:6:9: discovery.server.bootstrap_peers: each item is a section, not a single value
5 problems in the configuration"
    );
}

#[test]
fn given_a_bad_value_and_a_contradiction_elsewhere_when_loaded_then_both_are_told_at_once() {
    let text = "\
network: {libp2p: {dht: {mode: sever}}, transfer: {listen_address: '10.0.0.1:4001'}}
api: {listen_address: '0.0.0.0:8080'}
";

    let problems = node(text).problems();

    assert_eq!(problems.lines().count(), 4, "{problems}");
    assert!(problems.contains("did you mean server?"), "{problems}");
    assert!(problems.contains("10.0.0.1:4001 is taken by"), "{problems}");
    assert!(problems.contains("must speak HTTPS"), "{problems}");
}

#[test]
fn given_a_value_that_stands_in_for_a_wrong_one_when_loaded_then_no_rule_is_held_against_it() {
    for text in [
        // The default of d is 6.
        "network: {libp2p: {gossipsub: {d: eight, d_low: 7}}}",
        // The default would not speak HTTPS, the default mode would need nobody.
        "api: {listen_address: '0.0.0.0:8080', tls: {enabled: yes}}",
        "api: {listen_address: '0.0.0.0:8080', tsl: {enabled: true}}",
        "network: {bootstrap_mode: client, libp2p: {mdns: {enabled: false}, bootstrap_peers: [nobody]}}",
        "network: {security: {isuer_dir: /ca}}\nroles: [issuer]",
        "network: {security: 7}\nroles: [issuer]",
        "issuer_dir: /ca\nroles: [issuer]",
    ] {
        let problems = node(text).problems();

        assert!(
            problems.ends_with("1 problem in the configuration"),
            "{text} gave\n{problems}"
        );
    }
}

#[test]
fn given_a_wrong_value_that_a_stronger_source_sets_right_when_loaded_then_rules_hold_again() {
    let problems = node("api: {listen_address: nowhere}")
        .env("WARREN_API__LISTEN_ADDRESS", "0.0.0.0:8080")
        .problems();

    assert!(problems.contains("must speak HTTPS"), "{problems}");
}

#[test]
fn given_a_host_name_that_is_no_node_name_when_loaded_then_the_rest_is_still_looked_at() {
    let inputs = warren_config::Inputs {
        files: vec!["node.yaml".into()],
        hostname: Some("a name".to_owned()),
        ..warren_config::Inputs::default()
    };

    let problems = warren_config::load(&inputs, |_| Ok(b"roles: [issuer]".to_vec()))
        .unwrap_err()
        .to_string();

    assert!(problems.contains("'a name' is no name"), "{problems}");
    assert!(problems.contains("no CA to sign with"), "{problems}");
}
