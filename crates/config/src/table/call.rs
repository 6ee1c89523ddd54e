//! `rpc`, `cluster`: calls between members, directors and workers.

use super::Fallback::{Derived, Nothing, Required, Value};
use super::{Key, key};
use crate::kind::Kind;

/// How long a command of a worker may take where nothing is said.
pub(crate) const COMMAND_TIMEOUT: &str = "30s";
/// How many of one command run at once where nothing is said.
pub(crate) const COMMAND_MAX_RUNNING: &str = "4";

pub(super) const CALL: &[Key] = &[
    key(
        "rpc.bind_addr",
        Kind::Socket,
        Value("0.0.0.0:8080"),
        "directors and workers are there for others; the management API's 8080 is TCP",
        "UDP address that calls come in at.",
    ),
    key(
        "rpc.advertise_addr",
        Kind::Socket,
        Derived("the address others know from gossip, with the port of `rpc.bind_addr`"),
        "one address per machine is the rule",
        "Where others send calls, behind an address translation that forwards the port.",
    ),
    key(
        "rpc.max_message_size",
        Kind::Size { min: 1024 },
        Value("16MiB"),
        "what a call should carry at most; more belongs into a stream or a document",
        "Largest request and response of one call.",
    ),
    key(
        "rpc.max_calls",
        Kind::Count {
            min: 1,
            max: 1_000_000,
        },
        Value("16384"),
        "a second of work at 16,384 calls/s",
        "Calls in flight; beyond it callers are told when to come back.",
    ),
    key(
        "rpc.max_calls_per_connection",
        Kind::Count {
            min: 1,
            max: 1_000_000,
        },
        Value("4096"),
        "one caller takes a quarter at most",
        "Calls in flight of one connection.",
    ),
    key(
        "rpc.max_connections",
        Kind::Count {
            min: 1,
            max: 1_000_000,
        },
        Value("10000"),
        "bounds memory; a cluster of 500 needs as many",
        "Connections; beyond it handshakes are refused.",
    ),
    key(
        "rpc.drain_timeout",
        Kind::Duration {
            min_s: 0,
            max_s: 3600,
        },
        Value("30s"),
        "the longest call of most services; orchestrators wait 45 s",
        "How long a stop waits for calls in flight before it cuts them.",
    ),
    key(
        "rpc.worker.commands",
        Kind::Records,
        Value("[]"),
        "a worker of the library's users registers its own services",
        "Commands that the role `worker` serves as methods: the request goes to standard input, standard output is the response.",
    ),
    key(
        "rpc.worker.commands[].method",
        Kind::Text { max: 255 },
        Required,
        "",
        "The method's name as callers write it, `compute` or `inference.v1.Model/Infer`.",
    ),
    key(
        "rpc.worker.commands[].run",
        Kind::List(&Kind::Text { max: 4096 }),
        Required,
        "",
        "Program with its arguments; no shell takes part.",
    ),
    key(
        "rpc.worker.commands[].timeout",
        Kind::Duration {
            min_s: 1,
            max_s: 86_400,
        },
        Value(COMMAND_TIMEOUT),
        "a call's usual deadline",
        "When a run is killed, if the caller's deadline does not come first.",
    ),
    key(
        "rpc.worker.commands[].max_running",
        Kind::Count { min: 1, max: 4096 },
        Value(COMMAND_MAX_RUNNING),
        "a machine of four cores is busy",
        "Runs at once; beyond it callers are told when to come back.",
    ),
    key(
        "cluster.bind_addr",
        Kind::Socket,
        Value("0.0.0.0:7946"),
        "the port that gossip has everywhere",
        "Address of gossip, UDP and TCP.",
    )
    .env(&["WARREN_CLUSTER_BIND_ADDR"]),
    key(
        "cluster.advertise_addr",
        Kind::Socket,
        Derived(
            "`cluster.bind_addr`; where that is no single address, the one that leads to the first seed",
        ),
        "a machine with one address needs no key",
        "Where other members reach this one's gossip.",
    ),
    key(
        "cluster.seeds",
        Kind::List(&Kind::HostPort),
        Value("[]"),
        "the first member has nobody to ask",
        "Gossip addresses of members to begin with; names are looked up again until one answers.",
    )
    .env(&["WARREN_CLUSTER_SEEDS"]),
    key(
        "cluster.label",
        Kind::Name,
        Derived("`network.node_id`"),
        "a node has one name",
        "Name of this member for people, its tag `label`.",
    ),
    key(
        "cluster.zone",
        Kind::Name,
        Nothing("no zone"),
        "a label",
        "Part of the region that shares a building: calls stay in it while they can. The region is `network.region`.",
    ),
    key(
        "cluster.remote_directors",
        Kind::Records,
        Value("[]"),
        "one region",
        "Directors of clusters in other regions: they take calls when the workers here cannot, and calls for data of their region.",
    ),
    key(
        "cluster.remote_directors[].region",
        Kind::Name,
        Required,
        "",
        "Their region.",
    ),
    key(
        "cluster.remote_directors[].addresses",
        Kind::List(&Kind::HostPort),
        Required,
        "",
        "Where they take calls; at least one address.",
    ),
];
