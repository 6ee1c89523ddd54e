//! One suspicion: its evidence and its clock (Lifeguard §IV-B, *LHA-Suspicion*).

use std::time::{Duration, Instant};

use crate::config::limits;
use crate::member::Fingerprint;

#[derive(Debug)]
pub(crate) struct Suspicion {
    pub(crate) started: Instant,
    pub(crate) min: Duration,
    pub(crate) max: Duration,
    /// Confirmations beyond the first observer after which the clock is at its minimum.
    pub(crate) confirmations: usize,
    /// Ascending.
    pub(crate) observers: Vec<Fingerprint>,
    /// Members that say it failed.
    pub(crate) claimants: Vec<Fingerprint>,
}

/// More claimants than any sensible `failure_claims`.
const CLAIMANTS: usize = 8;

impl Suspicion {
    /// When the clock runs out, as things stand.
    pub(crate) fn deadline(&self) -> Instant {
        if self.confirmations == 0 {
            return self.started + self.min;
        }
        let confirmed = self.observers.len().saturating_sub(1) as f64;
        let share = (confirmed + 1.0).ln() / (self.confirmations as f64 + 1.0).ln();
        let range = self.max.saturating_sub(self.min);
        self.started + self.max - range.mul_f64(share.min(1.0))
    }

    /// Whether this observer is new.
    pub(crate) fn add_observer(&mut self, observer: Fingerprint) -> bool {
        match self.observers.binary_search(&observer) {
            Err(index) if self.observers.len() < limits::OBSERVERS => {
                self.observers.insert(index, observer);
                true
            }
            _ => false,
        }
    }

    pub(crate) fn remove_observer(&mut self, observer: Fingerprint) -> bool {
        let index = self.observers.binary_search(&observer);
        index.is_ok_and(|index| {
            self.observers.remove(index);
            true
        })
    }

    pub(crate) fn add_claimant(&mut self, claimant: Fingerprint) {
        if !self.claimants.contains(&claimant) && self.claimants.len() < CLAIMANTS {
            self.claimants.push(claimant);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn suspicion(confirmations: usize) -> (Suspicion, Instant) {
        let now = Instant::now();
        let suspicion = Suspicion {
            started: now,
            min: Duration::from_secs(1),
            max: Duration::from_secs(6),
            confirmations,
            observers: vec![Fingerprint(9)],
            claimants: Vec::new(),
        };
        (suspicion, now)
    }

    #[test]
    fn given_confirmations_when_they_come_then_the_clock_falls_from_maximum_to_minimum() {
        let (mut suspicion, now) = suspicion(3);
        let mut lasts = vec![suspicion.deadline() - now];
        for observer in 1..=4 {
            suspicion.add_observer(Fingerprint(observer));
            lasts.push(suspicion.deadline() - now);
        }

        assert_eq!(lasts[0], Duration::from_secs(6));
        assert_eq!(lasts[1], Duration::from_millis(3_500));
        assert!(lasts[2] < lasts[1]);
        assert_eq!(lasts[3..], [Duration::from_secs(1); 2]);
    }

    #[test]
    fn given_one_observer_twice_when_added_then_it_counts_once() {
        let (mut suspicion, _) = suspicion(3);

        assert!(!suspicion.add_observer(Fingerprint(9)));
        assert!(suspicion.add_observer(Fingerprint(1)));
        assert_eq!(suspicion.observers, [Fingerprint(1), Fingerprint(9)]);
    }

    #[test]
    fn given_no_confirmations_wanted_when_it_starts_then_the_clock_is_fixed() {
        let (suspicion, now) = suspicion(0);

        assert_eq!(suspicion.deadline() - now, Duration::from_secs(1));
    }
}
