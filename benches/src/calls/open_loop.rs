//! Calls begun at a fixed rate, 70 % of the most that tonic answers on this machine: the time that 99 of 100 take, counted
//! from when each was due, against tonic's. So a pause counts for every call that it held up.

use super::side::{Load, LoadKind, Measured, Side};
use super::throughput::{self, TONIC_CHANNELS, best};
use super::{Bench, FLAVOURS, Site, flavour_name};
use crate::outcome::{Row, Target};
use crate::roles::calls::Flavour;

/// Of tonic's most.
const SHARE: f64 = 0.7;
/// With which it is looked for.
const CALLERS: [usize; 2] = [64, 256];

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
    let load = Load {
        kind: LoadKind::Rate(rate),
        warm_ms: bench.millis(200, 500),
        measure_ms: bench.millis(1000, 4000),
    };
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
    let told = format!("tonic 0.14, TLS, {} channels", tonic.side.channels);
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

/// Calls per second of tonic, callers waiting for their answers, over all channels and numbers of callers.
fn most_of_tonic(bench: &Bench, site: &Site, flavour: Flavour) -> anyhow::Result<f64> {
    let sides = TONIC_CHANNELS.map(Side::tonic);
    let mut most: f64 = 0.0;
    for callers in CALLERS {
        let load = throughput::load(bench, callers);
        let measured = bench.alternate(&site.place, flavour, &sides, &load);
        let best = best(&measured.iter().collect::<Vec<_>>(), |sample| {
            sample.calls_per_s
        })?;
        most = most.max(best.median(|sample| sample.calls_per_s).unwrap_or(0.0));
    }
    Ok(most)
}
