//! When to try again to get past a relay.
//!
//! Hole punching gives up after three attempts, all within seconds of the relayed connection. What stood in the way may
//! go: a NAT that was full, an address that peers had not told yet, a link that lost packets. So while a peer is
//! connected through a relay alone, whoever dialled the circuit dials another one now and then, which starts three
//! more attempts. Each pause is twice the last, up to [`LONGEST_PAUSE`]: two symmetric NATs never let it work.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use libp2p::PeerId;

/// No pause between two rounds of attempts is longer.
const LONGEST_PAUSE: Duration = Duration::from_secs(1_800);

#[derive(Debug, Clone, Copy)]
struct Retry {
    due: Instant,
    pause: Duration,
}

/// The plan, one entry per peer that is connected through a relay alone: never more than connections allowed.
#[derive(Debug)]
pub(crate) struct PunchPlan {
    first: Duration,
    retries: BTreeMap<PeerId, Retry>,
}

impl PunchPlan {
    pub(crate) fn new(first: Duration) -> Self {
        Self {
            first,
            retries: BTreeMap::new(),
        }
    }

    /// `relayed` are all peers that are reached through relays alone, over circuits of ours. Gives those whose time
    /// has come.
    pub(crate) fn handle_timeout(&mut self, relayed: &[PeerId], now: Instant) -> Vec<PeerId> {
        self.retries.retain(|peer, _| relayed.contains(peer));
        let mut due = Vec::new();
        for peer in relayed {
            let retry = self.retries.entry(*peer).or_insert(Retry {
                due: now + self.first,
                pause: self.first,
            });
            if retry.due <= now {
                retry.pause = retry.pause.saturating_mul(2).min(LONGEST_PAUSE);
                retry.due = now + retry.pause;
                due.push(*peer);
            }
        }
        due
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used)]
    use super::*;

    const FIRST: Duration = Duration::from_secs(60);

    /// The minutes at which a peer that stays relayed is tried again within a day.
    fn rounds(plan: &mut PunchPlan, peer: PeerId, from: Instant) -> Vec<u64> {
        let minutes = (0..24 * 60).map(|minute| (minute, from + FIRST * minute as u32));
        minutes
            .filter(|(_, now)| !plan.handle_timeout(&[peer], *now).is_empty())
            .map(|(minute, _)| minute)
            .collect()
    }

    #[test]
    fn given_a_peer_that_stays_relayed_when_time_passes_then_pauses_double_up_to_half_an_hour() {
        let mut plan = PunchPlan::new(FIRST);
        let minutes = rounds(&mut plan, PeerId::random(), Instant::now());
        assert_eq!(minutes[..8], [1, 3, 7, 15, 31, 61, 91, 121]);
    }

    #[test]
    fn given_a_peer_that_became_direct_when_it_is_relayed_again_then_pauses_begin_anew() {
        let (peer, now) = (PeerId::random(), Instant::now());
        let mut plan = PunchPlan::new(FIRST);
        rounds(&mut plan, peer, now);
        let later = now + Duration::from_secs(86_400);
        assert!(plan.handle_timeout(&[], later).is_empty());
        assert!(plan.retries.is_empty());
        assert_eq!(rounds(&mut plan, peer, later)[..2], [1, 3]);
    }
}
