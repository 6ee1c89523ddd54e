//! `cargo xtask bench`: installs what the peers are, builds `benches/` and where it is measured the product in release
//! mode, and starts `warren-bench`, which measures.
//!
//! The benchmarks are built into `benches/target`, the product where `cargo run --release` has it.

use std::os::unix::fs::{OpenOptionsExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, ensure};
use clap::{Args, ValueEnum};

use crate::proof;
use crate::proof::cargo::Cargo;
use crate::proof::packages::{self, Tool, tool};

/// Peers of content that come with Debian. A case that lacks its peer says so and is not measured.
const CONTENT_PEERS: &[Tool] = &[
    tool("b3sum", "b3sum", "ingest is held against hashing"),
    tool("zstd", "zstd", "ingest is held against compressing"),
    tool(
        "rsync",
        "rsync",
        "small files are held against rsync over ssh",
    ),
    tool(
        "ssh",
        "openssh-client",
        "small files are held against rsync over ssh",
    ),
    tool(
        "sshd",
        "openssh-server",
        "small files are held against rsync over ssh; started in the lab only",
    ),
];

/// What the lab is made of.
const LAB: &[Tool] = &[
    tool(
        "ip",
        "iproute2",
        "the two nodes are network namespaces of the lab",
    ),
    tool("nft", "nftables", "the lab needs it"),
    tool("tcpdump", "tcpdump", "the lab needs it"),
    tool("ethtool", "ethtool", "the lab needs it"),
    tool("ping", "iputils-ping", "the lab needs it"),
];

/// Cases that need the `warren` binary; the others measure its libraries.
const WITH_BINARY: &[&str] = &["idle", "dev-once"];

/// Asked by Debian's packages before they start a service.
const SERVICE_POLICY: &str = "/usr/sbin/policy-rc.d";

/// What to measure.
#[derive(Args)]
pub(crate) struct BenchOptions {
    /// What is measured
    #[arg(value_enum)]
    plane: Plane,
    /// Smaller sizes and fewer rounds, the same shape
    #[arg(long)]
    quick: bool,
    /// Also write the rows as JSON to this file
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    /// Run this case only; may be given again
    #[arg(long, value_name = "CASE")]
    only: Vec<String>,
    /// Rounds to measure; 5, or 3 with --quick
    #[arg(long)]
    rounds: Option<usize>,
    /// Where `content` makes files and stores; `benches/target/work` when left out
    #[arg(long, value_name = "DIR")]
    dir: Option<PathBuf>,
    /// Wait for a quiet machine before each case, at most this many seconds
    #[arg(long, value_name = "SECONDS", default_value_t = 0)]
    wait_quiet: u64,
}

/// A part of Warren with benchmarks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Plane {
    /// Documents put, moved and read
    Content,
    /// Calls made and answered
    Rpc,
}

/// Measures; true if every case that could be measured met its must.
///
/// # Errors
/// If the benchmarks cannot be built or started.
pub(crate) fn run(root: &Path, options: &BenchOptions) -> anyhow::Result<bool> {
    let policy = ServicePolicy::no_service_starts();
    packages::ensure(LAB);
    if options.plane == Plane::Content {
        packages::ensure(CONTENT_PEERS);
    }
    drop(policy);
    let target = root.join("benches/target");
    let build = Cargo::new(root, "build")
        .args([
            "--release",
            "--manifest-path",
            "benches/Cargo.toml",
            "--target-dir",
        ])
        .args([&target]);
    ensure!(build.succeeds().failed == 0, "the benchmarks do not build");
    let mut command = Command::new(target.join("release/warren-bench"));
    match options.plane {
        Plane::Content => content(root, &target, options, &mut command)?,
        Plane::Rpc => {
            command.arg("rpc");
        }
    }
    command.args(["--wait-quiet", &options.wait_quiet.to_string()]);
    if options.quick {
        command.arg("--quick");
    }
    if let Some(file) = &options.json {
        command.arg("--json").arg(file);
    }
    if let Some(rounds) = options.rounds {
        command.args(["--rounds", &rounds.to_string()]);
    }
    for case in &options.only {
        command.args(["--only", case]);
    }
    Ok(command
        .status()
        .context("cannot start warren-bench")?
        .success())
}

/// What `warren-bench content` needs to be told beyond what all planes are.
fn content(
    root: &Path,
    target: &Path,
    options: &BenchOptions,
    command: &mut Command,
) -> anyhow::Result<()> {
    let work = options.dir.clone().unwrap_or_else(|| target.join("work"));
    std::fs::create_dir_all(&work).with_context(|| format!("cannot make {}", work.display()))?;
    command.arg("content").arg("--dir").arg(work);
    let whole_node = |case: &String| WITH_BINARY.contains(&case.as_str());
    if options.only.is_empty() || options.only.iter().any(whole_node) {
        let product = Cargo::new(root, "build").args(["--release", "--package", "warren"]);
        // Without it its cases say so; the others are measured all the same.
        if product.succeeds().failed == 0 {
            let binary = proof::target(root).join("release/warren");
            command.arg("--warren").arg(binary);
        }
    }
    Ok(())
}

/// While it exists, packages that are installed do not start their services: nobody wants an ssh server for having
/// measured one.
struct ServicePolicy {
    ours: bool,
}

impl ServicePolicy {
    /// Where there is a policy already, or no right to make one, nothing changes.
    fn no_service_starts() -> Self {
        let made = std::fs::OpenOptions::new()
            .write(true)
            .create_new(true)
            .mode(0o755)
            .open(SERVICE_POLICY);
        let ours = made.and_then(|mut file| {
            std::io::Write::write_all(&mut file, b"#!/bin/sh\nexit 101\n")?;
            file.set_permissions(std::fs::Permissions::from_mode(0o755))
        });
        Self { ours: ours.is_ok() }
    }
}

impl Drop for ServicePolicy {
    fn drop(&mut self) {
        if self.ours
            && let Err(error) = std::fs::remove_file(SERVICE_POLICY)
        {
            eprintln!("warning: {SERVICE_POLICY} could not be removed: {error}");
        }
    }
}
