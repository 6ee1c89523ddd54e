//! Group membership: who is in the cluster, what each member says of itself, and who is gone.
//!
//! Owns: the member table, failure detection, dissemination, anti-entropy and the wire format of all three.
//! Never does: sockets, sessions, clocks, keys. `now` is an argument, signatures come through [`Attestor`], and
//! who sent a packet is told by the shell, which has authenticated that session.
//!
//! Start reading here (this page is the protocol), then [`Swim`] (the calling order), then `claims` (how a suspicion
//! becomes a failure).
//!
//! # What is known, and from whom
//!
//! | fact | form | who may make it |
//! |---|---|---|
//! | a member lives or has left, its address, tags and protocol versions | [`Statement`], signed | the subject only |
//! | a member seems gone (*suspect*), or is held to be gone (*failed*) | claim, unsigned, with its observers | any live member |
//!
//! A statement carries an **incarnation**; a higher one replaces a lower one and the same or a lower one changes
//! nothing. Only statements move an incarnation, so only the subject raises its own. A claim speaks of exactly one
//! incarnation and is void for any other. Claims count only when they come in the session of a live member; a member
//! can lie in them, and the worst that follows is that its victim has to refute.
//!
//! # States and what moves them
//!
//! | from | input | to | effects |
//! |---|---|---|---|
//! | unknown | statement *alive* | alive | [`Event::Joined`], [`Event::CredentialsWanted`], gossip it |
//! | unknown | statement *left* | left | none: a tombstone against replays |
//! | alive, suspect | higher statement *alive* | alive | [`Event::Refuted`] or [`Event::Updated`], gossip it |
//! | alive | claim, or our own probe failed | suspect | [`Event::Suspected`], start the clock, gossip the claim |
//! | suspect | claim with new observers | suspect | the clock runs faster, gossip the claim again |
//! | suspect | clock ran out and the evidence suffices | failed | [`Event::Failed`], gossip the claim |
//! | suspect | *failed* claims of two members and the evidence suffices | failed | the same |
//! | any but left | higher statement *left* | left | [`Event::Left`], gossip it |
//! | failed, left | higher statement *alive* | alive | [`Event::Joined`] |
//! | left | any claim | left | none: who left cannot fail |
//! | failed, left | tombstone expired | unknown | [`Event::Forgotten`] |
//! | ourselves | claim about our incarnation | alive, one higher | sign, gossip first, [`Event::Accused`] |
//! | ourselves | our own signed statement, higher than ours | alive, one above it | [`Event::IdentityInUse`] unless it is from our previous life |
//!
//! # Failure detection
//!
//! SWIM (Das, Gupta, Motivala, 2002): each period every member pings the next one of its shuffled list; without an
//! answer in time it asks [`Config::helpers`] others to ping for it; without an answer at the period's end the target is suspect.
//! Newcomers enter the list at a random place and every round is shuffled anew.
//!
//! Lifeguard (Dadgar, Phillips, Currey, 2018):
//!
//! * **Local health.** A score that rises when we miss acks and nacks that others should have sent, when we must
//!   refute, and when we notice that we were not run; it falls with each ack. Period and time-out are multiplied with
//!   score + 1.
//! * **Nacks.** A helper that gets no answer to two pings says so, which shows that *we* are not the problem.
//! * **Dynamic suspicion.** The clock starts at [`Config::suspicion_max_factor`] times the minimum and falls with the
//!   logarithm of the confirmations to the minimum.
//! * **Buddy.** Whatever is sent to a suspect or failed member begins with the claim about it, so it can refute;
//!   whoever begins to suspect tells it at once.
//!
//! # Cut detection
//!
//! One bad link must not fail a node. As in Rapid (Suresh et al., 2018) a failure needs evidence of several
//! **observers**: members whose own ping went unanswered. A claim carries the observers it rests on. The prober is
//! one, and so is each helper that sent a nack, so a true crash has its evidence within one period, and a bad link has
//! one observer for ever. Needed are [`Config::quorum_large`] observers in a cluster of at least
//! [`Config::large_cluster`] members and [`Config::quorum_small`] in a smaller one, but never more than there are
//! members that could observe (those not suspect, and ourselves). So with **three** members both others must agree
//! while both are fine; with **two**, or when all others are suspect as well, one observer decides, because there is
//! nobody else to ask. A suspicion whose clock ran out without evidence stays a suspicion until evidence or a
//! refutation comes. An observer whose ping is answered later withdraws itself and restarts its clock.
//!
//! A *failed* claim is a claim like any other; it does not decide. Only [`Config::failure_claims`] of them from
//! different members do, so a member that slept through the refutation cannot fail anyone alone.
//!
//! When a deadline is handled later than [`Config::stall_tolerance`], we were not run, and heard nothing
//! in that time. All deadlines move by the time lost, and the local health score rises. A clock that jumps forward is the same.
//!
//! # Dissemination
//!
//! News ride on pings and acks, and on gossip packets to [`Config::gossip_fanout`] random members each
//! [`Config::gossip_interval`] while there are any. Each is sent ⌈λ·log₁₀(n+1)⌉ times.
//! A claim about an older incarnation than we know is answered with the statement that made it stale. The queue holds [`limits::QUEUE_ITEMS`] items, one statement and one claim per subject; the loser is what
//! was sent most often. A datagram has at most [`limits::PACKET_BYTES`].
//!
//! # Anti-entropy
//!
//! Over a stream, paged in messages of at most [`limits::MESSAGE_BYTES`]; each stands for itself, so there is no
//! session to keep:
//!
//! 1. *open*: our statement and a hash over the live members of each of 64 ranges of keys; answered only where hashes differ, by
//! 2. *summary*: subject, incarnation and state of each member in those ranges; then both send
//! 3. *entries*: statements (and failures) that the other lacks, and *want* for those that we lack.
//!
//! A failure learned this way is not believed: it is told to its subject, which refutes if it lives. So halves of a
//! healed partition do not fail each other. Failed members and seeds are tried again every
//! [`Config::reconnect_interval`], so a partition heals without a restart. A sync that brought something is followed by several others soon,
//! with somebody else each; what came in bulk is not gossiped again.
//!
//! # Protocol versions
//!
//! Each statement has the range its subject speaks. Packets to it have the highest version both speak. A member
//! without a common version is not taken into the table; a packet of a version we do not speak is answered (rarely)
//! with a *refusal* that names our range, whose layout never changes. First contacts have our
//! highest version, and after a refusal the highest that both speak.
//!
//! # Replays, reuse, restarts
//!
//! Failed and left members stay as tombstones for [`Config::tombstone`], so old statements cannot revive them. A
//! node's key is its name: a restart comes with a higher incarnation and replaces the old life at once, at any
//! address. A *different* key at the address of a failed member takes the address over: the old one is not tried there
//! again. A process that starts below its last incarnation is shown its own last statement, and goes above it.
//! A node that forgot all others in a restart asks strangers that ping it to sync.
//! At most [`Config::max_members`] are held; when full, the oldest tombstone goes, and without one the newcomer is
//! refused.

mod claims;
mod config;
mod core;
mod dissemination;
mod effects;
mod health;
mod member;
mod probe;
mod statement;
mod suspicion;
mod sync;
mod table;
mod wire;

pub use config::{Config, ConfigError, limits};
pub use core::Swim;
pub use effects::{Counters, Destination, Event, Payload, TimeoutReason, Transmit, Transport};
pub use member::{Credentials, Fingerprint, Member, MemberId, Proof, State};
pub use statement::{
    Attestor, Liveness, Signature, SignedStatement, Statement, StatementError, Tag, TagError, Tags,
    VersionRange,
};
pub use wire::{Claim, ClaimKind, DecodeError, Message, Packet, PacketKind, Summary, Update};
