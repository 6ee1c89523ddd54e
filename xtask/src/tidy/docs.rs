//! What the documents name exists: links, paths and crates in `code`, commands in `code` and in shell blocks.
//!
//! A line that says `not built` speaks of the future and is passed over; `docs/names.md` lives on it.

use super::Finding;
use super::commands::Commands;
use super::repository::{File, Repository};

const WHY: &str = "a reader follows what the docs name";

/// A line with these words speaks of what does not exist yet.
const FUTURE: &str = "not built";

/// Dead links, names of nothing, commands nobody can type.
pub(super) fn check(repository: &Repository) -> Vec<Finding> {
    let commands = Commands::read(repository);
    let mut findings = Vec::new();
    for file in repository
        .files
        .iter()
        .filter(|file| file.path.ends_with(".md"))
    {
        let mut page = Page {
            repository,
            commands: &commands,
            file,
            findings: Vec::new(),
        };
        for (line, text) in lines(file) {
            page.check_line(line, &text);
        }
        findings.append(&mut page.findings);
    }
    findings
}

/// A line of a document by what it is.
enum Line<'a> {
    Prose(&'a str),
    Shell(&'a str),
    /// Inside a block of another language.
    Block,
}

/// The lines that do not speak of the future, 1-based.
fn lines(file: &File) -> Vec<(usize, Line<'_>)> {
    let mut fence: Option<&str> = None;
    let mut lines = Vec::new();
    for (index, text) in file.text.lines().enumerate() {
        let line = match (text.trim_start().strip_prefix("```"), fence) {
            (Some(language), None) => {
                fence = Some(language.trim());
                continue;
            }
            (Some(_), Some(_)) => {
                fence = None;
                continue;
            }
            (None, None) => Line::Prose(text),
            (None, Some("" | "sh" | "bash" | "shell" | "console")) => Line::Shell(text),
            (None, Some(_)) => Line::Block,
        };
        if !text.contains(FUTURE) {
            lines.push((index + 1, line));
        }
    }
    lines
}

struct Page<'a> {
    repository: &'a Repository,
    commands: &'a Commands,
    file: &'a File,
    findings: Vec<Finding>,
}

impl Page<'_> {
    fn check_line(&mut self, line: usize, text: &Line<'_>) {
        match text {
            Line::Block => {}
            Line::Shell(text) => self.check_command(line, text),
            Line::Prose(text) => {
                for target in link_targets(text) {
                    self.check_link(line, target);
                }
                for code in code_spans(text) {
                    self.check_command(line, code);
                    self.check_name(line, code);
                }
            }
        }
    }

    fn add(&mut self, line: usize, what: String, fix: &str) {
        self.findings.push(Finding {
            path: self.file.path.clone(),
            line,
            what,
            why: WHY,
            fix: fix.into(),
        });
    }

    fn check_link(&mut self, line: usize, target: &str) {
        if target.contains("://") || target.starts_with("mailto:") {
            return;
        }
        // `../../security/advisories/new` and its like are pages of the repository's host, above the root.
        let (path, anchor) = target
            .split_once('#')
            .map_or((target, None), |(path, anchor)| (path, Some(anchor)));
        let Some(path) = resolve(&self.file.path, path) else {
            return;
        };
        if !self.repository.paths.contains(&path) {
            self.add(
                line,
                format!("link to `{target}`, which does not exist"),
                "mend the link",
            );
        } else if let Some(anchor) = anchor
            && let Some(page) = self
                .repository
                .file(&path)
                .filter(|page| page.path.ends_with(".md"))
            && !headings(page).any(|heading| heading == anchor)
        {
            self.add(
                line,
                format!("link to `{target}`, a heading that does not exist"),
                "mend the anchor",
            );
        }
    }

    fn check_command(&mut self, line: usize, text: &str) {
        for unknown in self.commands.unknown(text) {
            self.add(
                line,
                format!("`{unknown}` is no command"),
                "write one that `--help` lists",
            );
        }
    }

    fn check_name(&mut self, line: usize, code: &str) {
        let path = code
            .split_once(':')
            .filter(|(_, after)| after.chars().all(|c| c.is_ascii_digit() || c == '-'));
        let code = path.map_or(code, |(path, _)| path).trim_end_matches('/');
        if is_crate_name(code) {
            if !self
                .repository
                .members()
                .any(|package| package.name == code)
            {
                self.add(
                    line,
                    format!("`{code}` is no crate of the workspace"),
                    "name one that is",
                );
            }
        } else if self.is_path(code) && !self.exists(code) {
            self.add(
                line,
                format!("`{code}` does not exist"),
                "name a path that does, or say that it is not built yet",
            );
        }
    }

    /// True for what reads as a path of this repository: below one of its folders, or a source or document file.
    fn is_path(&self, code: &str) -> bool {
        if !code
            .chars()
            .all(|c| c.is_ascii_alphanumeric() || "._-/".contains(c))
        {
            return false;
        }
        match code.split_once('/') {
            Some((top, rest)) => {
                !rest.is_empty() && !top.is_empty() && self.repository.paths.contains(top)
            }
            None => code.len() > 3 && (code.ends_with(".md") || code.ends_with(".rs")),
        }
    }

    fn exists(&self, code: &str) -> bool {
        let paths = &self.repository.paths;
        let beside = resolve(&self.file.path, code).is_some_and(|path| paths.contains(&path));
        let by_name = !code.contains('/')
            && paths
                .iter()
                .any(|path| path.rsplit('/').next() == Some(code));
        paths.contains(code) || beside || by_name
    }
}

fn is_crate_name(code: &str) -> bool {
    code.strip_prefix("warren-").is_some_and(|rest| {
        !rest.is_empty()
            && rest
                .split('-')
                .all(|part| !part.is_empty() && part.chars().all(|c| c.is_ascii_lowercase()))
    })
}

/// `path` as seen from `from`, relative to the root; the page itself if empty, none if it leaves the repository.
fn resolve(from: &str, path: &str) -> Option<String> {
    if path.is_empty() {
        return Some(from.to_owned());
    }
    let mut parts: Vec<&str> = from.split('/').collect();
    parts.pop();
    for part in path.split('/') {
        match part {
            "" | "." => {}
            ".." => {
                parts.pop()?;
            }
            part => parts.push(part),
        }
    }
    Some(parts.join("/"))
}

fn link_targets(text: &str) -> impl Iterator<Item = &str> {
    text.split("](")
        .skip(1)
        .filter_map(|rest| rest.split([')', ' ']).next())
        .filter(|target| !target.is_empty())
}

fn code_spans(text: &str) -> impl Iterator<Item = &str> {
    text.split('`').skip(1).step_by(2)
}

/// The anchors of a page's headings, as hosts make them.
fn headings(page: &File) -> impl Iterator<Item = String> {
    page.text
        .lines()
        .filter(|line| line.starts_with('#'))
        .map(|line| {
            line.trim_start_matches('#')
                .trim()
                .to_lowercase()
                .chars()
                .filter(|c| c.is_alphanumeric() || matches!(c, ' ' | '-' | '_'))
                .map(|c| if c == ' ' { '-' } else { c })
                .collect()
        })
}

#[cfg(test)]
mod tests {
    use super::*;

    const CLI: &str = "#[derive(Parser)] struct Cli { #[command(subcommand)] command: Command }\n\
        #[derive(Subcommand)] enum Command { Put(PutArgs) }";
    const XTASK: &str = "#[derive(Parser)] struct Cli { #[command(subcommand)] command: Command }\n\
        #[derive(Subcommand)] enum Command { Tidy }";

    fn reported(page: &str) -> Vec<String> {
        let repository = Repository::sample(&[
            ("docs/page.md", page),
            ("docs/other.md", "# The other page\n"),
            ("crates/cli/src/args.rs", CLI),
            ("xtask/src/main.rs", XTASK),
        ])
        .with_member("warren-content", &[]);
        check(&repository)
            .into_iter()
            .map(|finding| finding.what)
            .collect()
    }

    #[test]
    fn what_exists_is_fine() {
        let page = "See [other](other.md#the-other-page), [the web](https://example.com/), `crates/cli/src`, `other.md`, \
            `crates/cli/src/args.rs:1`, `warren-content`, `warren put FILE`, `cargo xtask tidy`, `a/b`.\n";

        assert_eq!(reported(page), Vec::<String>::new());
    }

    #[test]
    fn a_dead_link_is_reported() {
        assert_eq!(
            reported("[x](gone.md)"),
            ["link to `gone.md`, which does not exist"]
        );
    }

    #[test]
    fn a_dead_anchor_is_reported() {
        assert_eq!(
            reported("[x](other.md#gone)"),
            ["link to `other.md#gone`, a heading that does not exist"]
        );
    }

    #[test]
    fn a_path_to_nothing_is_reported() {
        assert_eq!(
            reported("`crates/gone/src/lib.rs`"),
            ["`crates/gone/src/lib.rs` does not exist"]
        );
    }

    #[test]
    fn a_crate_that_is_none_is_reported() {
        assert_eq!(
            reported("`warren-gone`"),
            ["`warren-gone` is no crate of the workspace"]
        );
    }

    #[test]
    fn a_command_nobody_can_type_is_reported() {
        assert_eq!(reported("`warren fly`"), ["`warren fly` is no command"]);
        assert_eq!(
            reported("```sh\n$ cargo xtask fly\n```"),
            ["`cargo xtask fly` is no command"]
        );
    }

    #[test]
    fn a_line_about_the_future_is_passed_over() {
        assert_eq!(
            reported("`warren fly` is not built yet"),
            Vec::<String>::new()
        );
    }

    #[test]
    fn a_block_of_another_language_is_no_shell() {
        assert_eq!(reported("```yaml\nwarren fly\n```"), Vec::<String>::new());
    }
}
