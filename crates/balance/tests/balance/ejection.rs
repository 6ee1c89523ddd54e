//! Who is sent out, for how long, and that the rest is never too small.

use std::time::{Duration, Instant};

use warren_balance::{
    Balancer, EjectionReason, Event, Outcome, OutlierSettings, PickRequest, Policy, Settings,
    TagFilter,
};

use crate::support::{MS, balancer, call, endpoint, pick, shares};

const SECOND: Duration = Duration::from_secs(1);

fn judging() -> Settings {
    Settings {
        policy: Policy::RoundRobin,
        locality: None,
        outliers: Some(OutlierSettings::default()),
    }
}

fn fail_in_a_row(balancer: &mut Balancer<u32>, endpoints: u32, key: u32, now: Instant) {
    for _ in 0..5 {
        call(balancer, endpoints, key, Outcome::Failure, MS, now);
    }
}

fn events(balancer: &mut Balancer<u32>) -> Vec<Event<u32>> {
    std::iter::from_fn(|| balancer.poll_event()).collect()
}

fn ejected(balancer: &Balancer<u32>, now: Instant) -> Vec<u32> {
    let out = balancer
        .status(now)
        .filter(|status| status.ejected_until.is_some());
    out.map(|status| status.endpoint.key).collect()
}

#[test]
fn given_five_failures_in_a_row_when_the_fifth_ends_then_the_endpoint_gets_no_calls() {
    let mut balancer = balancer(judging(), (0..3).map(endpoint));
    let now = Instant::now();

    fail_in_a_row(&mut balancer, 3, 1, now);

    let reason = EjectionReason::ConsecutiveFailures;
    let until = now + 10 * SECOND;
    let expected = Event::Ejected {
        key: 1,
        reason,
        until,
    };
    assert_eq!(events(&mut balancer), [expected]);
    assert_eq!(shares(&mut balancer, 100, now).get(&1), None);
}

#[test]
fn given_a_success_between_when_failures_are_counted_then_they_are_not_in_a_row() {
    let mut balancer = balancer(judging(), (0..3).map(endpoint));
    let now = Instant::now();

    for outcome in [Outcome::Failure, Outcome::Success].repeat(4) {
        call(&mut balancer, 3, 1, outcome, MS, now);
    }

    assert_eq!(ejected(&balancer, now), []);
}

#[test]
fn given_refusals_when_an_endpoint_is_overloaded_then_it_is_not_ejected() {
    let mut balancer = balancer(judging(), (0..3).map(endpoint));
    let now = Instant::now();

    for _ in 0..50 {
        call(&mut balancer, 3, 1, Outcome::Overloaded, MS, now);
    }

    assert_eq!(ejected(&balancer, now), []);
}

#[test]
fn given_an_ejection_when_its_time_is_over_then_the_endpoint_returns_on_probation() {
    let mut balancer = balancer(judging(), (0..3).map(endpoint));
    let start = Instant::now();
    fail_in_a_row(&mut balancer, 3, 1, start);
    events(&mut balancer);

    let back = start + 10 * SECOND;
    assert_eq!(shares(&mut balancer, 1, back).len(), 1);
    assert_eq!(events(&mut balancer), [Event::Returned { key: 1 }]);
    call(&mut balancer, 3, 1, Outcome::Failure, MS, back);

    // The first failure sends it out again, for twice as long.
    let reason = EjectionReason::ConsecutiveFailures;
    let until = back + 20 * SECOND;
    assert_eq!(
        events(&mut balancer),
        [Event::Ejected {
            key: 1,
            reason,
            until
        }]
    );
}

#[test]
fn given_calm_after_ejections_when_base_times_pass_then_the_next_ejection_is_short_again() {
    let mut balancer = balancer(judging(), (0..3).map(endpoint));
    let start = Instant::now();
    fail_in_a_row(&mut balancer, 3, 1, start);
    for second in 10..40 {
        shares(&mut balancer, 3, start + second * SECOND);
    }
    events(&mut balancer);

    let later = start + 40 * SECOND;
    fail_in_a_row(&mut balancer, 3, 1, later);

    let reason = EjectionReason::ConsecutiveFailures;
    let until = later + 10 * SECOND;
    assert_eq!(
        events(&mut balancer),
        [Event::Ejected {
            key: 1,
            reason,
            until
        }]
    );
}

#[test]
fn given_an_endpoint_that_fails_every_second_call_when_compared_then_it_is_ejected() {
    let mut balancer = balancer(judging(), (0..4).map(endpoint));
    let start = Instant::now();
    shares(&mut balancer, 400, start);
    for outcome in [Outcome::Success, Outcome::Failure].repeat(100) {
        call(&mut balancer, 4, 2, outcome, 5 * MS, start);
    }

    shares(&mut balancer, 1, start + 500 * MS);

    assert_eq!(ejected(&balancer, start), [2]);
}

#[test]
fn given_all_endpoints_failing_alike_when_compared_then_nobody_is_an_outlier() {
    let mut balancer = balancer(judging(), (0..4).map(endpoint));
    let start = Instant::now();
    for key in 0..4 {
        for outcome in [Outcome::Success, Outcome::Failure].repeat(50) {
            call(&mut balancer, 4, key, outcome, 5 * MS, start);
        }
    }

    shares(&mut balancer, 1, start + 500 * MS);

    assert_eq!(ejected(&balancer, start), []);
}

#[test]
fn given_an_endpoint_fifty_times_slower_when_compared_then_it_is_ejected_for_its_latency() {
    let mut balancer = balancer(judging(), (0..3).map(endpoint));
    let start = Instant::now();
    for key in 0..3 {
        for _ in 0..20 {
            let latency = if key == 2 { 250 * MS } else { 5 * MS };
            call(&mut balancer, 3, key, Outcome::Success, latency, start);
        }
    }

    let now = start + 500 * MS;
    shares(&mut balancer, 1, now);

    let reason = EjectionReason::Latency;
    let until = now + 10 * SECOND;
    assert_eq!(
        events(&mut balancer),
        [Event::Ejected {
            key: 2,
            reason,
            until
        }]
    );
}

#[test]
fn given_all_endpoints_failing_when_ejected_then_half_of_them_stay() {
    let mut balancer = balancer(judging(), (0..10).map(endpoint));
    let now = Instant::now();

    for key in 0..10 {
        fail_in_a_row(&mut balancer, 10, key, now);
    }

    assert_eq!(ejected(&balancer, now), [0, 1, 2, 3, 4]);
}

#[test]
fn given_a_single_endpoint_when_it_fails_then_it_stays() {
    let mut balancer = balancer(judging(), [endpoint(0)]);
    let now = Instant::now();

    fail_in_a_row(&mut balancer, 1, 0, now);

    assert_eq!(ejected(&balancer, now), []);
    assert_eq!(*pick(&mut balancer, now).key(), 0);
}

#[test]
fn given_ejected_endpoints_when_the_set_shrinks_then_enough_of_them_return() {
    let mut balancer = balancer(judging(), (0..10).map(endpoint));
    let now = Instant::now();
    for key in 0..4 {
        fail_in_a_row(&mut balancer, 10, key, now);
    }

    balancer.update((0..5).map(endpoint));

    assert_eq!(ejected(&balancer, now).len(), 2);
}

#[test]
fn given_a_filter_whose_matches_are_all_ejected_when_picked_then_ejection_is_ignored_for_it() {
    let set = (0..10).map(|key| match key {
        0..3 => endpoint(key).tagged("gpu", "yes"),
        _ => endpoint(key),
    });
    let mut balancer = balancer(judging(), set);
    let now = Instant::now();
    for key in 0..3 {
        fail_in_a_row(&mut balancer, 10, key, now);
    }
    let filter = TagFilter::tag("gpu", "yes");
    let request = PickRequest {
        filter: Some(&filter),
        ..PickRequest::default()
    };

    let call = balancer.pick(now, &request).unwrap();

    assert!(*call.key() < 3);
    assert_eq!(ejected(&balancer, now), [0, 1, 2]);
}

#[test]
fn given_only_ejected_endpoints_not_tried_when_retrying_then_one_of_them_is_tried() {
    let mut balancer = balancer(judging(), (0..2).map(endpoint));
    let now = Instant::now();
    fail_in_a_row(&mut balancer, 2, 1, now);
    let request = PickRequest {
        exclude: &[0],
        ..PickRequest::default()
    };

    assert_eq!(*balancer.pick(now, &request).unwrap().key(), 1);
}
