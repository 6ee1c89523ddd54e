//! The protocol, as the crate's page states it.

#![allow(clippy::unwrap_used)]

mod support;

use std::time::{Duration, Instant};

use support::*;
use warren_identity::{Capabilities, NodeKey};
use warren_swim::{
    ClaimKind, Config, Credentials, Destination, Event, Liveness, Message, Proof, SignedStatement,
    State, Swim, TagError, Transport, Update, VersionRange, limits,
};

#[test]
fn given_two_nodes_when_one_is_gone_then_the_other_holds_it_failed() {
    let mut cluster = Cluster::new(2);
    cluster.nodes[1] = None;

    cluster.run(10 * SECOND);

    assert_eq!(cluster.at(1).member(&id(2)).unwrap().state(), State::Failed);
    assert!(events(cluster.at(1)).contains(&Event::Failed(id(2))));
}

#[test]
fn given_a_member_that_leaves_when_claims_about_it_come_then_it_stays_left() {
    let mut cluster = Cluster::new(4);
    let now = cluster.now;
    cluster.at(3).leave(now);
    cluster.run(3 * SECOND);
    assert!(events(cluster.at(3)).contains(&Event::LeaveSpread));
    cluster.nodes[2] = None;

    let incarnation = cluster
        .at(1)
        .member(&id(3))
        .unwrap()
        .statement()
        .incarnation;
    let failed = gossip(vec![claim(ClaimKind::Failed, 3, incarnation, &[2, 4])]);
    let now = cluster.now;
    cluster.at(1).handle_packet(id(2), &failed, now);
    cluster.at(1).handle_packet(id(4), &failed, now);
    cluster.run(20 * SECOND);

    let seen = events(cluster.at(1));
    assert!(seen.contains(&Event::Left(id(3))));
    assert!(!seen.contains(&Event::Failed(id(3))));
    assert_eq!(cluster.at(1).member(&id(3)).unwrap().state(), State::Left);
}

#[test]
fn given_a_node_that_left_when_claims_come_then_it_has_nothing_to_do_ever_again() {
    let (mut swim, now) = knowing(5, Config::lan());
    swim.leave(now);
    run(&mut swim, now + 10 * SECOND);
    assert!(events(&mut swim).contains(&Event::LeaveSpread));
    let later = now + 20 * SECOND;

    let suspect = claim(ClaimKind::Suspect, 3, 10, &[2, 4]);
    swim.handle_packet(id(2), &gossip(vec![suspect]), later);

    assert_eq!(swim.poll_timeout(), None);
    assert_eq!(swim.member(&id(3)).unwrap().state(), State::Alive);
}

#[test]
fn given_a_node_alone_when_it_leaves_then_nothing_is_left_to_spread() {
    let now = Instant::now();
    let mut swim = node(1, Config::lan(), 1, now);

    swim.leave(now);

    assert_eq!(events(&mut swim), [Event::LeaveSpread]);
}

#[test]
fn given_one_observer_in_a_large_cluster_when_the_clock_runs_out_then_it_stays_a_suspicion() {
    // Periods so long that no probe of our own interferes; clocks of one to eight seconds.
    let config = Config {
        probe_interval: Duration::from_secs(1_000),
        suspicion_factor: 0.001,
        ..Config::lan()
    };
    let (mut swim, now) = knowing(20, config);
    let first = gossip(vec![claim(ClaimKind::Suspect, 5, 10, &[6])]);
    let more = gossip(vec![claim(ClaimKind::Suspect, 5, 10, &[6, 7, 8])]);
    swim.handle_packet(id(6), &first, now);

    let later = run(&mut swim, now + 60 * SECOND);
    assert_eq!(swim.member(&id(5)).unwrap().state(), State::Suspect);
    swim.handle_packet(id(6), &more, later);

    assert_eq!(swim.member(&id(5)).unwrap().state(), State::Failed);
}

/// Lets a node do what is due, each time when it is due. Nobody answers.
fn run(swim: &mut Swim<NodeKey>, until: Instant) -> Instant {
    while let Some((at, _)) = swim.poll_timeout().filter(|(at, _)| *at <= until) {
        swim.handle_timeout(at);
        while swim.poll_transmit().is_some() {}
    }
    until
}

#[test]
fn given_a_failed_claim_of_one_when_received_then_only_a_second_member_makes_it_so() {
    let (mut swim, now) = knowing(20, Config::lan());
    let failed = gossip(vec![claim(ClaimKind::Failed, 5, 10, &[6, 7, 8])]);

    swim.handle_packet(id(6), &failed, now);
    swim.handle_packet(id(6), &failed, now);
    assert_eq!(swim.member(&id(5)).unwrap().state(), State::Suspect);
    swim.handle_packet(id(7), &failed, now);

    assert_eq!(swim.member(&id(5)).unwrap().state(), State::Failed);
}

#[test]
fn given_failed_claims_of_two_without_evidence_when_received_then_they_are_not_believed() {
    let (mut swim, now) = knowing(20, Config::lan());
    let failed = gossip(vec![claim(ClaimKind::Failed, 5, 10, &[6, 5, 99])]);

    swim.handle_packet(id(6), &failed, now);
    swim.handle_packet(id(7), &failed, now);

    assert_eq!(swim.member(&id(5)).unwrap().state(), State::Suspect);
}

#[test]
fn given_a_claim_about_us_when_received_then_we_refute_to_the_accuser_at_once() {
    let (mut swim, now) = knowing(5, Config::lan());

    swim.handle_packet(
        id(3),
        &gossip(vec![claim(ClaimKind::Suspect, 1, 10, &[3])]),
        now,
    );

    assert_eq!(swim.local().incarnation, 11);
    assert_eq!(swim.local_health(), 1);
    assert_eq!(events(&mut swim), [Event::Accused]);
    let transmit = swim.poll_transmit().unwrap();
    let to = Destination::Member {
        id: id(3),
        address: address(3),
    };
    assert_eq!(transmit.to, to);
    assert_eq!(transmit.payload, gossip_of_ours(&swim));
}

fn gossip_of_ours(swim: &Swim<NodeKey>) -> Vec<u8> {
    let mut updates = vec![Update::Statement(swim.local().clone())];
    // What else was queued rides along, newest first.
    updates.extend(
        (2..=5)
            .rev()
            .map(|number| Update::Statement(signed(number, 10))),
    );
    gossip(updates)
}

#[test]
fn given_a_claim_about_an_incarnation_we_never_had_when_received_then_ours_is_not_raised() {
    let (mut swim, now) = knowing(5, Config::lan());

    swim.handle_packet(
        id(3),
        &gossip(vec![claim(ClaimKind::Suspect, 1, 1 << 60, &[3])]),
        now,
    );

    assert_eq!(swim.local().incarnation, 10);
}

#[test]
fn given_a_restart_below_the_last_incarnation_when_it_joins_then_it_goes_above_it() {
    let mut cluster = Cluster::new(3);
    for round in 0..5 {
        let now = cluster.now;
        cluster
            .at(3)
            .set_tag("round", &round.to_string(), now)
            .unwrap();
    }
    cluster.run(3 * SECOND);
    let last = cluster.at(3).local().incarnation;

    let now = cluster.now;
    cluster.nodes[2] = Some(node(3, Config::lan(), 1, now));
    cluster.at(3).join(&[address(1)], now);
    cluster.run(5 * SECOND);

    assert!(cluster.at(3).local().incarnation > last);
    let member = cluster.at(1).member(&id(3)).unwrap();
    assert_eq!(
        (member.state(), member.statement().tags.len()),
        (State::Alive, 0)
    );
}

#[test]
fn given_a_failed_member_when_it_returns_then_it_joins_again() {
    let mut cluster = Cluster::new(4);
    cluster.nodes[3] = None;
    cluster.run(15 * SECOND);
    assert_eq!(cluster.at(1).member(&id(4)).unwrap().state(), State::Failed);
    events(cluster.at(1));

    let now = cluster.now;
    cluster.nodes[3] = Some(node(4, Config::lan(), 20, now));
    cluster.at(4).join(&[address(2)], now);
    cluster.run(3 * SECOND);

    assert!(events(cluster.at(1)).contains(&Event::Joined(id(4))));
    assert_eq!(cluster.at(4).live_count(), 4);
}

#[test]
fn given_a_failed_members_address_when_another_key_takes_it_then_the_old_one_is_not_tried_there() {
    let mut cluster = Cluster::new(3);
    cluster.nodes[2] = None;
    cluster.run(15 * SECOND);
    assert_eq!(cluster.at(1).member(&id(3)).unwrap().state(), State::Failed);
    let mut newcomer = statement(9, 1);
    newcomer.address = address(3);
    let newcomer = SignedStatement::sign(newcomer, "default", &key(9)).unwrap();
    let now = cluster.now;
    cluster.nodes.truncate(1);

    let swim = cluster.at(1);
    swim.handle_packet(id(9), &gossip(vec![Update::Statement(newcomer)]), now);
    let mut now = now;
    for _ in 0..10_000 {
        now += Duration::from_millis(10);
        swim.handle_timeout(now);
        while let Some(transmit) = swim.poll_transmit() {
            let is_old = matches!(transmit.to, Destination::Member { id: to, .. } if to == id(3));
            assert!(!is_old, "{transmit:?}");
        }
    }
}

#[test]
fn given_our_key_elsewhere_when_its_statement_comes_then_we_say_so_and_go_above() {
    let (mut swim, now) = knowing(3, Config::lan());
    swim.set_tag("zone", "a", now).unwrap();
    let mut twin = statement(1, 50);
    twin.address = address(77);
    let twin = SignedStatement::sign(twin, "default", &key(1)).unwrap();

    swim.handle_packet(id(2), &gossip(vec![Update::Statement(twin)]), now);

    let expected = Event::IdentityInUse {
        address: address(77),
        incarnation: 50,
    };
    assert_eq!(events(&mut swim), [expected]);
    assert_eq!(swim.local().incarnation, 51);
    assert_eq!(swim.local().tags.get("zone"), Some("a"));
}

#[test]
fn given_tags_when_set_then_each_has_the_incarnation_it_was_set_at() {
    let (mut swim, now) = knowing(3, Config::lan());

    swim.set_tag("zone", "a", now).unwrap();
    swim.set_tag("rack", "7", now).unwrap();
    swim.set_tag("zone", "a", now).unwrap();
    swim.set_tag("zone", "b", now).unwrap();

    let tags: Vec<_> = swim
        .local()
        .tags
        .iter()
        .map(|(key, tag)| (key, tag.version))
        .collect();
    assert_eq!(tags, [("rack", 12), ("zone", 13)]);
    assert!(swim.remove_tag("zone", now));
    assert!(!swim.remove_tag("zone", now));
    assert_eq!(swim.local().incarnation, 14);
}

#[test]
fn given_tags_out_of_bounds_when_set_then_they_are_refused_and_nothing_changes() {
    let (mut swim, now) = knowing(3, Config::lan());
    let long = "x".repeat(256);

    assert_eq!(
        swim.set_tag("", "x", now),
        Err(TagError::BadKey(String::new()))
    );
    assert_eq!(
        swim.set_tag("Zone", "x", now),
        Err(TagError::BadKey("Zone".into()))
    );
    assert_eq!(
        swim.set_tag("zone", &long, now),
        Err(TagError::BadValue("zone".into()))
    );
    assert_eq!(
        swim.set_tag("zone", "a\nb", now),
        Err(TagError::BadValue("zone".into()))
    );
    swim.set_tag("a", &long[..255], now).unwrap();
    swim.set_tag("b", &long[..255], now).unwrap();
    assert_eq!(
        swim.set_tag("c", &long[..255], now),
        Err(TagError::TooMuch("c".into()))
    );
    assert_eq!(swim.local().incarnation, 12);
}

#[test]
fn given_the_largest_statement_when_gossiped_then_it_fits_in_a_datagram_and_arrives() {
    let mut cluster = Cluster::new(3);
    let now = cluster.now;
    for number in 0..32 {
        let value = "v".repeat(18);
        cluster
            .at(2)
            .set_tag(&format!("{number:02}"), &value, now)
            .unwrap();
    }
    assert!(cluster.at(2).local().as_bytes().len() <= limits::STATEMENT_BYTES);

    cluster.run(2 * SECOND);

    assert_eq!(
        cluster.at(3).member(&id(2)).unwrap().statement().tags.len(),
        32
    );
}

#[test]
fn given_a_role_tag_when_the_leaf_is_seen_then_it_counts_only_with_the_capability() {
    let mut cluster = Cluster::new(2);
    let now = cluster.now;
    cluster
        .at(2)
        .set_tag("role", "worker, director", now)
        .unwrap();
    cluster.run(SECOND);
    let swim = cluster.at(1);
    assert!(!swim.member(&id(2)).unwrap().has_role("worker"));

    let capabilities = Capabilities::parse(["worker", "storage"]).unwrap();
    swim.handle_credentials(&id(2), Credentials::Proven(capabilities), now);

    let member = swim.member(&id(2)).unwrap();
    let roles: Vec<_> = member.roles().collect();
    assert_eq!(
        roles,
        [("worker", Proof::Proven), ("director", Proof::Unproven)]
    );
    assert!(member.has_role("worker"));
    assert!(!member.has_role("director"));
    assert!(!member.has_role("storage"));
}

#[test]
fn given_a_newcomer_when_learned_then_its_leaf_is_wanted_and_a_refused_one_is_expelled_for_a_while()
{
    let (mut swim, now) = knowing(3, Config::lan());
    let packet = gossip(vec![Update::Statement(signed(9, 1))]);
    swim.handle_packet(id(2), &packet, now);
    assert_eq!(
        events(&mut swim),
        [Event::Joined(id(9)), Event::CredentialsWanted(id(9))]
    );

    swim.handle_credentials(&id(9), Credentials::Refused, now);
    assert_eq!(events(&mut swim), [Event::Expelled(id(9))]);
    swim.handle_packet(id(2), &packet, now + SECOND);
    assert!(swim.member(&id(9)).is_none());
    swim.handle_packet(id(2), &packet, now + Config::lan().expelled_for + SECOND);

    assert!(swim.member(&id(9)).is_some());
}

#[test]
fn given_no_common_version_when_a_packet_comes_then_it_is_refused_with_ours_named() {
    let (mut swim, now) = knowing(3, Config::lan());
    let mut statement = statement(9, 1);
    statement.protocol = VersionRange { min: 2, max: 3 };
    let newer = SignedStatement::sign(statement, "default", &key(9)).unwrap();

    swim.handle_packet(id(9), &[2, 1, 0, 0, 0, 1], now);
    swim.handle_packet(id(2), &gossip(vec![Update::Statement(newer)]), now);

    assert_eq!(
        (
            swim.counters().unknown_version,
            swim.counters().incompatible
        ),
        (1, 1)
    );
    let refusal = swim.poll_transmit().unwrap();
    assert_eq!(
        (refusal.to, refusal.payload),
        (Destination::Session(id(9)), vec![2, 0, 1, 1])
    );
    assert!(swim.member(&id(9)).is_none());
}

#[test]
fn given_a_refusal_when_received_then_the_shell_is_told_what_they_speak() {
    let (mut swim, now) = knowing(3, Config::lan());

    swim.handle_packet(id(9), &[1, 0, 2, 3], now);

    let theirs = VersionRange { min: 2, max: 3 };
    let member = id(9);
    assert_eq!(events(&mut swim), [Event::Incompatible { member, theirs }]);
}

#[test]
fn given_a_seed_that_speaks_less_when_it_refuses_then_the_next_contact_has_a_version_both_speak() {
    let config = Config {
        protocol: VersionRange { min: 1, max: 4 },
        ..Config::lan()
    };
    let now = Instant::now();
    let mut swim = node(1, config, 1, now);
    swim.join(&[address(2)], now);
    swim.handle_timeout(now);
    assert_eq!(swim.poll_transmit().unwrap().payload[0], 4);

    swim.handle_packet(id(2), &[4, 0, 1, 2], now);
    let later = now + SECOND;
    while let Some((at, _)) = swim.poll_timeout().filter(|(at, _)| *at <= later) {
        swim.handle_timeout(at);
    }

    assert_eq!(swim.poll_transmit().unwrap().payload[0], 2);
    assert_eq!(events(&mut swim), []);
}

#[test]
fn given_ranges_that_overlap_when_packets_are_sent_then_they_have_the_highest_common_version() {
    let config = Config {
        protocol: VersionRange { min: 1, max: 4 },
        ..Config::lan()
    };
    let now = Instant::now();
    let mut swim = node(1, config, 1, now);
    let mut theirs = statement(2, 1);
    theirs.protocol = VersionRange { min: 2, max: 3 };
    let theirs = SignedStatement::sign(theirs, "default", &key(2)).unwrap();

    swim.handle_packet(id(2), &gossip(vec![Update::Statement(theirs)]), now);
    swim.handle_packet(id(2), &[2, 1, 0, 0, 0, 1], now);

    assert_eq!(swim.poll_transmit().unwrap().payload[0], 3);
}

#[test]
fn given_a_deadline_handled_late_when_answers_wait_then_nobody_is_suspected() {
    let (mut swim, now) = knowing(2, Config::lan());
    let busy = run(&mut swim, now + Duration::from_millis(501));
    let late = busy + 60 * SECOND;

    swim.handle_timeout(late);
    swim.handle_timeout(late + Duration::from_millis(1));

    assert_eq!(swim.counters().stalls, 1);
    assert!(swim.local_health() >= 1);
    assert_eq!(swim.member(&id(2)).unwrap().state(), State::Alive);
}

#[test]
fn given_a_tombstone_when_it_expires_then_the_member_is_forgotten() {
    let (mut swim, now) = knowing(2, Config::lan());
    let mut bye = statement(2, 11);
    bye.liveness = Liveness::Left;
    let bye = SignedStatement::sign(bye, "default", &key(2)).unwrap();
    swim.handle_packet(id(2), &gossip(vec![Update::Statement(bye)]), now);

    swim.handle_timeout(now + Config::lan().tombstone);

    assert_eq!(
        events(&mut swim),
        [Event::Left(id(2)), Event::Forgotten(id(2))]
    );
    assert_eq!(swim.members().count(), 0);
}

#[test]
fn given_thousands_of_members_when_synced_then_every_message_stays_within_its_limit() {
    let now = Instant::now();
    let mut full = node(1, Config::lan(), 1, now);
    let mut entries = Vec::new();
    for number in 0..4_000_u32 {
        let mut seed = [9; 32];
        seed[..4].copy_from_slice(&number.to_be_bytes());
        let key = NodeKey::from_seed(seed);
        let mut statement = statement(2, 1);
        statement.subject = key.peer_id();
        entries.push(Update::Statement(
            SignedStatement::sign(statement, "default", &key).unwrap(),
        ));
    }
    for chunk in entries.chunks(100) {
        full.handle_stream(id(2), &Message::Entries(chunk.to_vec()).encode(1), now);
    }
    assert_eq!(full.live_count(), 4_001);
    while full.poll_transmit().is_some() {}
    let mut empty = node(2, Config::lan(), 1, now);
    empty.join(&[address(1)], now);
    empty.handle_timeout(now);

    loop {
        let mut exchanged = 0;
        while let Some(transmit) = empty.poll_transmit() {
            assert!(transmit.payload.len() <= limits::MESSAGE_BYTES);
            if transmit.transport == Transport::Stream {
                full.handle_stream(id(2), &transmit.payload, now);
                exchanged += 1;
            }
        }
        while let Some(transmit) = full.poll_transmit() {
            assert!(transmit.payload.len() <= limits::MESSAGE_BYTES);
            if transmit.transport == Transport::Stream {
                empty.handle_stream(id(1), &transmit.payload, now);
                exchanged += 1;
            }
        }
        if exchanged == 0 {
            break;
        }
    }

    // Themselves, each other, and the 4,000.
    assert_eq!((empty.live_count(), full.live_count()), (4_002, 4_002));
}

#[test]
fn given_syncs_beyond_the_budget_when_asked_for_then_they_are_counted_and_not_answered() {
    let config = Config {
        sync_bytes_per_s: 1_000,
        ..Config::lan()
    };
    let (mut swim, now) = knowing(20, config);
    let open = Message::Open(signed(2, 10), Box::new([1; 64])).encode(1);

    for _ in 0..50 {
        swim.handle_stream(id(2), &open, now);
    }

    assert!(
        swim.counters().sync_over_budget > 40,
        "{:?}",
        swim.counters()
    );
    assert!(std::iter::from_fn(|| swim.poll_transmit()).count() < 10);
}
