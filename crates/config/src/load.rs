//! All sources together: defaults, files, environment, flags.

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};

use crate::assemble::settings_from;
use crate::check;
use crate::decode::{self, Layers, Set};
use crate::derive;
use crate::environment;
use crate::expand::Variables;
use crate::planes;
use crate::problem::{Origin, Problem, Problems, Report};
use crate::settings::{Carried, Settings};

/// What a configuration is read from.
#[derive(Debug, Clone, Default)]
pub struct Inputs {
    /// The files of `--config`, in order. Sections are merged; where two set one key, the later wins.
    pub files: Vec<PathBuf>,
    /// The whole environment: `WARREN_*` sets keys, anything may stand in `${…}`.
    pub environment: BTreeMap<String, String>,
    /// Keys set by variables of another name than ours (`SEED_NODES`): weaker than `WARREN_*`, stronger than files.
    pub legacy_variables: Vec<Flag>,
    /// Keys set on the command line.
    pub flags: Vec<Flag>,
    /// What `${HOSTNAME}` stands for where no variable says so.
    pub hostname: Option<String>,
    /// `WARREN_*` variables that are no settings (the command line's own): not warned of.
    pub reserved_variables: Vec<String>,
}

/// A key set on the command line.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Flag {
    /// As the person wrote it, `--listen`; for messages and origins.
    pub name: String,
    /// The key it sets.
    pub path: String,
    /// As it would stand in an environment variable: a list with commas.
    pub value: String,
}

/// A configuration that was read, with where each value came from.
#[derive(Debug, Clone)]
pub struct Loaded {
    /// The valid settings.
    pub settings: Settings,
    /// What deserves a look but stops nothing.
    pub warnings: Vec<Problem>,
    /// One per key that has a value.
    pub(crate) values: BTreeMap<&'static str, Set>,
    pub(crate) carried: BTreeMap<String, (Origin, serde_json::Value)>,
}

/// What can be said of a configuration, right or wrong.
#[derive(Debug, Clone)]
pub struct Inspection {
    /// The configuration, or every problem of every source at once.
    pub outcome: Result<Loaded, Problems>,
    /// What deserves a look, also where there are problems.
    pub warnings: Vec<Problem>,
    /// The settings as far as they can be told: what could not be read has its default. Not to be run with, and only keys
    /// that [`is_sure`](Self::is_sure) vouches for are worth a complaint.
    pub sketch: Settings,
    layers: Layers,
}

impl Inspection {
    /// Whether the key at `path` has the value, or the default, that was meant: nobody tried to set it and failed.
    #[must_use]
    pub fn is_sure(&self, path: &str) -> bool {
        self.layers.is_sure(path)
    }
}

/// Reads a configuration.
///
/// `read` gives a file's bytes; it need not give more than [`crate::MAX_FILE_BYTES`] + 1 of them. Nothing else of the outside
/// world is touched: whether the paths inside exist is for the caller to find out.
///
/// # Errors
/// Every problem of every source at once.
pub fn load(
    inputs: &Inputs,
    read: impl FnMut(&Path) -> io::Result<Vec<u8>>,
) -> Result<Loaded, Problems> {
    inspect(inputs, read).outcome
}

/// Reads a configuration as [`load`] does, and keeps what can be told of a wrong one, so that its paths can be looked at too.
pub fn inspect(inputs: &Inputs, mut read: impl FnMut(&Path) -> io::Result<Vec<u8>>) -> Inspection {
    let mut report = Report::default();
    let mut layers = Layers::default();
    let variables = Variables {
        environment: &inputs.environment,
        hostname: inputs.hostname.as_deref(),
    };
    for file in &inputs.files {
        match read(file) {
            Ok(bytes) => decode::read_file(file, &bytes, variables, &mut layers, &mut report),
            Err(error) => {
                let what = format!("{} cannot be read: {error}", file.display());
                report.add(Problem::nowhere(Origin::Default, what).help("check --config"));
                layers.doubt("");
            }
        }
    }
    environment::apply_legacy(&inputs.legacy_variables, &mut layers, &mut report);
    environment::apply(
        &inputs.environment,
        &inputs.reserved_variables,
        &mut layers,
        &mut report,
    );
    environment::apply_flags(&inputs.flags, &mut layers, &mut report);
    derive::fill(&mut layers, variables, &mut report);
    check::each_value(&layers, &mut report);
    let sketch = settings_from(&layers.values, carried_sections(&layers.carried));
    check::together(&sketch, &layers, &mut report);
    warn_of_planes(&layers, &mut report);
    let (warnings, problems) = report.finish();
    let outcome = match problems {
        Some(problems) => Err(problems),
        None => Ok(Loaded {
            settings: sketch.clone(),
            warnings: warnings.clone(),
            values: layers.values.clone(),
            carried: layers.carried.clone(),
        }),
    };
    Inspection {
        outcome,
        warnings,
        sketch,
        layers,
    }
}

fn carried_sections(carried: &BTreeMap<String, (Origin, serde_json::Value)>) -> Vec<Carried> {
    let section = |(path, (_, value)): (&String, &(Origin, serde_json::Value))| {
        let plane = planes::plane_of(path)?;
        Some(Carried {
            path: path.clone(),
            plane,
            value: value.clone(),
        })
    };
    carried.iter().filter_map(section).collect()
}

/// One warning for each plane, at the first of its keys.
fn warn_of_planes(layers: &Layers, report: &mut Report) {
    let mut planes_seen: BTreeMap<&'static str, (Origin, Vec<&str>)> = BTreeMap::new();
    for (path, (origin, _)) in &layers.carried {
        let Some(plane) = planes::plane_of(path) else {
            continue;
        };
        let (first, paths) = planes_seen
            .entry(plane)
            .or_insert_with(|| (origin.clone(), Vec::new()));
        *first = first.clone().min(origin.clone());
        paths.push(path);
    }
    for (plane, (origin, paths)) in planes_seen {
        let what = format!(
            "the {plane} plane is not part of this build: {} has no effect",
            paths.join(", ")
        );
        report.warn(Problem::nowhere(origin, what));
    }
}
