//! Round robin by stride scheduling (Waldspurger and Weihl 1995, section 2): each endpoint has a pass, the lowest pass
//! is next, and a pick raises it by a stride of one over the weight. Each starts at another point of its stride, so that
//! unequal weights interleave (5:1:1 gives a a c a a b a, not a run of five).

use super::tournament::Tournament;
use super::{Candidates, SlotId, State};

/// The stride of weight 1. A pass is 128 bits wide: it never wraps.
const STRIDE_ONE: u128 = 1 << 40;

/// The golden ratio's fraction of a stride: multiples of it, wrapped, never come close to each other.
const PHASE: u128 = 679_535_556_991;

/// Whose turn it is.
#[derive(Debug, Default)]
pub(crate) struct Turns {
    passes: Tournament<u128>,
    /// By slot: the pass of everyone who had one, also while not a candidate.
    known: Vec<Option<u128>>,
    /// The pass of the last pick: nobody who returns may have less, or it would get all calls until it caught up.
    time: u128,
}

impl Turns {
    /// A slot that leaves the set loses its pass.
    pub(super) fn forget_others(&mut self, members: &[SlotId]) {
        let mut kept = Vec::new();
        for slot in members {
            let slot = *slot as usize;
            if kept.len() <= slot {
                kept.resize(slot + 1, None);
            }
            kept[slot] = self.known.get(slot).copied().flatten();
        }
        self.known = kept;
    }

    pub(super) fn build(&mut self, slots: &[SlotId], states: &[State]) {
        let Self {
            passes,
            known,
            time,
        } = self;
        passes.build(slots.iter().enumerate().map(|(index, slot)| {
            let phase = index as u128 * PHASE % STRIDE_ONE;
            let start = *time + phase / u128::from(states[*slot as usize].weight);
            let pass = match known[*slot as usize] {
                Some(pass) if pass >= *time => pass,
                _ => start,
            };
            known[*slot as usize] = Some(pass);
            pass
        }));
    }

    pub(super) fn choose(&mut self, from: &Candidates<'_>) -> Option<SlotId> {
        let index = self
            .passes
            .smallest(|index| !from.is_excluded(from.slots[index]))?;
        let slot = from.slots[index];
        let pass = *self.passes.key(index);
        self.time = self.time.max(pass);
        let next = pass + stride(from.state(slot));
        self.passes.set(index, next);
        self.known[slot as usize] = Some(next);
        Some(slot)
    }
}

fn stride(state: &State) -> u128 {
    STRIDE_ONE / u128::from(state.weight)
}
