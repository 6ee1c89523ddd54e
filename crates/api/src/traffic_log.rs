//! Traffic over the last hour, day, week and month, from samples of the mesh's counters.
//!
//! One sample a minute for the first day, then one an hour: about 2,200 samples at most.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

/// How often the owner calls [`TrafficLog::record`].
pub const SAMPLE_INTERVAL: Duration = Duration::from_secs(60);
const FINE: Duration = Duration::from_secs(24 * 3600);
const COARSE_STEP: Duration = Duration::from_secs(3600);
const LONGEST: Duration = Duration::from_secs(30 * 24 * 3600);

/// Samples between two thinnings.
const THIN_EVERY: usize = 60;

/// Bytes since the node started.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Totals {
    /// From us.
    pub sent: u64,
    /// To us.
    pub received: u64,
}

/// What went through within a period.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Window {
    /// How much of the period was watched.
    pub covered: Duration,
    /// Bytes within it.
    pub totals: Totals,
}

#[derive(Debug, Clone, Copy)]
struct Sample {
    at: Instant,
    totals: Totals,
}

/// The samples. Cheap to clone; all clones are one log.
#[derive(Debug, Clone)]
pub struct TrafficLog {
    samples: Arc<Mutex<VecDeque<Sample>>>,
}

impl TrafficLog {
    /// A log that begins now, with nothing moved.
    #[must_use]
    pub fn new(now: Instant) -> Self {
        let first = Sample {
            at: now,
            totals: Totals::default(),
        };
        Self {
            samples: Arc::new(Mutex::new(VecDeque::from([first]))),
        }
    }

    /// Adds a sample, thins out those older than a day and drops those older than a month.
    pub fn record(&self, totals: Totals, now: Instant) {
        let mut samples = self.samples.lock().unwrap_or_else(PoisonError::into_inner);
        samples.push_back(Sample { at: now, totals });
        while samples.len() > 2 && now.duration_since(samples[1].at) > LONGEST {
            samples.pop_front();
        }
        // Once in 60 samples is often enough, and keeps a sample cheap.
        if !samples.len().is_multiple_of(THIN_EVERY) {
            return;
        }
        let mut kept: Option<Instant> = None;
        samples.retain(|sample| {
            let old = now.duration_since(sample.at) > FINE;
            let near = kept.is_some_and(|kept| sample.at.duration_since(kept) < COARSE_STEP);
            let keep = !(old && near);
            if keep {
                kept = Some(sample.at);
            }
            keep
        });
    }

    /// What moved between `now - period` and `now`, when the counters stand at `totals`.
    #[must_use]
    pub fn window(&self, period: Duration, totals: Totals, now: Instant) -> Window {
        let samples = self.samples.lock().unwrap_or_else(PoisonError::into_inner);
        let within = samples
            .iter()
            .find(|sample| now.duration_since(sample.at) <= period);
        match within {
            Some(first) => Window {
                covered: now.duration_since(first.at),
                totals: Totals {
                    sent: totals.sent.saturating_sub(first.totals.sent),
                    received: totals.received.saturating_sub(first.totals.received),
                },
            },
            None => Window {
                covered: Duration::ZERO,
                totals: Totals::default(),
            },
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn totals(bytes: u64) -> Totals {
        Totals {
            sent: bytes,
            received: 2 * bytes,
        }
    }

    #[test]
    fn a_window_counts_only_what_moved_within_it() {
        let start = Instant::now();
        let log = TrafficLog::new(start);
        for minute in 1..=180 {
            log.record(
                totals(minute),
                start + SAMPLE_INTERVAL * u32::try_from(minute).unwrap(),
            );
        }
        let now = start + SAMPLE_INTERVAL * 180;
        let hour = log.window(Duration::from_secs(3600), totals(180), now);
        assert_eq!(
            hour,
            Window {
                covered: Duration::from_secs(3600),
                totals: totals(60)
            }
        );
    }

    #[test]
    fn a_month_of_samples_stays_small_and_keeps_its_total() {
        let start = Instant::now();
        let log = TrafficLog::new(start);
        let minutes = 40 * 24 * 60;
        for minute in 1..=minutes {
            log.record(
                totals(minute),
                start + SAMPLE_INTERVAL * u32::try_from(minute).unwrap(),
            );
        }
        assert!(log.samples.lock().unwrap().len() <= 2_230);
        let now = start + SAMPLE_INTERVAL * u32::try_from(minutes).unwrap();
        let month = log.window(LONGEST, totals(minutes), now);
        let expected = 30 * 24 * 60;
        assert!(
            month.totals.sent.abs_diff(expected) <= 60,
            "{} is not about {expected}",
            month.totals.sent
        );
    }
}
