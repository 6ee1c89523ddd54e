//! Each policy on its own, tag filters, and who cannot be picked.

use std::time::{Duration, Instant};

use warren_balance::{
    ConsistentHash, Endpoint, MAX_ENDPOINTS, MAX_FILTERS, NoEndpoint, Outcome, PickRequest, Policy,
    TagFilter,
};

use crate::support::{MS, balancer, call, endpoint, pick, plain, shares, weighing};

#[test]
fn given_round_robin_over_three_when_300_calls_are_made_then_each_gets_100() {
    let mut balancer = balancer(plain(Policy::RoundRobin), (0..3).map(endpoint));

    let counts = shares(&mut balancer, 300, Instant::now());

    assert_eq!(counts, [(0, 100), (1, 100), (2, 100)].into());
}

#[test]
fn given_weights_when_taking_turns_then_shares_are_exact_and_the_heavy_one_has_no_run_of_five() {
    let set = [weighing(0, 5), weighing(1, 1), weighing(2, 1)];
    let mut balancer = balancer(plain(Policy::RoundRobin), set);
    let now = Instant::now();

    let order: Vec<u32> = (0..70)
        .map(|_| {
            let call = pick(&mut balancer, now);
            let key = *call.key();
            balancer.finished(call, Outcome::Success, MS, now);
            key
        })
        .collect();

    assert_eq!(order.iter().filter(|key| **key == 0).count(), 50);
    let longest = order.split(|key| *key != 0).map(<[u32]>::len).max();
    assert!(longest < Some(5), "{order:?}");
}

#[test]
fn given_round_robin_when_an_endpoint_returns_after_long_then_it_gets_no_more_than_its_turn() {
    let mut balancer = balancer(plain(Policy::RoundRobin), (0..3).map(endpoint));
    let now = Instant::now();
    balancer.update((0..2).map(endpoint));
    shares(&mut balancer, 1_000, now);

    balancer.update((0..3).map(endpoint));

    let counts = shares(&mut balancer, 30, now);
    assert!(
        counts.values().all(|count| (9..=11).contains(count)),
        "{counts:?}"
    );
}

#[test]
fn given_least_connections_when_one_holds_long_calls_then_new_calls_go_to_the_others() {
    let mut balancer = balancer(plain(Policy::LeastConnections), (0..3).map(endpoint));
    let now = Instant::now();
    let long = pick(&mut balancer, now);

    let counts = shares(&mut balancer, 100, now);

    assert_eq!(counts.get(long.key()), None);
    assert!(counts.values().all(|count| *count == 50), "{counts:?}");
}

#[test]
fn given_no_load_when_balanced_by_connections_then_calls_still_go_round() {
    let mut balancer = balancer(plain(Policy::LeastConnections), (0..4).map(endpoint));

    let counts = shares(&mut balancer, 400, Instant::now());

    assert!(counts.values().all(|count| *count == 100), "{counts:?}");
}

#[test]
fn given_weights_when_drawn_at_random_then_shares_follow_them() {
    let set = [weighing(0, 1), weighing(1, 3)];
    let mut balancer = balancer(plain(Policy::Random), set);

    let counts = shares(&mut balancer, 10_000, Instant::now());

    assert!((7_300..7_700).contains(&counts[&1]), "{counts:?}");
}

#[test]
fn given_three_equal_workers_when_called_one_call_at_a_time_then_shares_are_near_equal() {
    let mut balancer = balancer(plain(Policy::default()), (0..3).map(endpoint));

    let counts = shares(&mut balancer, 3_000, Instant::now());

    assert!(
        counts.values().all(|count| (850..1_150).contains(count)),
        "{counts:?}"
    );
}

#[test]
fn given_weights_and_many_calls_in_flight_when_two_are_compared_then_shares_follow_the_weights() {
    let set = [weighing(0, 1), weighing(1, 1), weighing(2, 2)];
    let mut balancer = balancer(plain(Policy::default()), set);
    let now = Instant::now();

    let calls: Vec<_> = (0..400).map(|_| pick(&mut balancer, now)).collect();

    let heavy = calls.iter().filter(|call| *call.key() == 2).count();
    assert!((180..220).contains(&heavy), "{heavy}");
}

#[test]
fn given_an_endpoint_that_owes_an_answer_when_it_stays_silent_then_it_is_avoided_before_it_answers()
{
    let mut balancer = balancer(plain(Policy::default()), (0..2).map(endpoint));
    let start = Instant::now();
    shares(&mut balancer, 100, start);
    let to_first = PickRequest {
        exclude: &[1],
        ..PickRequest::default()
    };
    let silent = balancer.pick(start, &to_first).unwrap();

    let later = start + 1_000 * MS;
    let calls: Vec<_> = (0..20).map(|_| pick(&mut balancer, later)).collect();

    assert_eq!(*silent.key(), 0);
    assert!(calls.iter().all(|call| *call.key() == 1));
}

#[test]
fn given_latencies_that_differ_by_little_when_compared_then_the_slowest_is_not_starved() {
    let mut balancer = balancer(plain(Policy::default()), (0..3).map(endpoint));
    let now = Instant::now();
    for (key, micros) in [(0, 5_000), (1, 5_300), (2, 5_600)] {
        let latency = Duration::from_micros(micros);
        call(&mut balancer, 3, key, Outcome::Success, latency, now);
    }

    let counts = (0..3_000).fold([0; 3], |mut counts, _| {
        let call = pick(&mut balancer, now);
        counts[*call.key() as usize] += 1;
        balancer.finished(call, Outcome::NotSent, MS, now);
        counts
    });

    assert!(
        counts.iter().all(|count| (850..1_150).contains(count)),
        "{counts:?}"
    );
}

#[test]
fn given_a_key_when_called_often_then_it_stays_with_one_endpoint() {
    let policy = Policy::ConsistentHash(ConsistentHash::default());
    let mut balancer = balancer(plain(policy), (0..10).map(endpoint));
    let now = Instant::now();
    let request = PickRequest {
        hash_key: Some(42),
        ..PickRequest::default()
    };

    let keys: Vec<u32> = (0..100)
        .map(|_| {
            let call = balancer.pick(now, &request).unwrap();
            let key = *call.key();
            balancer.finished(call, Outcome::Success, MS, now);
            key
        })
        .collect();

    assert!(keys.iter().all(|key| *key == keys[0]), "{keys:?}");
}

#[test]
fn given_one_hot_key_when_its_calls_stay_in_flight_then_they_spread_within_the_bound() {
    let policy = Policy::ConsistentHash(ConsistentHash::default());
    let mut balancer = balancer(plain(policy), (0..10).map(endpoint));
    let now = Instant::now();
    let request = PickRequest {
        hash_key: Some(42),
        ..PickRequest::default()
    };

    let calls: Vec<_> = (0..100)
        .map(|_| balancer.pick(now, &request).unwrap())
        .collect();

    for key in 0..10 {
        let count = calls.iter().filter(|call| *call.key() == key).count();
        assert!(count <= 13, "endpoint {key} has {count}");
    }
}

#[test]
fn given_tags_when_filtered_then_only_those_that_match_are_picked_and_turns_are_kept() {
    let set =
        (0..6).map(|key| endpoint(key).tagged("role", ["worker", "director"][key as usize % 2]));
    let mut balancer = balancer(plain(Policy::RoundRobin), set);
    let now = Instant::now();
    let workers = TagFilter::tag("role", "worker");
    let request = PickRequest {
        filter: Some(&workers),
        ..PickRequest::default()
    };

    let mut counts = [0; 6];
    for _ in 0..300 {
        let call = balancer.pick(now, &request).unwrap();
        counts[*call.key() as usize] += 1;
        balancer.finished(call, Outcome::Success, MS, now);
    }

    assert_eq!(counts, [100, 0, 100, 0, 100, 0]);
}

#[test]
fn given_a_tag_that_moves_when_updated_then_the_next_pick_follows_it() {
    let mut balancer = balancer(
        plain(Policy::default()),
        [endpoint(0).tagged("gpu", "yes"), endpoint(1)],
    );
    let filter = TagFilter::tag("gpu", "yes");
    let request = PickRequest {
        filter: Some(&filter),
        ..PickRequest::default()
    };
    let now = Instant::now();
    let before = balancer.pick(now, &request).unwrap();

    balancer.update([endpoint(0), endpoint(1).tagged("gpu", "yes")]);

    let after = balancer.pick(now, &request).unwrap();
    assert_eq!((*before.key(), *after.key()), (0, 1));
}

#[test]
fn given_more_filters_than_are_kept_when_asked_in_turn_then_each_still_gets_its_own() {
    let filters = MAX_FILTERS as u32 + 5;
    let set = (0..filters).map(|key| endpoint(key).tagged("shard", key.to_string()));
    let mut balancer = balancer(plain(Policy::default()), set);
    let now = Instant::now();

    for key in (0..filters).chain(0..filters) {
        let filter = TagFilter::tag("shard", key.to_string());
        let request = PickRequest {
            filter: Some(&filter),
            ..PickRequest::default()
        };
        let call = balancer.pick(now, &request).unwrap();
        assert_eq!(*call.key(), key);
        balancer.finished(call, Outcome::Success, MS, now);
    }
}

#[test]
fn given_nobody_to_pick_when_asked_then_the_reason_is_exact() {
    let now = Instant::now();
    let any = PickRequest::default();
    let mut balancer = balancer(plain(Policy::default()), []);
    assert_eq!(balancer.pick(now, &any).unwrap_err(), NoEndpoint::Empty);

    balancer.update((0..3).map(endpoint));
    let filter = TagFilter::tag("role", "worker");
    let filtered = PickRequest {
        filter: Some(&filter),
        ..any
    };
    assert_eq!(
        balancer.pick(now, &filtered).unwrap_err(),
        NoEndpoint::NoneMatches { known: 3 }
    );

    let excluding = PickRequest {
        exclude: &[2, 0, 1, 1, 7],
        ..any
    };
    assert_eq!(
        balancer.pick(now, &excluding).unwrap_err(),
        NoEndpoint::AllExcluded { matching: 3 }
    );
}

#[test]
fn given_calls_in_flight_when_the_set_changes_then_those_that_stay_keep_their_counts() {
    let mut balancer = balancer(plain(Policy::LeastConnections), (0..2).map(endpoint));
    let now = Instant::now();
    let (first, second) = (pick(&mut balancer, now), pick(&mut balancer, now));

    let changes = balancer.update([endpoint(1), endpoint(2)]);

    assert_eq!((changes.added, changes.removed, changes.altered), (1, 1, 0));
    let in_flight: Vec<_> = balancer
        .status(now)
        .map(|status| (status.endpoint.key, status.in_flight))
        .collect();
    assert_eq!(in_flight, [(1, 1), (2, 0)]);
    for call in [first, second] {
        balancer.finished(call, Outcome::Success, MS, now);
    }
    assert!(balancer.status(now).all(|status| status.in_flight == 0));
}

#[test]
fn given_a_slot_with_a_new_tenant_when_the_old_ones_call_fails_then_the_new_one_is_not_blamed() {
    let mut balancer = balancer(plain(Policy::default()), [endpoint(0)]);
    let now = Instant::now();
    let old = pick(&mut balancer, now);
    balancer.update([endpoint(1)]);
    let new = pick(&mut balancer, now);

    balancer.finished(old, Outcome::Failure, 900 * MS, now);

    let status = balancer.status(now).next().unwrap();
    assert_eq!((status.in_flight, status.failure_share), (1, 0.0));
    balancer.finished(new, Outcome::Success, MS, now);
}

#[test]
fn given_a_stream_when_it_was_answered_then_its_length_does_not_count_as_latency() {
    let mut balancer = balancer(plain(Policy::default()), [endpoint(0)]);
    let start = Instant::now();
    let mut stream = pick(&mut balancer, start);
    balancer.answered(&mut stream, 5 * MS, start + 5 * MS);

    let later = start + 3_600_000 * MS;
    let latency = balancer.status(later).next().unwrap().latency;
    balancer.finished(stream, Outcome::Success, 3_600_000 * MS, later);

    assert_eq!(latency, 5 * MS);
    assert_eq!(balancer.status(later).next().unwrap().latency, 5 * MS);
}

#[test]
fn given_a_call_that_was_not_sent_when_finished_then_nothing_is_learnt() {
    let mut balancer = balancer(plain(Policy::default()), (0..2).map(endpoint));
    let now = Instant::now();

    call(&mut balancer, 2, 0, Outcome::NotSent, 900 * MS, now);

    let status = balancer.status(now).next().unwrap();
    assert_eq!((status.in_flight, status.failure_share), (0, 0.0));
    assert!(status.latency.is_zero());
}

#[test]
fn given_more_endpoints_than_the_limit_when_updated_then_the_rest_is_left_out_and_reported() {
    let set = (0..MAX_ENDPOINTS as u32 + 3).map(|key| Endpoint::new(key, u64::from(key)));
    let mut balancer = balancer(plain(Policy::Random), []);

    let changes = balancer.update(set);

    assert_eq!((changes.left_out, balancer.len()), (3, MAX_ENDPOINTS));
}

#[test]
fn given_the_same_seed_and_calls_when_run_twice_then_the_picks_are_the_same() {
    let run = || {
        let mut balancer = balancer(plain(Policy::default()), (0..20).map(endpoint));
        let now = Instant::now();
        let picks = (0..100).map(|_| *pick(&mut balancer, now).key());
        picks.collect::<Vec<_>>()
    };

    assert_eq!(run(), run());
}
