//! `cargo xtask image`: the container images of `deploy/Containerfile`, from nothing but the product.
//!
//! No base image is fetched. What the binary needs of the system, its loader and shared libraries, comes from the
//! machine that builds, as `ldd` names it; so the images run wherever that machine's libc would.

use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, bail, ensure};
use clap::Args;

use crate::proof;
use crate::proof::cargo::Cargo;

/// The targets of the Containerfile; the image of each is `warren/TARGET`.
const TARGETS: [&str; 2] = ["network", "discovery"];

/// Where the binary lies in the images, and what the Containerfile starts.
const BINARY: &str = "usr/local/bin/warren";

/// Mounted over when a container starts; there from the beginning, so that its root may be read-only.
const FOLDERS: [&str; 7] = [
    "dev",
    "etc/warren",
    "proc",
    "run",
    "sys",
    "tmp",
    "var/lib/warren",
];

/// Names resolve by the files and servers that the container is given, in this order.
const NAME_SERVICES: &str = "hosts: files dns\n";

/// What to build.
#[derive(Args)]
pub(crate) struct ImageOptions {
    /// Tag of the images: warren/network:TAG and warren/discovery:TAG
    #[arg(long, default_value = "latest")]
    tag: String,
    /// Cargo profile the binary is built with
    #[arg(long, default_value = "release")]
    profile: String,
    /// Pack this binary instead of building one
    #[arg(long, value_name = "FILE", conflicts_with = "profile")]
    binary: Option<PathBuf>,
}

/// Builds both images into podman's storage; true if that worked.
///
/// # Errors
/// If the binary does not build, a library it needs is missing, or podman cannot be started.
pub(crate) fn run(root: &Path, options: &ImageOptions) -> anyhow::Result<bool> {
    let binary = match &options.binary {
        Some(binary) => binary.clone(),
        None => build(root, &options.profile)?,
    };
    let target = proof::target(root);
    std::fs::create_dir_all(&target)
        .with_context(|| format!("cannot make {}", target.display()))?;
    let context = tempfile::Builder::new()
        .prefix("image-")
        .tempdir_in(&target)
        .with_context(|| format!("cannot make a folder in {}", target.display()))?;
    stage(&binary, &context.path().join("root"))?;
    for name in TARGETS {
        let image = format!("warren/{name}:{}", options.tag);
        let status = Command::new("podman")
            .args(["build", "--target", name, "--tag", &image, "--file"])
            .arg(root.join("deploy/Containerfile"))
            .arg(context.path())
            .status()
            .context(
                "cannot start podman, which builds the images; `apt-get install podman` brings it",
            )?;
        if !status.success() {
            eprintln!("error: podman could not build {image}: {status}");
            return Ok(false);
        }
    }
    Ok(true)
}

/// Builds the product; gives the path of its binary.
fn build(root: &Path, profile: &str) -> anyhow::Result<PathBuf> {
    let build = Cargo::new(root, "build")
        .args(["--package", "warren", "--bin", "warren"])
        .args(["--profile", profile]);
    ensure!(build.succeeds().failed == 0, "the binary does not build");
    // The one profile whose folder has another name.
    let folder = if profile == "dev" { "debug" } else { profile };
    Ok(proof::target(root).join(folder).join("warren"))
}

/// Lays out an image's root file system.
fn stage(binary: &Path, root: &Path) -> anyhow::Result<()> {
    let make = |folder: &Path| {
        std::fs::create_dir_all(folder).with_context(|| format!("cannot make {}", folder.display()))
    };
    for folder in FOLDERS {
        make(&root.join(folder))?;
    }
    std::fs::set_permissions(root.join("tmp"), std::fs::Permissions::from_mode(0o1777))?;
    std::fs::write(root.join("etc/nsswitch.conf"), NAME_SERVICES)?;
    let copy = |from: &Path, to: &str| {
        let to = root.join(to.trim_start_matches('/'));
        to.parent().map_or(Ok(()), make)?;
        std::fs::copy(from, &to).with_context(|| format!("cannot copy {}", from.display()))?;
        std::fs::set_permissions(&to, std::fs::Permissions::from_mode(0o755))
            .with_context(|| format!("cannot set the mode of {}", to.display()))
    };
    copy(binary, BINARY)?;
    for library in libraries(binary)? {
        copy(Path::new(&library), &library)?;
    }
    Ok(())
}

/// The loader and the shared libraries of a binary, by path.
fn libraries(binary: &Path) -> anyhow::Result<Vec<String>> {
    let output = Command::new("ldd")
        .arg(binary)
        .env("LC_ALL", "C")
        // Libraries of the toolchain are none of the image's.
        .env_remove("LD_LIBRARY_PATH")
        .output()
        .context("cannot start ldd, which names the shared libraries; it comes with libc")?;
    let said = String::from_utf8_lossy(&output.stdout);
    let refused = String::from_utf8_lossy(&output.stderr);
    if refused.contains("not a dynamic executable") {
        return Ok(Vec::new());
    }
    ensure!(
        output.status.success(),
        "ldd cannot read {}: {}",
        binary.display(),
        refused.trim()
    );
    parse_ldd(&said).with_context(|| format!("cannot pack {}", binary.display()))
}

/// Reads lines like `libc.so.6 => /lib/x86_64-linux-gnu/libc.so.6 (0x…)` and `/lib64/ld-linux-x86-64.so.2 (0x…)`.
fn parse_ldd(said: &str) -> anyhow::Result<Vec<String>> {
    let mut libraries = Vec::new();
    for line in said.lines().map(str::trim) {
        let place = line.rsplit("=> ").next().unwrap_or(line);
        if place == "not found" {
            bail!("a shared library is missing on this machine: {line}");
        }
        // The kernel's own page has a name and no path; a static binary has neither.
        if place.starts_with('/')
            && let Some(path) = place.split(" (").next()
        {
            libraries.push(path.to_owned());
        }
    }
    Ok(libraries)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used)]

    use super::*;

    #[test]
    fn libraries_and_the_loader_are_taken_by_path_and_the_kernels_page_is_not() {
        let said = "\tlinux-vdso.so.1 (0x00007f6a0b16e000)\n\
             \tlibc.so.6 => /lib/x86_64-linux-gnu/libc.so.6 (0x00007f6a0693e000)\n\
             \t/lib64/ld-linux-x86-64.so.2 (0x00007f6a0b170000)\n";

        assert_eq!(
            parse_ldd(said).unwrap(),
            [
                "/lib/x86_64-linux-gnu/libc.so.6",
                "/lib64/ld-linux-x86-64.so.2"
            ]
        );
    }

    #[test]
    fn a_library_that_is_not_there_is_told_by_name() {
        let error = parse_ldd("\tlibpq.so.5 => not found\n").unwrap_err();

        assert!(error.to_string().contains("libpq.so.5"), "{error}");
    }

    #[test]
    fn a_static_binary_needs_nothing() {
        assert!(parse_ldd("\tstatically linked\n").unwrap().is_empty());
    }

    #[test]
    fn a_staged_root_holds_the_binary_its_loader_and_the_folders_to_mount_over() {
        let folder = tempfile::tempdir().unwrap();
        let program = std::env::current_exe().unwrap();

        stage(&program, folder.path()).unwrap();

        assert!(folder.path().join(BINARY).is_file());
        for library in libraries(&program).unwrap() {
            assert!(folder.path().join(&library[1..]).is_file(), "{library}");
        }
        for mounted in FOLDERS {
            assert!(folder.path().join(mounted).is_dir(), "{mounted}");
        }
    }
}
