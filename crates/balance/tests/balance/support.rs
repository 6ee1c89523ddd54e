//! Sets of endpoints, and a balancer whose calls end at once.

use std::collections::BTreeMap;
use std::num::NonZeroU32;
use std::time::{Duration, Instant};

use warren_balance::{
    Balancer, Endpoint, Outcome, Pick, PickRequest, Place, Policy, Settings, stable_hash,
};

pub(crate) const MS: Duration = Duration::from_millis(1);

/// An endpoint named by a number.
pub(crate) fn endpoint(key: u32) -> Endpoint<u32> {
    Endpoint::new(key, stable_hash(&key.to_be_bytes()))
}

/// An endpoint named by a number, with a weight.
pub(crate) fn weighing(key: u32, weight: u32) -> Endpoint<u32> {
    endpoint(key).weighing(NonZeroU32::new(weight).unwrap())
}

/// Settings that only choose: no locality, no ejection.
pub(crate) fn plain(policy: Policy) -> Settings {
    Settings {
        policy,
        locality: None,
        outliers: None,
    }
}

/// A balancer over these endpoints, with seed 1, nowhere.
pub(crate) fn balancer(
    settings: Settings,
    endpoints: impl IntoIterator<Item = Endpoint<u32>>,
) -> Balancer<u32> {
    let mut balancer = Balancer::new(settings, Place::nowhere(), 1);
    balancer.update(endpoints);
    balancer
}

/// Picks for a request that asks nothing.
pub(crate) fn pick(balancer: &mut Balancer<u32>, now: Instant) -> Pick<u32> {
    balancer.pick(now, &PickRequest::default()).unwrap()
}

/// Makes calls one after the other that succeed in 5 ms, and counts who got them.
pub(crate) fn shares(balancer: &mut Balancer<u32>, calls: u32, now: Instant) -> BTreeMap<u32, u32> {
    let mut counts = BTreeMap::new();
    for _ in 0..calls {
        let call = pick(balancer, now);
        *counts.entry(*call.key()).or_default() += 1;
        balancer.finished(call, Outcome::Success, 5 * MS, now);
    }
    counts
}

/// One call to `key` (by excluding all others of `0..endpoints`) that ends like this.
pub(crate) fn call(
    balancer: &mut Balancer<u32>,
    endpoints: u32,
    key: u32,
    outcome: Outcome,
    latency: Duration,
    now: Instant,
) {
    let exclude: Vec<u32> = (0..endpoints).filter(|other| *other != key).collect();
    let request = PickRequest {
        exclude: &exclude,
        ..PickRequest::default()
    };
    let call = balancer.pick(now, &request).unwrap();
    assert_eq!(*call.key(), key);
    balancer.finished(call, outcome, latency, now);
}
