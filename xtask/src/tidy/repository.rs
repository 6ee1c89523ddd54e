//! The repository as the rules see it: its files, the Rust ones parsed, and what `cargo metadata` says of packages.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, bail};
use serde::Deserialize;

/// Folders that hold no source: version control, build output, what a fuzzer writes as it runs.
const SKIPPED_FOLDERS: &[&str] = &[
    ".git",
    "target",
    "node_modules",
    "fuzz/libfuzzer/artifacts",
    "fuzz/libfuzzer/coverage",
];

/// What is read as text. Everything else only has to exist where a document names it.
const TEXT_ENDINGS: &[&str] = &[
    ".rs", ".md", ".toml", ".sh", ".yml", ".yaml", ".sql", ".ci/run",
];

/// One text file.
pub(crate) struct File {
    /// Relative to the root, `/` between the parts.
    pub(crate) path: String,
    pub(crate) text: String,
    /// For `.rs` files: the syntax tree, or where it is wrong.
    pub(crate) syntax: Option<Result<syn::File, syn::Error>>,
}

impl File {
    fn new(path: String, text: String) -> Self {
        let syntax = path.ends_with(".rs").then(|| syn::parse_file(&text));
        Self { path, text, syntax }
    }

    /// The lines, without their ends.
    pub(crate) fn lines(&self) -> Vec<&str> {
        self.text.lines().collect()
    }

    /// The syntax tree of a Rust file that parses.
    pub(crate) fn rust(&self) -> Option<&syn::File> {
        self.syntax.as_ref()?.as_ref().ok()
    }

    /// True for integration tests, benches, examples and fuzz targets: files that no product contains.
    pub(crate) fn is_outside_the_product(&self) -> bool {
        self.path
            .split('/')
            .any(|part| matches!(part, "tests" | "benches" | "examples" | "fuzz"))
    }
}

/// What a rule looks at.
pub(crate) struct Repository {
    pub(crate) files: Vec<File>,
    /// Every path there is, folders included, text or not.
    pub(crate) paths: BTreeSet<String>,
    pub(crate) packages: Vec<Package>,
}

/// A package as `cargo metadata` tells it.
#[derive(Debug, Clone, Deserialize)]
pub(crate) struct Package {
    pub(crate) name: String,
    pub(crate) version: String,
    pub(crate) license: Option<String>,
    /// None for the crates of this workspace.
    pub(crate) source: Option<String>,
    pub(crate) manifest_path: PathBuf,
    pub(crate) dependencies: Vec<Dependency>,
}

/// One dependency of a [`Package`].
#[derive(Debug, Clone, Deserialize)]
pub(crate) struct Dependency {
    pub(crate) name: String,
    /// `dev`, `build`, or none for what the crate itself is built with.
    pub(crate) kind: Option<String>,
}

impl Repository {
    /// Reads the files below `root` and asks cargo for the packages.
    ///
    /// # Errors
    /// If a file cannot be read or cargo does not answer.
    pub(crate) fn read(root: &Path) -> anyhow::Result<Self> {
        let mut repository = Self {
            files: Vec::new(),
            paths: BTreeSet::new(),
            packages: packages(root)?,
        };
        repository.walk(root, "")?;
        Ok(repository)
    }

    fn walk(&mut self, root: &Path, folder: &str) -> anyhow::Result<()> {
        let absolute = root.join(folder);
        for entry in std::fs::read_dir(&absolute)
            .with_context(|| format!("cannot list {}", absolute.display()))?
        {
            let entry = entry?;
            let Ok(name) = entry.file_name().into_string() else {
                continue;
            };
            let path = if folder.is_empty() {
                name.clone()
            } else {
                format!("{folder}/{name}")
            };
            if SKIPPED_FOLDERS.contains(&path.as_str()) || SKIPPED_FOLDERS.contains(&name.as_str())
            {
                continue;
            }
            self.paths.insert(path.clone());
            if entry.file_type()?.is_dir() {
                self.walk(root, &path)?;
            } else if TEXT_ENDINGS.iter().any(|ending| path.ends_with(ending)) {
                match std::fs::read_to_string(entry.path()) {
                    Ok(text) => self.files.push(File::new(path, text)),
                    // Seed inputs of fuzz targets are broken on purpose.
                    Err(error) if error.kind() == std::io::ErrorKind::InvalidData => {}
                    // An editor's temporary file that went away meanwhile.
                    Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
                    Err(error) => return Err(error).with_context(|| format!("cannot read {path}")),
                }
            }
        }
        Ok(())
    }

    /// The crates of this workspace.
    pub(crate) fn members(&self) -> impl Iterator<Item = &Package> {
        self.packages
            .iter()
            .filter(|package| package.source.is_none())
    }

    /// The file at `path`.
    pub(crate) fn file(&self, path: &str) -> Option<&File> {
        self.files.iter().find(|file| file.path == path)
    }

    /// Where the manifest of a workspace crate lies, relative to the root.
    pub(crate) fn manifest<'a>(&'a self, package: &Package) -> Option<&'a File> {
        self.files
            .iter()
            .filter(|file| file.path.ends_with("/Cargo.toml"))
            .find(|file| package.manifest_path.ends_with(&file.path))
    }
}

/// Offline first: with everything fetched, as after any build, the network is not touched. Cargo wants the manifests
/// of other platforms' packages too, which a first build here does not fetch.
fn packages(root: &Path) -> anyhow::Result<Vec<Package>> {
    #[derive(Deserialize)]
    struct Metadata {
        packages: Vec<Package>,
    }

    let mut complaint = String::new();
    for network in [&["--offline"][..], &[]] {
        let output = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()))
            .args(["metadata", "--format-version", "1"])
            .args(network)
            .current_dir(root)
            .output()
            .context("cannot start cargo metadata")?;
        if output.status.success() {
            let metadata: Metadata =
                serde_json::from_slice(&output.stdout).context("cargo metadata gave no JSON")?;
            return Ok(metadata.packages);
        }
        complaint = String::from_utf8_lossy(&output.stderr).into_owned();
    }
    bail!("cargo metadata failed: {complaint}")
}

#[cfg(test)]
impl Repository {
    /// A repository of these files, and no packages.
    pub(crate) fn sample(files: &[(&str, &str)]) -> Self {
        let mut paths = BTreeSet::new();
        for (path, _) in files {
            let parts: Vec<&str> = path.split('/').collect();
            paths.extend((1..=parts.len()).map(|count| parts[..count].join("/")));
        }
        let files = files
            .iter()
            .map(|(path, text)| File::new((*path).into(), (*text).into()))
            .collect();
        Self {
            files,
            paths,
            packages: Vec::new(),
        }
    }

    /// Adds a workspace crate with these normal dependencies.
    pub(crate) fn with_member(mut self, name: &str, dependencies: &[&str]) -> Self {
        self.packages.push(Package {
            name: name.into(),
            version: "0.1.0".into(),
            license: Some("MIT OR Apache-2.0".into()),
            source: None,
            manifest_path: format!(
                "/repository/{}/Cargo.toml",
                name.replace("warren-", "crates/")
            )
            .into(),
            dependencies: dependencies
                .iter()
                .map(|name| Dependency {
                    name: (*name).into(),
                    kind: None,
                })
                .collect(),
        });
        self
    }

    /// Adds a package of the registry.
    pub(crate) fn with_package(mut self, name: &str, license: Option<&str>) -> Self {
        self.packages.push(Package {
            name: name.into(),
            version: "1.2.3".into(),
            license: license.map(Into::into),
            source: Some("registry".into()),
            manifest_path: "/elsewhere/Cargo.toml".into(),
            dependencies: Vec::new(),
        });
        self
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reading_a_folder_skips_build_output_and_keeps_hidden_files() {
        let folder = tempfile::tempdir().unwrap();
        for path in ["target/x.rs", ".ci/run", "crates/a/src/lib.rs"] {
            let path = folder.path().join(path);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, "// hello\n").unwrap();
        }
        let mut repository = Repository {
            files: Vec::new(),
            paths: BTreeSet::new(),
            packages: Vec::new(),
        };

        repository.walk(folder.path(), "").unwrap();

        let read: BTreeSet<&str> = repository
            .files
            .iter()
            .map(|file| file.path.as_str())
            .collect();
        assert_eq!(read, BTreeSet::from([".ci/run", "crates/a/src/lib.rs"]));
        assert!(repository.paths.contains("crates/a/src"));
    }
}
