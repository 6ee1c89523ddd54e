//! The libp2p node of Warren: how members find, reach and talk to each other.
//!
//! Owns: transports (TCP, QUIC, WebSocket, relayed circuits), admission, identify, ping, Kademlia,
//! mDNS, gossip, relaying, hole punching, reachability, connection and request limits, sync requests
//! and raw streams between members. Never does: what a member may do (its certificate says that,
//! `warren_identity` reads it), content, files, or bulk bytes in the swarm task.
//!
//! One task owns the swarm (`node`); everyone else holds a [`Mesh`]. In a members-only mesh nothing is
//! said on a connection before both sides have proven membership (`transport::admission`, decided in
//! `core::admission`). Start reading at [`Mesh`], then `node`, then `core`.

mod behaviour;
mod config;
mod core;
mod desk;
mod error;
#[doc(hidden)]
pub mod fuzz;
mod gate;
mod handle;
mod info;
mod metrics;
mod node;
mod sync;
mod traffic;
mod transport;

pub use crate::core::admission::{AdmissionError, RefusalCode};
pub use crate::core::protocol::MessageType;
pub use crate::core::rate_limit::RequestRate;
pub use crate::core::redial::RedialPolicy;
pub use behaviour::streams::{IncomingStream, IncomingStreams};
pub use config::{
    AdmissionPolicy, DhtConfig, DhtMode, GossipConfig, MAX_GOSSIP_BYTES, MdnsConfig, MeshConfig,
    MeshLimits, NodeDescription, RelayClient, RelayConfig, RelayServerConfig,
};
pub use error::{ConnectError, DhtError, OpenStreamError, PublishError, RequestError, StartError};
pub use handle::{HaveQuery, Mesh};
pub use info::{
    Bandwidth, ConnectionInfo, DisconnectReason, MemberInfo, MeshEvent, NatKind, NatStatus,
    PeerInfo, Presence, Reachability, RoutingBucket, RoutingEntry, Traffic,
};
pub use libp2p::{Multiaddr, PeerId, Stream};
pub use sync::{ListNumber, MAX_HAVE_DOCUMENTS, MemberProof, SyncRequest, SyncResponse};
pub use traffic::BlockCounter;

/// Streams of content blocks between members, where no bulk connection can be made.
pub const BLOCKS_PROTOCOL: &str = crate::core::protocol::BLOCKS;

/// Sync requests between members.
pub const SYNC_PROTOCOL: &str = crate::core::protocol::SYNC;
