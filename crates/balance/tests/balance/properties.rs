//! What holds for every set, every policy and every history.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use proptest::prelude::*;
use warren_balance::{
    Balancer, ConsistentHash, Locality, NoEndpoint, Outcome, OutlierSettings, Pick, PickRequest,
    Place, Policy, Settings,
};

use crate::support::{MS, balancer, endpoint, plain, weighing};

fn policies() -> impl Strategy<Value = Policy> {
    prop::sample::select(vec![
        Policy::RoundRobin,
        Policy::Random,
        Policy::LeastConnections,
        Policy::default(),
        Policy::ConsistentHash(ConsistentHash::default()),
    ])
}

/// Something that happens to a balancer.
#[derive(Debug, Clone)]
enum Step {
    Pick {
        exclude: Vec<u32>,
        hash_key: Option<u64>,
    },
    Finish(prop::sample::Index, Outcome, u64),
    Wait(u64),
    /// The set becomes the keys whose bit is set.
    Update(u16),
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let outcome = prop::sample::select(vec![
        Outcome::Success,
        Outcome::Failure,
        Outcome::Failure,
        Outcome::Overloaded,
        Outcome::Cancelled,
        Outcome::NotSent,
    ]);
    let exclude = prop::collection::vec(0_u32..12, 0..6);
    let step = prop_oneof![
        4 => (exclude, any::<Option<u64>>())
            .prop_map(|(exclude, hash_key)| Step::Pick { exclude, hash_key }),
        4 => (any::<prop::sample::Index>(), outcome, 0_u64..2_000)
            .prop_map(|(call, outcome, ms)| Step::Finish(call, outcome, ms)),
        1 => (0_u64..15_000).prop_map(Step::Wait),
        1 => any::<u16>().prop_map(Step::Update),
    ];
    prop::collection::vec(step, 1..200)
}

fn set(bits: u16) -> Vec<u32> {
    (0..12).filter(|key| bits & (1 << key) != 0).collect()
}

fn place_of(key: u32) -> Place {
    match key % 3 {
        0 => Place::new("eu", "a"),
        1 => Place::new("eu", "b"),
        _ => Place::new("us", "a"),
    }
}

/// A balancer and what must be true of it.
struct Model {
    balancer: Balancer<u32>,
    keys: Vec<u32>,
    calls: Vec<Pick<u32>>,
    now: Instant,
}

impl Model {
    fn new(policy: Policy, locality: Option<Locality>) -> Self {
        let settings = Settings {
            policy,
            locality,
            outliers: Some(OutlierSettings::default()),
        };
        let mut model = Self {
            balancer: Balancer::new(settings, Place::new("eu", "a"), 7),
            keys: Vec::new(),
            calls: Vec::new(),
            now: Instant::now(),
        };
        model.update(0xfff);
        model
    }

    fn update(&mut self, bits: u16) {
        self.keys = set(bits);
        self.balancer.update(
            self.keys
                .iter()
                .map(|key| weighing(*key, key % 4 + 1).at(place_of(*key))),
        );
    }

    fn run(&mut self, step: &Step) -> Result<(), TestCaseError> {
        match step {
            Step::Pick { exclude, hash_key } => self.pick(exclude, *hash_key)?,
            Step::Finish(call, outcome, ms) if !self.calls.is_empty() => {
                let call = self.calls.swap_remove(call.index(self.calls.len()));
                let latency = Duration::from_millis(*ms);
                self.balancer.finished(call, *outcome, latency, self.now);
            }
            Step::Finish(..) => {}
            Step::Wait(ms) => self.now += Duration::from_millis(*ms),
            Step::Update(bits) => self.update(*bits),
        }
        let ejected = self.ejected();
        prop_assert!(
            ejected.len() <= self.keys.len() / 2,
            "ejected {:?}",
            ejected
        );
        Ok(())
    }

    fn pick(&mut self, exclude: &[u32], hash_key: Option<u64>) -> Result<(), TestCaseError> {
        let request = PickRequest {
            hash_key,
            exclude,
            filter: None,
        };
        let picked = self.balancer.pick(self.now, &request);
        // After the pick: what was due at this time has happened.
        let ejected = self.ejected();
        let left = |key: &&u32| !exclude.contains(key);
        let well = self
            .keys
            .iter()
            .filter(left)
            .any(|key| !ejected.contains(key));
        let all_excluded = self.keys.iter().all(|key| exclude.contains(key));
        match picked {
            Ok(call) => {
                prop_assert!(self.keys.contains(call.key()));
                prop_assert!(!exclude.contains(call.key()));
                prop_assert!(!well || !ejected.contains(call.key()));
                self.calls.push(call);
            }
            Err(NoEndpoint::Empty) => prop_assert!(self.keys.is_empty()),
            Err(NoEndpoint::AllExcluded { matching }) => {
                prop_assert!(all_excluded && matching == self.keys.len());
            }
            Err(error) => prop_assert!(false, "{error}"),
        }
        Ok(())
    }

    fn ejected(&self) -> Vec<u32> {
        let status = self.balancer.status(self.now);
        let out = status.filter(|status| status.ejected_until.is_some());
        out.map(|status| status.endpoint.key).collect()
    }
}

/// Where each of 5,000 keys lives.
fn homes(balancer: &mut Balancer<u32>) -> BTreeMap<u64, u32> {
    let now = Instant::now();
    let home = |key| {
        let request = PickRequest {
            hash_key: Some(key),
            ..PickRequest::default()
        };
        let call = balancer.pick(now, &request).unwrap();
        let home = *call.key();
        balancer.finished(call, Outcome::Success, MS, now);
        (key, home)
    };
    (0..5_000).map(home).collect()
}

proptest! {
    #[test]
    fn given_any_history_when_picking_then_excluded_and_ejected_are_never_picked_while_others_remain(
        policy in policies(),
        is_local in any::<bool>(),
        steps in steps(),
    ) {
        let mut model = Model::new(policy, is_local.then(Locality::default));
        for step in &steps {
            model.run(step)?;
        }
        // Every count comes back to zero: nothing is lost in updates, ejections and views.
        for call in model.calls.drain(..) {
            model.balancer.finished(call, Outcome::Cancelled, MS, model.now);
        }
        prop_assert!(model.balancer.status(model.now).all(|status| status.in_flight == 0));
    }

    #[test]
    fn given_any_load_when_least_connections_picks_then_nobody_had_less(
        weights in prop::collection::vec(1_u32..6, 1..20),
        ends in prop::collection::vec(any::<(bool, prop::sample::Index)>(), 1..200),
    ) {
        let set = weights.iter().enumerate().map(|(key, weight)| weighing(key as u32, *weight));
        let mut balancer = balancer(plain(Policy::LeastConnections), set);
        let now = Instant::now();
        let mut calls: Vec<Pick<u32>> = Vec::new();
        for (is_end, index) in ends {
            if is_end && !calls.is_empty() {
                let call = calls.swap_remove(index.index(calls.len()));
                balancer.finished(call, Outcome::Success, MS, now);
                continue;
            }
            let load = |key: u32| {
                let in_flight = calls.iter().filter(|call| *call.key() == key).count() as f64;
                (in_flight + 1.0) / f64::from(weights[key as usize])
            };
            let least = (0..weights.len() as u32).map(load).fold(f64::INFINITY, f64::min);
            let call = balancer.pick(now, &PickRequest::default()).unwrap();
            prop_assert!(load(*call.key()) <= least + 1e-9);
            calls.push(call);
        }
    }

    #[test]
    fn given_any_load_when_hashing_then_the_bound_is_never_passed(
        weights in prop::collection::vec(1_u64..6, 1..20),
        bound in 101_u32..300,
        excluded in prop::collection::vec(0_u32..20, 0..4),
        picks in prop::collection::vec(0_u64..4, 1..200),
    ) {
        let set = weights.iter().enumerate().map(|(key, weight)| weighing(key as u32, *weight as u32));
        let policy = Policy::ConsistentHash(ConsistentHash { load_bound_percent: bound });
        let mut balancer = balancer(plain(policy), set);
        let takes = |key: &usize| !excluded.contains(&(*key as u32));
        let total: u64 = (0..weights.len()).filter(takes).map(|key| weights[key]).sum();
        prop_assume!(total > 0);
        let mut in_flight = vec![0_u64; weights.len()];
        for (calls, hash_key) in (1_u64..).zip(picks) {
            let request = PickRequest { hash_key: Some(hash_key), exclude: &excluded, filter: None };
            let call = balancer.pick(Instant::now(), &request).unwrap();
            let key = *call.key() as usize;
            in_flight[key] += 1;
            let cap = (u64::from(bound) * calls * weights[key]).div_ceil(100 * total);
            prop_assert!(in_flight[key] <= cap, "{} of {calls} calls, cap {cap}", in_flight[key]);
        }
    }

    #[test]
    fn given_any_ring_when_an_endpoint_comes_or_goes_then_only_its_share_of_keys_moves(
        count in 2_u32..40,
        seed in any::<u32>(),
        leaver in any::<prop::sample::Index>(),
    ) {
        let policy = Policy::ConsistentHash(ConsistentHash::default());
        let key = |index: u32| seed.wrapping_add(index);
        let all: Vec<u32> = (0..count).map(key).collect();
        let leaver = all[leaver.index(all.len())];
        let mut balancer = balancer(plain(policy), all.iter().copied().map(endpoint));
        let before = homes(&mut balancer);

        balancer.update(all.iter().copied().filter(|key| *key != leaver).map(endpoint));
        let without = homes(&mut balancer);

        // Exactly the leaver's keys move, and they are a fair share: 1/n give or take the ring's unevenness.
        for (key, home) in &before {
            prop_assert!(*home == leaver || without[key] == *home);
        }
        let moved = before.values().filter(|home| **home == leaver).count() as f64 / 5_000.0;
        let fair = 1.0 / f64::from(count);
        prop_assert!(moved <= fair * 1.4 + 0.01, "{moved} of the keys moved, fair is {fair}");

        balancer.update(all.iter().copied().map(endpoint));
        prop_assert_eq!(homes(&mut balancer), before);
    }
}
