//! One error per operation.

use libp2p::{Multiaddr, PeerId};

use crate::core::admission::AdmissionError;

/// [`crate::Mesh::start`] failed; nothing keeps running.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The certificate we would present is no member's.
    #[error(
        "our own certificate does not admit us to the mesh: {reason}; issue a new one with `warren ca issue`"
    )]
    OwnCertificate {
        /// Why it was refused.
        reason: String,
    },
    /// A listen address is taken, not ours, or of an unknown kind.
    #[error(
        "cannot listen on {address}: {reason}; choose a free address in network.libp2p.listen_addresses"
    )]
    Listen {
        /// The address.
        address: Multiaddr,
        /// What the system said.
        reason: String,
    },
    /// A transport could not be set up.
    #[error("cannot set up the {part} of the mesh: {reason}")]
    Setup {
        /// Which part.
        part: &'static str,
        /// What it said.
        reason: String,
    },
}

/// [`crate::Mesh::connect`] failed; no connection was kept.
#[derive(Debug, thiserror::Error)]
pub enum ConnectError {
    /// Somebody else answered at that address.
    #[error(
        "the node at {address} is {obtained}, not the peer id in the address; correct the /p2p/ part or find out who answers there"
    )]
    WrongPeer {
        /// Where.
        address: Multiaddr,
        /// Who answered.
        obtained: PeerId,
    },
    /// One side refused the other's membership.
    #[error("membership was refused: {0}")]
    Refused(AdmissionError),
    /// The address is our own.
    #[error("{0} is this node itself; name another node")]
    Ourselves(Multiaddr),
    /// Nobody could be reached there.
    #[error("cannot reach {target}: {reason}; check the address and that the port is open")]
    Unreachable {
        /// The address or peer.
        target: String,
        /// What each attempt said.
        reason: String,
    },
    /// No outcome in time; the dial is abandoned.
    #[error(
        "no answer from {target} within {seconds} s; check the address and that the port is open"
    )]
    TimedOut {
        /// The address or peer.
        target: String,
        /// How long it was waited.
        seconds: u64,
    },
    /// A limit of ours, see [`crate::MeshLimits`].
    #[error(
        "a connection limit of this node forbids it: {0}; raise network.libp2p.limits or disconnect peers"
    )]
    Limit(String),
    /// The node is shutting down.
    #[error("the mesh is shutting down")]
    Stopped,
}

/// [`crate::Mesh::request`] failed. The request may or may not have been handled; all of them are
/// safe to repeat.
#[derive(Debug, thiserror::Error)]
pub enum RequestError {
    /// No connection, and none could be made.
    #[error("peer {0} cannot be reached")]
    Unreachable(PeerId),
    /// No answer in time.
    #[error("peer {0} did not answer in time")]
    TimedOut(PeerId),
    /// It does not speak the sync protocol, or does not count us a member.
    #[error("peer {0} does not speak the sync protocol with us")]
    Unsupported(PeerId),
    /// The connection broke, or the answer could not be read.
    #[error("the exchange with peer {peer} broke off: {reason}")]
    Broken {
        /// Whom we asked.
        peer: PeerId,
        /// What happened.
        reason: String,
    },
    /// It answered with an error.
    #[error("peer {peer} refused the request: {reason}")]
    Refused {
        /// Whom we asked.
        peer: PeerId,
        /// Its words.
        reason: String,
    },
    /// The node is shutting down.
    #[error("the mesh is shutting down")]
    Stopped,
}

/// [`crate::Mesh::open_stream`] failed; nothing was sent.
#[derive(Debug, thiserror::Error)]
pub enum OpenStreamError {
    /// Not connected to that peer as a member.
    #[error("peer {0} is not a connected member; connect to it first")]
    NotConnected(PeerId),
    /// It does not speak the protocol.
    #[error("peer {peer} does not speak {protocol}")]
    Unsupported {
        /// The peer.
        peer: PeerId,
        /// The protocol.
        protocol: &'static str,
    },
    /// No answer in time, or the connection broke.
    #[error("cannot open a stream to peer {peer}: {reason}")]
    Broken {
        /// The peer.
        peer: PeerId,
        /// What happened.
        reason: String,
    },
    /// The node is shutting down.
    #[error("the mesh is shutting down")]
    Stopped,
}

/// [`crate::Mesh::publish`] failed; nobody received it.
#[derive(Debug, thiserror::Error)]
pub enum PublishError {
    /// Gossip is off, or we are not subscribed to the topic.
    #[error("topic {0} is not one of ours; add it to network.libp2p.gossipsub.topics")]
    UnknownTopic(String),
    /// Too long for one message.
    #[error(
        "a message of {bytes} bytes is longer than gossip allows ({limit}); send a reference to it"
    )]
    TooLong {
        /// Its length.
        bytes: usize,
        /// The limit.
        limit: usize,
    },
    /// No connected peer is subscribed.
    #[error("no connected peer is subscribed to topic {0}")]
    NobodyListens(String),
    /// The message was sent before, or the send queues are full.
    #[error("the message for topic {topic} was not taken: {reason}")]
    NotTaken {
        /// The topic.
        topic: String,
        /// Why.
        reason: String,
    },
    /// The node is shutting down.
    #[error("the mesh is shutting down")]
    Stopped,
}

/// A DHT operation failed.
#[derive(Debug, thiserror::Error)]
pub enum DhtError {
    /// It is off.
    #[error("the routing table is switched off; set network.libp2p.dht.enabled")]
    Disabled,
    /// The store of provided keys is full.
    #[error("this node already provides {0} keys, the most it may")]
    TooManyKeys(usize),
    /// No peer answered in time.
    #[error("the lookup was not answered within its time")]
    TimedOut,
    /// The routing table is empty.
    #[error("the routing table is empty; connect to a peer first")]
    NoPeers,
    /// The node is shutting down.
    #[error("the mesh is shutting down")]
    Stopped,
}
