//! Nodes behind NATs that have only a discovery server in common.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "a test says what it expects"
)]

mod lab_support;

use std::time::Duration;

use lab_support::{Organization, content, discovery, until};
use warren_lab::{Lab, Nat, topology};

/// Meeting takes a heartbeat of nobody: register, hear of each other by gossip, reserve a slot, dial.
const MEET_WITHIN: Duration = Duration::from_secs(30);

#[test]
fn given_two_cone_nats_and_a_discovery_server_when_a_document_is_put_then_it_is_read_over_a_punched_hole()
 {
    let Some(lab) = Lab::or_skip("cone-nats") else {
        return;
    };
    let net = topology::two_cone_nats_with_server(&lab).unwrap();
    let organization = Organization::new();
    let _server = organization.start_server(&net.server, "server");
    let known = discovery(&["192.0.2.10"]);
    let left = organization.start(&net.left.host, "left", known.clone());
    let right = organization.start(&net.right.host, "right", known);

    until(MEET_WITHIN, "a direct path", || {
        left.path_to(&right).as_deref() == Some("direct")
    });

    let document = content(1, 3_000_000);
    let id = left.put(&document);
    assert!(right.get(&id).unwrap() == document, "the bytes differ");
    assert_eq!(right.path_to(&left).as_deref(), Some("direct"));
}

#[test]
fn given_two_symmetric_nats_and_a_relay_when_a_document_is_put_then_it_is_read_through_the_relay() {
    let Some(lab) = Lab::or_skip("symmetric-nats") else {
        return;
    };
    let net = topology::two_symmetric_nats_with_relay(&lab).unwrap();
    let organization = Organization::new();
    let _relay = organization.start_server(&net.server, "relay");
    let known = discovery(&["192.0.2.10"]);
    let left = organization.start(&net.left.host, "left", known.clone());
    let right = organization.start(&net.right.host, "right", known);

    until(MEET_WITHIN, "a relayed path", || {
        left.path_to(&right).as_deref() == Some("relayed")
    });

    let document = content(2, 3_000_000);
    let id = left.put(&document);
    assert!(right.get(&id).unwrap() == document, "the bytes differ");
    assert_eq!(right.path_to(&left).as_deref(), Some("relayed"));
}

#[test]
fn given_three_kinds_of_router_when_asked_for_the_nat_then_each_node_knows_its_own() {
    let Some(lab) = Lab::or_skip("nat-check") else {
        return;
    };
    let internet = lab.bridge("internet").unwrap();
    let public = |name: &str, address: &str| {
        let host = lab.host(name).unwrap();
        host.attach(&internet, &[address]).unwrap();
        host
    };
    let behind = |name: &str, number: u8, nat: Nat| {
        let router = lab.router(&format!("{name}-router"), Some(nat)).unwrap();
        router
            .attach_outside(&internet, &[&format!("192.0.2.{number}/24")])
            .unwrap();
        let lan = lab.bridge(&format!("{name}-lan")).unwrap();
        let gateway = format!("10.{number}.0.1");
        router
            .attach_inside(&lan, &[&format!("{gateway}/24")])
            .unwrap();
        let host = lab.host(name).unwrap();
        host.attach(&lan, &[&format!("10.{number}.0.2/24")])
            .unwrap();
        host.default_route(&gateway).unwrap();
        host
    };
    let organization = Organization::new();
    let _first = organization.start_server(&public("first", "192.0.2.10/24"), "first");
    let _second = organization.start(
        &public("second", "192.0.2.11/24"),
        "second",
        discovery(&["192.0.2.10"]),
    );
    let known = discovery(&["192.0.2.10"]);
    let nodes = [
        (public("open", "192.0.2.12/24"), "none", "public"),
        (behind("cone", 1, Nat::CONE), "cone", "private"),
        (
            behind("symmetric", 2, Nat::Symmetric),
            "symmetric",
            "private",
        ),
    ]
    .map(|(host, nat, reachability)| {
        let name = host.name().to_owned();
        (
            organization.start(&host, &name, known.clone()),
            nat,
            reachability,
        )
    });

    for (node, nat, reachability) in &nodes {
        until(
            Duration::from_secs(40),
            &format!("{} knows that it is {reachability}, NAT {nat}", node.name),
            || {
                let told = node.json(&["nat-check"]);
                println!("{told}");
                told["nat"] == *nat && told["reachability"] == *reachability
            },
        );
    }
    let told = nodes[1].0.json(&["nat-check"]);
    assert!(
        told["observed_addresses"]
            .to_string()
            .contains("192.0.2.1/"),
        "the mapped address is told: {told}"
    );
}
