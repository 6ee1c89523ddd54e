//! How a test says that it cannot run here; see CONTRIBUTING.md.

use std::fmt::Display;
use std::fs::OpenOptions;
use std::io::Write as _;
use std::path::Path;

/// Says `SKIPPED: <test>: <reason>` past the test runner's capture, so that a run always shows what it did not try,
/// and appends the line to the file that `WARREN_SKIP_LOG` names, from which `cargo xtask test` counts. The caller
/// returns right after it, once per test.
///
/// # Panics
/// When the file cannot be written: the run would count the test as passed.
pub fn skip(test: &str, reason: impl Display) {
    let line = line(test, &reason.to_string());
    // Nobody to tell when standard error is closed.
    let _ = std::io::stderr().write_all(line.as_bytes());
    if let Some(log) = std::env::var_os("WARREN_SKIP_LOG") {
        let written = append(Path::new(&log), &line);
        assert!(
            written.is_ok(),
            "cannot write {}: {written:?}",
            log.display()
        );
    }
}

/// One line whatever the reason holds.
fn line(test: &str, reason: &str) -> String {
    format!("SKIPPED: {test}: {}\n", reason.replace('\n', " "))
}

/// In one write, so that tests of several processes do not mix their lines.
fn append(log: &Path, line: &str) -> std::io::Result<()> {
    OpenOptions::new()
        .append(true)
        .create(true)
        .open(log)?
        .write_all(line.as_bytes())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn given_two_skipped_tests_when_logged_then_each_has_one_line() {
        let folder = tempfile::tempdir().unwrap();
        let log = folder.path().join("skipped");

        append(&log, &line("one", "needs\nroot")).unwrap();
        append(&log, &line("two", "needs nft")).unwrap();

        let written = std::fs::read_to_string(log).unwrap();
        assert_eq!(
            written,
            "SKIPPED: one: needs root\nSKIPPED: two: needs nft\n"
        );
    }
}
