//! How nodes find each other: each source alone, discovery servers that fail, and NATs told apart.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "a test says what it expects"
)]

mod lab_support;

use std::time::Duration;

use lab_support::{Organization, bootstrap, content, discovery, merge, until};
use serde_json::json;
use warren_lab::{Lab, topology};

const MEET_WITHIN: Duration = Duration::from_secs(20);

#[test]
fn given_one_bridge_when_only_mdns_is_on_then_nodes_meet_and_one_without_it_stays_alone() {
    let Some(lab) = Lab::or_skip("mdns") else {
        return;
    };
    let net = topology::one_bridge(&lab, 3).unwrap();
    let organization = Organization::new();
    let mdns = json!({ "network": { "libp2p": { "mdns": { "enabled": true } } } });
    // Up first, so that it had every chance when the others have met.
    let deaf = organization.start(&net.hosts[2], "deaf", json!({}));
    let one = organization.start(&net.hosts[0], "one", mdns.clone());
    let two = organization.start(&net.hosts[1], "two", mdns);

    until(MEET_WITHIN, "the two meet", || one.is_connected(&two));
    let document = content(3, 1_000_000);
    let id = one.put(&document);
    assert!(two.get(&id).unwrap() == document, "the bytes differ");

    for node in [&one, &two] {
        assert!(node.peer(&deaf).is_none());
        assert!(deaf.peer(node).is_none());
    }
}

#[test]
fn given_a_discovery_server_alone_when_two_nodes_start_then_they_meet_and_share() {
    let Some(lab) = Lab::or_skip("discovery-alone") else {
        return;
    };
    let net = topology::one_bridge(&lab, 3).unwrap();
    let organization = Organization::new();
    let _server = organization.start_server(&net.hosts[0], "server");
    let mut known = discovery(&["10.0.0.1"]);
    merge(
        &mut known,
        json!({ "network": { "libp2p": { "dht": { "enabled": false } } } }),
    );
    let one = organization.start(&net.hosts[1], "one", known.clone());
    let two = organization.start(&net.hosts[2], "two", known);

    until(MEET_WITHIN, "the two meet", || two.is_connected(&one));
    let document = content(4, 1_000_000);
    let id = one.put(&document);
    assert!(two.get(&id).unwrap() == document, "the bytes differ");
}

#[test]
fn given_one_common_bootstrap_peer_when_two_nodes_join_then_each_is_in_the_others_routing_table() {
    let Some(lab) = Lab::or_skip("dht-alone") else {
        return;
    };
    let net = topology::one_bridge(&lab, 3).unwrap();
    let organization = Organization::new();
    // Without gossip nobody is told of new members; the routing table has to do.
    let quiet = json!({ "network": { "libp2p": { "gossipsub": { "enabled": false } } } });
    let seed = organization.start(&net.hosts[0], "seed", quiet.clone());
    let mut known = bootstrap(&[&seed.address("/ip4/10.0.0.1/tcp/4001")]);
    merge(&mut known, quiet);
    let one = organization.start(&net.hosts[1], "one", known.clone());
    until(MEET_WITHIN, "the first joins", || one.is_connected(&seed));
    let two = organization.start(&net.hosts[2], "two", known);

    until(MEET_WITHIN, "the third is in the routing table", || {
        two.json(&["dht"]).to_string().contains(&one.peer_id)
    });
    let document = content(5, 1_000_000);
    let id = one.put(&document);
    assert!(two.get(&id).unwrap() == document, "the bytes differ");
}

#[test]
fn given_two_discovery_servers_when_they_die_one_by_one_then_the_node_moves_over_and_then_works_on_without()
 {
    let Some(lab) = Lab::or_skip("failover") else {
        return;
    };
    let net = topology::one_bridge(&lab, 4).unwrap();
    let organization = Organization::new();
    let short = json!({
        "roles": ["discovery", "relay"],
        "discovery": { "server": { "peer_expiry": "4s" } },
    });
    let first = organization.start(&net.hosts[0], "first", short.clone());
    let second = organization.start(&net.hosts[1], "second", short);
    let mut known = discovery(&["10.0.0.1", "10.0.0.2"]);
    merge(
        &mut known,
        json!({ "network": { "discovery": { "registration": {
            "heartbeat_interval": "1s",
            "retry_interval": "2s",
        } } } }),
    );
    let node = organization.start(&net.hosts[2], "node", known.clone());
    let mortal = organization.start(&net.hosts[3], "mortal", known);
    let listed = |server: &lab_support::Node| server.metric("warren_discovery_active_nodes", &[]);
    until(
        MEET_WITHIN,
        "the first server lists both and itself",
        || listed(&first) == 3.0,
    );

    mortal.kill();
    until(
        Duration::from_secs(15),
        "the dead node's registration ends",
        || listed(&first) == 2.0,
    );

    first.kill();
    until(
        Duration::from_secs(10),
        "the node registers with the second server",
        || listed(&second) == 2.0,
    );

    second.kill();
    until(
        Duration::from_secs(10),
        "the node says that discovery is degraded",
        || node.json(&["status"])["components"]["discovery"]["status"] == "degraded",
    );
    assert!(node.ask(&["health", "--endpoint", "ready"]).is_ok());
    let document = content(6, 100_000);
    let id = node.put(&document);
    assert!(node.get(&id).unwrap() == document, "the bytes differ");
}
