//! Outlier ejection: an endpoint that is plainly worse than the rest takes no calls for a while.
//!
//! * **Consecutive failures**: judged with every failure, so an endpoint that only fails is out within a few calls.
//! * **Failure share** and **mean latency**: judged every [`interval`](OutlierSettings::interval) against *the rest* (all
//!   others pooled; the median of the others' means), since with a deviation from a mean that holds the outlier itself no
//!   set of five or fewer would ever have one. Where all are bad together, nobody is an outlier.
//! * **Time out** grows with each ejection (base, twice base, …) and shrinks by one step for each base time in the set.
//!   On return the first failure ejects again, until a success.
//! * **Floor**: never more than [`max_ejected_percent`](OutlierSettings::max_ejected_percent) of the set are out, and never
//!   the last one; the worst go first. Where tags leave fewer than [`panic_percent`](OutlierSettings::panic_percent) of
//!   the matching endpoints, ejection is ignored for that filter: better a call that may fail than a few overrun.
//!
//! It takes no timer: what is due happens with the next pick or end of a call.

use std::num::NonZeroU32;
use std::time::{Duration, Instant};

use crate::slots::{SlotId, State};

/// A window that had too few calls to be judged is thrown away at this age.
const MAX_WINDOW: Duration = Duration::from_secs(10);

/// When to eject, and for how long. See the [module](self).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OutlierSettings {
    /// Failures in a row that eject. 5, as in Envoy: chance does it once in 3 million calls at 5 % failures.
    pub consecutive_failures: NonZeroU32,
    /// How often endpoints are compared. 500 ms: an outlier under full traffic is out within a second.
    pub interval: Duration,
    /// Calls that an endpoint must have ended since it was last judged (for latency: with success). 10. Windows without
    /// enough calls grow up to 10 s.
    pub min_calls: NonZeroU32,
    /// Ejects at a share of failures this many percentage points above the rest's. 30.
    pub failure_percent_above_rest: u32,
    /// Ejects at a mean latency this many times the median of the rest's. 5: above what hardware of two
    /// generations explains.
    pub latency_times_rest: u32,
    /// … and at least this much above it. 5 ms: below, it is noise of the scheduler.
    pub latency_margin: Duration,
    /// The first time out. 10 s.
    pub base_ejection: Duration,
    /// The longest time out. 5 min.
    pub max_ejection: Duration,
    /// Of all endpoints, at most this share is out. 50: the rest would have to take more than double.
    pub max_ejected_percent: u32,
    /// Of those that a filter matches, fewer than this share being in makes ejection ignored. 25.
    pub panic_percent: u32,
}

impl Default for OutlierSettings {
    fn default() -> Self {
        Self {
            consecutive_failures: NonZeroU32::MIN.saturating_add(4),
            interval: Duration::from_millis(500),
            min_calls: NonZeroU32::MIN.saturating_add(9),
            failure_percent_above_rest: 30,
            latency_times_rest: 5,
            latency_margin: Duration::from_millis(5),
            base_ejection: Duration::from_secs(10),
            max_ejection: Duration::from_secs(300),
            max_ejected_percent: 50,
            panic_percent: 25,
        }
    }
}

/// Why an endpoint is out.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum EjectionReason {
    /// Too many failures in a row.
    ConsecutiveFailures,
    /// It fails much more often than the rest.
    FailureShare,
    /// It answers much later than the rest.
    Latency,
}

impl EjectionReason {
    /// A short name, fit for a metric's label.
    pub const fn name(self) -> &'static str {
        match self {
            Self::ConsecutiveFailures => "consecutive_failures",
            Self::FailureShare => "failure_share",
            Self::Latency => "latency",
        }
    }
}

/// What is remembered of one endpoint.
#[derive(Debug, Clone, Default)]
pub(crate) struct Record {
    consecutive_failures: u32,
    window: Window,
    ejected_until: Option<Instant>,
    /// Ejections not yet forgiven.
    ejections: u32,
    /// In the set and not ejected since, or since an ejection was last forgiven.
    calm_since: Option<Instant>,
}

impl Record {
    pub(crate) const fn is_ejected(&self) -> bool {
        self.ejected_until.is_some()
    }

    pub(crate) const fn ejected_until(&self) -> Option<Instant> {
        self.ejected_until
    }
}

/// Calls ended since the endpoint was last judged.
#[derive(Debug, Clone, Default)]
struct Window {
    since: Option<Instant>,
    successes: u32,
    failures: u32,
    /// Sum over the successes.
    latency_s: f64,
}

impl Window {
    const fn calls(&self) -> u32 {
        self.successes + self.failures
    }

    fn mean_latency_s(&self) -> f64 {
        self.latency_s / f64::from(self.successes.max(1))
    }
}

/// A change of who is out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Change {
    Ejected {
        slot: SlotId,
        reason: EjectionReason,
        until: Instant,
    },
    Returned {
        slot: SlotId,
    },
}

/// Keeps who is out, and judges.
#[derive(Debug)]
pub(crate) struct Ejector {
    pub(crate) settings: OutlierSettings,
    ejected: usize,
    next_sweep: Option<Instant>,
    next_return: Option<Instant>,
    /// Kept from sweep to sweep for their memory.
    suspects: Vec<Suspect>,
    means: Vec<f64>,
}

#[derive(Debug, Clone, Copy)]
struct Suspect {
    slot: SlotId,
    reason: EjectionReason,
    severity: f64,
}

impl Ejector {
    pub(crate) const fn new(settings: OutlierSettings) -> Self {
        Self {
            settings,
            ejected: 0,
            next_sweep: None,
            next_return: None,
            suspects: Vec::new(),
            means: Vec::new(),
        }
    }

    pub(crate) fn succeeded(&mut self, state: &mut State, latency: Option<Duration>, now: Instant) {
        let record = &mut state.record;
        record.consecutive_failures = 0;
        // A stream that ends well long after its first answer: that answer was counted when it came.
        if let Some(latency) = latency {
            record.window.since.get_or_insert(now);
            record.window.successes += 1;
            record.window.latency_s += latency.as_secs_f64();
        }
    }

    pub(crate) fn failed(
        &mut self,
        slot: SlotId,
        states: &mut [State],
        endpoints: usize,
        now: Instant,
    ) -> Option<Change> {
        let record = &mut states[slot as usize].record;
        record.window.since.get_or_insert(now);
        record.window.failures += 1;
        record.consecutive_failures = record.consecutive_failures.saturating_add(1);
        if record.consecutive_failures < self.settings.consecutive_failures.get() {
            return None;
        }
        self.eject(
            slot,
            states,
            endpoints,
            EjectionReason::ConsecutiveFailures,
            now,
        )
    }

    /// Whether [`run_due`](Self::run_due) has something to do.
    pub(crate) fn is_due(&self, now: Instant) -> bool {
        self.next_sweep.is_none_or(|at| at <= now) || self.next_return.is_some_and(|at| at <= now)
    }

    /// Returns who has served their time, and compares endpoints when that is due.
    pub(crate) fn run_due(
        &mut self,
        ids: impl Iterator<Item = SlotId> + Clone,
        states: &mut [State],
        endpoints: usize,
        now: Instant,
        mut changed: impl FnMut(Change),
    ) {
        if self.next_return.is_some_and(|at| at <= now) {
            self.return_due(ids.clone(), states, now, &mut changed);
        }
        let next_sweep = *self.next_sweep.get_or_insert(now + self.settings.interval);
        if next_sweep <= now {
            self.next_sweep = Some(now + self.settings.interval);
            self.sweep(ids, states, endpoints, now, &mut changed);
        }
    }

    /// The set became another one: counts anew, and lets those out soonest return where too many are out now.
    pub(crate) fn set_changed(
        &mut self,
        ids: impl Iterator<Item = SlotId>,
        states: &mut [State],
        endpoints: usize,
        mut changed: impl FnMut(Change),
    ) {
        let mut out: Vec<(Instant, SlotId)> = ids
            .filter_map(|slot| Some((states[slot as usize].record.ejected_until?, slot)))
            .collect();
        out.sort_unstable();
        let too_many = out.len().saturating_sub(self.allowance(endpoints));
        for (until, slot) in out.drain(..too_many) {
            self.return_one(&mut states[slot as usize], until);
            changed(Change::Returned { slot });
        }
        self.ejected = out.len();
        self.next_return = out.first().map(|(until, _)| *until);
    }

    /// How many may be out at once.
    fn allowance(&self, endpoints: usize) -> usize {
        let share = endpoints * self.settings.max_ejected_percent.min(100) as usize / 100;
        share.min(endpoints.saturating_sub(1))
    }

    fn eject(
        &mut self,
        slot: SlotId,
        states: &mut [State],
        endpoints: usize,
        reason: EjectionReason,
        now: Instant,
    ) -> Option<Change> {
        let record = &mut states[slot as usize].record;
        if record.is_ejected() || self.ejected >= self.allowance(endpoints) {
            return None;
        }
        record.ejections = record.ejections.saturating_add(1);
        let time_out = self
            .settings
            .base_ejection
            .saturating_mul(record.ejections)
            .min(self.settings.max_ejection);
        let until = now + time_out;
        record.ejected_until = Some(until);
        record.window = Window::default();
        self.ejected += 1;
        self.next_return = Some(self.next_return.map_or(until, |next| next.min(until)));
        Some(Change::Ejected {
            slot,
            reason,
            until,
        })
    }

    fn return_due(
        &mut self,
        ids: impl Iterator<Item = SlotId>,
        states: &mut [State],
        now: Instant,
        changed: &mut impl FnMut(Change),
    ) {
        self.next_return = None;
        for slot in ids {
            let state = &mut states[slot as usize];
            match state.record.ejected_until {
                Some(until) if until <= now => {
                    self.return_one(state, now);
                    self.ejected = self.ejected.saturating_sub(1);
                    changed(Change::Returned { slot });
                }
                Some(until) => {
                    self.next_return = Some(self.next_return.map_or(until, |next| next.min(until)));
                }
                None => {}
            }
        }
    }

    fn return_one(&self, state: &mut State, now: Instant) {
        let record = &mut state.record;
        record.ejected_until = None;
        record.calm_since = Some(now);
        record.window = Window::default();
        record.consecutive_failures = self.settings.consecutive_failures.get() - 1;
    }

    fn sweep(
        &mut self,
        ids: impl Iterator<Item = SlotId> + Clone,
        states: &mut [State],
        endpoints: usize,
        now: Instant,
        changed: &mut impl FnMut(Change),
    ) {
        self.find_suspects(ids.clone(), states);
        let mut suspects = std::mem::take(&mut self.suspects);
        suspects
            .sort_unstable_by(|a, b| b.severity.total_cmp(&a.severity).then(a.slot.cmp(&b.slot)));
        for suspect in suspects.drain(..) {
            let change = self.eject(suspect.slot, states, endpoints, suspect.reason, now);
            change.into_iter().for_each(&mut *changed);
        }
        self.suspects = suspects;
        for slot in ids {
            self.close_window(&mut states[slot as usize].record, now);
        }
    }

    fn find_suspects(&mut self, ids: impl Iterator<Item = SlotId> + Clone, states: &[State]) {
        let windows = || {
            ids.clone()
                .map(|slot| (slot, &states[slot as usize].record))
                .filter(|(_, record)| !record.is_ejected())
                .map(|(slot, record)| (slot, &record.window))
        };
        let min_calls = self.settings.min_calls.get();
        let failures: u64 = windows()
            .map(|(_, window)| u64::from(window.failures))
            .sum();
        let calls: u64 = windows().map(|(_, window)| u64::from(window.calls())).sum();
        self.means.clear();
        self.means.extend(
            windows()
                .filter(|(_, window)| window.successes >= min_calls)
                .map(|(_, window)| window.mean_latency_s()),
        );
        self.means.sort_unstable_by(f64::total_cmp);
        self.suspects.clear();
        for (slot, window) in windows() {
            let suspect = self
                .failure_severity(window, failures, calls)
                .map(|severity| (EjectionReason::FailureShare, severity))
                .or_else(|| Some((EjectionReason::Latency, self.latency_severity(window)?)));
            if let Some((reason, severity)) = suspect {
                self.suspects.push(Suspect {
                    slot,
                    reason,
                    severity,
                });
            }
        }
    }

    /// How much more often it fails than the rest, where that is an outlier; above all latencies.
    fn failure_severity(&self, window: &Window, failures: u64, calls: u64) -> Option<f64> {
        let min_calls = self.settings.min_calls.get();
        let rest_calls = calls - u64::from(window.calls());
        if window.calls() < min_calls || rest_calls < u64::from(min_calls) {
            return None;
        }
        let ours = f64::from(window.failures) / f64::from(window.calls());
        let rest = (failures - u64::from(window.failures)) as f64 / rest_calls as f64;
        let above = ours - rest;
        let limit = f64::from(self.settings.failure_percent_above_rest) / 100.0;
        (above >= limit).then(|| above * f64::MAX.sqrt())
    }

    /// How many times slower than the rest it is, where that is an outlier. Takes at least two others to compare with.
    fn latency_severity(&self, window: &Window) -> Option<f64> {
        if window.successes < self.settings.min_calls.get() || self.means.len() < 3 {
            return None;
        }
        let ours_s = window.mean_latency_s();
        let rank = self.means.partition_point(|mean_s| *mean_s < ours_s);
        let middle = (self.means.len() - 2) / 2;
        let rest_s = self.means[if rank <= middle { middle + 1 } else { middle }];
        let is_outlier = ours_s >= rest_s * f64::from(self.settings.latency_times_rest)
            && ours_s - rest_s >= self.settings.latency_margin.as_secs_f64();
        is_outlier.then(|| ours_s / rest_s.max(f64::MIN_POSITIVE))
    }

    /// Begins anew for who was judged or had too few calls for too long, and forgives.
    fn close_window(&self, record: &mut Record, now: Instant) {
        let window = &record.window;
        let is_old = window
            .since
            .is_some_and(|since| now.saturating_duration_since(since) >= MAX_WINDOW);
        if window.calls() >= self.settings.min_calls.get() || is_old {
            record.window = Window::default();
        }
        if record.ejections > 0 && !record.is_ejected() {
            let calm_since = *record.calm_since.get_or_insert(now);
            if now.saturating_duration_since(calm_since) >= self.settings.base_ejection {
                record.ejections -= 1;
                record.calm_since = Some(now);
            }
        }
    }
}
