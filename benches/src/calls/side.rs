//! One side of a comparison and one measurement of it.

use std::path::Path;

use anyhow::{Context, anyhow};
use clap::ValueEnum;

use super::median;
use crate::child::{Report, Running};
use crate::place::Place;
use crate::roles::calls::{CallReport, Flavour, Library};

/// A library and over how many connections its client spreads the calls.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Side {
    pub(super) library: Library,
    pub(super) channels: usize,
}

impl Side {
    pub(super) const OURS: Self = Self {
        library: Library::Warren,
        channels: 1,
    };

    pub(super) const fn tonic(channels: usize) -> Self {
        Self {
            library: Library::Tonic,
            channels,
        }
    }
}

/// What a client does.
#[derive(Debug, Clone, Copy)]
pub(super) struct Load {
    pub(super) kind: LoadKind,
    pub(super) warm_ms: u64,
    pub(super) measure_ms: u64,
}

/// How calls are begun.
#[derive(Debug, Clone, Copy)]
pub(super) enum LoadKind {
    /// Each of so many callers calls again once it is answered.
    Callers(usize),
    /// So many a second, whatever becomes of them.
    Rate(f64),
}

/// What came of one measurement.
#[derive(Debug, Clone, Copy)]
pub(super) struct Sample {
    pub(super) calls_per_s: f64,
    /// User and system time of both ends.
    pub(super) cpu_us_per_call: f64,
    pub(super) p50_us: f64,
    pub(super) p99_us: f64,
}

/// A side and what was measured so far.
pub(super) struct Measured {
    pub(super) side: Side,
    samples: Vec<Sample>,
    failed: Option<anyhow::Error>,
}

impl Measured {
    pub(super) fn new(side: Side) -> Self {
        Self {
            side,
            samples: Vec::new(),
            failed: None,
        }
    }

    /// Once more, unless it failed before.
    pub(super) fn measure(&mut self, place: &Place, flavour: Flavour, load: &Load, pki: &Path) {
        if self.failed.is_some() {
            return;
        }
        let Side { library, channels } = self.side;
        match measure(place, flavour, self.side, load, pki) {
            Ok(sample) => {
                eprintln!(
                    "  {library:?} ({channels}): {:.0} calls/s, CPU {:.1} µs/call, p50 {:.0} µs, p99 {:.0} µs",
                    sample.calls_per_s, sample.cpu_us_per_call, sample.p50_us, sample.p99_us
                );
                self.samples.push(sample);
            }
            Err(error) => {
                eprintln!("  {library:?} ({channels}): {error:#}");
                self.failed = Some(error);
            }
        }
    }

    /// All samples, if none failed.
    pub(super) fn samples(&self) -> anyhow::Result<&[Sample]> {
        match &self.failed {
            Some(error) => Err(anyhow!("{:?}: {error:#}", self.side.library)),
            None => Ok(&self.samples),
        }
    }

    /// The median of one figure; `None` when the side failed.
    pub(super) fn median(&self, of: fn(&Sample) -> f64) -> Option<f64> {
        let values: Vec<f64> = self.samples().ok()?.iter().map(of).collect();
        median(&values)
    }

    /// One figure of ours and of this side, round by round.
    pub(super) fn pairs(
        &self,
        ours: &Self,
        of: fn(&Sample) -> f64,
    ) -> anyhow::Result<Vec<(f64, f64)>> {
        let (ours, peer) = (ours.samples()?, self.samples()?);
        Ok(ours.iter().map(of).zip(peer.iter().map(of)).collect())
    }
}

/// A server and a client, both fresh.
fn measure(
    place: &Place,
    flavour: Flavour,
    side: Side,
    load: &Load,
    pki: &Path,
) -> anyhow::Result<Sample> {
    let pki = pki.to_str().context("the temporary folder has no name")?;
    let (library, flavour) = (name(&side.library), name(&flavour));
    let listen = place.here.address.to_string();
    let serve = ["call-serve", &library, &flavour, pki, &listen];
    let mut server = Running::start(&place.here, &serve)?;
    let address = server.ready()?.address;
    let (channels, warm, measured) = (
        side.channels.to_string(),
        load.warm_ms.to_string(),
        load.measure_ms.to_string(),
    );
    let (kind, value) = match load.kind {
        LoadKind::Callers(count) => ("--concurrency", count.to_string()),
        LoadKind::Rate(rate) => ("--rate", rate.to_string()),
    };
    let call = [
        "call-load",
        &library,
        &flavour,
        pki,
        &address,
        "--channels",
        &channels,
        kind,
        &value,
        "--warm-ms",
        &warm,
        "--measure-ms",
        &measured,
    ];
    let mut client = Running::start(&place.there, &call)?;
    client.ready()?;
    server.tell()?;
    let called: CallReport = client.finish()?;
    let served: Report = server.finish()?;
    #[expect(clippy::cast_precision_loss, reason = "some millions of calls")]
    let calls = called.calls as f64;
    Ok(Sample {
        calls_per_s: calls / called.wall_s,
        cpu_us_per_call: (called.cpu_s + served.cpu_s) * 1e6 / calls,
        p50_us: called.p50_us,
        p99_us: called.p99_us,
    })
}

/// As the role's options spell it.
fn name(value: &impl ValueEnum) -> String {
    value
        .to_possible_value()
        .map(|value| value.get_name().to_owned())
        .unwrap_or_default()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used)]

    use super::*;

    fn sample(calls_per_s: f64) -> Sample {
        Sample {
            calls_per_s,
            cpu_us_per_call: 1.0,
            p50_us: 1.0,
            p99_us: 1.0,
        }
    }

    #[test]
    fn given_a_side_that_failed_once_then_it_has_no_figures() {
        let mut ours = Measured::new(Side::OURS);
        ours.samples = vec![sample(4.0), sample(6.0)];
        let mut peer = Measured::new(Side::tonic(2));
        peer.samples = vec![sample(2.0), sample(3.0)];
        let pairs = peer.pairs(&ours, |sample| sample.calls_per_s).unwrap();
        assert_eq!(pairs, [(4.0, 2.0), (6.0, 3.0)]);
        assert_eq!(ours.median(|sample| sample.calls_per_s), Some(5.0));
        peer.failed = Some(anyhow!("no answer"));
        assert!(peer.pairs(&ours, |sample| sample.calls_per_s).is_err());
        assert_eq!(peer.median(|sample| sample.calls_per_s), None);
    }
}
