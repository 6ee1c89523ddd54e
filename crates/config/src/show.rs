//! `config show`: each value in force and where it came from.

use crate::load::Loaded;
use crate::problem::Origin;
use crate::table::{Fallback, KEYS};

/// One line of `config show`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Effective {
    /// Key path.
    pub path: String,
    /// The value in its normal form; `***` for a secret; empty where nothing is set.
    pub value: String,
    /// Who set it.
    pub origin: Origin,
}

impl Loaded {
    /// Every key in the order of the documentation, then the sections carried for other planes (their content, which may
    /// hold secrets, is left out).
    #[must_use]
    pub fn effective(&self) -> Vec<Effective> {
        let mut lines = Vec::new();
        for key in KEYS.iter().filter(|key| !key.path.contains("[]")) {
            let (value, origin) = match self.values.get(key.path) {
                Some(set) if key.secret => ("***".to_owned(), set.origin.clone()),
                Some(set) => (set.value.show(), set.origin.clone()),
                None => (String::new(), Origin::Default),
            };
            lines.push(Effective {
                path: key.path.to_owned(),
                value,
                origin,
            });
        }
        for (path, (origin, _)) in &self.carried {
            let plane = crate::planes::plane_of(path).unwrap_or_default();
            let value = format!("(carried for the {plane} plane)");
            lines.push(Effective {
                path: path.clone(),
                value,
                origin: origin.clone(),
            });
        }
        lines
    }
}

/// The block of `docs/configuration.md` that lists every key.
#[must_use]
pub fn docs_table() -> String {
    let mut text = String::new();
    let mut section = "";
    for key in KEYS.iter() {
        let first = section_of(key.path);
        if first != section {
            section = first;
            let gap = if text.is_empty() { "" } else { "\n" };
            text.push_str(&format!("{gap}### `{section}`\n\n| key | holds | default | what it does |\n|---|---|---|---|\n"));
        }
        let default = match key.default {
            Fallback::Value(value) => format!("`{value}`: {}", key.reason),
            Fallback::Derived(how) => format!("{how}: {}", key.reason),
            Fallback::Nothing(meaning) => format!("none ({meaning}): {}", key.reason),
            Fallback::Required => "must be set".to_owned(),
        };
        let mut notes = Vec::new();
        if !key.env.is_empty() {
            notes.push(
                key.env
                    .iter()
                    .map(|name| format!("`{name}`"))
                    .collect::<Vec<_>>()
                    .join(", "),
            );
        }
        if key.reload {
            notes.push("reloads".to_owned());
        }
        if key.secret {
            notes.push("secret".to_owned());
        }
        let notes = if notes.is_empty() {
            String::new()
        } else {
            format!(" ({})", notes.join("; "))
        };
        let row = [
            key.path,
            &key.kind.describe(),
            &default,
            &format!("{}{notes}", key.doc),
        ]
        .map(escape);
        text.push_str(&format!(
            "| `{}` | {} | {} | {} |\n",
            row[0], row[1], row[2], row[3]
        ));
    }
    text
}

/// The first two parts of a path below `network` and `discovery`, else the first.
fn section_of(path: &str) -> &str {
    let depth = match path.split('.').next() {
        Some("network" | "discovery") if path.matches('.').count() > 1 => 2,
        _ => 1,
    };
    path.match_indices('.')
        .nth(depth - 1)
        .map_or(path, |(at, _)| &path[..at])
}

fn escape(cell: &str) -> String {
    cell.replace('|', "\\|")
}
