//! Requests per source: one token bucket each, bounded in number.

use std::{collections::BTreeMap, net::IpAddr, time::Duration};

/// How much one source may ask.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limit {
    /// Requests that may come at once.
    pub burst: u32,
    /// Requests per second afterwards.
    pub per_second: u32,
}

/// What to do with one request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Decision {
    /// Serve it, or answer 429.
    pub verdict: Verdict,
    /// The burst, for `X-RateLimit-Limit`.
    pub limit: u32,
    /// Requests left right now, for `X-RateLimit-Remaining`.
    pub remaining: u32,
    /// Time until the bucket is full again, for `X-RateLimit-Reset`.
    pub reset: Duration,
}

/// Whether a request is served.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// Within the limit.
    Serve,
    /// Over it; ask again after this long (`Retry-After`).
    RetryAfter(Duration),
}

/// Micro-tokens: integers, so that nothing drifts.
const TOKEN: u64 = 1_000_000;

#[derive(Debug, Clone, Copy)]
struct Bucket {
    micro_tokens: u64,
    updated: Duration,
}

/// Token buckets by source.
///
/// A source counts by its [`source_key`]. At most `max_sources` are remembered; the one that has been quiet longest is
/// forgotten first, which can only help that source.
#[derive(Debug)]
pub struct RateLimiter {
    limit: Limit,
    max_sources: usize,
    buckets: BTreeMap<IpAddr, Bucket>,
}

impl RateLimiter {
    /// A limiter that remembers at most `max_sources` sources (at least one).
    #[must_use]
    pub fn new(limit: Limit, max_sources: usize) -> Self {
        Self {
            limit: Limit {
                burst: limit.burst.max(1),
                per_second: limit.per_second.max(1),
            },
            max_sources: max_sources.max(1),
            buckets: BTreeMap::new(),
        }
    }

    /// Counts one request of `source` at `now` (monotonic, from any fixed start).
    pub fn handle_request(&mut self, source: IpAddr, now: Duration) -> Decision {
        let key = source_key(source);
        let full = u64::from(self.limit.burst) * TOKEN;
        if !self.buckets.contains_key(&key) && self.buckets.len() >= self.max_sources {
            self.forget_quietest();
        }
        let per_second = u64::from(self.limit.per_second);
        let bucket = self.buckets.entry(key).or_insert(Bucket {
            micro_tokens: full,
            updated: now,
        });
        let elapsed_us =
            u64::try_from(now.saturating_sub(bucket.updated).as_micros()).unwrap_or(u64::MAX);
        bucket.micro_tokens = bucket
            .micro_tokens
            .saturating_add(elapsed_us.saturating_mul(per_second))
            .min(full);
        bucket.updated = now;
        let verdict = if bucket.micro_tokens >= TOKEN {
            bucket.micro_tokens -= TOKEN;
            Verdict::Serve
        } else {
            Verdict::RetryAfter(micros(TOKEN - bucket.micro_tokens, per_second))
        };
        Decision {
            verdict,
            limit: self.limit.burst,
            remaining: u32::try_from(bucket.micro_tokens / TOKEN).unwrap_or(u32::MAX),
            reset: micros(full - bucket.micro_tokens, per_second),
        }
    }

    /// How many sources are remembered.
    #[must_use]
    pub fn sources(&self) -> usize {
        self.buckets.len()
    }

    fn forget_quietest(&mut self) {
        let quietest = self
            .buckets
            .iter()
            .min_by_key(|(_, bucket)| bucket.updated)
            .map(|(key, _)| *key);
        if let Some(key) = quietest {
            self.buckets.remove(&key);
        }
    }
}

fn micros(micro_tokens: u64, per_second: u64) -> Duration {
    Duration::from_micros(micro_tokens.div_ceil(per_second))
}

/// What a source is counted as: its address, or the /64 of an IPv6 one, since one host usually owns all of it.
#[must_use]
pub fn source_key(source: IpAddr) -> IpAddr {
    match source.to_canonical() {
        IpAddr::V4(v4) => IpAddr::V4(v4),
        IpAddr::V6(v6) => {
            let network = u128::from(v6) & !u128::from(u64::MAX);
            IpAddr::V6(network.into())
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used)]
    use super::*;

    const LIMIT: Limit = Limit {
        burst: 3,
        per_second: 2,
    };

    fn ip(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    #[test]
    fn given_a_burst_spent_when_asked_again_then_it_says_how_long_to_wait() {
        let mut limiter = RateLimiter::new(LIMIT, 10);
        for left in [2, 1, 0] {
            let decision = limiter.handle_request(ip("10.0.0.1"), Duration::ZERO);
            assert_eq!(decision.verdict, Verdict::Serve);
            assert_eq!(decision.remaining, left);
        }
        let decision = limiter.handle_request(ip("10.0.0.1"), Duration::ZERO);
        assert_eq!(
            decision.verdict,
            Verdict::RetryAfter(Duration::from_millis(500))
        );
        let later = Duration::from_millis(500);
        assert_eq!(
            limiter.handle_request(ip("10.0.0.1"), later).verdict,
            Verdict::Serve
        );
    }

    #[test]
    fn one_source_does_not_spend_anothers_requests() {
        let mut limiter = RateLimiter::new(LIMIT, 10);
        for _ in 0..10 {
            limiter.handle_request(ip("10.0.0.1"), Duration::ZERO);
        }
        let other = limiter.handle_request(ip("10.0.0.2"), Duration::ZERO);
        assert_eq!(other.verdict, Verdict::Serve);
    }

    #[test]
    fn addresses_of_one_ipv6_network_share_a_bucket() {
        let mut limiter = RateLimiter::new(LIMIT, 10);
        for host in 0..4 {
            limiter.handle_request(ip(&format!("2001:db8::{host}")), Duration::ZERO);
        }
        let next = limiter.handle_request(ip("2001:db8::ffff"), Duration::ZERO);
        assert!(matches!(next.verdict, Verdict::RetryAfter(_)));
    }

    #[test]
    fn the_number_of_remembered_sources_is_bounded() {
        let mut limiter = RateLimiter::new(LIMIT, 4);
        for host in 0..100_u32 {
            let source = IpAddr::V4((0x0a00_0000 + host).into());
            limiter.handle_request(source, Duration::from_millis(u64::from(host)));
        }
        assert_eq!(limiter.sources(), 4);
    }
}
