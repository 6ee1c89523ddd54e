//! Members that break rules too often are cut off for a while.
//!
//! Points are added for what no honest node does and drain away with time, so that a hiccup is
//! forgiven. Membership is not a licence: a compromised machine is a member until it is revoked.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use libp2p::PeerId;

/// At this many points the peer is banned.
const LIMIT: f64 = 100.0;

/// Points that drain away each second.
const DRAIN_PER_SECOND: f64 = 1.0;

/// How long the first ban lasts; each further one twice as long.
const FIRST_BAN: Duration = Duration::from_secs(60);

/// No ban lasts longer.
const LONGEST_BAN: Duration = Duration::from_secs(3600);

/// Peers kept on record. The one with the oldest entry makes room, but nobody who is banned: a ban that nobody
/// remembers would never be lifted. Where all are, a further offence is let go.
const MAX_PEERS: usize = 4_096;

/// What a peer did.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Offence {
    /// Asked more than its rate allows.
    TooManyRequests,
    /// Passed on a message that proves nothing.
    InvalidGossip,
}

impl Offence {
    fn points(self) -> f64 {
        match self {
            // 200 of them in a row beyond the burst.
            Self::TooManyRequests => 0.5,
            Self::InvalidGossip => 10.0,
        }
    }

    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::TooManyRequests => "too many requests",
            Self::InvalidGossip => "invalid gossip",
        }
    }
}

#[derive(Debug)]
struct Entry {
    points: f64,
    at: Instant,
    bans: u32,
    banned_until: Option<Instant>,
}

/// The record of everyone who did something.
#[derive(Debug, Default)]
pub(crate) struct Conduct {
    peers: BTreeMap<PeerId, Entry>,
}

impl Conduct {
    /// Adds an offence; `true` if the peer is to be cut off now.
    pub(crate) fn offended(&mut self, peer: PeerId, offence: Offence, now: Instant) -> bool {
        if self.peers.len() >= MAX_PEERS && !self.peers.contains_key(&peer) {
            let oldest = self
                .peers
                .iter()
                .filter(|(_, entry)| entry.banned_until.is_none())
                .min_by_key(|(_, entry)| entry.at)
                .map(|(p, _)| *p);
            let Some(oldest) = oldest else { return false };
            self.peers.remove(&oldest);
        }
        let entry = self.peers.entry(peer).or_insert(Entry {
            points: 0.0,
            at: now,
            bans: 0,
            banned_until: None,
        });
        let drained = now.saturating_duration_since(entry.at).as_secs_f64() * DRAIN_PER_SECOND;
        entry.points = (entry.points - drained).max(0.0) + offence.points();
        entry.at = now;
        if entry.points < LIMIT || entry.banned_until.is_some() {
            return false;
        }
        entry.points = 0.0;
        let ban = FIRST_BAN
            .saturating_mul(1 << entry.bans.min(16))
            .min(LONGEST_BAN);
        entry.bans += 1;
        entry.banned_until = Some(now + ban);
        true
    }

    /// Peers whose ban is over.
    pub(crate) fn handle_timeout(&mut self, now: Instant) -> Vec<PeerId> {
        let mut over = Vec::new();
        for (peer, entry) in &mut self.peers {
            if entry.banned_until.is_some_and(|until| until <= now) {
                entry.banned_until = None;
                over.push(*peer);
            }
        }
        over
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used)]
    use super::*;

    #[test]
    fn given_a_burst_of_offences_when_the_limit_is_reached_then_the_peer_is_banned_once() {
        let (peer, now) = (PeerId::random(), Instant::now());
        let mut conduct = Conduct::default();
        let bans = (0..12)
            .filter(|_| conduct.offended(peer, Offence::InvalidGossip, now))
            .count();
        assert_eq!(bans, 1);
    }

    #[test]
    fn given_a_full_record_when_others_offend_then_a_ban_is_still_lifted_in_its_time() {
        let (banned, now) = (PeerId::random(), Instant::now());
        let mut conduct = Conduct::default();
        while !conduct.offended(banned, Offence::InvalidGossip, now) {}
        for _ in 0..MAX_PEERS {
            conduct.offended(
                PeerId::random(),
                Offence::TooManyRequests,
                now + FIRST_BAN / 2,
            );
        }
        assert_eq!(conduct.handle_timeout(now + FIRST_BAN), [banned]);
    }

    #[test]
    fn given_rare_offences_when_time_passes_between_then_nobody_is_banned() {
        let (peer, mut now) = (PeerId::random(), Instant::now());
        let mut conduct = Conduct::default();
        for _ in 0..100 {
            assert!(!conduct.offended(peer, Offence::InvalidGossip, now));
            now += Duration::from_secs(11);
        }
    }

    #[test]
    fn given_a_ban_when_its_time_is_over_then_it_is_lifted_and_the_next_is_longer() {
        let (peer, mut now) = (PeerId::random(), Instant::now());
        let mut conduct = Conduct::default();
        while !conduct.offended(peer, Offence::InvalidGossip, now) {}
        assert!(conduct.handle_timeout(now + FIRST_BAN / 2).is_empty());
        now += FIRST_BAN;
        assert_eq!(conduct.handle_timeout(now), [peer]);
        while !conduct.offended(peer, Offence::InvalidGossip, now) {}
        assert!(conduct.handle_timeout(now + FIRST_BAN).is_empty());
        assert_eq!(conduct.handle_timeout(now + FIRST_BAN * 2), [peer]);
    }
}
