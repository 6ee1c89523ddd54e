//! The project's own commands: `cargo xtask tidy` (the rules of the house), `cargo xtask test` (everything that proves
//! Warren), `cargo xtask bench` (every figure of its documents) and `cargo xtask image` (the container images).
//!
//! Start at [`tidy`] for the rules, each of them one function from the [`tidy::repository::Repository`] to findings;
//! at [`proof`] for the steps of the test command and how it counts them.

mod bench;
mod image;
mod proof;
mod tidy;

use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Parser, Subcommand};

/// Warren's own commands.
#[derive(Parser)]
#[command(name = "cargo xtask", bin_name = "cargo xtask")]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Check the rules of the house: arrows, pure cores, sizes, docs, leftovers, licences
    Tidy,
    /// Run everything that proves Warren; the last line reads `N passed, N failed, N skipped`
    Test(proof::TestOptions),
    /// Measure Warren beside the peers it is compared with
    Bench(bench::BenchOptions),
    /// Build the container images warren/network and warren/discovery with podman
    Image(image::ImageOptions),
}

fn main() -> ExitCode {
    let outcome = match Cli::parse().command {
        Command::Tidy => tidy::report(&root()),
        Command::Test(options) => proof::run(&root(), &options),
        Command::Bench(options) => bench::run(&root(), &options),
        Command::Image(options) => image::run(&root(), &options),
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

/// The repository this program was built from.
fn root() -> PathBuf {
    let mut root = PathBuf::from(env!("CARGO_MANIFEST_DIR"));
    root.pop();
    root
}
