//! `deny.toml` held without `cargo deny`: every package's licence is one it allows, no package is one it bans.
//!
//! Licence expressions follow SPDX (`MIT OR Apache-2.0`, `AND`, `WITH`, brackets), and the older `MIT/Apache-2.0`.

use serde::Deserialize;

use super::Finding;
use super::repository::{Package, Repository};

const PATH: &str = "deny.toml";

/// The parts of `deny.toml` that this rule holds.
#[derive(Deserialize)]
struct Deny {
    licenses: Licenses,
    bans: Bans,
}

#[derive(Deserialize)]
struct Licenses {
    allow: Vec<String>,
    #[serde(default)]
    exceptions: Vec<Exception>,
}

#[derive(Deserialize)]
struct Exception {
    #[serde(rename = "crate")]
    name: String,
    allow: Vec<String>,
}

#[derive(Deserialize)]
struct Bans {
    deny: Vec<Ban>,
}

#[derive(Deserialize)]
struct Ban {
    #[serde(rename = "crate")]
    name: String,
    reason: String,
}

/// Packages that `deny.toml` does not allow.
pub(super) fn check(repository: &Repository) -> Vec<Finding> {
    let Some(file) = repository.file(PATH) else {
        return vec![finding(
            "no deny.toml".into(),
            "write it: which licences are allowed, which crates are not".into(),
        )];
    };
    let deny: Deny = match toml::from_str(&file.text) {
        Ok(deny) => deny,
        Err(error) => {
            return vec![finding(
                format!("not readable ({})", error.message()),
                "mend it".into(),
            )];
        }
    };
    repository
        .packages
        .iter()
        .flat_map(|package| check_package(package, &deny))
        .collect()
}

fn check_package(package: &Package, deny: &Deny) -> Vec<Finding> {
    let Package { name, version, .. } = package;
    let mut findings = Vec::new();
    if let Some(ban) = deny.bans.deny.iter().find(|ban| ban.name == *name) {
        let what = format!("{name} {version} is banned ({})", ban.reason);
        findings.push(finding(
            what,
            format!("see who brings it with `cargo tree -i {name}` and take that out"),
        ));
    }
    let exceptions = deny
        .licenses
        .exceptions
        .iter()
        .filter(|exception| exception.name == *name);
    let allowed: Vec<&str> = deny
        .licenses
        .allow
        .iter()
        .chain(exceptions.flat_map(|exception| &exception.allow))
        .map(String::as_str)
        .collect();
    let licence = package.license.as_deref().unwrap_or_default();
    if !satisfies(licence, &allowed) {
        let what = format!("{name} {version} has the licence `{licence}`");
        findings.push(finding(
            what,
            "use another crate, or allow it there with a reason".into(),
        ));
    }
    findings
}

fn finding(what: String, fix: String) -> Finding {
    Finding {
        path: PATH.into(),
        line: 1,
        what,
        why: "Warren is MIT or Apache-2.0 and stays free to use",
        fix,
    }
}

/// True if someone who accepts only `allowed` may use what is under `expression`. An unreadable one is not allowed.
fn satisfies(expression: &str, allowed: &[&str]) -> bool {
    let spaced = expression
        .replace('(', " ( ")
        .replace(')', " ) ")
        .replace('/', " OR ");
    let mut terms = Terms {
        words: spaced.split_whitespace().peekable(),
        allowed,
    };
    let verdict = terms.either();
    verdict.is_some_and(|verdict| verdict) && terms.words.next().is_none()
}

/// Reads an expression word by word; each step gives whether what it read is allowed, none where it is not SPDX.
struct Terms<'a, I: Iterator<Item = &'a str>> {
    words: std::iter::Peekable<I>,
    allowed: &'a [&'a str],
}

impl<'a, I: Iterator<Item = &'a str>> Terms<'a, I> {
    fn either(&mut self) -> Option<bool> {
        let mut verdict = self.both()?;
        while self.words.next_if_eq(&"OR").is_some() {
            verdict |= self.both()?;
        }
        Some(verdict)
    }

    fn both(&mut self) -> Option<bool> {
        let mut verdict = self.one()?;
        while self.words.next_if_eq(&"AND").is_some() {
            verdict &= self.one()?;
        }
        Some(verdict)
    }

    fn one(&mut self) -> Option<bool> {
        let word = self.words.next()?;
        if word == "(" {
            let verdict = self.either()?;
            return (self.words.next()? == ")").then_some(verdict);
        }
        if matches!(word, ")" | "OR" | "AND" | "WITH") {
            return None;
        }
        let licence = match self.words.next_if_eq(&"WITH") {
            Some(_) => format!("{word} WITH {}", self.words.next()?),
            None => word.to_owned(),
        };
        Some(self.allowed.contains(&licence.as_str()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const DENY: &str = "[licenses]\nallow = [\"MIT\", \"Apache-2.0\", \"ISC\"]\n\
        exceptions = [{ crate = \"filewise\", allow = [\"MPL-2.0\"] }]\n\
        [bans]\ndeny = [{ crate = \"openssl\", reason = \"rustls\" }]\n";

    fn reported(name: &str, licence: Option<&str>) -> Vec<String> {
        let repository = Repository::sample(&[(PATH, DENY)]).with_package(name, licence);
        check(&repository)
            .into_iter()
            .map(|finding| finding.what)
            .collect()
    }

    #[test]
    fn expressions_are_read_as_spdx_means_them() {
        for (expression, allowed) in [
            ("MIT", true),
            ("GPL-3.0-only", false),
            ("GPL-3.0-only OR MIT", true),
            ("GPL-3.0-only AND MIT", false),
            ("ISC AND (Apache-2.0 OR GPL-3.0-only)", true),
            ("MIT/Apache-2.0", true),
            ("Apache-2.0 WITH LLVM-exception", false),
            ("(MIT", false),
            ("MIT MIT", false),
            ("", false),
        ] {
            assert_eq!(
                satisfies(expression, &["MIT", "Apache-2.0", "ISC"]),
                allowed,
                "{expression}"
            );
        }
    }

    #[test]
    fn a_licence_that_is_not_allowed_is_reported() {
        assert_eq!(
            reported("x", Some("GPL-3.0-only")),
            ["x 1.2.3 has the licence `GPL-3.0-only`"]
        );
    }

    #[test]
    fn a_package_without_a_licence_is_reported() {
        assert_eq!(reported("x", None), ["x 1.2.3 has the licence ``"]);
    }

    #[test]
    fn an_exception_is_for_its_crate_only() {
        assert_eq!(reported("filewise", Some("MPL-2.0")), Vec::<String>::new());
        assert_eq!(reported("other", Some("MPL-2.0")).len(), 1);
    }

    #[test]
    fn a_banned_crate_is_reported() {
        assert_eq!(
            reported("openssl", Some("MIT")),
            ["openssl 1.2.3 is banned (rustls)"]
        );
    }
}
