//! What the mesh tells about itself: peers, events, addresses, traffic.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use libp2p::{Multiaddr, PeerId};
use warren_identity::{Member, NodeRecord, Signed};

use crate::core::protocol::MessageType;

/// One connected peer.
#[derive(Debug, Clone)]
pub struct PeerInfo {
    /// Who it is.
    pub peer_id: PeerId,
    /// Its membership; `None` for a stranger in an open mesh.
    pub member: Option<Arc<Member>>,
    /// Its own signed record, the newest we have.
    pub record: Option<Arc<Signed<NodeRecord>>>,
    /// Addresses it may be dialled at: announced in its record, else said in `identify`.
    pub addresses: Vec<Multiaddr>,
    /// When the oldest open connection was made.
    pub connected_at: SystemTime,
    /// The last measured round-trip time.
    pub latency: Option<Duration>,
    /// Protocols it speaks, as on the wire (with the leading slash).
    pub protocols: Vec<String>,
    /// Its `identify` agent.
    pub agent: Option<String>,
    /// Open connections.
    pub connections: Vec<ConnectionInfo>,
}

impl PeerInfo {
    /// Whether some connection does not go through a relay.
    pub fn is_direct(&self) -> bool {
        self.connections.iter().any(|c| !c.relayed)
    }
}

/// One open connection.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ConnectionInfo {
    /// The other end, as dialled or as seen.
    pub remote_address: Multiaddr,
    /// Whether we dialled it.
    pub outbound: bool,
    /// Whether it goes through a relay.
    pub relayed: bool,
}

/// A member we know of, connected or not.
#[derive(Debug, Clone)]
pub struct MemberInfo {
    /// Its certified membership.
    pub member: Arc<Member>,
    /// Its own signed record, the newest we have.
    pub record: Option<Arc<Signed<NodeRecord>>>,
    /// Whether it is connected now, and if not, what came of the last dial.
    pub presence: Presence,
}

/// What is known of where a member is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Presence {
    /// Some connection with it stands.
    Connected,
    /// There is none; it was not dialled since we last heard of it, or it refused us.
    Away,
    /// There is none, and nobody answered the last dial.
    Unreachable,
}

/// Why a connection was cut, or a peer refused.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum DisconnectReason {
    /// Its certificate ended.
    Expired,
    /// Its certificate was revoked.
    Revoked,
    /// Its certificate no longer chains to a root we trust.
    Untrusted,
    /// It broke the rules of a protocol too often.
    Misbehaved(&'static str),
    /// Somebody here asked for it.
    Requested(String),
    /// The other side, or the network, closed it.
    Remote,
}

impl DisconnectReason {
    /// A short label for logs.
    pub fn as_str(&self) -> &'static str {
        match self {
            Self::Expired => "expired",
            Self::Revoked => "revoked",
            Self::Untrusted => "untrusted",
            Self::Misbehaved(_) => "misbehaved",
            Self::Requested(_) => "requested",
            Self::Remote => "remote",
        }
    }
}

/// What happens in the mesh. Receivers that lag lose the oldest events and are told how many.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub enum MeshEvent {
    /// A first connection to this peer stands.
    PeerConnected {
        /// Who.
        peer: PeerId,
        /// Its membership; `None` for a stranger in an open mesh.
        member: Option<Arc<Member>>,
    },
    /// The last connection to this peer is gone.
    PeerDisconnected {
        /// Who.
        peer: PeerId,
        /// Why.
        reason: DisconnectReason,
    },
    /// Membership was refused, by us or by the other side.
    AdmissionRefused {
        /// Who, if the security handshake got that far.
        peer: Option<PeerId>,
        /// Where.
        address: Multiaddr,
        /// The label the refusal is counted under.
        reason: &'static str,
    },
    /// A member announced a newer record of itself.
    RecordUpdated {
        /// The record.
        record: Arc<Signed<NodeRecord>>,
    },
    /// A newer revocation list was taken over; it is to be kept on disk.
    RevocationsUpdated {
        /// Its number.
        number: u64,
        /// The list, DER.
        der: Arc<[u8]>,
    },
    /// A message on one of the configured topics, signed by `source`. That `source` is a member is not said: whoever
    /// acts on it checks that.
    Gossip {
        /// The topic.
        topic: String,
        /// Who signed it.
        source: PeerId,
        /// The message.
        data: Arc<[u8]>,
    },
    /// Addresses we listen on or are reachable at have changed.
    AddressesChanged,
    /// What we know of our reachability has changed.
    NatStatusChanged(NatStatus),
    /// A relayed connection was to be replaced by a direct one.
    HolePunch {
        /// With whom.
        peer: PeerId,
        /// Whether it worked, else why not.
        result: Result<(), String>,
    },
}

/// Whether others can dial us.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Reachability {
    /// Nobody has told yet.
    #[default]
    Unknown,
    /// At least one address of ours was dialled successfully.
    Public,
    /// Every address that was tested failed.
    Private,
}

/// What kind of address translation stands between us and our peers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum NatKind {
    /// Too few peers have told what they see, or only neighbours have: nobody has tried to dial us yet.
    #[default]
    Unknown,
    /// Peers see an address of our own, and it is a global one or somebody has tried to dial us.
    None,
    /// Different peers see us at one address and port: hole punching works.
    Cone,
    /// Each peer sees another port: only a relay connects two such nodes.
    Symmetric,
}

/// Reachability in full.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct NatStatus {
    /// Whether others can dial us.
    pub reachability: Reachability,
    /// What stands between.
    pub kind: NatKind,
    /// Addresses peers see us at.
    pub observed: Vec<Multiaddr>,
    /// Addresses that were proven, configured or mapped.
    pub confirmed: Vec<Multiaddr>,
    /// Addresses the gateway mapped for us.
    pub mapped: Vec<Multiaddr>,
    /// Relays that hold a slot for us.
    pub relays: Vec<PeerId>,
    /// Hole punches that worked.
    pub hole_punches_succeeded: u64,
    /// Hole punches that did not.
    pub hole_punches_failed: u64,
}

/// One bucket of the Kademlia routing table.
#[derive(Debug, Clone)]
pub struct RoutingBucket {
    /// Peers in it share this many leading bits with us.
    pub common_prefix_bits: u32,
    /// Its peers.
    pub peers: Vec<RoutingEntry>,
}

/// One peer of the routing table.
#[derive(Debug, Clone)]
pub struct RoutingEntry {
    /// Who.
    pub peer_id: PeerId,
    /// Where.
    pub addresses: Vec<Multiaddr>,
    /// Whether it is connected now.
    pub connected: bool,
}

/// Bytes inside our encrypted connections since start.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Traffic {
    /// From us.
    pub sent: u64,
    /// To us.
    pub received: u64,
}

/// Bytes by peer and kind of message. Strangers of an open mesh are counted together under `None`.
pub type Bandwidth = BTreeMap<(Option<PeerId>, MessageType), Traffic>;
