//! `network.*`

use super::Fallback::{Derived, Nothing, Value};
use super::{Key, key};
use crate::kind::Kind;

const DAY_S: u64 = 86_400;
const ANY_PAUSE: Kind = Kind::Duration {
    min_s: 1,
    max_s: 30 * DAY_S,
};

pub(super) const IDENTITY: &[Key] = &[
    key(
        "network.node_id",
        Kind::Name,
        Value("${HOSTNAME:-warren}"),
        "every machine has a host name",
        "Name of this node for people; it grants nothing.",
    )
    .env(&["WARREN_NODE_ID"]),
    key(
        "network.organization_id",
        Kind::Organization,
        Nothing("the organisation that the certificate names"),
        "the certificate decides; set it to have a wrong certificate refused at start",
        "The organisation this node belongs to, `org_acme_corp`.",
    )
    .env(&["WARREN_ORG_ID"]),
    key("network.region", Kind::Name, Nothing("no region"), "one place needs no name", "Region label, `us-west`."),
    key(
        "network.bootstrap_mode",
        Kind::Choice(&["auto", "seed", "client"]),
        Value("auto"),
        "right for a single node and for many",
        "`seed`: the first node, ready without peers. `client`: not ready until it has joined. `auto`: ready either way.",
    )
    .env(&["WARREN_BOOTSTRAP_MODE"]),
    key(
        "network.mesh_name",
        Kind::Name,
        Value("warren"),
        "one mesh per organisation is the rule",
        "Keeps the routing tables of separate meshes apart; the same on all nodes of a mesh.",
    ),
];

pub(super) const LIBP2P: &[Key] = &[
    key(
        "network.libp2p.peer_key",
        Kind::Path,
        Derived("`network.security.tls_key`, else `/etc/warren/peer_key.pem`"),
        "a node has one key; naming it once is enough",
        "PEM file with the node's Ed25519 key, mode 0600.",
    )
    .env(&["WARREN_PEER_KEY_PATH"]),
    key(
        "network.libp2p.listen_addresses",
        Kind::List(&Kind::Multiaddr),
        Value("[/ip4/0.0.0.0/tcp/4001, /ip6/::/tcp/4001, /ip4/0.0.0.0/udp/4001/quic-v1, /ip6/::/udp/4001/quic-v1]"),
        "both families, both transports; port 4001 is the mesh's",
        "Where the mesh listens: TCP, QUIC (`/udp/…/quic-v1`) and WebSocket (`/tcp/…/ws`). Port 0 takes a free one.",
    )
    .env(&["WARREN_LISTEN_ADDRESS"]),
    key(
        "network.libp2p.announce_addresses",
        Kind::List(&Kind::Multiaddr),
        Value("[]"),
        "what is listened on, and what peers see, is announced",
        "Public addresses to announce instead, behind a port forwarding say.",
    ),
    key(
        "network.libp2p.bootstrap_peers",
        Kind::List(&Kind::PeerAddress),
        Value("[]"),
        "discovery servers or the local network may be enough",
        "Peers to dial at start and when alone; names are resolved anew each time.",
    )
    .live(),
    key("network.libp2p.dht.enabled", Kind::Switch, Value("true"), "each source alone is enough to join", "Kademlia routing."),
    key(
        "network.libp2p.dht.mode",
        Kind::Choice(&["server", "client"]),
        Value("server"),
        "a mesh of few machines needs each of them",
        "`client` asks without appearing in routing tables.",
    ),
    key(
        "network.libp2p.dht.bootstrap_interval",
        ANY_PAUSE,
        Value("5m"),
        "a table emptied by a partition is full again before anyone asks",
        "How often the routing table is refilled.",
    ),
    key(
        "network.libp2p.dht.replication_factor",
        Kind::Count { min: 1, max: 20 },
        Value("3"),
        "two nodes may fail",
        "On how many nodes a record is kept.",
    ),
    key(
        "network.libp2p.dht.query_timeout",
        Kind::Duration { min_s: 1, max_s: 600 },
        Value("30s"),
        "longer than a slow peer, shorter than a person's patience",
        "When a lookup is given up.",
    ),
    key(
        "network.libp2p.mdns.enabled",
        Kind::Switch,
        Value("true"),
        "two machines on one network find each other with nothing configured",
        "Discovery on the local network; who is found is connected.",
    ),
    key("network.libp2p.mdns.interval", ANY_PAUSE, Value("1m"), "a query a minute is no load", "Pause between two queries."),
    key(
        "network.libp2p.gossipsub.enabled",
        Kind::Switch,
        Value("true"),
        "revocations and heads travel by gossip",
        "Publish and subscribe between nodes.",
    ),
    key(
        "network.libp2p.gossipsub.topics",
        Kind::List(&Kind::Topic),
        Value("[warren.global, 'warren.org.{organization_id}', warren.acl.updates]"),
        "the documents' three",
        "Topics to subscribe to. `{organization_id}` is the organisation without a leading `org_`; a literal topic stays as written.",
    ),
    key("network.libp2p.gossipsub.d", Kind::Count { min: 1, max: 64 }, Value("6"), "the documents' degree", "Peers wanted in a topic's mesh."),
    key(
        "network.libp2p.gossipsub.d_low",
        Kind::Count { min: 1, max: 64 },
        Value("4"),
        "the documents' degree",
        "Below this many, peers are grafted; at most `d`.",
    ),
    key(
        "network.libp2p.gossipsub.d_high",
        Kind::Count { min: 1, max: 64 },
        Value("12"),
        "the documents' degree",
        "Above this many, peers are pruned; at least `d`.",
    ),
    key(
        "network.libp2p.relay.client",
        Kind::Switch,
        Value("true"),
        "a node behind a NAT must be reachable",
        "Whether this node may be reached through a relay.",
    ),
    key(
        "network.libp2p.relay.server",
        Kind::Switch,
        Value("false"),
        "carrying others' traffic is a choice; the roles relay and discovery make it",
        "Whether this node relays for members. They use it if its certificate has the capability `relay` or `discovery`.",
    ),
    key(
        "network.libp2p.relay.max_circuits",
        Kind::Count { min: 1, max: 65_536 },
        Value("256"),
        "half of a 500-machine mesh behind symmetric NATs",
        "Circuits relayed at once.",
    ),
    key(
        "network.libp2p.relay.max_circuit_duration",
        Kind::Duration { min_s: 10, max_s: 30 * DAY_S },
        Value("1h"),
        "a long transfer ends within it; the usual two minutes cut it off",
        "Longest life of one circuit.",
    ),
    key(
        "network.libp2p.relay.max_circuit_size",
        Kind::Size { min: 64 * 1024 },
        Value("16GiB"),
        "whole files pass; the usual 128 KiB stop them",
        "Most bytes one circuit may carry.",
    ),
    key("network.libp2p.autonat.enabled", Kind::Switch, Value("true"), "relays are used only where needed", "Learn from peers if this node can be dialled."),
    key("network.libp2p.upnp.enabled", Kind::Switch, Value("true"), "a mapped port beats a relay", "Ask the gateway for a port mapping."),
    key(
        "network.libp2p.hole_punching.enabled",
        Kind::Switch,
        Value("true"),
        "a direct path beats a relay",
        "Turn relayed connections into direct ones.",
    ),
    key(
        "network.libp2p.limits.max_connections",
        Kind::Count { min: 2, max: 65_536 },
        Value("1024"),
        "500 machines with two connections each",
        "Established connections in all.",
    ),
    key(
        "network.libp2p.limits.max_connections_per_peer",
        Kind::Count { min: 1, max: 64 },
        Value("8"),
        "a relayed one, both sides dialling at once, a hole punched over each transport, a reachability test",
        "Established connections with one peer.",
    ),
    key(
        "network.libp2p.limits.max_pending_incoming",
        Kind::Count { min: 1, max: 65_536 },
        Value("128"),
        "a handshake costs time; strangers wait in the kernel's queue",
        "Connections being accepted at once.",
    ),
    key(
        "network.libp2p.limits.max_pending_outgoing",
        Kind::Count { min: 1, max: 65_536 },
        Value("128"),
        "enough to join a large mesh in seconds",
        "Connections being dialled at once.",
    ),
    key(
        "network.libp2p.limits.requests_per_second",
        Kind::Count { min: 1, max: 1_000_000 },
        Value("100"),
        "ten times what a busy member sends",
        "Requests one peer may send each second, averaged.",
    ),
    key(
        "network.libp2p.limits.request_burst",
        Kind::Count { min: 1, max: 1_000_000 },
        Value("200"),
        "a node that reconnects catches up at once",
        "Requests one peer may send at once above the average.",
    ),
];

pub(super) const PLACES: &[Key] = &[
    key(
        "network.transfer.enabled",
        Kind::Switch,
        Value("true"),
        "bulk bytes are fastest on a connection of their own",
        "The bulk port; without it blocks travel over libp2p streams.",
    ),
    key(
        "network.transfer.listen_address",
        Kind::Socket,
        Value("0.0.0.0:4002"),
        "next to the mesh's port",
        "TCP address of the bulk port (mutual TLS). Port 0 takes a free one.",
    ),
    key(
        "network.transfer.announce_addresses",
        Kind::List(&Kind::HostPort),
        Value("[]"),
        "what is listened on is announced",
        "Public addresses of the bulk port to announce instead.",
    ),
    key(
        "network.discovery.enabled",
        Kind::Switch,
        Value("true"),
        "without servers it does nothing",
        "The discovery client.",
    ),
    key(
        "network.discovery.servers",
        Kind::List(&Kind::ServerUrl),
        Value("[]"),
        "there is no account anywhere: the servers are yours",
        "Discovery servers in order of preference: https, or http on loopback. `WARREN_DISCOVERY_URL` adds one.",
    )
    .env(&["WARREN_DISCOVERY_SERVERS"]),
    key(
        "network.discovery.registration.auto_register",
        Kind::Switch,
        Value("true"),
        "a node wants to be found",
        "Register this node with the servers.",
    )
    .env(&["WARREN_AUTO_REGISTER"]),
    key(
        "network.discovery.registration.heartbeat_interval",
        Kind::Duration { min_s: 1, max_s: 3600 },
        Value("30s"),
        "three may be lost before the server forgets the node",
        "Pause between two heartbeats.",
    ),
    key(
        "network.discovery.registration.retry_interval",
        Kind::Duration { min_s: 1, max_s: 3600 },
        Value("1m"),
        "a server that is down is not hurried",
        "Pause before all servers are tried again after each failed.",
    ),
    key(
        "network.security.tls_cert",
        Kind::Path,
        Value("/etc/warren/certs/node.crt"),
        "the documents' place",
        "PEM file with this node's certificate.",
    )
    .env(&["WARREN_TLS_CERT"])
    .live(),
    key(
        "network.security.tls_key",
        Kind::Path,
        Derived("`network.libp2p.peer_key`, else `/etc/warren/peer_key.pem`"),
        "a node has one key; naming it once is enough",
        "PEM file with the certificate's key, which is the node's key.",
    )
    .env(&["WARREN_TLS_KEY"]),
    key(
        "network.security.tls_key_passphrase_file",
        Kind::Path,
        Nothing("keys need not be encrypted"),
        "a passphrase on a command line or in a variable can be seen by others",
        "File, readable by its owner only, whose first line opens an encrypted `tls_key` and `peer_key`.",
    ),
    key(
        "network.security.ca_cert",
        Kind::Path,
        Value("/etc/warren/certs/ca.crt"),
        "the documents' place",
        "PEM file with the organisation's CA certificate; two of them while the CA is rolled over.",
    )
    .live(),
    key(
        "network.security.crl",
        Kind::Path,
        Nothing("none to begin with"),
        "lists arrive by gossip and are kept in the data directory",
        "Revocation list (PEM or DER) to read at start and at each reload.",
    )
    .live(),
    key(
        "network.security.admission",
        Kind::Choice(&["members", "open"]),
        Value("members"),
        "closed unless asked",
        "`open` lets strangers identify, ping and use the routing table, never content. A reload cannot go back to `open`.",
    ),
    key(
        "network.security.renew_before",
        Kind::Duration { min_s: 60, max_s: 365 * DAY_S },
        Value("30d"),
        "a month to notice that renewal fails",
        "How long before its end the certificate is renewed; never earlier than after two thirds of its life.",
    )
    .live(),
    key(
        "network.security.issuer_dir",
        Kind::Path,
        Nothing("needed by the role `issuer` only"),
        "the CA's key belongs on as few machines as possible",
        "Folder with `ca_cert.pem` and `ca_key.pem`, for the role `issuer`.",
    ),
    key(
        "network.security.issuer_passphrase_file",
        Kind::Path,
        Nothing("keys need not be encrypted"),
        "an issuer that starts by itself needs it at hand",
        "File, readable by its owner only, whose first line opens an encrypted `ca_key.pem`.",
    ),
    key(
        "network.security.issuer_leaf_lifetime",
        Kind::Duration { min_s: 3600, max_s: 825 * DAY_S },
        Value("365d"),
        "the deployment guide's; no CA of ours signs more than 825 days",
        "Life of the certificates that the issuer signs.",
    ),
];
