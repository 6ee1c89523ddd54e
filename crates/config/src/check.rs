//! What no single value shows: rules between keys.

use std::net::{IpAddr, SocketAddr};

use multiaddr::{Multiaddr, Protocol};

use crate::decode::Layers;
use crate::kind::Value;
use crate::problem::{Origin, Problem, Report, quoted};
use crate::settings::{BootstrapMode, Role, Settings};

/// Rules of one key that its kind does not hold: lists that must not be empty, addresses that nobody can dial.
pub(crate) fn each_value(layers: &Layers, report: &mut Report) {
    for path in ["network.libp2p.listen_addresses", "roles"] {
        if let Some(set) = layers.values.get(path)
            && matches!(&set.value, Value::List(items) if items.is_empty())
        {
            report.add(Problem::new(
                set.origin.clone(),
                path,
                "the list must not be empty",
            ));
        }
    }
    for path in [
        "network.libp2p.announce_addresses",
        "network.libp2p.bootstrap_peers",
    ] {
        let Some(set) = layers.values.get(path) else {
            continue;
        };
        let Value::List(items) = &set.value else {
            continue;
        };
        for item in items {
            if let Value::Multiaddr(address) = item
                && ip_of(address).is_some_and(|ip| ip.is_unspecified())
            {
                let what = format!("nobody can dial {}", quoted(&address.to_string()));
                report.add(
                    Problem::new(set.origin.clone(), path, what)
                        .help("name the address that others see"),
                );
            }
        }
    }
    for path in [
        "discovery.server.bootstrap_peers",
        "cluster.remote_directors",
    ] {
        if let Some(set) = layers.values.get(path)
            && let Value::Records(records) = &set.value
            && records.iter().any(|record| {
                matches!(record.get("addresses"), Some(Value::List(items)) if items.is_empty())
            })
        {
            report.add(Problem::new(
                set.origin.clone(),
                format!("{path}[].addresses"),
                "the list must not be empty",
            ));
        }
    }
}

/// Rules between keys. A rule is held against keys that are right on their own: a value that stands in for a wrong one would
/// break it by accident.
pub(crate) fn together(settings: &Settings, layers: &Layers, report: &mut Report) {
    let check = Check { settings, layers };
    let problems = [
        check.api_protection(),
        check.bootstrap_source(),
        check.issuer(),
        check.trust_model(),
        check.commands(),
    ];
    for problem in problems
        .into_iter()
        .flatten()
        .chain(check.degrees())
        .chain(check.ports())
    {
        report.add(problem);
    }
    for warning in check
        .keys()
        .into_iter()
        .chain(check.topics())
        .chain(check.open_registry())
    {
        report.warn(warning);
    }
}

struct Check<'a> {
    settings: &'a Settings,
    layers: &'a Layers,
}

impl Check<'_> {
    fn origin(&self, path: &str) -> Origin {
        self.layers
            .values
            .get(path)
            .map_or(Origin::Default, |set| set.origin.clone())
    }

    /// Whether every one of these keys has the value that was meant.
    fn sure(&self, paths: &[&str]) -> bool {
        paths.iter().all(|path| self.layers.is_sure(path))
    }

    fn problem(&self, path: &'static str, what: impl Into<String>) -> Problem {
        Problem::new(self.origin(path), path, what)
    }

    fn api_protection(&self) -> Option<Problem> {
        let api = &self.settings.api;
        let sure = self.sure(&["api.listen_address", "api.tls.enabled"]);
        if !sure || api.listen_address.ip().is_loopback() || api.tls.is_some() {
            return None;
        }
        let what = format!(
            "{} can be reached from other machines, so the API must speak HTTPS",
            api.listen_address
        );
        let help = "set api.tls.enabled: true, or listen on 127.0.0.1; monitoring.listen_address may be any address";
        Some(self.problem("api.listen_address", what).help(help))
    }

    fn bootstrap_source(&self) -> Option<Problem> {
        let network = &self.settings.network;
        let servers = network.discovery.enabled && !network.discovery.servers.is_empty();
        let sourced =
            servers || !network.libp2p.bootstrap_peers.is_empty() || network.libp2p.mdns.enabled;
        let sure = self.sure(&[
            "network.bootstrap_mode",
            "network.discovery.enabled",
            "network.discovery.servers",
            "network.libp2p.bootstrap_peers",
            "network.libp2p.mdns.enabled",
        ]);
        if !sure || network.bootstrap_mode != BootstrapMode::Client || sourced {
            return None;
        }
        let help = "set network.discovery.servers or network.libp2p.bootstrap_peers, or turn on network.libp2p.mdns";
        Some(
            self.problem(
                "network.bootstrap_mode",
                "a client needs somebody to ask, and nobody is configured",
            )
            .help(help),
        )
    }

    fn issuer(&self) -> Option<Problem> {
        if !self.sure(&["roles", "network.security.issuer_dir"])
            || !self.settings.roles.contains(&Role::Issuer)
            || self.settings.network.security.issuer_dir.is_some()
        {
            return None;
        }
        let problem = self.problem(
            "roles",
            "the role issuer signs certificates and has no CA to sign with",
        );
        Some(problem.help("set network.security.issuer_dir to the folder of 'warren ca init'"))
    }

    /// The two places of one setting must agree; it has no effect yet, but nobody must learn later that one was ignored.
    fn trust_model(&self) -> Option<Problem> {
        let text = |path: &str, field: Option<&str>| {
            let (origin, value) = self.layers.carried.get(path)?;
            let value = field.map_or(Some(value), |field| value.get(field))?;
            Some((origin.clone(), value.as_str()?.to_owned()))
        };
        let (_, one) = text("network.security.trust_model", None)?;
        let (origin, other) = text("network.trust", Some("model"))?;
        if one == other {
            return None;
        }
        let what = format!(
            "{} contradicts network.security.trust_model, which is {}",
            quoted(&other),
            quoted(&one)
        );
        Some(Problem::new(origin, "network.trust.model", what).help("keep one of the two"))
    }

    /// A method is served by one command, and a command has a program.
    fn commands(&self) -> Option<Problem> {
        let path = "rpc.worker.commands";
        let commands = &self.settings.rpc.worker_commands;
        if !self.sure(&[path]) {
            return None;
        }
        let repeated = commands.iter().enumerate().find(|(index, command)| {
            commands[..*index]
                .iter()
                .any(|other| other.method == command.method)
        });
        if let Some((_, command)) = repeated {
            let what = format!("{} is there twice", quoted(&command.method));
            return Some(self.problem(path, what));
        }
        let empty = commands.iter().find(|command| command.run.is_empty())?;
        let what = format!("{} has no program in its run", quoted(&empty.method));
        Some(self.problem(path, what))
    }

    fn degrees(&self) -> Vec<Problem> {
        let gossip = &self.settings.network.libp2p.gossipsub;
        let mut problems = Vec::new();
        let (low, high) = (
            "network.libp2p.gossipsub.d_low",
            "network.libp2p.gossipsub.d_high",
        );
        let sure = |path| self.sure(&["network.libp2p.gossipsub.d", path]);
        if sure(low) && gossip.d_low > gossip.d {
            let what = format!("{} is more than d, which is {}", gossip.d_low, gossip.d);
            problems.push(self.problem(low, what));
        }
        if sure(high) && gossip.d_high < gossip.d {
            let what = format!("{} is less than d, which is {}", gossip.d_high, gossip.d);
            problems.push(self.problem(high, what));
        }
        problems
    }

    /// Two TCP listeners on one port.
    fn ports(&self) -> Vec<Problem> {
        let settings = self.settings;
        let mut listeners: Vec<(&'static str, SocketAddr)> = Vec::new();
        for address in &settings.network.libp2p.listen_addresses {
            listeners.extend(
                tcp_of(address).map(|address| ("network.libp2p.listen_addresses", address)),
            );
        }
        if self.sure(&["network.transfer.enabled"]) && settings.network.transfer.enabled {
            listeners.push((
                "network.transfer.listen_address",
                settings.network.transfer.listen_address,
            ));
        }
        if self.sure(&["roles"]) && settings.roles.contains(&Role::Discovery) {
            listeners.push((
                "discovery.server.listen_address",
                settings.discovery_server.listen_address,
            ));
        }
        listeners.push(("api.listen_address", settings.api.listen_address));
        listeners.extend(
            settings
                .monitoring
                .listen_address
                .map(|address| ("monitoring.listen_address", address)),
        );
        if self.sure(&["roles"]) && settings.takes_calls() {
            listeners.push(("cluster.bind_addr", settings.cluster.bind_addr));
        }
        listeners.retain(|(path, _)| self.sure(&[path]));
        let mut problems = Vec::new();
        for (index, (path, address)) in listeners.iter().enumerate() {
            let clash = listeners[..index]
                .iter()
                .find(|(other, taken)| other != path && overlap(*taken, *address));
            if let Some((other, taken)) = clash {
                let what = format!("{address} is taken by {other}, which listens on {taken}");
                problems.push(self.problem(path, what).help("give each a port of its own"));
            }
        }
        problems
    }

    fn keys(&self) -> Option<Problem> {
        let network = &self.settings.network;
        let (peer_key, tls_key) = (&network.libp2p.peer_key, &network.security.tls_key);
        let sure = self.sure(&["network.libp2p.peer_key", "network.security.tls_key"]);
        if !sure || peer_key == tls_key {
            return None;
        }
        let what = format!(
            "{} is another file than network.libp2p.peer_key ({})",
            tls_key.display(),
            peer_key.display()
        );
        Some(
            self.problem("network.security.tls_key", what)
                .help("both must hold the node's one Ed25519 key"),
        )
    }

    /// A literal topic of another organisation: its messages would never arrive.
    fn topics(&self) -> Vec<Problem> {
        let sure = self.sure(&["network.organization_id", "network.libp2p.gossipsub.topics"]);
        let Some(organization) = self
            .settings
            .network
            .organization_id
            .as_ref()
            .filter(|_| sure)
        else {
            return Vec::new();
        };
        let ours = organization.strip_prefix("org_").unwrap_or(organization);
        let literal = self
            .settings
            .network
            .libp2p
            .gossipsub
            .topics
            .iter()
            .filter(|topic| !topic.contains('{'));
        let foreign = literal.filter(|topic| {
            topic
                .strip_prefix("warren.org.")
                .is_some_and(|name| name != ours)
        });
        let warn = |topic: &String| {
            let what =
                format!("{topic} is not the topic of {organization}, which is warren.org.{ours}");
            let help = "write warren.org.{organization_id} to have each node fill in its own";
            self.problem("network.libp2p.gossipsub.topics", what)
                .help(help)
        };
        foreign.map(warn).collect()
    }

    fn open_registry(&self) -> Option<Problem> {
        let server = &self.settings.discovery_server;
        let sure = self.sure(&["roles", "discovery.server.auth.require_certificates"]);
        if !sure || server.require_certificates || !self.settings.roles.contains(&Role::Discovery) {
            return None;
        }
        let path = "discovery.server.auth.require_certificates";
        Some(self.problem(
            path,
            "callers of the discovery server may sign their requests instead of showing a certificate in TLS",
        ))
    }
}

fn ip_of(address: &Multiaddr) -> Option<IpAddr> {
    match address.iter().next()? {
        Protocol::Ip4(ip) => Some(ip.into()),
        Protocol::Ip6(ip) => Some(ip.into()),
        _ => None,
    }
}

fn tcp_of(address: &Multiaddr) -> Option<SocketAddr> {
    let port = address.iter().find_map(|part| {
        if let Protocol::Tcp(port) = part {
            Some(port)
        } else {
            None
        }
    })?;
    Some(SocketAddr::new(ip_of(address)?, port))
}

/// Whether the second cannot be bound beside the first. Port 0 is always free.
fn overlap(a: SocketAddr, b: SocketAddr) -> bool {
    let any = |ip: IpAddr| ip.is_unspecified();
    a.port() != 0
        && a.port() == b.port()
        && (a.ip() == b.ip() || (a.is_ipv4() == b.is_ipv4() && (any(a.ip()) || any(b.ip()))))
}
