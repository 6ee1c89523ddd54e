//! The smallest of n keys, found in O(1) and kept in O(log n), in one array that only a rebuild allocates.

/// Marks a seat of the bracket that nobody has.
const NOBODY: u32 = u32::MAX;

/// A knock-out bracket: each inner node holds the index of the smaller of its two children's winners.
#[derive(Debug)]
pub(super) struct Tournament<Key> {
    keys: Vec<Key>,
    /// A complete binary tree: root at 1, leaves from `leaves` on.
    winners: Vec<u32>,
    leaves: usize,
}

impl<Key> Default for Tournament<Key> {
    fn default() -> Self {
        Self {
            keys: Vec::new(),
            winners: Vec::new(),
            leaves: 0,
        }
    }
}

impl<Key: Ord> Tournament<Key> {
    /// Starts over with these keys.
    pub(super) fn build(&mut self, keys: impl IntoIterator<Item = Key>) {
        self.keys.clear();
        self.keys.extend(keys);
        self.leaves = self.keys.len().next_power_of_two();
        self.winners.clear();
        self.winners.resize(2 * self.leaves, NOBODY);
        for index in 0..self.keys.len() {
            self.winners[self.leaves + index] = index as u32;
        }
        for node in (1..self.leaves).rev() {
            self.play(node);
        }
    }

    pub(super) fn key(&self, index: usize) -> &Key {
        &self.keys[index]
    }

    /// Gives `index` another key.
    pub(super) fn set(&mut self, index: usize, key: Key) {
        let Some(place) = self.keys.get_mut(index) else {
            return;
        };
        *place = key;
        let mut node = (self.leaves + index) / 2;
        while node > 0 {
            self.play(node);
            node /= 2;
        }
    }

    /// Index of the smallest key that `admits` lets pass; the lower index among equals. O(log n) for each smaller one
    /// that does not pass.
    pub(super) fn smallest(&self, admits: impl Fn(usize) -> bool) -> Option<usize> {
        if self.keys.is_empty() {
            return None;
        }
        match self.descend(1, &admits) {
            NOBODY => None,
            winner => Some(winner as usize),
        }
    }

    fn descend(&self, node: usize, admits: &impl Fn(usize) -> bool) -> u32 {
        let winner = self.winners[node];
        if winner == NOBODY || admits(winner as usize) {
            return winner;
        }
        if node >= self.leaves {
            return NOBODY;
        }
        let left = self.descend(2 * node, admits);
        let right = self.descend(2 * node + 1, admits);
        self.smaller(left, right)
    }

    fn play(&mut self, node: usize) {
        self.winners[node] = self.smaller(self.winners[2 * node], self.winners[2 * node + 1]);
    }

    fn smaller(&self, left: u32, right: u32) -> u32 {
        if right == NOBODY {
            left
        } else if left == NOBODY || self.keys[right as usize] < self.keys[left as usize] {
            right
        } else {
            left
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn given_no_keys_when_asked_then_there_is_no_smallest() {
        let mut tournament = Tournament::<u8>::default();
        assert_eq!(tournament.smallest(|_| true), None);

        tournament.build([]);

        assert_eq!(tournament.smallest(|_| true), None);
    }

    proptest! {
        #[test]
        fn given_any_keys_and_changes_when_asked_then_it_is_the_smallest_that_passes(
            keys in prop::collection::vec(0_u8..20, 1..40),
            changes in prop::collection::vec((any::<prop::sample::Index>(), 0_u8..20), 0..40),
            barred in prop::collection::vec(any::<prop::sample::Index>(), 0..10),
        ) {
            let mut expected = keys.clone();
            let mut tournament = Tournament::default();
            tournament.build(keys);
            for (index, key) in changes {
                let index = index.index(expected.len());
                expected[index] = key;
                tournament.set(index, key);
            }
            let barred: Vec<usize> = barred.iter().map(|index| index.index(expected.len())).collect();

            let smallest = tournament.smallest(|index| !barred.contains(&index));

            let wanted = (0..expected.len())
                .filter(|index| !barred.contains(index))
                .min_by_key(|index| (expected[*index], *index));
            prop_assert_eq!(smallest, wanted);
        }
    }
}
