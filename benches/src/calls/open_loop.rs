//! Calls begun at a fixed rate, 70 % of the highest at which tonic keeps up on this machine: the time that 99 of 100 take,
//! counted from when each was due, against tonic's. So a pause counts for every call that it held up.

use anyhow::bail;

use super::side::{Load, LoadKind, Measured, Side};
use super::throughput::{self, TONIC_CHANNELS, best};
use super::{Bench, FLAVOURS, Site, flavour_name};
use crate::outcome::{Row, Target};
use crate::roles::calls::Flavour;

/// Of tonic's most.
const SHARE: f64 = 0.7;
/// With which it is looked for: what callers that wait for their answers reach is tried first, then less.
const CALLERS: usize = 64;
const STEP: f64 = 0.9;
/// Below this part of it tonic is given up.
const LEAST: f64 = 0.2;
/// Half of the calls take no longer, or it does not keep up: they pile up.
const KEEPS_UP_US: f64 = 10_000.0;

pub(super) fn measure(bench: &Bench, site: &Site, report: &mut impl FnMut(Vec<Row>)) {
    for flavour in FLAVOURS {
        let case = format!("rpc-open-loop, {}, {}", site.name, flavour_name(flavour));
        eprintln!("{case}");
        let made = rows(bench, site, flavour, &case);
        report(made.unwrap_or_else(|error| vec![Row::failed(&case, &error)]));
    }
}

fn rows(bench: &Bench, site: &Site, flavour: Flavour, case: &str) -> anyhow::Result<Vec<Row>> {
    // To a hundred, so that it can be said.
    let rate = (most_of_tonic(bench, site, flavour)? * SHARE / 100.0).round() * 100.0;
    let load = at(bench, rate);
    let mut sides = vec![Side::OURS];
    sides.extend(TONIC_CHANNELS.map(Side::tonic));
    let measured = bench.alternate(&site.place, flavour, &sides, &load);
    against_tonic(
        case,
        &format!("at {rate:.0} calls/s"),
        &measured,
        Target::at_most(0.7, 0.4),
    )
}

/// Ours, the first, against the tonic with the least time, over all its channels.
pub(super) fn against_tonic(
    case: &str,
    at: &str,
    measured: &[Measured],
    target: Target,
) -> anyhow::Result<Vec<Row>> {
    let (ours, tonics) = measured.split_at(1);
    let tonic = best(&tonics.iter().collect::<Vec<_>>(), |sample| -sample.p99_us)?;
    let told = throughput::told("tonic 0.14, TLS", tonic.side);
    let p99 = tonic.pairs(&ours[0], |sample| sample.p99_us)?;
    let p50 = tonic.pairs(&ours[0], |sample| sample.p50_us)?;
    let cpu = tonic.pairs(&ours[0], |sample| sample.cpu_us_per_call)?;
    let row = |figure: &str, unit: &str, pairs: &[_], target| {
        Row::paired(&format!("{case} ({figure})"), unit, &told, pairs, target)
    };
    Ok(vec![
        row("p99", &format!("µs {at}"), &p99, target),
        row("p50", &format!("µs {at}"), &p50, Target::NONE),
        row("CPU", "CPU µs/call, both ends", &cpu, Target::NONE),
    ])
}

/// The most calls per second at which tonic keeps up, with whichever number of channels.
fn most_of_tonic(bench: &Bench, site: &Site, flavour: Flavour) -> anyhow::Result<f64> {
    let sides = TONIC_CHANNELS.map(Side::tonic);
    let waiting = throughput::load(bench, CALLERS);
    let measured = bench.once(&site.place, flavour, &sides, &waiting);
    let most = best(&measured.iter().collect::<Vec<_>>(), |sample| {
        sample.calls_per_s
    })?;
    let most = most.median(|sample| sample.calls_per_s).unwrap_or(0.0);
    let mut rate = most;
    while rate >= most * LEAST {
        eprintln!("  does tonic keep up with {rate:.0} calls/s?");
        let measured = bench.once(&site.place, flavour, &sides, &at(bench, rate));
        let keeps_up = |side: &Measured| {
            side.median(|sample| sample.p50_us)
                .is_some_and(|p50_us| p50_us < KEEPS_UP_US)
        };
        if measured.iter().any(keeps_up) {
            return Ok(rate);
        }
        rate *= STEP;
    }
    bail!(
        "tonic keeps up with no rate above {:.0} calls/s",
        most * LEAST
    )
}

fn at(bench: &Bench, rate: f64) -> Load {
    Load {
        kind: LoadKind::Rate(rate),
        warm_ms: bench.millis(200, 500),
        measure_ms: bench.millis(1000, 4000),
    }
}
