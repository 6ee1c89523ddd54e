//! Reading the configuration from this machine: its files, environment and name.

use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use warren_config::{Inputs, Inspection, Loaded, MAX_FILE_BYTES, Problems};

/// Variables that belong to the command line and set no key.
const OWN_VARIABLES: [&str; 3] = ["WARREN_CONFIG", "WARREN_BIN", "WARREN_SKIP_LOG"];

/// Reads `files` with this process's environment.
///
/// # Errors
/// Every problem at once.
pub fn load(files: &[PathBuf]) -> Result<Loaded, Problems> {
    inspect(files).outcome
}

/// Reads `files` with this process's environment, and keeps what can be told of a wrong configuration.
#[must_use]
pub fn inspect(files: &[PathBuf]) -> Inspection {
    let inputs = Inputs {
        files: files.to_vec(),
        environment: std::env::vars_os()
            .filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok()?)))
            .collect(),
        flags: Vec::new(),
        hostname: Some(
            rustix::system::uname()
                .nodename()
                .to_string_lossy()
                .into_owned(),
        ),
        reserved_variables: OWN_VARIABLES.map(str::to_owned).into(),
    };
    warren_config::inspect(&inputs, read)
}

/// Reads a configuration from text, as `dev` writes it for its nodes; the environment has no part in it.
///
/// # Errors
/// Every problem at once.
pub fn from_text(name: &Path, text: &str) -> Result<Loaded, Problems> {
    let inputs = Inputs {
        files: vec![name.to_owned()],
        ..Inputs::default()
    };
    warren_config::load(&inputs, |_| Ok(text.as_bytes().to_vec()))
}

fn read(path: &Path) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    File::open(path)?
        .take(u64::try_from(MAX_FILE_BYTES).unwrap_or(u64::MAX) + 1)
        .read_to_end(&mut bytes)?;
    Ok(bytes)
}
