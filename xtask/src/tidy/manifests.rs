//! Every crate of the workspace inherits what is set once: lints, version, edition, licence; none is published by
//! accident; and dependencies are named in the root only, each with its reason there.

use toml::Table;

use super::Finding;
use super::repository::{File, Repository};

/// Keys of `[package]` that say `….workspace = true`.
const INHERITED: &[&str] = &["version", "edition", "rust-version", "license", "publish"];

/// Manifests that set for themselves what the workspace sets.
pub(super) fn check(repository: &Repository) -> Vec<Finding> {
    repository
        .members()
        .filter_map(|package| repository.manifest(package))
        .flat_map(check_manifest)
        .collect()
}

fn check_manifest(file: &File) -> Vec<Finding> {
    let finding = |needle: &str, what: String, fix: String| Finding {
        path: file.path.clone(),
        line: file
            .lines()
            .iter()
            .position(|line| line.starts_with(needle))
            .map_or(1, |index| index + 1),
        what,
        why: "what is set once cannot drift",
        fix,
    };
    let manifest: Table = match toml::from_str(&file.text) {
        Ok(manifest) => manifest,
        Err(error) => {
            return vec![finding(
                "",
                format!("not valid TOML ({error})"),
                "mend it".into(),
            )];
        }
    };
    let mut findings = Vec::new();
    if !inherits(manifest.get("lints")) {
        findings.push(finding(
            "[lints",
            "the workspace's lints are not inherited".into(),
            "add `[lints]` with `workspace = true`".into(),
        ));
    }
    let package = manifest
        .get("package")
        .and_then(|package| package.as_table());
    for key in INHERITED {
        if !inherits(package.and_then(|package| package.get(*key))) {
            let fix = format!("write `{key}.workspace = true`");
            findings.push(finding(key, format!("`{key}` is not inherited"), fix));
        }
    }
    for section in ["dependencies", "dev-dependencies", "build-dependencies"] {
        for (name, value) in manifest
            .get(section)
            .and_then(|table| table.as_table())
            .into_iter()
            .flatten()
        {
            if !inherits(Some(value)) {
                let fix = format!(
                    "name it with its reason in the root Cargo.toml and write `{name}.workspace = true`"
                );
                findings.push(finding(
                    name,
                    format!("dependency `{name}` is not the workspace's"),
                    fix,
                ));
            }
        }
    }
    findings
}

fn inherits(value: Option<&toml::Value>) -> bool {
    value
        .and_then(|value| value.get("workspace"))
        .and_then(|workspace| workspace.as_bool())
        == Some(true)
}

#[cfg(test)]
mod tests {
    use super::*;

    const GOOD: &str = "[package]\nname = \"warren-a\"\nversion.workspace = true\nedition.workspace = true\n\
        rust-version.workspace = true\nlicense.workspace = true\npublish.workspace = true\n\n[lints]\nworkspace = true\n\n\
        [dependencies]\nserde.workspace = true\n";

    fn reported(manifest: &str) -> Vec<String> {
        let repository =
            Repository::sample(&[("crates/a/Cargo.toml", manifest)]).with_member("warren-a", &[]);
        check(&repository)
            .into_iter()
            .map(|finding| finding.what)
            .collect()
    }

    #[test]
    fn a_manifest_that_inherits_is_fine() {
        assert_eq!(reported(GOOD), Vec::<String>::new());
    }

    #[test]
    fn lints_of_its_own_are_reported() {
        let manifest = GOOD.replace(
            "[lints]\nworkspace = true\n",
            "[lints.rust]\nunsafe_code = \"allow\"\n",
        );

        assert_eq!(
            reported(&manifest),
            ["the workspace's lints are not inherited"]
        );
    }

    #[test]
    fn a_licence_of_its_own_is_reported() {
        let manifest = GOOD.replace("license.workspace = true", "license = \"GPL-3.0\"");

        assert_eq!(reported(&manifest), ["`license` is not inherited"]);
    }

    #[test]
    fn a_version_of_its_own_is_reported() {
        let manifest = GOOD.replace("serde.workspace = true", "serde = \"1\"");

        assert_eq!(
            reported(&manifest),
            ["dependency `serde` is not the workspace's"]
        );
    }
}
