//! `warren-bench rpc`: 64-byte calls through ours and through the peers, client and server each a process.
//!
//! Every peer is measured beside ours in the same rounds: [`throughput`] with callers that call again once answered,
//! [`open_loop`] at a fixed rate, [`loss`] over a bad line. [`side`] is one measurement.

mod loss;
mod open_loop;
mod side;
mod throughput;

use std::path::PathBuf;

use clap::{Args, ValueEnum};
use tempfile::TempDir;

use self::side::{Load, Measured, Side};
use crate::measure;
use crate::outcome::{self, Row, median};
use crate::place::Place;
use crate::roles;
use crate::roles::calls::Flavour;

const FLAVOURS: [Flavour; 2] = [Flavour::CurrentThread, Flavour::MultiThread];

/// What to measure.
#[derive(Args)]
pub(crate) struct RpcOptions {
    /// Shorter measurements and fewer rounds, the same shape
    #[arg(long)]
    quick: bool,
    /// Also write the rows as JSON to this file
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    /// Run this case only; may be given again
    #[arg(long, value_enum, value_name = "CASE")]
    only: Vec<Case>,
    /// Rounds to measure; 5, or 3 with --quick
    #[arg(long)]
    rounds: Option<usize>,
    /// Wait until the load average of the last minute is below 0.5, at most this many seconds, before each place
    #[arg(long, value_name = "SECONDS", default_value_t = 0)]
    wait_quiet: u64,
}

/// What ours is held against.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Case {
    /// Calls per second, and the median time of a lone call, against tonic
    Tonic,
    /// Calls per second against tarpc
    Tarpc,
    /// Calls per second against quinn with a stream per call
    Quinn,
    /// Calls per second against the published rpcnet
    Rpcnet,
    /// Calls per second against our frames over TLS over TCP
    TlsFrames,
    /// Times of calls at 70 % of what tonic can do, against tonic
    OpenLoop,
    /// Times of calls over a line that loses 1 %, against tonic
    Loss,
}

/// What the cases share.
struct Bench {
    rounds: usize,
    quick: bool,
    pki: TempDir,
}

/// One place with a name for rows.
struct Site {
    name: &'static str,
    place: Place,
}

/// Measures; true if every case that could be measured met its must.
pub(crate) fn run(options: &RpcOptions) -> anyhow::Result<bool> {
    let pki = tempfile::tempdir()?;
    roles::warren::write_pki(pki.path())?;
    roles::calls::write_pki(pki.path())?;
    let bench = Bench {
        rounds: options.rounds.unwrap_or(if options.quick { 3 } else { 5 }),
        quick: options.quick,
        pki,
    };
    let is_wanted = |case: &Case| options.only.is_empty() || options.only.contains(case);
    let conditions = format!(
        "{}, {} rounds{}",
        measure::machine(),
        bench.rounds,
        if bench.quick { ", quick" } else { "" },
    );
    println!("{conditions}");
    let mut rows = Vec::new();
    let mut report = |made: Vec<Row>| {
        outcome::print(&made);
        rows.extend(made);
    };
    for site in sites()? {
        eprintln!("\n{}: {}", site.name, site.place.description());
        measure::wait_until_quiet(options.wait_quiet);
        let peers: Vec<_> = throughput::PEERS
            .iter()
            .filter(|peer| is_wanted(&peer.case))
            .collect();
        if !peers.is_empty() {
            throughput::measure(&bench, &site, &peers, &mut report);
        }
        if is_wanted(&Case::OpenLoop) {
            open_loop::measure(&bench, &site, &mut report);
        }
    }
    if is_wanted(&Case::Loss) {
        measure::wait_until_quiet(options.wait_quiet);
        loss::measure(&bench, &mut report);
    }
    println!("\n{conditions}; at the end: {:.2}", measure::load_average());
    outcome::print(&rows);
    if let Some(file) = &options.json {
        outcome::write_json(file, &conditions, &rows)?;
    }
    Ok(rows.iter().all(Row::is_acceptable))
}

/// Loopback, and the lab where there can be one.
fn sites() -> anyhow::Result<Vec<Site>> {
    let mut sites = vec![Site {
        name: "loopback",
        place: Place::loopback(),
    }];
    let place = Place::new()?;
    if place.is_lab() {
        let name = "MTU 1500";
        sites.push(Site { name, place });
    } else {
        eprintln!("nothing is measured at MTU 1500: {}", place.description());
    }
    Ok(sites)
}

impl Bench {
    fn millis(&self, quick: u64, full: u64) -> u64 {
        if self.quick { quick } else { full }
    }

    /// Measures every side once per round, in turn, the order reversed from round to round. A side that fails once is
    /// not measured again.
    fn alternate(
        &self,
        place: &Place,
        flavour: Flavour,
        sides: &[Side],
        load: &Load,
    ) -> Vec<Measured> {
        self.rounds_of(self.rounds, place, flavour, sides, load)
    }

    /// The same for a single round.
    fn once(&self, place: &Place, flavour: Flavour, sides: &[Side], load: &Load) -> Vec<Measured> {
        self.rounds_of(1, place, flavour, sides, load)
    }

    fn rounds_of(
        &self,
        rounds: usize,
        place: &Place,
        flavour: Flavour,
        sides: &[Side],
        load: &Load,
    ) -> Vec<Measured> {
        let mut measured: Vec<Measured> = sides.iter().copied().map(Measured::new).collect();
        for round in 0..rounds {
            let mut order: Vec<usize> = (0..sides.len()).collect();
            if round % 2 == 1 {
                order.reverse();
            }
            for index in order {
                measured[index].measure(place, flavour, load, self.pki.path());
            }
        }
        measured
    }
}

/// How a flavour is called in rows.
const fn flavour_name(flavour: Flavour) -> &'static str {
    match flavour {
        Flavour::CurrentThread => "current-thread",
        Flavour::MultiThread => "multi-thread",
    }
}
