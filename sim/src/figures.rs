//! The figures of the issue, measured in virtual time.

use std::time::{Duration, Instant};

use rand::RngExt as _;
use rand::seq::SliceRandom as _;

use warren_swim::{Config, ConfigError};

use crate::membership::{Membership, NodeIndex, Notice};
use crate::network::{Link, Network};
use crate::simulation::{Simulation, Stall, Traffic};
use crate::swim;

/// Long enough for any healthy cluster of the figures to come together.
const PATIENCE: Duration = Duration::from_secs(120);

/// Nodes that others join through.
#[must_use]
pub fn seeds() -> Vec<NodeIndex> {
    (0..3).map(NodeIndex).collect()
}

/// A LAN cluster that has come together, and how long that took; `None` if it did not.
///
/// # Errors
/// [`ConfigError`], if the configuration cannot work.
pub fn converged(
    count: u32,
    config: Config,
    seed: u64,
) -> Result<(Simulation<swim::SwimNode>, Option<Duration>), ConfigError> {
    let mut simulation = swim::simulation(count, Network::new(Link::LAN), config, seed)?;
    simulation.start_all(&seeds());
    let took = simulation.run_until_converged(PATIENCE);
    Ok((simulation, took))
}

/// Crash to every node knowing, for `crashes` crashes one after the other. A crash that not all noticed within the
/// limit counts as the limit.
///
/// # Errors
/// [`ConfigError`], if the configuration cannot work.
pub fn detection(
    count: u32,
    config: Config,
    crashes: usize,
    seed: u64,
) -> Result<Vec<Duration>, ConfigError> {
    let (mut simulation, _) = converged(count, config, seed)?;
    let mut samples = Vec::with_capacity(crashes);
    for _ in 0..crashes {
        let pause = Duration::from_secs_f64(5.0 + 5.0 * simulation.random().random::<f64>());
        simulation.run_for(pause);
        let victim = NodeIndex(simulation.random().random_range(3..count));
        simulation.crash(victim);
        let took = simulation.run_until_converged(PATIENCE);
        samples.push(took.unwrap_or(PATIENCE));
        simulation.start(victim, &seeds());
        simulation.run_until_converged(PATIENCE);
    }
    samples.sort_unstable();
    Ok(samples)
}

/// The value that `share` of the sorted samples do not exceed.
#[must_use]
pub fn quantile(sorted: &[Duration], share: f64) -> Duration {
    let last = sorted.len().saturating_sub(1);
    let index = (last as f64 * share).round() as usize;
    sorted.get(index).copied().unwrap_or_default()
}

/// Lifeguard's stress (§V): `stalled` members are stalled for `lasts`, run for `interval`, and so on.
#[derive(Clone, Copy, Debug)]
pub struct Stress {
    /// All members.
    pub members: u32,
    /// Members that stall, all at the same time.
    pub stalled: u32,
    /// How they stall.
    pub kind: Stall,
    /// How long each stall lasts.
    pub lasts: Duration,
    /// How long they run between two stalls.
    pub interval: Duration,
    /// How long the test runs.
    pub length: Duration,
}

/// False positives of one run.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct FalsePositives {
    /// A healthy member held a healthy one failed.
    pub at_healthy: u64,
    /// Any member held a healthy one failed.
    pub at_any: u64,
    /// Any member suspected a healthy one.
    pub suspicions: u64,
    /// A healthy member held a stalled one failed: true positives.
    pub stalled_found: u64,
}

impl std::ops::AddAssign for FalsePositives {
    fn add_assign(&mut self, other: Self) {
        self.at_healthy += other.at_healthy;
        self.at_any += other.at_any;
        self.suspicions += other.suspicions;
        self.stalled_found += other.stalled_found;
    }
}

/// Runs one stress.
///
/// # Errors
/// [`ConfigError`], if the configuration cannot work.
pub fn stress(stress: &Stress, config: Config, seed: u64) -> Result<FalsePositives, ConfigError> {
    let (mut simulation, _) = converged(stress.members, config, seed)?;
    simulation.run_for(Duration::from_secs(10));
    simulation.clear_records();
    let mut nodes: Vec<_> = simulation.indices().collect();
    nodes.shuffle(simulation.random());
    nodes.truncate(stress.stalled as usize);
    let mut is_stalled = vec![false; stress.members as usize];
    for node in &nodes {
        is_stalled[node.index()] = true;
        let mut at = Duration::ZERO;
        while at < stress.length {
            simulation.stall(*node, stress.kind, at, stress.lasts);
            at += stress.lasts + stress.interval;
        }
    }
    simulation.run_for(stress.length);
    Ok(count_false(&simulation, &is_stalled))
}

fn count_false<M: Membership>(simulation: &Simulation<M>, is_stalled: &[bool]) -> FalsePositives {
    let mut count = FalsePositives::default();
    for record in simulation.records() {
        let observer_stalls = is_stalled[record.observer.index()];
        match record.notice {
            Notice::Down(subject) if is_stalled[subject.index()] => {
                count.stalled_found += u64::from(!observer_stalls);
            }
            Notice::Down(_) => {
                count.at_any += 1;
                count.at_healthy += u64::from(!observer_stalls);
            }
            Notice::Suspected(subject) => {
                count.suspicions += u64::from(!is_stalled[subject.index()]);
            }
            _ => {}
        }
    }
    count
}

/// The grid of stresses over which false positives are summed: 128 members as in the paper, with fewer steps.
#[must_use]
pub fn stress_grid(kind: Stall) -> Vec<Stress> {
    let mut grid = Vec::new();
    for stalled in [1, 4, 8, 16, 32] {
        for lasts_ms in [512, 2_048, 8_192, 16_384] {
            for interval_ms in [64, 1_024, 4_096] {
                grid.push(Stress {
                    members: 128,
                    stalled,
                    kind,
                    lasts: Duration::from_millis(lasts_ms),
                    interval: Duration::from_millis(interval_ms),
                    length: Duration::from_secs(60),
                });
            }
        }
    }
    grid
}

/// A cluster in which nothing happens.
#[derive(Clone, Copy, Debug)]
pub struct Steady {
    /// Bytes per second that a node sends, the mean of all.
    pub mean: f64,
    /// The same of the node that sends most.
    pub most: f64,
    /// Real time per packet, from timer to answer, what the simulator adds included.
    pub per_packet: Duration,
}

/// Watches a cluster in which nothing happens for a minute.
///
/// # Errors
/// [`ConfigError`], if the configuration cannot work.
pub fn steady(count: u32, config: Config, seed: u64) -> Result<Steady, ConfigError> {
    let (mut simulation, _) = converged(count, config, seed)?;
    simulation.run_for(Duration::from_secs(60));
    let before: Vec<Traffic> = simulation
        .indices()
        .map(|node| simulation.traffic(node))
        .collect();
    let (length, began) = (Duration::from_secs(60), Instant::now());
    simulation.run_for(length);
    let took = began.elapsed();
    let (mut rates, mut packets) = (Vec::new(), 0);
    for (node, before) in simulation.indices().zip(before) {
        let after = simulation.traffic(node);
        rates.push((after.bytes - before.bytes) as f64 / length.as_secs_f64());
        packets += after.packets - before.packets;
    }
    Ok(Steady {
        mean: rates.iter().sum::<f64>() / rates.len().max(1) as f64,
        most: rates.iter().copied().fold(0.0, f64::max),
        per_packet: took.div_f64(packets.max(1) as f64),
    })
}
