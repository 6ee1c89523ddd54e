//! Revocation lists: what the CA signs cuts a live peer, stays in force, and cannot be taken back by an older list.

use std::time::Duration;

use crate::support::{Node, Organization, Plan, eventually, within};

/// Three nodes in a row: the first watches the CA's list, the others know of it only by the mesh.
struct Three {
    organization: Organization,
    first: Node,
    second: Node,
    third: Node,
}

impl Three {
    fn new() -> Self {
        let organization = Organization::new();
        sign_list(&organization);
        let list = organization.ca().join("crl.pem");
        let first = Node::start(&organization.planned(
            "node-1",
            Plan {
                security: format!(", crl: {}", list.display()),
                ..Plan::default()
            },
        ));
        let joined = |name: &str| {
            Node::start(&organization.planned(
                name,
                Plan {
                    bootstrap: vec![first.address()],
                    ..Plan::default()
                },
            ))
        };
        let (second, third) = (joined("node-2"), joined("node-3"));
        second.meets(&first);
        third.meets(&first);
        third.warren(["connect", &second.address()]).ok();
        Self {
            organization,
            first,
            second,
            third,
        }
    }
}

fn sign_list(organization: &Organization) {
    let ca = organization.ca();
    crate::support::warren(["ca", "crl", "--dir", ca.to_str().unwrap()]).ok();
}

#[test]
fn given_a_live_peer_when_revoked_then_every_member_drops_it_within_two_seconds_of_the_look() {
    let three = Three::new();

    three.organization.revoke(&three.third.peer_id);

    // The file is looked at once a second; the two seconds count from there.
    within(
        Duration::from_secs(3),
        "the revoked peer is dropped",
        || {
            let held = three.first.online().contains(&three.third.peer_id)
                || three.second.online().contains(&three.third.peer_id);
            (!held).then_some(())
        },
    );
    assert!(
        three.first.online().contains(&three.second.peer_id),
        "others stay connected"
    );
}

#[test]
fn given_a_revoked_peer_when_it_comes_again_then_it_is_turned_away() {
    let three = Three::new();
    three.organization.revoke(&three.third.peer_id);
    eventually("the revoked peer is dropped", || {
        (!three.second.online().contains(&three.third.peer_id)).then_some(())
    });

    three
        .third
        .warren(["connect", &three.second.address()])
        .failed();

    assert!(!three.second.online().contains(&three.third.peer_id));
}

#[test]
fn given_a_list_learnt_from_a_peer_when_the_receiver_restarts_then_it_is_still_in_force() {
    let Three {
        organization,
        first,
        second,
        third,
    } = Three::new();
    organization.revoke(&third.peer_id);
    eventually("the list is kept", || {
        second.path("data/crl.pem").exists().then_some(())
    });
    eventually("the peer is dropped", || {
        (!second.online().contains(&third.peer_id)).then_some(())
    });
    let home = second.home.clone();
    second.stop();
    // Nobody is left to tell it.
    first.stop();

    let second = Node::start(&home);

    third.warren(["connect", &second.address()]).failed();
    assert!(second.online().is_empty());
}

#[test]
fn given_an_older_list_when_it_is_put_back_then_the_revocation_stays() {
    let three = Three::new();
    let list = three.organization.ca().join("crl.pem");
    let older = std::fs::read(&list).unwrap();
    three.organization.revoke(&three.third.peer_id);
    eventually("the peer is dropped", || {
        (!three.first.online().contains(&three.third.peer_id)).then_some(())
    });

    std::fs::write(&list, older).unwrap();

    three.first.logs("older");
    three
        .third
        .warren(["connect", &three.first.address()])
        .failed();
}

#[test]
fn given_a_list_of_another_authority_when_put_in_place_then_it_is_refused_by_name() {
    let three = Three::new();
    let foreign = Organization::new();
    let (ca, third) = (foreign.ca(), &three.third.peer_id);
    let arguments = ["ca", "revoke", "--force", "--peer", third, "--dir"];
    crate::support::warren(arguments.into_iter().chain([ca.to_str().unwrap()])).ok();

    std::fs::copy(
        foreign.ca().join("crl.pem"),
        three.organization.ca().join("crl.pem"),
    )
    .unwrap();

    three.first.logs("the old one stays");
    assert!(three.first.online().contains(&three.third.peer_id));
}

#[test]
fn given_a_node_that_was_revoked_when_it_starts_then_it_is_told_so() {
    let organization = Organization::new();
    let home = organization.planned(
        "node-1",
        Plan {
            security: format!(", crl: {}", organization.ca().join("crl.pem").display()),
            ..Plan::default()
        },
    );
    organization.revoke(&home.peer_id);

    let refusal = home.warren(["start"]).failed();

    assert!(refusal.contains("revoked"), "{refusal}");
}
