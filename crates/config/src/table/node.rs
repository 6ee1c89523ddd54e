//! `discovery.server`, `roles`, `api`, `storage`, `monitoring`, `logging`.

use super::Fallback::{Derived, Nothing, Required, Value};
use super::{Key, key};
use crate::kind::Kind;

const DAY_S: u64 = 86_400;

pub(super) const DISCOVERY: &[Key] = &[
    key(
        "discovery.server.listen_address",
        Kind::Socket,
        Value("0.0.0.0:8081"),
        "a server is there for others; 8080 is the management API's",
        "TCP address of the discovery server (HTTPS).",
    ),
    key(
        "discovery.server.database.url",
        Kind::DatabaseUrl,
        Nothing("the embedded engine, under `storage.path`"),
        "nothing to install",
        "PostgreSQL that holds the registry, for several servers that share it.",
    )
    .secret(),
    key(
        "discovery.server.auth.require_certificates",
        Kind::Switch,
        Value("true"),
        "mutual authentication on every link",
        "Whether callers must show a certificate in TLS; if not, a request signed with a member's key does too. A reload cannot turn it off.",
    ),
    key(
        "discovery.server.auth.ca_cert",
        Kind::Path,
        Derived("`network.security.ca_cert`"),
        "members and callers are the same",
        "PEM file with the CA that callers are checked against.",
    ),
    key(
        "discovery.server.auth.anonymous_bootstrap",
        Kind::Switch,
        Value("false"),
        "a certificate is issued before a node starts",
        "Give the bootstrap list, and nothing else, to callers without a certificate.",
    ),
    key(
        "discovery.server.peer_expiry",
        Kind::Duration {
            min_s: 3,
            max_s: 30 * DAY_S,
        },
        Value("90s"),
        "three heartbeats of 30 s",
        "A registered node that sent no heartbeat for this long is dropped.",
    ),
    key(
        "discovery.server.bootstrap_peers",
        Kind::Records,
        Value("[]"),
        "registered nodes are given too",
        "Seed nodes that the bootstrap list always holds.",
    ),
    key(
        "discovery.server.bootstrap_peers[].peer_id",
        Kind::PeerId,
        Required,
        "",
        "Peer id of the seed.",
    ),
    key(
        "discovery.server.bootstrap_peers[].addresses",
        Kind::List(&Kind::Multiaddr),
        Required,
        "",
        "Where it listens; at least one address.",
    ),
    key(
        "discovery.server.bootstrap_peers[].organization",
        Kind::Organization,
        Required,
        "",
        "Its organisation; only members of it are told.",
    ),
    key(
        "discovery.server.bootstrap_peers[].region",
        Kind::Name,
        Nothing("no region"),
        "a label",
        "Its region.",
    ),
];

pub(super) const NODE: &[Key] = &[
    key(
        "roles",
        Kind::List(&Kind::Role),
        Derived(
            "`[storage]`; `[discovery]` for a file that has `discovery.server` and no `network`; both for both",
        ),
        "what the file configures runs",
        "What this node does. Each role needs the capability of its name in the certificate; `issuer` needs the CA's key instead.",
    ),
    key(
        "api.listen_address",
        Kind::Socket,
        Derived("`127.0.0.1:8080`; `127.0.0.1:8081` where the discovery server takes port 8080"),
        "management is local unless asked",
        "TCP address of the management API. Another address than loopback needs `api.tls.enabled`.",
    ),
    key(
        "api.tls.enabled",
        Kind::Switch,
        Value("false"),
        "loopback needs none",
        "Serve the API over HTTPS. A reload cannot turn it off.",
    ),
    key(
        "api.tls.cert",
        Kind::Path,
        Derived("`network.security.tls_cert`"),
        "the node's certificate serves HTTPS too",
        "PEM file with the API's certificate.",
    ),
    key(
        "api.tls.key",
        Kind::Path,
        Derived("`network.security.tls_key`"),
        "the node's key serves HTTPS too",
        "PEM file with that certificate's key.",
    ),
    key(
        "api.token_file",
        Kind::Path,
        Derived("`<storage.path>/admin.token`"),
        "the CLI finds it there",
        "File with the admin token, mode 0600; made at the first start.",
    ),
    key(
        "api.allowed_hosts",
        Kind::List(&Kind::Host),
        Value("[]"),
        "other names would allow DNS rebinding",
        "Names that a Host header may carry, beside the listening address and `localhost`.",
    ),
    key(
        "storage.path",
        Kind::Path,
        Value("/var/lib/warren"),
        "the documents' place",
        "Data directory.",
    ),
    key(
        "storage.max_size",
        Kind::Size {
            min: 16 * 1024 * 1024,
        },
        Value("100GB"),
        "bounded unless asked, and below a common disk",
        "Most bytes the store may take on disk.",
    ),
    key(
        "storage.gc.interval",
        Kind::Duration {
            min_s: 10,
            max_s: 30 * DAY_S,
        },
        Value("1h"),
        "space comes back within the hour",
        "Pause between two garbage collections.",
    )
    .live(),
    key(
        "monitoring.listen_address",
        Kind::Socket,
        Nothing("no listener of its own; the API serves the same"),
        "one port less",
        "TCP address of a read-only listener: health, readiness, metrics. It may be any address.",
    ),
    key(
        "logging.level",
        Kind::LogLevel,
        Value("info"),
        "what an operator wants to know",
        "Level, or directives such as `info,warren_mesh=debug`.",
    )
    .live(),
    key(
        "logging.format",
        Kind::Choice(&["text", "json"]),
        Value("text"),
        "people read first",
        "One line for people, or one JSON object a line.",
    ),
    key(
        "logging.file",
        Kind::Path,
        Nothing("standard error"),
        "the service manager keeps it",
        "Log file; what synchronisation logs is also written to `sync.log` beside it.",
    ),
    key(
        "logging.max_size",
        Kind::Size { min: 4096 },
        Value("100MiB"),
        "opens in any viewer",
        "A log file is rotated before it grows beyond this.",
    ),
    key(
        "logging.max_files",
        Kind::Count { min: 0, max: 1000 },
        Value("5"),
        "600 MiB in all",
        "Rotated files kept beside the current one.",
    ),
    key(
        "logging.repeat_window",
        Kind::Duration {
            min_s: 0,
            max_s: 3600,
        },
        Value("30s"),
        "a flood becomes two lines a minute",
        "An identical message within this time is counted, not written; 0 writes all.",
    ),
];
