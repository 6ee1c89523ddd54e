//! What comes out of the core: bytes to send, things that happened, and counts of what was dropped.

use std::net::SocketAddr;

use crate::member::MemberId;
use crate::statement::VersionRange;

/// The bytes of a transmit.
pub type Payload = Vec<u8>;

/// Whom a transmit is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Destination {
    /// A member, at the address it gave. The shell sends only in a session that proves this member.
    Member {
        /// Who.
        id: MemberId,
        /// Where.
        address: SocketAddr,
    },
    /// Whoever we have a session with under this id; dropped if there is none any more.
    Session(MemberId),
    /// A configured seed, whose id we do not know yet.
    Seed(SocketAddr),
}

/// How a transmit travels.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Transport {
    /// May be lost, reordered, duplicated.
    Datagram,
    /// One message of a reliable stream.
    Stream,
}

/// Bytes to send.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Transmit {
    /// Whom to.
    pub to: Destination,
    /// How.
    pub transport: Transport,
    /// What.
    pub payload: Payload,
}

/// What happened, in the order in which it did.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// A member is new, or back after it had failed or left.
    Joined(MemberId),
    /// A member changed its tags or address.
    Updated(MemberId),
    /// A member seems gone.
    Suspected(MemberId),
    /// A suspect said that it lives, or answered the only one who doubted it.
    Refuted(MemberId),
    /// A member is gone without a word.
    Failed(MemberId),
    /// A member said good-bye.
    Left(MemberId),
    /// A tombstone expired or made room.
    Forgotten(MemberId),
    /// The shell should fetch this member's leaf and call `handle_credentials`.
    CredentialsWanted(MemberId),
    /// A member whose leaf was refused was removed.
    Expelled(MemberId),
    /// We were suspected or held failed, and have refuted.
    Accused,
    /// A validly signed statement of our own key, newer than ours, that we did not make in this life.
    IdentityInUse {
        /// The address it gives.
        address: SocketAddr,
        /// Its incarnation; ours is now one higher.
        incarnation: u64,
    },
    /// Statements with wrong signatures came in this peer's session. Members check before they pass on, so it made
    /// them or did not check; the shell may end the session.
    Forged(MemberId),
    /// A peer and we have no protocol version in common.
    Incompatible {
        /// Who.
        member: MemberId,
        /// What it speaks.
        theirs: VersionRange,
    },
    /// Our good-bye was gossiped as often as it will be.
    LeaveSpread,
}

/// Why `handle_timeout` is to be called.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum TimeoutReason {
    /// A ping is overdue, or the next one is due.
    Probe,
    /// A ping for somebody else is overdue.
    Relay,
    /// A suspicion's clock ran out.
    Suspicion,
    /// News are to be sent.
    Gossip,
    /// The next sync is due.
    Sync,
    /// A failed member or a seed is to be tried.
    Reconnect,
    /// A tombstone expires.
    Tombstone,
}

/// What was dropped or noticed, by reason. Each counts from the start of the core.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counters {
    /// Datagrams and messages longer than their limit.
    pub oversized: u64,
    /// Datagrams and messages that do not decode.
    pub malformed: u64,
    /// Of a protocol version we do not speak.
    pub unknown_version: u64,
    /// Statements whose signature is wrong.
    pub forged: u64,
    /// Statements and claims that say nothing new: duplicates, replays, of an older incarnation.
    pub stale: u64,
    /// Statements with an incarnation above [`limits::INCARNATION`](crate::limits::INCARNATION).
    pub implausible: u64,
    /// Statements of members that share no protocol version with us.
    pub incompatible: u64,
    /// Newcomers refused because the table is full.
    pub table_full: u64,
    /// Statements whose key begins like another member's.
    pub fingerprint_clash: u64,
    /// Statements of expelled members.
    pub expelled: u64,
    /// Claims in sessions of peers that are no live members.
    pub stranger: u64,
    /// Claims about members or incarnations we do not know.
    pub unknown_subject: u64,
    /// Acks and nacks that answer nothing we asked.
    pub unexpected_answer: u64,
    /// Requests for indirect pings beyond the limit, or for members we do not know.
    pub relay_refused: u64,
    /// Sync messages beyond the budget.
    pub sync_over_budget: u64,
    /// Transmits lost because the shell did not drain.
    pub transmits_lost: u64,
    /// Events lost because the shell did not drain.
    pub events_lost: u64,
    /// Times we noticed that we were not run.
    pub stalls: u64,
    /// Probes that we concluded failed.
    pub probes_failed: u64,
    /// Times we refuted.
    pub refutations: u64,
}
