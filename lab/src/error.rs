//! What can go wrong while a lab is built, and while a process in it runs.

use std::io;
use std::path::PathBuf;
use std::time::Duration;

use crate::Reason;
use crate::core::pcap::FormatError;

/// Why the lab could not be built or changed. What exists by then is removed when the lab is dropped.
#[derive(Debug, thiserror::Error)]
pub enum LabError {
    /// This machine cannot hold a lab at all.
    #[error(transparent)]
    Unavailable(#[from] Reason),
    /// A system call or file failed.
    #[error("{what}: {source}")]
    System {
        /// What was attempted, on which object.
        what: String,
        /// The system's answer.
        source: io::Error,
    },
    /// One of `ip`, `nft`, `ethtool` refused.
    #[error("`{command}` in namespace {namespace} failed: {stderr}")]
    Tool {
        /// The command line.
        command: String,
        /// Where it ran.
        namespace: String,
        /// What it said.
        stderr: String,
    },
    /// A name for a lab or a machine that cannot be part of a namespace's name.
    #[error("\"{0}\" is no name for a lab or a machine: use 1 to 32 of a-z, 0-9 and -")]
    Name(String),
    /// A machine of that name is already in the lab.
    #[error("there is already a machine named \"{0}\" in this lab")]
    NameTaken(String),
    /// Text that is no address, or no address with prefix length.
    #[error("\"{text}\" is no {expected}")]
    Address {
        /// What was given.
        text: String,
        /// The form that was wanted.
        expected: &'static str,
    },
    /// The capture could not be read.
    #[error("capture {path}: {source}")]
    Capture {
        /// The capture file.
        path: PathBuf,
        /// What is wrong with it.
        source: FormatError,
    },
    /// A process the lab needs did not do its part.
    #[error(transparent)]
    Process(#[from] ProcessError),
}

impl LabError {
    /// For `map_err`: the system's answer with what was attempted.
    pub(crate) fn system(what: impl Into<String>) -> impl FnOnce(io::Error) -> Self {
        let what = what.into();
        move |source| Self::System { what, source }
    }
}

/// What went wrong with a process inside a host.
#[derive(Debug, thiserror::Error)]
pub enum ProcessError {
    /// It could not be started, or not be spoken to.
    #[error("process {name}: {what}: {source}")]
    System {
        /// The process' name in the lab.
        name: String,
        /// What was attempted.
        what: &'static str,
        /// The system's answer.
        source: io::Error,
    },
    /// It still runs; nothing was done to it.
    #[error("process {name} still runs after {within:?}; the end of its standard error: {stderr}")]
    TimedOut {
        /// The process' name in the lab.
        name: String,
        /// How long was waited.
        within: Duration,
        /// The end of what it wrote to standard error.
        stderr: String,
    },
    /// It ended with another status than zero.
    #[error("process {name} ended with {status}; the end of its standard error: {stderr}")]
    Failed {
        /// The process' name in the lab.
        name: String,
        /// How it ended.
        status: std::process::ExitStatus,
        /// The end of what it wrote to standard error.
        stderr: String,
    },
}
