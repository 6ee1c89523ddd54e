//! Retries: which failed call may be tried again, when, and how many retries all calls together may cost.
//!
//! The rule: **a call is tried again only when it did not begin, or may run twice.** "Did not begin" is a fact the caller
//! proves ([`Exposure`]), never a guess; "may run twice" is what the service declares ([`Idempotency`]). Then tries,
//! deadline and budget still have to allow it, and the budget is charged last.

use std::num::NonZeroU32;
use std::time::{Duration, Instant};

use crate::random::fraction_of;

/// How many slices the budget's window has; a deposit expires within a slice of its time.
const SLICES: usize = 10;

/// What one retry costs; a call pays in its `percent`.
const RETRY_COST: i64 = 100;

/// How much may be retried.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RetryBudgetSettings {
    /// Retries per hundred calls. 20, as in Finagle: what a service with a fifth in reserve withstands.
    pub percent: u32,
    /// Retries per second that are always allowed, so that a quiet client may retry too. 10.
    pub min_per_second: u32,
    /// How long a deposit lasts, and over how long `min_per_second` is an average. 10 s. Below 1 s counts as 1 s.
    pub window: Duration,
}

impl Default for RetryBudgetSettings {
    fn default() -> Self {
        Self {
            percent: 20,
            min_per_second: 10,
            window: Duration::from_secs(10),
        }
    }
}

/// Tokens for retries: each call pays in a share of one, each retry takes one; both are forgotten after the window
/// (Finagle's `RetryBudget`). So retries are at most the stated share of calls, whatever fails, and cannot pile up onto a
/// service that is down.
///
/// One budget for all calls to a service; O(1), allocates nothing.
#[derive(Debug, Clone)]
pub struct RetryBudget {
    percent: i64,
    reserve: i64,
    slice: Duration,
    /// Paid in less taken out, by slice; the window's sum in `balance`.
    slices: [i64; SLICES],
    balance: i64,
    current: usize,
    current_since: Option<Instant>,
}

impl RetryBudget {
    /// A budget with nothing paid in yet.
    pub fn new(settings: RetryBudgetSettings) -> Self {
        let window = settings.window.max(Duration::from_secs(1));
        let reserve = f64::from(settings.min_per_second) * window.as_secs_f64();
        Self {
            percent: i64::from(settings.percent),
            // Saturates; a budget of 9e16 retries is none.
            reserve: (reserve as i64).saturating_mul(RETRY_COST),
            slice: window / SLICES as u32,
            slices: [0; SLICES],
            balance: 0,
            current: 0,
            current_since: None,
        }
    }

    /// A call was made: its first try, not its retries.
    pub fn deposit(&mut self, now: Instant) {
        self.advance(now);
        self.add(self.percent);
    }

    /// Takes a retry out; `false` means there is none to take, and nothing changed.
    #[must_use = "without a token there must be no retry"]
    pub fn withdraw(&mut self, now: Instant) -> bool {
        self.advance(now);
        if self.available_cost() < RETRY_COST {
            return false;
        }
        self.add(-RETRY_COST);
        true
    }

    /// Retries that could be made at `now`.
    pub fn available(&mut self, now: Instant) -> u64 {
        self.advance(now);
        u64::try_from(self.available_cost() / RETRY_COST).unwrap_or(0)
    }

    const fn available_cost(&self) -> i64 {
        self.reserve.saturating_add(self.balance)
    }

    const fn add(&mut self, amount: i64) {
        self.slices[self.current] += amount;
        self.balance += amount;
    }

    /// Empties the slices that `now` has moved past.
    fn advance(&mut self, now: Instant) {
        let since = *self.current_since.get_or_insert(now);
        let age = now.saturating_duration_since(since);
        let passed = age.as_nanos() / self.slice.as_nanos();
        if passed == 0 {
            return;
        }
        for _ in 0..passed.min(SLICES as u128) {
            self.current = (self.current + 1) % SLICES;
            self.balance -= self.slices[self.current];
            self.slices[self.current] = 0;
        }
        self.current_since = Some(match u32::try_from(passed) {
            Ok(passed) => since + self.slice * passed,
            Err(_) => now,
        });
    }
}

impl Default for RetryBudget {
    fn default() -> Self {
        Self::new(RetryBudgetSettings::default())
    }
}

/// How far a failed call got.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Exposure {
    /// Nothing of it left this machine.
    NotSent,
    /// The endpoint said that it did not begin it: overloaded, draining.
    Refused,
    /// It was sent, in part at least, and nobody knows whether it ran.
    Unknown,
    /// It was answered. The answer, error or not, is the result.
    Answered,
}

/// Whether a call may run twice.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Idempotency {
    /// Twice is as good as once.
    Idempotent,
    /// Twice may do harm. What nobody declared is this.
    NotIdempotent,
}

/// A try that failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Attempt {
    /// Tries made so far, this one included.
    pub tries: u32,
    /// How far this one got. One earlier try of unknown fate makes all later ones [`Exposure::Unknown`] only if that was
    /// not idempotent, in which case there is no later one.
    pub exposure: Exposure,
    /// What the service declares.
    pub idempotency: Idempotency,
    /// Until the call's deadline; `None` without one.
    pub time_left: Option<Duration>,
}

/// What to do after a failed try.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RetryDecision {
    /// Try again, elsewhere if there is an elsewhere, after this long. The budget has been charged.
    Retry {
        /// Zero for the first retry.
        after: Duration,
    },
    /// Report the failure.
    GiveUp(GiveUp),
}

/// Why a call is not tried again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum GiveUp {
    /// It has its answer.
    Answered,
    /// It may have run and may not run twice.
    MayHaveRun,
    /// All tries were made.
    NoTriesLeft,
    /// The deadline is here, or would be before the next try.
    NoTimeLeft,
    /// Too many retries lately.
    NoBudgetLeft,
}

impl GiveUp {
    /// A short name, fit for a metric's label.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Answered => "answered",
            Self::MayHaveRun => "may_have_run",
            Self::NoTriesLeft => "no_tries_left",
            Self::NoTimeLeft => "no_time_left",
            Self::NoBudgetLeft => "no_budget_left",
        }
    }
}

/// How a call is tried again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RetryPolicy {
    /// Tries in all, the first included. 3.
    pub max_tries: NonZeroU32,
    /// How long one try may take; `None` leaves it all the time there is. None by default: a try cut short is a try of
    /// unknown fate.
    pub try_timeout: Option<Duration>,
    /// The first retry goes at once (to another endpoint); the n-th waits up to this, doubled n − 2 times. 10 ms.
    pub backoff: Duration,
    /// The longest such wait. 250 ms.
    pub max_backoff: Duration,
}

impl Default for RetryPolicy {
    fn default() -> Self {
        Self {
            max_tries: NonZeroU32::MIN.saturating_add(2),
            try_timeout: None,
            backoff: Duration::from_millis(10),
            max_backoff: Duration::from_millis(250),
        }
    }
}

impl RetryPolicy {
    /// Whether and when to try again. `jitter` is 64 random bits: waits are even between zero and the limit, so that
    /// calls that failed together do not return together. `budget` is charged only where the answer is a retry.
    pub fn decide(
        &self,
        attempt: &Attempt,
        budget: &mut RetryBudget,
        jitter: u64,
        now: Instant,
    ) -> RetryDecision {
        match (attempt.exposure, attempt.idempotency) {
            (Exposure::Answered, _) => return RetryDecision::GiveUp(GiveUp::Answered),
            (Exposure::Unknown, Idempotency::NotIdempotent) => {
                return RetryDecision::GiveUp(GiveUp::MayHaveRun);
            }
            (Exposure::NotSent | Exposure::Refused, _)
            | (Exposure::Unknown, Idempotency::Idempotent) => {}
        }
        if attempt.tries >= self.max_tries.get() {
            return RetryDecision::GiveUp(GiveUp::NoTriesLeft);
        }
        let after = self.wait(attempt.tries, jitter);
        if attempt.time_left.is_some_and(|left| left <= after) {
            return RetryDecision::GiveUp(GiveUp::NoTimeLeft);
        }
        if !budget.withdraw(now) {
            return RetryDecision::GiveUp(GiveUp::NoBudgetLeft);
        }
        RetryDecision::Retry { after }
    }

    /// How long the next try may take, with this much left of the call's time; `None` is for ever.
    pub fn time_for_try(&self, time_left: Option<Duration>) -> Option<Duration> {
        match (self.try_timeout, time_left) {
            (Some(timeout), Some(left)) => Some(timeout.min(left)),
            (timeout, left) => timeout.or(left),
        }
    }

    fn wait(&self, tries: u32, jitter: u64) -> Duration {
        let Some(doublings) = tries.checked_sub(2) else {
            return Duration::ZERO;
        };
        let factor = 2_u32.checked_pow(doublings).unwrap_or(u32::MAX);
        self.backoff
            .saturating_mul(factor)
            .min(self.max_backoff)
            .mul_f64(fraction_of(jitter))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const FAILED: Attempt = Attempt {
        tries: 1,
        exposure: Exposure::Unknown,
        idempotency: Idempotency::Idempotent,
        time_left: None,
    };

    fn decide(attempt: Attempt) -> RetryDecision {
        let policy = RetryPolicy::default();
        policy.decide(&attempt, &mut RetryBudget::default(), 0, Instant::now())
    }

    #[test]
    fn given_a_call_of_unknown_fate_when_not_idempotent_then_it_is_not_tried_again() {
        let attempt = Attempt {
            idempotency: Idempotency::NotIdempotent,
            ..FAILED
        };

        assert_eq!(decide(attempt), RetryDecision::GiveUp(GiveUp::MayHaveRun));
    }

    #[test]
    fn given_a_call_that_did_not_begin_when_not_idempotent_then_it_is_tried_again_at_once() {
        for exposure in [Exposure::NotSent, Exposure::Refused] {
            let attempt = Attempt {
                exposure,
                idempotency: Idempotency::NotIdempotent,
                ..FAILED
            };

            assert_eq!(
                decide(attempt),
                RetryDecision::Retry {
                    after: Duration::ZERO
                }
            );
        }
    }

    #[test]
    fn given_an_answer_when_idempotent_then_it_stands() {
        let attempt = Attempt {
            exposure: Exposure::Answered,
            ..FAILED
        };

        assert_eq!(decide(attempt), RetryDecision::GiveUp(GiveUp::Answered));
    }

    #[test]
    fn given_three_tries_when_two_failed_then_a_third_is_made_and_no_fourth() {
        let second = decide(Attempt { tries: 2, ..FAILED });
        let third = decide(Attempt { tries: 3, ..FAILED });

        assert!(matches!(second, RetryDecision::Retry { .. }), "{second:?}");
        assert_eq!(third, RetryDecision::GiveUp(GiveUp::NoTriesLeft));
    }

    #[test]
    fn given_no_time_when_a_try_failed_then_the_budget_is_not_charged() {
        let mut budget = RetryBudget::default();
        let now = Instant::now();
        let attempt = Attempt {
            time_left: Some(Duration::ZERO),
            ..FAILED
        };
        let before = budget.available(now);

        let decision = RetryPolicy::default().decide(&attempt, &mut budget, 0, now);

        assert_eq!(decision, RetryDecision::GiveUp(GiveUp::NoTimeLeft));
        assert_eq!(budget.available(now), before);
    }

    #[test]
    fn given_later_retries_when_waiting_then_waits_are_below_a_doubling_limit() {
        let policy = RetryPolicy {
            max_tries: NonZeroU32::MAX,
            ..RetryPolicy::default()
        };

        assert_eq!(policy.wait(1, u64::MAX), Duration::ZERO);
        assert!(policy.wait(2, u64::MAX) <= Duration::from_millis(10));
        assert!(policy.wait(4, u64::MAX) > Duration::from_millis(39));
        assert!(policy.wait(90, u64::MAX) <= Duration::from_millis(250));
    }

    #[test]
    fn given_a_try_timeout_when_less_time_is_left_then_the_deadline_wins() {
        let policy = RetryPolicy {
            try_timeout: Some(Duration::from_secs(5)),
            ..RetryPolicy::default()
        };

        assert_eq!(policy.time_for_try(None), Some(Duration::from_secs(5)));
        assert_eq!(
            policy.time_for_try(Some(Duration::from_secs(2))),
            Some(Duration::from_secs(2))
        );
    }

    #[test]
    fn given_a_thousand_calls_when_all_fail_then_a_fifth_and_the_reserve_are_retried() {
        let mut budget = RetryBudget::default();
        let now = Instant::now();

        let retried = (0..1_000)
            .filter(|_| {
                budget.deposit(now);
                budget.withdraw(now)
            })
            .count();

        assert_eq!(retried, 200 + 100);
    }

    #[test]
    fn given_an_outage_of_a_minute_when_retrying_all_then_the_rate_stays_a_fifth_and_ten_a_second()
    {
        let mut budget = RetryBudget::default();
        let start = Instant::now();

        let retried = (0..60_000_u32)
            .filter(|ms| {
                let now = start + Duration::from_millis(u64::from(*ms));
                budget.deposit(now);
                budget.withdraw(now)
            })
            .count();

        // 1,000 calls/s for 60 s: 200 + 10 a second, and one window more of the reserve to begin with.
        assert!((12_400..12_800).contains(&retried), "{retried}");
    }

    #[test]
    fn given_deposits_when_the_window_has_passed_then_only_the_reserve_is_left() {
        let mut budget = RetryBudget::default();
        let start = Instant::now();
        for _ in 0..1_000 {
            budget.deposit(start);
        }
        assert_eq!(budget.available(start), 300);

        assert_eq!(budget.available(start + Duration::from_secs(11)), 100);
    }
}
