//! `WARREN_*` variables and command line flags.

use std::collections::BTreeMap;

use crate::decode::{Layers, read_text, unknown};
use crate::kind::Value;
use crate::load::Flag;
use crate::planes;
use crate::problem::{Origin, Problem, Report, nearest};
use crate::table::{self, KEYS, Key};

const PREFIX: &str = "WARREN_";

/// The documents' name for one discovery server; it joins the list of `WARREN_DISCOVERY_SERVERS`.
const DISCOVERY_URL: &str = "WARREN_DISCOVERY_URL";

/// Applies every variable that begins with `WARREN_`. An empty one counts as not set: container tools pass them so.
pub(crate) fn apply(
    environment: &BTreeMap<String, String>,
    reserved: &[String],
    layers: &mut Layers,
    report: &mut Report,
) {
    for (name, value) in environment {
        if !name.starts_with(PREFIX)
            || value.is_empty()
            || name == DISCOVERY_URL
            || reserved.contains(name)
        {
            continue;
        }
        let origin = Origin::Environment(name.clone());
        if let Some(key) = KEYS
            .iter()
            .find(|key| key.env.contains(&name.as_str()) || key.variable() == *name)
        {
            set(key, value, origin, layers, report);
            continue;
        }
        let carried = planes::ENVIRONMENT
            .iter()
            .find(|(short, _)| short == name)
            .map(|(_, path)| (*path).to_owned());
        let path =
            carried.unwrap_or_else(|| name[PREFIX.len()..].to_lowercase().replace("__", "."));
        if planes::plane_of(&path).is_some() {
            layers.carry(path, value.clone().into(), origin);
        } else {
            report.warn(unknown_variable(name, origin));
        }
    }
    if let Some(url) = environment.get(DISCOVERY_URL).filter(|url| !url.is_empty()) {
        add_discovery_url(url, environment, layers, report);
    }
}

/// Applies variables that other systems set; one that is empty counts as not set.
pub(crate) fn apply_legacy(variables: &[Flag], layers: &mut Layers, report: &mut Report) {
    for variable in variables
        .iter()
        .filter(|variable| !variable.value.is_empty())
    {
        if let Some(key) = table::find(&variable.path) {
            let origin = Origin::Environment(variable.name.clone());
            set(key, &variable.value, origin, layers, report);
        }
    }
}

/// Applies flags, the strongest source.
pub(crate) fn apply_flags(flags: &[Flag], layers: &mut Layers, report: &mut Report) {
    for flag in flags {
        let origin = Origin::Flag(flag.name.clone());
        match table::find(&flag.path) {
            Some(key) => set(key, &flag.value, origin, layers, report),
            None => {
                let (section, name) = flag.path.rsplit_once('.').unwrap_or(("", &flag.path));
                report.add(unknown(origin, section, name, true));
            }
        }
    }
}

fn set(key: &'static Key, text: &str, origin: Origin, layers: &mut Layers, report: &mut Report) {
    match read_text(key, text, None) {
        Ok(value) => layers.set(key, value, origin),
        Err(what) => {
            layers.doubt(key.path);
            report.add(Problem::new(origin, key.path, what));
        }
    }
}

/// With `WARREN_DISCOVERY_SERVERS` the two make one list; alone it replaces the file's, as every variable does.
fn add_discovery_url(
    url: &str,
    environment: &BTreeMap<String, String>,
    layers: &mut Layers,
    report: &mut Report,
) {
    let Some(key) = table::find("network.discovery.servers") else {
        return;
    };
    let origin = Origin::Environment(DISCOVERY_URL.to_owned());
    let mut added = match read_text(key, url, None) {
        Ok(Value::List(added)) => added,
        Ok(_) => return,
        Err(what) => {
            layers.doubt(key.path);
            return report.add(Problem::new(origin, key.path, what));
        }
    };
    let by_variable = key.env.iter().any(|name| {
        environment
            .get(*name)
            .is_some_and(|value| !value.is_empty())
    }) || environment.contains_key(&key.variable());
    if by_variable
        && let Some(Value::List(listed)) = layers.values.get(key.path).map(|set| &set.value)
    {
        let mut all = listed.clone();
        added.retain(|url| !listed.contains(url));
        all.append(&mut added);
        added = all;
    }
    layers.set(key, Value::List(added), origin);
}

fn unknown_variable(name: &str, origin: Origin) -> Problem {
    let mut names: Vec<String> = KEYS
        .iter()
        .filter(|key| !key.path.contains("[]"))
        .flat_map(|key| {
            key.env
                .iter()
                .map(|name| (*name).to_owned())
                .chain([key.variable()])
        })
        .collect();
    names.push(DISCOVERY_URL.to_owned());
    let problem = Problem::nowhere(origin, "no setting has this variable");
    match nearest(name, names.iter().map(String::as_str)) {
        Some(near) => problem.help(format!("did you mean {near}?")),
        None => problem.help("a key a.b.c has the variable WARREN_A__B__C"),
    }
}
