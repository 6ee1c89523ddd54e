//! Who may begin a handshake: a handshake costs two signatures, and strangers can ask for it.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::time::{Duration, Instant};

/// Handshakes that one address may begin at once: a rack behind one address starts together.
const BURST: f64 = 64.0;
/// Handshakes per second and address after that.
const PER_SECOND: f64 = 16.0;
/// Addresses remembered. The loser is the one that was quiet for longest.
const MOST_ADDRESSES: usize = 4_096;
/// After so long a bucket is full again, and forgotten.
const FORGET_AFTER: Duration = Duration::from_secs(4);

/// Whether the caller has shown that it receives at its address: sources of datagrams are easily forged.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Source {
    /// It has.
    Proven,
    /// It has not, so what it does must not count against the address's true owner.
    Claimed,
}

#[derive(Debug)]
struct Bucket {
    tokens: f64,
    at: Instant,
}

/// A token bucket per address.
#[derive(Debug, Default)]
pub(crate) struct Gate {
    buckets: BTreeMap<(Source, IpAddr), Bucket>,
}

impl Gate {
    /// Whether a handshake from this address may begin.
    pub(crate) fn admit(&mut self, address: IpAddr, source: Source, now: Instant) -> bool {
        let key = (source, subject(address));
        if self.buckets.len() >= MOST_ADDRESSES && !self.buckets.contains_key(&key) {
            self.make_room(now);
        }
        let bucket = self.buckets.entry(key).or_insert(Bucket {
            tokens: BURST,
            at: now,
        });
        let earned = now.saturating_duration_since(bucket.at).as_secs_f64() * PER_SECOND;
        bucket.tokens = (bucket.tokens + earned).min(BURST);
        bucket.at = now;
        if bucket.tokens < 1.0 {
            return false;
        }
        bucket.tokens -= 1.0;
        true
    }

    fn make_room(&mut self, now: Instant) {
        self.buckets
            .retain(|_, bucket| now.saturating_duration_since(bucket.at) < FORGET_AFTER);
        if self.buckets.len() >= MOST_ADDRESSES
            && let Some((quietest, _)) = self.buckets.iter().min_by_key(|(_, bucket)| bucket.at)
        {
            let quietest = *quietest;
            self.buckets.remove(&quietest);
        }
    }
}

/// Whoever has one IPv6 address has its /64.
fn subject(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V4(v4) => v4.into(),
        IpAddr::V6(v6) => {
            let prefix = u128::from(v6) & !u128::from(u64::MAX);
            IpAddr::V6(prefix.into())
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn count(gate: &mut Gate, address: &str, source: Source, now: Instant) -> usize {
        let address = address.parse().unwrap();
        (0..1_000)
            .take_while(|_| gate.admit(address, source, now))
            .count()
    }

    #[test]
    fn given_a_flood_from_one_address_when_it_goes_on_then_it_gets_its_rate_and_others_theirs() {
        let (mut gate, now) = (Gate::default(), Instant::now());

        assert_eq!(count(&mut gate, "10.0.0.1", Source::Proven, now), 64);
        assert_eq!(count(&mut gate, "10.0.0.2", Source::Proven, now), 64);
        let later = now + Duration::from_secs(1);
        assert_eq!(count(&mut gate, "10.0.0.1", Source::Proven, later), 16);
    }

    #[test]
    fn given_forged_sources_when_they_flood_then_the_true_owner_still_gets_in() {
        let (mut gate, now) = (Gate::default(), Instant::now());
        count(&mut gate, "10.0.0.1", Source::Claimed, now);

        assert!(gate.admit("10.0.0.1".parse().unwrap(), Source::Proven, now));
    }

    #[test]
    fn given_one_ipv6_network_when_it_changes_its_address_then_it_is_the_same_caller() {
        let (mut gate, now) = (Gate::default(), Instant::now());
        count(&mut gate, "2001:db8::1", Source::Proven, now);

        assert!(!gate.admit("2001:db8::2".parse().unwrap(), Source::Proven, now));
        assert!(gate.admit("2001:db8:0:1::2".parse().unwrap(), Source::Proven, now));
    }

    #[test]
    fn given_more_addresses_than_fit_when_they_call_then_memory_stays_bounded() {
        let (mut gate, now) = (Gate::default(), Instant::now());
        for number in 0..10_000_u32 {
            gate.admit(IpAddr::V4(number.into()), Source::Claimed, now);
        }

        assert!(gate.buckets.len() <= MOST_ADDRESSES);
    }
}
