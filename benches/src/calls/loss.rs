//! A line that loses 1 % of the packets each way and takes 20 ms there and back: the time that 99 of 100 calls take at a
//! rate that leaves the machine idle, counted from when each was due, against tonic's.

use std::time::Duration;

use warren_lab::{Impairment, Probability};

use super::open_loop::against_tonic;
use super::side::{Load, LoadKind, Side};
use super::throughput::TONIC_CHANNELS;
use super::{Bench, flavour_name};
use crate::outcome::{Row, Target};
use crate::place::Place;
use crate::roles::calls::Flavour;

/// Calls per second.
const RATE: f64 = 1000.0;
/// The machine is idle, so threads change nothing.
const FLAVOUR: Flavour = Flavour::CurrentThread;

pub(super) fn measure(bench: &Bench, report: &mut impl FnMut(Vec<Row>)) {
    let case = format!("rpc-loss, 1 %, 20 ms round trip, {}", flavour_name(FLAVOUR));
    eprintln!("{case}");
    let weather = Impairment {
        loss: Probability::percent(1),
        ..Impairment::delay(Duration::from_millis(10))
    };
    report(match Place::with_weather(&weather) {
        Err(error) => vec![Row::not_measured(&case, &error)],
        Ok(place) => {
            rows(bench, &place, &case).unwrap_or_else(|error| vec![Row::failed(&case, &error)])
        }
    });
}

fn rows(bench: &Bench, place: &Place, case: &str) -> anyhow::Result<Vec<Row>> {
    let load = Load {
        kind: LoadKind::Rate(RATE),
        warm_ms: 500,
        measure_ms: bench.millis(4000, 15_000),
    };
    let mut sides = vec![Side::OURS];
    sides.extend(TONIC_CHANNELS.map(Side::tonic));
    let measured = bench.alternate(place, FLAVOUR, &sides, &load);
    against_tonic(
        case,
        &format!("at {RATE:.0} calls/s"),
        &measured,
        Target::at_most(0.7, 0.5),
    )
}
