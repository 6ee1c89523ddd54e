//! What is wrong with a configuration, and where.

use std::fmt;
use std::path::PathBuf;

/// Problems reported in full; a hostile file has as many as it likes.
pub const MAX_PROBLEMS: usize = 100;

/// Where a value or a problem comes from. The order is the order of reporting.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Origin {
    /// Nothing set it.
    Default,
    /// A place in a file.
    File {
        /// As it was named on the command line.
        file: PathBuf,
        /// From 1.
        line: usize,
        /// From 1; in characters.
        column: usize,
    },
    /// An environment variable.
    Environment(String),
    /// A command line flag.
    Flag(String),
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Default => f.write_str("default"),
            Self::File { file, line, column } => write!(f, "{}:{line}:{column}", file.display()),
            Self::Environment(name) => write!(f, "environment {name}"),
            Self::Flag(name) => write!(f, "flag {name}"),
        }
    }
}

/// One thing that is wrong, or that deserves a warning.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Problem {
    /// Where.
    pub origin: Origin,
    /// Key path, where one is known.
    pub path: Option<String>,
    /// What is wrong. Never holds the value of a secret key.
    pub what: String,
    /// What to do about it.
    pub help: Option<String>,
}

impl Problem {
    pub(crate) fn new(origin: Origin, path: impl Into<String>, what: impl Into<String>) -> Self {
        Self {
            origin,
            path: Some(path.into()),
            what: what.into(),
            help: None,
        }
    }

    pub(crate) fn nowhere(origin: Origin, what: impl Into<String>) -> Self {
        Self {
            origin,
            path: None,
            what: what.into(),
            help: None,
        }
    }

    pub(crate) fn help(mut self, help: impl Into<String>) -> Self {
        self.help = Some(help.into());
        self
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.origin != Origin::Default {
            write!(f, "{}: ", self.origin)?;
        }
        if let Some(path) = &self.path {
            write!(f, "{path}: ")?;
        }
        f.write_str(&self.what)?;
        if let Some(help) = &self.help {
            write!(f, "; {help}")?;
        }
        Ok(())
    }
}

/// Every problem of a configuration, in the order of files and lines. Nothing was loaded.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub struct Problems {
    /// At most [`MAX_PROBLEMS`]; never empty.
    pub listed: Vec<Problem>,
    /// How many more there are.
    pub unlisted: usize,
}

impl fmt::Display for Problems {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for problem in &self.listed {
            writeln!(f, "{problem}")?;
        }
        if self.unlisted > 0 {
            writeln!(f, "… and {} more", self.unlisted)?;
        }
        match self.listed.len() + self.unlisted {
            1 => f.write_str("1 problem in the configuration"),
            n => write!(f, "{n} problems in the configuration"),
        }
    }
}

/// Collects problems and warnings while a configuration is read.
#[derive(Debug, Default)]
pub(crate) struct Report {
    problems: Vec<Problem>,
    unlisted: usize,
    pub(crate) warnings: Vec<Problem>,
}

impl Report {
    /// Whether another problem will be listed. Where not, its help need not be worked out.
    pub(crate) fn has_room(&self) -> bool {
        self.problems.len() < MAX_PROBLEMS
    }

    pub(crate) fn add(&mut self, problem: Problem) {
        if self.has_room() {
            self.problems.push(problem);
        } else {
            self.unlisted += 1;
        }
    }

    pub(crate) fn warn(&mut self, warning: Problem) {
        if self.warnings.len() < MAX_PROBLEMS {
            self.warnings.push(warning);
        }
    }

    /// The warnings, and all problems where there are any.
    pub(crate) fn finish(mut self) -> (Vec<Problem>, Option<Problems>) {
        self.warnings.sort();
        self.problems.sort();
        let problems = (!self.problems.is_empty()).then_some(Problems {
            listed: self.problems,
            unlisted: self.unlisted,
        });
        (self.warnings, problems)
    }
}

/// `text` for a message: quoted, without control characters, at most 80 characters.
pub(crate) fn quoted(text: &str) -> String {
    const MAX: usize = 80;
    let short: String = text.chars().take(MAX).collect();
    let dots = if short.len() < text.len() { "…" } else { "" };
    format!(
        "'{}{dots}'",
        short
            .escape_debug()
            .to_string()
            .replace("\\'", "'")
            .replace("\\\"", "\"")
    )
}

/// The candidate nearest to `word`, if one is near enough to be a slip of the finger.
pub(crate) fn nearest<'a>(
    word: &str,
    candidates: impl IntoIterator<Item = &'a str>,
) -> Option<&'a str> {
    const MAX_CHARS: usize = 64;
    let word: String = word
        .chars()
        .take(MAX_CHARS)
        .flat_map(char::to_lowercase)
        .collect();
    let allowed = (word.chars().count() / 3).clamp(1, 4);
    candidates
        .into_iter()
        .map(|candidate| {
            (
                strsim::damerau_levenshtein(&word, &candidate.to_lowercase()),
                candidate,
            )
        })
        .filter(|(distance, _)| *distance <= allowed)
        .min()
        .map(|(_, candidate)| candidate)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn given_a_slip_when_looking_for_the_nearest_then_it_is_found_and_nonsense_is_not() {
        assert_eq!(nearest("mdsn", ["dht", "mdns", "relay"]), Some("mdns"));
        assert_eq!(
            nearest(
                "listen_adresses",
                ["listen_addresses", "announce_addresses"]
            ),
            Some("listen_addresses")
        );
        assert_eq!(nearest("banana", ["dht", "mdns", "relay"]), None);
    }

    #[test]
    fn given_hostile_text_when_quoted_then_it_is_short_and_printable() {
        assert_eq!(quoted("a\u{1b}[31m\n"), "'a\\u{1b}[31m\\n'");
        assert_eq!(quoted(&"x".repeat(1000)).chars().count(), 83);
    }
}
