//! `warren-bench`: Warren beside the peers it is compared with, alternately in one run; `cargo xtask bench` starts it.
//!
//! Owns the cases of `docs/benchmarks.md`: those of content, each one file in [`cases`], and those of calls in [`calls`]. Every side of every measurement is a process of
//! its own (a [`roles::Role`], this binary again, or a stock program), so that CPU time and memory are its own.
//! Never measures what it has not verified: each result is checked against what was sent before its time counts.
//!
//! Start at [`cases`] or [`calls`], then [`outcome`] for what a row says, [`place`] for where the sides run.

mod calls;
mod cases;
mod child;
mod material;
mod measure;
mod outcome;
mod place;
mod roles;

use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Args, Parser, Subcommand};

use crate::cases::Case;

#[derive(Parser)]
#[command(name = "warren-bench")]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Documents put, moved and read
    Content(ContentOptions),
    /// Calls made and answered
    Rpc(calls::RpcOptions),
    /// One side of a measurement; started by the others
    #[command(hide = true, subcommand)]
    Role(roles::Role),
}

/// What to measure.
#[derive(Args)]
pub(crate) struct ContentOptions {
    /// Smaller sizes and fewer rounds, the same shape
    #[arg(long)]
    pub(crate) quick: bool,
    /// Also write the rows as JSON to this file
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    /// Run this case only; may be given again
    #[arg(long, value_enum, value_name = "CASE")]
    only: Vec<Case>,
    /// Pairs to measure; 5, or 3 with --quick
    #[arg(long)]
    pub(crate) rounds: Option<usize>,
    /// Where files and stores are made; a temporary folder in it is removed afterwards
    #[arg(long, value_name = "DIR", default_value = ".")]
    dir: PathBuf,
    /// The `warren` binary, for the cases that need a whole node
    #[arg(long, value_name = "FILE")]
    pub(crate) warren: Option<PathBuf>,
    /// Wait until the load average of the last minute is below 0.5, at most this many seconds, before each case
    #[arg(long, value_name = "SECONDS", default_value_t = 0)]
    wait_quiet: u64,
}

fn main() -> ExitCode {
    // Both providers may be linked in by a peer, so rustls cannot choose by itself.
    if rustls::crypto::aws_lc_rs::default_provider()
        .install_default()
        .is_err()
    {
        eprintln!("error: another TLS provider was installed first");
        return ExitCode::FAILURE;
    }
    let outcome = match Cli::parse().command {
        Command::Content(options) => content(&options),
        Command::Rpc(options) => calls::run(&options),
        Command::Role(role) => roles::run(role).map(|()| true),
    };
    match outcome {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

/// True if every case that could be measured met its must.
fn content(options: &ContentOptions) -> anyhow::Result<bool> {
    let bench = cases::Bench::new(options, &options.dir)?;
    bench.announce();
    let mut rows = Vec::new();
    for case in Case::all().filter(|case| options.only.is_empty() || options.only.contains(case)) {
        measure::wait_until_quiet(options.wait_quiet);
        eprintln!(
            "\n{}: load average {:.2}",
            case.name(),
            measure::load_average()
        );
        let made = bench.run(case);
        outcome::print(&made);
        rows.extend(made);
    }
    println!("\n{}", bench.conditions());
    outcome::print(&rows);
    if let Some(file) = &options.json {
        outcome::write_json(file, &bench.conditions(), &rows)?;
    }
    Ok(rows.iter().all(outcome::Row::is_acceptable))
}
