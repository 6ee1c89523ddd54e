//! Random by weight, and the wheel that two choices are drawn with.

use super::{Candidates, SlotId, State};
use crate::random::Dice;

/// How often an excluded endpoint may come up before the wheel is walked instead of spun.
const SPINS: usize = 4;

/// Draws candidates by weight.
#[derive(Debug, Default)]
pub(crate) struct Wheel {
    /// Running sums of the weights; empty while all are equal.
    sums: Vec<u64>,
    mean_weight: f64,
}

impl Wheel {
    pub(super) fn build(&mut self, slots: &[SlotId], states: &[State]) {
        let weight = |slot: &SlotId| u64::from(states[*slot as usize].weight);
        let mut sum = 0;
        self.sums.clear();
        self.sums.extend(slots.iter().map(|slot| {
            sum += weight(slot);
            sum
        }));
        self.mean_weight = sum as f64 / slots.len().max(1) as f64;
        let first = slots.first().map(weight);
        if slots.iter().all(|slot| Some(weight(slot)) == first) {
            self.sums.clear();
        }
    }

    /// The weight of the average candidate.
    pub(super) const fn mean_weight(&self) -> f64 {
        self.mean_weight
    }

    fn spin(&self, candidates: usize, dice: &mut Dice) -> usize {
        match self.sums.last() {
            None => dice.below(candidates as u64) as usize,
            Some(total) => {
                let point = dice.below(*total);
                self.sums.partition_point(|sum| *sum <= point)
            }
        }
    }

    pub(super) fn choose(&self, from: &Candidates<'_>, dice: &mut Dice) -> Option<SlotId> {
        self.draw(from, dice, |slot| !from.is_excluded(slot))
    }

    /// One that `admits` lets pass: spun for, then looked for from a random place on.
    pub(super) fn draw(
        &self,
        from: &Candidates<'_>,
        dice: &mut Dice,
        admits: impl Fn(SlotId) -> bool,
    ) -> Option<SlotId> {
        let count = from.slots.len();
        if count == 0 {
            return None;
        }
        for _ in 0..SPINS {
            let slot = from.slots[self.spin(count, dice)];
            if admits(slot) {
                return Some(slot);
            }
        }
        let start = dice.below(count as u64) as usize;
        let (before, after) = from.slots.split_at(start);
        after
            .iter()
            .chain(before)
            .copied()
            .find(|slot| admits(*slot))
    }
}
