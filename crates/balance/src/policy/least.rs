//! Least connections.

use std::cmp::Ordering;

use super::tournament::Tournament;
use super::{Candidates, SlotId, State};

/// The load an endpoint would have with one call more, and when it was last picked.
#[derive(Debug, Clone, Copy)]
struct Load {
    calls: u64,
    weight: u64,
    last_pick: u64,
}

impl Load {
    fn of(state: &State) -> Self {
        Self {
            calls: u64::from(state.in_flight) + 1,
            weight: u64::from(state.weight),
            last_pick: state.last_pick,
        }
    }
}

impl Ord for Load {
    /// By calls per weight; cross-multiplied, since both are below 2^33.
    fn cmp(&self, other: &Self) -> Ordering {
        let ours = u128::from(self.calls) * u128::from(other.weight);
        let theirs = u128::from(other.calls) * u128::from(self.weight);
        ours.cmp(&theirs).then(self.last_pick.cmp(&other.last_pick))
    }
}

impl PartialOrd for Load {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl PartialEq for Load {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other).is_eq()
    }
}

impl Eq for Load {}

/// Who has the least to do.
#[derive(Debug, Default)]
pub(crate) struct LeastLoaded(Tournament<Load>);

impl LeastLoaded {
    pub(super) fn build(&mut self, slots: &[SlotId], states: &[State]) {
        self.0
            .build(slots.iter().map(|slot| Load::of(&states[*slot as usize])));
    }

    pub(super) fn update(&mut self, index: usize, state: &State) {
        self.0.set(index, Load::of(state));
    }

    pub(super) fn choose(&self, from: &Candidates<'_>) -> Option<SlotId> {
        let index = self
            .0
            .smallest(|index| !from.is_excluded(from.slots[index]))?;
        Some(from.slots[index])
    }
}
