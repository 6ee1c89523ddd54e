//! One file's tree, or one text, against the table of keys.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use crate::expand::Variables;
use crate::kind::{Kind, Value};
use crate::planes;
use crate::problem::{Origin, Problem, Report, nearest, quoted};
use crate::table::{self, Fallback, KEYS, Key};
use crate::yaml::{self, Content, Entry, Node, Place};

/// A value and who set it.
#[derive(Debug, Clone)]
pub(crate) struct Set {
    pub(crate) value: Value,
    pub(crate) origin: Origin,
}

/// What all sources set so far; a later source overwrites.
#[derive(Debug, Clone, Default)]
pub(crate) struct Layers {
    pub(crate) values: BTreeMap<&'static str, Set>,
    pub(crate) carried: BTreeMap<String, (Origin, serde_json::Value)>,
    /// Keys, and sections with all that is below them, that somebody meant to set and got wrong; `""` is everything. What
    /// stands there instead, a default or an earlier source's value, is not what was meant.
    doubtful: BTreeSet<String>,
}

impl Layers {
    pub(crate) fn set(&mut self, key: &'static Key, value: Value, origin: Origin) {
        if origin != Origin::Default {
            self.doubtful.remove(key.path);
        }
        self.values.insert(key.path, Set { value, origin });
    }

    /// Notes that the value of this key, or of all keys of this section, is not what somebody meant.
    pub(crate) fn doubt(&mut self, path: impl Into<String>) {
        let path = path.into();
        let below = |key: &str| {
            key.strip_prefix(&path)
                .is_some_and(|rest| path.is_empty() || rest.starts_with('.'))
        };
        // What an earlier source set may have been meant to change.
        self.doubtful.extend(
            self.values
                .keys()
                .filter(|key| below(key))
                .map(|key| (*key).to_owned()),
        );
        self.doubtful.insert(path);
    }

    /// Whether the value of the key at `path` is what was meant, a default included.
    pub(crate) fn is_sure(&self, path: &str) -> bool {
        if self.doubtful.contains(path) {
            return false;
        }
        let set_by_somebody = self
            .values
            .get(path)
            .is_some_and(|set| set.origin != Origin::Default);
        let mut sections = path.match_indices('.').map(|(at, _)| &path[..at]);
        set_by_somebody
            || !(self.doubtful.contains("")
                || sections.any(|section| self.doubtful.contains(section)))
    }

    /// Sections are merged, anything else is replaced.
    pub(crate) fn carry(&mut self, path: String, value: serde_json::Value, origin: Origin) {
        match self.carried.get_mut(&path) {
            Some((_, present)) => merge(present, value),
            None => {
                self.carried.insert(path, (origin, value));
            }
        }
    }
}

/// Both trees have the depth of a YAML file at most.
fn merge(present: &mut serde_json::Value, new: serde_json::Value) {
    match (present, new) {
        (serde_json::Value::Object(present), serde_json::Value::Object(new)) => {
            for (key, value) in new {
                match present.get_mut(&key) {
                    Some(present) => merge(present, value),
                    None => {
                        present.insert(key, value);
                    }
                }
            }
        }
        (present, new) => *present = new,
    }
}

/// Reads one file into `layers`.
pub(crate) fn read_file(
    file: &Path,
    bytes: &[u8],
    variables: Variables<'_>,
    layers: &mut Layers,
    report: &mut Report,
) {
    let (root, faults) = yaml::parse(bytes);
    let origin = |place: Place| Origin::File {
        file: file.to_owned(),
        line: place.line,
        column: place.column,
    };
    if !faults.is_empty() {
        layers.doubt("");
    }
    for fault in faults {
        report.add(Problem {
            origin: origin(fault.place),
            path: None,
            what: fault.what,
            help: fault.help,
        });
    }
    let Some(root) = root else { return };
    let mut walk = Walk {
        file,
        variables,
        layers,
        report,
    };
    match &root.content {
        Content::Mapping(entries) => walk.section("", entries),
        _ if root.is_null() => {}
        _ => {
            let what = format!(
                "a configuration is made of sections such as network:, this file holds {}",
                root.describe()
            );
            walk.report.add(Problem::nowhere(origin(root.place), what));
            walk.layers.doubt("");
        }
    }
}

struct Walk<'a> {
    file: &'a Path,
    variables: Variables<'a>,
    layers: &'a mut Layers,
    report: &'a mut Report,
}

impl Walk<'_> {
    fn origin(&self, place: Place) -> Origin {
        Origin::File {
            file: self.file.to_owned(),
            line: place.line,
            column: place.column,
        }
    }

    /// Recursion is as deep as the table's paths.
    fn section(&mut self, section: &str, entries: &[Entry]) {
        for entry in entries {
            let path = if section.is_empty() {
                entry.key.clone()
            } else {
                format!("{section}.{}", entry.key)
            };
            if let Some(key) = table::find(&path) {
                self.value(key, &entry.value);
            } else if planes::plane_of(&path).is_some() {
                let origin = self.origin(entry.place);
                self.layers.carry(path, entry.value.to_json(), origin);
            } else if table::is_section(&path) {
                match &entry.value.content {
                    Content::Mapping(entries) => self.section(&path, entries),
                    _ if entry.value.is_null() => {}
                    _ => {
                        let what =
                            format!("a section is needed here, not {}", entry.value.describe());
                        let help = allowed(&path);
                        self.layers.doubt(path.clone());
                        self.report.add(
                            Problem::new(self.origin(entry.value.place), path, what).help(help),
                        );
                    }
                }
            } else {
                let origin = self.origin(entry.place);
                let with_help = self.report.has_room();
                if with_help {
                    let meant = sibling(section, &entry.key)
                        .or_else(|| elsewhere(&entry.key).map(str::to_owned));
                    if let Some(meant) = meant {
                        self.layers.doubt(meant);
                    }
                } else {
                    self.layers.doubt("");
                }
                self.report
                    .add(unknown(origin, section, &entry.key, with_help));
            }
        }
    }

    fn value(&mut self, key: &'static Key, node: &Node) {
        if node.is_null() {
            return;
        }
        let mut reader = Reader {
            variables: Some(self.variables),
            base: self.file.parent(),
            faults: Vec::new(),
        };
        let value = reader.node(key, key.kind, key.path, node);
        for fault in reader.faults {
            let origin = self.origin(fault.place);
            self.report.add(Problem {
                origin,
                path: Some(fault.path),
                what: fault.what,
                help: fault.help,
            });
        }
        match value {
            Some(value) => {
                let origin = self.origin(node.place);
                self.layers.set(key, value, origin);
            }
            None => self.layers.doubt(key.path),
        }
    }
}

/// The key or section of this section that an unknown name in it probably stands for.
fn sibling(section: &str, name: &str) -> Option<String> {
    let near = nearest(name, table::children(section))?;
    Some(if section.is_empty() {
        near.to_owned()
    } else {
        format!("{section}.{near}")
    })
}

/// The problem of a key that is not in the table. `section` is `""` at the root.
pub(crate) fn unknown(origin: Origin, section: &str, name: &str, with_help: bool) -> Problem {
    let shown: String = name.chars().take(80).flat_map(char::escape_debug).collect();
    let path = if section.is_empty() {
        shown
    } else {
        format!("{section}.{shown}")
    };
    let problem = Problem::new(origin, path, "unknown key");
    if !with_help {
        return problem;
    }
    if let Some(place) = sibling(section, name) {
        return problem.help(format!("did you mean {place}?"));
    }
    if let Some(place) = elsewhere(name) {
        return problem.help(format!("it belongs at {place}"));
    }
    problem.help(allowed(section))
}

/// The one place where a key or section of this name belongs.
fn elsewhere(name: &str) -> Option<&'static str> {
    let mut places = KEYS
        .iter()
        .map(|key| key.path)
        .flat_map(|path| {
            path.match_indices('.')
                .map(|(at, _)| &path[..at])
                .chain([path])
        })
        .filter(|path| path.rsplit('.').next() == Some(name) && !path.contains("[]"));
    let first = places.next()?;
    places.all(|path| path == first).then_some(first)
}

fn allowed(section: &str) -> String {
    format!("allowed here: {}", table::children(section).join(", "))
}

/// Reads a text that is not in a file: a default, an environment variable, a flag. A list has commas between its
/// items, or is written as YAML. The error does not repeat the key.
pub(crate) fn read_text(
    key: &'static Key,
    text: &str,
    variables: Option<Variables<'_>>,
) -> Result<Value, String> {
    let start = Place { line: 1, column: 1 };
    let scalar = |text: &str| Node {
        place: start,
        content: Content::Scalar {
            text: text.to_owned(),
            plain: false,
        },
    };
    let written_as_yaml = text.trim_start().starts_with('[');
    let node = match key.kind {
        Kind::List(_) | Kind::Records if written_as_yaml => match yaml::parse(text.as_bytes()) {
            (Some(node), faults) if faults.is_empty() => node,
            (_, faults) => {
                return Err(faults
                    .into_iter()
                    .next()
                    .map_or_else(String::new, |fault| fault.what));
            }
        },
        Kind::List(_) => {
            let items = text
                .split(',')
                .map(str::trim)
                .filter(|item| !item.is_empty());
            Node {
                place: start,
                content: Content::Sequence(items.map(scalar).collect()),
            }
        }
        _ => scalar(text),
    };
    let mut reader = Reader {
        variables,
        base: None,
        faults: Vec::new(),
    };
    match reader.node(key, key.kind, key.path, &node) {
        Some(value) => Ok(value),
        None => Err(reader
            .faults
            .into_iter()
            .map(|fault| fault.what)
            .collect::<Vec<_>>()
            .join("; ")),
    }
}

/// Something wrong inside a value.
struct Fault {
    place: Place,
    path: String,
    what: String,
    help: Option<String>,
}

struct Reader<'a> {
    variables: Option<Variables<'a>>,
    base: Option<&'a Path>,
    faults: Vec<Fault>,
}

impl Reader<'_> {
    fn fault(&mut self, place: Place, path: &str, what: impl Into<String>) -> Option<Value> {
        self.faults.push(Fault {
            place,
            path: path.to_owned(),
            what: what.into(),
            help: None,
        });
        None
    }

    /// `None`: a fault was noted. Every item of a list is looked at.
    fn node(&mut self, key: &'static Key, kind: Kind, path: &str, node: &Node) -> Option<Value> {
        match (kind, &node.content) {
            (Kind::List(item), Content::Sequence(nodes)) => {
                let items: Vec<Option<Value>> = nodes
                    .iter()
                    .map(|node| self.node(key, *item, path, node))
                    .collect();
                items
                    .into_iter()
                    .collect::<Option<Vec<_>>>()
                    .map(Value::List)
            }
            (Kind::Records, Content::Sequence(nodes)) => {
                let records: Vec<_> = nodes.iter().map(|node| self.record(key, node)).collect();
                records
                    .into_iter()
                    .collect::<Option<Vec<_>>>()
                    .map(Value::Records)
            }
            (Kind::List(_) | Kind::Records, Content::Scalar { text, .. }) => {
                let example = if key.secret || text.len() > 80 {
                    "value"
                } else {
                    text
                };
                self.fault(
                    node.place,
                    path,
                    format!(
                        "a list is needed here, not a single value: write [{}]",
                        quoted(example)
                    ),
                )
            }
            (Kind::List(_) | Kind::Records, Content::Mapping(_)) => self.fault(
                node.place,
                path,
                "a list is needed here, not a section: begin each item with '- '",
            ),
            (_, Content::Scalar { text, .. }) => self.scalar(key, kind, path, node.place, text),
            (_, Content::Sequence(_) | Content::Mapping(_)) => self.fault(
                node.place,
                path,
                format!("a single value is needed here, not {}", node.describe()),
            ),
        }
    }

    fn scalar(
        &mut self,
        key: &Key,
        kind: Kind,
        path: &str,
        place: Place,
        text: &str,
    ) -> Option<Value> {
        let expanded = match self.variables {
            Some(variables) => variables.expand(text),
            None => Ok(text.to_owned()),
        };
        match expanded.and_then(|text| kind.read(&text, self.base)) {
            Ok(value) => Some(value),
            // A malformed ${…} may hold a part of the secret.
            Err(what) if key.secret && what.contains("name of a variable") => {
                self.fault(place, path, "a ${…} in it is not the name of a variable")
            }
            Err(what) => self.fault(place, path, what),
        }
    }

    fn record(&mut self, list: &'static Key, node: &Node) -> Option<BTreeMap<&'static str, Value>> {
        let Content::Mapping(entries) = &node.content else {
            self.fault(
                node.place,
                list.path,
                format!("each item is a section, not {}", node.describe()),
            );
            return None;
        };
        let prefix = format!("{}[].", list.path);
        let fields = || {
            KEYS.iter()
                .filter_map(|key| Some((key.path.strip_prefix(prefix.as_str())?, key)))
        };
        let before = self.faults.len();
        let mut record = BTreeMap::new();
        for entry in entries {
            let Some((name, key)) = fields().find(|(name, _)| *name == entry.key) else {
                let names: Vec<&str> = fields().map(|(name, _)| name).collect();
                let help = match nearest(&entry.key, names.iter().copied()) {
                    Some(near) => format!("did you mean {near}?"),
                    None => format!("allowed here: {}", names.join(", ")),
                };
                let shown: String = entry
                    .key
                    .chars()
                    .take(80)
                    .flat_map(char::escape_debug)
                    .collect();
                let path = format!("{prefix}{shown}");
                self.faults.push(Fault {
                    place: entry.place,
                    path,
                    what: "unknown key".to_owned(),
                    help: Some(help),
                });
                continue;
            };
            if !entry.value.is_null()
                && let Some(value) = self.node(key, key.kind, key.path, &entry.value)
            {
                record.insert(name, value);
            }
        }
        for (name, key) in fields() {
            let absent = !entries
                .iter()
                .any(|entry| entry.key == name && !entry.value.is_null());
            if key.default == Fallback::Required && absent {
                self.fault(node.place, key.path, "it must be set in each item");
            }
        }
        (self.faults.len() == before).then_some(record)
    }
}
