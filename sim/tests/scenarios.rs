//! Clusters through bad days, each in virtual time with a printed seed; `WARREN_SIM_SEED` sets another one.

#![allow(clippy::unwrap_used)]

use std::collections::BTreeSet;
use std::time::Duration;

use rand::RngExt as _;
use warren_sim::figures::{self, seeds};
use warren_sim::swim::{self, SwimNode, id_of, index_of};
use warren_sim::{Link, Network, NodeIndex, Notice, Simulation, Stall, View};
use warren_swim::Config;

const SECOND: Duration = Duration::from_secs(1);

fn seed() -> u64 {
    let seed = std::env::var("WARREN_SIM_SEED").map_or(7, |seed| seed.parse().unwrap());
    println!("WARREN_SIM_SEED={seed}");
    seed
}

fn node(index: u32) -> NodeIndex {
    NodeIndex(index)
}

/// A LAN cluster that has come together and calmed down.
fn cluster(count: u32) -> Simulation<SwimNode> {
    let (mut simulation, took) = figures::converged(count, Config::lan(), seed()).unwrap();
    assert!(took.is_some(), "{count} nodes do not come together");
    simulation.run_for(5 * SECOND);
    simulation.clear_records();
    simulation
}

/// Who was held failed since the records were cleared.
fn held_failed(simulation: &Simulation<SwimNode>) -> BTreeSet<NodeIndex> {
    let records = simulation.records().iter();
    records
        .filter_map(|record| match record.notice {
            Notice::Down(subject) => Some(subject),
            _ => None,
        })
        .collect()
}

/// As above, without what one node thinks.
fn held_failed_by_others(
    simulation: &Simulation<SwimNode>,
    except: NodeIndex,
) -> BTreeSet<NodeIndex> {
    let records = simulation.records().iter();
    records
        .filter(|record| record.observer != except)
        .filter_map(|record| match record.notice {
            Notice::Down(subject) => Some(subject),
            _ => None,
        })
        .collect()
}

fn converges(simulation: &mut Simulation<SwimNode>, seconds: u32) -> Duration {
    let took = simulation.run_until_converged(seconds * SECOND);
    took.unwrap_or_else(|| {
        let mut wrong = Vec::new();
        for observer in simulation.indices().collect::<Vec<_>>() {
            for subject in simulation.indices() {
                let is_up = simulation.view(observer, subject) == View::Up;
                if simulation.is_running(observer)
                    && observer != subject
                    && is_up != simulation.is_running(subject)
                {
                    wrong.push((observer.0, subject.0, simulation.view(observer, subject)));
                }
            }
        }
        wrong.truncate(20);
        panic!("not converged after {seconds} s: {wrong:?}")
    })
}

/// Nobody holds an incarnation of a running node that it has not reached itself.
fn assert_only_subjects_raise(simulation: &Simulation<SwimNode>) {
    for observer in simulation.indices() {
        let Some(SwimNode(swim)) = simulation.node(observer) else {
            continue;
        };
        for member in swim.members() {
            let Some(SwimNode(subject)) = simulation.node(index_of(&member.id())) else {
                continue;
            };
            assert!(
                member.statement().incarnation <= subject.local().incarnation,
                "{observer:?} raised the incarnation of {:?}",
                member.id()
            );
        }
    }
}

#[test]
fn given_a_thousand_nodes_when_all_start_at_once_then_each_knows_all_within_five_seconds() {
    let (simulation, took) = figures::converged(1_000, Config::lan(), seed()).unwrap();

    println!("took {took:?}");
    assert!(took.is_some_and(|took| took <= 5 * SECOND));
    assert_eq!(held_failed(&simulation), BTreeSet::new());
}

#[test]
fn given_nodes_that_start_before_their_seeds_when_the_seeds_start_then_all_find_each_other() {
    let mut simulation =
        swim::simulation(30, Network::new(Link::LAN), Config::lan(), seed()).unwrap();
    for index in 3..30 {
        simulation.start(node(index), &seeds());
    }
    simulation.run_for(60 * SECOND);
    assert!(!simulation.is_converged());

    for index in 0..3 {
        simulation.start(node(index), &seeds());
    }

    converges(&mut simulation, 60);
}

#[test]
fn given_a_crash_when_detected_then_all_know_in_time_and_only_the_crashed_is_held_failed() {
    let mut simulation = cluster(100);

    simulation.crash(node(50));

    let took = converges(&mut simulation, 30);
    println!("took {took:?}");
    assert!(took <= 8 * SECOND);
    assert_eq!(held_failed(&simulation), BTreeSet::from([node(50)]));
}

#[test]
fn given_clusters_of_two_and_three_when_one_crashes_then_the_rest_notices() {
    for count in [2, 3] {
        let mut simulation = cluster(count);

        simulation.crash(node(1));

        let took = converges(&mut simulation, 60);
        println!("{count} nodes: {took:?}");
        assert_eq!(held_failed(&simulation), BTreeSet::from([node(1)]));
    }
}

#[test]
fn given_a_third_of_the_cluster_when_it_crashes_at_once_then_exactly_it_is_held_failed() {
    let mut simulation = cluster(60);
    let gone: BTreeSet<_> = (40..60).map(node).collect();

    for victim in &gone {
        simulation.crash(*victim);
    }

    let took = converges(&mut simulation, 120);
    println!("took {took:?}");
    assert_eq!(held_failed(&simulation), gone);
}

#[test]
fn given_one_bad_link_when_time_passes_then_nobody_is_held_failed() {
    for count in [3, 5, 20] {
        for both_ways in [true, false] {
            let mut simulation = cluster(count);
            simulation.network.set_link(node(1), node(2), Link::DEAD);
            if both_ways {
                simulation.network.set_link(node(2), node(1), Link::DEAD);
            }

            simulation.run_for(300 * SECOND);

            assert_eq!(
                held_failed(&simulation),
                BTreeSet::new(),
                "{count} nodes, both ways: {both_ways}"
            );
        }
    }
}

#[test]
fn given_a_node_that_hears_nothing_when_time_passes_then_all_others_hold_it_failed() {
    let mut simulation = cluster(30);
    for other in simulation.indices().collect::<Vec<_>>() {
        simulation.network.set_link(other, node(7), Link::DEAD);
    }

    simulation.run_for(30 * SECOND);

    for other in simulation.indices().filter(|other| *other != node(7)) {
        assert_eq!(simulation.view(other, node(7)), View::Down, "{other:?}");
        for third in simulation
            .indices()
            .filter(|third| *third != node(7) && *third != other)
        {
            assert_eq!(
                simulation.view(other, third),
                View::Up,
                "{other:?} of {third:?}"
            );
        }
    }
}

#[test]
fn given_a_node_that_nobody_hears_when_time_passes_then_all_others_hold_it_failed() {
    let mut simulation = cluster(30);
    for other in simulation.indices().collect::<Vec<_>>() {
        simulation.network.set_link(node(7), other, Link::DEAD);
    }

    simulation.run_for(30 * SECOND);

    assert_eq!(
        held_failed_by_others(&simulation, node(7)),
        BTreeSet::from([node(7)])
    );
}

#[test]
fn given_a_node_that_hardly_hears_when_time_passes_then_nobody_else_is_held_failed_on_its_word() {
    let weak = Link {
        loss: 0.97,
        ..Link::LAN
    };
    let false_verdicts = |config: Config| {
        let (mut simulation, _) = figures::converged(30, config, seed()).unwrap();
        for other in simulation.indices().collect::<Vec<_>>() {
            simulation.network.set_link(other, node(7), weak);
        }
        simulation.run_for(300 * SECOND);
        let is_false = |notice| matches!(notice, Notice::Down(subject) if subject != node(7));
        let records = simulation.records().iter();
        records.filter(|record| is_false(record.notice)).count()
    };
    let one_observer_decides = Config {
        quorum_large: 1,
        quorum_small: 1,
        failure_claims: 1,
        ..Config::lan()
    };

    assert_eq!(false_verdicts(Config::lan()), 0);
    assert!(false_verdicts(one_observer_decides) > 0);
    assert!(false_verdicts(Config::lan().without_extensions()) > 500);
}

#[test]
fn given_a_wide_area_when_one_crashes_then_only_it_is_held_failed() {
    let wide = Link {
        loss: 0.02,
        delay: Duration::from_millis(75),
        jitter: Duration::from_millis(25),
    };
    let seed = seed();
    let mut simulation = swim::simulation(60, Network::new(wide), Config::wan(), seed).unwrap();
    simulation.start_all(&seeds());
    converges(&mut simulation, 60);
    simulation.run_for(300 * SECOND);
    assert_eq!(held_failed(&simulation), BTreeSet::new());

    simulation.crash(node(30));

    let took = converges(&mut simulation, 60);
    println!("took {took:?}");
    assert_eq!(held_failed(&simulation), BTreeSet::from([node(30)]));
}

#[test]
fn given_a_member_that_left_when_it_comes_back_then_all_take_it_in_again() {
    let mut simulation = cluster(30);
    simulation.leave(node(8));
    simulation.run_for(3 * SECOND);
    simulation.crash(node(8));
    simulation.run_for(20 * SECOND);

    simulation.start(node(8), &seeds());

    let took = converges(&mut simulation, 20);
    println!("took {took:?}");
    assert_eq!(held_failed(&simulation), BTreeSet::new());
}

#[test]
fn given_a_tenth_of_all_packets_lost_and_some_doubled_when_time_passes_then_nobody_is_held_failed()
{
    let mut simulation = cluster(50);
    simulation.network.default.loss = 0.1;
    simulation.network.duplicates = 0.05;

    simulation.run_for(300 * SECOND);

    assert_eq!(held_failed(&simulation), BTreeSet::new());
}

#[test]
fn given_a_partition_when_it_heals_then_both_halves_become_one_without_a_restart() {
    let mut simulation = cluster(60);
    simulation.network.partition((0..30).map(node));
    simulation.run_for(120 * SECOND);
    for (observer, subject) in [(5, 45), (45, 5)] {
        assert_eq!(simulation.view(node(observer), node(subject)), View::Down);
    }
    assert_eq!(simulation.view(node(5), node(6)), View::Up);
    simulation.clear_records();

    simulation.network.heal();

    let took = converges(&mut simulation, 60);
    println!("took {took:?}");
    simulation.run_for(60 * SECOND);
    assert_eq!(held_failed(&simulation), BTreeSet::new());
    assert_only_subjects_raise(&simulation);
}

#[test]
fn given_one_isolated_node_when_its_link_is_mended_then_all_hold_all_up_again() {
    let mut simulation = cluster(40);
    simulation.network.partition([node(9)]);
    simulation.run_for(60 * SECOND);
    assert_eq!(simulation.view(node(3), node(9)), View::Down);

    simulation.network.heal();

    let took = converges(&mut simulation, 120);
    println!("took {took:?}");
}

#[test]
fn given_a_member_that_leaves_when_packets_are_lost_then_nobody_ever_holds_it_failed() {
    let mut simulation = cluster(60);
    simulation.network.default.loss = 0.05;

    for index in 10..20 {
        simulation.leave(node(index));
        simulation.run_for(3 * SECOND);
        simulation.crash(node(index));
    }
    simulation.run_for(60 * SECOND);

    assert_eq!(held_failed(&simulation), BTreeSet::new());
    for observer in simulation
        .indices()
        .filter(|other| simulation.is_running(*other))
    {
        assert_eq!(
            simulation.view(observer, node(12)),
            View::Left,
            "{observer:?}"
        );
    }
}

#[test]
fn given_half_of_the_nodes_when_restarted_at_once_then_all_find_each_other_again() {
    let mut simulation = cluster(100);
    let half: Vec<_> = (0..50).map(node).collect();
    for victim in &half {
        simulation.crash(*victim);
    }
    simulation.run_for(SECOND);

    for victim in &half {
        simulation.start(*victim, &seeds());
    }

    let took = converges(&mut simulation, 60);
    println!("took {took:?}");
    simulation.run_for(30 * SECOND);
    assert!(simulation.is_converged());
    assert_only_subjects_raise(&simulation);
}

#[test]
fn given_a_frozen_node_when_it_wakes_then_it_holds_nobody_failed_and_is_taken_back() {
    let mut simulation = cluster(50);
    simulation.stall(node(20), Stall::Frozen, Duration::ZERO, 30 * SECOND);

    simulation.run_for(29 * SECOND);
    assert_eq!(simulation.view(node(3), node(20)), View::Down);

    converges(&mut simulation, 30);
    assert_eq!(held_failed(&simulation), BTreeSet::from([node(20)]));
    let SwimNode(woken) = simulation.node(node(20)).unwrap();
    assert_eq!(woken.counters().stalls, 1);
}

#[test]
fn given_a_clock_that_jumps_an_hour_when_time_passes_then_nobody_is_held_failed() {
    let mut simulation = cluster(30);

    simulation.jump_clock(node(4), Duration::from_secs(3_600));
    simulation.run_for(60 * SECOND);

    assert_eq!(held_failed(&simulation), BTreeSet::new());
    assert!(simulation.is_converged());
}

#[test]
fn given_stalled_members_when_stressed_then_healthy_ones_hold_no_healthy_one_failed() {
    let stress = figures::Stress {
        members: 64,
        stalled: 16,
        kind: Stall::Blocked,
        lasts: Duration::from_secs(8),
        interval: Duration::from_millis(1_024),
        length: Duration::from_secs(60),
    };

    let full = figures::stress(&stress, Config::lan(), seed()).unwrap();
    let plain = figures::stress(&stress, Config::lan().without_extensions(), seed()).unwrap();

    println!("{full:?}; plain SWIM: {plain:?}");
    assert!(plain.at_healthy > 100, "the stress does not stress");
    assert!(full.at_healthy * 50 <= plain.at_healthy);
}

#[test]
fn given_tags_set_everywhere_when_time_passes_then_everyone_holds_the_newest_of_everyone() {
    let mut simulation = cluster(40);
    let all: Vec<_> = simulation.indices().collect();
    for round in 0..5 {
        for index in &all {
            simulation.with_node(*index, |SwimNode(swim), now| {
                swim.set_tag("round", &round.to_string(), now).unwrap();
            });
        }
        simulation.run_for(Duration::from_millis(700));
    }
    simulation.run_for(30 * SECOND);

    for observer in &all {
        let SwimNode(swim) = simulation.node(*observer).unwrap();
        for subject in all.iter().filter(|subject| *subject != observer) {
            let member = swim.member(&id_of(*subject)).unwrap();
            assert_eq!(member.statement().tags.get("round"), Some("4"));
        }
    }
}

#[test]
fn given_the_same_seed_when_run_twice_then_everything_happens_again() {
    let run = |seed| {
        let (mut simulation, _) = figures::converged(20, Config::lan(), seed).unwrap();
        simulation.crash(node(5));
        simulation.run_for(20 * SECOND);
        simulation.records().to_vec()
    };
    let seed = seed();

    assert_eq!(run(seed), run(seed));
    assert_ne!(run(seed), run(seed + 1));
}

/// Ten minutes in which everything that can happen does, then a calm: all must agree, and nobody may have been told
/// an incarnation that its subject never had.
#[test]
fn given_chaos_when_it_calms_then_all_agree() {
    let mut simulation = cluster(50);
    for _ in 0..300 {
        let any = node(simulation.random().random_range(3..50));
        match simulation.random().random_range(0..9) {
            0 => simulation.crash(any),
            1 | 2 if !simulation.is_running(any) => simulation.start(any, &seeds()),
            3 => {
                let lasts = Duration::from_millis(simulation.random().random_range(100..10_000));
                simulation.stall(any, Stall::Blocked, Duration::ZERO, lasts);
            }
            4 => {
                let lasts = Duration::from_millis(simulation.random().random_range(100..10_000));
                simulation.stall(any, Stall::Frozen, Duration::ZERO, lasts);
            }
            5 => simulation.network.partition([any]),
            6 => simulation.network.heal(),
            7 => {
                let by = Duration::from_millis(simulation.random().random_range(1..100_000));
                simulation.jump_clock(any, by);
            }
            _ => simulation.network.default.loss = simulation.random().random_range(0.0..0.2),
        }
        simulation.run_for(2 * SECOND);
        assert_only_subjects_raise(&simulation);
    }
    simulation.network.heal();
    simulation.network.default.loss = 0.001;
    simulation.run_for(20 * SECOND);

    converges(&mut simulation, 120);
    simulation.clear_records();
    simulation.run_for(120 * SECOND);
    assert_eq!(held_failed(&simulation), BTreeSet::new());
}

#[test]
fn given_half_of_the_nodes_when_restarted_after_any_pause_then_all_find_each_other_soon() {
    let seed = seed();
    for round in 1..=6 {
        let (mut simulation, _) = figures::converged(40, Config::lan(), seed + round).unwrap();
        let half: Vec<_> = (0..20).map(node).collect();
        for victim in &half {
            simulation.crash(*victim);
        }
        let pause = simulation.random().random_range(100..8_000);
        simulation.run_for(Duration::from_millis(pause));
        for victim in &half {
            simulation.start(*victim, &seeds());
        }
        let took = converges(&mut simulation, 60);
        println!(
            "seed {}: {took:?} after a pause of {pause} ms",
            seed + round
        );
        assert!(took <= 30 * SECOND);
        assert_only_subjects_raise(&simulation);
    }
}
