//! Nodes behind NATs that have only a discovery server in common.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "a test says what it expects"
)]

mod lab_support;

use std::time::Duration;

use lab_support::{Organization, content, discovery, until};
use warren_lab::{Lab, topology};

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
