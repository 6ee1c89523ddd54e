//! Near before far, through the whole balancer.

use std::time::Instant;

use warren_balance::{Balancer, Endpoint, Locality, Outcome, PickRequest, Place, Policy, Settings};

use crate::support::{MS, call, endpoint, pick};

/// Endpoints 0..4 in our zone, 4..8 in our region, 8..12 elsewhere.
fn spread() -> impl Iterator<Item = Endpoint<u32>> {
    (0..12).map(|key| {
        let place = match key {
            0..4 => Place::new("eu", "eu-a"),
            4..8 => Place::new("eu", "eu-b"),
            _ => Place::new("us", "us-a"),
        };
        endpoint(key).at(place)
    })
}

fn near(policy: Policy, set: impl Iterator<Item = Endpoint<u32>>) -> Balancer<u32> {
    let settings = Settings {
        policy,
        locality: Some(Locality::default()),
        ..Settings::default()
    };
    let mut balancer = Balancer::new(settings, Place::new("eu", "eu-a"), 1);
    balancer.update(set);
    balancer
}

fn zone_share(balancer: &mut Balancer<u32>, now: Instant) -> f64 {
    let mut local = 0;
    for _ in 0..1_000 {
        let call = pick(balancer, now);
        local += u32::from(*call.key() < 4);
        balancer.finished(call, Outcome::Success, 5 * MS, now);
    }
    f64::from(local) / 1_000.0
}

#[test]
fn given_a_healthy_zone_when_picking_then_no_call_leaves_it() {
    for policy in [
        Policy::RoundRobin,
        Policy::LeastConnections,
        Policy::default(),
    ] {
        let mut balancer = near(policy, spread());

        assert_eq!(zone_share(&mut balancer, Instant::now()), 1.0);
    }
}

#[test]
fn given_half_the_zone_ejected_when_picking_then_seven_of_ten_calls_stay() {
    let mut balancer = near(Policy::RoundRobin, spread());
    let now = Instant::now();
    for key in 0..2 {
        for _ in 0..5 {
            call(&mut balancer, 12, key, Outcome::Failure, MS, now);
        }
    }

    let share = zone_share(&mut balancer, now);

    assert!((0.65..0.75).contains(&share), "{share}");
}

#[test]
fn given_no_endpoint_in_the_zone_when_picking_then_the_region_takes_all() {
    let mut balancer = near(Policy::default(), spread().skip(4));
    let now = Instant::now();

    for _ in 0..100 {
        let call = pick(&mut balancer, now);
        assert!((4..8).contains(call.key()), "{}", call.key());
        balancer.finished(call, Outcome::Success, MS, now);
    }
}

#[test]
fn given_a_full_zone_when_picking_then_calls_go_to_the_region_until_it_has_room_again() {
    let mut balancer = near(Policy::LeastConnections, spread());
    let now = Instant::now();
    let mut calls: Vec<_> = (0..4 * 128).map(|_| pick(&mut balancer, now)).collect();
    assert!(calls.iter().all(|call| *call.key() < 4));

    let over = pick(&mut balancer, now);
    balancer.finished(calls.pop().unwrap(), Outcome::Success, MS, now);
    let within = pick(&mut balancer, now);

    assert!((4..8).contains(over.key()), "{}", over.key());
    assert!(*within.key() < 4, "{}", within.key());
}

#[test]
fn given_a_zone_that_refuses_when_picking_then_part_of_the_calls_goes_on() {
    let mut balancer = near(Policy::default(), spread());
    let now = Instant::now();
    for turn in 0..40 {
        call(&mut balancer, 12, turn % 4, Outcome::Overloaded, MS, now);
    }

    let call = |balancer: &mut Balancer<u32>| {
        let call = pick(balancer, now);
        let is_local = *call.key() < 4;
        balancer.finished(call, Outcome::NotSent, MS, now);
        is_local
    };
    let local = (0..1_000).filter(|_| call(&mut balancer)).count();

    assert!((200..400).contains(&local), "{local}");
}

#[test]
fn given_the_whole_zone_excluded_when_retrying_then_the_region_is_next() {
    let mut balancer = near(Policy::default(), spread());
    let request = PickRequest {
        exclude: &[0, 1, 2, 3],
        ..PickRequest::default()
    };

    let call = balancer.pick(Instant::now(), &request).unwrap();

    assert!((4..8).contains(call.key()), "{}", call.key());
}
