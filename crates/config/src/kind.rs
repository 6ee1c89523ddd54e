//! What a key may hold: reading it, saying what is allowed, printing it again.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use multiaddr::{Multiaddr, PeerId, Protocol};

use crate::planes;
use crate::problem::{nearest, quoted};
use crate::settings::Role;
use crate::value::{
    HostPort, Secret, Url, check_host, parse_duration, parse_size, show_duration, show_size,
};

/// The type of a key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// `true` or `false`.
    Switch,
    /// A whole number within bounds.
    Count {
        /// Smallest.
        min: u64,
        /// Largest.
        max: u64,
    },
    /// Seconds or a number with s, m, h, d, within bounds in seconds.
    Duration {
        /// Smallest, seconds.
        min_s: u64,
        /// Largest, seconds.
        max_s: u64,
    },
    /// Bytes or a number with a unit, at least this many bytes.
    Size {
        /// Smallest, bytes.
        min: u64,
    },
    /// A name of letters, digits, `.`, `-`, `_`; 1 to 63 characters.
    Name,
    /// Any text without control characters.
    Text {
        /// Most bytes.
        max: usize,
    },
    /// An organisation id: small letters, digits, `.`, `-`, `_`; 1 to 64 characters.
    Organization,
    /// One of these words.
    Choice(&'static [&'static str]),
    /// A path; a relative one counts from the folder of the file that names it.
    Path,
    /// `ip:port`
    Socket,
    /// `host:port`
    HostPort,
    /// A DNS name or IP address.
    Host,
    /// A libp2p address.
    Multiaddr,
    /// A libp2p address that ends in `/p2p/<peer id>`.
    PeerAddress,
    /// A libp2p peer id.
    PeerId,
    /// The base URL of a discovery server.
    ServerUrl,
    /// A PostgreSQL URL.
    DatabaseUrl,
    /// A gossip topic.
    Topic,
    /// A role that this build runs.
    Role,
    /// A log level or filter directives.
    LogLevel,
    /// A list.
    List(&'static Kind),
    /// A list of sections; its keys are those whose path continues with `[].`.
    Records,
}

/// A value that was read and checked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Value {
    Switch(bool),
    Count(u64),
    Duration(Duration),
    Size(u64),
    Text(String),
    Path(PathBuf),
    Socket(SocketAddr),
    HostPort(HostPort),
    Multiaddr(Multiaddr),
    PeerId(PeerId),
    Url(Url),
    Secret(Secret),
    Role(Role),
    List(Vec<Value>),
    /// Keys without their path: `peer_id`.
    Records(Vec<BTreeMap<&'static str, Value>>),
}

impl Kind {
    /// Reads one scalar. `base`: the folder that relative paths count from. The error does not repeat the key.
    pub(crate) fn read(self, text: &str, base: Option<&Path>) -> Result<Value, String> {
        match self {
            Self::Switch => read_switch(text).map(Value::Switch),
            Self::Count { min, max } => match text.replace('_', "").parse() {
                Ok(number) if (min..=max).contains(&number) => Ok(Value::Count(number)),
                _ => Err(format!(
                    "{} is no whole number from {min} to {max}",
                    quoted(text)
                )),
            },
            Self::Duration { min_s, max_s } => {
                let duration = parse_duration(text)?;
                if !(min_s..=max_s).contains(&duration.as_secs()) {
                    let [min, max] = [min_s, max_s].map(|s| show_duration(Duration::from_secs(s)));
                    return Err(format!("{} is not between {min} and {max}", quoted(text)));
                }
                Ok(Value::Duration(duration))
            }
            Self::Size { min } => match parse_size(text)? {
                bytes if bytes < min => {
                    Err(format!("{} is less than {}", quoted(text), show_size(min)))
                }
                bytes => Ok(Value::Size(bytes)),
            },
            Self::Name => read_name(text).map(Value::Text),
            Self::Text { max } => read_text(text, max).map(Value::Text),
            Self::Organization => read_organization(text).map(Value::Text),
            Self::Choice(words) => read_choice(text, words).map(Value::Text),
            Self::Path => read_path(text, base).map(Value::Path),
            Self::Host => check_host(text).map(|()| Value::Text(text.to_owned())),
            Self::PeerId => read_peer_id(text).map(Value::PeerId),
            Self::Topic => read_topic(text).map(Value::Text),
            Self::Role => read_role(text).map(Value::Role),
            Self::LogLevel => read_log_level(text).map(Value::Text),
            Self::Socket => read_socket(text).map(Value::Socket),
            Self::HostPort => HostPort::parse(text).map(Value::HostPort),
            Self::Multiaddr => read_multiaddr(text).map(Value::Multiaddr),
            Self::PeerAddress => read_peer_address(text).map(Value::Multiaddr),
            Self::ServerUrl => Url::parse_server(text).map(Value::Url),
            Self::DatabaseUrl => read_database_url(text),
            Self::List(_) | Self::Records => {
                Err("a list is needed here, not a single value".to_owned())
            }
        }
    }

    /// What is allowed, for the documentation.
    #[must_use]
    pub fn describe(self) -> String {
        match self {
            Self::Switch => "true or false".to_owned(),
            Self::Count { min, max } => format!("whole number, {min} to {max}"),
            Self::Duration { min_s, max_s } => {
                let [min, max] = [min_s, max_s].map(|s| show_duration(Duration::from_secs(s)));
                format!("duration, {min} to {max}")
            }
            Self::Size { min } => format!("size, at least {}", show_size(min)),
            Self::Name => "name".to_owned(),
            Self::Text { max } => format!("text, 1 to {max} bytes"),
            Self::Organization => "organisation id".to_owned(),
            Self::Choice(words) => words
                .iter()
                .map(|word| format!("`{word}`"))
                .collect::<Vec<_>>()
                .join(", "),
            Self::Path => "path".to_owned(),
            Self::Socket => "ip:port".to_owned(),
            Self::HostPort => "host:port".to_owned(),
            Self::Host => "host".to_owned(),
            Self::Multiaddr => "multiaddr".to_owned(),
            Self::PeerAddress => "multiaddr with /p2p/".to_owned(),
            Self::PeerId => "peer id".to_owned(),
            Self::ServerUrl => "https URL".to_owned(),
            Self::DatabaseUrl => "PostgreSQL URL".to_owned(),
            Self::Topic => "topic".to_owned(),
            Self::Role => {
                "`director`, `discovery`, `issuer`, `relay`, `storage`, `worker`".to_owned()
            }
            Self::LogLevel => "log level".to_owned(),
            Self::List(item) => format!("list of: {}", item.describe()),
            Self::Records => "list of sections".to_owned(),
        }
    }
}

impl Value {
    /// The value in its one normal form. A secret shows as `***`.
    pub(crate) fn show(&self) -> String {
        match self {
            Self::Switch(on) => on.to_string(),
            Self::Count(number) => number.to_string(),
            Self::Duration(duration) => show_duration(*duration),
            Self::Size(bytes) => show_size(*bytes),
            Self::Text(text) => text.clone(),
            Self::Path(path) => path.display().to_string(),
            Self::Socket(address) => address.to_string(),
            Self::HostPort(address) => address.to_string(),
            Self::Multiaddr(address) => address.to_string(),
            Self::PeerId(peer) => peer.to_string(),
            Self::Url(url) => url.to_string(),
            Self::Secret(_) => "***".to_owned(),
            Self::Role(role) => role.as_str().to_owned(),
            Self::List(items) => {
                format!(
                    "[{}]",
                    items
                        .iter()
                        .map(Self::show_item)
                        .collect::<Vec<_>>()
                        .join(", ")
                )
            }
            Self::Records(records) => {
                let show = |record: &BTreeMap<&'static str, Self>| {
                    let fields: Vec<String> = record
                        .iter()
                        .map(|(k, v)| format!("{k}: {}", v.show_item()))
                        .collect();
                    format!("{{{}}}", fields.join(", "))
                };
                format!(
                    "[{}]",
                    records.iter().map(show).collect::<Vec<_>>().join(", ")
                )
            }
        }
    }

    /// The value inside a list: what YAML would take apart is quoted.
    fn show_item(&self) -> String {
        let text = self.show();
        let apart =
            !matches!(self, Self::List(_)) && text.contains(['{', '}', '[', ']', ',', '#', '\'']);
        if apart {
            format!("'{}'", text.replace('\'', "''"))
        } else {
            text
        }
    }
}

fn read_switch(text: &str) -> Result<bool, String> {
    match text {
        "true" => Ok(true),
        "false" => Ok(false),
        _ if nearest(text, ["yes", "on"]).is_some_and(|word| word.eq_ignore_ascii_case(text)) => {
            Err(format!(
                "{} is neither true nor false: write true",
                quoted(text)
            ))
        }
        _ => Err(format!("{} is neither true nor false", quoted(text))),
    }
}

/// Whether `text` can be a `network.node_id`: so that no certificate is made for a name that the configuration beside
/// it would be refused for.
///
/// # Errors
/// What a name may be, for people.
pub fn check_node_id(text: &str) -> Result<(), BadNodeId> {
    read_name(text).map(|_| ()).map_err(BadNodeId)
}

/// Not a `network.node_id`.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct BadNodeId(String);

fn read_name(text: &str) -> Result<String, String> {
    let allowed = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'-' | b'_');
    if (1..=63).contains(&text.len()) && text.bytes().all(allowed) {
        return Ok(text.to_owned());
    }
    Err(format!(
        "{} is no name: 1 to 63 letters, digits, '.', '-' or '_'",
        quoted(text)
    ))
}

fn read_text(text: &str, max: usize) -> Result<String, String> {
    if (1..=max).contains(&text.len()) && !text.chars().any(char::is_control) {
        return Ok(text.to_owned());
    }
    Err(format!(
        "{} is not 1 to {max} bytes without control characters",
        quoted(text)
    ))
}

fn read_organization(text: &str) -> Result<String, String> {
    let allowed =
        |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || matches!(b, b'.' | b'-' | b'_');
    if (1..=64).contains(&text.len()) && text.bytes().all(allowed) {
        return Ok(text.to_owned());
    }
    let form = "1 to 64 small letters, digits, '.', '-' or '_', such as org_acme_corp";
    Err(format!("{} is no organisation id: {form}", quoted(text)))
}

fn read_choice(text: &str, words: &[&'static str]) -> Result<String, String> {
    if words.contains(&text) {
        return Ok(text.to_owned());
    }
    let allowed = words.join(", ");
    match nearest(text, words.iter().copied()) {
        Some(near) => Err(format!(
            "{} is not allowed here: did you mean {near}? (allowed: {allowed})",
            quoted(text)
        )),
        None => Err(format!(
            "{} is not allowed here (allowed: {allowed})",
            quoted(text)
        )),
    }
}

fn read_path(text: &str, base: Option<&Path>) -> Result<PathBuf, String> {
    if text.is_empty() || text.contains('\0') {
        return Err(format!("{} is no path", quoted(text)));
    }
    Ok(base.map_or_else(|| PathBuf::from(text), |base| base.join(text)))
}

fn read_peer_id(text: &str) -> Result<PeerId, String> {
    text.parse().map_err(|_| {
        let hint = if text.ends_with("...") || text.ends_with('…') {
            ": this is a placeholder"
        } else {
            ""
        };
        format!(
            "{} is no peer id{hint}: 'warren peerid --key <file>' prints a node's",
            quoted(text)
        )
    })
}

fn read_topic(text: &str) -> Result<String, String> {
    let literal = text.replace("{organization_id}", "");
    let allowed = |b: u8| b.is_ascii_graphic() && !matches!(b, b'{' | b'}');
    if !text.is_empty() && text.len() <= 128 && literal.bytes().all(allowed) {
        return Ok(text.to_owned());
    }
    Err(format!(
        "{} is no topic: up to 128 printable characters; {{organization_id}} is the only template",
        quoted(text)
    ))
}

fn read_role(text: &str) -> Result<Role, String> {
    const BUILT: [Role; 6] = [
        Role::Storage,
        Role::Discovery,
        Role::Relay,
        Role::Issuer,
        Role::Director,
        Role::Worker,
    ];
    if let Some(role) = BUILT.into_iter().find(|role| role.as_str() == text) {
        return Ok(role);
    }
    let names = BUILT.map(Role::as_str);
    if let Some((role, plane)) = planes::ROLES.iter().find(|(role, _)| *role == text) {
        let allowed = names.join(", ");
        return Err(format!(
            "the role {role} belongs to the {plane} plane, which this build does not run: use {allowed}"
        ));
    }
    if let Some((_, plane)) = planes::CARRIED.iter().find(|(_, plane)| *plane == text) {
        let allowed = names.join(", ");
        return Err(format!(
            "{plane} is a plane, which this build does not run, and no role: use {allowed}"
        ));
    }
    read_choice(text, &names).map(|_| Role::Storage)
}

fn read_log_level(text: &str) -> Result<String, String> {
    const LEVELS: [&str; 6] = ["off", "error", "warn", "info", "debug", "trace"];
    for directive in text.split(',').map(str::trim) {
        let (target, level) = directive.split_once('=').unwrap_or(("", directive));
        let target_ok = target
            .bytes()
            .all(|b| b.is_ascii_alphanumeric() || matches!(b, b'_' | b':' | b'-' | b'.'));
        if !target_ok || !LEVELS.contains(&level.to_ascii_lowercase().as_str()) {
            let allowed =
                "error, warn, info, debug, trace or off, or target=level pairs with commas between";
            return Err(format!("{} is no log level: {allowed}", quoted(directive)));
        }
    }
    Ok(text.to_owned())
}

fn read_socket(text: &str) -> Result<SocketAddr, String> {
    text.parse().map_err(|_| {
        let named = HostPort::parse(text).is_ok();
        let hint = if named {
            "an IP address, not a name"
        } else {
            "such as 127.0.0.1:8080 or [::]:8080"
        };
        format!("{} is no <ip>:<port>: {hint}", quoted(text))
    })
}

fn read_multiaddr(text: &str) -> Result<Multiaddr, String> {
    let form = "such as /ip4/10.0.1.5/tcp/4001";
    if !text.starts_with('/') {
        return Err(format!("{} is no multiaddr: {form}", quoted(text)));
    }
    let placeholder = text
        .split("/p2p/")
        .skip(1)
        .any(|id| id.contains("...") || id.contains('…'));
    if placeholder {
        return Err(format!(
            "{} has a placeholder for the peer id: 'warren peerid --key <file>' prints a node's",
            quoted(text)
        ));
    }
    let address: Multiaddr = text
        .parse()
        .map_err(|error| format!("{} is no multiaddr ({error}): {form}", quoted(text)))?;
    let dialable = matches!(
        address.iter().next(),
        Some(
            Protocol::Ip4(_)
                | Protocol::Ip6(_)
                | Protocol::Dns(_)
                | Protocol::Dns4(_)
                | Protocol::Dns6(_)
                | Protocol::Dnsaddr(_)
        )
    );
    let has_port = address
        .iter()
        .any(|part| matches!(part, Protocol::Tcp(_) | Protocol::Udp(_)))
        || matches!(address.iter().next(), Some(Protocol::Dnsaddr(_)));
    if dialable && has_port {
        return Ok(address);
    }
    Err(format!(
        "{} does not begin with an IP address or name and a tcp or udp port: {form}",
        quoted(text)
    ))
}

fn read_peer_address(text: &str) -> Result<Multiaddr, String> {
    let address = read_multiaddr(text)?;
    if matches!(address.iter().last(), Some(Protocol::P2p(_))) {
        return Ok(address);
    }
    Err(format!(
        "{} does not say which peer it is: add /p2p/<peer id>",
        quoted(text)
    ))
}

/// The value is a secret: the error must not repeat it.
fn read_database_url(text: &str) -> Result<Value, String> {
    let scheme = text.split_once("://").map(|(scheme, _)| scheme);
    if matches!(scheme, Some("postgresql" | "postgres"))
        && text.bytes().all(|b| b.is_ascii_graphic())
    {
        return Ok(Value::Secret(Secret::new(text.to_owned())));
    }
    Err("this is no PostgreSQL URL: postgresql://<user>:<password>@<host>/<database>".to_owned())
}
