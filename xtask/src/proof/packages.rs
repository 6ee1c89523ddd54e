//! What the tests use besides Rust and a C compiler, and installing it where we may.
//!
//! Presence is asked of the file system first: where everything is there, no network is touched.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use super::tally::Tally;

/// A program that tests start, and the Debian package that brings it.
pub(crate) struct Tool {
    program: &'static str,
    package: &'static str,
    reason: &'static str,
}

pub(crate) const fn tool(
    program: &'static str,
    package: &'static str,
    reason: &'static str,
) -> Tool {
    Tool {
        program,
        package,
        reason,
    }
}

/// What the tests start. A test that lacks its tool says so and counts as skipped.
pub(crate) const FOR_TESTS: &[Tool] = &[
    tool(
        "ip",
        "iproute2",
        "hosts, bridges and routers of the lab are network namespaces",
    ),
    tool("nft", "nftables", "the lab's routers translate addresses"),
    tool("tcpdump", "tcpdump", "what goes over a wire is encrypted"),
    tool(
        "ethtool",
        "ethtool",
        "the lab turns offloads off where a test counts packets",
    ),
    tool("ping", "iputils-ping", "hosts of the lab reach each other"),
    tool(
        "openssl",
        "openssl",
        "certificates made by plain openssl work as documented",
    ),
    tool("curl", "curl", "a client nobody here wrote calls the API"),
    tool(
        "faketime",
        "faketime",
        "a node whose clock is days off is told so, and turned away",
    ),
    tool(
        "postgres",
        "postgresql",
        "the registry's other engine is tested against a real server",
    ),
    tool(
        "node",
        "nodejs",
        "a libp2p node of another implementation meets ours",
    ),
    tool("npm", "npm", "it brings that node's pinned packages"),
    tool(
        "python3",
        "python3",
        "a gRPC client nobody here wrote calls the calculator",
    ),
    tool(
        "pip3",
        "python3-pip",
        "it brings that client's pinned packages",
    ),
    tool(
        "podman",
        "podman",
        "the container images are built and run as documented",
    ),
    tool("crun", "crun", "what podman runs containers with"),
    tool(
        "iptables",
        "iptables",
        "podman forwards a container's port with it",
    ),
];

/// Folders that hold programs and are not on every user's path.
const MORE_FOLDERS: &[&str] = &["/usr/sbin", "/sbin", "/usr/local/sbin"];

/// Installs what is missing, if this user may. Skipped, with the list, where that is not so: the tests that need it
/// will say so too.
pub(crate) fn ensure(tools: &[Tool]) -> Tally {
    let folders = folders();
    let missing: Vec<&Tool> = tools
        .iter()
        .filter(|tool| !is_there(tool.program, &folders))
        .collect();
    if missing.is_empty() {
        println!("all there");
        return Tally::item(true);
    }
    for Tool {
        program,
        package,
        reason,
    } in &missing
    {
        println!("missing: {program} (package {package}): {reason}");
    }
    let Some(apt) = Apt::find(&folders) else {
        println!("not installing: that takes apt-get, and root or sudo without a password");
        return Tally::skipped();
    };
    let packages: Vec<&str> = missing.iter().map(|tool| tool.package).collect();
    println!("installing: {}", packages.join(" "));
    let installed = apt.run(&["update"])
        && apt.run(&[&["install", "-y", "--no-install-recommends"], &*packages].concat());
    let still: Vec<&str> = missing
        .iter()
        .map(|tool| tool.program)
        .filter(|program| !is_there(program, &folders))
        .collect();
    if installed && still.is_empty() {
        return Tally::item(true);
    }
    println!(
        "apt-get did not bring {}: tests that need it are skipped",
        still.join(", ")
    );
    Tally::skipped()
}

fn folders() -> Vec<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path)
        .chain(MORE_FOLDERS.iter().map(PathBuf::from))
        .collect()
}

/// PostgreSQL keeps its server off every path, in a folder per version.
fn is_there(program: &str, folders: &[PathBuf]) -> bool {
    let versions = std::fs::read_dir("/usr/lib/postgresql")
        .into_iter()
        .flatten()
        .flatten();
    folders
        .iter()
        .map(|folder| folder.join(program))
        .any(|path| path.is_file())
        || versions
            .map(|version| version.path().join("bin").join(program))
            .any(|path| path.is_file())
}

/// How this user runs apt-get.
struct Apt {
    sudo: bool,
}

impl Apt {
    fn find(folders: &[PathBuf]) -> Option<Self> {
        if !is_there("apt-get", folders) {
            return None;
        }
        // A process's own folder in /proc belongs to the user it runs as.
        let owner = std::fs::metadata(Path::new("/proc/self"))
            .map(|data| std::os::unix::fs::MetadataExt::uid(&data));
        if owner.is_ok_and(|uid| uid == 0) {
            return Some(Self { sudo: false });
        }
        let may_sudo = Command::new("sudo")
            .args(["-n", "true"])
            .stderr(Stdio::null())
            .status();
        may_sudo
            .is_ok_and(|status| status.success())
            .then_some(Self { sudo: true })
    }

    fn run(&self, args: &[&str]) -> bool {
        let mut words: Vec<&str> = if self.sudo {
            vec!["sudo", "-n"]
        } else {
            Vec::new()
        };
        words.extend([
            "env",
            "DEBIAN_FRONTEND=noninteractive",
            "apt-get",
            "-q",
            "-o",
            "Acquire::http::Timeout=30",
        ]);
        words.extend(args);
        Command::new(words[0])
            .args(&words[1..])
            .stdin(Stdio::null())
            .status()
            .is_ok_and(|status| status.success())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_program_in_one_of_the_folders_is_there() {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("made-up-tool"), "").unwrap();

        assert!(is_there("made-up-tool", &[folder.path().to_owned()]));
        assert!(!is_there(
            "another-made-up-tool",
            &[folder.path().to_owned()]
        ));
    }

    #[test]
    fn nothing_missing_is_one_passed_item() {
        assert_eq!(ensure(&[]), Tally::item(true));
    }
}
