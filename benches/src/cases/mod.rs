//! One file per case: what both sides do, in which order, and what is held against what.

mod dev_once;
mod idle;
mod ingest;
mod memory;
mod program;
mod small_files;
mod transfer;

use std::fmt;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::Context;
use clap::ValueEnum;
use tempfile::TempDir;

use crate::ContentOptions;
use crate::measure;
use crate::outcome::{Row, Target};
use crate::place::Place;

pub(crate) const MIB: u64 = 1024 * 1024;
const MEBI: usize = 1024 * 1024;
/// A file system in memory on every Linux machine.
const MEMORY: &str = "/dev/shm";

/// What can be measured.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Case {
    /// A file from node to node against TLS over TCP with BLAKE3
    TransferTls,
    /// Memory to a stream against iroh-blobs
    TransferIrohStream,
    /// Store to store against iroh-blobs
    TransferIrohStore,
    /// CPU of a put against b3sum and zstd
    Ingest,
    /// Many small files put and read elsewhere against rsync over ssh
    SmallFiles,
    /// Peak memory of a large put and get
    Memory,
    /// An idle node
    Idle,
    /// `warren dev --once`
    DevOnce,
}

impl Case {
    pub(crate) fn all() -> impl Iterator<Item = Self> {
        Self::value_variants().iter().copied()
    }

    pub(crate) fn name(self) -> String {
        self.to_possible_value()
            .map(|value| value.get_name().to_owned())
            .unwrap_or_default()
    }
}

/// The case lacks something that is not there on this machine, or not yet.
#[derive(Debug)]
pub(crate) struct NotMeasurable(pub(crate) String);

impl fmt::Display for NotMeasurable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for NotMeasurable {}

/// One measured value and the CPU time that it took, both ends together.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Sample {
    pub(crate) value: f64,
    pub(crate) cpu: f64,
}

/// How a pair of rows, the value and its CPU time, is told.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Telling<'a> {
    pub(crate) case: &'a str,
    pub(crate) peer: &'a str,
    pub(crate) unit: &'a str,
    pub(crate) cpu_unit: &'a str,
    pub(crate) target: Target,
}

impl Telling<'_> {
    pub(crate) fn rows(&self, ours: &[Sample], peer: &[Sample]) -> Vec<Row> {
        let pairs = |of: fn(&Sample) -> f64| {
            ours.iter()
                .map(of)
                .zip(peer.iter().map(of))
                .collect::<Vec<_>>()
        };
        let cpu_case = format!("{} (CPU)", self.case);
        vec![
            Row::paired(
                self.case,
                self.unit,
                self.peer,
                &pairs(|sample| sample.value),
                self.target,
            ),
            Row::paired(
                &cpu_case,
                self.cpu_unit,
                self.peer,
                &pairs(|sample| sample.cpu),
                Target::NONE,
            ),
        ]
    }
}

/// One side of a comparison: measures once, result verified.
pub(crate) type Side<'a> = &'a mut dyn FnMut() -> anyhow::Result<Sample>;

/// What the cases share.
pub(crate) struct Bench {
    pub(crate) place: Place,
    pub(crate) quick: bool,
    rounds: usize,
    warren: Option<PathBuf>,
    work: TempDir,
}

impl Bench {
    pub(crate) fn new(options: &ContentOptions, dir: &Path) -> anyhow::Result<Self> {
        Ok(Self {
            place: Place::new()?,
            quick: options.quick,
            rounds: options.rounds.unwrap_or(if options.quick { 3 } else { 5 }),
            warren: options.warren.clone(),
            work: Self::folder_in(dir)?,
        })
    }

    fn folder_in(dir: &Path) -> anyhow::Result<TempDir> {
        let dir = std::path::absolute(dir)?;
        let made = tempfile::Builder::new()
            .prefix("warren-bench-")
            .tempdir_in(&dir);
        made.with_context(|| format!("cannot make a folder in {}", dir.display()))
    }

    /// A folder for one case, on the disk chosen with `--dir`.
    pub(crate) fn folder(&self) -> anyhow::Result<TempDir> {
        Self::folder_in(self.work.path())
    }

    /// A folder for one case, in memory.
    pub(crate) fn folder_in_memory(&self) -> anyhow::Result<TempDir> {
        if file_system(Path::new(MEMORY)) != "tmpfs" {
            return Err(NotMeasurable(format!("{MEMORY} is no tmpfs")).into());
        }
        Self::folder_in(Path::new(MEMORY))
    }

    /// The `warren` binary.
    pub(crate) fn warren(&self) -> anyhow::Result<&Path> {
        let reason =
            || NotMeasurable("not measurable yet: no `warren` binary was built".to_owned());
        Ok(self.warren.as_deref().ok_or_else(reason)?)
    }

    /// The rows of a case. What fails is a row as well.
    pub(crate) fn run(&self, case: Case) -> Vec<Row> {
        let rows = match case {
            Case::TransferTls => transfer::tls(self),
            Case::TransferIrohStream => transfer::iroh_stream(self),
            Case::TransferIrohStore => transfer::iroh_store(self),
            Case::Ingest => ingest::measure(self),
            Case::SmallFiles => small_files::measure(self),
            Case::Memory => memory::measure(self),
            Case::Idle => idle::measure(self),
            Case::DevOnce => dev_once::measure(self),
        };
        rows.unwrap_or_else(|error| {
            if error.is::<NotMeasurable>() {
                vec![Row::not_measured(&case.name(), &error)]
            } else {
                vec![Row::failed(&case.name(), &error)]
            }
        })
    }

    /// Measures every side once per round, in turn, the order reversed from round to round. Gives the samples of each
    /// side in the order of the rounds.
    pub(crate) fn alternate(&self, sides: &mut [Side<'_>]) -> anyhow::Result<Vec<Vec<Sample>>> {
        // What the largest side uses for files and buffers.
        let memory_bytes = if self.quick { 640 * MEBI } else { 2560 * MEBI };
        let mut samples = vec![Vec::new(); sides.len()];
        for round in 0..self.rounds {
            let mut order: Vec<usize> = (0..sides.len()).collect();
            if round % 2 == 1 {
                order.reverse();
            }
            for index in order {
                measure::settle(memory_bytes)?;
                let sample = sides[index]()?;
                eprintln!(
                    "  round {}, side {}: {:.2}, CPU {:.2}",
                    round + 1,
                    index + 1,
                    sample.value,
                    sample.cpu
                );
                samples[index].push(sample);
            }
        }
        Ok(samples)
    }

    pub(crate) fn rounds(&self) -> usize {
        self.rounds
    }

    pub(crate) fn announce(&self) {
        println!("{}", self.conditions());
    }

    /// Everything that a figure depends on, in one line.
    pub(crate) fn conditions(&self) -> String {
        format!(
            "{}, files on {}, {} rounds{}; {}",
            measure::machine(),
            file_system(self.work.path()),
            self.rounds,
            if self.quick { ", quick" } else { "" },
            self.place.description(),
        )
    }
}

/// The type of the file system that holds `path`.
fn file_system(path: &Path) -> String {
    let asked = Command::new("df").arg("--output=fstype").arg(path).output();
    let text = asked
        .map(|output| String::from_utf8_lossy(&output.stdout).into_owned())
        .unwrap_or_default();
    text.lines()
        .nth(1)
        .unwrap_or("an unknown file system")
        .trim()
        .to_owned()
}
