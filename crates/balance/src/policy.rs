//! How one of the endpoints that may take a call is chosen.
//!
//! | policy | cost of a pick | follows |
//! |---|---|---|
//! | [`RoundRobin`](Policy::RoundRobin) | O(log n) | stride scheduling, Waldspurger and Weihl 1995, section 2 |
//! | [`Random`](Policy::Random) | O(1), O(log n) with weights | |
//! | [`LeastConnections`](Policy::LeastConnections) | O(log n) | |
//! | [`PeakEwma`](Policy::PeakEwma) | O(1), O(log n) with weights | power of two choices, Mitzenmacher 2001; peak EWMA as in Finagle |
//! | [`ConsistentHash`](Policy::ConsistentHash) | O(log n) | consistent hashing with bounded loads, Mirrokni, Thorup, Zadimoghaddam 2018 (arXiv 2016), section 2 |

pub(crate) mod ewma;
pub(crate) mod hash;
pub(crate) mod least;
pub(crate) mod random;
pub(crate) mod round_robin;
mod tournament;

use std::time::Instant;

pub use ewma::PeakEwma;
pub use hash::ConsistentHash;

use crate::random::Dice;
use crate::slots::{SlotId, State};

/// How to choose.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Policy {
    /// One after the other; with weights interleaved, never in bursts.
    RoundRobin,
    /// Evenly by weight, without memory.
    Random,
    /// The endpoint that, with this call, has the fewest of ours in flight per weight; of equals the one not picked for
    /// longest.
    ///
    /// An endpoint that fails fast has few calls in flight and attracts more: keep outlier ejection on.
    LeastConnections,
    /// Two at random, of which the one that is likely to answer first. The default.
    PeakEwma(PeakEwma),
    /// The endpoint that the call's key belongs to, unless it has more than its share.
    ConsistentHash(ConsistentHash),
}

impl Default for Policy {
    fn default() -> Self {
        Self::PeakEwma(PeakEwma::default())
    }
}

/// What a choice is made from.
pub(crate) struct Candidates<'a> {
    /// Those that may take the call, but for `excluded`.
    pub(crate) slots: &'a [SlotId],
    /// Their weights' sum and calls in flight.
    pub(crate) weight: u64,
    pub(crate) in_flight: u64,
    pub(crate) excluded: &'a [SlotId],
    pub(crate) states: &'a [State],
    /// Mean latency of the whole set in seconds, once known.
    pub(crate) baseline_s: Option<f64>,
    /// Where the call stands on the ring.
    pub(crate) hash: u64,
    pub(crate) now: Instant,
}

impl Candidates<'_> {
    fn state(&self, slot: SlotId) -> &State {
        &self.states[slot as usize]
    }

    fn is_excluded(&self, slot: SlotId) -> bool {
        self.excluded.contains(&slot)
    }
}

/// A policy with what it remembers about one list of candidates.
#[derive(Debug)]
pub(crate) enum Chooser {
    RoundRobin(round_robin::Turns),
    Random(random::Wheel),
    LeastConnections(least::LeastLoaded),
    PeakEwma(PeakEwma, random::Wheel),
    ConsistentHash(ConsistentHash, hash::Ring),
}

impl Chooser {
    pub(crate) fn new(policy: &Policy) -> Self {
        match policy {
            Policy::RoundRobin => Self::RoundRobin(round_robin::Turns::default()),
            Policy::Random => Self::Random(random::Wheel::default()),
            Policy::LeastConnections => Self::LeastConnections(least::LeastLoaded::default()),
            Policy::PeakEwma(settings) => {
                Self::PeakEwma(settings.clone(), random::Wheel::default())
            }
            Policy::ConsistentHash(settings) => {
                Self::ConsistentHash(settings.clone(), hash::Ring::default())
            }
        }
    }

    /// The set changed: `members` are all, whatever their health.
    pub(crate) fn set_members(&mut self, members: &[SlotId], states: &[State]) {
        match self {
            Self::RoundRobin(turns) => turns.forget_others(members),
            Self::ConsistentHash(_, ring) => ring.build(members, states),
            Self::Random(_) | Self::LeastConnections(_) | Self::PeakEwma(..) => {}
        }
    }

    /// Who takes calls changed: `slots` do from now on.
    pub(crate) fn set_candidates(&mut self, slots: &[SlotId], states: &[State]) {
        match self {
            Self::RoundRobin(turns) => turns.build(slots, states),
            Self::Random(wheel) | Self::PeakEwma(_, wheel) => wheel.build(slots, states),
            Self::LeastConnections(least) => least.build(slots, states),
            Self::ConsistentHash(_, ring) => ring.set_candidates(slots),
        }
    }

    /// The calls in flight at the candidate `index` changed.
    pub(crate) fn load_changed(&mut self, index: usize, state: &State) {
        if let Self::LeastConnections(least) = self {
            least.update(index, state);
        }
    }

    /// One that is not excluded; `None` when all are.
    pub(crate) fn choose(&mut self, from: &Candidates<'_>, dice: &mut Dice) -> Option<SlotId> {
        match self {
            Self::RoundRobin(turns) => turns.choose(from),
            Self::Random(wheel) => wheel.choose(from, dice),
            Self::LeastConnections(least) => least.choose(from),
            Self::PeakEwma(settings, wheel) => settings.choose(wheel, from, dice),
            Self::ConsistentHash(settings, ring) => ring.choose(settings, from),
        }
    }
}
