//! Callers that call again once they are answered: calls per second and their CPU time, against each peer; and against
//! tonic the median time of a call that is alone.

use super::side::{Load, LoadKind, Measured, Sample, Side};
use super::{Bench, Case, FLAVOURS, Site, flavour_name};
use crate::outcome::{Row, Target};
use crate::roles::calls::Library;

const CALLERS: [usize; 3] = [1, 64, 256];
/// Connections that tonic is measured with; the best counts.
pub(super) const TONIC_CHANNELS: [usize; 3] = [1, 2, 8];

/// What ours is held against.
pub(super) struct Peer {
    pub(super) case: Case,
    name: &'static str,
    library: Library,
    told: &'static str,
    /// With 64 callers, and with 256.
    targets: [Target; 2],
}

pub(super) const PEERS: [Peer; 5] = [
    Peer {
        case: Case::Tonic,
        name: "rpc-tonic",
        library: Library::Tonic,
        told: "tonic 0.14, TLS",
        targets: [Target::at_least(3.0, 4.0), Target::at_least(5.0, 8.0)],
    },
    Peer {
        case: Case::Tarpc,
        name: "rpc-tarpc",
        library: Library::Tarpc,
        told: "tarpc 0.38, bincode, TLS",
        targets: [Target::at_least(0.9, 1.2), Target::at_least(1.1, 1.5)],
    },
    Peer {
        case: Case::Quinn,
        name: "rpc-quinn",
        library: Library::Quinn,
        told: "quinn 0.11, a stream per call",
        targets: [Target::at_least(1.7, 2.2); 2],
    },
    Peer {
        case: Case::Rpcnet,
        name: "rpc-rpcnet",
        library: Library::Rpcnet,
        told: "rpcnet 0.1.0",
        targets: [Target::at_least(1.6, 2.5); 2],
    },
    Peer {
        case: Case::TlsFrames,
        name: "rpc-tls-frames",
        library: Library::Frames,
        told: "our frames over TLS, TCP",
        targets: [Target::at_least(0.5, 0.75); 2],
    },
];

impl Peer {
    fn sides(&self, callers: usize) -> Vec<Side> {
        let counts: &[usize] = if self.library == Library::Tonic && callers > 1 {
            &TONIC_CHANNELS
        } else {
            &[1]
        };
        let side = |&channels| Side {
            library: self.library,
            channels,
        };
        counts.iter().map(side).collect()
    }

    fn target(&self, callers: usize) -> Target {
        match callers {
            64 => self.targets[0],
            256 => self.targets[1],
            _ => Target::NONE,
        }
    }
}

/// All peers beside ours, for each flavour and each number of callers.
pub(super) fn measure(
    bench: &Bench,
    site: &Site,
    peers: &[&Peer],
    report: &mut impl FnMut(Vec<Row>),
) {
    for flavour in FLAVOURS {
        for callers in CALLERS {
            let circumstances = format!("c = {callers}, {}, {}", site.name, flavour_name(flavour));
            eprintln!("{circumstances}");
            let mut sides = vec![Side::OURS];
            sides.extend(peers.iter().flat_map(|peer| peer.sides(callers)));
            let measured = bench.alternate(&site.place, flavour, &sides, &load(bench, callers));
            let (ours, others) = measured.split_at(1);
            for peer in peers {
                let made = rows(peer, callers, &circumstances, &ours[0], others);
                let case = format!("{}, {circumstances}", peer.name);
                report(made.unwrap_or_else(|error| vec![Row::failed(&case, &error)]));
            }
        }
    }
}

/// What callers do in these benchmarks.
pub(super) fn load(bench: &Bench, callers: usize) -> Load {
    Load {
        kind: LoadKind::Callers(callers),
        warm_ms: bench.millis(200, 500),
        measure_ms: bench.millis(700, 2000),
    }
}

fn rows(
    peer: &Peer,
    callers: usize,
    circumstances: &str,
    ours: &Measured,
    others: &[Measured],
) -> anyhow::Result<Vec<Row>> {
    let of_peer: Vec<_> = others
        .iter()
        .filter(|other| other.side.library == peer.library)
        .collect();
    let best = best(&of_peer, |sample| sample.calls_per_s)?;
    let name = told(peer.told, best.side);
    let row = |suffix: &str, unit, of: fn(&Sample) -> f64, target| {
        let case = format!("{}{suffix}, {circumstances}", peer.name);
        anyhow::Ok(Row::paired(
            &case,
            unit,
            &name,
            &best.pairs(ours, of)?,
            target,
        ))
    };
    let mut rows = vec![
        row(
            "",
            "calls/s",
            |sample| sample.calls_per_s,
            peer.target(callers),
        )?,
        row(
            " (CPU)",
            "CPU µs/call, both ends",
            |sample| sample.cpu_us_per_call,
            Target::NONE,
        )?,
    ];
    if peer.library == Library::Tonic && callers == 1 {
        let target = Target::at_most(0.7, 0.55);
        rows.push(row(" (p50)", "µs", |sample| sample.p50_us, target)?);
    }
    Ok(rows)
}

/// How a side of a peer is called in rows.
pub(super) fn told(peer: &str, side: Side) -> String {
    match side.channels {
        1 => peer.to_owned(),
        count => format!("{peer}, {count} channels"),
    }
}

/// The side of a peer with the largest median.
pub(super) fn best<'a>(
    sides: &[&'a Measured],
    of: fn(&Sample) -> f64,
) -> anyhow::Result<&'a Measured> {
    let ranked = sides
        .iter()
        .filter_map(|side| Some((side.median(of)?, *side)));
    match ranked.max_by(|(one, _), (other, _)| one.total_cmp(other)) {
        Some((_, best)) => Ok(best),
        // All failed: say how the first did.
        None => match sides.first() {
            Some(first) => first.samples().map(|_| *first),
            None => anyhow::bail!("nothing was measured"),
        },
    }
}
