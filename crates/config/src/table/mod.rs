//! The one table of keys. Reading, error messages, `config show`, the JSON Schema, the documentation and the reload plan all
//! come from it; a key that is not here does not exist.

pub(crate) mod call;
mod network;
mod node;

use std::sync::LazyLock;

use crate::kind::Kind;

/// One key.
#[derive(Debug, Clone, Copy)]
pub struct Key {
    /// `network.libp2p.mdns.interval`; `[]` stands for each entry of a list of sections.
    pub path: &'static str,
    /// What it may hold.
    pub kind: Kind,
    /// What holds where nothing sets it.
    pub default: Fallback,
    /// Why that, for the documentation.
    pub reason: &'static str,
    /// What it means, one or two sentences.
    pub doc: &'static str,
    /// The short environment variables, beside the long one that every key has.
    pub env: &'static [&'static str],
    /// Whether a reload applies it without a restart.
    pub reload: bool,
    /// Whether its value is never shown.
    pub secret: bool,
}

/// What holds where nothing sets a key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fallback {
    /// This value, as it would be written.
    Value(&'static str),
    /// Worked out from other keys; the text says how.
    Derived(&'static str),
    /// Nothing; the text says what that means.
    Nothing(&'static str),
    /// It must be set, in each entry of its list.
    Required,
}

/// Begins a row.
const fn key(
    path: &'static str,
    kind: Kind,
    default: Fallback,
    reason: &'static str,
    doc: &'static str,
) -> Key {
    Key {
        path,
        kind,
        default,
        reason,
        doc,
        env: &[],
        reload: false,
        secret: false,
    }
}

impl Key {
    const fn env(mut self, names: &'static [&'static str]) -> Self {
        self.env = names;
        self
    }

    const fn live(mut self) -> Self {
        self.reload = true;
        self
    }

    const fn secret(mut self) -> Self {
        self.secret = true;
        self
    }

    /// The environment variable that every key has: `WARREN_NETWORK__LIBP2P__MDNS__ENABLED`.
    #[must_use]
    pub fn variable(&self) -> String {
        format!("WARREN_{}", self.path.replace('.', "__").to_uppercase())
    }
}

/// All keys, in the order in which they are documented.
pub static KEYS: LazyLock<Vec<Key>> = LazyLock::new(|| {
    [
        network::IDENTITY,
        network::LIBP2P,
        network::PLACES,
        node::DISCOVERY,
        node::NODE,
        call::CALL,
    ]
    .concat()
});

/// The key at `path`.
pub(crate) fn find(path: &str) -> Option<&'static Key> {
    KEYS.iter().find(|key| key.path == path)
}

/// Whether `path` is a section: keys or carried sections stand below it.
pub(crate) fn is_section(path: &str) -> bool {
    let below = |key: &str| {
        key.strip_prefix(path)
            .is_some_and(|rest| rest.starts_with('.'))
    };
    KEYS.iter().any(|key| below(key.path))
        || crate::planes::CARRIED.iter().any(|(key, _)| below(key))
}

/// The names allowed directly below `section` (`""`: at the root), in order, without repetition.
pub(crate) fn children(section: &str) -> Vec<&'static str> {
    let mut names: Vec<&'static str> = KEYS
        .iter()
        .map(|key| key.path)
        .chain(crate::planes::CARRIED.iter().map(|(path, _)| *path))
        .filter_map(|path| {
            let rest = if section.is_empty() {
                path
            } else {
                path.strip_prefix(section)?.strip_prefix('.')?
            };
            rest.split('.').next()
        })
        .filter(|name| !name.ends_with("[]"))
        .collect();
    names.sort_unstable();
    names.dedup();
    names
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used)]
    use super::*;
    use std::collections::BTreeSet;

    #[test]
    fn given_the_table_when_looked_at_then_paths_and_variables_are_unique_and_rows_complete() {
        let mut paths = BTreeSet::new();
        let mut variables = BTreeSet::new();
        for key in KEYS.iter() {
            assert!(paths.insert(key.path), "{} is there twice", key.path);
            assert!(
                !key.doc.is_empty() && key.doc.ends_with('.'),
                "{}: {:?}",
                key.path,
                key.doc
            );
            for name in key
                .env
                .iter()
                .map(|name| (*name).to_owned())
                .chain([key.variable()])
            {
                assert!(variables.insert(name.clone()), "{name} is there twice");
            }
            let stated = matches!(key.default, Fallback::Required) || !key.reason.is_empty();
            assert!(stated, "{} has a default without a reason", key.path);
            assert!(
                crate::planes::plane_of(key.path).is_none(),
                "{} is both ours and carried",
                key.path
            );
        }
    }

    #[test]
    fn given_each_default_when_read_then_it_is_valid() {
        let environment = std::collections::BTreeMap::new();
        let variables = crate::expand::Variables {
            environment: &environment,
            hostname: Some("host7"),
        };
        for key in KEYS.iter() {
            if let Fallback::Value(text) = key.default {
                let value = crate::decode::read_text(key, text, Some(variables));
                assert!(value.is_ok(), "{}: {value:?}", key.path);
            }
        }
    }
}
