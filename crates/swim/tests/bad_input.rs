//! Garbage, truncated, oversized, replayed, forged and bit-flipped input: counted, and nothing changes.

#![allow(clippy::unwrap_used)]

mod support;

use rand::rngs::Xoshiro256PlusPlus;
use rand::{RngExt as _, SeedableRng as _};
use support::*;
use warren_swim::{
    ClaimKind, Config, Event, Liveness, Message, SignedStatement, State, Transport, Update, limits,
};

#[test]
fn given_garbage_when_received_then_it_is_counted_and_nothing_changes() {
    let seed: u64 = std::env::var("WARREN_TEST_SEED").map_or(5, |seed| seed.parse().unwrap());
    println!("WARREN_TEST_SEED={seed}");
    let mut random = Xoshiro256PlusPlus::seed_from_u64(seed);
    let (mut swim, now) = knowing(5, Config::lan());
    let before = snapshot(&swim);

    for _ in 0..20_000 {
        let mut bytes = vec![0; random.random_range(0..200)];
        random.fill(&mut bytes[..]);
        if let Some(first) = bytes.first_mut() {
            // Past the version, so that the rest is looked at.
            *first = 1;
        }
        swim.handle_packet(id(3), &bytes, now);
        swim.handle_stream(id(3), &bytes, now);
    }

    assert_eq!(snapshot(&swim), before);
    assert!(swim.counters().malformed > 30_000, "{:?}", swim.counters());
}

#[test]
fn given_input_longer_than_its_limit_when_received_then_it_is_dropped_unread() {
    let (mut swim, now) = knowing(3, Config::lan());

    swim.handle_packet(id(2), &[1; limits::PACKET_BYTES + 1], now);
    swim.handle_stream(id(2), &vec![1; limits::MESSAGE_BYTES + 1], now);

    assert_eq!(swim.counters().oversized, 2);
}

#[test]
fn given_a_statement_cut_anywhere_when_received_then_nothing_changes() {
    let (mut swim, now) = knowing(3, Config::lan());
    let before = snapshot(&swim);
    let packet = gossip(vec![Update::Statement(signed(9, 11))]);

    for length in 3..packet.len() {
        swim.handle_packet(id(2), &packet[..length], now);
    }

    assert_eq!(snapshot(&swim), before);
    assert_eq!(swim.counters().malformed, packet.len() as u64 - 3);
}

#[test]
fn given_any_flipped_bit_of_a_statement_when_received_then_nothing_changes() {
    let (mut swim, now) = knowing(3, Config::lan());
    let before = snapshot(&swim);
    let packet = gossip(vec![Update::Statement(signed(9, 11))]);

    for index in 2..packet.len() {
        for bit in 0..8 {
            let mut flipped = packet.clone();
            flipped[index] ^= 1 << bit;
            swim.handle_packet(id(2), &flipped, now);
            assert_eq!(snapshot(&swim), before, "byte {index} bit {bit}");
        }
    }

    assert!(swim.counters().forged > 500, "{:?}", swim.counters());
}

#[test]
fn given_a_statement_that_another_key_signed_when_received_then_it_is_forged() {
    let (mut swim, now) = knowing(3, Config::lan());
    let before = snapshot(&swim);
    let forged = SignedStatement::sign(statement(3, 99), "default", &key(2)).unwrap();

    swim.handle_packet(id(2), &gossip(vec![Update::Statement(forged.clone())]), now);
    // Not even in the session of its subject.
    swim.handle_packet(id(3), &gossip(vec![Update::Statement(forged)]), now);

    assert_eq!(
        events(&mut swim),
        [Event::Forged(id(2)), Event::Forged(id(3))]
    );
    assert_eq!((snapshot(&swim), swim.counters().forged), (before, 2));
}

#[test]
fn given_a_statement_for_another_cluster_when_received_then_it_is_forged() {
    let (mut swim, now) = knowing(3, Config::lan());
    let foreign = SignedStatement::sign(statement(9, 1), "test", &key(9)).unwrap();

    swim.handle_packet(id(9), &gossip(vec![Update::Statement(foreign)]), now);

    assert_eq!(swim.counters().forged, 1);
    assert!(swim.member(&id(9)).is_none());
}

#[test]
fn given_a_forged_good_bye_when_received_then_the_member_stays() {
    let (mut swim, now) = knowing(3, Config::lan());
    let mut bye = statement(3, 99);
    bye.liveness = Liveness::Left;
    let forged = SignedStatement::sign(bye, "default", &key(2)).unwrap();

    swim.handle_packet(id(2), &gossip(vec![Update::Statement(forged)]), now);

    assert_eq!(swim.member(&id(3)).unwrap().state(), State::Alive);
}

#[test]
fn given_everything_ever_sent_when_replayed_by_each_then_no_member_changes() {
    let mut cluster = Cluster::new(5);
    for round in 0..3 {
        let now = cluster.now;
        for number in 1..=4 {
            cluster
                .at(number)
                .set_tag("round", &round.to_string(), now)
                .unwrap();
        }
        cluster.run(3 * SECOND);
    }
    let now = cluster.now;
    cluster.at(5).leave(now);
    cluster.run(3 * SECOND);
    cluster.nodes[4] = None;
    let before = snapshot(cluster.at(1));
    let replays = std::mem::take(&mut cluster.sent);

    for sender in 2..=5 {
        for (_, transport, bytes) in &replays {
            let swim = cluster.at(1);
            match transport {
                Transport::Datagram => swim.handle_packet(id(sender), bytes, now),
                Transport::Stream => swim.handle_stream(id(sender), bytes, now),
            }
        }
    }

    assert_eq!(snapshot(cluster.at(1)), before);
    assert!(cluster.at(1).counters().stale > 100);
    assert_eq!(cluster.at(1).member(&id(5)).unwrap().state(), State::Left);
}

#[test]
fn given_an_incarnation_near_the_end_of_numbers_when_received_then_it_is_implausible() {
    let (mut swim, now) = knowing(3, Config::lan());

    swim.handle_packet(
        id(3),
        &gossip(vec![Update::Statement(signed(3, u64::MAX))]),
        now,
    );

    assert_eq!(swim.counters().implausible, 1);
    assert_eq!(swim.member(&id(3)).unwrap().statement().incarnation, 10);
}

#[test]
fn given_claims_of_a_stranger_when_received_then_they_do_not_count() {
    let (mut swim, now) = knowing(3, Config::lan());

    swim.handle_packet(
        id(9),
        &gossip(vec![claim(ClaimKind::Failed, 2, 10, &[3])]),
        now,
    );

    assert_eq!(swim.counters().stranger, 1);
    assert_eq!(swim.member(&id(2)).unwrap().state(), State::Alive);
}

#[test]
fn given_claims_about_other_incarnations_when_received_then_they_are_void() {
    let (mut swim, now) = knowing(3, Config::lan());
    let older = claim(ClaimKind::Failed, 2, 9, &[3]);
    let newer = claim(ClaimKind::Failed, 2, 11, &[3]);

    swim.handle_packet(id(3), &gossip(vec![older, newer]), now);

    assert_eq!(
        (swim.counters().stale, swim.counters().unknown_subject),
        (1, 1)
    );
    assert_eq!(swim.member(&id(2)).unwrap().state(), State::Alive);
}

#[test]
fn given_an_open_in_another_name_when_received_then_it_is_dropped() {
    let (mut swim, now) = knowing(3, Config::lan());
    let before = snapshot(&swim);
    let open = Message::Open(signed(9, 11), Box::new([0; 64])).encode(1);

    swim.handle_stream(id(2), &open, now);

    assert_eq!((snapshot(&swim), swim.counters().malformed), (before, 1));
    assert!(swim.poll_transmit().is_none());
}

#[test]
fn given_acks_and_nacks_nobody_asked_for_when_received_then_they_are_counted() {
    let (mut swim, now) = knowing(3, Config::lan());

    swim.handle_packet(id(2), &[1, 3, 0, 0, 0, 1], now);
    swim.handle_packet(id(2), &[1, 4, 0, 0, 0, 1], now);

    assert_eq!(swim.counters().unexpected_answer, 2);
}

#[test]
fn given_a_full_table_when_strangers_come_then_tombstones_go_first_and_then_newcomers_are_refused()
{
    let config = Config {
        max_members: 3,
        ..Config::lan()
    };
    let (mut swim, now) = knowing(4, config);
    swim.handle_packet(id(5), &gossip(vec![Update::Statement(signed(5, 1))]), now);
    assert_eq!(swim.counters().table_full, 1);
    let mut bye = statement(4, 11);
    bye.liveness = Liveness::Left;
    let bye = SignedStatement::sign(bye, "default", &key(4)).unwrap();
    swim.handle_packet(id(4), &gossip(vec![Update::Statement(bye)]), now);

    swim.handle_packet(id(5), &gossip(vec![Update::Statement(signed(5, 1))]), now);

    assert!(swim.member(&id(5)).is_some());
    assert!(swim.member(&id(4)).is_none());
}

#[test]
fn given_a_flood_of_ping_requests_when_received_then_those_in_flight_stay_bounded() {
    let (mut swim, now) = knowing(4, Config::lan());
    let mut request = vec![1, 2, 0, 0, 0, 7];
    request.extend(&signed(3, 1).as_bytes()[1..9]);

    for _ in 0..10_000 {
        swim.handle_packet(id(2), &request, now);
        while swim.poll_transmit().is_some() {}
    }

    assert_eq!(
        swim.counters().relay_refused,
        10_000 - limits::RELAYS as u64
    );
}
