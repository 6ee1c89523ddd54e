//! How many requests one peer may ask of us, and how much gossip one signer may have us pass on: token buckets.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use libp2p::PeerId;

/// A sustained rate and the burst above it.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct RequestRate {
    /// Requests per second that one peer may go on asking.
    pub per_second: f64,
    /// Requests it may ask at once after a quiet time.
    pub burst: f64,
}

impl Default for RequestRate {
    /// 50 a second: a node that asks every peer for the have-set of each document of a long list
    /// stays below it; a loop gone wild does not. 200 at once: the exchange at connect.
    fn default() -> Self {
        Self {
            per_second: 50.0,
            burst: 200.0,
        }
    }
}

#[derive(Debug, Clone, Copy)]
struct Bucket {
    tokens: f64,
    filled_at: Instant,
}

impl Bucket {
    fn full(rate: RequestRate, now: Instant) -> Self {
        Self {
            tokens: rate.burst,
            filled_at: now,
        }
    }

    fn filled(&self, rate: RequestRate, now: Instant) -> f64 {
        let elapsed = now.saturating_duration_since(self.filled_at);
        (self.tokens + refill(rate, elapsed)).min(rate.burst)
    }

    fn is_full(&self, rate: RequestRate, now: Instant) -> bool {
        self.filled(rate, now) >= rate.burst
    }

    fn take(&mut self, rate: RequestRate, now: Instant) -> bool {
        self.tokens = self.filled(rate, now);
        self.filled_at = now;
        if self.tokens < 1.0 {
            return false;
        }
        self.tokens -= 1.0;
        true
    }
}

/// One bucket per connected peer; buckets go when the peer does, so there are never more of them
/// than connections allowed.
#[derive(Debug)]
pub(crate) struct RequestLimiter {
    rate: RequestRate,
    buckets: BTreeMap<PeerId, Bucket>,
}

impl RequestLimiter {
    pub(crate) fn new(rate: RequestRate) -> Self {
        Self {
            rate,
            buckets: BTreeMap::new(),
        }
    }

    /// Takes one token of `peer`; `false` if it has none left.
    pub(crate) fn admit(&mut self, peer: PeerId, now: Instant) -> bool {
        let rate = self.rate;
        self.buckets
            .entry(peer)
            .or_insert_with(|| Bucket::full(rate, now))
            .take(rate, now)
    }

    /// Forgets a peer that is gone. One that left with an empty bucket and comes straight back
    /// gains at most one burst per connection, which the connection limits bound.
    pub(crate) fn forget(&mut self, peer: &PeerId) {
        self.buckets.remove(peer);
    }
}

/// Signers with a bucket of their own; beyond them a member shares the bucket of the unknown.
const MAX_SIGNERS: usize = 4_096;

/// The bucket that all unknown signers share is this many times as large as that of one member: a mesh of 500 that
/// comes up introduces itself all at once.
const UNKNOWN_SHARE: f64 = 20.0;

/// Who signed a message. Keys cost nothing, so whoever is not known as a member has no bucket of its own.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Signer {
    Member(PeerId),
    Unknown,
}

/// What each signer of gossip may have us handle and pass on, whoever brings it.
#[derive(Debug)]
pub(crate) struct SignerLimiter {
    rate: RequestRate,
    members: BTreeMap<PeerId, Bucket>,
    unknown: Option<Bucket>,
}

impl SignerLimiter {
    pub(crate) fn new(rate: RequestRate) -> Self {
        Self {
            rate,
            members: BTreeMap::new(),
            unknown: None,
        }
    }

    /// Takes one token of the signer; `false` if it has none left.
    pub(crate) fn admit(&mut self, signer: Signer, now: Instant) -> bool {
        let rate = self.rate;
        match signer {
            Signer::Member(peer) if self.has_room_for(&peer, now) => self
                .members
                .entry(peer)
                .or_insert_with(|| Bucket::full(rate, now))
                .take(rate, now),
            Signer::Member(_) | Signer::Unknown => {
                let rate = RequestRate {
                    per_second: rate.per_second * UNKNOWN_SHARE,
                    burst: rate.burst * UNKNOWN_SHARE,
                };
                self.unknown
                    .get_or_insert_with(|| Bucket::full(rate, now))
                    .take(rate, now)
            }
        }
    }

    /// A full table lets go of the buckets that are full again: who has one loses nothing by it.
    fn has_room_for(&mut self, peer: &PeerId, now: Instant) -> bool {
        if self.members.len() >= MAX_SIGNERS && !self.members.contains_key(peer) {
            let rate = self.rate;
            self.members.retain(|_, bucket| !bucket.is_full(rate, now));
        }
        self.members.len() < MAX_SIGNERS || self.members.contains_key(peer)
    }
}

fn refill(rate: RequestRate, elapsed: Duration) -> f64 {
    rate.per_second * elapsed.as_secs_f64()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used)]
    use super::*;

    const RATE: RequestRate = RequestRate {
        per_second: 10.0,
        burst: 3.0,
    };

    #[test]
    fn given_a_burst_when_spent_then_the_next_request_is_refused() {
        let (peer, now) = (PeerId::random(), Instant::now());
        let mut limiter = RequestLimiter::new(RATE);
        assert!((0..3).all(|_| limiter.admit(peer, now)));
        assert!(!limiter.admit(peer, now));
    }

    #[test]
    fn given_an_empty_bucket_when_time_passes_then_it_fills_at_the_rate_and_no_higher() {
        let (peer, now) = (PeerId::random(), Instant::now());
        let mut limiter = RequestLimiter::new(RATE);
        while limiter.admit(peer, now) {}
        let later = now + Duration::from_millis(200);
        assert!(limiter.admit(peer, later));
        assert!(limiter.admit(peer, later));
        assert!(!limiter.admit(peer, later));
        let much_later = later + Duration::from_secs(3600);
        assert_eq!(
            (0..10).filter(|_| limiter.admit(peer, much_later)).count(),
            3
        );
    }

    #[test]
    fn given_a_greedy_signer_when_it_is_out_of_tokens_then_others_and_the_unknown_are_not() {
        let now = Instant::now();
        let [greedy, other] = [(); 2].map(|()| Signer::Member(PeerId::random()));
        let mut limiter = SignerLimiter::new(RATE);
        assert_eq!((0..10).filter(|_| limiter.admit(greedy, now)).count(), 3);
        assert!(limiter.admit(other, now));
        assert!(limiter.admit(Signer::Unknown, now));
    }

    #[test]
    fn given_unknown_signers_when_there_are_many_then_they_share_one_bucket() {
        let now = Instant::now();
        let mut limiter = SignerLimiter::new(RATE);
        let admitted = (0..1_000).filter(|_| limiter.admit(Signer::Unknown, now));
        assert_eq!(admitted.count(), 60);
    }

    #[test]
    fn given_a_full_table_when_one_more_signs_then_it_shares_until_buckets_are_full_again() {
        let now = Instant::now();
        let mut limiter = SignerLimiter::new(RATE);
        for _ in 0..MAX_SIGNERS {
            assert!(limiter.admit(Signer::Member(PeerId::random()), now));
        }
        let late = Signer::Member(PeerId::random());
        assert_eq!((0..1_000).filter(|_| limiter.admit(late, now)).count(), 60);
        assert_eq!(limiter.members.len(), MAX_SIGNERS);
        let later = now + Duration::from_secs(1);
        assert_eq!((0..1_000).filter(|_| limiter.admit(late, later)).count(), 3);
        assert_eq!(limiter.members.len(), 1);
    }

    #[test]
    fn given_one_greedy_peer_when_another_asks_then_it_is_not_affected() {
        let (greedy, other, now) = (PeerId::random(), PeerId::random(), Instant::now());
        let mut limiter = RequestLimiter::new(RATE);
        while limiter.admit(greedy, now) {}
        assert!(limiter.admit(other, now));
    }
}
