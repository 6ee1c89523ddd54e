//! What the simulator asks of a membership protocol.

use std::time::Instant;

/// A node of the simulation; its address and its identity at once.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct NodeIndex(pub u32);

impl NodeIndex {
    /// As an index into a list of all nodes.
    #[must_use]
    pub fn index(self) -> usize {
        self.0 as usize
    }
}

/// How bytes travel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Transport {
    /// May be lost and overtake.
    Datagram,
    /// Arrives if both directions work; losses delay it.
    Stream,
}

/// Bytes that a node sends.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Outgoing {
    /// Whom to.
    pub to: NodeIndex,
    /// How.
    pub transport: Transport,
    /// What.
    pub bytes: Vec<u8>,
}

/// What a node concludes about another.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Notice {
    /// It is a member.
    Up(NodeIndex),
    /// It seems gone; protocols without suspicion never say so.
    Suspected(NodeIndex),
    /// It is gone.
    Down(NodeIndex),
    /// It said good-bye.
    Left(NodeIndex),
}

/// One node's protocol machine. After each call the simulator drains what it polls.
pub trait Membership {
    /// Joins through these nodes.
    fn join(&mut self, seeds: &[NodeIndex], now: Instant);
    /// Says good-bye.
    fn leave(&mut self, now: Instant);
    /// Bytes came in.
    fn receive(&mut self, from: NodeIndex, transport: Transport, bytes: &[u8], now: Instant);
    /// The instant of `poll_timeout` has passed.
    fn wake(&mut self, now: Instant);
    /// When to be woken.
    fn poll_timeout(&self) -> Option<Instant>;
    /// What to send next.
    fn poll_send(&mut self) -> Option<Outgoing>;
    /// What was concluded next.
    fn poll_notice(&mut self) -> Option<Notice>;
}
