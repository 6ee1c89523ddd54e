//! Defaults: those of the table, and those that follow from other keys.

use std::net::SocketAddr;
use std::path::PathBuf;

use crate::decode::{Layers, Set, read_text};
use crate::expand::Variables;
use crate::kind::Value;
use crate::problem::{Origin, Problem, Report};
use crate::settings::Role;
use crate::table::{Fallback, KEYS};

/// Where a node's key is when nothing names it: the documents' place.
const PEER_KEY: &str = "/etc/warren/peer_key.pem";

/// Gives every key without a value its default.
pub(crate) fn fill(layers: &mut Layers, variables: Variables<'_>, report: &mut Report) {
    roles(layers, report);
    for key in KEYS.iter().filter(|key| !key.path.contains("[]")) {
        let Fallback::Value(text) = key.default else {
            continue;
        };
        if layers.values.contains_key(key.path) {
            continue;
        }
        match read_text(key, text, Some(variables)) {
            Ok(value) => layers.set(key, value, Origin::Default),
            // Only the host name can be unfit, as the node's name.
            Err(what) => {
                report.add(Problem::new(Origin::Default, key.path, what).help("set it in a file"));
                // Stands in for it in what is only looked at: with a problem nothing is loaded.
                layers.set(key, Value::Text("unnamed".to_owned()), Origin::Default);
                layers.doubt(key.path);
            }
        }
    }
    follow(
        layers,
        "network.libp2p.peer_key",
        "network.security.tls_key",
    );
    default(
        layers,
        "network.libp2p.peer_key",
        Value::Path(PathBuf::from(PEER_KEY)),
    );
    follow(
        layers,
        "network.security.tls_key",
        "network.libp2p.peer_key",
    );
    follow(
        layers,
        "discovery.server.auth.ca_cert",
        "network.security.ca_cert",
    );
    follow(layers, "cluster.label", "network.node_id");
    follow(layers, "api.tls.cert", "network.security.tls_cert");
    follow(layers, "api.tls.key", "network.security.tls_key");
    if let Some(Value::Path(path)) = layers.values.get("storage.path").map(|set| &set.value) {
        let token = Value::Path(path.join("admin.token"));
        doubt_with(layers, "api.token_file", "storage.path");
        default(layers, "api.token_file", token);
    }
    api_address(layers, report);
}

fn default(layers: &mut Layers, path: &'static str, value: Value) {
    layers.values.entry(path).or_insert(Set {
        value,
        origin: Origin::Default,
    });
}

/// Where `path` has no value of its own and `source` is not what was meant, what is worked out from it is not either.
fn doubt_with(layers: &mut Layers, path: &'static str, source: &str) {
    if !layers.values.contains_key(path) && !layers.is_sure(source) {
        layers.doubt(path);
    }
}

/// `path` takes the value of `source` where it has none.
fn follow(layers: &mut Layers, path: &'static str, source: &str) {
    doubt_with(layers, path, source);
    if let Some(value) = layers.values.get(source).map(|set| set.value.clone()) {
        default(layers, path, value);
    }
}

/// A file with `discovery.server` is a discovery server's, one with `network` a node's; so each starts as it is.
fn roles(layers: &mut Layers, report: &mut Report) {
    let in_file = |section: &str| {
        let set = |(path, set): (&&'static str, &Set)| {
            path.starts_with(section) && matches!(set.origin, Origin::File { .. })
        };
        layers.values.iter().any(set)
    };
    let (server, network) = (in_file("discovery.server."), in_file("network."));
    let serves = |set: &Set| matches!(&set.value, Value::List(roles) if roles.contains(&Value::Role(Role::Discovery)));
    match layers.values.get("roles") {
        Some(roles) if server && !serves(roles) => {
            let warning = Problem::new(
                roles.origin.clone(),
                "roles",
                "discovery.server is configured but will not run",
            );
            report.warn(warning.help("add the role discovery"));
        }
        Some(_) => {}
        None => {
            let mut roles = Vec::new();
            if network || !server {
                roles.push(Value::Role(Role::Storage));
            }
            if server {
                roles.push(Value::Role(Role::Discovery));
            }
            default(layers, "roles", Value::List(roles));
        }
    }
}

/// The documents' discovery server listens on 8080, where the API would be.
fn api_address(layers: &mut Layers, report: &mut Report) {
    const USUAL: u16 = 8080;
    const AWAY: u16 = 8081;
    if layers.values.contains_key("api.listen_address") {
        return;
    }
    for source in ["roles", "discovery.server.listen_address"] {
        doubt_with(layers, "api.listen_address", source);
    }
    let serves = matches!(
        layers.values.get("roles").map(|set| &set.value),
        Some(Value::List(roles)) if roles.contains(&Value::Role(Role::Discovery))
    );
    let server = layers.values.get("discovery.server.listen_address");
    let taken = matches!(server.map(|set| &set.value), Some(Value::Socket(address)) if address.port() == USUAL);
    let port = if serves && taken { AWAY } else { USUAL };
    if let (AWAY, Some(server)) = (port, server) {
        let what = format!(
            "the discovery server takes port {USUAL}, so the management API listens on 127.0.0.1:{AWAY}"
        );
        let warning = Problem::new(server.origin.clone(), "api.listen_address", what);
        report.warn(warning.help("set api.listen_address to choose another"));
    }
    default(
        layers,
        "api.listen_address",
        Value::Socket(SocketAddr::from(([127, 0, 0, 1], port))),
    );
}
