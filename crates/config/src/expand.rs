//! `${VAR}` and `${VAR:-default}` in values.

use std::collections::BTreeMap;

/// Bytes a value may have after expansion.
const MAX_EXPANDED: usize = 64 * 1024;

/// Where variables come from.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Variables<'a> {
    pub(crate) environment: &'a BTreeMap<String, String>,
    pub(crate) hostname: Option<&'a str>,
}

impl<'a> Variables<'a> {
    fn get(&self, name: &str) -> Option<&'a str> {
        let set = self.environment.get(name).map(String::as_str);
        if name == "HOSTNAME" {
            set.filter(|value| !value.is_empty()).or(self.hostname)
        } else {
            set
        }
    }

    /// Replaces each variable once: what a variable holds is not looked at again. `$${` stands for `${`.
    pub(crate) fn expand(&self, text: &str) -> Result<String, String> {
        let mut out = String::with_capacity(text.len());
        let mut rest = text;
        while let Some(at) = rest.find("${") {
            if rest[..at].ends_with('$') {
                out.push_str(&rest[..at]);
                out.push('{');
                rest = &rest[at + 2..];
                continue;
            }
            out.push_str(&rest[..at]);
            let inside = &rest[at + 2..];
            let Some(end) = inside.find('}') else {
                return Err("'${' has no closing '}'".to_owned());
            };
            out.push_str(self.value(&inside[..end])?);
            if out.len() > MAX_EXPANDED {
                return Err(format!(
                    "it is longer than {} KiB once variables are replaced",
                    MAX_EXPANDED / 1024
                ));
            }
            rest = &inside[end + 1..];
        }
        out.push_str(rest);
        Ok(out)
    }

    fn value<'t>(&self, inside: &'t str) -> Result<&'t str, String>
    where
        'a: 't,
    {
        let (name, default) = match inside.split_once(":-") {
            Some((name, default)) => (name, Some(default)),
            None => (inside, None),
        };
        let first = name
            .bytes()
            .next()
            .is_some_and(|b| b.is_ascii_alphabetic() || b == b'_');
        if !first || !name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_') {
            return Err(format!(
                "{} is not the name of a variable",
                crate::problem::quoted(name)
            ));
        }
        match (self.get(name), default) {
            (Some(value), None) => Ok(value),
            (Some(value), Some(_)) if !value.is_empty() => Ok(value),
            (_, Some(default)) => Ok(default),
            (None, None) => Err(format!("the environment variable {name} is not set")),
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used)]
    use super::*;

    fn expand(text: &str) -> Result<String, String> {
        let environment = [("DB", "db1"), ("EMPTY", ""), ("SELF", "${SELF}")]
            .map(|(k, v)| (k.to_owned(), v.to_owned()))
            .into();
        Variables {
            environment: &environment,
            hostname: Some("host7"),
        }
        .expand(text)
    }

    #[test]
    fn given_variables_when_expanded_then_values_and_defaults_stand_there() {
        for (text, expanded) in [
            ("pg://${DB}/x", "pg://db1/x"),
            ("${DB}${DB}", "db1db1"),
            ("${NONE:-a b}", "a b"),
            ("${EMPTY:-c}", "c"),
            ("${EMPTY}", ""),
            ("${SELF}", "${SELF}"),
            ("$${DB}", "${DB}"),
            ("cost $5 {organization_id}", "cost $5 {organization_id}"),
            ("node-${HOSTNAME}", "node-host7"),
        ] {
            assert_eq!(expand(text).as_deref(), Ok(expanded), "{text}");
        }
    }

    #[test]
    fn given_what_cannot_be_expanded_when_expanded_then_the_reason_names_it() {
        assert_eq!(
            expand("a ${NONE}"),
            Err("the environment variable NONE is not set".to_owned())
        );
        assert_eq!(expand("${DB"), Err("'${' has no closing '}'".to_owned()));
        assert_eq!(
            expand("${1 x}"),
            Err("'1 x' is not the name of a variable".to_owned())
        );
    }

    #[test]
    fn given_a_variable_repeated_without_end_when_expanded_then_the_length_is_bounded() {
        let environment = [("A".to_owned(), "x".repeat(10_000))].into();
        let variables = Variables {
            environment: &environment,
            hostname: None,
        };

        assert!(
            variables
                .expand(&"${A}".repeat(100))
                .unwrap_err()
                .contains("longer than 64 KiB")
        );
    }
}
