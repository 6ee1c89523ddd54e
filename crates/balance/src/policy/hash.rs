//! Consistent hashing with bounded loads (Mirrokni, Thorup, Zadimoghaddam, section 2).
//!
//! A key belongs to the first endpoint clockwise of it on a ring; an endpoint that already has its share passes the call
//! on to the next. The share is `⌈c · m · w / W⌉` calls in flight, `m` being all calls in flight with this one, `w` its
//! weight and `W` the weight of all; so with `c` > 1 somebody always has room, and nobody is ever above `c` times its
//! fair share.
//!
//! Why a ring: endpoints come and go in any order, which rules out jump hashing (only the last may leave); and passing a
//! call on needs an order of *all* endpoints after each key that itself moves little, which Maglev's table does not give
//! (and on a change it moves keys between endpoints that stay). [`POINTS`] points for each endpoint keep shares within
//! about 8 % (1/√160) of each other; the bound does the rest.

use super::{Candidates, SlotId, State};
use crate::random::mix;

/// Points on the ring of the heaviest endpoint; a lighter one has as many fewer. Changing the highest weight of a set
/// therefore moves more keys than adding or removing an endpoint does.
pub(crate) const POINTS: u64 = 160;

/// How much more than its fair share an endpoint may have. See the [module](self).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ConsistentHash {
    /// The bound `c` in percent. 125: a call is passed on about `1/(c − 1)²` times at worst (the paper's theorem 4), and
    /// nobody has more than a quarter too much. Below 101 counts as 101.
    pub load_bound_percent: u32,
}

impl Default for ConsistentHash {
    fn default() -> Self {
        Self {
            load_bound_percent: 125,
        }
    }
}

impl ConsistentHash {
    /// The most calls in flight an endpoint of `weight` may have, when there are `calls` on `total_weight`.
    pub(crate) fn cap(&self, calls: u64, weight: u64, total_weight: u64) -> u64 {
        let numerator =
            u128::from(self.load_bound_percent.max(101)) * u128::from(calls) * u128::from(weight);
        let cap = numerator.div_ceil(100 * u128::from(total_weight.max(1)));
        u64::try_from(cap).unwrap_or(u64::MAX)
    }
}

/// Where endpoints stand.
#[derive(Debug, Default)]
pub(crate) struct Ring {
    /// Ascending.
    points: Vec<(u64, SlotId)>,
    /// By slot: whether it takes calls. The ring itself stays as it is when an endpoint is ejected.
    is_candidate: Vec<bool>,
}

impl Ring {
    pub(super) fn build(&mut self, members: &[SlotId], states: &[State]) {
        self.points.clear();
        let weight = |slot: SlotId| u64::from(states[slot as usize].weight);
        let heaviest = members.iter().map(|slot| weight(*slot)).max().unwrap_or(1);
        for slot in members {
            let count = (POINTS * weight(*slot)).div_ceil(heaviest);
            let identity = states[*slot as usize].identity_hash;
            self.points
                .extend((0..count).map(|number| (point(identity, number), *slot)));
        }
        // Equal points (2^-64 by chance) are ordered by identity, so that every machine agrees.
        self.points
            .sort_unstable_by_key(|(point, slot)| (*point, states[*slot as usize].identity_hash));
    }

    pub(super) fn set_candidates(&mut self, slots: &[SlotId]) {
        self.is_candidate.clear();
        for slot in slots {
            let slot = *slot as usize;
            if self.is_candidate.len() <= slot {
                self.is_candidate.resize(slot + 1, false);
            }
            self.is_candidate[slot] = true;
        }
    }

    pub(super) fn choose(
        &self,
        settings: &ConsistentHash,
        from: &Candidates<'_>,
    ) -> Option<SlotId> {
        let (mut calls, mut weight) = (from.in_flight + 1, from.weight);
        for slot in from.excluded {
            if self.takes_calls(*slot) {
                calls = calls.saturating_sub(u64::from(from.state(*slot).in_flight));
                weight = weight.saturating_sub(u64::from(from.state(*slot).weight));
            }
        }
        // The caps sum up to more than the calls there are, so that somebody has room unless all are excluded.
        self.clockwise(from.hash).find(|slot| {
            let state = from.state(*slot);
            self.takes_calls(*slot)
                && !from.is_excluded(*slot)
                && u64::from(state.in_flight) < settings.cap(calls, u64::from(state.weight), weight)
        })
    }

    fn takes_calls(&self, slot: SlotId) -> bool {
        self.is_candidate.get(slot as usize) == Some(&true)
    }

    fn clockwise(&self, hash: u64) -> impl Iterator<Item = SlotId> {
        let start = self.points.partition_point(|(point, _)| *point < hash);
        let (before, after) = self.points.split_at(start);
        after.iter().chain(before).map(|(_, slot)| *slot)
    }
}

fn point(identity: u64, number: u64) -> u64 {
    mix(identity ^ mix(number.wrapping_add(0x9e37_79b9_7f4a_7c15)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn given_a_bound_when_caps_are_summed_then_there_is_room_for_every_call() {
        let settings = ConsistentHash::default();

        for (calls, weights) in [(1, [1, 1, 1]), (7, [1, 2, 3]), (1_000, [1, 1, 998])] {
            let total = weights.iter().sum();
            let caps: u64 = weights
                .iter()
                .map(|weight| settings.cap(calls, *weight, total))
                .sum();
            assert!(caps >= calls, "{calls} calls, caps {caps}");
        }
    }

    #[test]
    fn given_eight_calls_on_four_equals_when_bounded_by_a_quarter_then_the_cap_is_three() {
        assert_eq!(ConsistentHash::default().cap(8, 1, 4), 3);
    }
}
