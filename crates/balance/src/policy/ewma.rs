//! Power of two choices with a failure-penalised peak EWMA.
//!
//! Two candidates are drawn by weight; the one with the lower cost takes the call:
//!
//! ```text
//! cost = max(latency, silence, floor) · (1 + calls in flight / relative weight) / (1 − failures)³
//! ```
//!
//! * **latency**: Finagle's peak EWMA. A slower answer replaces the estimate at once, a faster one lowers it over
//!   [`decay`](PeakEwma::decay). An estimate above the set's mean that no call confirms fades towards that mean (Finagle
//!   fades to zero), so that an endpoint that was slow is tried again; one below the mean stays, since the next call
//!   corrects it. An endpoint never heard of is taken for an average one.
//! * **silence**: how long an endpoint that owes answers has given none. So a frozen or slow one is seen before its first
//!   late answer, not after it.
//! * **failures**: recent share of calls that failed or were refused, [`FAILURE_GAIN`] per call, fading with `decay`.
//!   Its latency is not learnt from a fast failure, and `1 / (1 − failures)` is the number of tries that an answer takes
//!   there; the cube keeps an endpoint that only fails from winning by being idle (at 90 %, a thousand-fold cost).
//! * Costs within [`tolerance_percent`](PeakEwma::tolerance_percent) of each other are equal; then fewer calls in flight
//!   win, then chance. Otherwise noise would starve the marginally slower of equal endpoints.
//!
//! Calls whose durations differ by nature (a look-up, a generation of a minute) deserve a balancer each.

use std::time::{Duration, Instant};

use super::random::Wheel;
use super::{Candidates, SlotId, State};
use crate::random::Dice;

/// How far one failure moves the share of failures. 0.1: ten in a row reach 65 %, a single one costs 37 %.
pub(crate) const FAILURE_GAIN: f64 = 0.1;

/// How much of a latency that no longer holds is left at least, so that nothing is divided by zero.
const SUCCESS_AT_LEAST: f64 = 1e-3;

/// How quickly latencies and failures are forgotten, and which differences count. See the [module](self).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PeakEwma {
    /// Time in which an unconfirmed estimate comes 63 % nearer to the mean. 5 s: an endpoint that was 50 times too slow
    /// gets its next try after about 25 s. 0 counts as 1 ms.
    pub decay: Duration,
    /// Latencies below count as this much. 1 ms: under it, what is measured is the scheduler, and calls in flight tell
    /// more.
    pub latency_floor: Duration,
    /// Costs that differ by less, in percent of the higher one, are equal. Above 100 counts as 100.
    pub tolerance_percent: u32,
}

impl Default for PeakEwma {
    fn default() -> Self {
        Self {
            decay: Duration::from_secs(5),
            latency_floor: Duration::from_millis(1),
            tolerance_percent: 20,
        }
    }
}

impl PeakEwma {
    /// [`decay`](Self::decay), never zero.
    pub(crate) fn effective_decay(&self) -> Duration {
        self.decay.max(Duration::from_millis(1))
    }

    pub(super) fn choose(
        &self,
        wheel: &Wheel,
        from: &Candidates<'_>,
        dice: &mut Dice,
    ) -> Option<SlotId> {
        let first = wheel.choose(from, dice)?;
        let Some(second) = wheel.draw(from, dice, |slot| slot != first && !from.is_excluded(slot))
        else {
            return Some(first);
        };
        let mean_weight = wheel.mean_weight();
        let load = |slot| calls_per_weight(from.state(slot), mean_weight);
        let cost = |slot| self.cost(from.state(slot), load(slot), from);
        let (first_cost, second_cost) = (cost(first), cost(second));
        let equal_from = 1.0 - f64::from(self.tolerance_percent.min(100)) / 100.0;
        let takes_second = if second_cost < first_cost * equal_from {
            true
        } else if first_cost < second_cost * equal_from {
            false
        } else {
            load(second) < load(first)
        };
        Some(if takes_second { second } else { first })
    }

    fn cost(&self, state: &State, load: f64, from: &Candidates<'_>) -> f64 {
        let latency = self
            .latency_s(state, from.baseline_s, from.now)
            .max(self.latency_floor.as_secs_f64());
        let failures = state.failures.get(self.effective_decay(), from.now);
        let success = (1.0 - failures).max(SUCCESS_AT_LEAST);
        latency * (1.0 + load) / (success * success * success)
    }

    /// What a call would take there, in seconds, by all that is known at `now`.
    pub(crate) fn latency_s(&self, state: &State, baseline_s: Option<f64>, now: Instant) -> f64 {
        let estimate = match &state.latency {
            Some(latency) => latency.get(baseline_s, self.effective_decay(), now),
            None => baseline_s.unwrap_or(0.0),
        };
        let silence = state.silent_since.map_or(0.0, |since| {
            now.saturating_duration_since(since).as_secs_f64()
        });
        estimate.max(silence)
    }
}

fn calls_per_weight(state: &State, mean_weight: f64) -> f64 {
    f64::from(state.in_flight) * mean_weight / f64::from(state.weight)
}

/// A peak-sensitive moving average of latencies.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Latency {
    seconds: f64,
    at: Instant,
}

impl Latency {
    pub(crate) const fn first(latency: Duration, now: Instant) -> Self {
        Self {
            seconds: latency.as_secs_f64(),
            at: now,
        }
    }

    /// Seconds at `now`; faded towards `baseline_s` where it is above.
    fn get(&self, baseline_s: Option<f64>, decay: Duration, now: Instant) -> f64 {
        let baseline_s = baseline_s.unwrap_or(0.0);
        if self.seconds <= baseline_s {
            return self.seconds;
        }
        baseline_s + (self.seconds - baseline_s) * remaining(self.at, decay, now)
    }

    pub(crate) fn observe(
        &mut self,
        latency: Duration,
        baseline_s: Option<f64>,
        decay: Duration,
        now: Instant,
    ) {
        let latency_s = latency.as_secs_f64();
        if latency_s >= self.get(baseline_s, decay, now) {
            self.seconds = latency_s;
        } else {
            let kept = remaining(self.at, decay, now);
            self.seconds = self.seconds * kept + latency_s * (1.0 - kept);
        }
        self.at = now;
    }

    /// Takes `latency` only where it raises the estimate: of a call that got no answer, it is a lower bound.
    pub(crate) fn observe_at_least(
        &mut self,
        latency: Duration,
        baseline_s: Option<f64>,
        decay: Duration,
        now: Instant,
    ) {
        if latency.as_secs_f64() > self.get(baseline_s, decay, now) {
            self.seconds = latency.as_secs_f64();
            self.at = now;
        }
    }
}

/// The mean latency of the whole set: a plain moving average over time.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Baseline(Option<(f64, Instant)>);

impl Baseline {
    pub(crate) fn get_s(&self) -> Option<f64> {
        self.0.map(|(seconds, _)| seconds)
    }

    pub(crate) fn observe(&mut self, latency: Duration, decay: Duration, now: Instant) {
        let latency_s = latency.as_secs_f64();
        self.0 = Some(match self.0 {
            None => (latency_s, now),
            Some((mean_s, at)) => {
                let kept = remaining(at, decay, now);
                (mean_s * kept + latency_s * (1.0 - kept), now.max(at))
            }
        });
    }
}

/// The share of something observed at `at` that is left at `now`.
fn remaining(at: Instant, decay: Duration, now: Instant) -> f64 {
    (-now.saturating_duration_since(at).as_secs_f64() / decay.as_secs_f64()).exp()
}

#[cfg(test)]
mod tests {
    use super::*;

    const DECAY: Duration = Duration::from_secs(5);
    const MS: Duration = Duration::from_millis(1);

    #[test]
    fn given_a_slower_answer_when_observed_then_the_estimate_is_that_answer() {
        let start = Instant::now();
        let mut latency = Latency::first(5 * MS, start);

        latency.observe(250 * MS, Some(0.005), DECAY, start + MS);

        assert_eq!(latency.get(Some(0.005), DECAY, start + MS), 0.25);
    }

    #[test]
    fn given_faster_answers_when_observed_then_the_estimate_falls_over_the_decay_time() {
        let start = Instant::now();
        let mut latency = Latency::first(1_000 * MS, start);

        for step in 1..=500_u32 {
            latency.observe(Duration::ZERO, None, DECAY, start + step * 10 * MS);
        }

        let left = latency.get(Some(1.0), DECAY, start + DECAY);
        assert!((left - 0.368).abs() < 0.001, "{left}");
    }

    #[test]
    fn given_no_calls_when_time_passes_then_a_bad_estimate_fades_to_the_mean_and_a_good_one_stays()
    {
        let start = Instant::now();
        let later = start + 20 * DECAY;

        let bad = Latency::first(1_000 * MS, start).get(Some(0.01), DECAY, later);
        let good = Latency::first(1 * MS, start).get(Some(0.01), DECAY, later);

        assert!((bad - 0.01).abs() < 1e-6, "{bad}");
        assert_eq!(good, 0.001);
    }

    #[test]
    fn given_a_call_without_an_answer_when_shorter_than_the_estimate_then_nothing_is_learnt() {
        let start = Instant::now();
        let mut latency = Latency::first(50 * MS, start);

        latency.observe_at_least(10 * MS, None, DECAY, start);
        assert_eq!(latency.get(Some(1.0), DECAY, start), 0.05);

        latency.observe_at_least(80 * MS, None, DECAY, start);
        assert_eq!(latency.get(Some(1.0), DECAY, start), 0.08);
    }
}
