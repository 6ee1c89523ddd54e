//! Lifeguard's local health: how much we doubt ourselves.

use std::time::Duration;

/// A score from 0 (fine) to its maximum.
#[derive(Debug)]
pub(crate) struct LocalHealth {
    score: u32,
    max: u32,
}

impl LocalHealth {
    pub(crate) fn new(max: u32) -> Self {
        Self { score: 0, max }
    }

    pub(crate) fn worsen(&mut self, by: u32) {
        self.score = self.score.saturating_add(by).min(self.max);
    }

    pub(crate) fn improve(&mut self) {
        self.score = self.score.saturating_sub(1);
    }

    pub(crate) fn score(&self) -> u32 {
        self.score
    }

    /// A period or time-out as long as our health makes it.
    pub(crate) fn stretch(&self, duration: Duration) -> Duration {
        duration * (self.score + 1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn given_missed_answers_when_healthy_again_then_periods_shrink_back() {
        let mut health = LocalHealth::new(8);
        let second = Duration::from_secs(1);

        health.worsen(3);
        assert_eq!(health.stretch(second), 4 * second);
        health.worsen(100);
        assert_eq!(health.stretch(second), 9 * second);
        for _ in 0..20 {
            health.improve();
        }

        assert_eq!(health.stretch(second), second);
    }

    #[test]
    fn given_a_maximum_of_zero_when_worsened_then_nothing_changes() {
        let mut health = LocalHealth::new(0);

        health.worsen(5);

        assert_eq!(health.score(), 0);
    }
}
