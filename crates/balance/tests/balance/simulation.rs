//! Ten workers in virtual time, of which one turns bad: how much traffic it still gets, and that it comes back.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::time::{Duration, Instant};

use warren_balance::{
    Balancer, ConsistentHash, Outcome, Pick, PickRequest, Place, Policy, Settings,
};

use crate::support::endpoint;

const WORKERS: u32 = 10;
/// The one that turns bad.
const SICK: u32 = 3;
const SECOND: Duration = Duration::from_secs(1);
/// Virtual seconds: warm-up before the fault, fault before it heals, and when it must be back.
const WARM_UP_S: u64 = 5;
const ILL_S: u64 = 30;
const BACK_WITHIN_S: u64 = 60;
/// How long a caller waits for an answer.
const DEADLINE: Duration = Duration::from_secs(1);

/// What befalls a worker.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Fault {
    /// Fifty times slower.
    Slow,
    /// Every call fails at once.
    ErrorFast,
    /// No call is answered.
    Frozen,
    /// All workers have their weak moments: 1 % of the calls fail, and 1 % take twenty times as long.
    Noise,
}

/// SplitMix64, as the load's own dice.
struct Dice(u64);

impl Dice {
    fn fraction(&mut self) -> f64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut bits = self.0;
        bits = (bits ^ (bits >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        bits = (bits ^ (bits >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        ((bits ^ (bits >> 31)) >> 11) as f64 / (1_u64 << 53) as f64
    }
}

/// One run: calls arrive by chance at a rate, whether or not earlier ones are answered.
struct Simulation {
    seed: u64,
    rate_per_s: f64,
    settings: Settings,
    fault: Fault,
}

/// Calls by virtual second.
struct Traffic {
    all: Vec<u32>,
    sick: Vec<u32>,
}

impl Traffic {
    /// The sick worker's share of the calls in these seconds after the fault.
    fn share(&self, seconds: std::ops::Range<u64>) -> f64 {
        let range = (WARM_UP_S + seconds.start) as usize..(WARM_UP_S + seconds.end) as usize;
        let sum = |counts: &[u32]| counts.iter().copied().map(f64::from).sum::<f64>();
        sum(&self.sick[range.clone()]) / sum(&self.all[range])
    }
}

impl Simulation {
    fn run(&self) -> Traffic {
        let start = Instant::now();
        let total_s = WARM_UP_S + ILL_S + BACK_WITHIN_S + 10;
        let mut dice = Dice(self.seed);
        let mut balancer = Balancer::new(self.settings.clone(), Place::nowhere(), self.seed);
        balancer.update((0..WORKERS).map(endpoint));
        let mut calls: Vec<Option<(Pick<u32>, Outcome, Duration)>> = Vec::new();
        let mut ends: BinaryHeap<Reverse<(Duration, usize)>> = BinaryHeap::new();
        let mut traffic = Traffic {
            all: vec![0; total_s as usize],
            sick: vec![0; total_s as usize],
        };
        let mut at = Duration::ZERO;
        loop {
            at += Duration::from_secs_f64(-(1.0 - dice.fraction()).ln() / self.rate_per_s);
            while let Some(Reverse((end, call))) = ends.peek().copied()
                && end <= at
            {
                ends.pop();
                let (pick, outcome, latency) = calls[call].take().unwrap();
                balancer.finished(pick, outcome, latency, start + end);
            }
            if at >= total_s as u32 * SECOND {
                return traffic;
            }
            let request = PickRequest {
                hash_key: Some(dice.fraction().to_bits()),
                ..PickRequest::default()
            };
            let pick = balancer.pick(start + at, &request).unwrap();
            let second = at.as_secs() as usize;
            traffic.all[second] += 1;
            traffic.sick[second] += u32::from(*pick.key() == SICK);
            let (outcome, latency) = self.serve(*pick.key(), at, &mut dice);
            ends.push(Reverse((at + latency, calls.len())));
            calls.push(Some((pick, outcome, latency)));
        }
    }

    /// What a call that arrives `at` comes to, and when.
    fn serve(&self, worker: u32, at: Duration, dice: &mut Dice) -> (Outcome, Duration) {
        let healthy = Duration::from_secs_f64(0.003 + 0.004 * dice.fraction());
        if self.fault == Fault::Noise {
            return match dice.fraction() {
                0.0..0.01 => (Outcome::Failure, healthy),
                0.01..0.02 => (Outcome::Success, 20 * healthy),
                _ => (Outcome::Success, healthy),
            };
        }
        let is_ill = (WARM_UP_S..WARM_UP_S + ILL_S).contains(&at.as_secs());
        if worker != SICK || !is_ill {
            return (Outcome::Success, healthy);
        }
        match self.fault {
            Fault::Slow => (Outcome::Success, 50 * healthy),
            Fault::ErrorFast => (Outcome::Failure, Duration::from_micros(200)),
            Fault::Frozen => (Outcome::Failure, DEADLINE),
            Fault::Noise => (Outcome::Success, healthy),
        }
    }

    fn assert_avoided_and_back(&self) {
        let traffic = self.run();
        let first = traffic.share(0..1);
        let ill = traffic.share(1..ILL_S);
        let worst = (1..ILL_S)
            .map(|second| traffic.share(second..second + 1))
            .fold(0.0, f64::max);
        let back = traffic.share(ILL_S + BACK_WITHIN_S..ILL_S + BACK_WITHIN_S + 10);
        let described = format!(
            "{:?} {:?} at {}/s, seed {}: first second {:.2} %, then {:.2} % (worst second {:.2} %), back at {:.1} %",
            self.settings.policy,
            self.fault,
            self.rate_per_s,
            self.seed,
            first * 100.0,
            ill * 100.0,
            worst * 100.0,
            back * 100.0
        );
        println!("{described}");
        assert!(ill <= 0.02, "too much traffic: {described}");
        assert!(traffic.share(1..2) <= 0.02, "too late: {described}");
        assert!(back >= 0.05, "did not come back: {described}");
    }
}

fn run(settings: &Settings, fault: Fault, rates_per_s: &[u32]) {
    for rate_per_s in rates_per_s {
        // Many calls leave less to chance, and take their time.
        let seeds = if *rate_per_s > 1_000 { 1..=1 } else { 1..=3 };
        for seed in seeds {
            let simulation = Simulation {
                seed,
                rate_per_s: f64::from(*rate_per_s),
                settings: settings.clone(),
                fault,
            };
            simulation.assert_avoided_and_back();
        }
    }
}

#[test]
fn given_ten_workers_when_one_turns_slow_then_it_is_avoided_within_a_second_and_returns() {
    run(&Settings::default(), Fault::Slow, &[100, 1_000, 5_000]);
}

#[test]
fn given_ten_workers_when_one_turns_error_fast_then_it_is_avoided_within_a_second_and_returns() {
    run(&Settings::default(), Fault::ErrorFast, &[100, 1_000, 5_000]);
}

#[test]
fn given_ten_workers_when_one_freezes_then_it_is_avoided_within_a_second_and_returns() {
    run(&Settings::default(), Fault::Frozen, &[100, 1_000, 5_000]);
}

#[test]
fn given_workers_alike_when_each_errs_and_stalls_at_times_then_all_keep_near_equal_shares() {
    for seed in 1..=3 {
        let simulation = Simulation {
            seed,
            rate_per_s: 1_000.0,
            settings: Settings::default(),
            fault: Fault::Noise,
        };

        let traffic = simulation.run();

        let share = traffic.share(0..60);
        println!("one of ten alike, seed {seed}: {:.1} %", share * 100.0);
        assert!((0.08..0.12).contains(&share), "seed {seed}: {share}");
    }
}

#[test]
fn given_no_ejection_when_one_turns_bad_then_its_cost_alone_keeps_calls_away() {
    let settings = Settings {
        outliers: None,
        ..Settings::default()
    };

    for fault in [Fault::Slow, Fault::ErrorFast, Fault::Frozen] {
        run(&settings, fault, &[1_000]);
    }
}

#[test]
fn given_policies_that_do_not_look_when_one_turns_bad_then_ejection_keeps_calls_away() {
    for policy in [
        Policy::RoundRobin,
        Policy::LeastConnections,
        Policy::ConsistentHash(ConsistentHash::default()),
    ] {
        let settings = Settings {
            policy,
            ..Settings::default()
        };
        for fault in [Fault::Slow, Fault::ErrorFast] {
            run(&settings, fault, &[1_000]);
        }
    }
}
