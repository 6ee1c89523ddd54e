//! Each transport alone carries the mesh.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "a test says what it expects"
)]

mod lab_support;

use std::time::Duration;

use lab_support::{Node, Organization, bootstrap, content, until};
use serde_json::{Value, json};
use warren_lab::{Block, Lab, topology};

const MEET_WITHIN: Duration = Duration::from_secs(20);

/// Both ways, so that neither side's role matters.
#[track_caller]
fn exchange(one: &Node, two: &Node) {
    for (seed, (from, to)) in [(12, (one, two)), (13, (two, one))] {
        let document = content(seed, 1_500_000);
        let id = from.put(&document);
        assert!(to.get(&id).unwrap() == document, "the bytes differ");
    }
}

fn knows(peer: &Node, addresses: &[&str]) -> Value {
    let addresses: Vec<String> = addresses.iter().map(|a| peer.address(a)).collect();
    let addresses: Vec<&str> = addresses.iter().map(String::as_str).collect();
    bootstrap(&addresses)
}

#[track_caller]
fn meets_where_this_is_blocked(name: &str, block: Block) {
    let Some(lab) = Lab::or_skip(name) else {
        return;
    };
    let net = topology::one_bridge(&lab, 2).unwrap();
    net.hosts[0].block(&[block]).unwrap();
    let organization = Organization::new();
    let one = organization.start(&net.hosts[0], "one", json!({}));
    let known = knows(
        &one,
        &["/ip4/10.0.0.1/tcp/4001", "/ip4/10.0.0.1/udp/4001/quic-v1"],
    );
    let two = organization.start(&net.hosts[1], "two", known);

    until(MEET_WITHIN, "the two meet", || two.is_connected(&one));
    exchange(&one, &two);
}

#[test]
fn given_a_network_without_tcp_when_two_nodes_start_then_they_share_over_quic() {
    meets_where_this_is_blocked("no-tcp", Block::Tcp);
}

#[test]
fn given_a_network_without_udp_when_two_nodes_start_then_they_share_over_tcp() {
    meets_where_this_is_blocked("no-udp", Block::Udp);
}

#[test]
fn given_two_hosts_with_ipv6_only_when_two_nodes_start_then_they_share() {
    let Some(lab) = Lab::or_skip("ipv6-only") else {
        return;
    };
    let net = topology::ipv6_only_pair(&lab).unwrap();
    let organization = Organization::new();
    let left = organization.start(&net.left, "left", json!({}));
    let right = organization.start(
        &net.right,
        "right",
        knows(&left, &["/ip6/2001:db8:a::2/udp/4001/quic-v1"]),
    );

    until(MEET_WITHIN, "the two meet", || right.is_connected(&left));
    exchange(&left, &right);
}

#[test]
fn given_a_websocket_listener_alone_when_a_node_dials_it_then_they_share() {
    let Some(lab) = Lab::or_skip("websocket") else {
        return;
    };
    let net = topology::one_bridge(&lab, 2).unwrap();
    let organization = Organization::new();
    let one = organization.start(
        &net.hosts[0],
        "one",
        json!({ "network": { "libp2p": { "listen_addresses": ["/ip4/0.0.0.0/tcp/4003/ws"] } } }),
    );
    let two = organization.start(
        &net.hosts[1],
        "two",
        knows(&one, &["/ip4/10.0.0.1/tcp/4003/ws"]),
    );

    until(MEET_WITHIN, "the two meet", || two.is_connected(&one));
    exchange(&one, &two);
}
