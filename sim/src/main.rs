//! Prints the simulator's figures, each with its seed.

use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::Context as _;
use clap::{Parser, Subcommand};
use serde_json::{Value, json};
use warren_sim::Stall;
use warren_sim::figures::{self, FalsePositives};
use warren_swim::Config;

/// Membership in virtual time.
#[derive(Debug, Parser)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Measures detection, false positives, traffic and joining with the LAN defaults.
    Figures {
        /// Decides every run.
        #[arg(long, default_value_t = 1)]
        seed: u64,
        /// Fewer samples and a coarser grid of stresses.
        #[arg(long)]
        quick: bool,
        /// Writes the rows here as JSON, too.
        #[arg(long)]
        json: Option<PathBuf>,
    },
}

fn main() -> anyhow::Result<()> {
    let Command::Figures { seed, quick, json } = Arguments::parse().command;
    println!("seed {seed}; LAN defaults: {}", timings(&Config::lan()));
    let mut rows = Vec::new();
    detection(seed, quick, &mut rows)?;
    for kind in [Stall::Blocked, Stall::Frozen] {
        stress(seed, quick, kind, &mut rows)?;
    }
    crowd(seed, quick, &mut rows)?;
    if let Some(path) = json {
        let text = serde_json::to_string_pretty(&rows)?;
        std::fs::write(&path, text).with_context(|| format!("cannot write {}", path.display()))?;
    }
    Ok(())
}

fn timings(config: &Config) -> String {
    format!(
        "probe every {:?}, time-out {:?}, nack after {:?}, suspicion {} × max(1, log₁₀ n) × period, up to {} times that, \
         gossip every {:?} to {}",
        config.probe_interval,
        config.probe_timeout,
        config.nack_after,
        config.suspicion_factor,
        config.suspicion_max_factor,
        config.gossip_interval,
        config.gossip_fanout
    )
}

/// One figure: what, unit, value, the limit it must keep and the one it aims at.
fn row(rows: &mut Vec<Value>, case: &str, unit: &str, value: f64, must: f64, aim: f64) {
    let met = if value <= aim {
        "aim"
    } else if value <= must {
        "must"
    } else {
        "missed"
    };
    println!("{case}: {value:.3} {unit} (must ≤ {must}, aim ≤ {aim}: {met})");
    rows.push(json!({
        "case": case, "unit": unit, "ours": value, "must": must, "aim": aim, "met": met
    }));
}

fn detection(seed: u64, quick: bool, rows: &mut Vec<Value>) -> anyhow::Result<()> {
    let (clusters, crashes) = if quick { (2, 10) } else { (10, 20) };
    for (name, config) in [
        ("", Config::lan()),
        (", plain SWIM", Config::lan().without_extensions()),
    ] {
        let mut samples = Vec::new();
        for cluster in 0..clusters {
            samples.extend(figures::detection(
                100,
                config.clone(),
                crashes,
                seed + cluster,
            )?);
        }
        samples.sort_unstable();
        let count = samples.len();
        let median = figures::quantile(&samples, 0.5).as_secs_f64();
        let p99 = figures::quantile(&samples, 0.99).as_secs_f64();
        println!(
            "crash of one in 100{name}, {count} crashes: median {median:.2} s, p99 {p99:.2} s"
        );
        if name.is_empty() {
            row(
                rows,
                "crash known to all, n = 100, median",
                "s",
                median,
                5.0,
                3.0,
            );
            rows.push(
                json!({"case": "crash known to all, n = 100, p99", "unit": "s", "ours": p99}),
            );
        } else {
            rows.push(json!({"case": "plain SWIM: crash known to all, n = 100, median", "unit": "s", "ours": median}));
        }
    }
    Ok(())
}

fn stress(seed: u64, quick: bool, kind: Stall, rows: &mut Vec<Value>) -> anyhow::Result<()> {
    let (mut full, mut plain) = (FalsePositives::default(), FalsePositives::default());
    let step = if quick { 7 } else { 1 };
    let grid: Vec<_> = figures::stress_grid(kind)
        .into_iter()
        .step_by(step)
        .collect();
    for (number, stress) in grid.iter().enumerate() {
        let seed = seed + number as u64;
        full += figures::stress(stress, Config::lan(), seed)?;
        plain += figures::stress(stress, Config::lan().without_extensions(), seed)?;
    }
    println!(
        "stress ({kind:?}), {} runs of {:?} with 128 members: {full:?}; plain SWIM: {plain:?}",
        grid.len(),
        grid.first().map_or(Duration::ZERO, |stress| stress.length),
    );
    if plain.at_healthy == 0 {
        // A share of nothing says nothing: timers of a frozen process do not fire, so plain SWIM has none either.
        println!(
            "false positives at healthy members, {kind:?}: {} of 0",
            full.at_healthy
        );
        rows.push(json!({
            "case": format!("false positives at healthy members, {kind:?}"), "unit": "events",
            "ours": full.at_healthy, "peer": "plain SWIM", "peer_value": 0
        }));
        return Ok(());
    }
    let share = full.at_healthy as f64 / plain.at_healthy.max(1) as f64 * 100.0;
    let case = format!("false positives at healthy members, {kind:?}, of plain SWIM's");
    row(rows, &case, "%", share, 5.0, 2.0);
    Ok(())
}

fn crowd(seed: u64, quick: bool, rows: &mut Vec<Value>) -> anyhow::Result<()> {
    // 2,000 nodes with 2,000 members each take some 3 GB.
    for (count, aim) in [(1_000, 5.0), (2_000, f64::INFINITY)] {
        if quick && count > 1_000 {
            continue;
        }
        let began = Instant::now();
        let (simulation, took) = figures::converged(count, Config::lan(), seed)?;
        let sent: u64 = simulation
            .indices()
            .map(|node| simulation.traffic(node).bytes)
            .sum();
        let took = took.map_or(f64::INFINITY, |took| took.as_secs_f64());
        let per_node = sent / 1_000 / u64::from(count);
        println!(
            "{count} nodes sent {per_node} kB each to join; simulated in {:?}",
            began.elapsed()
        );
        let case = format!("{count} nodes join at once");
        if aim.is_finite() {
            row(rows, &case, "s", took, 5.0, aim);
        } else {
            println!("{case}: {took:.3} s");
            rows.push(json!({"case": case, "unit": "s", "ours": took}));
        }
    }
    let steady = figures::steady(1_000, Config::lan(), seed)?;
    println!(
        "steady gossip at n = 1,000: mean {:.0} B/s, most of any node {:.0} B/s; {:?} per packet, simulator included",
        steady.mean, steady.most, steady.per_packet
    );
    row(
        rows,
        "steady gossip per node, n = 1,000",
        "kB/s",
        steady.mean / 1_000.0,
        5.0,
        5.0,
    );
    Ok(())
}
