//! Running cargo from inside cargo.

use std::ffi::OsStr;
use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Command, Stdio};

use super::tally::Tally;

/// Set by the cargo that runs this program; inside, they would describe the wrong package and rebuild what reads them.
const OUTER: &[&str] = &[
    "CARGO_PKG_",
    "CARGO_MANIFEST_",
    "CARGO_BIN_",
    "CARGO_CRATE_",
    "CARGO_PRIMARY_",
];

/// A cargo command about to run. Its output goes through to the reader as it comes.
pub(crate) struct Cargo {
    command: Command,
}

impl Cargo {
    pub(crate) fn new(root: &Path, subcommand: &str) -> Self {
        let mut command = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
        command.arg(subcommand).current_dir(root);
        for (name, _) in std::env::vars_os() {
            let is_outer = name
                .to_str()
                .is_some_and(|name| OUTER.iter().any(|prefix| name.starts_with(prefix)));
            if is_outer || name == "LD_LIBRARY_PATH" {
                command.env_remove(name);
            }
        }
        // A proof stands on the sources alone, not on what earlier builds left in the incremental cache (whose
        // half-stale optimised objects have been seen not to link); from a clean clone it is faster too.
        if std::env::var_os("CARGO_INCREMENTAL").is_none() {
            command.env("CARGO_INCREMENTAL", "0");
        }
        Self { command }
    }

    pub(crate) fn args(mut self, args: impl IntoIterator<Item = impl AsRef<OsStr>>) -> Self {
        self.command.args(args);
        self
    }

    pub(crate) fn env(mut self, name: &str, value: impl AsRef<OsStr>) -> Self {
        self.command.env(name, value);
        self
    }

    /// One item: passed if cargo succeeds.
    pub(crate) fn succeeds(mut self) -> Tally {
        match self.command.status() {
            Ok(status) => Tally::item(status.success()),
            Err(error) => self.cannot_start(&error),
        }
    }

    /// An item per test that cargo runs.
    pub(crate) fn counts(mut self) -> Tally {
        let mut child = match self.command.stdout(Stdio::piped()).spawn() {
            Ok(child) => child,
            Err(error) => return self.cannot_start(&error),
        };
        let mut tally = Tally::default();
        for line in child
            .stdout
            .take()
            .into_iter()
            .flat_map(|stdout| BufReader::new(stdout).split(b'\n'))
        {
            let Ok(line) = line else { break };
            let line = String::from_utf8_lossy(&line);
            println!("{line}");
            tally += Tally::of_line(&line);
        }
        tally.ended(child.wait().is_ok_and(|status| status.success()))
    }

    fn cannot_start(&self, error: &std::io::Error) -> Tally {
        println!(
            "error: cannot start {}: {error}",
            self.command.get_program().display()
        );
        Tally::item(false)
    }
}
