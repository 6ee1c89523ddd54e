//! Moving blocks between nodes: both sides of the block protocol, and the bulk connection it prefers to run on.
//!
//! * [`BlockServer`] answers requests from the store; [`BlockClient`] asks. Both work on any [`BlockStream`] whose far
//!   end is already authenticated, and both watch that its membership lasts ([`Membership`]).
//! * [`bulk`] makes such streams: TLS 1.3 over TCP beside the mesh, so that content never passes the swarm's task.
//!
//! What the bytes mean is in [`crate::core::wire`]. Nothing here verifies content: what [`BlockClient`] hands out is a
//! [`ReceivedBlock`], which nobody can use before it is verified.

mod budget;
mod buffers;
pub mod bulk;
mod client;
mod counted;
mod frames;
mod metrics;
mod server;
mod tls_stream;

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite};
use warren_identity::PeerId;

pub use self::client::{Arrival, BlockClient, CallError, Outcome, ReceivedBlock, SendError};
pub use self::counted::{ByteCounter, CounterOf};
pub use self::metrics::TransferMetrics;
pub use self::server::BlockServer;

/// An ordered reliable byte stream to an authenticated peer.
pub trait BlockStream: AsyncRead + AsyncWrite + Send + Unpin + 'static {}

impl<T: AsyncRead + AsyncWrite + Send + Unpin + 'static> BlockStream for T {}

/// Whether the far end of a live connection may still be talked to.
///
/// Asked at every request and once a second: an implementation must be cheap when nothing changed.
pub trait Membership: Send + Sync + 'static {
    /// Says whether the peer is still a member.
    ///
    /// # Errors
    /// [`MembershipEnded`]: the connection is closed at once.
    fn check(&self) -> Result<(), MembershipEnded>;
}

/// The peer's leaf has expired or was revoked, or its organisation is no longer trusted.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the peer is no longer a member: {reason}")]
pub struct MembershipEnded {
    /// The exact reason, for logs.
    pub reason: String,
}

/// Who is at the far end of a stream.
#[derive(Clone)]
pub struct FarEnd {
    /// Its proven peer id.
    pub peer: PeerId,
    /// Watches that it stays a member.
    pub membership: Arc<dyn Membership>,
}

impl fmt::Debug for FarEnd {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("FarEnd")
            .field("peer", &self.peer)
            .finish_non_exhaustive()
    }
}

/// A fresh connection.
pub struct Link {
    /// Runs the block protocol; this side asks.
    pub stream: Box<dyn BlockStream>,
    /// Who was found at the far end.
    pub far_end: FarEnd,
}

/// Why a peer could not be connected to.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ConnectError {
    /// No address of the peer is known, or none answered.
    #[error("peer {peer} cannot be reached: {reason}")]
    Unreachable {
        /// Peer wanted.
        peer: PeerId,
        /// What was tried.
        reason: String,
    },
    /// The far end is not the peer, or not a member.
    #[error("peer {peer} was refused: {reason}")]
    Refused {
        /// Peer wanted.
        peer: PeerId,
        /// The exact reason.
        reason: String,
    },
    /// It took longer than allowed.
    #[error("peer {peer} did not answer within {seconds} s")]
    TimedOut {
        /// Peer wanted.
        peer: PeerId,
        /// Time allowed.
        seconds: u64,
    },
    /// It sent a wrong block a short while ago.
    #[error("peer {peer} sent a wrong block and is left alone for now")]
    Penalised {
        /// Peer wanted.
        peer: PeerId,
    },
}

/// Time-outs and bounds of one connection.
#[derive(Clone, Debug)]
pub struct TransferLimits {
    /// A connection on which nothing is asked for this long is closed.
    pub idle: Duration,
    /// A read or write that was begun, or an answer that is due, must make progress within this.
    pub progress: Duration,
    /// How often the far end's membership is looked at when nothing is asked.
    pub membership_interval: Duration,
    /// Bytes of blocks that a client holds unverified on one connection; it reads no further block before some of them
    /// are verified or dropped. Never less than the largest block.
    pub unverified_bytes: usize,
    /// Requests a server holds unanswered on one connection; what comes on top is answered `Busy`.
    pub queued_requests: usize,
    /// Bytes of requests that a server holds unanswered on one connection; it reads no further request before some of
    /// them are answered. So all connections together hold at most [`Self::sessions`] times as much, and none can use up
    /// another's share.
    pub queued_request_bytes: usize,
    /// Stored bytes a server reads ahead of the socket in one go. At most three such batches (each at most one block
    /// larger) exist per connection.
    pub read_ahead_bytes: usize,
    /// Connections one server answers at a time; more are closed at once.
    pub sessions: usize,
}

impl Default for TransferLimits {
    fn default() -> Self {
        Self {
            idle: Duration::from_secs(60),
            progress: Duration::from_secs(15),
            membership_interval: Duration::from_secs(1),
            // What one retrieval has under way at most, so that a single one never waits for it.
            unverified_bytes: 16 * 1024 * 1024,
            queued_requests: 1024,
            // More than the requests for blocks that fit the queue, and some of the largest `Have`; 16 MiB over all
            // connections.
            queued_request_bytes: 256 * 1024,
            read_ahead_bytes: 2 * 1024 * 1024,
            sessions: 64,
        }
    }
}
