//! Networks that part and heal, hosts that move, and more than a handful of nodes.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "a test says what it expects"
)]

mod lab_support;

use std::process::Command;
use std::time::Duration;

use lab_support::{Node, Organization, bootstrap, content, merge, until};
use serde_json::{Value, json};
use warren_lab::{Lab, topology};

const MEET_WITHIN: Duration = Duration::from_secs(20);

fn quic_only() -> Value {
    json!({ "network": { "libp2p": { "listen_addresses": ["/ip4/0.0.0.0/udp/4001/quic-v1"] } } })
}

#[test]
fn given_a_partition_when_it_heals_then_the_nodes_meet_again_by_themselves() {
    let Some(lab) = Lab::or_skip("partition") else {
        return;
    };
    let net = topology::one_bridge(&lab, 2).unwrap();
    let organization = Organization::new();
    // QUIC notices a dead path after ten seconds.
    let one = organization.start(&net.hosts[0], "one", quic_only());
    let mut known = quic_only();
    merge(
        &mut known,
        bootstrap(&[&one.address("/ip4/10.0.0.1/udp/4001/quic-v1")]),
    );
    let two = organization.start(&net.hosts[1], "two", known);
    until(MEET_WITHIN, "the two meet", || two.is_connected(&one));

    net.links[0].cut().unwrap();
    until(
        Duration::from_secs(20),
        "each sees that the other is gone",
        || !one.is_connected(&two) && !two.is_connected(&one),
    );
    net.links[0].heal().unwrap();

    // The back-off has not grown beyond a few seconds by now, and a dial into the cut takes five.
    until(Duration::from_secs(15), "the two meet again", || {
        one.is_connected(&two) && two.is_connected(&one)
    });
    let document = content(14, 1_000_000);
    let id = one.put(&document);
    assert!(two.get(&id).unwrap() == document, "the bytes differ");
}

fn ip(node: &Node, command: &str) {
    let mut ip = Command::new("ip");
    ip.args(command.split_whitespace());
    node.host.exec(ip).unwrap();
}

#[test]
fn given_a_node_that_changes_its_address_when_it_comes_back_then_it_is_found_there() {
    let Some(lab) = Lab::or_skip("roaming") else {
        return;
    };
    let net = topology::one_bridge(&lab, 3).unwrap();
    let organization = Organization::new();
    let one = organization.start(&net.hosts[0], "one", json!({}));
    let known = bootstrap(&[&one.address("/ip4/10.0.0.1/tcp/4001")]);
    let roaming = organization.start(&net.hosts[1], "roaming", known.clone());
    let other = organization.start(&net.hosts[2], "other", known);
    until(MEET_WITHIN, "all meet", || {
        roaming.is_connected(&one) && other.is_connected(&roaming)
    });
    let document = content(15, 1_000_000);
    let id = roaming.put(&document);

    ip(&roaming, "addr del 10.0.0.2/16 dev eth0");
    ip(&roaming, "addr add 10.0.7.7/16 dev eth0");
    ip(&roaming, "route replace default via 10.0.255.254");
    until(
        Duration::from_secs(30),
        "its new address is known to all",
        || {
            [&one, &other].iter().all(|node| {
                node.peer(&roaming).is_some_and(|peer| {
                    let addresses = peer["addresses"].to_string();
                    peer["status"] == "online"
                        && addresses.contains("10.0.7.7")
                        && !addresses.contains("/10.0.0.2/")
                })
            })
        },
    );
    assert!(other.get(&id).unwrap() == document, "the bytes differ");
}

#[test]
fn given_twenty_nodes_when_one_publishes_a_revocation_list_then_small_gossip_meshes_carry_it_to_all()
 {
    const NODES: usize = 20;
    let Some(lab) = Lab::or_skip("twenty") else {
        return;
    };
    let net = topology::one_bridge(&lab, NODES as u16).unwrap();
    let organization = Organization::new();
    organization.sign_list();
    let first = organization.start(
        &net.hosts[0],
        "node-1",
        json!({ "network": { "security": { "crl": organization.crl() } } }),
    );
    let known = bootstrap(&[&first.address("/ip4/10.0.0.1/tcp/4001")]);
    let mut nodes = vec![first];
    for (index, host) in net.hosts.iter().enumerate().skip(1) {
        let name = format!("node-{}", index + 1);
        nodes.push(organization.start(host, &name, known.clone()));
    }
    // The default degrees: six are wanted, four at least, twelve at most.
    for node in &nodes {
        until(
            Duration::from_secs(60),
            &format!("each gossip mesh of {} has four to twelve peers", node.name),
            || {
                let meshes = &node.json(&["status"])["gossip_mesh_peers"];
                let meshes = meshes.as_object().unwrap();
                let global = meshes.contains_key("warren.global");
                let mut sizes = meshes.values().filter_map(Value::as_u64);
                global && sizes.all(|peers| (4..=12).contains(&peers))
            },
        );
    }
    let gauge = "warren_network_gossip_mesh_peers";
    let counted = nodes[0].metric(gauge, &["topic=\"warren.global\""]);
    assert!((4.0..=12.0).contains(&counted), "{counted}");

    let number = format!("number={}", organization.sign_list());
    until(
        Duration::from_secs(10),
        "the list is in force everywhere",
        || nodes.iter().all(|node| node.log().contains(&number)),
    );
}

#[test]
fn given_a_peer_that_is_gone_when_it_is_dialled_then_it_is_unreachable_and_nothing_else_is_logged_of_it()
 {
    let Some(lab) = Lab::or_skip("gone") else {
        return;
    };
    let net = topology::one_bridge(&lab, 2).unwrap();
    let organization = Organization::new();
    let often = json!({ "network": { "libp2p": { "dht": { "bootstrap_interval": 1 } } } });
    let first = organization.start(&net.hosts[0], "first", often);
    until(MEET_WITHIN, "it was alone for a while", || {
        first.json(&["status"])["uptime_seconds"].as_u64() >= Some(3)
    });
    let known = bootstrap(&[&first.address("/ip4/10.0.0.1/tcp/4001")]);
    let other = organization.start(&net.hosts[1], "other", known);
    until(MEET_WITHIN, "the two meet", || {
        let told = first.json(&["nat-check"]);
        assert!(
            told["reachability"] != "unknown" || told["nat"] == "unknown",
            "a neighbour alone says nothing of the NAT: {told}"
        );
        first.is_connected(&other)
    });

    other.kill();
    until(Duration::from_secs(60), "it is unreachable", || {
        let peers = first.json(&["peers", "--status", "unreachable"]);
        peers["total"] == 1 && peers["peers"][0]["peer_id"] == *other.peer_id
    });

    let log = first.log();
    // That hosts of the lab have no name server is right to be told.
    let warned = log.lines().filter(|line| line.contains(" WARN "));
    let warnings: Vec<&str> = warned
        .filter(|line| !line.contains("no name server"))
        .collect();
    assert!(warnings.is_empty(), "{warnings:#?}");
}
