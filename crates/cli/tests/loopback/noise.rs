//! What a log does not say twice.

use crate::support::{Node, Organization, Plan, eventually};

#[test]
fn given_a_node_when_started_then_its_log_names_each_address_once() {
    let organization = Organization::new();
    let node = Node::start(&organization.home("node-1"));

    let address = node.address();
    let address = address.split("/p2p/").next().unwrap();
    node.logs(&format!("listening on {address}/p2p/{}", node.peer_id));
    node.logs("for bulk");
    assert_eq!(node.log().matches(address).count(), 1, "{}", node.log());
}

#[test]
fn given_a_revocation_when_gossiped_then_nobody_publishes_what_came_by_gossip() {
    let organization = Organization::new();
    // Only the first reads the CA's list; to the others it comes by gossip.
    let plan = |bootstrap: Vec<String>, security: String| Plan {
        bootstrap,
        security,
        ..Plan::default()
    };
    organization.revoke(&organization.home("nobody").peer_id);
    let crl = organization.ca().join("crl.pem");
    let reads = format!(", crl: '{}'", crl.display());
    let first = Node::start(&organization.planned("node-1", plan(Vec::new(), reads)));
    let second = organization.planned("node-2", plan(vec![first.address()], String::new()));
    let second = Node::start(&second);
    second.meets(&first);
    let third = organization.planned("node-3", plan(vec![second.address()], String::new()));
    let third = Node::start(&third);
    third.meets(&second);
    third.meets(&first);
    let last = organization.home("node-4");

    organization.revoke(&last.peer_id);

    // The others have had the first list as well, when they met.
    for (node, lists) in [(&first, 1), (&second, 2), (&third, 2)] {
        eventually("the list is in force", || {
            let log = node.log();
            (log.matches("revocation list in force").count() == lists).then_some(())
        });
    }
    // Whatever each published is out before it answers the next question.
    for node in [&first, &second, &third] {
        node.warren(["status"]).ok();
        let log = node.log();
        assert!(!log.contains("already been published"), "{log}");
    }
}

#[test]
fn given_a_machine_with_a_new_key_when_dialled_as_before_then_the_log_says_so_once_per_address() {
    let organization = Organization::new();
    let other = Node::start(&organization.home("node-1"));
    let (right, gone) = (other.peer_id.clone(), organization.home("gone").peer_id);
    let wrong = other.address().replace(&right, &gone);
    let node = Node::start(&organization.home("node-2"));

    for _ in 0..4 {
        node.warren(["connect", &wrong]).failed();
    }

    let said = node.log();
    let said = said
        .matches("another than the one that was dialled")
        .count();
    assert_eq!(said, 1, "{}", node.log());
}
