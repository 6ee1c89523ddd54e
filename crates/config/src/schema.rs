//! The JSON Schema of a configuration file, for editors and for checks without Warren.

use serde_json::{Map, Value, json};

use crate::kind::Kind;
use crate::planes;
use crate::table::{Fallback, KEYS, Key};

/// A JSON Schema (draft 2020-12). Scalars may also be strings, since `${VAR}` may stand for any of them.
#[must_use]
pub fn schema() -> Value {
    let mut root = object();
    for key in KEYS.iter() {
        insert(
            &mut root,
            key.path,
            of_key(key),
            key.default == Fallback::Required,
        );
    }
    for (path, plane) in planes::CARRIED {
        let schema = json!({ "description": format!("Belongs to the {plane} plane, which this build does not run.") });
        insert(&mut root, path, schema, false);
    }
    root.insert(
        "$schema".to_owned(),
        json!("https://json-schema.org/draft/2020-12/schema"),
    );
    root.insert("title".to_owned(), json!("Warren configuration"));
    Value::Object(root)
}

fn object() -> Map<String, Value> {
    let mut schema = Map::new();
    schema.insert("type".to_owned(), json!(["object", "null"]));
    schema.insert("properties".to_owned(), json!({}));
    schema.insert("additionalProperties".to_owned(), json!(false));
    schema
}

/// Puts `schema` at `path` below `section`; recursion is as deep as the path.
fn insert(section: &mut Map<String, Value>, path: &str, schema: Value, required: bool) {
    let (name, rest) = path
        .split_once('.')
        .map_or((path, None), |(name, rest)| (name, Some(rest)));
    let (name, is_item) = name
        .strip_suffix("[]")
        .map_or((name, false), |name| (name, true));
    let Some(rest) = rest else {
        if required {
            let list = section.entry("required").or_insert_with(|| json!([]));
            if let Value::Array(list) = list {
                list.push(json!(name));
            }
        }
        if let Some(Value::Object(properties)) = section.get_mut("properties") {
            properties.insert(name.to_owned(), schema);
        }
        return;
    };
    let Some(Value::Object(properties)) = section.get_mut("properties") else {
        return;
    };
    let child = properties
        .entry(name)
        .or_insert_with(|| Value::Object(object()));
    let child = if is_item { &mut child["items"] } else { child };
    if child.is_null() {
        let mut item = object();
        item.insert("type".to_owned(), json!("object"));
        *child = Value::Object(item);
    }
    if let Value::Object(child) = child {
        insert(child, rest, schema, required);
    }
}

fn of_key(key: &Key) -> Value {
    let mut schema = of_kind(key.kind);
    if let Value::Object(schema) = &mut schema {
        schema.insert("description".to_owned(), json!(key.doc));
        if let Fallback::Value(text) = key.default
            && !text.starts_with(['[', '$'])
        {
            schema.insert("default".to_owned(), json!(text));
        }
    }
    schema
}

fn of_kind(kind: Kind) -> Value {
    const VARIABLE: &str = r"\$\{";
    match kind {
        Kind::Switch => {
            json!({ "anyOf": [{ "type": "boolean" }, { "type": "null" }, pattern(&format!("^(true|false)$|{VARIABLE}"))] })
        }
        Kind::Count { min, max } => {
            json!({ "anyOf": [{ "type": "integer", "minimum": min, "maximum": max }, { "type": "null" }, pattern(&format!("^[0-9_]+$|{VARIABLE}"))] })
        }
        Kind::Duration { min_s, max_s } => json!({ "anyOf": [
            { "type": "integer", "minimum": min_s, "maximum": max_s },
            { "type": "null" },
            pattern(&format!("^[0-9]+ *[smhd]?$|{VARIABLE}")),
        ] }),
        Kind::Size { min } => json!({ "anyOf": [
            { "type": "integer", "minimum": min },
            { "type": "null" },
            pattern(&format!("^[0-9]+ *([kKmMgGtT]i?)?[bB]?$|{VARIABLE}")),
        ] }),
        Kind::Choice(words) => {
            json!({ "anyOf": [{ "enum": words }, { "type": "null" }, pattern(VARIABLE)] })
        }
        Kind::Role => {
            json!({ "anyOf": [{ "enum": ["director", "discovery", "issuer", "relay", "storage", "worker"] }, pattern(VARIABLE)] })
        }
        Kind::Multiaddr => pattern(&format!("^/|{VARIABLE}")),
        Kind::PeerAddress => pattern(&format!("^/.*/p2p/|{VARIABLE}")),
        Kind::ServerUrl => pattern(&format!("^https?://|{VARIABLE}")),
        Kind::DatabaseUrl => {
            json!({ "type": ["string", "null"], "pattern": format!("^postgres(ql)?://|{VARIABLE}") })
        }
        Kind::List(item) => json!({ "type": ["array", "null"], "items": of_kind(*item) }),
        Kind::Records => json!({ "type": ["array", "null"] }),
        Kind::Name
        | Kind::Text { .. }
        | Kind::Organization
        | Kind::Path
        | Kind::Socket
        | Kind::HostPort
        | Kind::Host
        | Kind::PeerId
        | Kind::Topic
        | Kind::LogLevel => json!({ "type": ["string", "number", "null"] }),
    }
}

fn pattern(pattern: &str) -> Value {
    json!({ "type": "string", "pattern": pattern })
}
