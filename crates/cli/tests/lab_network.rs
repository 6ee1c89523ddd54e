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
fn given_a_dozen_nodes_when_one_learns_a_revocation_list_then_it_reaches_all() {
    const NODES: usize = 12;
    let Some(lab) = Lab::or_skip("a-dozen") else {
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
    until(Duration::from_secs(40), "everyone knows everyone", || {
        nodes
            .iter()
            .all(|node| node.json(&["peers", "--status", "online"])["total"] == NODES - 1)
    });

    let number = format!("number={}", organization.sign_list());
    until(
        Duration::from_secs(5),
        "the list is in force everywhere",
        || nodes.iter().all(|node| node.log().contains(&number)),
    );
}
