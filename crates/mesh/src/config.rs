//! What a mesh node is told at start, and every default with its reason.

use std::time::Duration;

use libp2p::Multiaddr;

use crate::core::rate_limit::RequestRate;
use crate::core::redial::RedialPolicy;

/// Everything [`crate::Mesh::start`] needs beside trust material and metrics.
#[derive(Debug, Clone)]
pub struct MeshConfig {
    /// Names the Kademlia protocol `/warren/<mesh>/kad/1.0.0`: nodes of different meshes never
    /// share a routing table.
    pub mesh_name: String,
    /// Who we are, as announced to other members.
    pub node: NodeDescription,
    /// Addresses to listen on; TCP, `/ws` and `/quic-v1`, IPv4 and IPv6.
    pub listen_addresses: Vec<Multiaddr>,
    /// When not empty, exactly these are announced and nothing else (no listen address, nothing
    /// observed): for nodes behind a forwarded port.
    pub announce_addresses: Vec<Multiaddr>,
    /// Dialled at start and again whenever the connection is lost. DNS names are resolved at each
    /// dial. An address without `/p2p/<peer id>` is accepted; membership still has to be proven.
    pub bootstrap_peers: Vec<Multiaddr>,
    /// Who may connect.
    pub admission: AdmissionPolicy,
    /// Membership must be proven within this time, security handshake not included.
    pub admission_timeout: Duration,
    /// Kademlia; `None` switches it off.
    pub dht: Option<DhtConfig>,
    /// Discovery on the local network; `None` switches it off.
    pub mdns: Option<MdnsConfig>,
    /// Gossipsub; `None` switches it off, and with it the fast spreading of revocations (they are
    /// still fetched at each connect and compared now and then).
    pub gossip: Option<GossipConfig>,
    /// Relaying for others, and being relayed.
    pub relay: RelayConfig,
    /// Whether to ask members to test our addresses, and to test theirs.
    pub autonat: bool,
    /// Whether to turn relayed connections into direct ones.
    pub hole_punching: bool,
    /// When to try again after hole punching failed; each pause is twice the last, up to half an hour. A minute: what
    /// stood in the way for seconds is gone by then.
    pub hole_punch_again: Duration,
    /// Whether to ask the gateway for a port mapping.
    pub upnp: bool,
    /// Bounds on connections and requests.
    pub limits: MeshLimits,
    /// When to dial again.
    pub redial: RedialPolicy,
    /// How often each connection is pinged. 15 s: below the 25–30 s after which cheap routers
    /// forget a UDP flow.
    pub ping_interval: Duration,
    /// How often some connected member, another each time, is asked for newer revocation lists. A
    /// minute: so a list reaches everyone soon even where gossip was lost or is off.
    pub compare_lists_interval: Duration,
    /// The time-out of one sync request, answer included.
    pub request_timeout: Duration,
}

impl MeshConfig {
    /// A configuration that listens on `listen_addresses` and has the documented default for all
    /// else: members only, everything on but mDNS, the relay server and UPnP.
    pub fn new(
        mesh_name: impl Into<String>,
        node: NodeDescription,
        listen_addresses: Vec<Multiaddr>,
    ) -> Self {
        Self {
            mesh_name: mesh_name.into(),
            node,
            listen_addresses,
            announce_addresses: Vec::new(),
            bootstrap_peers: Vec::new(),
            admission: AdmissionPolicy::Members,
            admission_timeout: Duration::from_secs(10),
            dht: Some(DhtConfig::default()),
            mdns: None,
            gossip: Some(GossipConfig::default()),
            relay: RelayConfig::default(),
            autonat: true,
            hole_punching: true,
            hole_punch_again: Duration::from_secs(60),
            upnp: false,
            limits: MeshLimits::default(),
            redial: RedialPolicy::default(),
            ping_interval: Duration::from_secs(15),
            compare_lists_interval: Duration::from_secs(60),
            request_timeout: Duration::from_secs(10),
        }
    }
}

/// What a node says of itself. Authority comes from its certificate alone.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct NodeDescription {
    /// The operator's name for it.
    pub name: String,
    /// Where it stands.
    pub region: Option<String>,
    /// Roles it runs.
    pub roles: Vec<String>,
    /// `host:port` pairs of its bulk transfer port.
    pub bulk_addresses: Vec<String>,
}

/// Who may connect.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AdmissionPolicy {
    /// Members of our organisation only; anyone else is disconnected before a word is said.
    Members,
    /// Strangers too, but they are only identified, pinged and served the routing table.
    Open,
}

/// Kademlia.
#[derive(Debug, Clone)]
pub struct DhtConfig {
    /// Server or client.
    pub mode: DhtMode,
    /// How often the routing table is refilled.
    pub bootstrap_interval: Duration,
    /// When a lookup is given up.
    pub query_timeout: Duration,
    /// On how many nodes a record is kept.
    pub replication_factor: usize,
    /// Keys this node keeps providers of, its own and other members' together. The library's own
    /// limit is 1,024; a node provides collections, not chunks, and 131,072 of them cost about
    /// 30 MiB when each has one provider.
    pub max_provider_keys: usize,
}

impl Default for DhtConfig {
    fn default() -> Self {
        Self {
            mode: DhtMode::Server,
            bootstrap_interval: Duration::from_secs(300),
            query_timeout: Duration::from_secs(30),
            replication_factor: 3,
            max_provider_keys: 131_072,
        }
    }
}

/// Whether others may ask us.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DhtMode {
    /// Answers lookups and appears in routing tables.
    Server,
    /// Only asks.
    Client,
}

/// Discovery on the local network.
#[derive(Debug, Clone)]
pub struct MdnsConfig {
    /// Pause between two queries.
    pub interval: Duration,
}

impl Default for MdnsConfig {
    fn default() -> Self {
        Self {
            interval: Duration::from_secs(60),
        }
    }
}

/// Gossipsub.
#[derive(Debug, Clone)]
pub struct GossipConfig {
    /// Topics to subscribe to, as they are (`warren.global`, `warren.org.<id>`,
    /// `warren.acl.updates`). The mesh's own topic `warren.mesh.<organization_id>` (node records
    /// and revocations) is always subscribed beside them.
    pub topics: Vec<String>,
    /// Peers wanted in each topic's mesh.
    pub degree: usize,
    /// Below this many, peers are grafted.
    pub degree_low: usize,
    /// Above this many, peers are pruned.
    pub degree_high: usize,
}

impl Default for GossipConfig {
    fn default() -> Self {
        Self {
            topics: Vec::new(),
            degree: 6,
            degree_low: 4,
            degree_high: 12,
        }
    }
}

/// The most bytes one gossip message may have, framing included.
pub const MAX_GOSSIP_BYTES: usize = 64 * 1024;

/// Circuit relay.
#[derive(Debug, Clone)]
pub struct RelayConfig {
    /// When this node may be reached through a relay.
    pub client: RelayClient,
    /// Relays to reserve a slot on, each with `/p2p/<peer id>`. Connected members that offer
    /// relaying, and are certified for it, are used too.
    pub relays: Vec<Multiaddr>,
    /// Limits of relaying for others; `None` relays for nobody.
    pub server: Option<RelayServerConfig>,
}

impl Default for RelayConfig {
    fn default() -> Self {
        Self {
            client: RelayClient::WhenPrivate,
            relays: Vec::new(),
            server: None,
        }
    }
}

/// When to reserve a slot on a relay.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RelayClient {
    /// Never.
    Never,
    /// When members say they cannot dial us, or see us at an address that is not ours while nobody
    /// has tested it.
    WhenPrivate,
    /// Always.
    Always,
}

/// Limits of relaying for others. The library's own (128 KiB and two minutes a circuit) are meant
/// for strangers; ours are for members, who may have no other path at all.
#[derive(Debug, Clone)]
pub struct RelayServerConfig {
    /// Members that hold a slot at once.
    pub max_reservations: usize,
    /// Circuits relayed at once.
    pub max_circuits: usize,
    /// Circuits of one member at once.
    pub max_circuits_per_peer: usize,
    /// Longest life of one circuit.
    pub max_circuit_duration: Duration,
    /// Most bytes one circuit may carry in each direction.
    pub max_circuit_bytes: u64,
}

impl Default for RelayServerConfig {
    fn default() -> Self {
        Self {
            max_reservations: 1_024,
            max_circuits: 512,
            max_circuits_per_peer: 64,
            max_circuit_duration: Duration::from_secs(24 * 3600),
            max_circuit_bytes: 64 << 30,
        }
    }
}

/// Bounds on connections and requests.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct MeshLimits {
    /// Established connections in all.
    pub max_connections: u32,
    /// Established connections with one peer. Eight: a relayed one, both directions of a
    /// simultaneous dial, a hole punch over two transports and AutoNAT's dial-back.
    pub max_connections_per_peer: u32,
    /// Connections being accepted at once.
    pub max_pending_incoming: u32,
    /// Connections being dialled at once.
    pub max_pending_outgoing: u32,
    /// As long as fewer members are connected, known ones are dialled: meshes up to this size
    /// connect everyone with everyone.
    pub wanted_members: usize,
    /// Requests one peer may ask of us.
    pub requests: RequestRate,
    /// Gossip messages of one signer that we handle and pass on. Members that we do not know yet share the twentyfold.
    /// Five a second: an address that flaps is announced twice a second at most; fifty at once.
    pub gossip: RequestRate,
}

impl Default for MeshLimits {
    fn default() -> Self {
        Self {
            max_connections: 2_048,
            max_connections_per_peer: 8,
            max_pending_incoming: 128,
            max_pending_outgoing: 256,
            wanted_members: 64,
            requests: RequestRate::default(),
            gossip: RequestRate {
                per_second: 5.0,
                burst: 50.0,
            },
        }
    }
}
