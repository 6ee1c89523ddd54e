//! How many requests one peer may ask of us: a token bucket per peer.

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
        let bucket = self.buckets.entry(peer).or_insert(Bucket {
            tokens: rate.burst,
            filled_at: now,
        });
        let elapsed = now.saturating_duration_since(bucket.filled_at);
        bucket.tokens = (bucket.tokens + refill(rate, elapsed)).min(rate.burst);
        bucket.filled_at = now;
        if bucket.tokens < 1.0 {
            return false;
        }
        bucket.tokens -= 1.0;
        true
    }

    /// Forgets a peer that is gone. One that left with an empty bucket and comes straight back
    /// gains at most one burst per connection, which the connection limits bound.
    pub(crate) fn forget(&mut self, peer: &PeerId) {
        self.buckets.remove(peer);
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
    fn given_one_greedy_peer_when_another_asks_then_it_is_not_affected() {
        let (greedy, other, now) = (PeerId::random(), PeerId::random(), Instant::now());
        let mut limiter = RequestLimiter::new(RATE);
        while limiter.admit(greedy, now) {}
        assert!(limiter.admit(other, now));
    }
}
