//! Members that lose their standing, and strangers that never had any.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "a test says what it expects"
)]

mod lab_support;

use std::time::{Duration, Instant};

use lab_support::{Node, Organization, bootstrap, until};
use serde_json::json;
use warren_lab::{Lab, topology};

const MEET_WITHIN: Duration = Duration::from_secs(20);

#[track_caller]
fn all_meet(nodes: &[&Node]) {
    until(MEET_WITHIN, "everyone is connected with everyone", || {
        nodes.iter().all(|one| {
            nodes
                .iter()
                .filter(|other| other.peer_id != one.peer_id)
                .all(|other| one.is_connected(other))
        })
    });
}

#[test]
fn given_a_revocation_on_one_node_when_it_spreads_then_the_revoked_one_is_cut_everywhere_and_stays_out()
 {
    let Some(lab) = Lab::or_skip("revocation") else {
        return;
    };
    let net = topology::one_bridge(&lab, 3).unwrap();
    let organization = Organization::new();
    organization.sign_list();
    // Only the first node looks at the CA's list.
    let first = organization.start(
        &net.hosts[0],
        "first",
        json!({ "network": { "security": { "crl": organization.crl() } } }),
    );
    let known = bootstrap(&[&first.address("/ip4/10.0.0.1/tcp/4001")]);
    let revoked = organization.start(&net.hosts[1], "revoked", known.clone());
    let other = organization.start(&net.hosts[2], "other", known);
    all_meet(&[&first, &revoked, &other]);

    organization.revoke(&revoked);
    let began = Instant::now();
    until(Duration::from_secs(2), "cut by those who remain", || {
        [&first, &other].iter().all(|node| {
            node.log()
                .lines()
                .any(|line| line.contains("ending the session") && line.contains(&revoked.peer_id))
        })
    });
    println!("everywhere after {:?}", began.elapsed());
    until(Duration::from_secs(5), "no connection is left", || {
        !first.is_connected(&revoked) && !other.is_connected(&revoked)
    });

    revoked.kill();
    // It may have learnt the list itself, and would refuse to start; whoever means harm forgets it.
    std::fs::remove_dir_all(revoked.folder.join("data")).unwrap();
    revoked.start();
    until(MEET_WITHIN, "it is turned away with the reason", || {
        first.metric("warren_network_admission_refused_total", &["revoked"]) > 0.0
    });
    let refusal = first
        .log()
        .lines()
        .rfind(|line| line.contains(&revoked.peer_id) && line.contains("revoked"))
        .map(str::to_owned);
    println!("{}", refusal.expect("the reason is in the log"));
    assert!(!first.is_connected(&revoked) && !other.is_connected(&revoked));
}

#[test]
fn given_a_node_of_another_organisation_when_it_dials_then_it_is_turned_away_with_the_reason() {
    let Some(lab) = Lab::or_skip("foreign") else {
        return;
    };
    let net = topology::one_bridge(&lab, 2).unwrap();
    let organization = Organization::new();
    let member = organization.start(&net.hosts[0], "member", json!({}));
    let elsewhere = Organization::named("org_elsewhere");
    let stranger = elsewhere.start(
        &net.hosts[1],
        "stranger",
        bootstrap(&[&member.address("/ip4/10.0.0.1/tcp/4001")]),
    );

    until(MEET_WITHIN, "it is turned away", || {
        member.metric("warren_network_admission_refused_total", &[]) > 0.0
    });
    let told = member
        .log()
        .lines()
        .any(|line| line.contains("refused") && line.contains(&stranger.peer_id));
    assert!(told, "the reason is in the log");
    assert!(member.peer(&stranger).is_none());
    assert!(stranger.peer(&member).is_none());
}

#[test]
fn given_a_certificate_that_ends_while_connected_when_it_ends_then_the_session_does_too_and_is_not_renewed()
 {
    let Some(lab) = Lab::or_skip("expiry") else {
        return;
    };
    let net = topology::one_bridge(&lab, 2).unwrap();
    let organization = Organization::new();
    let member = organization.start(&net.hosts[0], "member", json!({}));
    let known = bootstrap(&[&member.address("/ip4/10.0.0.1/tcp/4001")]);
    let mortal = organization.node(&net.hosts[1], "mortal", known);
    organization.reissue_for(&mortal, Duration::from_secs(8));
    mortal.start();
    until(
        Duration::from_secs(6),
        "it is a member while it lasts",
        || member.is_connected(&mortal),
    );

    until(Duration::from_secs(12), "the session ends", || {
        !member.is_connected(&mortal)
    });
    until(MEET_WITHIN, "it is turned away", || {
        let refused = member.metric("warren_network_admission_refused_total", &["expired"]);
        refused > 0.0
    });
}
