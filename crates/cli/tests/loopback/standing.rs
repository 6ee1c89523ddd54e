//! What a node says of its own standing in `/ready`.

use serde_json::Value;

use crate::support::{Node, Organization, Plan, Request, eventually};

fn ready(node: &Node) -> Value {
    Request::new(node.api(), "GET", "/ready").send().json()
}

fn says(node: &Node, part: &str, status: &str, reason: &str) {
    eventually(&format!("{part} is {status}"), || {
        let state = &ready(node)["components"][part];
        let why = state["reason"].as_str().unwrap_or_default();
        (state["status"] == status && why.contains(reason)).then_some(())
    });
}

#[test]
fn given_a_node_that_has_lost_all_its_peers_when_asked_then_it_says_so_and_not_before() {
    let organization = Organization::new();
    let first = Node::start(&organization.home("node-1"));
    says(&first, "peers", "ok", "");
    let plan = || Plan {
        bootstrap: vec![first.address()],
        ..Plan::default()
    };
    let second = Node::start(&organization.planned("node-2", plan()));
    second.meets(&first);
    let must_join = organization.planned("node-3", plan());
    let must_join = Node::start_with(&must_join, &[("WARREN_BOOTSTRAP_MODE", "client")]);
    must_join.meets(&first);
    says(&must_join, "peers", "ok", "");

    assert!(second.stop().success());
    assert!(first.stop().success());

    says(
        &must_join,
        "peers",
        "failing",
        "no peer is connected any more",
    );
    assert_eq!(ready(&must_join)["status"], "failing");
}

#[test]
fn given_a_first_node_whose_peers_have_gone_when_asked_then_it_is_ready_with_less_than_it_had() {
    let organization = Organization::new();
    let first = Node::start(&organization.home("node-1"));
    let plan = Plan {
        bootstrap: vec![first.address()],
        ..Plan::default()
    };
    let second = Node::start(&organization.planned("node-2", plan));
    second.meets(&first);
    // It has to have been seen before it goes.
    eventually("both know each other", || {
        (!first.online().is_empty()).then_some(())
    });
    assert!(second.stop().success());

    says(&first, "peers", "degraded", "no peer is connected any more");
    assert_eq!(ready(&first)["status"], "ready");
}

#[test]
fn given_a_store_that_is_nearly_full_when_asked_then_it_says_so_and_what_helps() {
    let organization = Organization::new();
    let plan = Plan {
        storage: ", max_size: 16MiB".to_owned(),
        ..Plan::default()
    };
    let node = Node::start(&organization.planned("node-1", plan));
    says(&node, "storage", "ok", "");
    let (id, _) = node.put_noise(11, (16 << 20) - (300 << 10));

    says(&node, "storage", "degraded", "raise storage.max_size");
    node.warren(["rm", &id]).ok();
    node.warren(["store", "gc"]).ok();
    says(&node, "storage", "ok", "");
}
