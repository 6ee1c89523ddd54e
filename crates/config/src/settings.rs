//! What the rest of Warren is given: plain structs, valid by construction.
//!
//! The field names follow the key paths (`network.libp2p.mdns.interval` is `settings.network.libp2p.mdns.interval`). What each
//! key means, its default and the reason for it stand in [`crate::KEYS`]; they are not repeated here. Only [`crate::load()`]
//! makes a [`Settings`], so a value that exists has passed every check.

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use multiaddr::{Multiaddr, PeerId};

use crate::value::{HostPort, Secret, Url};

/// Everything one node is configured with.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Settings {
    /// The mesh: who this node is, where it listens, whom it trusts.
    pub network: Network,
    /// What this node does. Never empty.
    pub roles: BTreeSet<Role>,
    /// The discovery server; in use only when `roles` holds [`Role::Discovery`].
    pub discovery_server: DiscoveryServer,
    /// The management API.
    pub api: Api,
    /// The content store.
    pub storage: Storage,
    /// The read-only listener for health, readiness and metrics.
    pub monitoring: Monitoring,
    /// Where log lines go.
    pub logging: Logging,
    /// Calls between members; in use only when `roles` holds [`Role::Director`] or [`Role::Worker`].
    pub rpc: Rpc,
    /// Membership of directors and workers; in use as [`Settings::rpc`].
    pub cluster: Cluster,
    /// Sections of planes that this build does not run, carried as they stand (variables not expanded).
    pub carried: Vec<Carried>,
}

impl Settings {
    /// Whether this node relays for others: `network.libp2p.relay.server`, or the role `relay` or `discovery`.
    #[must_use]
    pub fn relays_for_others(&self) -> bool {
        self.network.libp2p.relay.server
            || self.roles.contains(&Role::Relay)
            || self.roles.contains(&Role::Discovery)
    }

    /// Whether this node takes calls: its roles name director or worker.
    #[must_use]
    pub fn takes_calls(&self) -> bool {
        self.roles.contains(&Role::Director) || self.roles.contains(&Role::Worker)
    }
}

/// What a node does. Roles of planes that are not built are refused when the configuration is read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Role {
    /// Keeps documents and serves them to members.
    Storage,
    /// Runs the discovery server.
    Discovery,
    /// Relays connections for members that cannot reach each other.
    Relay,
    /// Signs the certificate requests of joining machines.
    Issuer,
    /// Passes calls on to workers.
    Director,
    /// Carries calls out.
    Worker,
}

impl Role {
    /// The name as it is written in the configuration and in node records.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Storage => "storage",
            Self::Discovery => "discovery",
            Self::Relay => "relay",
            Self::Issuer => "issuer",
            Self::Director => "director",
            Self::Worker => "worker",
        }
    }
}

/// `network.*`
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Network {
    /// Name of this node for people; the host name where nothing is set.
    pub node_id: String,
    /// The organisation, `org_acme_corp`. `None`: the one the certificate names.
    pub organization_id: Option<String>,
    /// Region label, `us-west`.
    pub region: Option<String>,
    /// How the node starts.
    pub bootstrap_mode: BootstrapMode,
    /// Name that keeps this mesh's routing table apart from others: `/warren/<mesh>/kad/1.0.0`.
    pub mesh_name: String,
    /// The libp2p node.
    pub libp2p: Libp2p,
    /// The port bulk bytes take.
    pub transfer: Transfer,
    /// The discovery client.
    pub discovery: DiscoveryClient,
    /// Keys, certificates, admission.
    pub security: Security,
}

/// `network.bootstrap_mode`
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BootstrapMode {
    /// Use whatever sources are configured; none is fine.
    Auto,
    /// The first node: healthy and ready without any peer.
    Seed,
    /// A later node: not ready until it has joined through one of its sources.
    Client,
}

/// `network.libp2p.*`
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Libp2p {
    /// PEM file with the node's Ed25519 key.
    pub peer_key: PathBuf,
    /// Where to listen. Not empty.
    pub listen_addresses: Vec<Multiaddr>,
    /// What to tell others instead of the addresses listened on.
    pub announce_addresses: Vec<Multiaddr>,
    /// Peers to dial at start; every one ends in `/p2p/<peer id>`.
    pub bootstrap_peers: Vec<Multiaddr>,
    /// Kademlia.
    pub dht: Dht,
    /// Discovery on the local network.
    pub mdns: Mdns,
    /// Publish and subscribe.
    pub gossipsub: Gossipsub,
    /// Circuit relay.
    pub relay: Relay,
    /// Whether to learn from peers if we can be dialled.
    pub autonat: Switch,
    /// Whether to ask the gateway for a port mapping.
    pub upnp: Switch,
    /// Whether to turn relayed connections into direct ones.
    pub hole_punching: Switch,
    /// Upper bounds.
    pub limits: Limits,
}

/// A section that has nothing but `enabled`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Switch {
    /// On or off.
    pub enabled: bool,
}

/// `network.libp2p.dht.*`
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Dht {
    /// On or off.
    pub enabled: bool,
    /// Server or client.
    pub mode: DhtMode,
    /// How often the routing table is refilled.
    pub bootstrap_interval: Duration,
    /// On how many nodes a record is kept.
    pub replication_factor: usize,
    /// When a lookup is given up.
    pub query_timeout: Duration,
}

/// `network.libp2p.dht.mode`
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DhtMode {
    /// Answers lookups and appears in routing tables.
    Server,
    /// Only asks.
    Client,
}

/// `network.libp2p.mdns.*`
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Mdns {
    /// On or off.
    pub enabled: bool,
    /// Pause between two queries.
    pub interval: Duration,
}

/// `network.libp2p.gossipsub.*`
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Gossipsub {
    /// On or off.
    pub enabled: bool,
    /// Topics as written, `{organization_id}` not yet replaced: see [`Gossipsub::topics_for`].
    pub topics: Vec<String>,
    /// Peers wanted in each topic's mesh.
    pub d: usize,
    /// Below this many, peers are grafted.
    pub d_low: usize,
    /// Above this many, peers are pruned.
    pub d_high: usize,
}

impl Gossipsub {
    /// The topics to subscribe to, `{organization_id}` replaced by the organisation without its leading `org_`, so that
    /// `org_acme_corp` gives `warren.org.acme_corp`. A topic written literally stays as it is. Duplicates are dropped.
    #[must_use]
    pub fn topics_for(&self, organization_id: &str) -> Vec<String> {
        let short = organization_id
            .strip_prefix("org_")
            .unwrap_or(organization_id);
        let mut topics: Vec<String> = Vec::with_capacity(self.topics.len());
        for topic in &self.topics {
            let topic = topic.replace("{organization_id}", short);
            if !topics.contains(&topic) {
                topics.push(topic);
            }
        }
        topics
    }
}

/// `network.libp2p.relay.*`
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Relay {
    /// Whether this node may be reached through a relay.
    pub client: bool,
    /// Whether it relays for others; see [`Settings::relays_for_others`].
    pub server: bool,
    /// Circuits relayed at once.
    pub max_circuits: usize,
    /// Longest life of one circuit.
    pub max_circuit_duration: Duration,
    /// Most bytes one circuit may carry.
    pub max_circuit_size: u64,
}

/// `network.libp2p.limits.*`
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Established connections in all.
    pub max_connections: u32,
    /// Established connections with one peer.
    pub max_connections_per_peer: u32,
    /// Connections being accepted at once.
    pub max_pending_incoming: u32,
    /// Connections being dialled at once.
    pub max_pending_outgoing: u32,
    /// Requests one peer may send each second, averaged.
    pub requests_per_second: u32,
    /// Requests one peer may send at once above the average.
    pub request_burst: u32,
}

/// `network.transfer.*`
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Transfer {
    /// On or off. Off: blocks travel over libp2p streams only.
    pub enabled: bool,
    /// TCP address of the bulk port.
    pub listen_address: SocketAddr,
    /// What to tell others instead of the addresses listened on.
    pub announce_addresses: Vec<HostPort>,
}

/// `network.discovery.*`
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DiscoveryClient {
    /// On or off.
    pub enabled: bool,
    /// Discovery servers in order of preference; https, or http on loopback.
    pub servers: Vec<Url>,
    /// How the node registers itself.
    pub registration: Registration,
}

/// `network.discovery.registration.*`
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Registration {
    /// On or off.
    pub auto_register: bool,
    /// Pause between two heartbeats.
    pub heartbeat_interval: Duration,
    /// Pause before all servers are tried again after every one failed.
    pub retry_interval: Duration,
}

/// `network.security.*`
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Security {
    /// PEM file with this node's leaf (and intermediates).
    pub tls_cert: PathBuf,
    /// PEM file with the leaf's key: the node's key.
    pub tls_key: PathBuf,
    /// File with the passphrase of the node's key, where that is encrypted.
    pub tls_key_passphrase_file: Option<PathBuf>,
    /// PEM file with the organisation's CA certificate; several while the CA is rolled over.
    pub ca_cert: PathBuf,
    /// X.509 revocation list to begin with.
    pub crl: Option<PathBuf>,
    /// Who may join the mesh through this node.
    pub admission: Admission,
    /// How long before its end the leaf is renewed.
    pub renew_before: Duration,
    /// Folder with `ca_cert.pem` and `ca_key.pem`; `Some` wherever `roles` holds [`Role::Issuer`].
    pub issuer_dir: Option<PathBuf>,
    /// File with the passphrase of the CA's key, where that is encrypted.
    pub issuer_passphrase_file: Option<PathBuf>,
    /// Life of the leaves that the issuer signs.
    pub issuer_leaf_lifetime: Duration,
}

/// `network.security.admission`. The order is the order of protection: a reload never goes down.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Admission {
    /// Strangers may identify, ping and use the routing table; never content.
    Open,
    /// Only members of the organisation.
    Members,
}

/// `discovery.server.*`
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DiscoveryServer {
    /// TCP address of the server's HTTPS listener.
    pub listen_address: SocketAddr,
    /// PostgreSQL URL; `None` keeps the registry in the embedded engine under `storage.path`.
    pub database_url: Option<Secret>,
    /// Whether callers must show a certificate in TLS; if not, a request signed with a member's key does too.
    pub require_certificates: bool,
    /// CA certificates that clients are checked against.
    pub ca_cert: PathBuf,
    /// Whether the bootstrap list, and nothing else, is given without a certificate.
    pub anonymous_bootstrap: bool,
    /// A registered node that sent no heartbeat for this long is dropped.
    pub peer_expiry: Duration,
    /// Seed nodes that the bootstrap list always holds.
    pub bootstrap_peers: Vec<SeedPeer>,
}

/// One entry of `discovery.server.bootstrap_peers`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SeedPeer {
    /// Who.
    pub peer_id: PeerId,
    /// Where. Not empty.
    pub addresses: Vec<Multiaddr>,
    /// Of which organisation.
    pub organization: String,
    /// Region label.
    pub region: Option<String>,
}

/// `api.*`
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Api {
    /// TCP address of the management API.
    pub listen_address: SocketAddr,
    /// `Some` where the API speaks HTTPS; always so on an address other than loopback.
    pub tls: Option<ApiTls>,
    /// File with the admin token; made with mode 0600 where it does not exist.
    pub token_file: PathBuf,
    /// Names, beside the listening address and `localhost`, that a `Host` header may carry.
    pub allowed_hosts: Vec<String>,
}

/// `api.tls.*`
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ApiTls {
    /// PEM file with the certificate.
    pub cert: PathBuf,
    /// PEM file with its key.
    pub key: PathBuf,
}

/// `storage.*`
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Storage {
    /// Data directory.
    pub path: PathBuf,
    /// Most bytes the store may take on disk.
    pub max_size: u64,
    /// Garbage collection.
    pub gc: Gc,
}

/// `storage.gc.*`
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Gc {
    /// Pause between two runs.
    pub interval: Duration,
}

/// `monitoring.*`
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Monitoring {
    /// TCP address of the read-only listener; `None`: there is none.
    pub listen_address: Option<SocketAddr>,
}

/// `logging.*`
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Logging {
    /// Level or filter directives, `info,warren_mesh=debug`.
    pub level: String,
    /// Text or JSON.
    pub format: LogFormat,
    /// Log file; `None`: standard error.
    pub file: Option<PathBuf>,
    /// A log file is rotated when it would grow beyond this.
    pub max_size: u64,
    /// Rotated files kept beside the current one.
    pub max_files: usize,
    /// A message repeated within this window is counted, not written.
    pub repeat_window: Duration,
}

/// `logging.format`
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LogFormat {
    /// One line for people.
    Text,
    /// One JSON object a line.
    Json,
}

/// `rpc.*`
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rpc {
    /// UDP address that calls come in at.
    pub bind_addr: SocketAddr,
    /// Where others send calls; `None`: the address they know from gossip, with the port listened on.
    pub advertise_addr: Option<SocketAddr>,
    /// Largest request and response of one call, in bytes.
    pub max_message_size: u64,
    /// Calls in flight.
    pub max_calls: usize,
    /// Calls in flight of one connection.
    pub max_calls_per_connection: u32,
    /// Connections.
    pub max_connections: usize,
    /// How long a stop waits for calls in flight.
    pub drain_timeout: Duration,
    /// Commands that the role worker serves as methods.
    pub worker_commands: Vec<WorkerCommand>,
}

/// One entry of `rpc.worker.commands`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WorkerCommand {
    /// The method's name.
    pub method: String,
    /// Program and arguments. Not empty.
    pub run: Vec<String>,
    /// When a run is killed.
    pub timeout: Duration,
    /// Runs at once.
    pub max_running: usize,
}

/// `cluster.*`
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Cluster {
    /// Address of gossip, UDP and TCP.
    pub bind_addr: SocketAddr,
    /// Where others reach it; `None`: worked out from where it listens.
    pub advertise_addr: Option<SocketAddr>,
    /// Members to begin with.
    pub seeds: Vec<HostPort>,
    /// Name of this member for people.
    pub label: String,
    /// Zone label.
    pub zone: Option<String>,
    /// Directors of clusters in other regions.
    pub remote_directors: Vec<RemoteDirectors>,
}

/// One entry of `cluster.remote_directors`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RemoteDirectors {
    /// Their region.
    pub region: String,
    /// Where they take calls. Not empty.
    pub addresses: Vec<HostPort>,
}

/// A section of a plane that this build does not run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Carried {
    /// Key path, `network.replication`.
    pub path: String,
    /// The plane it belongs to, `replication`.
    pub plane: &'static str,
    /// The section as JSON.
    pub value: serde_json::Value,
}
