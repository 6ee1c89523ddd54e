//! A machine whose clock is three days off, as `libfaketime` shows it to the node.

use crate::support::{Finished, Home, Node, Organization, Plan};

/// The library of the package `faketime`, in the folder of this machine's architecture.
fn library() -> Option<String> {
    std::fs::read_dir("/usr/lib").ok()?.find_map(|entry| {
        let path = entry.ok()?.path().join("faketime/libfaketimeMT.so.1");
        path.exists().then(|| path.display().to_string())
    })
}

/// Variables that move a program's calendar and leave its timers alone.
fn shifted<'a>(library: &'a str, by: &'a str) -> [(&'a str, &'a str); 3] {
    [
        ("LD_PRELOAD", library),
        ("FAKETIME", by),
        ("FAKETIME_DONT_FAKE_MONOTONIC", "1"),
    ]
}

fn start_shifted(home: &Home, library: &str, by: &str) -> Finished {
    let mut start = home.invocation().args(["start"]);
    for (name, value) in shifted(library, by) {
        start = start.env(name, value);
    }
    start.run()
}

#[test]
fn given_a_clock_three_days_slow_when_started_then_the_message_names_the_clock() {
    let Some(library) = library() else {
        return warren_lab::skip("clock::slow", "needs faketime");
    };
    let organization = Organization::new();
    let home = organization.home("node-1");

    let refusal = start_shifted(&home, &library, "-3d").failed();

    assert!(refusal.contains("clock"), "{refusal}");
}

#[test]
fn given_a_clock_three_days_fast_and_a_short_certificate_when_started_then_the_message_names_the_clock()
 {
    let Some(library) = library() else {
        return warren_lab::skip("clock::short", "needs faketime");
    };
    let organization = Organization::new();
    let home = organization.home("node-1");
    home.issue_for(&organization, "node-1", &["storage"], 1)
        .ok();

    let refusal = start_shifted(&home, &library, "+3d").failed();

    assert!(
        refusal.contains("expired") && refusal.contains("clock"),
        "{refusal}"
    );
}

#[test]
fn given_a_clock_three_days_fast_and_a_long_certificate_when_started_then_the_node_joins_all_the_same()
 {
    let Some(library) = library() else {
        return warren_lab::skip("clock::long", "needs faketime");
    };
    let organization = Organization::new();
    let first = Node::start(&organization.home("node-1"));
    let (id, bytes) = first.put_noise(1, 500_000);
    let home = organization.planned(
        "node-2",
        Plan {
            bootstrap: vec![first.address()],
            ..Plan::default()
        },
    );

    let second = Node::start_with(&home, &shifted(&library, "+3d"));

    second.meets(&first);
    assert!(second.content(&id).bytes() == bytes);
}

#[test]
fn given_a_clock_three_days_fast_when_a_peers_short_certificate_has_ended_for_it_then_it_turns_the_peer_away()
 {
    let Some(library) = library() else {
        return warren_lab::skip("clock::peer", "needs faketime");
    };
    let organization = Organization::new();
    let fast = Node::start_with(&organization.home("node-1"), &shifted(&library, "+3d"));
    let peer = organization.home("node-2");
    peer.issue_for(&organization, "node-2", &["storage"], 1)
        .ok();
    let peer = Node::start(&peer);

    peer.warren(["connect", &fast.address()]).failed();

    fast.logs("expired");
    assert!(fast.online().is_empty());
}
