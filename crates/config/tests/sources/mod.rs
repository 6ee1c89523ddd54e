//! Configurations from texts instead of files and of the real environment.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    dead_code,
    unreachable_pub,
    reason = "each test binary uses a part"
)]

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};

use warren_config::{Flag, Inputs, Loaded, Problems, load};

/// The sources of one configuration.
#[derive(Default)]
pub struct Sources {
    files: Vec<(PathBuf, Vec<u8>)>,
    inputs: Inputs,
}

impl Sources {
    pub fn new() -> Self {
        let inputs = Inputs {
            hostname: Some("host7".to_owned()),
            ..Inputs::default()
        };
        Self {
            files: Vec::new(),
            inputs,
        }
    }

    pub fn file(mut self, path: &str, text: impl AsRef<[u8]>) -> Self {
        self.files.push((path.into(), text.as_ref().to_vec()));
        self.inputs.files.push(path.into());
        self
    }

    pub fn env(mut self, name: &str, value: &str) -> Self {
        self.inputs
            .environment
            .insert(name.to_owned(), value.to_owned());
        self
    }

    pub fn flag(mut self, name: &str, path: &str, value: &str) -> Self {
        self.inputs.flags.push(Flag {
            name: name.to_owned(),
            path: path.to_owned(),
            value: value.to_owned(),
        });
        self
    }

    pub fn legacy(mut self, name: &str, path: &str, value: &str) -> Self {
        self.inputs.legacy_variables.push(Flag {
            name: name.to_owned(),
            path: path.to_owned(),
            value: value.to_owned(),
        });
        self
    }

    pub fn load(&self) -> Result<Loaded, Problems> {
        let files: BTreeMap<&Path, &Vec<u8>> = self
            .files
            .iter()
            .map(|(path, text)| (path.as_path(), text))
            .collect();
        load(&self.inputs, |path| {
            files
                .get(path)
                .map(|text| (*text).clone())
                .ok_or(io::ErrorKind::NotFound.into())
        })
    }

    pub fn settings(&self) -> warren_config::Settings {
        self.loaded().settings
    }

    pub fn loaded(&self) -> Loaded {
        self.load().unwrap_or_else(|problems| panic!("{problems}"))
    }

    pub fn problems(&self) -> String {
        self.load().expect_err("this must not load").to_string()
    }

    pub fn warnings(&self) -> Vec<String> {
        self.loaded()
            .warnings
            .iter()
            .map(ToString::to_string)
            .collect()
    }
}

/// One file `node.yaml` and nothing else.
pub fn node(text: impl AsRef<[u8]>) -> Sources {
    Sources::new().file("node.yaml", text)
}

/// The value of `path` in `config show`.
pub fn shown(loaded: &Loaded, path: &str) -> (String, String) {
    let line = loaded
        .effective()
        .into_iter()
        .find(|line| line.path == path)
        .expect("a known key");
    (line.value, line.origin.to_string())
}
