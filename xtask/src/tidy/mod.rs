//! The rules of the house, each a function from the [`Repository`] to [`Finding`]s.
//!
//! A rule is pure: it sees the files and `cargo metadata` as they were read once, so its tests hand it a few lines
//! that break it. `the_repository_is_tidy` at the end of this file runs all of them on the repository itself.

mod arrows;
mod commands;
mod docs;
mod leftovers;
mod licences;
mod manifests;
mod purity;
pub(crate) mod repository;
mod sizes;
mod source;

use std::fmt;
use std::path::Path;

use repository::Repository;

/// One place that breaks a rule.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Finding {
    /// Path relative to the repository's root.
    path: String,
    /// 1-based; 1 where the finding is about the file as a whole.
    line: usize,
    what: String,
    why: &'static str,
    fix: String,
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            path,
            line,
            what,
            why,
            fix,
        } = self;
        write!(f, "{path}:{line}: {what}: {why}; {fix}")
    }
}

type Rule = fn(&Repository) -> Vec<Finding>;

/// Every rule by the name it is reported under.
const RULES: &[(&str, Rule)] = &[
    ("rust files parse", source::check),
    ("dependency arrows", arrows::check),
    ("pure cores", purity::check),
    ("file and function size", sizes::check),
    ("docs name existing things", docs::check),
    ("nothing left over", leftovers::check),
    ("manifests", manifests::check),
    ("licences and bans", licences::check),
];

/// Reads the repository and gives what breaks the rules, in the order of [`RULES`].
///
/// # Errors
/// If a file cannot be read or `cargo metadata` fails.
fn findings(root: &Path) -> anyhow::Result<Vec<(&'static str, Vec<Finding>)>> {
    let repository = Repository::read(root)?;
    Ok(RULES
        .iter()
        .map(|(name, rule)| {
            let mut found = rule(&repository);
            found.sort();
            found.dedup();
            (*name, found)
        })
        .collect())
}

/// Prints every finding, then a line per rule; true when there is no finding.
///
/// # Errors
/// As [`findings`].
pub(crate) fn report(root: &Path) -> anyhow::Result<bool> {
    let findings = findings(root)?;
    for finding in findings.iter().flat_map(|(_, found)| found) {
        println!("{finding}");
    }
    for (rule, found) in &findings {
        match found.len() {
            0 => println!("tidy: {rule}: ok"),
            count => println!("tidy: {rule}: {count} to mend"),
        }
    }
    Ok(findings.iter().all(|(_, found)| found.is_empty()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_finding_reads_place_what_why_and_what_to_do() {
        let finding = Finding {
            path: "crates/x/src/lib.rs".into(),
            line: 7,
            what: "`std::fs` in a core".into(),
            why: "cores decide, shells do",
            fix: "take the bytes as an argument".into(),
        };

        assert_eq!(
            finding.to_string(),
            "crates/x/src/lib.rs:7: `std::fs` in a core: cores decide, shells do; take the bytes as an argument"
        );
    }

    #[test]
    fn the_repository_is_tidy() {
        let broken: Vec<String> = findings(&crate::root())
            .unwrap()
            .into_iter()
            .flat_map(|(_, found)| found)
            .map(|finding| finding.to_string())
            .collect();

        assert!(broken.is_empty(), "{}", broken.join("\n"));
    }
}
