//! `cargo xtask test`: one step after the other, each with a heading and its time, none stopping the next; the last
//! line of output reads `N passed, N failed, N skipped`, and nothing else decides the exit code.

pub(crate) mod cargo;
pub(crate) mod packages;
pub(crate) mod tally;

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::Context;
use clap::{Args, ValueEnum};

use cargo::Cargo;
use tally::Tally;

/// Where a test writes one line for itself when it cannot run here; see CONTRIBUTING.md.
const SKIP_LOG: &str = "WARREN_SKIP_LOG";

/// The binary that end-to-end tests start.
const BINARY: &str = "WARREN_BIN";

/// What to run.
#[derive(Args)]
pub(crate) struct TestOptions {
    /// Run this step only; may be given again
    #[arg(long, value_enum, value_name = "STEP")]
    only: Vec<Step>,
    /// Run only the tests whose name contains this
    #[arg(long, value_name = "TEXT")]
    filter: Option<String>,
}

/// A step of the proof, in the order they run.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Step {
    /// Install what the tests use and this machine lacks
    Packages,
    /// The format of the code
    Format,
    /// Clippy on everything, warnings as errors
    Clippy,
    /// The documentation builds, warnings as errors
    Docs,
    /// The rules of the house
    Tidy,
    /// Build the `warren` binary for the end-to-end tests
    Build,
    /// Unit, scenario, simulation, end-to-end and documentation tests
    Tests,
    /// Replay the fuzz corpus
    Fuzz,
}

impl Step {
    fn heading(self) -> &'static str {
        match self {
            Self::Packages => "packages the tests use",
            Self::Format => "format",
            Self::Clippy => "clippy",
            Self::Docs => "documentation",
            Self::Tidy => "rules of the house",
            Self::Build => "the warren binary",
            Self::Tests => "tests",
            Self::Fuzz => "fuzz corpus",
        }
    }
}

/// Runs the steps; true if nothing failed. Says everything on standard output, the totals last.
///
/// # Errors
/// If a temporary file for skipped tests cannot be made.
pub(crate) fn run(root: &Path, options: &TestOptions) -> anyhow::Result<bool> {
    let skip_log = std::env::temp_dir().join(format!("warren-skipped-{}", std::process::id()));
    let outcome = Proof {
        root,
        options,
        skip_log: skip_log.clone(),
    }
    .run();
    // It may never have been written: no test skipped.
    let _ = std::fs::remove_file(skip_log);
    outcome
}

struct Proof<'a> {
    root: &'a Path,
    options: &'a TestOptions,
    skip_log: PathBuf,
}

impl Proof<'_> {
    fn run(&self) -> anyhow::Result<bool> {
        std::fs::write(&self.skip_log, "")
            .with_context(|| format!("cannot write {}", self.skip_log.display()))?;
        let mut total = Tally::default();
        let mut table = Vec::new();
        for step in Step::value_variants()
            .iter()
            .copied()
            .filter(|step| self.wants(*step))
        {
            println!("\n== {}", step.heading());
            let started = Instant::now();
            let tally = self.step(step);
            let took = started.elapsed();
            println!("== {}: {tally} ({})", step.heading(), seconds(took));
            table.push((step, tally, took));
            total += tally;
        }
        println!(
            "\n{:<24} {:>8} {:>8} {:>8} {:>9}",
            "step", "passed", "failed", "skipped", "time"
        );
        for (
            step,
            Tally {
                passed,
                failed,
                skipped,
            },
            took,
        ) in table
        {
            println!(
                "{:<24} {passed:>8} {failed:>8} {skipped:>8} {:>9}",
                step.heading(),
                seconds(took)
            );
        }
        for line in self.skipped() {
            println!("{line}");
        }
        println!("{total}");
        Ok(total.failed == 0)
    }

    fn wants(&self, step: Step) -> bool {
        self.options.only.is_empty() || self.options.only.contains(&step)
    }

    fn step(&self, step: Step) -> Tally {
        match step {
            Step::Packages => packages::ensure(packages::FOR_TESTS),
            Step::Format => self.cargo("fmt").args(["--all", "--check"]).succeeds(),
            Step::Clippy => self
                .cargo("clippy")
                .args(["--workspace", "--all-targets", "--", "-D", "warnings"])
                .succeeds(),
            Step::Docs => self
                .cargo("doc")
                .args(["--workspace", "--no-deps", "--document-private-items"])
                .env("RUSTDOCFLAGS", "-D warnings")
                .succeeds(),
            Step::Tidy => match crate::tidy::report(self.root) {
                Ok(tidy) => Tally::item(tidy),
                Err(error) => {
                    println!("error: {error:#}");
                    Tally::item(false)
                }
            },
            Step::Build => self
                .cargo("build")
                .args(["--package", "warren", "--bin", "warren"])
                .succeeds(),
            Step::Tests => self.tests(&["--workspace", "--exclude", "warren-fuzz"]),
            Step::Fuzz => self.tests(&["--package", "warren-fuzz"]),
        }
    }

    /// Runs tests, all of them also after a failure, and counts each.
    fn tests(&self, packages: &[&str]) -> Tally {
        let before = self.skipped().len();
        let counted = self
            .cargo("test")
            .args(["--no-fail-fast"])
            .args(packages)
            .args(
                self.options
                    .filter
                    .as_deref()
                    .map(|filter| ["--", filter])
                    .into_iter()
                    .flatten(),
            )
            .env(SKIP_LOG, &self.skip_log)
            .env(BINARY, target(self.root).join("debug/warren"))
            .counts();
        counted.with_skipped(self.skipped().len() - before)
    }

    /// What tests wrote of themselves, a line per skipped test.
    fn skipped(&self) -> Vec<String> {
        let log = std::fs::read_to_string(&self.skip_log).unwrap_or_default();
        log.lines()
            .filter(|line| line.starts_with("SKIPPED:"))
            .map(str::to_owned)
            .collect()
    }

    fn cargo(&self, command: &str) -> Cargo {
        Cargo::new(self.root, command)
    }
}

/// Where cargo builds the product.
pub(crate) fn target(root: &Path) -> PathBuf {
    std::env::var_os("CARGO_TARGET_DIR")
        .map_or_else(|| root.join("target"), |folder| root.join(folder))
}

fn seconds(took: Duration) -> String {
    format!("{:.1} s", took.as_secs_f64())
}
