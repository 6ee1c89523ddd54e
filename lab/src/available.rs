//! Whether this machine can hold a lab.

use std::env;
use std::io;
use std::path::PathBuf;

use rustix::thread::UnshareFlags;

/// The programs a lab calls, and the Debian package of each.
const TOOLS: [(&str, &str); 5] = [
    ("ip", "iproute2"),
    ("nft", "nftables"),
    ("ethtool", "ethtool"),
    ("ping", "iputils-ping"),
    ("tcpdump", "tcpdump"),
];

/// Why there can be no lab here.
#[derive(Debug, thiserror::Error)]
pub enum Reason {
    /// Namespaces, bridges and packet filters need root.
    #[error("the lab needs root; run the tests as root")]
    NotRoot,
    /// A program is not installed.
    #[error("the lab needs `{tool}`; run `apt-get install {package}`")]
    MissingTool {
        /// The program.
        tool: &'static str,
        /// The Debian package that has it.
        package: &'static str,
    },
    /// The kernel or a container refuses network namespaces.
    #[error("the lab needs network namespaces, which this system refuses: {0}")]
    NoNamespaces(io::Error),
}

/// Looks for what a lab needs, without leaving anything behind.
pub(crate) fn check() -> Result<(), Reason> {
    if !rustix::process::geteuid().is_root() {
        return Err(Reason::NotRoot);
    }
    for (tool, package) in TOOLS {
        if find_tool(tool).is_none() {
            return Err(Reason::MissingTool { tool, package });
        }
    }
    // On a thread of its own, which takes the namespaces with it when it ends.
    let unshared = std::thread::spawn(|| {
        // SAFETY: neither flag is FILES; file descriptors stay shared with the other threads.
        unsafe { rustix::thread::unshare_unsafe(UnshareFlags::NEWNET | UnshareFlags::NEWNS) }
    })
    .join()
    .unwrap_or(Err(rustix::io::Errno::INVAL));
    unshared.map_err(|errno| Reason::NoNamespaces(errno.into()))
}

/// The path of a program: from `PATH`, or where Debian keeps administrators' programs, which a plain `PATH` may lack.
pub(crate) fn find_tool(tool: &str) -> Option<PathBuf> {
    let path = env::var_os("PATH").unwrap_or_default();
    env::split_paths(&path)
        .chain(["/usr/sbin", "/sbin", "/usr/bin", "/bin"].map(PathBuf::from))
        .map(|folder| folder.join(tool))
        .find(|candidate| candidate.is_file())
}
